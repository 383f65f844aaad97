from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from toys import ENCODER

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_segmenter, save_segmenter

FACTS = {"classes": ["a", "b", "c"], "size": [64, 64]}


def made(seed: int = 0, **changes: object) -> Segmenter:
    torch.manual_seed(seed)
    return Segmenter(Network.model_validate({"encoder": ENCODER, "weights": "none", "channels": 16} | changes), 3)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_round_trip(tmp_path: Path) -> None:
    before = made(activation="relu6", auxiliary=True)
    save_segmenter(tmp_path / "a.safetensors", before, FACTS)
    after, facts = load_segmenter(tmp_path / "a.safetensors", FACTS["classes"])
    assert same(before, after)
    assert (facts, after.network, after.training) == (FACTS, before.network, False)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["format"] == "rdd_deploy.segmenter.1"


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    segmenter = made()
    for name in "abcd":
        save_segmenter(tmp_path / name, segmenter, FACTS)
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_other_classes_in_the_same_number(tmp_path: Path) -> None:
    save_segmenter(tmp_path / "a.safetensors", made(), FACTS)
    with pytest.raises(WeightsError, match=r"was trained on 3 classes \(a, b, c\); this data set has 3 \(a, c, b\)"):
        load_segmenter(tmp_path / "a.safetensors", ["a", "c", "b"])


def test_a_checkpoint_without_classes(tmp_path: Path) -> None:
    save_segmenter(tmp_path / "a.safetensors", made(), {"size": [64, 64]})
    with pytest.raises(
        WeightsError,
        match=r"a\.safetensors doesn't say which classes it was trained on; expected a checkpoint written by",
    ):
        load_segmenter(tmp_path / "a.safetensors")
