"""Engines are built from a bundle on a machine without PyTorch: from the graph of a TensorRT profile, or from a float
bundle with ranges.
"""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
import yaml
from toy_export import without

from rdd_deploy.errors import BundleError, RecipeError
from rdd_deploy.export.bundle import describe
from rdd_deploy.export.from_bundle import engine_from_bundle
from rdd_deploy.export.onnx.graph import load_graph, weight_fingerprint
from rdd_deploy.export.onnx.half import half_from_onnx
from rdd_deploy.export.options import Options
from rdd_deploy.export.pipeline import export_profile
from rdd_deploy.export.profile import Placement, changed, load_profile
from rdd_deploy.export.quantization.qdq import qdq_from_onnx, quantised_layers
from rdd_deploy.export.quantization.ranges import RangeTable, read_table
from rdd_deploy.export.quantization.schemes import open_scheme
from rdd_deploy.export.tensorrt import retargeted
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.runtime import Segmenter, read_manifest

TRAINING = "torch,torchvision,timm,onnxscript,segmentation_models_pytorch,lightning_fabric,safetensors,tensorboard"
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this machine")


@pytest.fixture(scope="module")
def exported(light_source: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an INT8 graph without an engine, a float bundle with ranges, and one without."""
    folder = tmp_path_factory.mktemp("exported")
    calibration = {"images": 4}
    graph = changed(load_profile("tensorrt-int8"), calibration=calibration, gate={"max_drop": 20})
    export_profile(light_source, graph, folder, Options(engine=False))
    plain = load_profile("onnxruntime-fp32")
    export_profile(light_source, plain, folder, Options())
    export_profile(light_source, changed(plain, name="float-with-ranges", calibration=calibration), folder, Options())
    return folder


@pytest.fixture
def bundles(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundles"))


def build(*words: object) -> str:
    """Run the export without PyTorch; returns what it said."""
    done = without(TRAINING, "export", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_graph_without_an_engine_says_how_to_build_it(bundles: Path) -> None:
    bundle = bundles / "tensorrt-int8"
    manifest = read_manifest(bundle)
    assert manifest.needs_engine
    assert (manifest.model, manifest.engine, manifest.metrics) == ("graph.onnx", None, None)
    says = {one.key: one.value for one in load_graph(bundle / "graph.onnx").metadata_props}
    assert {
        key: says[key] if isinstance(value, str) else json.loads(says[key]) for key, value in manifest.facts.items()
    } == manifest.facts
    assert "rdd-deploy export FOLDER --trt" in (bundle / "README.md").read_text()
    assert set(manifest.files) == {"README.md", "graph.onnx", "plan.yaml", "profile.yaml"}
    assert manifest.provenance["graph_measured_with"] == "onnxruntime on the CPU, not the engine"
    with pytest.raises(BundleError) as caught:
        Segmenter.load(bundle)
    assert (
        str(caught.value)
        == f"{bundle} holds the graph of an engine and no engine; build it on the machine that will run it: rdd-deploy"
        f" export {bundle} --trt"
    )
    assert load_profile(bundle / "profile.yaml") == changed(
        load_profile("tensorrt-int8"), calibration={"images": 4}, gate={"max_drop": 20}
    )


@pytest.mark.trt
@needs_rtx
def test_an_engine_from_an_integer_graph(bundles: Path) -> None:
    said = build(bundles / "tensorrt-int8", "--trt", "--int8", "--compute-capability", "8.6,8.9")
    assert "the engine isn't measured here: " in said
    manifest = read_manifest(bundles / "tensorrt-rtx-int8")
    assert (manifest.backend, manifest.precision, manifest.model) == ("tensorrt-rtx", "int8", "model.engine")
    assert manifest.engine is not None
    assert manifest.engine.compute_capabilities == ["8.6", "8.9"]
    assert not manifest.needs_engine
    assert manifest.metrics is None
    before = read_manifest(bundles / "tensorrt-int8")
    assert manifest.name == f"{before.name.partition('/')[0]}/tensorrt-rtx-int8"
    assert manifest.provenance == before.provenance | {"built_from": f"{before.name} (tensorrt int8)"}
    assert (manifest.classes, manifest.palette, manifest.input) == (before.classes, before.palette, before.input)
    for file in ("graph.onnx", "plan.yaml"):
        assert manifest.files[file] == before.files[file]
    # And again from that one, for another GPU, into its own place.
    build(bundles / "tensorrt-rtx-int8", "--trt", "--compute-capability", "8.0")
    manifest = read_manifest(bundles / "tensorrt-rtx-int8")
    assert manifest.engine is not None
    assert manifest.engine.compute_capabilities == ["8.0"]


@pytest.mark.slow
@pytest.mark.trt
@needs_rtx
def test_an_integer_engine_from_a_float_bundle_with_ranges(bundles: Path) -> None:
    bundle = bundles / "float-with-ranges"
    assert set(read_manifest(bundle).files) == {"README.md", "model.onnx", "graph.onnx", "ranges.json"}
    words = (bundle, "--trt", "--int8", "--compute-capability", "8.6", "--max-drop", "20")
    build(*words)
    built = bundles / "tensorrt-rtx-int8"
    manifest = read_manifest(built)
    assert manifest.provenance["graph_measured_with"] == "onnxruntime on the CPU, not the engine"
    assert float(manifest.provenance["graph_label_agreement_pct"] or 0) > 90
    plain, table = load_graph(bundle / "graph.onnx"), read_table(bundle / "ranges.json")
    assert table is not None
    expected = half_from_onnx(qdq_from_onnx(plain, table, open_scheme("tensorrt"), Placement()))
    assert weight_fingerprint(load_graph(built / "graph.onnx")) == weight_fingerprint(expected)
    plan = yaml.safe_load((built / "plan.yaml").read_text())
    assert (plan["method"], plan["result"]["gate"]) == ("minmax", "passed")
    plan["float_layers"] = ["encoder.conv_stem"]
    edited = bundles / "edited.yaml"
    edited.write_text(yaml.safe_dump(plan))
    build(*words, "--plan", edited, "--no-evaluate")
    assert "encoder.conv_stem" not in quantised_layers(load_graph(built / "graph.onnx"))
    manifest = read_manifest(built)
    assert manifest.provenance["graph_measured_with"] == "nothing: there was no data where the engine was built"
    assert "graph_miou_pct" not in manifest.provenance
    assert yaml.safe_load((built / "plan.yaml").read_text())["result"] == {"gate": "not measured"}


@pytest.mark.trt
@needs_rtx
def test_a_half_precision_engine_from_a_float_bundle(bundles: Path) -> None:
    build(bundles / "onnxruntime-fp32", "--trt", "--compute-capability", "8.6")
    manifest = read_manifest(bundles / "tensorrt-rtx-fp16")
    assert (manifest.precision, manifest.forced) == ("fp16", False)
    kinds = {one.data_type for one in onnx.load(bundles / "tensorrt-rtx-fp16" / "graph.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds


@pytest.mark.trt
@needs_rtx
def test_the_gate_holds_without_pytorch_too(bundles: Path) -> None:
    bundle = bundles / "float-with-ranges"
    table = read_table(bundle / "ranges.json")
    assert table is not None
    RangeTable(table.key, {name: (low / 8, high / 8) for name, (low, high) in table.ranges.items()}).write(
        bundle / "ranges.json"
    )
    describe(bundle, **read_manifest(bundle, verify=False).model_dump(exclude={"files"}))
    words = ("export", bundle, "--trt", "--int8", "--compute-capability", "8.6", "--max-drop", "1")
    done = without(TRAINING, *words)
    assert done.returncode == 4, done.stderr
    assert "'tensorrt-rtx-int8' loses " in done.stderr
    assert not (bundles / "tensorrt-rtx-int8").exists()
    assert without(TRAINING, *words, "--force").returncode == 0
    assert read_manifest(bundles / "tensorrt-rtx-int8").forced


def test_a_run_folder_needs_pytorch(light_run: Path) -> None:
    done = without(TRAINING, "export", light_run, "--onnx")
    assert done.returncode == 2
    assert "exporting needs the package 'torch', which isn't installed: pip install 'rdd-deploy[train]'" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--onnx"], "tensorrt-int8 is a bundle, from which engines are built; --onnx needs the run folder"),
        (["--trt", "--no-engine"], "--no-engine needs the run folder"),
        (["--trt", "--weight-bits", "7"], "--weight-bits needs the run folder"),
        (["--trt", "--fp16"], "tensorrt-int8 holds a graph in int8; leave --fp16 out, or export the run with it"),
        (["--profile", "onnxruntime-int8"], "profile 'onnxruntime-int8' is for onnxruntime"),
        ([], "no target named"),
    ],
)
def test_flags_that_do_not_fit_a_bundle(bundles: Path, words: list[str], sentence: str) -> None:
    done = without(TRAINING, "export", bundles / "tensorrt-int8", *words)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())


@needs_rtx
def test_bundles_that_hold_no_engines_graph(bundles: Path, light_source: TrainedRun) -> None:
    profile = retargeted(load_profile("tensorrt-int8"), ["8.6"])
    with pytest.raises(
        BundleError,
        match=r"onnxruntime-fp32 holds no ranges\.json, which INT8 needs; export the run with --profile tensor",
    ):
        engine_from_bundle(bundles / "onnxruntime-fp32", profile, None, Options(), None)
    calibrated = changed(load_profile("onnxruntime-int8"), calibration={"images": 4}, gate={"max_drop": 20})
    integer, _ = export_profile(light_source, calibrated, bundles, Options())
    with pytest.raises(
        BundleError, match="onnxruntime-int8 is for onnxruntime in int8; an engine is built from a bundle of a TensorRT"
    ):
        engine_from_bundle(integer, profile, None, Options(), None)
    other = retargeted(load_profile("tensorrt-fp16"), ["8.6"])
    with pytest.raises(
        RecipeError, match=r"holds a graph in int8, profile 'tensorrt-rtx-fp16' is fp16; leave the precision out"
    ):
        engine_from_bundle(bundles / "tensorrt-int8", other, None, Options(), None)
    plan = bundles / "plan.yaml"
    plan.write_text("profile: tensorrt-rtx-int8\nscheme: tensorrt\nmethod: minmax\nbias_correction: true\n")
    with pytest.raises(
        RecipeError, match=r"plan\.yaml asks for bias_correction, which needs the run folder and its train frames"
    ):
        engine_from_bundle(bundles / "float-with-ranges", profile, None, Options(plan=plan), None)


def test_calibration_of_a_float_profile(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("backend: openvino\nprecision: bf16\ncalibration: {}\n")
    with pytest.raises(
        RecipeError,
        match=r"'calibration' belongs to precision int8, or to onnxruntime in fp32, .*not to openvino in bf16",
    ):
        load_profile(path)
