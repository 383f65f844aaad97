"""Predict frames into a folder: read, label and write side by side, in order, and go on where an earlier call was
stopped.
"""

from __future__ import annotations

import csv
import io
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data.similar import fingerprint
from rdd_deploy.drawing import Overlay
from rdd_deploy.errors import DataError, RddError
from rdd_deploy.prediction.frames import Frame, Frames, open_frames
from rdd_deploy.prediction.journal import Journal, Row, claim, write_about
from rdd_deploy.prediction.layouts import LAYOUTS, Layout
from rdd_deploy.prediction.models import Model, described, disagreement, opened
from rdd_deploy.prediction.pick import pick
from rdd_deploy.utils import files
from rdd_deploy.utils.locks import InUseError, locked
from rdd_deploy.utils.machine import available_cores
from rdd_deploy.utils.signals import StopRequest
from rdd_deploy.utils.text import shown

Array = NDArray[np.uint8]
OPACITY = 0.5
TOLD = 20
"""Images that couldn't be read, one a line; more are counted."""
_AHEAD, _THREADS = 2, 8
"""So many frames more than are computed are read or written at the same time; and so many frames, where there are cores for them."""


class Interrupted(RddError):
    """A signal asked to stop; what is written stays."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        model: a run or bundle; others: those that it is compared with. layout: of LAYOUTS.
        confidence: also maps of it. pick: so many frames to annotate next. every: only each so many-th frame.
    """

    model: Path
    frames: Path
    output: Path
    layout: str = "masks"
    overlay: bool = False
    confidence: bool = False
    others: tuple[Path, ...] = ()
    pick: int | None = None
    every: int = 1
    device: str = "auto"
    provider: str | None = None
    threads: int | None = None
    dry: bool = False


def predict(options: Options) -> None:
    """Predict all frames that aren't done yet, list them, and pick some where that is asked for.

    Raises:
        RddError: a mistake of the user's; or, behind all that could be done, frames that couldn't be read.
        Interrupted: a signal; the same call goes on.
    """
    output = options.output
    _check_apart(options.frames, output)
    frames = open_frames(options.frames, options.every)
    for note in frames.notes:
        console.warn(note)
    with ExitStack() as stack:
        models = stack.enter_context(
            opened(
                [options.model, *options.others],
                device=options.device,
                provider=options.provider,
                threads=options.threads,
            )
        )
        _check_pick(options, models[0])
        layout = LAYOUTS[options.layout](output, models[0].classes, models[0].palette)
        parts = _parts(options, frames, models)
        journal = Journal(output, len(layout.classes))
        claim(output, parts)
        if options.dry:
            journal.load(frames, layout, repair=False)
            total = "its" if frames.total is None else str(frames.total)
            console.info(
                f"dry run: {total} frames of {frames.path}, {len(journal.done)} of them done; nothing was predicted"
            )
            return
        files.check_writable(output)
        stack.enter_context(_alone(output))
        claim(output, parts)
        journal.load(frames, layout)
        output.mkdir(parents=True, exist_ok=True)
        files.remove_parts(output)
        for folder in [one for one in output.rglob("*") if one.is_dir()]:
            files.remove_parts(folder)
        write_about(output, parts, _facts(layout, models[0], options))
        stack.callback(journal.close)
        _run(options, frames, models, layout, journal)


def _run(options: Options, frames: Frames, models: Sequence[Model], layout: Layout, journal: Journal) -> None:
    before, started = len(journal.done), time.perf_counter()
    with StopRequest() as stop:
        unreadable = _predict_all(options, frames, models, layout, journal, stop)
        if stop.number is not None:
            raise Interrupted(
                f"interrupted after {len(journal.done)} of {frames.total or 'all'} frames; their masks are in"
                f" {layout.mask('x').parent}, the same command goes on",
                stop.number,
            )
    new, seconds = len(journal.done) - before, time.perf_counter() - started
    listed = _list(options, layout, journal)
    done = (
        f"{new} {'frame' if new == 1 else 'frames'} in {seconds:.0f} s ({new / max(seconds, 1e-3):.1f} a second)"
        if new
        else "nothing was left to do"
    )
    earlier = f", {before} were done before" if before else ""
    console.info(f"{done}{earlier} -> {layout.mask('x').parent}, {', '.join(path.name for path in listed)}")
    if options.pick is not None:
        console.info(pick(options.pick, frames, layout, journal))
    _tell_failures(frames, unreadable)


def _tell_failures(frames: Frames, unreadable: Sequence[str]) -> None:
    """Raise what couldn't be read, behind all that could."""
    if trouble := frames.trouble():
        raise trouble
    if unreadable:
        more = [f"and {len(unreadable) - TOLD} more"] if len(unreadable) > TOLD else []
        raise DataError(
            f"{len(unreadable)} of {frames.total} images couldn't be read, and have no mask; all others are done:",
            *unreadable[:TOLD],
            *more,
        )


def _predict_all(
    options: Options, frames: Frames, models: Sequence[Model], layout: Layout, journal: Journal, stop: StopRequest
) -> list[str]:
    """Predict what isn't done. Returns a sentence for each image that couldn't be read."""
    unreadable: list[str] = []
    at_a_time = max(min(model.parallel for model in models) + _AHEAD, min(available_cores(), _THREADS))
    work = _Work(options, models, layout)
    pending: deque[Future[Row]] = deque()
    since, counted = time.perf_counter(), 0
    with console.progress("predict", frames.total) as bar:
        pool = ThreadPoolExecutor(at_a_time, thread_name_prefix="predict")

        def hand_on() -> None:
            nonlocal counted
            try:
                journal.add(pending.popleft().result())
            except DataError as error:
                unreadable.append(str(error))
            except CancelledError:
                return
            counted += 1
            bar.advance(note=f"{counted / max(time.perf_counter() - since, 1e-3):.1f} frames/s")

        try:
            for frame in frames:
                if stop.number is not None:
                    break
                if frame.name in journal.done:
                    bar.advance()
                    continue
                pending.append(pool.submit(work, frame))
                while pending and (len(pending) >= 2 * at_a_time or pending[0].done()):
                    hand_on()
            while pending:
                if stop.number is not None:
                    for future in pending:
                        future.cancel()
                hand_on()
        finally:
            pool.shutdown(cancel_futures=True)
    return unreadable


class _Work:
    """One frame, in a thread of the pool: read, asked, written."""

    def __init__(self, options: Options, models: Sequence[Model], layout: Layout) -> None:
        self._options, self._models, self._layout = options, models, layout
        self._palette = np.array(layout.palette, np.uint8)

    def __call__(self, frame: Frame) -> Row:
        pixels = frame.read()
        wanted = self._options.confidence
        answers = [model(pixels, wanted and number == 0) for number, model in enumerate(self._models)]
        first = answers[0]
        contents = {self._layout.mask(frame.name): self._layout.encoded(first.labels)}
        if self._options.overlay:
            drawn = Overlay(self._palette, OPACITY).draw(pixels, first.labels)
            contents[self._beside("overlays", frame, ".jpg")] = cv2.imencode(
                ".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 90]
            )[1].tobytes()
        if first.confidence is not None:
            contents[self._beside("confidence", frame, ".png")] = cv2.imencode(".png", first.confidence)[1].tobytes()
        files.write_together(contents)
        classes = len(self._layout.classes)
        counts = cv2.calcHist(
            [first.labels], [0], None, [classes], [0, classes]
        ).ravel()  # a quarter of np.bincount's time
        return Row(
            frame=frame.name,
            stamp=frame.stamp,
            height=pixels.shape[0],
            width=pixels.shape[1],
            shares=[round(float(share), 6) for share in counts / first.labels.size],
            confidence=_rounded(first.mean),
            confidence_p5=_rounded(first.low),
            disagreement=_rounded(disagreement(answers)),
            look=fingerprint(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)),
        )

    def _beside(self, folder: str, frame: Frame, ending: str) -> Path:
        return self._layout.folder / folder / f"{frame.stem}{ending}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _list(options: Options, layout: Layout, journal: Journal) -> list[Path]:
    """Write what lists all frames."""
    journal.close()
    table = layout.folder / "predictions.csv"
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    shares = [f"share_{shown(name)}" for name in layout.classes]
    writer.writerow(["frame", "width", "height", *shares, "confidence_mean", "confidence_p5", "disagreement"])
    for row in journal.rows():
        writer.writerow(
            [
                row.frame,
                row.width,
                row.height,
                *row.shares,
                *map(_cell, (row.confidence, row.confidence_p5, row.disagreement)),
            ]
        )
    files.write_text(table, buffer.getvalue())
    written = [table]
    if options.others:
        ranked = sorted(journal.rows(), key=lambda row: -(row.disagreement or 0))
        order = layout.folder / "disagreement.csv"
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["frame", "disagreement"])
        writer.writerows([row.frame, _cell(row.disagreement)] for row in ranked)
        files.write_text(order, buffer.getvalue())
        written.append(order)
    with console.progress(f"list as {options.layout}", len(journal.done)) as bar:
        return [*written, *layout.finish((row.frame for row in journal.rows()), bar.advance)]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _parts(options: Options, frames: Frames, models: Sequence[Model]) -> dict[str, Any]:
    """What a prediction depends on: another one doesn't go on in its folder."""
    return {
        "model": described(models[0]),
        "frames": f"{frames.path.resolve()}{f' ({frames.stamp})' if frames.stamp else ''}",
        "--format": options.layout,
        "--overlay": options.overlay,
        "--confidence": options.confidence,
        "--disagree": [described(model) for model in models[1:]],
        "--every": options.every,
    }


def _facts(layout: Layout, model: Model, options: Options) -> dict[str, Any]:
    """What helps to read the files."""
    kind = model.confidence if model.confidence == "softmax" or options.confidence else None
    meaning = {
        "softmax": "probability of the likeliest class, per network pixel",
        "mirror": (
            "share of the pixels that keep their class when the frame is mirrored: a bundle gives labels, no"
            " probabilities"
        ),
        None: "none: a bundle gives labels, no probabilities; --confidence asks it for the mirrored frame as well",
    }[kind]
    return {
        "classes": list(layout.classes),
        "palette": [list(colour) for colour in layout.palette],
        "confidence": meaning,
    }


def _check_pick(options: Options, model: Model) -> None:
    if options.pick is not None and not options.others and not options.confidence and model.confidence != "softmax":
        raise RddError(
            f"--pick {options.pick} needs to know which frames are uncertain, and a lone bundle doesn't tell; name"
            " other bundles with --disagree, or add --confidence"
        )


def _check_apart(frames: Path, output: Path) -> None:
    """Raise RddError where the masks would become frames of the next call."""
    if frames.is_dir() and output.resolve().is_relative_to(frames.resolve()):
        raise RddError(
            f"{output} lies in the folder of the frames, {frames}, so its masks would be taken for frames; name another"
            " folder"
        )


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep a second process from the folder. Raises InUseError."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(output.resolve()))
        except InUseError as error:
            who = str(error).partition(" is training")[0]
            raise InUseError(f"{who} predicts into {output}; wait until it ends, or name another folder") from error
        yield
