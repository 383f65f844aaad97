"""``apps/live_segment.py``'s story: bundles, source, labels, screen, play, sum up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2

from rdd_deploy import console
from rdd_deploy.errors import DiskError, SourceError
from rdd_deploy.files import write_json
from rdd_deploy.live.bundles import loaded, newest_bundle
from rdd_deploy.live.captures import Capture
from rdd_deploy.live.channel import Channel
from rdd_deploy.live.grabber import Grabber
from rdd_deploy.live.inference import Inference
from rdd_deploy.live.labels import LabelFolder
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.player import Player
from rdd_deploy.live.recorder import Recorder
from rdd_deploy.live.shot import Result, Shot
from rdd_deploy.live.signals import StopRequest
from rdd_deploy.live.sources import Source, Streets, open_source
from rdd_deploy.live.stats import Stats
from rdd_deploy.live.window import Headless, Screen, Window, check_display
from rdd_deploy.runtime import Segmenter

MAX_WARNINGS = 5
RECORD_FPS = 30.0


def live(options: LiveOptions) -> int:
    """Run the app; returns the exit code: 0, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        RddError: anything the user can mend.
    """
    # Resizing and blending take a fraction of a millisecond; spread over all cores they only get in inference's way (0.82 -> 0.89 of its speed).
    cv2.setNumThreads(1)
    paths = options.bundles or (newest_bundle(),)
    if not options.headless:
        check_display()
    if options.stats is not None:
        _check_place(options.stats)
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        segmenters = stack.enter_context(loaded(paths, device=options.device, provider=options.provider, threads=options.threads))
        source = open_source(
            options.source, options.camera, options.size, streets_live=options.realtime or not options.headless, say=console.say
        )
        stack.callback(source.close)
        labels, truth_classes = _truth(options, source, segmenters)
        clocked = source.live or options.realtime
        recorder = Recorder(options.record, min(source.fps or RECORD_FPS, 60.0), clocked) if options.record else None
        screen: Screen = Headless() if options.headless else Window("rdd_deploy")
        stack.callback(screen.close)
        record = _play(options, segmenters, source, labels, truth_classes, screen, recorder, stop)
    _sum_up(options, record, recorder)
    return stop.exit_code


def _check_place(path: Path) -> None:
    """Better now than after an hour. Raises DiskError."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DiskError(f"can't write {path}: it is a folder, or lies where nothing can be written; choose another name")


def _truth(options: LiveOptions, source: Source, segmenters: Sequence[Segmenter]) -> tuple[LabelFolder | None, tuple[str, ...] | None]:
    """The label folder, if any, and the class names behind the truth's ids."""
    if options.labels is not None:
        classes = segmenters[0].classes
        return LabelFolder(options.labels, source, len(classes), options.data_void), classes
    return None, source.classes if isinstance(source, Streets) else None


def _play(
    options: LiveOptions,
    segmenters: list[Segmenter],
    source: Source,
    labels: LabelFolder | None,
    truth_classes: tuple[str, ...] | None,
    screen: Screen,
    recorder: Recorder | None,
    stop: StopRequest,
) -> dict[str, Any]:
    """Start the threads, play, end them whatever happened; returns the record for --stats."""
    lossy = source.live or options.realtime
    frames: Channel[Shot] = Channel(1 if lossy else 2, lossy)
    results: Channel[Result] = Channel(1 if lossy else 2, lossy)
    warn = Warnings()
    grabber = Grabber(source, frames, realtime=options.realtime, labels=labels, warn=warn)
    inference = Inference(segmenters, frames, results, warn)
    stats = Stats(segmenters)
    player = Player(segmenters, grabber, inference, frames, results, screen, stats, source, options, truth_classes, recorder)
    with ExitStack() as ending:  # runs backwards: the recording first, a silent stream can hold the grabber for seconds
        ending.callback(warn.sum_up)
        ending.callback(_end, grabber, source)
        ending.callback(inference.stop)
        ending.callback(screen.close)
        if recorder is not None:
            ending.callback(recorder.close)
        grabber.start()
        inference.start()
        player.play(stop)
    bad = grabber.bad + inference.bad
    if stop.number is None and not player.quit:
        _check_end(options, source, stats.frames, bad)
    return stats.record(source.title, source.live, player.drops, grabber.reconnects, bad)


def _end(grabber: Grabber, source: Source) -> None:
    if not grabber.stop():
        console.warn(f"{source.title} doesn't answer; its driver is left to itself")


def _check_end(options: LiveOptions, source: Source, frames: int, bad: int) -> None:
    """A source that ended by itself must have given something, and all of it."""
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
        """Say how many weren't printed."""
        if self._count > MAX_WARNINGS:
            console.warn(f"and {self._count - MAX_WARNINGS} more frames were skipped")


def _sum_up(options: LiveOptions, record: dict[str, Any], recorder: Recorder | None) -> None:
    if options.stats is not None:
        write_json(options.stats, record)
    age = record["end_to_end_ms"]
    line = f"{record['frames']} frames in {record['seconds']:.1f} s"
    if age is not None and record["fps"] is not None:
        line += f", {record['fps']:.1f} fps, age p50 {age['p50']:.0f} ms, p95 {age['p95']:.0f} ms"
    line += f", {record['drops']} dropped, {record['reconnects']} reconnections"
    console.say(line)
    for number, bundle in enumerate(record["bundles"], 1):
        if bundle["miou_pct"] is not None:
            console.say(f"bundle {number} {bundle['name']}: mIoU {bundle['miou_pct']:.1f} % over {bundle['frames']} frames")
    if record["disagreement_pct"] is not None:
        console.say(f"the bundles of the split view differ on {record['disagreement_pct']:.2f} % of the pixels")
    if recorder is not None and recorder.frames:
        console.say(f"recorded {recorder.frames} frames to {recorder.path}")
