"""Nothing phones home, and nothing is written into the home folder to tell machines apart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from internet import watched

from rdd_deploy.utils import telemetry

TESTS = Path(__file__).parents[1]
CI = (
    "CI",
    "TF_BUILD",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "CIRCLECI",
    "JENKINS_URL",
    "TRAVIS",
    "APPVEYOR",
    "BUILDKITE",
    "TEAMCITY_VERSION",
)
"""Where one of them is set, some packages report nothing of themselves: a test under them would pass with any code."""

WHOLE_WAY = """
import sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/helpers"]
began = time.monotonic()
from pathlib import Path
import toys
from toy_bundle import toy_bundle
from importlib import import_module

def call(module, *words, main="main"):
    sys.argv = [module, *map(str, words)]
    try:
        getattr(import_module(module), main)()
    except SystemExit as end:
        assert not end.code, (words, end.code)

here = Path.cwd()
tree = toys.tree(toys.write_data(here / "data", train=2, val=1))
tree["train"] |= {"epochs": 1}
tree["data"]["workers"] = 1
recipe = toys.write_recipe(here / "one.yaml", tree)
call("rdd_deploy.train", recipe)
call("rdd_deploy.export.__main__", "runs/one_alone", "--openvino", "--output", "out")
bundles = [toy_bundle(here / "out" / "onnxruntime-fp32", 64, 64), here / "out" / "openvino-fp32"]
import rdd_deploy.benchmark.cold_start
rdd_deploy.benchmark.cold_start.RUNS = 1
call("rdd_deploy.benchmark.__main__", *bundles, "--data", here / "data", "--data-name", "folder", "--threads", 1, "--rounds", 1, "--output", "bench")
from rdd_deploy.live.app import live
from rdd_deploy.live.options import LiveOptions
assert live(LiveOptions(bundles=tuple(bundles), headless=True, source="streets", max_frames=3, size=(64, 64))) == 0
time.sleep(max(0, 13 - time.monotonic() + began))  # onnxruntime collects for ten seconds before it sends
print("whole way")
"""


def asked(home: Path) -> dict[str, str]:
    """This environment as a user has it who has never heard of telemetry."""
    home.mkdir()
    mine = {
        name: value
        for name, value in os.environ.items()
        if name not in (*CI, *telemetry._VARIABLES) and not name.startswith("XDG_")
    }
    return mine | {"HOME": str(home), "PYTHONPATH": str(TESTS.parent), "MPLCONFIGDIR": str(home.parent / "plots")}


def in_home(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@pytest.mark.slow
def test_the_whole_way_opens_no_internet_socket(tmp_path: Path) -> None:
    """Train, export (which runs onnxruntime and OpenVINO), benchmark with its cold starts, live, with both backends of
    the CPU.
    """
    pytest.importorskip("openvino")
    try:
        done, seen = watched([sys.executable, "-c", WHOLE_WAY, str(TESTS)], asked(tmp_path / "home"), tmp_path)
    except OSError as error:
        pytest.skip(f"no seccomp filter here: {error}")
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["whole way"]), done.stderr[-3000:]
    assert seen == []
    assert in_home(tmp_path / "home") == []


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_who_imports_only_the_segmenter_is_kept_quiet_too(tmp_path: Path, package: str) -> None:
    pytest.importorskip(package)
    script = (
        f"from rdd_deploy.runtime import Segmenter; import {package}, sys; print(sys.modules.get('openvino_telemetry'))"
    )
    try:
        done, seen = watched([sys.executable, "-c", script], asked(tmp_path / "home"), tmp_path)
    except OSError as error:
        pytest.skip(f"no seccomp filter here: {error}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
    assert (seen, in_home(tmp_path / "home")) == ([], [])


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(telemetry._VARIABLES, ("0", ""), strict=True):
        monkeypatch.setenv(name, value)
    telemetry.switch_off()
    assert [os.environ[name] for name in telemetry._VARIABLES] == ["0", "1"], "an empty variable says nothing"


@pytest.mark.parametrize(("content", "hidden"), [("1\n", False), ("0\n", True), (None, True)])
def test_openvinos_own_consent_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, hidden: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    if content is not None:
        (tmp_path / "intel").mkdir()
        (tmp_path / "intel" / "openvino_telemetry").write_text(content)
    telemetry.switch_off()
    assert ("openvino_telemetry" in sys.modules) is hidden


def test_too_late_is_told(tmp_path: Path) -> None:
    script = (
        "import onnxruntime, sys; from rdd_deploy.runtime import Segmenter; Segmenter.load(sys.argv[1]);"
        " Segmenter.load(sys.argv[1])"
    )
    sys.path.insert(0, str(TESTS / "helpers"))
    from toy_bundle import toy_bundle

    words = [sys.executable, "-c", script, str(toy_bundle(tmp_path / "toy"))]
    done = subprocess.run(words, env=asked(tmp_path / "home"), capture_output=True, text=True, timeout=100, check=True)
    assert done.stderr.count("warning: onnxruntime was imported before rdd_deploy") == 1
    assert "ORT_DISABLE_TELEMETRY=1" in done.stderr
    wanted = asked(tmp_path / "other") | {"ORT_DISABLE_TELEMETRY": "1"}
    assert subprocess.run(words, env=wanted, capture_output=True, text=True, timeout=100, check=True).stderr == ""
