"""The demo's forecast: a real step of small networks, and the arithmetic around it."""

from pathlib import Path

import pytest
import torch

from rdd_deploy.recipe import Recipe, TeacherRecipe, load_recipe
from rdd_deploy.recipe_files import find_recipe
from rdd_deploy.training import forecast

ROOT = Path(__file__).parents[2]


def shipped(name: str, *overrides: str) -> Recipe:
    return load_recipe(find_recipe(str(ROOT / "recipes" / name)), overrides)


def test_a_measured_step_takes_time_and_changes_no_draw() -> None:
    recipe = shipped(
        "streets_demo.yaml", "augment.crop=[64,64]", "train.batch=2", "train.device=cpu", "student.channels=16"
    )
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert 0 < forecast.seconds_of_a_step(recipe, 3) < 60
    assert torch.equal(torch.rand(3), expected)


def test_what_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = (
        shipped("streets_demo.yaml", "train.epochs=10"),
        shipped("streets_teacher.yaml", "train.epochs=5"),
    )
    monkeypatch.setattr(
        forecast, "seconds_of_a_step", lambda recipe, classes: 0.6 if isinstance(recipe, TeacherRecipe) else 0.1
    )
    views = 2 * 192 * 256 / (8 * 128 * 128) / 3  # flipped, too; a third of a step for each crop's worth of pixels
    expected = 1.2 * (0.6 * (5 * 40 + 320 * views) + 0.1 * 2 * 10 * 40)
    assert forecast.seconds_to_come(student, teacher, 320, 11) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1, "0.5 min"),
        (30, "0.5 min"),
        (31, "1 min"),
        (300, "5 min"),
        (301, "5.5 min"),
        (7200, "120 min"),
        (7201, "2 h 1 min"),
        (200_000, "2 days 7 h"),
    ],
)
def test_in_words(seconds: float, words: str) -> None:
    assert forecast.in_words(seconds) == words
