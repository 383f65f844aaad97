"""The main thread: takes results, draws, shows, records, counts, and obeys the keys."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rdd_deploy import console
from rdd_deploy.drawing import disagreement, step
from rdd_deploy.errors import DiskError, RddError
from rdd_deploy.live.channel import Channel, Finished
from rdd_deploy.live.display import ESCAPE
from rdd_deploy.live.grabber import Grabber
from rdd_deploy.live.hud import HELP
from rdd_deploy.live.inference import Inference
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.recorder import Recorder
from rdd_deploy.live.remote import Ask, State, Wish, shown_bundle
from rdd_deploy.live.renderer import Picture
from rdd_deploy.live.sinks import Remote, Screen, Sink
from rdd_deploy.live.sources import Source
from rdd_deploy.live.stats import Stats
from rdd_deploy.live.types import Array, Result
from rdd_deploy.runtime import Segmenter
from rdd_deploy.utils.signals import StopRequest
from rdd_deploy.utils.text import shown

POLL_S = 0.02
"""How long the loop waits for a result before it looks at keys and signals."""
STALL_S = 1.0
"""A live source that is silent for so long is reported on the picture."""
TROUBLE_S = 0.2
NO_PARTNER = "split view needs a second bundle of the same classes: --bundle A B"


class Player:
    """Plays until the source ends, ``q``, a signal or ``max_frames``.

    Args:
        truth_classes: the class names behind the truth's ids, None without truth.
    """

    def __init__(
        self,
        segmenters: Sequence[Segmenter],
        grabber: Grabber,
        inference: Inference,
        results: Channel[Result],
        screen: Screen,
        stats: Stats,
        source: Source,
        options: LiveOptions,
        truth_classes: Sequence[str] | None,
        recorder: Recorder | None,
        remote: Remote | None = None,
    ) -> None:
        self._segmenters, self._grabber, self._inference = segmenters, grabber, inference
        self._results, self._screen, self._stats = results, screen, stats
        self._source, self._options, self._truth_classes, self._recorder = source, options, truth_classes, recorder
        self._sinks: list[Sink] = [screen, *([recorder] if recorder is not None else [])]
        self._remote = remote
        self._picture = Picture(segmenters, stats, options.opacity)
        self._last: tuple[Result, list[Array] | None] | None = None
        self._last_s = self._trouble_s = self._paused_s = time.perf_counter()
        self._paused = self.quit = self._redraw = False
        self._reported_attempt = 0
        if options.split:
            self._toggle_split()

    @property
    def drops(self) -> int:
        """Frames that were grabbed but not shown, because a newer one was there."""
        return self._grabber.drops + self._results.drops

    def play(self, stop: StopRequest) -> None:
        """Raises whatever ended one of the other threads."""
        limit = self._options.max_frames
        while not self.quit and stop.number is None and (limit is None or self._stats.frames < limit):
            try:
                result = self._wait()
            except Finished:
                break
            if result is not None:
                self._show(result)
            else:
                self._idle()
            while not self.quit and (key := self._screen.key()) is not None:
                self._press(key)
            self._answer()
        if self._inference.error is not None:
            raise self._inference.error

    def _wait(self) -> Result | None:
        if not self._paused:
            return self._results.get(POLL_S)
        time.sleep(POLL_S)
        return None

    def _show(self, result: Result) -> None:
        started = time.perf_counter()
        if self._reported_attempt:
            self._reported_attempt = 0
            console.info(f"{self._source.title}: connected again")
        drawn_on = self._pictures_wanted or self._watched
        # Headless, without truth or a second bundle, nobody looks at the labels in the frame's size.
        labels = (
            self._restored(result)
            if drawn_on or result.captured.truth is not None or len(result.predictions) > 1
            else None
        )
        self._last, self._last_s, self._redraw = (result, labels), started, False
        self._stats.answered(result, labels, self._truth_classes)
        if labels is not None and len(labels) > 1:
            self._stats.differed((prediction.bundle for prediction in result.predictions), disagreement(*labels))
        drawing = time.perf_counter()
        canvas = self._drawn(result, labels, "") if labels is not None and drawn_on else None
        drawn = time.perf_counter()
        if canvas is not None:
            self._deliver(canvas, result.captured.at_s)
        now = time.perf_counter()
        self._stats.shown((drawn - drawing) * 1e3, (now - drawn) * 1e3, result.captured.grabbed_s)

    def _restored(self, result: Result) -> list[Array]:
        """The labels in the frame's size, one map per prediction."""
        size = (result.captured.frame.shape[0], result.captured.frame.shape[1])
        return [
            self._segmenters[prediction.bundle].restore(prediction.labels, size) for prediction in result.predictions
        ]

    def _drawn(self, result: Result, labels: Sequence[Array], trouble: str) -> Array | None:
        """The picture for the screen and the recording, where they want one; the remote gets its own,
        without panels.
        """
        canvas = self._picture.coloured(result, labels)
        if self._remote is not None and self._remote.watched:
            self._remote.show(canvas, result.captured.at_s)
        if not self._pictures_wanted:
            return None
        return self._picture.with_panels(canvas, result, self.drops, trouble, self._paused)

    @property
    def _watched(self) -> bool:
        return self._remote is not None and self._remote.watched

    @property
    def _pictures_wanted(self) -> bool:
        """By the screen or the recording."""
        return self._screen.visible or (self._recorder is not None and not self._recorder.full)

    def _deliver(self, canvas: Array, at_s: float | None) -> None:
        for sink in self._sinks:
            sink.show(canvas, at_s)

    def _idle(self) -> None:
        """Without a new frame: draw the picture again after a key, and with a notice if the source is silent."""
        now = time.perf_counter()
        trouble = self._trouble(now)
        self._report_loss(now)
        if self._redraw or (trouble and now - self._trouble_s > TROUBLE_S):
            self._redraw, self._trouble_s = False, now
            if not (self._pictures_wanted or self._watched):
                return
            if self._last is None:
                self._screen.show(self._picture.blank(trouble), None)
                return
            result, labels = self._last
            canvas = self._drawn(result, labels or self._restored(result), trouble)
            if canvas is None:
                return
            if self._paused:
                self._screen.show(canvas, None)
            else:
                self._deliver(canvas, None)

    def _report_loss(self, now: float) -> None:
        """Print that the source is lost where no picture shows it; once for every attempt to open it again."""
        loss = self._grabber.loss
        if loss is not None and not self._screen.visible and loss.attempt != self._reported_attempt:
            self._reported_attempt = loss.attempt
            console.warn(f"{self._source.title}: {loss.sentence(now)}")

    def _trouble(self, now: float) -> str:
        if self._paused or not self._source.live:
            return ""
        loss = self._grabber.loss
        if loss is not None:
            return loss.sentence(now)
        silent = now - self._last_s
        return f"no frame for {silent:.0f} s" if silent > STALL_S else ""

    def _press(self, key: str) -> None:
        """1-9, v, s, h, +, -, space, q, Esc; other keys do nothing."""
        self._redraw = True
        if key in ("q", "Q", ESCAPE):
            self.quit = True
        elif key == " ":
            self._pause()
        elif key.isdecimal() and key != "0":
            self._switch(int(key) - 1)
        elif key in "vV":
            self._toggle_split()
        elif key in "+=-_":
            self._picture.opacity = step(self._picture.opacity, 1 if key in "+=" else -1)
            self._notify(f"opacity {self._picture.opacity:.0%}")
        elif key in "hH":
            self._picture.help = not self._picture.help
            if not self._screen.visible:
                console.info("keys: " + ", ".join(line.replace("\t", " ") for line in HELP))
        elif key in "sS":
            self._save()

    def _pause(self) -> None:
        self._paused = not self._paused
        self._grabber.pause(self._paused)
        self._inference.pause(self._paused)
        now = time.perf_counter()
        if not self._paused:
            self._stats.paused(now - self._paused_s)
        self._paused_s = self._last_s = now
        if self._recorder is not None:
            self._recorder.pause()
        if not self._screen.visible:
            console.info("paused" if self._paused else "goes on")

    def _answer(self) -> None:
        """Do what the remote asks for; one state is made for all that asked meanwhile, so that many of them cost no
        more than one.
        """
        done: list[Ask] = []
        while self._remote is not None and (ask := self._remote.next_ask()) is not None:
            if not ask.answer.set_running_or_notify_cancel():
                continue
            self._redraw |= ask.picture or ask.wish != Wish()
            try:
                self._obey(ask.wish)
            except RddError as error:
                ask.answer.set_exception(error)
            else:
                done.append(ask)
        if done:
            state = self._state()
            for ask in done:
                ask.answer.set_result(state)

    def _obey(self, wish: Wish) -> None:
        """Do the whole of it or, where a part can't be, nothing. Raises RddError."""
        first = self._inference.active[0] if wish.bundle is None else wish.bundle - 1
        if first >= len(self._segmenters):
            raise RddError(self._no_such_bundle(first))
        if wish.split and self._partner(first) is None:
            raise RddError(NO_PARTNER)
        if wish.bundle is not None and first != self._inference.active[0]:
            self._switch(first)
        if wish.split is not None and wish.split != (len(self._inference.active) > 1):
            self._toggle_split()
        if wish.opacity is not None:
            self._picture.opacity = wish.opacity
        if wish.paused is not None and wish.paused != self._paused:
            self._pause()

    def _state(self) -> State:
        """How the run stands; docs/web.md explains it."""
        stats, result = self._stats, self._last[0] if self._last is not None else None
        median, high = stats.age.recent(50, 95)
        active = [
            shown_bundle(index, self._segmenters[index], result, stats.bundles[index])
            for index in self._inference.active
        ]
        differ = stats.disagreement.recent_percent() if stats.disagreement and len(active) > 1 else None
        return {
            "source": shown(self._source.title),
            "live": self._source.live,
            "frame": None if result is None else shown(result.captured.name),
            "size": None if result is None else [result.captured.frame.shape[1], result.captured.frame.shape[0]],
            "frames": stats.frames,
            "fps": None if self._paused or not stats.recent_fps() else round(stats.recent_fps(), 2),
            "age_ms": {"p50": round(median, 1), "p95": round(high, 1)} if stats.age.count else None,
            "drops": self.drops,
            "reconnects": self._grabber.reconnects,
            "paused": self._paused,
            "split": len(active) > 1,
            "can_split": self._partner(self._inference.active[0]) is not None,
            "opacity": round(self._picture.opacity, 4),
            "disagreement_pct": None if differ is None else round(differ, 2),
            "trouble": shown(self._trouble(time.perf_counter())),
            "active": active,
        }

    def _no_such_bundle(self, index: int) -> str:
        many = len(self._segmenters)
        return f"there {'is 1 bundle' if many == 1 else f'are {many} bundles'}, no number {index + 1}"

    def _switch(self, index: int) -> None:
        if index >= len(self._segmenters):
            self._notify(self._no_such_bundle(index))
            return
        others = [other for other in self._inference.active if other != index][:1]
        # In split view the chosen bundle goes left, and what was left goes right.
        split = len(self._inference.active) > 1 and others and self._comparable(index, others[0])
        self._inference.active = (index, *others) if split else (index,)
        self._notify(f"bundle {index + 1}: {self._segmenters[index].manifest.name}{self._from_when()}")

    def _toggle_split(self) -> None:
        active = self._inference.active
        if len(active) > 1:
            self._inference.active = active[:1]
            self._notify(f"split view off{self._from_when()}")
            return
        second = self._partner(active[0])
        if second is None:
            self._notify(NO_PARTNER)
            return
        self._inference.active = (active[0], second)
        self._notify(f"left: bundle {active[0] + 1}, right: bundle {second + 1}{self._from_when()}")

    def _partner(self, first: int) -> int | None:
        """The bundle that split view shows beside this one: the next of the same classes; None without any."""
        order = [(first + offset) % len(self._segmenters) for offset in range(1, len(self._segmenters))]
        return next((index for index in order if self._comparable(first, index)), None)

    def _from_when(self) -> str:
        """When a switch takes effect: the frame that a pause holds keeps the labels that it has."""
        return ", after the pause" if self._paused else ""

    def _comparable(self, first: int, second: int) -> bool:
        return self._segmenters[first].classes == self._segmenters[second].classes

    def _save(self) -> None:
        if self._last is None:
            self._notify("no frame to save yet")
            return
        result, labels = self._last
        try:
            path = self._picture.save(
                self._options.save_to, self._source.title, result, labels or self._restored(result)
            )
        except DiskError as error:
            console.warn(str(error))
            self._picture.notice("the frame isn't saved: see the terminal")
            return
        self._notify(f"saved {path}")

    def _notify(self, text: str) -> None:
        self._picture.notice(text)
        if not self._screen.visible:
            console.info(text)
