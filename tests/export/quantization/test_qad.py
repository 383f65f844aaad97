"""The simulation computes what the rendering computes; fine-tuning in it helps, replays, and never touches the float
student.
"""

import math
import shutil
import signal
import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import toys
import yaml
from toy_export import SIZE, taught, write_run

from rdd_deploy.errors import DivergedError, GateError, RecipeError, WeightsError
from rdd_deploy.export.onnx import export as onnx_export
from rdd_deploy.export.onnx.export import Deployed
from rdd_deploy.export.onnx.graph import INPUT
from rdd_deploy.export.parity import compare_stages
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import Calibration, Placement, Profile, Qad, changed, load_profile
from rdd_deploy.export.quantization import qad
from rdd_deploy.export.quantization.calibrate import calibrated
from rdd_deploy.export.quantization.calibration_frames import from_train
from rdd_deploy.export.quantization.fake_quant import fake_quantised
from rdd_deploy.export.quantization.placement import place_qdq
from rdd_deploy.export.quantization.qdq import qdq_from_onnx
from rdd_deploy.export.quantization.schemes import SCHEMES, open_scheme
from rdd_deploy.export.trained_run import TrainedRun, open_run
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_segmenter
from rdd_deploy.runtime import Segmenter as Runtime
from rdd_deploy.runtime import read_manifest
from rdd_deploy.utils.files import sha256

PLAN, CHECKPOINT = "onnxruntime-int8.plan.yaml", "onnxruntime-int8.fine-tuned.safetensors"


def logits(model: onnx.ModelProto, network_input: np.ndarray) -> np.ndarray:
    """What a graph's argmax reads, by onnxruntime as the graph is written: its optimiser would merge Q/DQ pairs and
    round otherwise.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    name = next(node for node in shown.graph.node if node.op_type == "ArgMax").input[0]
    shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], {INPUT: network_input})[0])


def check_simulation(
    segmenter: Segmenter,
    graph: onnx.ModelProto,
    source: TrainedRun,
    tables: Path,
    scheme: str,
    float_layers: list[str],
    size: tuple[int, int] = SIZE,
    weight_bits: Literal[7, 8] = 8,
) -> None:
    placement = Placement(weight_bits=weight_bits)
    frames = from_train(source.split("train"), [], 4, size)
    table = calibrated(graph, frames, Calibration(images=4), tables)
    own_scheme = open_scheme(scheme)
    plan = place_qdq(graph, own_scheme, placement, float_layers)
    simulated = fake_quantised(Deployed(segmenter), size, 1, plan, table.ranges, own_scheme)
    rendered = qdq_from_onnx(graph, table, own_scheme, placement, float_layers)
    errors, same = [], []
    for position in range(len(frames)):
        network_input = frames.network_input(position)
        with torch.no_grad():
            own = simulated(torch.from_numpy(network_input)).numpy()
        told, plain = logits(rendered, network_input), logits(graph, network_input)
        errors.append(np.abs(own - told).mean() / np.abs(plain - told).mean())
        same.append((own.argmax(1) == told.argmax(1)).mean())
    # The same to the bit, until a tie goes to the other side on some frame, because BatchNorm is folded on one side
    # only.
    assert min(errors) < 0.05
    assert max(errors) < 0.8
    assert min(same) > 0.99


@pytest.mark.parametrize(
    "scheme", [pytest.param(one, marks=[] if one == "onnxruntime" else pytest.mark.slow) for one in SCHEMES]
)
def test_simulation_is_the_qdq_graph(
    segmenter: Segmenter, graph: onnx.ModelProto, source: TrainedRun, tmp_path: Path, scheme: str
) -> None:
    check_simulation(segmenter, graph, source, tmp_path, scheme, ["encoder.blocks.0.0.conv_dw"])


def test_simulation_of_weights_of_7_bits(
    segmenter: Segmenter, graph: onnx.ModelProto, source: TrainedRun, tmp_path: Path
) -> None:
    check_simulation(segmenter, graph, source, tmp_path, "openvino", [], weight_bits=7)


def test_simulation_of_swish_and_asymmetric_padding(source: TrainedRun, tmp_path: Path) -> None:
    """Swish is one operator in PyTorch and two in ONNX, padding two and one."""
    torch.manual_seed(0)
    network = Network.model_validate(toys.network(encoder="test_efficientnet", activation="keep"))
    segmenter = Segmenter(network, len(toys.CLASSES)).eval()
    size = (40, 72)
    check_simulation(
        segmenter, onnx_export.onnx_from_segmenter(segmenter, size), source, tmp_path, "tensorrt", [], size
    )


def test_weights_come_back(segmenter: Segmenter) -> None:
    back = Deployed(segmenter).unfolded(segmenter).state_dict()
    for name, value in segmenter.state_dict().items():
        torch.testing.assert_close(back[name], value)


def profile(steps: int = 20, **gate: object) -> Profile:
    """Ranges that cut nearly half of all values."""
    calibration = {"images": 4, "method": "percentile", "percentile": 51, "bins": 512}
    settings = {"max_drop": 0.0, "fallbacks": ["qad"], "qad": {"steps": steps, "batch": 3, "lr": 2e-3}}
    return changed(load_profile("onnxruntime-int8"), calibration=calibration, gate=settings | gate)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory, data: Path, light_segmenter: Segmenter) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tuned", data, light_segmenter, toys.network())


@pytest.fixture(scope="module")
def bundle(own_run: Path) -> Path:
    before = sha256(own_run / "student.safetensors")
    target, _ = export_profile(open_run(own_run), profile(), own_run / "export", Options(force=True))
    assert sha256(own_run / "student.safetensors") == before
    return target


def labels(bundle: Path) -> np.ndarray:
    with Runtime.load(bundle) as runtime:
        return np.stack([runtime(toys.picture(index, *SIZE)[0][..., ::-1]) for index in range(4)])


def test_fine_tuning_helps_and_says_so(own_run: Path, bundle: Path) -> None:
    plan = yaml.safe_load((bundle / "plan.yaml").read_text())
    checkpoint = own_run / "export" / CHECKPOINT
    assert plan["qad"] == {"steps": 20, "batch": 3, "lr": 2e-3, "sha256": sha256(checkpoint)}
    manifest = read_manifest(bundle)
    assert manifest.provenance["weights_sha256"] == sha256(own_run / "student.safetensors")
    assert manifest.provenance["fine_tuned_sha256"] == sha256(checkpoint)
    assert manifest.metrics is not None
    assert manifest.metrics.label_agreement_pct is not None
    assert manifest.metrics.label_agreement_pct > 96  # with the original student, of whose labels it said 93 % before
    assert load_segmenter(checkpoint)[1]["fine_tuned_from"] == sha256(own_run / "student.safetensors")


def test_parity_climbs_from_the_fine_tuned_student(own_run: Path, bundle: Path, tmp_path: Path) -> None:
    report = compare_stages(bundle, limit=1)
    assert report.stages[0].agreement_torch_pct >= 99.99
    shutil.copytree(bundle, tmp_path / bundle.name)
    shutil.copy(own_run / "student.safetensors", tmp_path / CHECKPOINT)
    checkpoint = own_run / "export" / CHECKPOINT
    checkpoint.rename(checkpoint.with_suffix(".moved"))
    try:
        with pytest.raises(
            WeightsError, match=rf"{CHECKPOINT} isn't the fine-tuned student that is asked for: its SHA-256 is "
        ):
            compare_stages(tmp_path / bundle.name, own_run, limit=1)
    finally:
        checkpoint.with_suffix(".moved").rename(checkpoint)


@pytest.mark.slow
def test_an_encoder_with_branches_is_exported_quantised_fine_tuned_and_compared_merged(
    tmp_path: Path, data: Path
) -> None:
    network = toys.network(encoder="repghostnet_050")
    run = write_run(tmp_path / "branched", data, taught(network), network)
    target, _ = export_profile(open_run(run), profile(steps=3), run / "export", Options(force=True))
    manifest = read_manifest(target)
    assert 0 <= float(manifest.provenance["merged_branches_logit_error"] or 0) <= 1e-3
    assert load_segmenter(run / "export" / CHECKPOINT)[0].merged
    assert not load_segmenter(run / "student.safetensors")[0].merged
    report = compare_stages(target, limit=1)
    assert report.stages[0].agreement_torch_pct >= 99.99


def test_plan_replays_with_the_checkpoint_or_without(
    own_run: Path, bundle: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, plan = open_run(own_run), own_run / "export" / PLAN
    calm = changed(profile(), calibration={"images": 4})  # the plan holds what is another now
    again, _ = export_profile(source, calm, out / "again", Options(plan=bundle / "plan.yaml", force=True))
    assert (
        out / "again" / CHECKPOINT
    ).is_file()  # there was none beside that plan: fine-tuned again, to the same weights
    assert read_manifest(again).provenance["fine_tuned_sha256"] == read_manifest(bundle).provenance["fine_tuned_sha256"]
    monkeypatch.setattr(qad, "distilled", None)  # the saved one is used
    found, _ = export_profile(source, calm, out / "found", Options(plan=plan, force=True))
    assert (labels(found) == labels(bundle)).all()
    assert (labels(again) == labels(bundle)).all()
    (out / "other").mkdir()
    shutil.copy(own_run / "student.safetensors", out / "other" / CHECKPOINT)
    with pytest.raises(WeightsError, match="put that file there, or move this one away and export again"):
        export_profile(source, calm, out / "other", Options(plan=bundle / "plan.yaml"))


def test_old_plans_replay_with_the_profiles_values(light_source: TrainedRun, out: Path) -> None:
    out.mkdir()
    old = out / "old.yaml"
    old.write_text("profile: onnxruntime-int8\nscheme: onnxruntime\nmethod: percentile\n")
    export_profile(light_source, profile(), out, Options(plan=old, force=True))
    plan = yaml.safe_load((out / PLAN).read_text())
    assert (plan["method"], plan["percentile"], plan["bins"], plan["images"]) == ("percentile", 51.0, 512, 4)
    assert plan["placement"] == {
        "classifier": "float", "lraspp_gate": "float", "float_layers": [], "weight_bits": 8,
    }  # fmt: skip
    old.write_text(
        "profile: onnxruntime-int8\nscheme: onnxruntime\nmethod: percentile\npercentile: 20\nqad: {sha256: abc, stepz:"
        " 3}\n"
    )
    with pytest.raises(RecipeError, match="has 3 problems") as caught:
        export_profile(light_source, profile(), out, Options(plan=old))
    assert "  percentile: got 20, expected: input should be greater than 50" in str(caught.value)
    assert "qad.stepz: unknown key; did you mean 'steps'?" in str(caught.value)


def test_divergence_is_one_sentence(light_source: TrainedRun, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qad, "pixel_kd", lambda student, *_: student.sum() * math.nan)
    with pytest.raises(
        DivergedError,
        match=r"fine-tuning for INT8 diverged at step 1 of 20 \(loss nan.*lower gate.qad.lr in the profile",
    ):
        export_profile(light_source, profile(), out, Options())
    assert not out.exists()


def test_without_train_frames_the_gate_fails_as_before(
    data: Path, light_segmenter: Segmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "train")
    (tmp_path / "own").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "own" / f"{index}.png"), toys.picture(index + 50, *SIZE)[0])
    run = write_run(tmp_path / "run", tmp_path / "data", light_segmenter, toys.network())
    asked = profile(fallbacks=["float_layers", "qad"])
    asked = changed(
        asked, calibration={"folder": str(tmp_path / "own"), "images": 3, "method": "percentile", "percentile": 51}
    )
    with pytest.raises(GateError, match="no bundle was written"):
        export_profile(open_run(run), asked, tmp_path / "out", Options())
    said = " ".join(capsys.readouterr().err.split())
    assert "the fallback 'float_layers' is left out, for it needs the train split:" in said
    assert "the fallback 'qad' is left out, for it needs the train split:" in said


@pytest.mark.slow
def test_killed_half_way_nothing_is_left(light_run: Path, tmp_path: Path) -> None:
    before = sha256(light_run / "student.safetensors")
    path = toys.write_recipe(
        tmp_path / "onnxruntime-int8.yaml", profile(steps=100000).model_dump(mode="json", exclude_unset=True)
    )
    process = toys.Started("export.__main__", light_run, "--profile", path, "--output", tmp_path / "out", cwd=tmp_path)
    try:
        deadline = time.monotonic() + 100
        while (
            not (said := "fine-tuning for INT8" in process.stdout) and process.running and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        assert said, process.stderr
    finally:
        process.signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "out").exists()
    assert sha256(light_run / "student.safetensors") == before


def test_interrupted_half_way_nothing_is_left(
    light_source: TrainedRun, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(qad, "pixel_kd", pressed)
    before = sha256(light_source.run.student)
    with pytest.raises(KeyboardInterrupt):
        export_profile(light_source, profile(), out, Options())
    assert not out.exists()
    assert sha256(light_source.run.student) == before


def test_steps_beyond_an_epoch(
    light_segmenter: Segmenter, light_graph: onnx.ModelProto, light_source: TrainedRun, tmp_path: Path
) -> None:
    """A batch larger than the split is the split, and one frame is enough."""
    table = calibrated(
        light_graph, from_train(light_source.split("train"), [], 2, SIZE), Calibration(images=2), tmp_path
    )
    plan, recipe = place_qdq(light_graph, open_scheme("tensorrt"), Placement()), light_source.run.load_recipe()
    before = {name: value.clone() for name, value in light_segmenter.state_dict().items()}
    tuned = qad.distilled(
        light_segmenter,
        light_source.split("train", 1),
        recipe,
        SIZE,
        plan,
        table,
        open_scheme("tensorrt"),
        Qad(steps=3),
    )
    after = tuned.state_dict()
    assert all((light_segmenter.state_dict()[name] == value).all() for name, value in before.items())
    assert any((after[name] != value).any() for name, value in before.items())
    assert all((after[name] == value).all() for name, value in before.items() if "running" in name)
