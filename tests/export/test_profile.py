"""Every shipped profile is a test case; a wrong one is refused with all its problems."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from rdd_deploy.errors import DeviceError, MissingPackageError, RecipeError
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import Profile, changed, load_profile
from rdd_deploy.export.tensorrt import retargeted
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.runtime import read_manifest
from rdd_deploy.utils.machine import has_native_bf16

PROFILES = sorted((Path(__file__).parents[2] / "export").rglob("*.yaml"))


def test_count() -> None:
    assert [path.stem for path in PROFILES] == [
        "jetson-orin-int8",
        "onnxruntime-fp32",
        "onnxruntime-int8",
        "openvino-bf16",
        "openvino-fp32",
        "openvino-int8",
        "tensorrt-fp16",
        "tensorrt-int8",
        "tensorrt-rtx-int8",
    ]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_shipped_profile(path: Path, source: TrainedRun, out: Path) -> None:
    profile = load_profile(path)
    assert profile.name == path.stem
    assert (
        "# python -m rdd_deploy.export RUN"
        f" --{'profile ' + path.stem if 'rtx' in path.stem or 'jetson' in path.stem else ''}" in path.read_text()
    )
    if profile.backend == "tensorrt" and find_spec("tensorrt") is None:
        with pytest.raises(
            MissingPackageError,
            match=r"needs the package 'tensorrt', which isn't installed: pip install 'rdd-deploy\[gpu\]'",
        ):
            retargeted(profile, None)
        return
    if find_spec({"onnxruntime": "onnxruntime", "openvino": "openvino"}.get(profile.backend, "tensorrt_rtx")) is None:
        pytest.skip(f"{profile.backend} isn't installed")
    changes = {"gate": {"max_drop": 20.0}}  # three toy frames: one pixel row is a point
    if profile.calibration:
        changes["calibration"] = {"images": 6}
    if profile.precision == "bf16" and not has_native_bf16():
        with pytest.raises(DeviceError, match="asked OpenVINO for bf16, which this CPU lacks"):
            export_profile(source, changed(profile, **changes), out, Options())
        return
    target, comparison = export_profile(source, changed(profile, **changes), out, Options())
    manifest = read_manifest(target)
    assert (manifest.backend, manifest.precision, manifest.profile) == (profile.backend, profile.precision, path.stem)
    assert comparison.confusion.miou > 0.6
    if profile.backend == "tensorrt-rtx":
        # The engine can't be measured without its GPU, and nothing pretends that it was.
        assert manifest.metrics is None
        assert manifest.provenance["graph_measured_with"] == "onnxruntime on the CPU, not the engine"
        assert set(manifest.files) == {"README.md", "model.engine", "graph.onnx", "plan.yaml", "profile.yaml"}
        assert manifest.engine is not None
        assert manifest.engine.compute_capabilities == ["8.6"]
    else:
        assert manifest.metrics is not None
        assert manifest.metrics.float_miou_pct is not None
        assert (manifest.metrics.drop_pct, manifest.metrics.images) == (round(comparison.drop_pct, 3), 3)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_every_problem_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.yaml",
        "backend: onnxruntim\nprecision: int8\nscheme: onnxruntime\ncalibration: {image: 4, method: max}\n",
    )
    with pytest.raises(RecipeError) as caught:
        load_profile(path)
    assert str(caught.value).splitlines() == [
        f"{path} has 3 problems:",
        (
            "  backend: got 'onnxruntim', expected 'onnxruntime', 'openvino', 'tensorrt' or 'tensorrt-rtx'; did you"
            " mean 'onnxruntime'?"
        ),
        "  calibration.method: got 'max', expected 'minmax', 'percentile', 'entropy' or 'mse'; did you mean 'minmax'?",
        "  calibration.image: unknown key; did you mean 'images'? allowed: images, method, percentile, bins, folder",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "backend: openvino\nprecision: fp16\n",
            "precision is fp16, which openvino isn't exported in; expected one of fp32, bf16, int8",
        ),
        (
            "backend: onnxruntime\nprecision: int8\n",
            "precision int8 needs the key 'calibration' (may be empty: {})",
        ),
        (
            "backend: onnxruntime\nprecision: fp32\nscheme: onnxruntime\n",
            "'scheme' belongs to precision int8, not to fp32",
        ),
        (
            "backend: tensorrt\nprecision: int8\nscheme: onnxruntime\ncalibration: {}\n",
            (
                "scheme is onnxruntime, whose uint8 activations TensorRT silently turns into int8; expected scheme:"
                " tensorrt"
            ),
        ),
        (
            "backend: tensorrt-rtx\nprecision: fp16\n",
            "tensorrt-rtx builds for named GPUs; expected engine.compute_capabilities",
        ),
        (
            "backend: openvino\nprecision: fp32\nengine: {}\n",
            "'engine' belongs to tensorrt and tensorrt-rtx, not to openvino",
        ),
        ("backend: onnxruntime\nprecision: fp32\nsize: [16, 64]\n", "size: got [16, 64], expected at least [32, 32]"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_profile(write(tmp_path / "mine.yaml", text))
    assert sentence in str(caught.value)


def test_command_lines_that_do_not_fit() -> None:
    for words, sentence in (
        (["--onnx", "--fp16"], "--onnx has no fp16; expected fp32 or int8"),
        (
            ["--profile", "openvino-int8", "--openvino", "--int8"],
            "the profile name openvino-int8 is given more than once",
        ),
        (["--trt", "--compute-capability", ","], "--compute-capability is ','; expected one or more, e.g. 8.6,8.9"),
        (["--onnx", "--size", "20000", "20000"], "size: got [20000, 20000], expected at most [8192, 8192]"),
        (
            ["--profile", "jetson-orin-int8", "--compute-capability", "8.9"],
            "'jetson-orin-int8' is a profile for tensorrt on its own GPU",
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "rdd_deploy.export", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert sentence in " ".join(done.stderr.split())


def test_unknown_name() -> None:
    with pytest.raises(
        RecipeError, match=r"no profile 'tensorrt-int4'; expected a YAML file, or one of jetson-orin-int8, "
    ):
        load_profile("tensorrt-int4")


def test_changed_is_checked() -> None:
    with pytest.raises(RecipeError, match="postprocess is matmul, which TensorRT gains nothing from"):
        changed(load_profile("onnxruntime-int8"), backend="tensorrt")


def test_own_profile_file(tmp_path: Path) -> None:
    profile: Profile = load_profile(
        write(tmp_path / "drone.yaml", "backend: onnxruntime\nprecision: fp32\nsize: [64, 64]\n")
    )
    assert (profile.name, profile.size) == ("drone", (64, 64))
