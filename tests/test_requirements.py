"""The committed lock: whole, hashed, within pyproject's ranges on every supported Python; and the sentences of the
tools around it.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "requirements"))

import ends  # type: ignore[import-not-found]  # noqa: E402
import lock  # type: ignore[import-not-found]  # noqa: E402
import slim  # type: ignore[import-not-found]  # noqa: E402

TEXT = lock.LOCK.read_text(encoding="utf-8")


def declared() -> list[Requirement]:
    """Every dependency of pyproject.toml that the lock must hold; read without tomllib, which Python 3.10 lacks."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    elsewhere = (  # their wheels own the same folders as others that are locked
        r"^(?:gpu|headless|headless-openvino|jetson) = \[.*?\]$"
    )
    project = re.sub(r"#.*", "", re.sub(elsewhere, "", project, flags=re.MULTILINE | re.DOTALL))
    return [Requirement(words) for words in re.findall(r'"([^"\n]+)"', project) if not words.startswith("rdd-deploy[")]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_lock_satisfies_every_range(python: str, machine: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_machine": machine,
        "sys_platform": "linux",
    }
    environment |= {"platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython", "extra": ""}
    environment["platform_python_implementation"] = "CPython"
    pinned: dict[str, str] = {}
    for entries in lock.blocks(TEXT).values():
        for entry in entries:
            pin = Requirement(entry.split("\\\n")[0].strip())
            if pin.marker is None or pin.marker.evaluate(environment):
                assert pin.name not in pinned, f"{pin.name} is pinned twice"
                pinned[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    wanted = [one for one in declared() if one.marker is None or one.marker.evaluate(environment)]
    assert len(wanted) > 30
    for one in wanted:
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), (
            f"{one} but the lock has {pinned[canonicalize_name(one.name)]}"
        )
    assert "setuptools" in pinned


def test_the_lock_is_hashed_and_names_no_host() -> None:
    for entries in lock.blocks(TEXT).values():
        for entry in entries:
            assert re.fullmatch(r"[\w.-]+==[^\n]*\\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry), entry[:80]
    assert not re.search(r"https?:|file:|index-url|find-links|/", lock.unhashed(TEXT))
    assert "--hash" not in lock.unhashed(TEXT)


def test_what_a_device_installs_is_a_part_of_the_lock() -> None:
    text = lock.HEADLESS.read_text(encoding="utf-8")
    small, whole = lock.blocks(text), lock.blocks(TEXT)
    assert {"numpy", "onnxruntime", "opencv-python-headless"} <= set(small)
    assert not {"opencv-python", "pillow", "torch", "onnx", "rdd-deploy"} & set(small)
    versions, locked = lock.versions(text), lock.versions(TEXT)
    for name, entries in small.items():
        assert all(
            re.fullmatch(r"[\w.-]+==[^\n]*\\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry) for entry in entries
        ), name
        if name != "opencv-python-headless":
            assert set(versions[name]) <= set(locked[name]), name
            hashes = set(re.findall(r"sha256:[0-9a-f]{64}", "".join(entries)))
            assert hashes <= set(re.findall(r"sha256:[0-9a-f]{64}", "".join(whole[name]))), name
    assert versions["opencv-python-headless"] == locked["opencv-python"]


@pytest.mark.slow
def test_every_dependency_of_a_small_device_has_a_wheel() -> None:
    """Asks the package index: for aarch64, on every Python."""
    done = subprocess.run(
        [sys.executable, "requirements/wheels.py", "aarch64"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if "CalledProcessError" in done.stderr:
        pytest.skip("no package index here")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" wheels\n") == 17


def test_makefile_installs_what_is_locked() -> None:
    assert f"\nEXTRAS ?= {lock.EXTRAS}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_what_changed_is_a_line_for_each_package() -> None:
    old = (
        "a==1 \\\n    --hash=sha256:0\nb==1 ; x \\\n    --hash=sha256:1\nb==2 ; y \\\n    --hash=sha256:2\ngone==3 \\\n"
        "    --hash=sha256:3\n"
    )
    new = old.replace("b==2", "b==2.1").replace("gone==3", "come==4")
    assert lock.changes(old, new) == ["b 1, 2 -> 1, 2.1", "come none -> 4", "gone 3 -> none"]
    assert lock.changes(old, old) == []


def test_the_package_that_broke_is_named() -> None:
    output = """
_____________ test_one _____________
tests/test_x.py:3: in test_one
.venv-latest/lib/python3.11/site-packages/numpy/core.py:9: in f
.venv-latest/lib/python3.11/site-packages/cv2/gapi.py:1: TypeError
_____________ test_two _____________
E   ModuleNotFoundError: No module named 'cv2.typing'
"""
    owners = {"cv2": "opencv-python", "numpy": "numpy"}
    lines = ends.verdict(
        output,
        {"opencv-python": "6.0", "numpy": "2.4", "rich": "15"},
        owners,
        {"opencv-python": ["5.0"], "numpy": ["2.4"]},
    )
    assert lines == [
        "2 of the failures end in opencv-python 6.0 (the lock has 5.0)",
        "these differ from the lock:",
        "  opencv-python 5.0 -> 6.0",
    ]


def test_what_a_device_never_reads(tmp_path: Path) -> None:
    gone = [
        "numpy/_core/tests/test_a.py", "numpy/tests/test_b.py", "onnxruntime/capi/libonnxruntime.so.1.32.0",
        "onnxruntime/transformers/x.py",
    ]  # fmt: skip
    stays = [
        "numpy/testing/a.py", "numpy/_core/a.so", "onnxruntime/capi/onnxruntime_pybind11_state.so", "pytest/tests/a.py",
        "onnxruntime/capi/libonnxruntime_providers_shared.so", "rdd_deploy/a.py",
    ]  # fmt: skip
    for name in (*gone, *stays):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = list(slim.unused(tmp_path))
    for name in (*gone, *stays):
        assert any((tmp_path / name).is_relative_to(path) for path in found) == (name in gone), name
