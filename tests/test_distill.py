"""Distilling in this process: what reaches the student, what doesn't reach the teacher."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import network, read_json, teacher_tree, write_recipe, write_story

from rdd_deploy import distill, train
from rdd_deploy.data.loader import Batch
from rdd_deploy.distill import _loss, _named_teacher, _objective, _teacher_checkpoint, distill_recipe
from rdd_deploy.errors import RddError
from rdd_deploy.fit import Loss, make_fabric
from rdd_deploy.models.segmenter import Output, Segmenter
from rdd_deploy.models.weights import load_checkpoint, load_segmenter
from rdd_deploy.prepare import Prepared
from rdd_deploy.recipe import load_recipe
from rdd_deploy.teacher import LiveTeacher, Views
from rdd_deploy.train import train_recipe


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
    real = load_checkpoint

    def load(*arguments: Any) -> Any:
        loaded = real(*arguments)
        kept.append((loaded.segmenter, {name: value.clone() for name, value in loaded.segmenter.state_dict().items()}))
        return loaded

    monkeypatch.setattr(distill, "load_checkpoint", load)
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
    objective = _objective(recipe, loss, distill.Teacher(teacher, LiveTeacher(teacher), Views((64, 64)), Path(), ""))
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


def test_every_loss_has_a_name_of_its_own_in_the_log(story: Path) -> None:
    losses = "[{name: kd, options: {temperature: 4.0}}, {name: cwd}, {name: cwd, options: {temperature: 1.0}}, {name: kd}]"
    recipe = load_recipe(story, [f"distillation.losses={losses}", "train.epochs=1"])
    distill_recipe(recipe, story, story.parent / "runs", name="many")
    header, values = (line.split(",") for line in (story.parent / "runs" / "many" / "metrics.csv").read_text().splitlines())
    row = dict(zip(header, values, strict=True))
    assert [name for name in header if "kd" in name or "cwd" in name] == [
        "loss_kd", "loss_extra_kd", "loss_cwd", "loss_extra_cwd", "loss_extra_kd_2",
    ]  # fmt: skip
    assert float(row["loss_extra_kd_2"]) == pytest.approx(float(row["loss_kd"]), rel=1e-4)
    assert float(row["loss_extra_kd"]) != pytest.approx(float(row["loss_kd"]), rel=1e-2)


def ended(command: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    with pytest.raises(SystemExit) as raised:
        command()
    return raised.value.code


@pytest.mark.parametrize("command", [distill.main, train.main])
def test_dry_run_trains_nothing(
    story: Path, command: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(story.parent.rglob("*"))
    assert ended(command, monkeypatch, story, "--dry-run", "--output", story.parent / "runs") == 0
    assert "dry run: recipe, data and weights are fine; nothing was trained" in capsys.readouterr().out
    assert sorted(story.parent.rglob("*")) == before


def test_dry_run_tells_all_that_is_wrong_together(story: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train.precision=16-mixed", "data.root=elsewhere", "student.weights=lost.pth")
    assert ended(distill.main, monkeypatch, story, *words, "--dry-run", "--output", story.parent / "runs") == 2
    lines = " ".join(capsys.readouterr().err.split())
    for sentence in (
        "3 problems:",
        "train.precision is 16-mixed, which 'cpu' can't compute in",
        "no train split in elsewhere",
        "no weights file lost.pth",
    ):
        assert sentence in lines


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        (distill.main, ["distillation.losses=[{name: nope}]"], "distillation.losses.0.name: got 'nope', expected 'kd' or 'cwd'"),
        (
            distill.main,
            ["distillation.losses=[{name: cwd, options: {temperature: hot}}]"],
            "distillation.losses.0.options.temperature: got 'hot', expected: input should be a valid number",
        ),
        (
            distill.main,
            ["distillation.losses=[{name: kd, options: {ignore_index: 0}}]"],
            "distillation.losses.0.options.ignore_index: unknown option of the loss 'kd'; allowed: temperature",
        ),
        (distill.main, ["student.encoder=nope_50"], "unknown encoder 'nope_50'"),
        (distill.main, ["teacher.recipe=lost"], "no recipe 'lost'; expected a YAML file"),
        (distill.main, ["teacher.recipe=null", "teacher.checkpoint=lost.safetensors"], "no teacher checkpoint lost.safetensors"),
        (distill.main, ["data.classes=[left, middle, right, above]"], "teacher.safetensors was trained on 3 classes"),
        (distill.main, ["--name", "a b"], "--name is 'a b'; expected letters, digits"),
        (train.main, ["--name", "latest"], "--name is 'latest'; expected letters, digits"),
        (train.main, ["student.encoder=nope_50"], "unknown encoder 'nope_50'"),
        (train.main, ["train.device=tpu"], "can't train on 1 x 'tpu'"),
        pytest.param(distill.main, ["train.device=cuda"], "train.device is 'cuda' but torch", marks=NO_GPU),
        pytest.param(train.main, ["train.device=cuda"], "train.device is 'cuda' but torch", marks=NO_GPU),
    ],
)
def test_dry_run_refuses(
    story: Path,
    command: Callable[[], None],
    words: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(command, monkeypatch, story, "--dry-run", "--output", story.parent / "runs", *words) == 2
    printed = capsys.readouterr()
    assert sentence in " ".join(printed.err.split())
    assert "are fine" not in printed.out


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A story whose teacher was trained, and whose teacher's recipe is another one now; returns the student's recipe."""
    story = write_story(tmp_path)
    teacher = tmp_path / "teacher.yaml"
    train_recipe(load_recipe(teacher), tmp_path / "runs")
    write_recipe(teacher, teacher_tree(tmp_path / "data", network=network(auxiliary=True, channels=24)))
    return story


def checkpoint_of(story: Path, resume: bool = False) -> Path:
    recipe, runs = load_recipe(story), story.parent / "runs"
    return _teacher_checkpoint(recipe, _named_teacher(recipe, story, runs), runs, resume, Prepared(recipe), make_fabric(recipe.train))


def test_a_teacher_of_another_recipe_is_used_with_a_warning(changed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (changed.parent / "runs" / "teacher" / "teacher.safetensors").read_bytes()
    assert checkpoint_of(changed).read_bytes() == before
    warning = " ".join(capsys.readouterr().err.split())
    assert warning.startswith(
        f"warning: the teacher in {changed.parent}/runs/teacher is used as it is, though {changed.parent}/teacher.yaml is another"
    )
    assert "recipe now (network.channels: 16 → 24); move that folder away to train it anew" in warning


def test_an_unfinished_teacher_of_another_recipe_is_set_aside(changed: Path) -> None:
    runs = changed.parent / "runs"
    (runs / "teacher" / "summary.json").unlink()
    with pytest.raises(RddError, match=r"can't resume .*teacher: the recipe changed \(network\.channels: 16 → 24\)"):
        checkpoint_of(changed, resume=True)
    checkpoint = checkpoint_of(changed)
    assert load_segmenter(checkpoint)[0].network.channels == 24
    assert load_segmenter(runs / "teacher.1" / "teacher.safetensors")[0].network.channels == 16
