"""segmentation-models-pytorch's models as teachers."""

import json
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torchvision.transforms.v2.functional import normalize

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.teachers.base import IMAGENET
from rdd_deploy.models.teachers.smp import load

ENCODER = "tu-test_efficientnet"


def frames(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)


def made(kind: Any = smp.FPN, classes: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(ENCODER, encoder_weights=None, classes=classes, **options).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path, model = tmp_path_factory.mktemp("smp") / "fpn", made(activation="softmax2d", aux_params={"classes": 2})
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    # As most are made: nothing is fetched.
    (path / "config.json").write_text(json.dumps(config | {"encoder_weights": "imagenet"}))
    return path, model


def test_a_folder_of_save_pretrained_says_logits_whatever_its_activation(folder: tuple[Path, Any]) -> None:
    path, model = folder
    loaded, frame = load(path, ["a"]), frames()
    with torch.inference_mode():
        wanted = model(normalize(frame.float() / 255, *map(list, IMAGENET)))[0]
        said = loaded.model.eval().logits_at_stride(frame, ["head", "stage4", "stage5"])
        odd = loaded.model.logits_at_stride(frames(70, 90))
    torch.testing.assert_close(said.primary.softmax(1), wanted, atol=1e-5, rtol=1e-4)
    assert said.primary.shape == (2, 3, 64, 96)
    assert (said.features["stage4"].shape[-2:], said.features["stage5"].shape[-2:]) == ((4, 6), (2, 3))
    assert odd.primary.shape[-2:] == (96, 96), "the next multiple of the network's stride"
    assert "multiple of 32" in loaded.about


def test_a_state_dict_with_its_architecture(tmp_path: Path) -> None:
    model = made(smp.DeepLabV3Plus, decoder_channels=16)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "t.pth")
    loaded = load(
        tmp_path / "t.pth",
        ["a"],
        "deeplabv3plus",
        ENCODER,
        {"decoder_channels": 16},
        names=["a", "b", "c"],
        mean=[0, 0, 0],
        std=[1, 1, 1],
    )
    frame = frames()
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.model.eval().logits_at_stride(frame).primary, model(frame.float() / 255), atol=1e-5, rtol=1e-4
        )
    with pytest.raises(WeightsError, match="doesn't fit unet on"):
        load(tmp_path / "t.pth", ["a"], "unet", ENCODER)
    with pytest.raises(WeightsError, match="deeplabv3plus can't be built"):
        load(tmp_path / "t.pth", ["a"], "deeplabv3plus", "resnet19")
    with pytest.raises(WeightsError, match="is a file; expected a folder"):
        load(tmp_path / "t.pth", ["a"])


def test_one_logit_is_two_classes(tmp_path: Path) -> None:
    model = made(classes=1)
    model.save_pretrained(tmp_path / "t")
    loaded, frame = load(tmp_path / "t", ["a"]), frames()
    with torch.inference_mode():
        said = loaded.model.eval().logits_at_stride(frame).primary.softmax(1)
        wanted = model(normalize(frame.float() / 255, *map(list, IMAGENET))).sigmoid()
    torch.testing.assert_close(said[:, 1:], wanted)
    assert loaded.model.classes == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "can't be read"),
        ("[]", "names no _model_class"),
        ('{"_model_class": "../evil"}', "is no architecture of segmentation-models-pytorch; expected one of unet, "),
        ('{"_model_class": "FPN", "encoder_name": ["x"]}', "can't be built"),
        ('{"_model_class": "FPN", "encoder_name": "tu-test_efficientnet", "nonsense": 1}', "can't be built"),
    ],
)
def test_other_configurations(folder: tuple[Path, Any], tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder[0] / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError) as raised:
        load(tmp_path, ["a"])
    assert sentence in str(raised.value)
    assert len(raised.value.lines) == 1
