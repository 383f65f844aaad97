"""The program itself, as a person starts it: options, signals and the terminal's keys."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_program import APP, finish, frames, start, until


def test_help_has_examples() -> None:
    code, out, _ = finish(start("--help"))
    assert code == 0
    assert "python apps/live_segment.py --camera 0" in out
    assert "Exit codes:" in out


def test_the_module_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rdd_deploy.live", "--show", "tv"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
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
        (
            ["--data-void", "11"],
            "error: --data-void says what masks mean, and there are none; give --labels, too, or leave it out",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(
    tmp_path: Path, bundles: list[str], arguments: list[str], sentence: str
) -> None:
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
def test_signals_leave_a_playable_recording(
    tmp_path: Path, bundles: list[str], video: str, number: int, code: int
) -> None:
    seen, stats = tmp_path / "out.mp4", tmp_path / "out.json"
    process = start(
        "--source",
        video,
        "--realtime",
        "--bundle",
        bundles[0],
        "--headless",
        "--record",
        str(seen),
        "--stats",
        str(stats),
    )
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
        process = start(
            "--source", f"rtsp://127.0.0.1:{camera.getsockname()[1]}/x", "--bundle", bundles[0], "--headless"
        )
        with camera.accept()[0]:
            process.send_signal(number)
            ended, _, err = finish(process)
    assert (ended, err) == (code, "interrupted\n")


@contextmanager
def at_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[bytes], object]]]:
    """The app headless at a terminal of its own, ready for keys; and what types them. The terminal is put back as it
    was.
    """
    pty = pytest.importorskip("pty")
    import termios

    main, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    # A session of its own with the pseudo-terminal as its controlling one, as a shell would start it.
    script = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable,"
        " [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", script, str(APP), "--headless", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
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
    arguments = [
        "--source",
        video,
        "--realtime",
        "--bundle",
        *bundles,
        "--save-to",
        str(tmp_path),
        "--stats",
        str(stats),
    ]
    with at_a_terminal(*arguments) as (process, type_keys):
        assert process.stdout is not None
        # Up, Left, F4, F5, Ctrl-F2: neither Esc nor the letter behind it.
        type_keys(b"\x1b[A\x1b[D\x1bOS\x1b[15~\x1b[1;5Q")
        type_keys(b"2")
        assert "bundle 2: darkest" in process.stdout.readline()
        type_keys(b"v")
        assert "left: bundle 2, right: bundle 1" in process.stdout.readline()
        until(lambda: select.select([process.stdout], [], [], 0.3)[0] or not type_keys(b"s"), process)
        type_keys(b"q")
        code, out, err = finish(process)
        assert (code, err) == (0, "")
        assert "saved" in out or list(tmp_path.glob("*_overlay.png"))
    assert json.loads(stats.read_text())["bundles"][1]["frames"] > 0


def test_keys_while_a_file_is_played_whole(tmp_path: Path, bundles: list[str], video: str) -> None:
    """Keys come in between frames that several threads compute, and a pause holds them."""
    stats, seen = tmp_path / "s.json", tmp_path / "seen.avi"
    arguments = [
        "--source",
        video,
        "--threads",
        "2",
        "--bundle",
        *bundles,
        "--save-to",
        str(tmp_path),
        "--stats",
        str(stats),
    ]
    with at_a_terminal(*arguments, "--record", str(seen)) as (process, type_keys):
        assert process.stdout is not None
        type_keys(b"2 ")
        assert "bundle 2: darkest" in process.stdout.readline()
        assert "paused" in process.stdout.readline()
        time.sleep(0.3)
        type_keys(b" ")
        assert "goes on" in process.stdout.readline()

        # Frames that were in flight before the switch come first, on a busy machine much later than the word: four with
        # the pool's two threads, two results that wait, those that are handed on and shown.
        # One key at a time: more than are done would keep the app at the frame that it shows.
        typed = []

        def is_far() -> bool:
            numbers = [int(one.name.split("-")[1].split("_")[0]) for one in tmp_path.glob("*_overlay.png")]
            if len(numbers) >= len(typed):
                typed.append(type_keys(b"s"))
            return bool(numbers) and max(numbers) - min(numbers) > 10

        until(is_far, process)
        type_keys(b"q")
        code, out, err = finish(process)
        assert (code, err) == (0, "")
        assert "saved" in out or list(tmp_path.glob("*_overlay.png"))
    record = json.loads(stats.read_text())
    assert record["inference_workers"] == 2
    assert 0 < record["bundles"][1]["frames"] <= record["frames"] == frames(seen) < 1500


WITHOUT_TORCH = """
import runpy, sys

BLOCKED = {"torch", "torchvision", "timm", "lightning_fabric", "safetensors", "onnx", "onnxscript", "matplotlib", "PIL", "scipy"}


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
    arguments = [
        "--source",
        "streets",
        "--size",
        "64x48",
        "--bundle",
        bundles[0],
        "--headless",
        "--max-frames",
        "2",
        "--record",
        str(seen),
    ]
    command = [sys.executable, "-c", WITHOUT_TORCH, str(APP), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert frames(seen) == 2
