import sys
from pathlib import Path
from types import ModuleType

import pytest
from script import script


@pytest.fixture
def speed() -> ModuleType:
    return script("live_speed")


@pytest.mark.parametrize(("ratio", "draw", "code"), [(0.9, 1.0, 0), (0.84, 1.0, 1), (0.9, 2.1, 1)])
def test_a_missed_bar_is_exit_code_1(
    speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, draw: float, code: int
) -> None:
    record = {
        "live_over_bare": ratio,
        "read_ms": [0.4, 0.5, 0.6],
        "live_recording_over_bare": 0.7,
        "draw_ms": {size: {"p50": draw, "p95": 3.0} for size in speed.MAX_DRAW_MS},
    }
    monkeypatch.setattr(speed, "measure", lambda *_: record)
    monkeypatch.setattr(sys, "argv", ["live_speed.py", "bundle", "--json", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit) as end:
        speed.main()
    assert end.value.code == code
    assert (tmp_path / "out.json").exists()
