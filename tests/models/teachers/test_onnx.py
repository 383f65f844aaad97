"""ONNX files as teachers: their preprocessing as it was said, and what they can't be."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from toy_onnx import colours
from toys import picture

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.teachers.onnx import load
from rdd_deploy.outputs import resized

YOLO = "{0: 'left', 1: 'middle', 2: 'right'}"


def toy_frames(count: int = 3, height: int = 64, width: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [picture(index, height, width) for index in range(count)]
    return torch.from_numpy(np.stack([frame for frame, _ in pairs])).permute(0, 3, 1, 2), torch.from_numpy(
        np.stack([labels for _, labels in pairs])
    )


def accuracy(path: Path, **options: Any) -> float:
    frames, labels = toy_frames()
    said = load(path, ["a"], **options).model.logits_at_stride(frames).primary
    known = labels != 255
    return float((resized(said, frames.shape[-2:]).argmax(1) == labels)[known].float().mean())


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ({}, {}),
        ({"names": YOLO, "size": (64, 64), "batch": 1, "stride": 8}, {}),  # as YOLO's exporter writes them by default
        ({"layout": "nhwc"}, {}),
        ({"layout": "nhwc", "says": "nchw"}, {}),
        ({"says": "nhwc"}, {"layout": "nchw"}),
        ({"says": "nhwc", "size": (64, 64), "batch": 1}, {}),
        ({"bgr": True}, {"colour": "bgr"}),
        ({"tail": "softmax"}, {"says": "probabilities"}),
        ({"full": False, "batch": 2}, {}),
        ({"kind": TensorProto.FLOAT16}, {}),
        ({"kind": TensorProto.UINT8}, {}),  # grey levels as they are
    ],
)
def test_every_form_finds_the_colours(form: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    assert accuracy(colours(tmp_path / "t.onnx", **form), **options) > 0.9


def test_wrong_colour_order_is_worse(tmp_path: Path) -> None:
    assert accuracy(colours(tmp_path / "t.onnx", bgr=True)) < 0.7


def test_logits_are_those_of_the_session_with_the_same_preprocessing(tmp_path: Path) -> None:
    path = colours(tmp_path / "t.onnx")
    frames, _ = toy_frames()
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    loaded = load(path, ["a"], scale=1 / 255, mean=mean, std=std)
    given = (frames.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    wanted = onnxruntime.InferenceSession(str(path)).run(None, {"images": given.astype(np.float32)})[0]
    torch.testing.assert_close(
        loaded.model.logits_at_stride(frames).primary, torch.from_numpy(wanted), atol=1e-3, rtol=1e-4
    )


def test_names_of_yolo_and_a_fixed_size(tmp_path: Path) -> None:
    loaded = load(colours(tmp_path / "t.onnx", names=YOLO, size=(64, 96), batch=1), ["a"])
    assert (loaded.names, loaded.size) == (("left", "middle", "right"), (64, 96))
    assert "64x96" in loaded.about


@pytest.mark.parametrize(
    ("form", "options", "sentence"),
    [
        ({"tail": "argmax"}, {}, "no logits: labels, boxes or instances can't be distilled"),
        ({"tail": "mask"}, {}, "one value a pixel: labels or a mask, no logits"),
        ({"tail": "softmax"}, {}, "says probabilities, and teacher.options.says is logits; set it to probabilities"),
        ({}, {"says": "probabilities"}, "says no probabilities: they don't add up to 1"),
        ({}, {"layout": "nhwc"}, "teacher.options.layout is nhwc, but "),
        ({}, {"output": "logits"}, "has no output 'logits'; expected one of output0"),
        ({"names": "{0: 'a', 1: 'b'}"}, {}, "says 3 classes (of shape [1, 3, 64, 96]) and there are 2 names"),
        ({"size": (64, 64)}, {"size": [32, 32]}, "takes frames of [64, 64] alone"),
    ],
)
def test_what_it_cant_be(form: dict[str, Any], options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as raised:
        load(colours(tmp_path / "t.onnx", **form), ["a"], **options)
    assert sentence in str(raised.value)
    assert len(raised.value.lines) == 1


def test_a_sigmoid_is_no_logit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(colours(tmp_path / "t.onnx", tail="sigmoid"), ["a"])
    assert "alone, as after a sigmoid, and they are taken for logits" in " ".join(capsys.readouterr().err.split())
    load(colours(tmp_path / "t.onnx"), ["a"])
    assert capsys.readouterr().err == ""


def test_damaged_and_in_two_files(tmp_path: Path) -> None:
    path = colours(tmp_path / "t.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightsError, match=r"cut\.onnx can't be read as ONNX"):
        load(tmp_path / "cut.onnx", ["a"])
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(WeightsError, match=r"can't be read as ONNX|can't load"):
        load(tmp_path / "text.onnx", ["a"])
    onnx.save(
        onnx.load(str(path)),
        str(tmp_path / "two.onnx"),
        save_as_external_data=True,
        size_threshold=0,
        location="weights.bin",
    )
    with pytest.raises(WeightsError, match="keeps weights in another file"):
        load(tmp_path / "two.onnx", ["a"])
