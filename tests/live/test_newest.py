"""The newest bundle of a folder: taken at the start, swapped while frames flow, and left alone where it
is of no use.
"""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cameras import MjpegCamera
from toy_bundle import toy_bundle, truth

from rdd_deploy import console
from rdd_deploy.errors import BundleError
from rdd_deploy.live import newest
from rdd_deploy.live.app import live
from rdd_deploy.live.newest import Swappable, Watcher, following, version_of
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.runtime import Segmenter


def put(folder: Path, name: str, age_s: float, **toy: Any) -> Path:
    """A toy bundle that was written so many seconds ago."""
    path = toy_bundle(folder / name, **toy)
    when = time.time() - age_s
    os.utime(path / "manifest.json", (when, when))
    return path


FRAME = np.full((48, 64, 3), (200, 100, 50), np.uint8)
LABELS = truth(FRAME)


class Seen:
    """A watcher over a folder, looked at by hand, and what it said."""

    def __init__(self, folder: Path, first: Path) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.segmenter = Swappable(Segmenter.load(first, device="cpu"))
        shown = (self.segmenter, version_of(first))
        self.watcher = Watcher(
            folder,
            shown,
            lambda path: Segmenter.load(path, device="cpu"),
            info=self.said.append,
            warn=self.warned.append,
        )

    def look(self, times: int = 2) -> list[str]:
        for _ in range(times):
            self.watcher.look()
        return self.said + self.warned


def test_a_newer_bundle_is_swapped_in_once_it_rests(tmp_path: Path) -> None:
    seen = Seen(tmp_path, put(tmp_path, "old", 100))
    with seen.segmenter as segmenter:
        assert seen.look() == []
        prepared = segmenter.prepare(FRAME)
        first = segmenter._current
        put(tmp_path, "new", 10, height=24, width=32, flip=True)
        assert seen.look(1) == []  # it may be half copied
        assert seen.look(1) == ["new takes the place of old"]
        assert (segmenter.manifest.name, segmenter.input_size) == ("new", (24, 32))
        assert segmenter.infer(prepared).shape == (1, 24, 32)  # prepared for the one before
        assert not (segmenter(FRAME) == LABELS).any()
        with pytest.raises(BundleError, match="was closed"):
            first.infer(prepared)
        shutil.rmtree(tmp_path / "new")
        assert seen.look()[1:] == ["old takes the place of new"]
        assert (segmenter(FRAME) == LABELS).all()
        shutil.rmtree(tmp_path / "old")
        assert len(seen.look()) == 2
        assert (segmenter(FRAME) == LABELS).all()


@pytest.mark.parametrize("damage", ["half", "rubbish", "model", "classes", "labels", "empty name"])
def test_a_bundle_of_no_use_is_one_sentence_and_the_old_one_stays(tmp_path: Path, damage: str) -> None:
    seen = Seen(tmp_path, put(tmp_path, "old", 100))
    with seen.segmenter as segmenter:
        manifest = {"classes": ["a", "b", "c"]} if damage == "classes" else None
        new = put(tmp_path, "new", 10, manifest=manifest, offset=7 if damage == "labels" else 0)
        if damage == "half":
            (new / "model.onnx").unlink()
        elif damage == "rubbish":
            (new / "manifest.json").write_bytes(b"\xff{[")
        elif damage == "empty name":
            (new / "manifest.json").write_text('{"name": ""}')
        elif damage == "model":
            (new / "model.onnx").write_bytes(b"0" * 200)
        if damage == "labels":
            from rdd_deploy.live.bundles import warm_up

            def load(path: Path) -> Segmenter:
                made = Segmenter.load(path, device="cpu")
                warm_up(made)
                return made

            seen.watcher._load = load
        assert seen.look(6) == seen.warned
        (sentence,) = seen.warned
        assert sentence.endswith("; old stays") or "has other classes or colours than old, which stays" in sentence
        assert "\n" not in sentence
        assert (segmenter(FRAME) == LABELS).all()
        shutil.rmtree(new)
        put(tmp_path, "new", 5, flip=True)  # mended
        assert seen.look()[-2:] == ["new takes the place of old", *seen.warned]


def test_the_start_takes_the_newest_that_is_of_use(tmp_path: Path) -> None:
    warned: list[str] = []
    asked: dict[str, Any] = {
        "device": "cpu",
        "provider": None,
        "threads": 1,
        "parallel": 1,
        "info": warned.append,
        "warn": warned.append,
    }
    with pytest.raises(BundleError, match=r"there is no bundle in .*; copy one there"), following(tmp_path, **asked):
        pass
    put(tmp_path, "old", 100)
    (put(tmp_path, "new", 10) / "model.onnx").unlink()
    with following(tmp_path, **asked) as (segmenter,):
        assert segmenter.manifest.name == "old"
        assert len(warned) == 1
        assert warned[0].endswith("; the next older one is taken")
    with pytest.raises(BundleError, match="was closed"):
        segmenter(FRAME)
    (tmp_path / "old" / "model.onnx").unlink()
    with pytest.raises(BundleError, match="model"), following(tmp_path, **asked):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "newest bundle"]


def test_frames_flow_while_bundles_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream, three swaps and a broken one behind them: one run, no frame skipped, the last one's name
    in the stats.
    """
    monkeypatch.setattr(newest, "POLL_S", 0.05)
    said: list[str] = []
    for name in ("info", "warn"):
        monkeypatch.setattr(console, name, said.append)
    folder, stats = tmp_path / "bundles", tmp_path / "stats.json"
    put(folder, "b0", 1000)

    def wait(words: str) -> None:
        end = time.monotonic() + 20
        while not any(words in sentence for sentence in said) and time.monotonic() < end:
            time.sleep(0.02)

    def come() -> None:
        time.sleep(0.5)
        for number in range(1, 4):
            size = 1 + number % 2
            put(folder, f"b{number}", 100 - 10 * number, height=24 * size, width=32 * size)
            wait(f"b{number} takes the place of b{number - 1}")
        (folder / "broken").mkdir()
        (folder / "broken" / "manifest.json").write_text("{")
        wait("; b3 stays")
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    coming = threading.Thread(target=come)
    with MjpegCamera() as camera:
        coming.start()
        assert (
            live(LiveOptions(source=camera.url, newest=folder, headless=True, stats=stats, device="cpu", threads=1))
            == 130
        )
    coming.join()
    record = json.loads(stats.read_text())
    assert [sentence for sentence in said if "takes the place" in sentence or "stays" in sentence][-2].startswith(
        "b3 takes the place of b2"
    )
    assert (record["bad_frames"], record["reconnects"]) == (0, 0)
    assert record["frames"] > 20
    assert record["bundles"][0]["name"] == "b3"
