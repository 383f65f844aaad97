"""The gate: fails with a table and without a bundle, finds a fallback, writes a plan that can be edited
and replayed.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from toy_export import SIZE

from rdd_deploy.errors import GateError, RecipeError
from rdd_deploy.export import pipeline
from rdd_deploy.export.compare import Comparison, Reference, compare, reference_from
from rdd_deploy.export.onnx.graph import load_graph
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import Placement, Profile, changed, load_profile
from rdd_deploy.export.quantization import accuracy_gate
from rdd_deploy.export.quantization import plan as quantization_plan
from rdd_deploy.export.quantization.qdq import quantised_layers, weight_bits
from rdd_deploy.export.quantization.sensitivity import Sensitivity, rank_layers, within_budget
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.metrics import Confusion
from rdd_deploy.runtime import read_manifest
from rdd_deploy.runtime.backends import openvino


def profile(fallbacks: list[str], max_drop: float = 5.0) -> Profile:
    """Ranges that cut nearly half of all values: the first attempt can't pass."""
    calibration = {"images": 4, "method": "percentile", "percentile": 51, "bins": 512}
    return changed(
        load_profile("onnxruntime-int8"), calibration=calibration, gate={"max_drop": max_drop, "fallbacks": fallbacks}
    )


def test_failure_leaves_a_plan_and_no_bundle(
    light_source: TrainedRun, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        GateError, match=r"'onnxruntime-int8' loses .* points of mIoU at best, allowed are 5; no bundle was written"
    ) as caught:
        export_profile(light_source, profile([]), out, Options())
    assert caught.value.exit_code == 4
    assert [path.name for path in out.iterdir()] == ["onnxruntime-int8.plan.yaml"]
    shown = capsys.readouterr().out
    assert "gate at 5 points" in shown
    assert "IoU per class" in shown


def test_force_marks_the_bundle(light_source: TrainedRun, out: Path) -> None:
    target, comparison = export_profile(light_source, profile([]), out, Options(force=True))
    manifest = read_manifest(target)
    assert manifest.forced
    assert manifest.metrics is not None
    assert manifest.metrics.drop_pct == round(comparison.drop_pct, 3)
    assert comparison.drop_pct > 5


def test_force_marks_a_float_bundle_that_loses(
    light_source: TrainedRun, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruined(folder: Path, reference: Reference, **_: object) -> Comparison:
        return compare(lambda network_input: np.zeros(network_input.shape[:3], np.uint8), reference)

    monkeypatch.setattr(pipeline, "compare_bundle", ruined)
    asked = changed(load_profile("openvino-bf16"), gate={"max_drop": 1.0})
    with pytest.raises(GateError, match=r"'openvino-bf16' loses .* allowed are 1; no bundle was written"):
        export_profile(light_source, asked, out, Options())
    assert not (out / "openvino-bf16").exists()
    for options in (Options(force=True), Options(force=True, evaluate=False)):
        assert read_manifest(export_profile(light_source, asked, out, options)[0]).forced


def test_fallback_passes_and_the_plan_replays(light_source: TrainedRun, out: Path) -> None:
    asked = profile(["mse"], max_drop=8)
    target, comparison = export_profile(light_source, asked, out, Options())
    assert comparison.drop_pct <= 8
    plan_file = out / "onnxruntime-int8.plan.yaml"
    plan = yaml.safe_load(plan_file.read_text())
    assert (plan["method"], plan["result"]["gate"]) == ("mse", "passed")
    assert "plan.yaml" in read_manifest(target).files
    plan["float_layers"] = ["encoder.conv_stem"]
    edited = out / "edited.yaml"
    edited.write_text(yaml.safe_dump(plan))
    target, _ = export_profile(light_source, asked, out, Options(plan=edited))
    assert "encoder.conv_stem" not in quantised_layers(load_graph(target / "model.onnx"))
    content = edited.read_bytes()
    plan["float_layers"] = ["encoder.conv_sten"]
    edited.write_text(yaml.safe_dump(plan))
    with pytest.raises(
        RecipeError,
        match=(
            r"edited.yaml: float_layers: no convolution encoder.conv_sten in the graph; nearest are encoder.conv_stem,"
        ),
    ):
        export_profile(light_source, asked, out, Options(plan=edited))
    plan_file.write_bytes(b"# mine\n" + content)
    export_profile(light_source, asked, out, Options(plan=plan_file))
    assert plan_file.read_bytes().startswith(b"# mine\n")
    plan_file.write_text(yaml.safe_dump(plan | {"profile": "other"}))
    with pytest.raises(RecipeError, match="is a plan of the profile other, not of onnxruntime-int8; take its own plan"):
        export_profile(light_source, asked, out, Options(plan=plan_file))
    edited.write_bytes(content)
    with pytest.raises(
        RecipeError,
        match="is a plan for the scheme onnxruntime, profile openvino-int8 has the scheme openvino; take its own plan",
    ):
        export_profile(light_source, load_profile("openvino-int8"), out, Options(plan=edited))


def test_fallbacks_are_tried_in_order(light_source: TrainedRun, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibration = {"images": 4, "method": "percentile", "percentile": 51, "bins": 512}
    gate = {
        "max_drop": 0.0,
        "fallbacks": ["bias_correction", "float_layers"],
        "sensitivity_frames": 1,
        "max_float_macs": 0.02,
    }
    asked = changed(load_profile("onnxruntime-int8"), calibration=calibration, gate=gate)
    export_profile(light_source, asked, out, Options(force=True))
    shown = capsys.readouterr().out
    first, second, third = (
        shown.find(text)
        for text in ("percentile: mIoU", "percentile + bias correction: mIoU", "1 layer(s) in float: mIoU")
    )
    assert 0 <= first < second < third
    assert "may stay float (2 % of the multiply-adds)" in shown


@pytest.mark.parametrize("saturates", [False, True])
def test_weights_have_7_bits_where_sums_of_8_saturate(
    light_source: TrainedRun,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    saturates: bool,
) -> None:
    pytest.importorskip("openvino")
    for place in (quantization_plan, openvino):
        monkeypatch.setattr(place, "saturates_int8", lambda: saturates)
    asked = changed(load_profile("openvino-int8"), calibration={"images": 4}, gate={"max_drop": 100.0})
    target, _ = export_profile(light_source, asked, out, Options())
    told = capsys.readouterr()
    assert read_manifest(target).provenance["weight_bits"] == (7 if saturates else 8)
    assert ("weights of 7 bits: this CPU has no VNNI" in told.out) == saturates
    assert "VNNI" not in told.err, "7 bits can't saturate"
    plan = out / "openvino-int8.plan.yaml"
    decided = yaml.safe_load(plan.read_text())
    assert decided["placement"]["weight_bits"] == (7 if saturates else 8)

    monkeypatch.setattr(quantization_plan, "saturates_int8", lambda: True)
    for changes, bits in (({"weight_bits": 7}, 7), ({"weight_bits": 8}, 8), ({}, 8)):
        own = {key: value for key, value in decided["placement"].items() if key != "weight_bits"}
        plan.write_text(yaml.safe_dump(decided | {"placement": own | changes}))
        target, _ = export_profile(light_source, asked, out, Options(plan=plan))
        assert read_manifest(target).provenance["weight_bits"] == bits, "a plan of before had 8"
        assert ("this CPU has no VNNI" in capsys.readouterr().err) == (saturates and bits == 8)


def test_what_follows_weights_of_7_bits_keeps_them(
    light_source: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization_plan, "saturates_int8", lambda: True)
    asked = changed(
        load_profile("openvino-int8"),
        calibration={"images": 4},
        gate={"max_drop": 0.0, "fallbacks": ["mse", "bias_correction", "float_layers"]},
    )
    reference = reference_from(light_source.infer(), light_source.split("val"), SIZE, "toy", "val")
    ranked: list[int] = []

    def measure(graph: onnx.ModelProto) -> Comparison:
        """As if each lost a lot."""
        bits.append(weight_bits(graph))
        wrong = reference.confusion.matrix.copy()
        wrong[0] = np.roll(wrong[0], 1) if bits[-1] == 8 else wrong[0] // 2 + np.roll(wrong[0], 1) // 2
        confusion = Confusion(light_source.classes)
        confusion.matrix[:] = wrong
        return Comparison(confusion, 90.0, reference)

    def rank(
        model: onnx.ModelProto, table: object, scheme: object, placement: Placement, *_: object
    ) -> list[Sensitivity]:
        ranked.append(placement.weight_bits)
        return [Sensitivity("encoder.conv_stem", 1.0, 90, 0.01)]

    bits: list[int] = []
    monkeypatch.setattr(accuracy_gate, "rank_layers", rank)
    assert asked.calibration is not None
    frames = light_source.calibration_frames(asked.calibration, SIZE, "val")
    bench = accuracy_gate.QuantizationSearch(asked, light_source, frames, SIZE, [tmp_path / "none"], measure)
    best, passed = accuracy_gate.search(bench)
    assert not passed
    assert bits == [7, 7, 7, 7]
    assert ranked == [7]
    assert best.plan.placement.weight_bits == weight_bits(best.model) == 7


def test_plan_of_a_float_profile(light_source: TrainedRun, out: Path) -> None:
    with pytest.raises(RecipeError, match="--plan replays how a graph was quantised; profile onnxruntime-fp32 is fp32"):
        export_profile(light_source, load_profile("onnxruntime-fp32"), out, Options(plan=out / "any.yaml"))


def test_budget_of_float_layers() -> None:
    ranked = [Sensitivity("a", 9.0, 80, 0.06), Sensitivity("b", 5.0, 90, 0.08), Sensitivity("c", 1.0, 95, 0.03)]
    assert within_budget(ranked, 0.1) == ["a", "c"]
    assert within_budget(ranked, 0.01) == []


def test_ranking_is_by_measured_accuracy(
    light_source: TrainedRun, light_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    from rdd_deploy.export.profile import Calibration, Placement
    from rdd_deploy.export.quantization.calibrate import calibrated
    from rdd_deploy.export.quantization.calibration_frames import from_train
    from rdd_deploy.export.quantization.ranges import RangeTable
    from rdd_deploy.export.quantization.schemes import open_scheme

    table = calibrated(
        light_graph, from_train(light_source.split("train"), [], 2, SIZE), Calibration(images=2), tmp_path
    )
    ruined = RangeTable(table.key, dict(table.ranges) | {"frame/Sub": (-1e-3, 1e-3)})  # only the stem reads it
    ranked = rank_layers(
        light_graph, ruined, open_scheme("tensorrt"), Placement(), light_source.split("train"), SIZE, 2
    )
    assert ranked[0].layer == "encoder.conv_stem"
    assert ranked[0].drop_pct > 10
