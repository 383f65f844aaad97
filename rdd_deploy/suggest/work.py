"""Candidates exported one after the other, then timed together in interleaved rounds."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rdd_deploy import console
from rdd_deploy.benchmark.cold_start import reason
from rdd_deploy.benchmark.images import Images
from rdd_deploy.benchmark.records import STAGES
from rdd_deploy.benchmark.runners import bundle_candidates
from rdd_deploy.benchmark.timing import Measured, measure, round_schedule
from rdd_deploy.data.open import open_split
from rdd_deploy.suggest.rows import Row
from rdd_deploy.suggest.untrained import Exported, Target, export_untrained, write_streets
from rdd_deploy.training.forecast import in_words

CALL = ("resize", "infer", "resize back")
"""Stages of the benchmark that make up one call of a segmenter on a frame that is at hand."""


def time_candidates(encoders: Sequence[str], target: Target, threads: int, rounds: int) -> list[Row]:
    """Build, export and time candidates; whatever stops one is its row's ``failure``. Nothing is left on the disk."""
    with tempfile.TemporaryDirectory(prefix="rdd-suggest-") as name:
        folder = Path(name)
        write_streets(folder / "data", target.classes)
        exported, failures = _export_all(encoders, target, folder)
        results = _measure(exported, target, folder / "data", threads, rounds)
        sizes = {encoder: one.megabytes for encoder, one in exported.items()}
    rows = []
    for encoder in encoders:
        failure = failures.get(encoder) or results[encoder].failure
        if failure:
            rows.append(Row(encoder, target.head, failure=failure))
        else:
            rows.append(_row(encoder, target.head, exported[encoder].parameters, sizes[encoder], results[encoder]))
    return rows


def _export_all(encoders: Sequence[str], target: Target, folder: Path) -> tuple[dict[str, Exported], dict[str, str]]:
    exported: dict[str, Exported] = {}
    failures: dict[str, str] = {}
    for number, encoder in enumerate(encoders, 1):
        began = time.monotonic()
        try:
            # What an export says of untrained weights (accuracy, saturation) means nothing.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                exported[encoder] = export_untrained(encoder, target, folder / "runs", folder / "data")
        except Exception as error:  # timm, the exporter and the backends raise classes of their own; the others go on
            failures[encoder] = reason(error)
        seconds = time.monotonic() - began
        console.info(
            f"{number}/{len(encoders)} {encoder}: {'failed' if encoder in failures else 'exported'} after"
            f" {seconds:.0f} s"
        )
        if number == 1 and len(encoders) > 1:
            console.info(
                f"to come on this machine: about {in_words((seconds + 1) * (len(encoders) - 1))}; larger ones take"
                " longer"
            )
    return exported, failures


def _measure(
    exported: dict[str, Exported], target: Target, data: Path, threads: int, rounds: int
) -> dict[str, Measured]:
    if not exported:
        return {}
    images = Images(open_split("folder", str(data), "val", size=target.size, classes=target.names))
    candidates = bundle_candidates([one.bundle for one in exported.values()], "cpu", threads)
    total = len(candidates) * sum(len(turn) for turn in round_schedule(len(images), rounds))
    # Of labels that nobody looks at.
    with (
        console.progress("timing", total) as bar,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        results = measure(candidates, images, rounds, lambda name, frames: bar.advance(frames))
    return dict(zip(exported, results, strict=True))


def _row(encoder: str, head: str, parameters: int, megabytes: float, result: Measured) -> Row:
    stages = np.array(result.stage_ms)  # (frames, len(STAGES))
    call = stages[:, [STAGES.index(name) for name in CALL]].sum(1)
    p50, p95 = np.percentile(call, [50, 95])
    network = float(np.median(stages[:, STAGES.index("infer")]))
    return Row(
        encoder, head, round(megabytes, 3), parameters, round(float(p50), 4), round(float(p95), 4), round(network, 4)
    )
