"""Bundles and plans that an older version wrote still run and replay; old keys in a user's own file are errors that
name the new ones.

``older/onnxruntime-int8`` is such a bundle: a tiny graph whose class ids lie in a float's last bits (``tail: packed``),
with plan and manifest.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from rdd_deploy.errors import RecipeError
from rdd_deploy.export.onnx.graph import load_graph
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import changed, load_profile
from rdd_deploy.export.quantization.plan import load_plan
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.runtime import Segmenter, read_manifest

OLD = Path(__file__).parent / "older" / "onnxruntime-int8"
LABELS = "0287995a9b52ee42054a768204a19c22f22a41b0199234e8ae327924d120fbd4"
"""Hash of what the older version computed."""


def test_an_old_bundle_runs_and_gives_the_labels_that_it_gave() -> None:
    frame = np.random.default_rng(5).integers(0, 256, (64, 96, 3), np.uint8)
    with Segmenter.load(OLD) as segmenter:
        labels = segmenter(frame)
    assert hashlib.sha256(np.ascontiguousarray(labels)).hexdigest() == LABELS
    assert read_manifest(OLD).profile == "onnxruntime-int8"


def test_an_old_bundles_plan_replays(source: TrainedRun, out: Path) -> None:
    profile = changed(load_profile("onnxruntime-int8"), gate={"max_drop": 20})
    plan = load_plan(OLD / "plan.yaml", profile)
    assert (plan.scheme, plan.placement.lraspp_gate, plan.qad) == ("onnxruntime", "float", None)
    target, _ = export_profile(source, profile, out, Options(plan=OLD / "plan.yaml"))
    says = {one.key: one.value for one in load_graph(target / "model.onnx").metadata_props}
    assert (says["precision"], json.loads(says["preprocessing"])) == (
        "int8",
        read_manifest(target).facts["preprocessing"],
    )
    written = yaml.safe_load((target / "plan.yaml").read_text())
    assert (written["scheme"], written["placement"]["lraspp_gate"]) == ("onnxruntime", "float")
    assert not {"form", "distil"} & set(written)


def test_an_old_plan_of_a_fine_tuned_student(tmp_path: Path) -> None:
    tree = yaml.safe_load((OLD / "plan.yaml").read_text())
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(tree | {"distil": {"steps": 3, "batch": 2, "lr": 1e-4, "sha256": "a" * 64}}))
    plan = load_plan(path, load_profile("onnxruntime-int8"))
    assert plan.qad is not None
    assert (plan.qad.steps, plan.qad.sha256) == (3, "a" * 64)


def test_old_keys_in_a_plan_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("profile: onnxruntime-int8\nform: x86\nmethod: mse\nplacement: {gate: int8}\ndistil: {}\n")
    with pytest.raises(RecipeError) as caught:
        load_plan(path, load_profile("onnxruntime-int8"))
    assert set(str(caught.value).splitlines()[1:]) == {
        "  scheme: missing; expected a value",
        "  form: is now called 'scheme: onnxruntime'; rename it",
        "  placement.gate: is now called 'lraspp_gate'; rename it",
        "  distil: is now called 'qad'; rename it",
    }


def test_old_keys_in_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "backend: onnxruntime\nprecision: int8\nform: trt\ntail: running\ncalibration: {}\nplacement: {gate: int8}\n"
        "gate: {remedies: [mse], float_macs: 0.2, ranking_frames: 4, distil: {steps: 3}}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_profile(path)
    assert sorted(str(caught.value).splitlines()[1:]) == [
        "  form: is now called 'scheme: tensorrt'; rename it",
        "  gate.distil: is now called 'qad'; rename it",
        "  gate.float_macs: is now called 'max_float_macs'; rename it",
        "  gate.ranking_frames: is now called 'sensitivity_frames'; rename it",
        "  gate.remedies: is now called 'fallbacks'; rename it",
        "  placement.gate: is now called 'lraspp_gate'; rename it",
        "  tail: is now called 'postprocess: running_argmax'; rename it",
    ]


@pytest.mark.parametrize(("old", "new"), [("packed", "postprocess: matmul"), ("matmul", "postprocess")])
def test_old_postprocessing(old: str, new: str) -> None:
    with pytest.raises(RecipeError, match=f"tail: is now called '{new}'; rename it"):
        load_profile("onnxruntime-int8", [f"tail={old}"])
