"""The stream, the snapshot and the state: one encode for all viewers, and none of them in the pipeline's way."""

import http.client
import socket
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from web_app import Running, Viewer, running

from rdd_deploy.drawing import Overlay
from rdd_deploy.live.web import pictures, server


def decoded(content: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def colour(image: np.ndarray, x: int) -> list[int]:
    """BGR of a field, away from the square."""
    return [int(value) for value in np.median(image[180:220, x : x + 40].reshape(-1, 3), 0)]


@pytest.fixture
def encodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each JPEG that is made for the stream."""
    made: list[int] = []
    plain = pictures._chunk
    monkeypatch.setattr(pictures, "_chunk", lambda canvas: (made.append(1), plain(canvas))[1])
    return made


@pytest.fixture(autouse=True)
def as_at_first(served: Running) -> None:
    """Each test begins with bundle 1 alone, half opaque, playing, unwatched."""
    status, _, _ = served.ask("/api/view", {"bundle": 1, "split": False, "opacity": 0.5, "paused": False})
    frames = served.state()["frames"]
    served.until(lambda state: state["frames"] > frames + 2)  # what was under way was of the bundle before
    assert status == 200
    served.until(lambda state: state["viewers"] == 0)


def test_frames_advance_and_show_the_overlay(served: Running) -> None:
    viewer = Viewer(served.port)
    seen = viewer.frames(6)
    assert len(set(seen)) > 3
    image = decoded(seen[-1])
    assert image.shape == (240, 320, 3)
    # Half frame (220), half palette (255); no panel hides the corners.
    for x, expected in ((20, (237, 0, 0)), (140, (0, 237, 0)), (250, (0, 0, 237))):
        assert np.abs(np.subtract(colour(image, x), expected)).max() < 12
    assert np.abs(image[:30, :40].reshape(-1, 3).astype(int) - (237, 0, 0)).max() < 30
    assert b"multipart/x-mixed-replace; boundary=frame" in _headers(served, "/stream")
    viewer.close()


def test_nothing_is_encoded_or_drawn_while_nobody_watches(served: Running, encodes: list[int]) -> None:
    before = served.until(lambda state: state["frames"] > 3)["frames"]
    served.until(lambda state: state["frames"] > before + 10)
    assert encodes == []
    assert not served.view.watched
    viewer = Viewer(served.port)
    viewer.frames(3)
    viewer.close()
    served.until(lambda state: state["viewers"] == 0)
    many = len(encodes)
    assert many >= 2
    before = served.state()["frames"]
    served.until(lambda state: state["frames"] > before + 10)
    assert len(encodes) <= many + 1
    assert not served.view.watched


def test_ten_viewers_cost_one_encode_and_a_stalled_one_holds_nobody_up(served: Running, encodes: list[int]) -> None:
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.connect(("127.0.0.1", served.port))
    stalled.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    got = [0] * 9
    stop = threading.Event()

    def watch(index: int) -> None:
        viewer = Viewer(served.port)
        while not stop.is_set():
            viewer.frames(1)
            got[index] += 1
        viewer.close()

    watchers = [threading.Thread(target=watch, args=(index,)) for index in range(9)]
    for one in watchers:
        one.start()
    served.until(lambda state: state["viewers"] == 10 and min(got) > 2)
    first, base, made = served.state()["frames"], list(got), len(encodes)
    played = served.until(lambda state: state["frames"] >= first + 30)["frames"] - first
    seen, made = [now - before for now, before in zip(got, base, strict=True)], len(encodes) - made
    stop.set()
    for one in watchers:
        one.join(20)
    stalled.close()
    assert made <= played + 3, "one encode a frame, for all viewers"
    assert min(seen) >= 0.5 * played, "the stalled viewer costs the others nothing"
    assert served.view._pictures is not None


def test_a_recording_and_viewers_cost_one_overlay_a_frame(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording has panels, the page's pictures haven't."""
    drawn: list[int] = []
    plain = Overlay.draw

    def counted(self: Overlay, frame: np.ndarray, labels: np.ndarray, canvas: np.ndarray | None = None) -> np.ndarray:
        drawn.append(1)
        return plain(self, frame, labels, canvas)

    monkeypatch.setattr(Overlay, "draw", counted)
    with running(monkeypatch, pair, record=tmp_path / "a.mp4") as app:
        viewer = Viewer(app.port)
        viewer.frames(1)
        first, base = app.state()["frames"], len(drawn)
        image = decoded(viewer.frames(12)[-1])
        played, many = app.state()["frames"] - first, len(drawn) - base
        assert played > 8
        assert many <= played + 2
        assert np.abs(image[:30, :40].reshape(-1, 3).astype(int) - (237, 0, 0)).max() < 30
        viewer.close()
    film = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    good, first = film.read()
    film.release()
    assert good
    assert np.abs(first[:30, :40].reshape(-1, 3).astype(int) - (237, 0, 0)).max() > 100


def test_a_viewer_who_reads_nothing_is_dropped(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "STALL_S", 0.5)
    monkeypatch.setattr(server, "MAX_VIEWERS", 2)
    monkeypatch.setattr(pictures, "encoded", lambda canvas, ending: bytes(300_000))  # fills the system's buffers soon
    with running(monkeypatch, pair) as app:
        deaf = []
        for _ in range(2):
            deaf.append(socket.socket())
            deaf[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf[-1].connect(("127.0.0.1", app.port))
            deaf[-1].sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        app.until(lambda state: state["viewers"] == 2)
        status, told, _ = app.ask("/stream")
        assert (status, told["error"]) == (503, "all 2 places are taken; try again when somebody has left")
        first = app.until(lambda state: state["viewers"] == 0)["frames"]
        app.until(lambda state: state["frames"] > first)
        for one in deaf:
            one.close()


def test_the_run_ends_while_viewers_stall_and_watch(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, pair) as app:
        deaf, viewer = Viewer(app.port), Viewer(app.port)
        viewer.frames(3)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    while more := viewer.socket.recv(1 << 16):
        viewer.got += more
    assert viewer.got.endswith(b"\r\n0\r\n\r\n"), "its stream ends properly"
    with pytest.raises(ConnectionRefusedError):
        Viewer(app.port)
    deaf.close()
    viewer.close()


def test_a_view_is_changed_and_the_answer_tells(served: Running) -> None:
    status, told, _ = served.ask("/api/view", {"bundle": 2, "opacity": 1, "split": True, "paused": True})
    assert status == 200
    assert (told["split"], told["opacity"], told["paused"], told["fps"]) == (True, 1.0, True, None)
    assert [one["bundle"] for one in told["active"]] == [2, 1]
    status, told, _ = served.ask("/api/view", {"paused": False})
    assert (told["split"], told["paused"]) == (True, False)
    told = served.until(lambda state: state["disagreement_pct"] and all(one["shares_pct"] for one in state["active"]))
    for one in told["active"]:
        assert set(one["shares_pct"]) == {"blue", "green", "red"}
        assert sum(one["shares_pct"].values()) == pytest.approx(100, abs=0.1)
    assert told["active"][1]["shares_pct"]["green"] == pytest.approx(33, abs=5)
    assert told["disagreement_pct"] > 50
    viewer = Viewer(served.port)
    image = decoded(viewer.frames(3)[-1])
    viewer.close()
    assert np.abs(np.subtract(colour(image, 20), (0, 255, 0))).max() < 12  # the darkest, all palette
    assert np.abs(np.subtract(colour(image, 250), (0, 0, 255))).max() < 12  # the brightest on the right
    status, told, _ = served.ask("/api/view", {"split": False, "bundle": 1})
    assert [one["bundle"] for one in told["active"]] == [1]
    assert told["streaming" if "streaming" in told else "viewers"] in (0, 1)


def test_a_pause_shows_one_picture_to_who_comes_and_follows_the_opacity(served: Running) -> None:
    served.ask("/api/view", {"paused": True})
    frames = served.state()["frames"]
    viewer = Viewer(served.port)
    image = decoded(viewer.frames(1)[0])
    assert np.abs(np.subtract(colour(image, 20), (237, 0, 0))).max() < 12
    for opacity in (0.9, 0.1, 0.0):
        served.ask("/api/view", {"opacity": opacity})
    end = time.monotonic() + 20
    while np.abs(np.subtract(colour(image, 20), (220, 0, 0))).max() > 4:  # the last wish is never lost
        assert time.monotonic() < end
        image = decoded(viewer.frames(1)[0])
    viewer.close()
    assert served.state()["frames"] == frames


@pytest.mark.parametrize(
    ("query", "kind", "ending"), [("", "png", "png"), ("?format=png", "png", "png"), ("?format=jpeg", "jpeg", "jpg")]
)
def test_a_snapshot_is_a_file_also_unwatched_and_in_a_pause(
    served: Running, query: str, kind: str, ending: str
) -> None:
    for paused in (False, True):
        served.ask("/api/view", {"paused": paused})
        status, content, headers = served.ask("/api/snapshot" + query)
        assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, f"image/{kind}", "no-store")
        assert headers["Content-Disposition"].startswith('attachment; filename="rdd_deploy-')
        assert headers["Content-Disposition"].endswith(f'.{ending}"')
        image = decoded(content)
        assert image.shape == (240, 320, 3)
        assert np.abs(np.subtract(colour(image, 20), (237, 0, 0))).max() < 12
    assert not served.view.watched
    assert served.ask("/api/snapshot?format=gif")[0] == 400


def test_the_state_has_its_fields(served: Running) -> None:
    served.until(lambda state: state["fps"] and state["age_ms"])
    status, told, _ = served.ask("/api/status?viewer=nobody")
    assert status == 200
    assert set(told) == {
        "source", "live", "frame", "size", "frames", "fps", "age_ms", "drops", "reconnects", "paused", "split", "can_split", "opacity",
        "disagreement_pct", "trouble", "active", "viewers", "max_viewers", "streaming",
    }  # fmt: skip
    assert (told["source"], told["size"], told["can_split"], told["streaming"]) == (
        "fields <b>&",
        [320, 240],
        True,
        False,
    )
    assert set(told["active"][0]) == {"bundle", "name", "shares_pct", "miou_pct"}
    viewer = Viewer(served.port, "/stream?viewer=me1")
    viewer.frames(1)
    assert served.ask("/api/status?viewer=me1")[1]["streaming"] is True
    viewer.close()
    end = time.monotonic() + 20
    while served.ask("/api/status?viewer=me1")[1]["streaming"]:
        assert time.monotonic() < end


def test_large_pictures_are_reduced_for_the_stream_only() -> None:
    canvas = np.zeros((1080, 1920, 3), np.uint8)
    part = pictures._chunk(canvas)
    assert decoded(part[part.index(b"\xff\xd8") :]).shape == (720, 1280, 3)
    assert decoded(pictures.encoded(canvas, ".png")).shape == (1080, 1920, 3)
    assert pictures.encoded(np.zeros((2, 70_000, 3), np.uint8), ".jpg") == b""
    assert pictures._chunk(np.zeros((1, 70_000, 3), np.uint8)) != b""


def test_a_token_is_made_and_shown_once(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(monkeypatch, pair, serve="0.0.0.0:0") as app:
        assert app.ask("/")[0] == 401
    told = capsys.readouterr()
    assert (told.out + told.err).count(app.place.token) == 1
    assert f"?token={app.place.token}\n" in told.out


def test_an_address_of_the_new_kind(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with running(monkeypatch, pair, serve="[::1]:0") as app:
        connection = http.client.HTTPConnection("::1", app.port, timeout=20)
        connection.request("GET", "/api/status")
        assert connection.getresponse().status == 200
        connection.close()


def _headers(app: Running, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", app.port), 20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += connection.recv(4096)
        return got
