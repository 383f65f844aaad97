"""The load script's verdict; the measurement itself takes minutes."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from script import script


@pytest.fixture
def load() -> ModuleType:
    return script("web_load")


@pytest.mark.parametrize(("ratio", "growth", "code"), [(0.95, 1.0, 0), (0.89, 1.0, 1), (0.95, 21.0, 1)])
def test_a_missed_bar_is_exit_code_1(
    load: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, growth: float, code: int
) -> None:
    record = {
        "ratio": ratio,
        "growth_mb": growth,
        "cpu_ms_a_frame": {"with": 3.0, "without": 2.0},
        "pictures_of_a_reader": 200.0,
        "pictures_of_the_slowest_reader": 190,
    }
    monkeypatch.setattr(load, "measure", lambda *_: record)
    monkeypatch.setattr(sys, "argv", ["web_load.py", "bundle", "--json", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit) as end:
        load.main()
    assert end.value.code == code
    assert (tmp_path / "out.json").exists()
