from pathlib import Path

import pytest

from rdd_deploy.benchmark.records import STAGES
from rdd_deploy.benchmark.timing import Measured
from rdd_deploy.suggest import work
from rdd_deploy.suggest.untrained import Exported, Target

TARGET = Target("lraspp", (64, 96), 3, "onnxruntime", "int8")


def test_a_call_is_what_happens_to_a_frame_at_hand() -> None:
    ms = {"decode": 100.0, "resize": 1.0, "infer": 2.0, "resize back": 4.0, "draw": 1000.0}
    row = work._row("a", "lraspp", 7, 0.5, Measured(stage_ms=[tuple(ms[name] for name in STAGES)] * 20))
    assert (row.call_p50_ms, row.call_p95_ms, row.network_p50_ms, row.parameters, row.bundle_mb) == (
        7.0,
        7.0,
        2.0,
        7,
        0.5,
    )


def test_what_stops_a_candidate_is_its_row_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(encoder: str, target: Target, folder: Path, data: Path) -> Exported:
        if encoder == "bad":
            raise RuntimeError("no such operator\nat length")
        (folder / encoder).mkdir(parents=True)
        (folder / encoder / "model.onnx").write_bytes(b"0" * 2_000_000)
        return Exported(folder / encoder, 3)

    measured = {"good": Measured(stage_ms=[(1.0,) * len(STAGES)]), "broken": Measured(failure="not here")}
    monkeypatch.setattr(work, "export_untrained", export)
    monkeypatch.setattr(work, "write_streets", lambda folder, classes: None)
    monkeypatch.setattr(work, "_measure", lambda exported, *_: {name: measured[name] for name in exported})
    monkeypatch.setattr(work.tempfile, "tempdir", str(tmp_path))
    rows = work.time_candidates(["bad", "good", "broken"], TARGET, 1, 1)
    assert [row.measured for row in rows] == [False, True, False]
    assert "no such operator" in str(rows[0].failure)
    assert (rows[1].bundle_mb, rows[1].call_p50_ms, rows[2].failure) == (2.0, 3.0, "not here")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_searched_for_untrained_weights() -> None:
    gate, calibration = TARGET.profile.gate, TARGET.profile.calibration
    assert (gate.max_drop, gate.fallbacks) == (100.0, [])
    assert calibration is not None
    assert calibration.images <= 8
    assert Target("lraspp", (64, 96), 3, "openvino", "fp32").profile.precision == "fp32"
