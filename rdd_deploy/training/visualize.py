"""A run's pictures: frame, truth, predictions and pixel weights side by side, with a legend of the classes and a scale
of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdd_deploy.data.base import Frame, LabelSpace, Split
from rdd_deploy.drawing import coloured
from rdd_deploy.losses.processes import alone
from rdd_deploy.losses.rdd import RelativeDifficultyLoss, teacher_full_evaluated, teacher_student_evaluated
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.tta import TestTimeAugmentation, tta_logits
from rdd_deploy.preprocess import resize_frame, resize_labels
from rdd_deploy.training.pseudo_labels import PseudoLabels
from rdd_deploy.utils import files
from rdd_deploy.utils.text import shown

GAP = 8
"""Pixels between cells, and around all of them."""
NARROWEST = 160
"""Pixels of a cell's width at least: smaller pictures are enlarged by whole numbers."""
LINE = 18
"""Pixels of a line of text."""


STAGE_2 = {
    "xor": "hard for one (xor)", "and": "hard for both (and)", "or": "hard for either (or)", "lead": "hard for the student alone (lead)",
    "student": "hard for the student",
}  # fmt: skip
"""What the rules of stage 2 keep, for a picture's title."""


class Cell(NamedTuple):
    """One picture of a grid: uint8 (H, W, 3) RGB. ``weights``: it is a heat map, which the scale explains."""

    title: str
    picture: Frame
    weights: bool = False


def heatmap(weight: NDArray[np.float32]) -> Frame:
    """Weights (H, W) in [0, 1] -> RGB (H, W, 3); bright counts most."""
    return np.asarray(
        cv2.cvtColor(
            cv2.applyColorMap((255 * weight.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB
        ),
        np.uint8,
    )


def distillation_row(
    split: Split,
    index: int,
    size: tuple[int, int],
    student: Segmenter,
    teacher: TeacherModel,
    views: TestTimeAugmentation,
    loss: RelativeDifficultyLoss,
    pseudo: PseudoLabels | None = None,
) -> list[Cell]:
    """Frame, truth, student, teacher and the pixel weights of stage 1 and 2 for one frame, all at ``size`` (height,
    width).

    Args:
        pseudo: of a frame without labels: the teacher's labels where it is sure are in the place of the truth.
    """
    frame, truth = resize_frame(split.frame(index), size), resize_labels(split.labels(index), size)
    device = next(student.parameters()).device
    with torch.inference_mode():
        student_out = student(torch.from_numpy(frame).permute(2, 0, 1)[None].to(device)).primary.float()
        whole = torch.from_numpy(resize_frame(split.frame(index), views.size)).permute(2, 0, 1)[None].to(device)
        teacher_out = tta_logits(teacher, whole, TestTimeAugmentation(views.size), size)
        target = torch.from_numpy(truth).long()[None].to(device)
        with alone():  # only the first of several processes draws
            if pseudo is not None:
                target = pseudo(target, torch.full((1,), pseudo.labelled, device=device), teacher_out.primary).task
                truth = target[0].to(torch.uint8).cpu().numpy()
            mask = teacher_student_evaluated(
                student_out,
                teacher_out.primary,
                target,
                threshold=loss.threshold,
                min_kept=loss.min_kept,
                rule=loss.rule,
                min_kept_per_class=loss.min_kept_per_class,
            )
        row = [
            Cell("frame", frame),
            Cell("truth" if pseudo is None else "teacher, where it is sure", coloured(truth, split.label_space)),
            Cell("student", _labels(student_out, split.label_space)),
            Cell("teacher", _labels(teacher_out.primary, split.label_space)),
        ]
        if teacher_out.auxiliary is not None:
            easy = teacher_full_evaluated(teacher_out.primary, teacher_out.auxiliary, divergence=loss.divergence)
            row.append(Cell("stage 1: easy pixels first", heatmap(easy[0].cpu().numpy()), weights=True))
    return [*row, Cell(f"stage 2: {STAGE_2[loss.rule]}", heatmap(mask[0].float().cpu().numpy()), weights=True)]


def _labels(logits: Tensor, label_space: LabelSpace) -> Frame:
    return coloured(logits.argmax(1)[0].to(torch.uint8).cpu().numpy(), label_space)


def grid(rows: Sequence[Sequence[Cell]], label_space: LabelSpace) -> Frame:
    """Titled cells in rows on white, under them the classes' colours and, where a cell holds weights, their scale;
    uint8 (H, W, 3) RGB.
    """
    cells = _joined([_row(row) for row in rows], 0)
    parts = [cells, _legend(label_space, cells.shape[1])]
    if any(cell.weights for row in rows for cell in row):
        parts.append(_scale(cells.shape[1]))
    return np.pad(_joined(parts, 0, 2 * GAP), ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


def write_picture(path: Path, picture: Frame) -> None:
    """Write a picture, uint8 (H, W, 3) RGB, to a PNG."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV can't encode PNG")
    files.write_bytes(path, encoded.tobytes())


def _row(row: Sequence[Cell]) -> Frame:
    pictures = [_enlarged(cell.picture) for cell in row]
    titles = [_text(cell.title, picture.shape[1]) for cell, picture in zip(row, pictures, strict=True)]
    most = max(len(title) for title in titles)
    above = [np.pad(title, ((most - len(title), 2), (0, 0), (0, 0)), constant_values=255) for title in titles]
    return _joined([np.concatenate(pair) for pair in zip(above, pictures, strict=True)], 1)


def _enlarged(picture: Frame) -> Frame:
    times = -(-NARROWEST // picture.shape[1])
    return picture.repeat(times, 0).repeat(times, 1)


def _joined(parts: Sequence[Frame], axis: int, gap: int = GAP) -> Frame:
    """Pictures below (axis 0) or beside (axis 1) each other with a white gap between; the smaller ones are filled up
    with white.
    """
    most = max(part.shape[1 - axis] for part in parts)
    padded = []
    for number, part in enumerate(parts):
        along, across = (0, gap if number < len(parts) - 1 else 0), (0, most - part.shape[1 - axis])
        padded.append(
            np.pad(part, (along, across, (0, 0)) if axis == 0 else (across, along, (0, 0)), constant_values=255)
        )
    return np.concatenate(padded, axis)


def _legend(label_space: LabelSpace, width: int) -> Frame:
    """Colour and name of every class and of void, side by side in as many lines as they need."""
    entries = [*zip(label_space.classes, label_space.palette, strict=True), ("void", (0, 0, 0))]
    lines: list[list[Frame]] = []
    room = 0
    for name, colour in entries:
        swatch = cv2.rectangle(
            np.full((LINE, LINE, 3), 255, np.uint8), (2, 2), (LINE - 2, LINE - 2), [int(one) for one in colour], -1
        )
        entry = _joined([np.asarray(swatch, np.uint8), _text(name, width - LINE - 4, shrink=True)], 1, 4)
        if entry.shape[1] > room:
            lines.append([])
            room = width
        lines[-1].append(entry)
        room -= entry.shape[1] + 2 * GAP
    return _joined([_joined(line, 1, 2 * GAP) for line in lines], 0, 2)


def _scale(width: int) -> Frame:
    """The heat maps' colours from 0 to 1."""
    bar = heatmap(np.linspace(0, 1, 2 * NARROWEST, dtype=np.float32)[None].repeat(LINE, 0))
    marks = np.full((LINE, bar.shape[1], 3), 255, np.uint8)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = f"{share:g}"
        x = share * bar.shape[1] - _width(text) / 2
        _draw(marks, text, (round(min(max(0, x), bar.shape[1] - _width(text) - 1)), LINE - 4))
    return _joined([_text("weight of a pixel in the loss", width), bar, marks], 0, 0)


def _text(text: str, width: int, shrink: bool = False) -> Frame:
    """Black text on white, ``width`` pixels wide or, to ``shrink``, as narrow as it is; what doesn't fit into a line
    goes on in the next.
    """
    lines = list(_wrapped(shown(text), width))
    if shrink:
        width = max(map(_width, lines)) + 2
    image = np.full((LINE * len(lines), width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        _draw(image, line, (0, LINE * (number + 1) - 5))
    return image


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of a text, broken between words, and inside one that is wider than a line."""
    line = ""
    for word in text.split(" "):
        if _width(longer := f"{line} {word}" if line else word) <= width:
            line = longer
            continue
        if line:
            yield line
        line = ""
        for letter in word:
            if line and _width(line + letter) > width:
                yield line
                line = ""
            line += letter
    yield line


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0])


def _draw(image: Frame, text: str, at: tuple[int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
