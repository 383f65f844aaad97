"""The program itself, as a person starts it: options, signals, the terminal's keys, and a real window under Xvfb."""

import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_bundle import toy_bundle

APP = Path(__file__).parents[2] / "apps" / "live_segment.py"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bundles")
    return [str(toy_bundle(folder / "brightest", 48, 64)), str(toy_bundle(folder / "darkest", 48, 64, flip=True))]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A still picture: left blue, middle green, right red; 1500 frames at 10 per second, longer than any test."""
    path = tmp_path_factory.mktemp("video") / "fields.avi"
    frame = np.zeros((360, 480, 3), np.uint8)
    for channel in range(3):
        frame[:, channel * 160 : (channel + 1) * 160, channel] = 220
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (480, 360))
    for _ in range(1500):
        writer.write(frame)
    writer.release()
    return str(path)


def start(*arguments: str, **popen: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(APP), *arguments]
    popen |= {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}  # though the tests may run under nohup
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the app didn't end: {out}{err}")
    return process.returncode, out, err


def until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (process.returncode, *process.communicate())
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def frames(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        count += 1
    return count


def test_help_has_examples() -> None:
    code, out, _ = finish(start("--help"))
    assert code == 0
    assert "python apps/live_segment.py --camera 0" in out
    assert "Exit codes:" in out


def test_the_module_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rdd_deploy.live", "--show", "tv"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: got --show tv, expected one of window, none\n"


def test_headless_with_stats_and_recording(tmp_path: Path, bundles: list[str], video: str) -> None:
    stats, seen = tmp_path / "out.json", tmp_path / "out.mp4"
    arguments = ["--source", video, "--bundle", *bundles, "--split", "--headless", "--threads", "1"]
    code, out, err = finish(start(*arguments, "--stats", str(stats), "--record", str(seen), "--max-frames", "30"))
    assert (code, err) == (0, "")
    record = json.loads(stats.read_text())
    assert record["frames"] == frames(seen) == 30
    assert record["disagreement_pct"] > 90
    assert record["bundles"][0]["flicker_pct"] < 1
    assert "differ on" in out
    assert f"recorded 30 frames to {seen}" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--source", "none.mp4"], "error: there is no none.mp4; expected a video file"),
        (["--camera", "-1"], "error: invalid value for '--camera': "),
        (["--camera", "97"], "error: there is no camera 97 (devices found:"),
        (["--source", "streets", "--bundle", "nowhere"], "error: the bundle nowhere isn't there"),
        (["--source", "streets", "--size", "640"], "error: got the size '640', expected WIDTHxHEIGHT"),
        (["--source", "streets", "--device", "tpu"], "error: unknown device 'tpu'"),
        (["--source", "streets", "--labels", "."], "error: --labels goes with a video file or a folder"),
        (["--source", "streets", "--record", "x.gif"], "error: can't record to x.gif"),
        (["--max-frames", "0"], "error: invalid value for '--max-frames': "),
        (["--opacity", "2"], "error: invalid value for '--opacity': "),
        (["--show", "window"], "error: got --headless and --show window; give one of them"),
        (["--data-void", "11"], "error: --data-void says what masks mean, and there are none; give --labels, too, or leave it out"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(tmp_path: Path, bundles: list[str], arguments: list[str], sentence: str) -> None:
    bundle = [] if "--bundle" in arguments else ["--bundle", bundles[0]]
    code, _, err = finish(start(*arguments, *bundle, "--headless", cwd=tmp_path))
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert "error" not in err.replace(sentence, "")
    assert not list(tmp_path.iterdir())


def test_no_display_is_one_sentence(bundles: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    code, _, err = finish(start("--source", "streets", "--bundle", bundles[0], env=environment))
    assert code == 2
    assert "error: there is no display (DISPLAY isn't set); pass --headless" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_a_playable_recording(tmp_path: Path, bundles: list[str], video: str, number: int, code: int) -> None:
    seen, stats = tmp_path / "out.mp4", tmp_path / "out.json"
    process = start("--source", video, "--realtime", "--bundle", bundles[0], "--headless", "--record", str(seen), "--stats", str(stats))
    until(lambda: list(tmp_path.glob(".out*part.mp4")), process)
    time.sleep(0.5)
    process.send_signal(number)
    assert finish(process)[0] == code
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out.json", "out.mp4"]
    assert frames(seen) > 0
    assert json.loads(stats.read_text())["frames"] > 0


def test_ctrl_c_during_the_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = start(
        "--source",
        "streets",
        "--headless",
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_while_a_stream_is_silent(bundles: list[str], number: int, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as camera:
        camera.settimeout(60)
        process = start("--source", f"rtsp://127.0.0.1:{camera.getsockname()[1]}/x", "--bundle", bundles[0], "--headless")
        with camera.accept()[0]:
            process.send_signal(number)
            ended, _, err = finish(process)
    assert (ended, err) == (code, "interrupted\n")


@contextmanager
def at_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[bytes], object]]]:
    """The app headless at a terminal of its own, ready for keys; and what types them. The terminal is put back as it was."""
    pty = pytest.importorskip("pty")
    import termios

    main, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    # A session of its own with the pseudo-terminal as its controlling one, as a shell would start it.
    script = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = [sys.executable, "-c", script, str(APP), "--headless", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        until(lambda: not termios.tcgetattr(terminal)[3] & termios.ICANON, process)
        yield process, lambda keys: os.write(main, keys)
        assert termios.tcgetattr(terminal) == before
    finally:
        process.kill()
        os.close(main)
        os.close(terminal)


def test_keys_from_the_terminal(tmp_path: Path, bundles: list[str], video: str) -> None:
    """Headless at a terminal: keys work without Enter."""
    stats = tmp_path / "s.json"
    arguments = ["--source", video, "--realtime", "--bundle", *bundles, "--save-to", str(tmp_path), "--stats", str(stats)]
    with at_a_terminal(*arguments) as (process, type_keys):
        assert process.stdout is not None
        type_keys(b"\x1b[A\x1b[D\x1bOS\x1b[15~\x1b[1;5Q")  # Up, Left, F4, F5, Ctrl-F2: neither Esc nor the letter behind it
        type_keys(b"2")
        assert "bundle 2: darkest" in process.stdout.readline()
        type_keys(b"v")
        assert "left: bundle 2, right: bundle 1" in process.stdout.readline()
        until(lambda: select.select([process.stdout], [], [], 0.3)[0] or type_keys(b"s"), process)
        type_keys(b"q")
        code, out, err = finish(process)
        assert (code, err) == (0, "")
        assert "saved" in out or list(tmp_path.glob("*_overlay.png"))
    assert json.loads(stats.read_text())["bundles"][1]["frames"] > 0


def test_keys_while_a_file_is_played_whole(tmp_path: Path, bundles: list[str], video: str) -> None:
    """Keys come in between frames that several threads compute, and a pause holds them."""
    stats, seen = tmp_path / "s.json", tmp_path / "seen.avi"
    arguments = ["--source", video, "--threads", "2", "--bundle", *bundles, "--save-to", str(tmp_path), "--stats", str(stats)]
    with at_a_terminal(*arguments, "--record", str(seen)) as (process, type_keys):
        assert process.stdout is not None
        type_keys(b"2 ")
        assert "bundle 2: darkest" in process.stdout.readline()
        assert "paused" in process.stdout.readline()
        time.sleep(0.3)
        type_keys(b" ")
        assert "goes on" in process.stdout.readline()
        time.sleep(0.2)  # frames that were in flight before the switch come first
        until(lambda: select.select([process.stdout], [], [], 0.05)[0] or type_keys(b"s"), process)
        type_keys(b"q")
        code, out, err = finish(process)
        assert (code, err) == (0, "")
        assert "saved" in out or list(tmp_path.glob("*_overlay.png"))
    record = json.loads(stats.read_text())
    assert record["inference_workers"] == 2
    assert 0 < record["bundles"][1]["frames"] <= record["frames"] == frames(seen) < 1500


WITHOUT_TORCH = """
import runpy, sys

BLOCKED = {"torch", "torchvision", "timm", "lightning_fabric", "torchmetrics", "safetensors", "onnx", "onnxscript", "matplotlib", "PIL", "scipy"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_runs_on_the_edge_install(tmp_path: Path, bundles: list[str]) -> None:
    """Nothing of the training stack is there, and the streets, a recording and stats still work."""
    seen = tmp_path / "seen.avi"
    arguments = ["--source", "streets", "--size", "64x48", "--bundle", bundles[0], "--headless", "--max-frames", "2", "--record", str(seen)]
    command = [sys.executable, "-c", WITHOUT_TORCH, str(APP), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert frames(seen) == 2


CLOSE_WINDOW = """
import ctypes, sys
from ctypes import c_char_p, c_int, c_long, c_ulong, c_void_p

x11 = ctypes.CDLL("libX11.so.6")
x11.XOpenDisplay.argtypes, x11.XOpenDisplay.restype = [c_char_p], c_void_p
x11.XInternAtom.argtypes, x11.XInternAtom.restype = [c_void_p, c_char_p, c_int], c_ulong
x11.XSendEvent.argtypes = [c_void_p, c_ulong, c_int, c_long, c_void_p]
x11.XSync.argtypes = [c_void_p, c_int]


class ClientMessage(ctypes.Structure):
    _fields_ = [("type", c_int), ("serial", c_ulong), ("send_event", c_int), ("display", c_void_p), ("window", c_ulong),
                ("message_type", c_ulong), ("format", c_int), ("data", c_long * 5), ("pad", c_long * 24)]


display, window = x11.XOpenDisplay(None), int(sys.argv[1])
protocols, delete = (x11.XInternAtom(display, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
event = ClientMessage(type=33, window=window, message_type=protocols, format=32)
event.data[0] = delete
x11.XSendEvent(display, window, 0, 0, ctypes.byref(event))
x11.XSync(display, 0)
"""


class Desktop:
    """A virtual screen whose pixels lie in a file (XWD format), with keys pressed by xdotool."""

    def __init__(self, folder: Path, display: str) -> None:
        self._file = folder / "Xvfb_screen0"
        self.environment = os.environ | {"DISPLAY": display}

    def screenshot(self) -> np.ndarray:
        raw = self._file.read_bytes()
        header = struct.unpack(">25I", raw[:100])
        size, width, height, stride, colours = header[0], header[4], header[5], header[12], header[19]
        pixels = np.frombuffer(raw, np.uint8, height * stride, size + 12 * colours).reshape(height, stride)
        return pixels[:, : 4 * width].reshape(height, width, 4)[..., :3].copy()

    def tool(self, *arguments: str) -> str:
        done = subprocess.run(["xdotool", *arguments], env=self.environment, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout

    def press(self, key: str) -> None:
        self.tool("key", key)

    def place(self, title: str, width: int, height: int) -> None:
        """Put the window into the corner at a size; without a window manager, where a toolkit puts it depends on what it did before."""
        number = self.tool("search", "--name", title).split()[0]
        self.tool("windowmove", "--sync", number, "0", "0")
        self.tool("windowsize", number, str(width), str(height))

    def close_window(self, title: str) -> None:
        """What a window manager sends when the cross is clicked; xdotool can only destroy windows."""
        number = self.tool("search", "--name", title).split()[0]
        subprocess.run([sys.executable, "-c", CLOSE_WINDOW, number], env=self.environment, timeout=20, check=True)


@pytest.fixture
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desktop]:
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        pytest.skip("needs a virtual screen: apt-get install xvfb xdotool")
    folder = tmp_path_factory.mktemp("screen")
    read, write = os.pipe()
    # Xvfb picks a free display and writes its number once it is ready. It would reset whenever its last client leaves, which xdotool does
    # at every call, and refuse the app that connects just then.
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1100x800x24", "-fbdir", str(folder), "-nolisten", "tcp", "-noreset"],
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        if not select.select([read], [], [], 15)[0] or not (number := os.read(read, 16).decode().strip()):
            pytest.skip("Xvfb doesn't start here")
        yield Desktop(folder, f":{number}")
    finally:
        os.close(read)
        server.terminate()
        server.wait(10)


def near(picture: np.ndarray, y: int, x: int, colour: tuple[int, int, int]) -> bool:
    """Whether the middle of a small patch has this BGR colour, give or take compression."""
    return bool(np.abs(np.median(picture[y : y + 9, x : x + 9].reshape(-1, 3), 0) - colour).max() < 12)


def has_panels(shot: np.ndarray) -> bool:
    """White text on a darkened picture at the top left, every class's colour at the bottom right, nothing beyond the doubled frame."""
    status, legend = shot[10:60, 10:330], shot[560:720, 760:960].reshape(-1, 3).astype(int)
    written = status.max() > 200 and np.median(status[..., 0]) < 130
    coloured = all((np.abs(legend - colour).max(1) < 10).sum() > 20 for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    return bool(written and coloured and shot[720:].max() == 0)


def test_a_real_window(tmp_path: Path, desktop: Desktop, bundles: list[str], video: str) -> None:
    """The picture is 480×360 shown twice as large: three fields, each labelled with its own colour, with panels on top."""
    stats = tmp_path / "s.json"
    arguments = ["--source", video, "--realtime", "--bundle", *bundles, "--save-to", str(tmp_path / "saved"), "--stats", str(stats)]
    process = start(*arguments, env=desktop.environment)
    try:
        until(lambda: desktop.tool("search", "--name", "^rdd_deploy$"), process)
        desktop.place("^rdd_deploy$", 960, 720)
        blue, green, red, dark = (237, 0, 0), (0, 237, 0), (0, 0, 237), 0.5

        def fields(*colours: tuple[float, float, float]) -> bool:
            shot = desktop.screenshot()
            return all(near(shot, 470, x, colour) for x, colour in zip((150, 450, 700), colours, strict=True))

        # Half frame (220), half palette (255).
        until(lambda: fields(blue, green, red), process)
        until(lambda: has_panels(desktop.screenshot()), process)

        for key in ("Left", "Right", "F1", "Shift_L"):  # their codes end in the bytes of Q, S, ...
            desktop.press(key)
        desktop.press("2")  # the darkest channel: blue's is green (the first of two zeros), the others' is blue
        until(lambda: fields((110, 127, 0), (127, 110, 0), (127, 0, 110)), process)
        desktop.press("plus")
        until(lambda: fields((88, 153, 0), (153, 88, 0), (153, 0, 88)), process)
        desktop.press("minus")
        until(lambda: fields((110, 127, 0), (127, 110, 0), (127, 0, 110)), process)
        desktop.press("1")
        until(lambda: fields(blue, green, red), process)
        desktop.press("v")  # left half bundle 1, right half bundle 2, a white line between
        until(lambda: fields(blue, green, (127, 0, 110)) and desktop.screenshot()[600, 477:485].min(-1).max() > 150, process)
        desktop.press("h")
        until(lambda: np.median(desktop.screenshot()[300:420, 380:580, 1]) < 237 * dark, process)
        assert not (tmp_path / "saved").exists()
        desktop.press("s")
        until(lambda: len(list((tmp_path / "saved").glob("*.png"))) == 4, process)
        desktop.press("space")
        time.sleep(0.3)
        desktop.press("h")  # paused, the picture still follows the keys
        until(lambda: near(desktop.screenshot(), 380, 450, green), process)
        assert process.poll() is None
        desktop.press("Escape")
        code, _, err = finish(process)
    finally:
        if process.poll() is None:
            process.kill()
    assert code == 0, err
    record = json.loads(stats.read_text())
    assert all(bundle["frames"] > 0 for bundle in record["bundles"])
    assert record["disagreement_pct"] > 90


def test_closing_the_window_ends_the_app(tmp_path: Path, desktop: Desktop, bundles: list[str], video: str) -> None:
    seen = tmp_path / "seen.mp4"
    process = start("--source", video, "--realtime", "--bundle", bundles[0], "--record", str(seen), env=desktop.environment)
    try:
        until(lambda: list(tmp_path.glob(".seen*")) and desktop.tool("search", "--name", "^rdd_deploy$"), process)
        desktop.close_window("^rdd_deploy$")
        code, _, err = finish(process)
    finally:
        if process.poll() is None:
            process.kill()
    assert (code, err) == (0, "")
    assert frames(seen) > 0
