"""What packs and checks the project for a machine with a GPU: archives come out as they went in, and the names that it
uses exist.
"""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
GPU = ROOT / "scripts/gpu"
PROGRAMS = sorted(GPU.rglob("*.py"))


def run(*words: object, **environment: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command,
        env=os.environ | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Folders one/ and two/ with the archives of a small CamVid."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for folder, shape in ((split, (24, 32, 3)), (f"{split}annot", (24, 32))):
            (tmp_path / "camvid" / folder).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 12, shape, np.uint8)
                assert cv2.imwrite(str(tmp_path / "camvid" / folder / f"{number}.png"), image)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = run(GPU / "pack_camvid.py", tmp_path / "camvid", tmp_path / "one", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_camvid_has_the_same_pixels_after_the_way(packed: Path) -> None:
    for name in ("one", "two"):
        done = run(GPU / "checks/unpack.py", packed / name / "camvid.tar", packed / "there")
        assert done.returncode == 0, done.stderr
    before = sorted(path.relative_to(packed / "camvid") for path in (packed / "camvid").rglob("*.png"))
    assert sorted(path.relative_to(packed / "there") for path in (packed / "there").rglob("*.png")) == before
    assert len(before) == 10
    for name in map(str, before):
        first, second = (cv2.imread(str(packed / place / name), cv2.IMREAD_UNCHANGED) for place in ("camvid", "there"))
        assert np.array_equal(first, second), name


def test_an_archive_with_other_pixels_is_refused(packed: Path) -> None:
    archive = packed / "one/camvid.tar"
    content = archive.read_bytes()
    pixels = content.index(b'"pixels": "') + len(b'"pixels": "')
    archive.write_bytes(
        content[:pixels] + (b"0" if content[pixels : pixels + 1] != b"0" else b"1") + content[pixels + 1 :]
    )
    done = run(GPU / "checks/unpack.py", archive, packed / "there")
    assert done.returncode == 1
    assert f"{archive}: other pixels than were packed" in done.stderr


def test_onnxruntime_is_whole_but_for_what_python_does_not_use(tmp_path: Path) -> None:
    wheel = tmp_path / "ort.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("onnxruntime/__init__.py", "x = 1\n")
        file.writestr("onnxruntime/tools/convert.py", "")
        file.writestr("onnxruntime/capi/libonnxruntime.so.1", "")
    done = run(GPU / "pack_ort.py", wheel, tmp_path)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "ort1/part") as file:
        assert file.namelist() == ["onnxruntime/__init__.py"]
        assert file.read("onnxruntime/__init__.py") == b"x = 1\n"


def test_check_refuses_an_unknown_part_and_another_folder(tmp_path: Path) -> None:
    for words, folder, said in (
        (["loses"], ROOT, "unknown part 'loses'; expected environment"),
        ([], tmp_path, "run this from the project's root"),
    ):
        done = subprocess.run(
            ["bash", str(GPU / "check.sh"), *words], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        assert said in done.stderr


def test_a_part_that_fails_is_a_row_and_the_next_one_runs(tmp_path: Path) -> None:
    environment = os.environ | {
        "OUT": str(tmp_path / "out"),
        "WORK": str(tmp_path / "work"),
        "PYTHON": sys.executable,
        "LIMIT_losses": "0.1",
    }
    done = subprocess.run(
        ["bash", str(GPU / "check.sh"), "--smoke", "losses", "engine"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert (rows[0]["part"], rows[0]["verdict"]) == ("losses", "out of time")
    assert rows[-1]["part"] == "engine"
    assert rows[-1]["verdict"] in ("ok", "skipped")
    assert "losses" in (tmp_path / "out/table.txt").read_text()


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_every_name_of_the_project_exists(path: Path) -> None:
    """Imports inside functions, too: a name that moves must move here as well, though no test runs these on a GPU."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rdd_deploy":
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), (
                    f"{node.module}.{name.name}"
                )
