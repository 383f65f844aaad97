"""The live app on streams that stall, vanish and come back."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cameras import Camera, MjpegCamera, RtspCamera
from live_app import count, run

from rdd_deploy.live import captures, grabber, inference, player


@pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
def test_a_stream_stalls_vanishes_and_comes_back(
    tmp_path: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, kind: type[Camera]
) -> None:
    """The picture lives on meanwhile and says what is wrong; afterwards frames flow, and nothing is left behind."""
    monkeypatch.setattr(captures, "READ_TIMEOUT_MS", 600)
    monkeypatch.setattr(grabber, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(player, "STALL_S", 0.2)
    troubles: list[str] = []
    with_panels = player.Picture.with_panels

    def spy(self: Any, canvas: Any, result: Any, drops: int, trouble: str = "", paused: bool = False) -> Any:
        troubles.append(trouble)
        return with_panels(self, canvas, result, drops, trouble, paused)

    monkeypatch.setattr(player.Picture, "with_panels", spy)
    done: list[object] = []

    def said(what: str) -> bool:
        return any(what in trouble for trouble in troubles)

    with kind() as camera:

        def play() -> None:
            try:
                done.append(run(tmp_path, bundles[0], source=camera.url, record=tmp_path / "seen.avi", max_frames=60))
            except BaseException as error:
                done.append(error)

        playing = threading.Thread(target=play)
        playing.start()

        def wait(condition: Any) -> None:
            end = time.monotonic() + 20
            while not condition() and not done:
                assert time.monotonic() < end
                time.sleep(0.01)

        wait(lambda: len(troubles) >= 10)
        camera.stall()
        wait(lambda: said("no frame for") and said("connection lost"))
        camera.flow()
        seen = len([trouble for trouble in troubles if not trouble])
        wait(lambda: len([trouble for trouble in troubles if not trouble]) > seen + 10)
        camera.vanish()
        troubles.clear()
        wait(lambda: said("(attempt 2)"))
        camera.come_back()
        playing.join(30)
    assert isinstance(done[0], dict), done
    assert done[0]["reconnects"] == 2
    assert done[0]["frames"] == 60
    assert done[0]["live"]
    assert count(tmp_path / "seen.avi") > 0


def test_a_slow_network_drops_frames_of_a_stream(
    tmp_path: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = inference.Inference._label
    monkeypatch.setattr(inference.Inference, "_label", lambda self, *a: (time.sleep(0.1), infer(self, *a))[1])
    with MjpegCamera() as camera:
        record = run(tmp_path, bundles[0], source=camera.url, max_frames=8)
    assert record["drops"] > 8


def test_without_a_picture_a_lost_stream_is_said_in_words(
    tmp_path: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grabber, "FIRST_PAUSE_S", 0.1)
    with MjpegCamera() as camera:
        lost, back = threading.Timer(0.5, camera.vanish), threading.Timer(1.0, camera.come_back)
        for timer in (lost, back):
            timer.start()
        assert run(tmp_path, bundles[0], source=camera.url, max_frames=60)["reconnects"] == 1
        for timer in (lost, back):
            timer.join()
    said = capsys.readouterr()
    assert re.search(r"video\.mjpg: connection lost \d+ s ago, trying again .*\(attempt 1\)", said.err)
    assert "video.mjpg: connected again" in said.out
