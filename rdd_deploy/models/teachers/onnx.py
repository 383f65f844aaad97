"""Any ONNX file as a teacher, through onnxruntime: one input of frames, an output of logits or probabilities."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdd_deploy import console
from rdd_deploy.errors import RddError, WeightsError, missing_package
from rdd_deploy.models.teachers.base import LEAST, Adapter, LoadedTeacher, chosen
from rdd_deploy.outputs import Output
from rdd_deploy.runtime.onnx_file import has_external_data
from rdd_deploy.utils import telemetry
from rdd_deploy.utils.files import read_file

LARGEST = 2 << 30
"""Bytes of a protocol buffer."""
INPUTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
LONGEST_NAMES = 1 << 20
_NAMED = re.compile(r"""[{,] ?(\d{1,5}): ?('[^']*'|"[^"]*")""")
SAYS = ("tensor(float)", "tensor(float16)", "tensor(double)")


class OnnxTeacher(Adapter):
    """A graph in onnxruntime, on the GPU where onnxruntime has it, else on the CPU; in the precision of the graph,
    whatever surrounds it.

    Maps: ``logits``, and ``auxiliary`` where that output was named.

    Args:
        outputs: names of the main output and, perhaps, of an auxiliary one.
        channels_last: whether frames are (N, H, W, C). says_last: whether logits are. bgr: whether blue comes first.
        size: (height, width) that the graph takes; None: any, of ``multiple``. batch: frames that it takes at a time;
            None: any number.
    """

    def __init__(
        self,
        content: bytes,
        outputs: Sequence[str],
        classes: int,
        *,
        channels_last: bool,
        says_last: bool,
        bgr: bool,
        probabilities: bool,
        size: tuple[int, int] | None,
        batch: int | None,
        scale: float,
        mean: Sequence[float],
        std: Sequence[float],
        multiple: int,
    ) -> None:
        super().__init__(classes, mean, std, scale, multiple)
        self.content, self.outputs, self.size, self.batch = content, list(outputs), size, batch
        self.channels_last, self.says_last, self.bgr, self.probabilities = channels_last, says_last, bgr, probabilities
        self._session: Any = None
        self._device: torch.device | None = None

    @property
    def has_auxiliary(self) -> bool:
        return len(self.outputs) > 1

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        session = self.session(frames.device)
        kind = INPUTS[session.get_inputs()[0].type]
        pixels = self.prepared(frames, self.size)
        pixels = pixels.flip(1) if self.bgr else pixels
        pixels = pixels.permute(0, 2, 3, 1) if self.channels_last else pixels
        given = np.ascontiguousarray(
            (pixels.round().clamp(0, 255) if kind is np.uint8 else pixels).cpu().numpy().astype(kind)
        )
        said = [torch.from_numpy(one).to(frames.device).float() for one in self._run(session, given)]
        said = [one.permute(0, 3, 1, 2) if self.says_last else one for one in said]
        if self.probabilities:
            said = [one.clamp(min=LEAST).log() for one in said]
        primary, auxiliary = said[0], said[1] if self.has_auxiliary else None
        known = {"logits": primary} | ({} if auxiliary is None else {"auxiliary": auxiliary})
        return Output(primary, auxiliary, chosen(known, maps))

    def _run(self, session: Any, given: NDArray[Any]) -> list[NDArray[Any]]:
        """Every output of all frames, in as many calls as the graph's batch needs; the last one is filled up with its
        last frame.
        """
        name, size = session.get_inputs()[0].name, self.batch or len(given)
        parts = []
        for start in range(0, len(given), size):
            part = given[start : start + size]
            full = np.concatenate((part, np.repeat(part[-1:], size - len(part), 0))) if len(part) < size else part
            parts.append([one[: len(part)] for one in session.run(self.outputs, {name: full})])
        return [np.concatenate(several) for several in zip(*parts, strict=True)]

    def session(self, device: torch.device) -> Any:
        """The graph, opened for a device."""
        if self._session is None or self._device != device:
            self._session, self._device = _opened(self.content, device), device
        return self._session


def load(
    path: Path,
    classes: list[str] | None,
    says: Literal["logits", "probabilities"] = "logits",
    layout: Literal["", "nchw", "nhwc"] = "",
    colour: Literal["rgb", "bgr"] = "rgb",
    scale: float | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    size: Sequence[int] = (),
    multiple: int = 32,
    output: str = "",
    auxiliary: str = "",
    names: Sequence[str] = (),
) -> LoadedTeacher:
    """Load a graph with its preprocessing: a frame's grey levels times ``scale``, minus ``mean``, divided by ``std``,
    as ``colour`` orders them.

    Args:
        says: what its output is. layout: of its input; default: as the shape shows. The output may have the other one,
            which a made-up frame shows.
        scale: default: 1/255 for an input of floating point, 1 for one of bytes. mean, std: of red, green and blue,
            after ``scale``.
        size: [height, width] of its frames; default: the graph's own, else each frame's, resized to ``multiple``.
        output, auxiliary: names of outputs; default: the only one, and none.
        names: of its classes; default: those in the file's metadata, as YOLO exports have them.

    Raises:
        WeightsError: not one whole ONNX file, or not of such an input and output (labels hold no logits).
        MissingPackageError: onnxruntime isn't installed.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is no file; expected an .onnx file")
    try:
        content = read_file(path, LARGEST)
        if has_external_data(content):
            raise WeightsError(
                f"{path} keeps weights in another file; save the model as one file (onnx.save(model, path))"
            )
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise WeightsError(f"{path} can't be read as ONNX: {why}; export it again") from error
    try:
        session = _opened(content, torch.device("cpu"))
    except RddError as error:
        raise type(error)(f"{path}: {error}") from error
    given = _input(session, path)
    channels_last = _is_channels_last(given.shape, layout, path)
    picked = [_output(session, output, path), *([_output(session, auxiliary, path)] if auxiliary else [])]
    own = [given.shape[i] for i in ((1, 2) if channels_last else (2, 3))]
    whole = (int(own[0]), int(own[1])) if all(isinstance(side, int) for side in own) else None
    if size and whole and tuple(size) != whole:
        raise WeightsError(
            f"teacher.options.size is {list(size)}, but {path} takes frames of {list(whole)} alone; leave it out"
        )
    fixed = whole or ((size[0], size[1]) if size else None)
    batch = given.shape[0] if isinstance(given.shape[0], int) else None
    scale = scale or (1.0 if given.type == "tensor(uint8)" else 1 / 255)
    model = OnnxTeacher(
        content, picked, 2, channels_last=channels_last, says_last=channels_last, bgr=colour == "bgr", probabilities=says == "probabilities", size=fixed, batch=batch,
        scale=scale, mean=mean, std=std, multiple=multiple,
    )  # fmt: skip
    known = tuple(names) or _names_in(session.get_modelmeta().custom_metadata_map)
    model.classes = _tried(model, fixed, says, len(known), path)
    how = f"frames of {fixed[0]}x{fixed[1]}" if fixed else f"frames resized to a multiple of {multiple}"
    about = (
        f"ONNX, {says} of '{picked[0]}', {_axes(channels_last)}"
        f"{'' if model.says_last == channels_last else f' (says {_axes(model.says_last)})'}, {colour.upper()} times {scale:.4g},"
        f" mean {list(mean)}, std {list(std)}, {how}"
    )
    digest = hashlib.sha256(content).hexdigest()
    return LoadedTeacher(model, fixed, digest, known, about, rescales=fixed is not None)


def _opened(content: bytes, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "a teacher of source 'onnx'") from error
    if sentence := telemetry.quiet_onnxruntime(onnxruntime):
        console.warn(sentence)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            from rdd_deploy.runtime.backends.onnxruntime import preload

            preload(onnxruntime)
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": "0"}))
        else:
            console.warn(
                "the ONNX teacher runs on the CPU: this onnxruntime has no CUDA (the package onnxruntime-gpu has)"
            )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its own exceptions are of many kinds
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"onnxruntime can't load the model: {why[:240]}; export it again") from error
    if len(providers) > 1 and "CUDAExecutionProvider" not in session.get_providers():
        console.warn(
            "the ONNX teacher runs on the CPU, for onnxruntime can't use CUDA here: check its CUDA and cuDNN libraries"
            " (nvidia-smi shows the driver)"
        )
    return session


def _input(session: Any, path: Path) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        told = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise WeightsError(
            f"{path} takes {told or 'nothing'}; expected one input of frames, (N, 3, H, W) or (N, H, W, 3)"
        )
    if inputs[0].type not in INPUTS:
        raise WeightsError(f"{path} takes {inputs[0].type}; expected frames of float, float16 or uint8")
    return inputs[0]


def _is_channels_last(shape: Sequence[Any], layout: str, path: Path) -> bool:
    first, last = shape[1] == 3, shape[3] == 3
    own, other = (shape[1], shape[3]) if layout == "nchw" else (shape[3], shape[1])
    if layout and own != 3 and (isinstance(own, int) or other == 3):
        raise WeightsError(
            f"teacher.options.layout is {layout}, but {path} takes frames of the shape {list(shape)}; give the other"
            " one, or leave it out"
        )
    if not layout and first == last:
        raise WeightsError(
            f"{path} takes frames of the shape {list(shape)}, which doesn't say where the colours are; give"
            " teacher.options.layout, nchw or nhwc"
        )
    return layout == "nhwc" if layout else last


def _output(session: Any, name: str, path: Path) -> str:
    """The output of that name, or the only one that can be logits."""
    outputs = {one.name: one for one in session.get_outputs()}
    if name and name not in outputs:
        raise WeightsError(f"{path} has no output '{name}'; expected one of {', '.join(outputs)}")
    picked = [outputs[name]] if name else list(outputs.values())
    usable = [one for one in picked if one.type in SAYS and len(one.shape) == 4]
    if len(usable) == 1:
        return str(usable[0].name)
    told = ", ".join(f"{one.name} ({one.type.removeprefix('tensor(').removesuffix(')')} {one.shape})" for one in picked)
    if usable:
        raise WeightsError(f"{path} has the outputs {told}; say by teacher.options.output which holds the logits")
    raise WeightsError(
        f"{path} says {told}, no logits: labels, boxes or instances can't be distilled; expected floating point (N,"
        " classes, H, W). Export it without the argmax or post-processing"
    )


def _names_in(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Class names that YOLO's exporter wrote into the file: {0: 'road', 1: 'sidewalk', …}; none where they aren't
    there.
    """
    found = {int(number): one[1:-1] for number, one in _NAMED.findall(str(metadata.get("names", ""))[:LONGEST_NAMES])}
    return tuple(found[i] for i in range(len(found))) if list(found) == list(range(len(found))) else ()


def _tried(model: OnnxTeacher, size: tuple[int, int] | None, says: str, names: int, path: Path) -> int:
    """Run a made-up frame, find out which axis of the output is the classes', and return how many there are. Raises
    WeightsError where what the graph says isn't what was said of it.
    """
    frame = torch.randint(
        0,
        256,
        (1, 3, *(size or (2 * max(32, model.multiple), 3 * max(32, model.multiple)))),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    try:
        outputs = model.logits_at_stride(frame)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"{path} can't be run on a frame of {frame.shape[2]}x{frame.shape[3]}: {why[:240]}; give"
            " teacher.options.size or layout"
        ) from error
    logits = outputs.primary
    if not _like_frame(logits.shape[2:], frame.shape[2:]):
        # (N, C, H, W) of it, had it been taken for the other layout.
        turned = logits.permute(0, 2, 3, 1) if model.says_last else logits.permute(0, 3, 1, 2)
        if _like_frame(turned.shape[2:], frame.shape[2:]):
            model.says_last, logits = not model.says_last, turned
    if logits.shape[1] < 2:
        raise WeightsError(
            f"{path} says the shape {list(logits.shape)} of (N, classes, H, W), one value a pixel: labels or a mask, no"
            " logits; export it without the argmax, or give teacher.options.layout"
        )
    if names and names != logits.shape[1]:
        raise WeightsError(
            f"{path} says {logits.shape[1]} classes (of shape {list(logits.shape)}) and there are {names} names; give"
            " teacher.options.names or layout"
        )
    if not logits.isfinite().all():
        raise WeightsError(f"{path} says NaN or infinite values of a plain frame; export it again")
    straight = logits.exp() if model.probabilities else logits
    sums_to_one = bool((straight.min() >= 0) and (straight.sum(1) - 1).abs().max() < 1e-2)
    if sums_to_one != model.probabilities:
        found, option = (
            ("probabilities", "probabilities")
            if sums_to_one
            else ("no probabilities: they don't add up to 1", "logits")
        )
        raise WeightsError(f"{path} says {found}, and teacher.options.says is {says}; set it to {option}")
    if says == "logits" and logits.min() >= 0 and logits.max() <= 1:
        console.warn(
            f"{path} says values from {logits.min():.2g} to {logits.max():.2g} alone, as after a sigmoid, and they are"
            " taken for logits; if they are none, export the network without its last activation"
        )
    return int(logits.shape[1])


def _like_frame(sides: Sequence[int], frame: Sequence[int]) -> bool:
    """Whether a map has a frame's proportions, to a pixel."""
    return abs(sides[0] * frame[1] - sides[1] * frame[0]) <= max(frame)


def _axes(channels_last: bool) -> str:
    return "NHWC" if channels_last else "NCHW"
