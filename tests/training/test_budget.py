"""A time in place of epochs: as many as fit, and else the run that those epochs name."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import network, read_json, tree, write_data, write_recipe, write_story

from rdd_deploy.errors import RddError, RecipeError
from rdd_deploy.recipe import load_distillation, load_recipe
from rdd_deploy.recipe_train import seconds_of
from rdd_deploy.training import budget, loop
from rdd_deploy.training.budget import Costs
from rdd_deploy.training.distillation import distill_recipe
from rdd_deploy.training.loop import Interrupted
from rdd_deploy.training.supervised import train_recipe


@given(
    step=st.floats(1e-3, 5), evaluation=st.floats(0, 100), steps=st.integers(1, 500), every=st.integers(1, 10), seconds=st.floats(1, 1e5)
)  # fmt: skip
def test_the_most_epochs_that_fit(step: float, evaluation: float, steps: int, every: int, seconds: float) -> None:
    costs = Costs(step, evaluation, steps, every)
    epochs = costs.epochs_in(seconds)
    assert not epochs or costs.of(epochs) <= seconds
    assert costs.of(epochs + 1) > seconds or epochs == budget.MOST_EPOCHS or evaluation
    assert costs.of(epochs + every) > seconds or epochs == budget.MOST_EPOCHS


def test_times() -> None:
    assert [seconds_of(text) for text in ("90s", "60min", "1.5h", "45 min")] == [90, 3600, 5400, 2700]
    for text in ("", "60", "0s", "min", "1h30", "-3h", "inf h", "99999999h"):
        with pytest.raises(ValueError, match=r"expected a time such as 90s, 60min or 3h$"):
            seconds_of(text)


def recipe_at(place: Path, **train: Any) -> Path:
    content = tree(write_data(place / "data")) if not (place / "data").is_dir() else tree(place / "data")
    content["student"] = network(dropout=0.3)
    content["train"] = {**content["train"], "loggers": ["csv"], **train}
    return write_recipe(place / "toy.yaml", content)


def test_one_of_both(tmp_path: Path) -> None:
    path = recipe_at(tmp_path)
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, ["train.budget=60min"])
    assert "train.epochs and train.budget are both given; the budget chooses the epochs" in str(raised.value)
    recipe = load_recipe(path, ["train.budget=60min", "train.epochs=null"])
    assert "epochs" not in recipe.model_dump()["train"]
    assert load_recipe(path, ["train.epochs=null"]).train.epochs == 60
    for wrong in ("60", "'60'", "60.5", "{a: 1}", "soon"):
        with pytest.raises(RecipeError, match=r"train\.budget: got .*, expected a time such as 90s, 60min or 3h"):
            load_recipe(path, [f"train.budget={wrong}", "train.epochs=null"])


def rows(run: Path) -> list[dict[str, str]]:
    found = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def test_it_is_the_run_of_its_epochs_also_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen: list[float] = []

    def three(costs: Costs, seconds: float) -> int:
        chosen.append(seconds)
        assert (costs.steps, costs.every) == (3, 1)
        assert costs.step > 0
        assert costs.evaluation > 0
        return 3

    monkeypatch.setattr(budget, "MOST", 4)
    monkeypatch.setattr(Costs, "epochs_in", three)
    path = recipe_at(tmp_path)
    plain = train_recipe(load_recipe(path), tmp_path / "plain").path
    timed, runs = load_recipe(path, ["train.budget=60min", "train.epochs=null"]), tmp_path / "runs"

    keep = loop._keep_best

    def stop(*arguments: Any) -> None:
        keep(*arguments)
        if arguments[-1] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "_keep_best", stop)
    with pytest.raises(Interrupted):
        train_recipe(timed, runs)
    monkeypatch.setattr(loop, "_keep_best", keep)
    assert 0.9 * 3600 < chosen[0] < 3600
    assert "train.budget: 3 epochs fit 60min: 3 steps of " in capsys.readouterr().out
    with pytest.raises(RddError, match=r"since it was begun train\.budget changed"):
        train_recipe(load_recipe(path, ["train.budget=30min", "train.epochs=null"]), runs, resume=True)
    run = train_recipe(timed, runs, resume=True).path
    assert len(chosen) == 1, "a resumed run goes on with what was chosen"
    assert load_recipe(run / "recipe.yaml").train.epochs == 3
    summary = read_json(run / "summary.json")
    assert (summary["epochs"], summary["budget"]) == (3, "60min")
    one, other = (safetensors.torch.load_file(place / "student.safetensors") for place in (plain, run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows(plain) == rows(run)


def test_a_distillation_within_a_budget_is_the_run_of_its_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What timing its steps leaves as it was: the teacher, dropout's random numbers, a loss's memory."""
    monkeypatch.setattr(budget, "MOST", 4)
    monkeypatch.setattr(Costs, "epochs_in", lambda *_: 2)
    bank = {"losses": [{"name": "cirkd_memory", "options": {"regions": 8}}]}
    story = write_story(tmp_path, student={"student": network(dropout=0.3), "distillation": bank})
    plain = distill_recipe(load_distillation(story, ["train.epochs=2"]), story, tmp_path / "runs", name="plain")
    timed = load_distillation(story, ["train.epochs=null", "train.budget=1h"])
    run = distill_recipe(timed, story, tmp_path / "runs", name="timed")
    one, other = (safetensors.torch.load_file(place.student) for place in (plain, run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows(plain.path) == rows(run.path)


def test_crops_of_each_size_count_by_their_share_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Costs] = []

    def one(costs: Costs, seconds: float) -> int:
        found.append(costs)
        return 1

    def height(state: Any, batches: Any, *rest: Any) -> float:
        return float(next(batches).images.shape[-2])

    monkeypatch.setattr(budget, "_seconds_of_a_step", height)
    monkeypatch.setattr(Costs, "epochs_in", one)
    recipe = load_recipe(recipe_at(tmp_path, progressive=[[0.0, 32], [0.25, 64]], budget="1h"), ["train.epochs=null"])
    train_recipe(recipe, tmp_path / "runs")
    assert found[0].step == 0.25 * 32 + 0.75 * 64


def test_not_even_one_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST", 4)
    recipe = load_recipe(recipe_at(tmp_path, budget="0.01s"), ["train.epochs=null"])
    with pytest.raises(
        RecipeError, match=r"^train\.budget is 0\.01s, but one epoch takes about [\d.]+ s \(3 steps of "
    ):
        train_recipe(recipe, tmp_path / "runs")
    assert not (tmp_path / "runs" / "toy_alone" / "state.ckpt").exists()
