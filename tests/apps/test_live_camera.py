"""The program with --camera 0, on a stand-in for the kernel's /dev/video0 that OpenCV's own V4L2 back end opens
(helpers/fake_v4l2.c).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from live_program import finish, frames, start, until

HELPER = Path(__file__).parents[1] / "helpers" / "fake_v4l2.c"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux"
    or Path("/dev/video0").exists()
    or not shutil.which("cc")
    or not Path("/usr/include/linux/videodev2.h").exists(),
    reason="needs Linux, a C compiler and no camera",
)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("camera") / "fake.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(HELPER), "-ldl"], check=True, timeout=60)
    return library


def test_camera_0_from_beginning_to_end(tmp_path: Path, bundles: tuple[Path, Path], camera: Path) -> None:
    """Another size and rate than asked are told once, an unplugged camera is waited for, and the recording holds what
    came before and after.
    """
    plug, out, err = tmp_path / "plug", tmp_path / "out", tmp_path / "err"
    plug.touch()
    env = os.environ | {"LD_PRELOAD": str(camera), "FAKE_CAMERA": str(plug)}
    words = [
        "--camera",
        "0",
        "--size",
        "320x180",
        "--fps",
        "60",
        "--bundle",
        str(bundles[0]),
        "--headless",
        "--device",
        "cpu",
    ]
    words += ["--record", str(tmp_path / "seen.avi"), "--stats", str(tmp_path / "stats.json"), "--threads", "1"]
    with out.open("w") as told, err.open("w") as warned:
        app = start(*words, env=env, stdout=told, stderr=warned)
        until(lambda: list(tmp_path.glob("*seen*")), app)  # frames come
        time.sleep(1.0)
        plug.unlink()
        until(lambda: "camera 0: connection lost" in err.read_text(), app)
        plug.touch()
        until(lambda: "camera 0: connected again" in out.read_text(), app)
        time.sleep(0.5)
        app.send_signal(signal.SIGINT)
        code, _, _ = finish(app)
    said = err.read_text()
    assert code == 130, said
    assert (
        said.count("asked camera 0 for 320x180 at 60 frames per second, it gives 320x240 at 25 frames per second") == 1
    )
    assert "1 reconnection" in out.read_text()
    assert frames(tmp_path / "seen.avi") > 20


@pytest.mark.slow
def test_a_camera_that_is_gone_is_one_sentence(tmp_path: Path, bundles: tuple[Path, Path], camera: Path) -> None:
    env = os.environ | {"LD_PRELOAD": str(camera), "FAKE_CAMERA": str(tmp_path / "nothing")}
    code, _, err = finish(start("--camera", "0", "--bundle", str(bundles[0]), "--headless", env=env))
    assert code == 2
    assert err.startswith("error: there is no camera 0 (devices found: ")
