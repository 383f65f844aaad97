"""A bundle's README: of the manifest alone, what it prints runs, and names from outside stand in it as text."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_bundle import toy_bundle

from rdd_deploy.errors import BundleError
from rdd_deploy.export.bundle import describe
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import load_profile
from rdd_deploy.export.readme import in_markdown, readme_text
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.runtime import Manifest, Segmenter, read_manifest

ALONE = "import runpy, sys; sys.modules['rdd_deploy'] = None; runpy.run_path('readme.py')"


def block(text: str, language: str) -> str:
    """The first code of a language, as it is printed."""
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def run_as_printed(bundle: Path, folder: Path, frame: np.ndarray) -> np.ndarray:
    """Labels of a frame, by the README's Python in a process without rdd_deploy."""
    folder.mkdir()
    manifest = read_manifest(bundle)
    shutil.copy(bundle / ("graph.onnx" if "graph.onnx" in manifest.files else manifest.model), folder)
    (folder / "readme.py").write_text(block((bundle / "README.md").read_text(encoding="utf-8"), "python"))
    cv2.imwrite(str(folder / "frame.jpg"), frame)
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return np.asarray(cv2.imread(str(folder / "labels.png"), cv2.IMREAD_UNCHANGED))


@pytest.fixture(scope="module")
def exported(light_source: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle, _ = export_profile(
        light_source, load_profile("onnxruntime-fp32"), tmp_path_factory.mktemp("readme"), Options()
    )
    return bundle


def test_the_python_of_an_exported_bundle_gives_our_labels_bit_for_bit(exported: Path, tmp_path: Path) -> None:
    frame = cv2.resize(
        np.random.default_rng(3).integers(0, 256, (9, 12, 3), np.uint8), (410, 270), interpolation=cv2.INTER_CUBIC
    )
    labels = run_as_printed(exported, tmp_path / "alone", frame)
    read = cv2.imread(str(tmp_path / "alone" / "frame.jpg"))
    with Segmenter.load(exported) as segmenter:
        expected = segmenter(read)
    assert np.array_equal(labels, expected)
    assert len(np.unique(expected)) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "int8"), ("openvino", "fp32")])
def test_the_python_for_other_backends(tmp_path: Path, backend: str, precision: str) -> None:
    pytest.importorskip(backend)
    bundle = toy_bundle(tmp_path / "toy", manifest={"backend": backend, "precision": "fp32"})
    fields = read_manifest(bundle).model_dump(exclude={"files", "precision"})
    describe(bundle, **fields, precision=precision)  # of what is written for INT8 the toy computes all in float
    frame = np.random.default_rng(4).integers(0, 256, (151, 203, 3), np.uint8)
    labels = run_as_printed(bundle, tmp_path / "alone", frame)
    with Segmenter.load(bundle) as segmenter:
        assert np.array_equal(labels, segmenter(cv2.imread(str(tmp_path / "alone" / "frame.jpg"))))


def test_it_is_hashed_of_the_manifest_alone_and_says_what_is_in_it(exported: Path) -> None:
    manifest = read_manifest(exported)
    text = (exported / "README.md").read_text(encoding="utf-8")
    assert (
        text
        == readme_text(manifest)
        == readme_text(Manifest.model_validate_json((exported / "manifest.json").read_text()))
    )
    assert "README.md" in manifest.files
    assert manifest.metrics is not None
    for name, (r, g, b) in zip(manifest.classes, manifest.palette, strict=True):
        assert re.search(
            rf"^\| \d \| {name} \| {r}, {g}, {b} \| `#{r:02x}{g:02x}{b:02x}` \| [\d.]+ \|$", text, re.MULTILINE
        )
    for fact in (
        "| `frame` | uint8 | 1 × 64 × 96 × 3 (NHWC) |",
        "B, G, R",
        "`CPUExecutionProvider`",
        f"mIoU {manifest.metrics.miou_pct:.2f} %",
        "one confusion matrix",
        "3 images of folder, split val",
        "INTER_NEAREST_EXACT",
        "Precision fp32",
        "onnxruntime_cxx_api.h",
    ):
        assert fact in text, fact
    assert len(block(text, "python").splitlines()) < 20


def test_the_model_explains_itself(exported: Path) -> None:
    manifest, model = read_manifest(exported), onnx.load(exported / "model.onnx")
    says = {one.key: one.value for one in model.metadata_props}
    for key, value in manifest.facts.items():
        assert (says[key] if isinstance(value, str) else json.loads(says[key])) == value
    assert {"classes", "input", "preprocessing", "postprocessing", "precision"} <= set(manifest.facts)


def test_an_edited_readme_is_noticed(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    (copy / "README.md").write_text("mine")
    with pytest.raises(BundleError, match=r"README\.md isn't the file that was exported"):
        Segmenter.load(copy)


HOSTILE = [
    "a|b",
    "`rm -rf`",
    "<script>alert(1)</script>",
    "[x](http://e.vil)",
    "**bold**",
    "_x_",
    "\x1b[31m",
    "a\nb",
    "&lt;",
    "https://e.vil",
    "@all",
]


def manifest_of(tmp_path: Path, **fields: Any) -> Manifest:
    return read_manifest(toy_bundle(tmp_path / "toy")).model_copy(update=fields)


def test_names_from_outside_are_text(tmp_path: Path) -> None:
    fields = {
        "classes": HOSTILE,
        "palette": [(1, 2, 3)] * len(HOSTILE),
        "name": "# ```\n<b>|",
        "profile": "`x`",
        "model": 'a"b\n```\n.onnx',
        "metrics": None,
    }
    text = readme_text(manifest_of(tmp_path, **fields, provenance={"run": "<img src=x>|"}))
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    rows = [line for line in outside.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row.count("|") for row in rows] == [5] * len(HOSTILE)
    assert not re.search(r"<\w|\]\(|\*\*|\x1b|://|@", outside)
    assert text.count("\n```") == 6, "no name ends the code that it stands in"
    compile(block(text, "python"), "readme", "exec")


@settings(max_examples=60)
@given(st.text(max_size=30))
def test_any_text_stays_one_cell(text: str) -> None:
    """Nothing is left that Markdown reads, and what a page shows is the text."""
    from html import unescape

    from rdd_deploy.utils.text import shown

    escaped = in_markdown(text)
    assert not re.search(r"[\n\r|`<>\[\]*\\~$@]|(?<!&#\d)(?<!&#\d\d)(?<!&#\d\d\d)&(?!#\d)", escaped)
    assert unescape(escaped) == shown(text).strip()


ORT = """
#include <vector>
#define ORT_TSTR(x) x
enum OrtAllocatorType { OrtArenaAllocator }; enum OrtMemType { OrtMemTypeDefault };
namespace Ort {
struct Env {}; struct SessionOptions { SessionOptions& AddConfigEntry(const char*, const char*); };
struct RunOptions { explicit RunOptions(std::nullptr_t); };
struct MemoryInfo { static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType); struct P; operator const P*() const; };
struct Value { template <class T> static Value CreateTensor(const MemoryInfo::P*, T*, size_t, const int64_t*, size_t); template <class T> T* GetTensorMutableData(); };
struct Session { Session(const Env&, const char*, const SessionOptions&);
    std::vector<Value> Run(const RunOptions&, const char* const*, const Value*, size_t, const char* const*, size_t); };
}
"""
OPENCV = """
#include <cstddef>
#include <string>
#define CV_8UC1 0
namespace cv {
struct Size { Size(int, int); };
struct Mat { Mat(); Mat(const Mat&); Mat(int, int, int, void*); int rows, cols; unsigned char* data; size_t total() const; Size size() const; };
struct In { In(const Mat&); }; struct Out { Out(Mat&); };
Mat imread(const std::string&); bool imwrite(const std::string&, const In&); void resize(const In&, const Out&, Size, double, double, int);
enum { INTER_AREA, INTER_LINEAR, INTER_NEAREST_EXACT };
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "int8"])
def test_the_cpp_is_cpp(tmp_path: Path, precision: str) -> None:
    """Against headers that declare what it calls, as onnxruntime's and OpenCV's do."""
    (tmp_path / "opencv2").mkdir()
    (tmp_path / "opencv2" / "opencv.hpp").write_text(OPENCV)
    (tmp_path / "onnxruntime_cxx_api.h").write_text(ORT)
    (tmp_path / "main.cpp").write_text(block(readme_text(manifest_of(tmp_path, precision=precision)), "cpp"))
    words = ["g++", "-std=c++17", "-Wall", "-Werror", "-fsyntax-only", f"-I{tmp_path}", str(tmp_path / "main.cpp")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
