"""The load script's verdict; the measurement itself takes minutes."""

import json
import os
import subprocess
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


def test_it_measures(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """One short turn of each kind, with three viewers of whom one never reads; the rates of so short ones mean nothing."""
    words = [str(pair[0]), "--viewers", "3", "--minutes", "0.01", "--fps", "20", "--json", str(tmp_path / "out.json")]
    code = (
        "import sys, web_load; web_load.TURN_S, web_load.WARM_S = 1.2, 0.3; "
        f"sys.argv = ['web_load.py', *{words!r}]; web_load.main()"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'scripts'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 1), done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["pictures_of_a_reader"] > 0
    assert record["fps_with"][0] > 0
