"""A real window, under Xvfb."""

import json
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from live_program import finish, frames, start, until

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
        done = subprocess.run(
            ["xdotool", *arguments], env=self.environment, capture_output=True, text=True, timeout=20, check=False
        )
        return done.stdout

    def press(self, key: str) -> None:
        self.tool("key", key)

    def place(self, title: str, width: int, height: int) -> None:
        """Put the window into the corner at a size; without a window manager, where a toolkit puts it depends on what
        it did before.
        """
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
    # Xvfb picks a free display and writes its number once it is ready. It would reset whenever its last client leaves,
    # which xdotool does at every call, and refuse the app that connects just then.
    server = subprocess.Popen(
        [
            "Xvfb",
            "-displayfd",
            str(write),
            "-screen",
            "0",
            "1100x800x24",
            "-fbdir",
            str(folder),
            "-nolisten",
            "tcp",
            "-noreset",
        ],
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
    """White text on a darkened picture at the top left, every class's colour at the bottom right, nothing beyond the
    doubled frame.
    """
    status, legend = shot[10:60, 10:330], shot[560:720, 760:960].reshape(-1, 3).astype(int)
    written = status.max() > 200 and np.median(status[..., 0]) < 130
    coloured = all(
        (np.abs(legend - colour).max(1) < 10).sum() > 20 for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    )
    return bool(written and coloured and shot[720:].max() == 0)


def placed(desktop: Desktop, shown: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Whether the app's window gets into its place within 15 s. Without a window manager it may miss that on a busy
    machine, and then stays where it is.
    """
    end = time.monotonic() + 15
    while not shown() and time.monotonic() < end:
        assert process.poll() is None, (process.returncode, *process.communicate())
        desktop.place("^rdd_deploy$", 960, 720)
        time.sleep(0.5)
    return shown()


def test_a_real_window(tmp_path: Path, desktop: Desktop, bundles: list[str], video: str) -> None:
    """The picture is 480×360 shown twice as large: three fields, each labelled with its own colour, with
    panels on top.
    """
    stats = tmp_path / "s.json"
    arguments = [
        "--source",
        video,
        "--realtime",
        "--bundle",
        *bundles,
        "--save-to",
        str(tmp_path / "saved"),
        "--stats",
        str(stats),
    ]
    blue, green, red, dark = (237, 0, 0), (0, 237, 0), (0, 0, 237), 0.5  # half frame (220), half palette (255)

    def fields(*colours: tuple[float, float, float]) -> bool:
        shot = desktop.screenshot()
        return all(near(shot, 470, x, colour) for x, colour in zip((150, 450, 700), colours, strict=True))

    process = start(*arguments, env=desktop.environment)
    try:
        until(lambda: desktop.tool("search", "--name", "^rdd_deploy$"), process)
        while not placed(desktop, lambda: fields(blue, green, red), process):
            process.kill()
            process = start(*arguments, env=desktop.environment)
            until(lambda: desktop.tool("search", "--name", "^rdd_deploy$"), process)
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
        until(
            lambda: fields(blue, green, (127, 0, 110)) and desktop.screenshot()[600, 477:485].min(-1).max() > 150,
            process,
        )
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
    process = start(
        "--source", video, "--realtime", "--bundle", bundles[0], "--record", str(seen), env=desktop.environment
    )
    try:
        until(lambda: list(tmp_path.glob(".seen*")) and desktop.tool("search", "--name", "^rdd_deploy$"), process)
        desktop.close_window("^rdd_deploy$")
        code, _, err = finish(process)
    finally:
        if process.poll() is None:
            process.kill()
    assert (code, err) == (0, "")
    assert frames(seen) > 0
