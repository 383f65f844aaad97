"""TensorRT: every shipped student's float, FP16 and INT8 graph is parsed and built, ahead of time, on this machine
without a GPU.
"""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from rdd_deploy.errors import DeviceError, MissingPackageError, RddError
from rdd_deploy.export import tensorrt as engines
from rdd_deploy.export.compare import compare
from rdd_deploy.export.onnx.export import onnx_from_segmenter
from rdd_deploy.export.onnx.half import half_from_onnx
from rdd_deploy.export.onnx.lint import lint
from rdd_deploy.export.onnx.session import infer_onnx
from rdd_deploy.export.parity import compare_stages
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import Placement, Profile, changed, load_profile
from rdd_deploy.export.quantization.placement import place_qdq
from rdd_deploy.export.quantization.qdq import qdq_from_onnx
from rdd_deploy.export.quantization.ranges import RangeTable, tensors_to_calibrate
from rdd_deploy.export.quantization.schemes import open_scheme
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe import StudentRecipe, load_recipe
from rdd_deploy.runtime import read_manifest

RECIPES = Path(__file__).parents[2] / "recipes"
RTX = find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not RTX, reason="tensorrt-rtx has no wheel for this machine")


def students() -> dict[str, Network]:
    """The networks of all shipped student recipes, each once."""
    found: dict[str, Network] = {}
    for path in sorted(RECIPES.rglob("*.yaml")):
        recipe = load_recipe(path)
        if isinstance(recipe, StudentRecipe):
            network = recipe.student
            found.setdefault(
                f"{network.encoder}-{network.head}-{network.output_stride}-{network.activation}-{network.squeeze_excite}",
                network,
            )
    return found


STUDENTS = students()
FIRST = "mobilenetv4_conv_small-"
EACH_STUDENT = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name.startswith(FIRST) else pytest.mark.slow) for name in STUDENTS]
)
"""The toy network, a MobileNetV3, is built by other tests."""


def rtx_profile(precision: str = "int8", capability: str = "8.6") -> Profile:
    base = load_profile("tensorrt-rtx-int8")
    if precision == "int8":
        return changed(base, engine={"compute_capabilities": [capability]})
    return Profile.model_validate(
        {
            "name": "t",
            "backend": "tensorrt-rtx",
            "precision": precision,
            "engine": {"compute_capabilities": [capability]},
        }
    )


@cache
def student(name: str) -> tuple[Segmenter, onnx.ModelProto]:
    """A shipped student with made-up weights, and its export; tests must not change them."""
    segmenter = Segmenter(STUDENTS[name].model_copy(update={"weights": "none"}), 11).eval()
    return segmenter, onnx_from_segmenter(segmenter, (90, 120))  # 90 is no multiple of 32


@pytest.mark.slow
@EACH_STUDENT
def test_every_student_says_what_torch_says(name: str) -> None:
    segmenter, model = student(name)
    frame = np.random.default_rng(0).integers(0, 256, (1, 90, 120, 3), np.uint8)
    with torch.inference_mode():
        expected = segmenter(torch.from_numpy(frame[..., ::-1].copy()).permute(0, 3, 1, 2)).primary.argmax(1).numpy()
    assert (infer_onnx(model)(frame) == expected).mean() >= 0.999


@pytest.mark.slow
@pytest.mark.trt
@needs_rtx
@EACH_STUDENT
def test_every_student_builds(name: str) -> None:
    _, model = student(name)
    lint(model, None)
    table = RangeTable({"method": "made up"}, dict.fromkeys(tensors_to_calibrate(model), (-4.0, 4.0)))
    rendered = qdq_from_onnx(model, table, open_scheme("tensorrt"), Placement())
    lint(rendered, open_scheme("tensorrt"))
    for precision, graph in (
        ("fp32", model),
        ("fp16", half_from_onnx(model)),
        ("int8", rendered),
        ("int8", half_from_onnx(rendered)),
    ):
        built = engines.engine_from_onnx(graph, rtx_profile(precision))
        assert len(built.engine) > 10_000
        assert (built.info.package, built.info.compute_capabilities, built.info.gpu) == ("tensorrt-rtx", ["8.6"], None)


def test_quantisation_friendly_students_are_shipped() -> None:
    encoders = {network.encoder for network in STUDENTS.values()}
    assert {"tf_mobilenetv3_large_minimal_100", "mobilenetv4_conv_small"} <= encoders
    assert "tf_efficientnet_lite0" in encoders


@pytest.mark.trt
@needs_rtx
def test_refused_graph_says_why(graph: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    broken.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(RddError, match=r"tensorrt-rtx .* can't build 'tensorrt-rtx-int8': "):
        engines.engine_from_onnx(broken, rtx_profile())


@needs_rtx
def test_unsupported_capability() -> None:
    with pytest.raises(
        DeviceError,
        match=r"can't build for compute capability 8.7; expected one of 7.5, 8.0, 8.6, .*a Jetson builds its own",
    ):
        engines.retargeted(load_profile("tensorrt-int8"), ["8.7"])


@needs_rtx
def test_named_capabilities_mean_tensorrt_rtx() -> None:
    profile = engines.retargeted(load_profile("tensorrt-fp16"), ["8.6", "8.9"])
    assert (profile.backend, profile.name, profile.precision) == ("tensorrt-rtx", "tensorrt-rtx-fp16", "fp16")
    assert profile.engine is not None
    assert profile.engine.compute_capabilities == ["8.6", "8.9"]


@pytest.mark.trt
@needs_rtx
def test_half_precision_bundle(light_source: TrainedRun, out: Path) -> None:
    profile = changed(engines.retargeted(load_profile("tensorrt-fp16"), ["8.6", "8.9"]), gate={"max_drop": 5.0})
    target, comparison = export_profile(light_source, profile, out, Options())
    manifest = read_manifest(target)
    assert (manifest.name, manifest.precision, manifest.metrics) == (
        f"{light_source.run.path.name}/tensorrt-rtx-fp16",
        "fp16",
        None,
    )
    assert manifest.engine is not None
    assert manifest.engine.compute_capabilities == ["8.6", "8.9"]
    assert comparison.agreement_pct > 99
    kinds = {one.data_type for one in onnx.load(target / "graph.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds


@pytest.mark.slow
@pytest.mark.trt
@needs_rtx
def test_integer_bundle_in_half_precision(source: TrainedRun, tmp_path: Path) -> None:
    """What isn't INT8 is float16 in the shipped TensorRT profiles, and the figures are those of that very graph."""
    for name in ("tensorrt-int8", "tensorrt-rtx-int8", "jetson-orin-int8"):
        assert load_profile(name).float_type == "fp16"
    profile = changed(rtx_profile(), gate={"max_drop": 5.0}, calibration={"images": 4})
    target, comparison = export_profile(source, profile, tmp_path / "export", Options())
    graph = onnx.load(target / "graph.onnx")
    assert onnx.TensorProto.FLOAT not in {one.data_type for one in graph.graph.initializer}
    assert {node.op_type for node in graph.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    manifest = read_manifest(target)
    assert (manifest.opset, manifest.precision) == (19, "int8")
    measured = compare(infer_onnx(graph), comparison.reference)
    assert manifest.provenance["graph_miou_pct"] == pytest.approx(measured.miou_pct, abs=1e-3)
    assert manifest.provenance["graph_label_agreement_pct"] == pytest.approx(measured.agreement_pct, abs=1e-3)
    assert measured.agreement_pct > 95
    # Half precision costs next to nothing beside the rounding to INT8.
    plain, _ = export_profile(source, changed(profile, float_type="fp32", name="plain"), tmp_path / "export", Options())
    other = compare(infer_onnx(onnx.load(plain / "graph.onnx")), comparison.reference)
    assert abs(other.agreement_pct - measured.agreement_pct) < 2
    report = compare_stages(target, source.run.path, limit=2, max_drop=100.0)
    assert [stage.name for stage in report.stages] == ["onnx", "q/dq"]
    assert report.skipped.startswith("tensorrt-rtx int8")
    assert report.worst
    assert all(math.isfinite(one.signal_to_noise_db) for one in report.worst)


def no_package(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name in names else object())


def test_neither_package(monkeypatch: pytest.MonkeyPatch) -> None:
    no_package(monkeypatch, "tensorrt", "tensorrt_rtx")
    with pytest.raises(MissingPackageError) as caught:
        engines.retargeted(load_profile("tensorrt-int8"), None)
    assert (
        str(caught.value) == "building 'tensorrt-int8' needs the package 'tensorrt', which isn't installed: "
        "pip install 'rdd-deploy[gpu]' (from a clone: pip install '.[gpu]')"
    )
    with pytest.raises(
        MissingPackageError,
        match=r"needs the package 'tensorrt-rtx', which isn't installed: pip install 'rdd-deploy\[rtx\]'",
    ):
        engines.retargeted(load_profile("tensorrt-rtx-int8"), None)


def test_only_rtx_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    no_package(monkeypatch, "tensorrt")
    with pytest.raises(
        MissingPackageError,
        match=r"or build ahead of time with the tensorrt-rtx that is here: --compute-capability 8.6",
    ):
        engines.retargeted(load_profile("tensorrt-int8"), None)


def test_polygraphy_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    no_package(monkeypatch, "polygraphy")
    with pytest.raises(MissingPackageError, match="needs the package 'polygraphy'"):
        engines.check_builder(load_profile("tensorrt-int8"))


class _Config:
    """Stands for polygraphy's CreateConfig: remembers its arguments."""

    @staticmethod
    def CreateConfig(**options: Any) -> dict[str, Any]:
        return options


@pytest.mark.parametrize(
    ("version", "precision", "expected"),
    [
        ("10.3.0", "int8", {"int8": True, "fp16": True}),
        ("10.3.0", "fp16", {"int8": False, "fp16": True}),
        ("10.12.0.36", "int8", {}),
        ("11.0.0", "fp16", {}),
    ],
)
def test_precision_flags_only_before_strong_typing(version: str, precision: str, expected: dict[str, Any]) -> None:
    trt = SimpleNamespace(__version__=version)
    assert engines._config(trt, _Config, load_profile(f"tensorrt-{precision}")) == expected
    assert engines._strongly_typed(trt, rtx=False) is (expected == {})


def test_workspace_limit_reaches_the_builder() -> None:
    trt = SimpleNamespace(__version__="10.3.0", MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"))
    options = engines._config(trt, _Config, load_profile("jetson-orin-int8"))
    assert options["memory_pool_limits"] == {"workspace": 1024 << 20}


def test_no_gpu_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(cudaGetDeviceCount=lambda: (35, 0))
    monkeypatch.setattr(engines.importlib, "import_module", lambda name: fake)
    with pytest.raises(
        DeviceError, match="tensorrt builds on the GPU that the engine will run on, and this machine has none"
    ):
        engines._gpu()


def test_placement_covers_squeeze_and_excitation(graph: onnx.ModelProto) -> None:
    plan = place_qdq(graph, open_scheme("tensorrt"), Placement())
    assert any(name.endswith("conv_reduce") for name in plan.convolutions)
    gates = [node for node in graph.graph.node if node.op_type == "HardSigmoid"]
    assert gates
    assert all(node.output[0] in plan.tensors for node in gates)
