"""The table of second opinions: its statistics by hand, and a toy teacher whose opinions it compares."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from script import script as load_script
from toy_onnx import colours
from toys import CLASSES, teacher_tree, tree, write_data, write_recipe

from rdd_deploy.recipe import load_recipe
from rdd_deploy.training import fitted_second
from rdd_deploy.training.supervised import train_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("second_opinion")


def test_the_statistics(script: ModuleType) -> None:
    values = np.array([3.0, 1.0, 2.0, 2.0])
    assert script.ranks(values).tolist() == [4, 1, 2.5, 2.5]
    assert script.spearman(values, values**3) == pytest.approx(1)
    assert script.spearman(values, -values) == pytest.approx(-1)
    assert np.isnan(script.spearman(values, np.ones(4)))
    wrong = np.array([1.0, 0.0, 0.0, 1.0])
    assert script.auroc(values, wrong) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert np.isnan(script.auroc(values, np.zeros(4)))


def test_a_table_of_a_run_and_of_a_teacher_from_elsewhere(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitted_second, "LEAST_STEPS", 30)
    root = write_data(tmp_path / "data")
    train_recipe(load_recipe(write_recipe(tmp_path / "teacher.yaml", teacher_tree(root))), tmp_path / "runs")

    def rows(*words: object) -> dict[str, list[str]]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["second_opinion.py", *map(str, words)])
        script.main()
        lines = [
            line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")
        ]
        return {first: rest for first, *rest in lines[1:]}

    table = rows(tmp_path / "runs" / "teacher", "--fitted", "--scales", 0.75)
    assert list(table) == ["auxiliary", "flip", "scale 0.75", "fitted on stage4"]
    assert all(len(row) == 5 for row in table.values())
    colours(tmp_path / "t.onnx")
    teacher = {
        "checkpoint": str(tmp_path / "t.onnx"),
        "source": "onnx",
        "options": {"names": CLASSES},
        "second": "flip",
    }
    source = write_recipe(tmp_path / "student.yaml", tree(root, teacher=teacher))
    table = rows(tmp_path / "t.onnx", "--recipe", source, "--other", tmp_path / "t.onnx")
    assert list(table) == ["flip", "scale 0.5", "scale 0.75", "ensemble"]
    assert float(table["ensemble"][3]) == 1, "one teacher twice is of one opinion"
    with pytest.raises(SystemExit):
        rows(tmp_path / "t.onnx")
