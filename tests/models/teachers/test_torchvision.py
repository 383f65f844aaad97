"""torchvision's models as teachers: its own eval logits, before it resizes them."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torchvision import models
from torchvision.transforms.v2.functional import normalize

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.teachers.base import IMAGENET
from rdd_deploy.models.teachers.torchvision import load
from rdd_deploy.outputs import resized

ARCH = "lraspp_mobilenet_v3_large"


def frames(height: int = 70, width: int = 90) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)


def saved(path: Path, arch: str, count: int, **options: Any) -> Any:
    torch.manual_seed(0)
    model = models.get_model(arch, weights=None, weights_backbone=None, num_classes=count, **options).eval()
    torch.save(model.state_dict(), path)
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("torchvision") / "t.pth"
    return path, saved(path, ARCH, 3)


def test_its_auxiliary_head_is_the_second_classifier(tmp_path: Path) -> None:
    model = saved(tmp_path / "t.pth", "deeplabv3_mobilenet_v3_large", 21, aux_loss=True)
    loaded = load(tmp_path / "t.pth", ["a"], "deeplabv3_mobilenet_v3_large")
    frame = frames()
    with torch.inference_mode():
        wanted = model(normalize(frame.float() / 255, *map(list, IMAGENET)))
        said = loaded.model.eval().logits_at_stride(frame, ["logits", "head", "stage4", "stage5", "auxiliary"])
    torch.testing.assert_close(resized(said.primary, (70, 90)), wanted["out"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(resized(said.auxiliary, (70, 90)), wanted["aux"], atol=1e-4, rtol=1e-3)  # type: ignore[arg-type]
    assert (loaded.model.has_auxiliary, loaded.model.classes) == (True, 21)
    assert loaded.names[15] == "person", "the weights of 21 classes are those of Pascal VOC"  # type: ignore[index]
    assert said.features["head"].shape[1] == 256


def test_one_without_it_in_either_format(small: tuple[Path, Any], tmp_path: Path) -> None:
    path, model = small
    safetensors.torch.save_file(model.state_dict(), tmp_path / "t.safetensors")
    first, second = (load(one, ["a"], ARCH, names=["x", "y", "z"]) for one in (path, tmp_path / "t.safetensors"))
    frame = frames()
    with torch.inference_mode():
        a, b = (one.model.eval().logits_at_stride(frame).primary for one in (first, second))
        wanted = model(normalize(frame.float() / 255, *map(list, IMAGENET)))["out"]
    assert torch.equal(a, b)
    torch.testing.assert_close(resized(a, (70, 90)), wanted, atol=1e-4, rtol=1e-3)
    assert (first.model.has_auxiliary, first.names) == (False, ("x", "y", "z"))
    with pytest.raises(ValueError, match="the network has no map head; expected some of logits"):
        first.model.logits_at_stride(frame, ["head"])


@pytest.mark.parametrize(
    ("arch", "sentence"),
    [
        ("deeplab", "teacher.options.arch is 'deeplab', expected a segmentation model of torchvision: "),
        ("fcn_resnet50", "isn't a state of fcn_resnet50: it has no classifier.4.weight"),
    ],
)
def test_another_architecture(small: tuple[Path, Any], arch: str, sentence: str) -> None:
    with pytest.raises(WeightsError) as raised:
        load(small[0], ["a"], arch)
    assert sentence in str(raised.value)


def test_half_a_state_and_one_that_runs_code(small: tuple[Path, Any], tmp_path: Path) -> None:
    state = small[1].state_dict()
    state.pop("backbone.0.0.weight")
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"1 tensors are missing \(such as backbone.0.0.weight\)"):
        load(tmp_path / "half.pth", ["a"], ARCH)
    torch.save({"model": small[1]}, tmp_path / "pickled.pth")
    with pytest.raises(WeightsError, match="pickles more than tensors"):
        load(tmp_path / "pickled.pth", ["a"], ARCH)
    (tmp_path / "cut.pth").write_bytes(small[0].read_bytes()[:5000])
    with pytest.raises(WeightsError, match="can't be read as weights"):
        load(tmp_path / "cut.pth", ["a"], ARCH)
