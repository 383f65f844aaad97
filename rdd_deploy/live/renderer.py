"""Draws a result as the picture on the screen, and writes the files of a saved frame."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rdd_deploy.drawing import Overlay
from rdd_deploy.errors import DiskError
from rdd_deploy.live.hud import Hud
from rdd_deploy.live.stats import Stats
from rdd_deploy.live.types import Array, Result
from rdd_deploy.runtime import Segmenter
from rdd_deploy.utils.files import write_together

REFRESH_S = 0.25
"""How often the figures on the picture change: text is drawn then, and pasted on every frame."""
NOTICE_S = 2.5


class Picture:
    """Overlay, split view and panels; keeps what the keys change (opacity, help, notice)."""

    def __init__(self, segmenters: Sequence[Segmenter], stats: Stats, opacity: float) -> None:
        self._segmenters, self._stats = segmenters, stats
        self._overlays = [Overlay(segmenter.palette, opacity) for segmenter in segmenters]
        self._hud = Hud()
        self._canvas: Array | None = None
        self._lines: list[str] = []
        self._key: object = None
        self._refreshed_s = 0.0
        self._notice, self._notice_until_s = "", 0.0
        self.opacity = opacity
        self.help = False

    def notice(self, text: str) -> None:
        """Show a sentence for a moment."""
        self._notice, self._notice_until_s = text, time.perf_counter() + NOTICE_S

    def overlay(self, result: Result, labels: Sequence[Array], canvas: Array | None = None) -> Array:
        """Coloured frame; in split view the left half is the first bundle's, the right half the second's. uint8 (H, W,
        3) BGR.
        """
        frame = result.captured.frame
        drawn = self._one(result.predictions[0].bundle, frame, labels[0], canvas)
        if len(labels) > 1:
            middle = frame.shape[1] // 2
            drawn[:, middle:] = self._one(result.predictions[1].bundle, frame[:, middle:], labels[1][:, middle:], None)
            cv2.line(drawn, (middle, 0), (middle, frame.shape[0]), (255, 255, 255), 1)
        return drawn

    def with_panels(self, canvas: Array, result: Result, drops: int, trouble: str = "", paused: bool = False) -> Array:
        """Draw the panels over what ``coloured`` gave. ``trouble`` is shown as long as it is given."""
        now = time.perf_counter()
        shown = tuple(prediction.bundle for prediction in result.predictions), paused
        if now - self._refreshed_s > REFRESH_S or shown != self._key:
            self._refreshed_s, self._key, self._lines = now, shown, self._status(result, drops, paused)
        notice = trouble or (self._notice if now < self._notice_until_s else "")
        first = self._segmenters[result.predictions[0].bundle]
        self._hud.draw(canvas, self._lines, first.classes, first.palette, notice=notice, show_help=self.help)
        return canvas

    def coloured(self, result: Result, labels: Sequence[Array]) -> Array:
        """The picture without panels; the array is reused by the next call."""
        fits = self._canvas is not None and self._canvas.shape == result.captured.frame.shape
        self._canvas = self.overlay(result, labels, self._canvas if fits else None)
        return self._canvas

    def blank(self, trouble: str) -> Array:
        """A picture for when no frame has come yet."""
        canvas = np.full((360, 480, 3), 40, np.uint8)
        first = self._segmenters[0]
        self._hud.draw(
            canvas, ["waiting for the first frame"], first.classes, first.palette, notice=trouble, show_help=self.help
        )
        return canvas

    def save(self, folder: Path, source: str, result: Result, labels: Sequence[Array]) -> Path:
        """Write the frame, each bundle's label map and the overlay as PNG; returns the frame's path.
        Raises DiskError.
        """
        stem = re.sub(r"[^\w.-]+", "_", f"{source}-{result.captured.name}").strip("._") or "frame"
        first, number = stem, 1
        while os.path.exists(folder / f"{stem}.png"):  # another view of it, or another run's
            number += 1
            stem = f"{first}-{number}"
        images = {f"{stem}.png": result.captured.frame, f"{stem}_overlay.png": self.overlay(result, labels)}
        for prediction, one in zip(result.predictions, labels, strict=True):
            which = f"_{prediction.bundle + 1}" if len(labels) > 1 else ""
            images[f"{stem}_labels{which}.png"] = one
        contents = {}
        for name, image in images.items():
            good, encoded = cv2.imencode(".png", image)
            if not good:
                raise DiskError(f"can't encode {name} as PNG")
            contents[folder / name] = encoded.tobytes()
        write_together(contents)
        return folder / f"{stem}.png"

    def _one(self, bundle: int, frame: Array, labels: Array, canvas: Array | None) -> Array:
        overlay = self._overlays[bundle]
        overlay.opacity = self.opacity
        return overlay.draw(frame, labels, canvas)

    def _status(self, result: Result, drops: int, paused: bool) -> list[str]:
        """Lines for the panel, short enough for a frame of 480 columns unless a name is long."""
        stats, many = self._stats, len(self._segmenters)
        lines = []
        for prediction in result.predictions:
            segmenter = self._segmenters[prediction.bundle]
            lines.append(f"{prediction.bundle + 1}/{many} {segmenter.manifest.name}")
            parallel = f" x{segmenter.parallel}" if segmenter.parallel > 1 else ""
            lines.append(f"{segmenter.backend} {segmenter.precision} {segmenter.device}{parallel}")
        median, high = stats.age.recent(50, 95)
        stages = " ".join(f"{name} {meter.recent(50)[0]:.1f}" for name, meter in stats.stages.items() if meter.count)
        first, _, second = stages.partition(" infer")
        if stats.age.count:
            lines += [f"{stats.recent_fps():.1f} fps  drops {drops}", f"age p50 {median:.0f} p95 {high:.0f} ms"]
        lines += [f"{first} ms", f"infer{second} ms"]
        for prediction in result.predictions:
            bundle = stats.bundles[prediction.bundle]
            if bundle.confusion.matrix.any():
                lines.append(
                    f"mIoU {100 * bundle.confusion.miou:.1f} %"
                    + (f" ({prediction.bundle + 1})" if len(result.predictions) > 1 else "")
                )
        differ = stats.disagreement.recent_percent() if stats.disagreement else None
        if len(result.predictions) > 1 and differ is not None:
            lines.append(f"left | right differ {differ:.1f} %")
        return lines + ["paused"] * paused
