"""The live app from options to exit code: open bundles, source, labels and screen, play, sum up."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2

from rdd_deploy import console
from rdd_deploy.data.open import label_ids
from rdd_deploy.errors import DiskError, SourceError, missing_package
from rdd_deploy.live import sinks
from rdd_deploy.live.bundles import loaded, newest_bundle
from rdd_deploy.live.captures import Capture
from rdd_deploy.live.channel import Channel
from rdd_deploy.live.grabber import Grabber
from rdd_deploy.live.inference import Inference
from rdd_deploy.live.labels import LabelFolder
from rdd_deploy.live.newest import following
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.player import Player
from rdd_deploy.live.recorder import Recorder
from rdd_deploy.live.sinks import Remote, Screen
from rdd_deploy.live.sources import Source, Streets, open_source
from rdd_deploy.live.stats import Stats
from rdd_deploy.live.types import Result
from rdd_deploy.runtime import Segmenter
from rdd_deploy.utils.arguments import writable
from rdd_deploy.utils.files import check_file, remove_parts, write_json
from rdd_deploy.utils.machine import available_cores
from rdd_deploy.utils.signals import StopRequest

MAX_WARNINGS = 5
RECORD_FPS = 30.0
MAX_RECORD_FPS = 60.0
"""Highest rate of a recording that follows the clock; a file that is played whole keeps its own rate."""
MAX_PARALLEL = 4
"""Most frames of a file that are computed at a time: a bound on memory."""


def live(options: LiveOptions) -> int:
    """Run the app; returns the exit code: 0, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

    Raises:
        RddError: anything the user can fix.
    """
    # Resizing and blending take a fraction of a millisecond; spread over all cores they only get in inference's way.
    cv2.setNumThreads(1)
    _check_files(options)
    screen_class = sinks.screen_class(options)
    screen_class.check()
    with ExitStack() as stack:
        remote = _remote(options)
        if remote is not None:
            stack.callback(remote.close)
        segmenters = stack.enter_context(_segmenters(options))
        source = open_source(
            options.source,
            options.camera,
            options.size,
            fps=options.fps,
            streets_live=options.realtime or screen_class.visible or remote is not None,
            info=console.info,
        )
        stack.callback(source.close)
        labels, truth_classes = _truth(options, source, segmenters)
        if options.realtime and not source.live and source.fps is None:
            console.warn(f"{source.title} has no frame rate: it is played whole, not in real time")
            options = replace(options, realtime=False)
        clocked = source.live or options.realtime
        recorder = _recorder(options.record, source, clocked) if options.record else None
        screen = screen_class(options)
        stack.callback(screen.close)
        stop = stack.enter_context(StopRequest())  # until here a signal ends at once: there is nothing to finish
        if remote is not None:
            remote.start(source.title, segmenters)
        record = _play(options, segmenters, source, labels, truth_classes, screen, recorder, remote, stop)
    _sum_up(record, recorder)
    return stop.exit_code


def _remote(options: LiveOptions) -> Remote | None:
    """The web view, if there is to be one; its port is taken. Raises RddError."""
    if options.serve is None:
        return None
    try:
        from rdd_deploy.live.web.place import open_place
        from rdd_deploy.live.web.server import WebView
    except ModuleNotFoundError as error:
        raise missing_package((error.name or "aiohttp").partition(".")[0], "web", "live --serve") from error
    return WebView(open_place(options.serve, options.token, options.token_file))


def _segmenters(options: LiveOptions) -> AbstractContextManager[list[Segmenter]]:
    asked: dict[str, Any] = {"device": options.device, "provider": options.provider, "threads": options.threads}
    asked["parallel"] = inferences_at_a_time(options)
    if options.newest is not None:
        return following(options.newest, **asked, info=console.info, warn=console.warn)
    return loaded(options.bundles or (newest_bundle(),), **asked)


def _recorder(path: Path, source: Source, clocked: bool) -> Recorder:
    fps = source.even_fps() if isinstance(source, Capture) else source.fps
    return Recorder(path, min(fps or RECORD_FPS, MAX_RECORD_FPS if clocked else math.inf), clocked)


def inferences_at_a_time(options: LiveOptions) -> int:
    """How many frames to compute at a time: one for each thread where a file or folder is played whole, since only the
    rate counts.

    Elsewhere one, with all threads, since its age counts.
    """
    source = options.source or ""
    whole = (
        os.path.isfile(source) or os.path.isdir(source)
    ) and not options.realtime  # unlike Path's these bear any address
    threads = available_cores() if options.threads is None else options.threads
    return min(threads, MAX_PARALLEL) if whole else 1


def _check_files(options: LiveOptions) -> None:
    """Find files that can't be written, or would be overwritten, before the run. Raises DiskError."""
    source = Path(options.source.removeprefix("file://")) if options.source else None
    named = [
        (name, path)
        for name, path in (("--source", source), ("--record", options.record), ("--stats", options.stats))
        if path
    ]
    for (first, one), (second, other) in combinations(named, 2):
        if os.path.realpath(one) == os.path.realpath(other):
            raise DiskError(
                f"{first} and {second} are the same file, {other}; it would be overwritten, give {second} a name of"
                " its own"
            )
    stats, save_to = options.stats, options.save_to
    for folder in {save_to, *([stats.parent] if stats is not None else [])}:
        with suppress(OSError):  # what a killed run left there may be somebody else's
            remove_parts(folder)
    check_file(stats)
    # The default folder may be missing or forbidden: most runs save nothing.
    if save_to != LiveOptions.save_to and not writable(save_to):
        raise DiskError(
            f"can't save frames to {save_to}: it isn't a folder, or can't be written; choose another one with --save-to"
        )


def _truth(
    options: LiveOptions, source: Source, segmenters: Sequence[Segmenter]
) -> tuple[LabelFolder | None, tuple[str, ...] | None]:
    """The label folder, if any, and the class names behind the truth's ids."""
    if options.labels is not None:
        classes = segmenters[0].classes
        for number, segmenter in enumerate(segmenters, 1):
            if segmenter.classes != classes:
                name = segmenter.manifest.name
                console.warn(
                    f"bundle {number} {name} has other classes than bundle 1, whose ids the labels hold: no mIoU for it"
                )
        return (
            LabelFolder(options.labels, source, len(classes), options.data_void, label_ids(segmenters[0].manifest)),
            classes,
        )
    return None, source.classes if isinstance(source, Streets) else None


def _play(
    options: LiveOptions,
    segmenters: list[Segmenter],
    source: Source,
    labels: LabelFolder | None,
    truth_classes: tuple[str, ...] | None,
    screen: Screen,
    recorder: Recorder | None,
    remote: Remote | None,
    stop: StopRequest,
) -> dict[str, Any]:
    """Start the threads, play, end them whatever happened; returns the record for --stats."""
    lossy = source.live or options.realtime
    results = Channel[Result](1 if lossy else 2, lossy)
    warn = Warnings()
    grabber = Grabber(source, lossy=lossy, realtime=options.realtime, labels=labels, warn=warn)
    inference = Inference(segmenters, grabber, results, warn)
    stats = Stats(segmenters)
    player = Player(
        segmenters, grabber, inference, results, screen, stats, source, options, truth_classes, recorder, remote
    )
    record: dict[str, Any] = {}

    def measured() -> None:
        bad, workers = grabber.bad + inference.bad, inference.workers
        record.update(stats.record(source.title, source.live, player.drops, grabber.reconnects, bad, workers))
        if options.stats is not None:
            write_json(options.stats, record)

    # Runs backwards: recording and stats first, a silent stream can hold the grabber for seconds.
    with ExitStack() as ending:
        ending.callback(warn.sum_up)
        ending.callback(_end, grabber, source)
        ending.callback(measured)
        ending.callback(inference.stop)
        ending.callback(screen.close)
        if remote is not None:
            ending.callback(remote.close)
        if recorder is not None:
            ending.callback(recorder.close)
        ending.callback(results.abandon)
        gc.freeze()  # what was imported and loaded stays; the garbage collector would look through all of it between two frames
        ending.callback(gc.unfreeze)
        grabber.start()
        inference.start()
        player.play(stop)
    if stop.number is None and not player.quit:
        _check_end(options, source, stats.frames, int(record["bad_frames"]))
    return record


def _end(grabber: Grabber, source: Source) -> None:
    if not grabber.stop():
        console.warn(f"{source.title} doesn't answer; its driver was not closed")


def _check_end(options: LiveOptions, source: Source, frames: int, bad: int) -> None:
    """Raise SourceError if the source gave no frame, and warn if it ended early."""
    if not frames:
        raise SourceError(f"{source.title} gave no usable frame ({bad} were skipped); check the source")
    missing = source.short_by() if isinstance(source, Capture) and options.max_frames is None else 0
    if missing:
        console.warn(f"{source.title} ended {missing} frames early; the file is damaged or cut off")


class Warnings:
    """Prints the first few warnings of a run and counts the rest."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, text: str) -> None:
        self._count += 1
        if self._count <= MAX_WARNINGS:
            console.warn(text)

    def sum_up(self) -> None:
        """Print how many weren't printed."""
        if self._count > MAX_WARNINGS:
            console.warn(f"and {self._count - MAX_WARNINGS} more warnings of this kind")


def _sum_up(record: dict[str, Any], recorder: Recorder | None) -> None:
    age = record["end_to_end_ms"]
    line = f"{record['frames']} frames in {record['seconds']:.1f} s"
    if age is not None and record["fps"] is not None:
        line += f", {record['fps']:.1f} fps, age p50 {age['p50']:.0f} ms, p95 {age['p95']:.0f} ms"
    line += f", {record['drops']} dropped, {record['reconnects']} reconnections"
    console.info(line)
    for number, bundle in enumerate(record["bundles"], 1):
        if bundle["miou_pct"] is not None:
            console.info(
                f"bundle {number} {bundle['name']}: mIoU {bundle['miou_pct']:.1f} % over {bundle['labelled_frames']}"
                " frames"
            )
    for pair in record["disagreements"]:
        first, second = pair["bundles"]
        console.info(
            f"bundles {first} and {second} differ on {pair['pct']:.2f} % of the pixels of {pair['frames']} frames"
        )
    if recorder is not None and recorder.frames:
        console.info(f"recorded {recorder.frames} frames to {recorder.path}")
