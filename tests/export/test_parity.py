"""Parity names the first stage that breaks, and the tensors behind it."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from toy_export import mobilenet, write_run

from rdd_deploy import cli
from rdd_deploy.errors import BundleError
from rdd_deploy.export.bundle import describe
from rdd_deploy.export.onnx.graph import attribute, load_graph, save_graph
from rdd_deploy.export.parity import compare_stages, not_finite
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import changed, load_profile
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.runtime import read_manifest


@pytest.fixture(scope="module")
def bundle(source: TrainedRun, run: Path) -> Path:
    """An INT8 bundle in its run folder."""
    profile = changed(load_profile("onnxruntime-int8"), calibration={"images": 4}, gate={"max_drop": 20})
    return export_profile(source, profile, run / "export", Options())[0]


def test_every_stage_holds(bundle: Path) -> None:
    report = compare_stages(bundle)
    assert [stage.name for stage in report.stages] == ["onnx", "q/dq", "onnxruntime int8"]
    assert report.stages[0].agreement_torch_pct >= 99.99
    assert report.stages[2].agreement_before_pct >= 99
    assert report.not_finite == []
    assert 0 < len(report.worst) <= 8
    assert report.worst == sorted(report.worst, key=lambda one: one.signal_to_noise_db)


def test_broken_quantisation_is_named(bundle: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "broken"
    shutil.copytree(bundle, copy)
    graph = load_graph(copy / "model.onnx")
    for one in graph.graph.initializer:
        if one.name == "frame/Sub/scale":
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) / 50, one.name))
    save_graph(graph, copy / "model.onnx")
    manifest = read_manifest(copy, verify=False).model_dump(exclude={"files"})
    describe(copy, **manifest)
    report = compare_stages(copy, run)
    assert report.broken == "q/dq"
    assert "mIoU falls by" in report.stages[1].finding
    assert (
        report.worst[0].tensor in {"frame/Sub", "encoder.conv_stem", "encoder.conv_stem/HardSwish"}
        or report.worst[0].signal_to_noise_db < 5
    )


def test_nan_is_found(graph: onnx.ModelProto, source: TrainedRun) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    for one in broken.graph.initializer:
        if one.name == "head.project.0.weight":
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * float("nan"), one.name))
    found = not_finite(broken, source.split("val"), (64, 96))
    assert found[0] == "head.project.0"
    assert not_finite(graph, source.split("val"), (64, 96)) == []


def test_other_weights_are_refused(bundle: Path, data: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", data, segmenter, mobilenet())
    weights = other / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BundleError, match="was exported from other weights"):
        compare_stages(bundle, other)


def test_a_graph_that_cannot_run_is_one_sentence(bundle: Path, run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    model = onnx.load(broken / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Conv" and attribute(node, "group", 1) > 1)
    next(one for one in node.attribute if one.name == "group").i = 1
    onnx.save(model, broken / "model.onnx")
    describe(broken, **read_manifest(broken, verify=False).model_dump(exclude={"files"}))
    with pytest.raises(BundleError, match=r"onnxruntime can't (run|load) .*; export the bundle again"):
        compare_stages(broken, run, limit=1)
    with pytest.raises(
        BundleError, match=r"doesn't lie in a run's export folder; name the run that it was made from with --run"
    ):
        compare_stages(broken)


def test_command(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["rdd-deploy", "parity", str(bundle), "--limit", "1", "--json", str(tmp_path / "parity.json")]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "every stage compared holds" in capsys.readouterr().out
    assert json.loads((tmp_path / "parity.json").read_text())["broken"] is None
