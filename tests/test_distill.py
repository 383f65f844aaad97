"""Distilling in this process: what reaches the student, what doesn't reach the teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import network, read_json, write_recipe, write_story

from rdd_deploy import distill
from rdd_deploy.data.loader import Batch
from rdd_deploy.distill import _loss, _objective, distill_recipe
from rdd_deploy.fit import Loss
from rdd_deploy.models.segmenter import Output, Segmenter
from rdd_deploy.models.weights import load_segmenter
from rdd_deploy.recipe import load_recipe
from rdd_deploy.teacher import LiveTeacher, Views


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    recipe = write_story(folder, {"train": {"epochs": 1, "batch": 2, "device": "cpu", "precision": "32-true", "pictures_every": 1}})
    distill_recipe(load_recipe(recipe), recipe, folder / "runs")
    return recipe


def test_the_teacher_is_trained_first_and_used_again(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = story.parent / "runs"
    before = (runs / "teacher" / "teacher.safetensors").read_bytes()
    distill_recipe(load_recipe(story), story, runs, name="second")
    out = capsys.readouterr().out
    assert "training it first" not in out
    assert f"teacher: {runs}/teacher/teacher.safetensors, run on every crop" in out
    assert (runs / "teacher" / "teacher.safetensors").read_bytes() == before
    assert read_json(runs / "second" / "summary.json")["teacher"]["checkpoint"] == str(runs / "teacher" / "teacher.safetensors")
    assert (runs / "latest").resolve() == runs / "second"


def test_an_unfinished_teacher_is_finished_first(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = story.parent / "runs"
    (runs / "teacher" / "summary.json").unlink()
    distill_recipe(load_recipe(story), story, runs, name="third")
    assert "isn't there or isn't finished: training it first" in capsys.readouterr().out
    assert (runs / "teacher" / "summary.json").is_file()


def test_a_student_starts_alike_whether_its_teacher_was_there_or_not(tmp_path: Path) -> None:
    recipe = write_story(
        tmp_path, {"student": network(dropout=0.5), "train": {"epochs": 1, "batch": 2, "device": "cpu", "precision": "32-true"}}
    )
    first = distill_recipe(load_recipe(recipe), recipe, tmp_path / "runs", name="first")
    again = distill_recipe(load_recipe(recipe), recipe, tmp_path / "runs", name="again")
    a, b = load_segmenter(first.student)[0].state_dict(), load_segmenter(again.student)[0].state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_teacher_stays_as_it_was(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its BatchNorm statistics too, through training, measuring and painting."""
    kept: list[tuple[Segmenter, dict[str, torch.Tensor]]] = []
    real = load_segmenter

    def load(*arguments: Any) -> Any:
        segmenter, facts = real(*arguments)
        kept.append((segmenter, {name: value.clone() for name, value in segmenter.state_dict().items()}))
        return segmenter, facts

    monkeypatch.setattr(distill, "load_segmenter", load)
    folder = distill_recipe(load_recipe(story), story, story.parent / "runs", name="watched")
    ((segmenter, before),) = kept
    assert not segmenter.training
    assert all(torch.equal(before[name], value) for name, value in segmenter.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in segmenter.parameters())
    assert [path.name for path in folder.pictures.iterdir()] == ["epoch_001.png"]


def test_weights_of_the_terms_add_up(story: Path) -> None:
    recipe = load_recipe(story, ["distillation.kd_weight=0.5", "distillation.losses=[{name: cwd, weight: 3.0}]"])
    torch.manual_seed(0)
    teacher = Segmenter(load_recipe(story.parent / "teacher.yaml").network, 3)  # type: ignore[arg-type]
    loss = _loss(recipe.distillation)
    objective = _objective(recipe, loss, distill.Teacher(teacher, LiveTeacher(teacher), Views((64, 64)), Path()))
    batch = Batch(
        torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.randint(0, 3, (2, 64, 64)), torch.zeros(2, 5), torch.arange(2)
    )
    student = torch.randn(2, 3, 64, 64, requires_grad=True)
    got: Loss = objective(Output(student, None), batch, 0.5)
    assert list(got.terms) == ["task", "kd", "ce", "kept", "cwd"]
    expected = got.terms["task"] + 0.5 * got.terms["kd"] + 3 * got.terms["cwd"]
    assert got.total.item() == pytest.approx(expected.item(), rel=1e-5)
    got.total.backward()
    assert student.grad is not None
    assert all(p.grad is None for p in teacher.parameters())


def test_dry_run_trains_nothing(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(story.parent.rglob("*"))
    distill._dry_run(load_recipe(write_recipe(story, load_recipe(story).model_dump(mode="json", exclude_none=True))))
    assert "dry run: recipe, data and weights are fine; nothing was trained" in capsys.readouterr().out
    assert sorted(story.parent.rglob("*")) == before
