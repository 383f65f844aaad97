"""Pictures where people would rather look: frame, truth, student, teacher and difficulty side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdd_deploy.data.base import Frame, LabelSpace, Split
from rdd_deploy.drawing import coloured
from rdd_deploy.losses.rdd import RelativeDifficultyLoss, teacher_full_evaluated, teacher_student_evaluated
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.tta import TestTimeAugmentation, tta_logits
from rdd_deploy.preprocess import resize_frame, resize_labels
from rdd_deploy.utils import files
from rdd_deploy.utils.text import shown


def heatmap(weight: NDArray[np.float32]) -> Frame:
    """Weights (H, W) in [0, 1] -> RGB; bright counts most."""
    return np.asarray(
        cv2.cvtColor(cv2.applyColorMap((255 * weight.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB), np.uint8
    )


def distillation_row(
    split: Split,
    index: int,
    size: tuple[int, int],
    student: Segmenter,
    teacher: TeacherModel,
    views: TestTimeAugmentation,
    loss: RelativeDifficultyLoss,
) -> list[tuple[str, Frame]]:
    """Frame, truth, student, teacher and the pixel weights of stage 1 and 2 for one frame; pictures are RGB."""
    frame, truth = resize_frame(split.frame(index), size), resize_labels(split.labels(index), size)
    device = next(student.parameters()).device
    with torch.inference_mode():
        student_out = student(torch.from_numpy(frame).permute(2, 0, 1)[None].to(device)).primary.float()
        whole = torch.from_numpy(resize_frame(split.frame(index), views.size)).permute(2, 0, 1)[None].to(device)
        teacher_out = tta_logits(teacher, whole, TestTimeAugmentation(views.size), size)
        target = torch.from_numpy(truth).long()[None].to(device)
        mask = teacher_student_evaluated(
            student_out, teacher_out.primary, target, threshold=loss.threshold, min_kept=loss.min_kept, rule=loss.rule
        )
        row = [
            ("frame", frame),
            ("truth", coloured(truth, split.label_space)),
            ("student", _labels(student_out, split.label_space)),
            ("teacher", _labels(teacher_out.primary, split.label_space)),
        ]
        if teacher_out.auxiliary is not None:
            row.append(
                (
                    "stage 1: easy pixels first",
                    heatmap(
                        teacher_full_evaluated(teacher_out.primary, teacher_out.auxiliary, divergence=loss.divergence)[0].cpu().numpy()
                    ),
                )
            )
    return [*row, (f"stage 2: hard for one ({loss.rule})", heatmap(mask[0].float().cpu().numpy()))]


def _labels(logits: Tensor, label_space: LabelSpace) -> Frame:
    return coloured(logits.argmax(1)[0].to(torch.uint8).cpu().numpy(), label_space)


def titled(picture: Frame, title: str) -> Frame:
    """The picture under a strip with its title."""
    strip = np.full((22, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, shown(title), (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def write_rows(path: Path, rows: Sequence[Sequence[tuple[str, Frame]]], size: tuple[int, int]) -> None:
    """Write titled pictures (RGB) as a grid, each at (height, width), to a PNG."""
    grid = np.concatenate([np.concatenate([titled(resize_frame(picture, size), title) for title, picture in row], 1) for row in rows])
    done, encoded = cv2.imencode(".png", cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV can't encode PNG")
    files.write_bytes(path, encoded.tobytes())
