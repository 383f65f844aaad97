"""Distilling in this process: what reaches the student, what doesn't reach the teacher."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_teacher import Colours
from toys import network, read_json, teacher_tree, write_recipe, write_story

from rdd_deploy import distill, train
from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import RddError, RecipeError, WeightsError
from rdd_deploy.losses import LOSSES
from rdd_deploy.losses.region import RegionLoss
from rdd_deploy.losses.task import class_weights
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.teachers import TEACHERS
from rdd_deploy.models.teachers import checkpoint as checkpoint_teachers
from rdd_deploy.models.teachers.base import LoadedTeacher
from rdd_deploy.models.weights import load_checkpoint, load_segmenter
from rdd_deploy.outputs import Output
from rdd_deploy.recipe import load_distillation, load_recipe
from rdd_deploy.training import teacher_measuring
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.distillation import distill_recipe
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.objective import DistillationObjective, extra_losses, rdd_loss
from rdd_deploy.training.state import Loss
from rdd_deploy.training.supervised import train_recipe
from rdd_deploy.training.teacher import LiveTeacher, named_teacher, teacher_checkpoint
from rdd_deploy.utils.files import sha256
from rdd_deploy.utils.locks import locked
from rdd_deploy.utils.tables import Entry


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    recipe = write_story(
        folder, {"train": {"epochs": 1, "batch": 2, "device": "cpu", "precision": "32-true", "pictures_every": 1}}
    )
    distill_recipe(load_recipe(recipe), recipe, folder / "runs")
    return recipe


def test_the_teacher_is_trained_first_and_used_again(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = story.parent / "runs"
    before = (runs / "teacher" / "teacher.safetensors").read_bytes()
    distill_recipe(load_distillation(story), story, runs, name="second")
    out = capsys.readouterr().out
    assert "training it first" not in out
    assert f"teacher: {runs}/teacher/teacher.safetensors, run on every crop" in out
    assert (runs / "teacher" / "teacher.safetensors").read_bytes() == before
    assert read_json(runs / "second" / "summary.json")["teacher"]["checkpoint"] == str(
        runs / "teacher" / "teacher.safetensors"
    )
    assert (runs / "latest").resolve() == runs / "second"


def test_an_unfinished_teacher_is_finished_first(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = story.parent / "runs"
    (runs / "teacher" / "summary.json").unlink()
    distill_recipe(load_distillation(story), story, runs, name="third")
    assert "isn't there or isn't finished: training it first" in capsys.readouterr().out
    assert (runs / "teacher" / "summary.json").is_file()


def test_a_student_starts_alike_whether_its_teacher_was_there_or_not(tmp_path: Path) -> None:
    recipe = write_story(
        tmp_path,
        {"student": network(dropout=0.5), "train": {"epochs": 1, "batch": 2, "device": "cpu", "precision": "32-true"}},
    )
    first = distill_recipe(load_recipe(recipe), recipe, tmp_path / "runs", name="first")
    again = distill_recipe(load_recipe(recipe), recipe, tmp_path / "runs", name="again")
    a, b = load_segmenter(first.student)[0].state_dict(), load_segmenter(again.student)[0].state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_cached_teacher_is_measured_once_for_all_students(
    story: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = story.parent / "runs"
    monkeypatch.setattr(teacher_measuring, "git_commit", lambda: "0123456789")

    def taught(name: str, *words: str) -> tuple[dict[str, Any], str]:
        folder = distill_recipe(load_distillation(story, ["teacher.cache=true", *words]), story, runs, name=name)
        return read_json(folder.summary)["teacher"], capsys.readouterr().out

    first, said = taught("measured")
    assert "as measured before" not in said
    second, said = taught("kept")
    assert (second, "as measured before" in said) == (first, True)
    (kept,) = (runs / "teacher" / "cache").glob("measured-*.json")
    kept.write_text(kept.read_text()[:-9])
    assert taught("damaged")[0] == first
    kept.unlink()
    kept.mkdir()  # nothing can be written there
    assert taught("unwritable")[0] == first
    kept.rmdir()
    monkeypatch.setattr(teacher_measuring, "git_commit", lambda: "0123456789-dirty")
    assert taught("changed-code")[0] == first
    assert not list((runs / "teacher" / "cache").glob("measured-*.json"))
    other, said = taught("mirrored", "teacher.flip=true")
    assert "as measured before" not in said, "other views are another teacher"
    assert other["views"] != first["views"]


def test_the_teacher_stays_as_it_was(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its BatchNorm statistics too, through training, measuring and painting."""
    kept: list[tuple[Segmenter, dict[str, torch.Tensor]]] = []
    real = load_checkpoint

    def load(*arguments: Any) -> Any:
        loaded = real(*arguments)
        kept.append((loaded.segmenter, {name: value.clone() for name, value in loaded.segmenter.state_dict().items()}))
        return loaded

    monkeypatch.setattr(checkpoint_teachers, "load_checkpoint", load)
    folder = distill_recipe(load_distillation(story), story, story.parent / "runs", name="watched")
    ((segmenter, before),) = kept
    assert not segmenter.training
    assert all(torch.equal(before[name], value) for name, value in segmenter.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in segmenter.parameters())
    assert [path.name for path in folder.pictures.iterdir()] == ["epoch_001.png"]


def test_weights_of_the_terms_add_up(story: Path) -> None:
    recipe = load_distillation(story, ["distillation.kd_weight=0.5", "distillation.losses=[{name: cwd, weight: 3.0}]"])
    torch.manual_seed(0)
    teacher = Segmenter(load_recipe(story.parent / "teacher.yaml").trained, 3)
    loss = rdd_loss(recipe.distillation)
    losses = extra_losses(recipe.distillation, Segmenter(recipe.trained, 3), teacher)
    objective = DistillationObjective(
        loss, LiveTeacher(teacher), losses, recipe.train.auxiliary_weight, None, RegionLoss("dice"), 0.25
    )
    batch = Batch(
        torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        torch.randint(0, 3, (2, 64, 64)),
        torch.zeros(2, 5),
        torch.arange(2),
    )
    student = torch.randn(2, 3, 64, 64, requires_grad=True)
    got: Loss = objective(Output(student, None, {"logits": student[..., ::8, ::8]}), batch, 0.5)
    assert list(got.terms) == ["task", "kd", "ce", "kept", "region", "cwd"]
    assert got.terms["region"] == RegionLoss("dice")(student.detach(), batch.labels)
    expected = got.terms["task"] + 0.5 * got.terms["kd"] + 0.25 * got.terms["region"] + 3 * got.terms["cwd"]
    assert got.total.item() == pytest.approx(expected.item(), rel=1e-5)
    got.total.backward()
    assert student.grad is not None
    assert all(p.grad is None for p in teacher.parameters())


def test_every_loss_has_a_name_of_its_own_in_the_log(story: Path) -> None:
    losses = (
        "[{name: kd, options: {temperature: 4.0}}, {name: cwd}, {name: cwd, options: {temperature: 1.0}}, {name: kd}]"
    )
    recipe = load_distillation(story, [f"distillation.losses={losses}", "train.epochs=1"])
    distill_recipe(recipe, story, story.parent / "runs", name="many")
    header, values = (
        line.split(",") for line in (story.parent / "runs" / "many" / "metrics.csv").read_text().splitlines()
    )
    row = dict(zip(header, values, strict=True))
    assert [name for name in header if name.startswith("loss_") and ("kd" in name or "cwd" in name)] == [
        "loss_kd", "loss_extra_kd", "loss_cwd", "loss_extra_cwd", "loss_extra_kd_2",
    ]  # fmt: skip
    first, last = float(row["loss_extra_kd"]), float(row["loss_extra_kd_2"])
    assert first != pytest.approx(last, rel=1e-2), "each has its own temperature"


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


def test_dry_run_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RDD_CAMVID_URL", "http://127.0.0.1:9/archive.zip")  # else: refused, and said so
    words = (f"data.root={tmp_path / 'none'}", "student.weights=none", "train.device=cpu")
    assert ended(train.main, monkeypatch, Path("camvid_mbv3_small"), *words, "--dry-run", "--output", tmp_path) == 2
    sentence = " ".join(capsys.readouterr().err.split())
    assert f"no CamVid train split in {tmp_path / 'none'}" in sentence
    assert sentence.endswith("; a training would fetch it")
    assert list(tmp_path.iterdir()) == []


def test_dry_run_tells_all_that_is_wrong_together(
    story: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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


class Reader(torch.nn.Module):
    """A loss that reads a map that many networks lack."""

    needs = frozenset({"auxiliary"})


@pytest.mark.parametrize(("student", "teacher", "role"), [(True, False, "teacher"), (False, True, "student")])
@pytest.mark.parametrize("dry", [True, False])
def test_maps_that_a_network_lacks_are_told_before_a_teacher_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    student: bool,
    teacher: bool,
    role: str,
    dry: bool,
) -> None:
    monkeypatch.setitem(LOSSES, "cwd", Entry(f"{__name__}:Reader"))
    recipe = write_story(
        tmp_path,
        {"student": network(auxiliary=student), "distillation": {"losses": [{"name": "cwd"}], "tfe_fraction": 0}},
        {"network": network(auxiliary=teacher)},
    )
    words = ["--dry-run"] if dry else []
    assert ended(distill.main, monkeypatch, recipe, *words, "--output", tmp_path / "runs") == 2
    printed = capsys.readouterr()
    assert (
        f"error: distillation.losses: of the {role}, the network has no map auxiliary; expected some of logits, head,"
        " stage5, stage4, stage3, stage2, stage1; leave out the loss that reads it" in " ".join(printed.err.split())
    )
    assert "training it first" not in printed.out


def test_a_teacher_from_elsewhere_with_other_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEACHERS, "segmenter", Entry(f"{__name__}:five_classes"))
    (tmp_path / "five.txt").write_text("anything")
    recipe = load_recipe(write_story(tmp_path, {"teacher": {"checkpoint": str(tmp_path / "five.txt")}}))
    with pytest.raises(
        WeightsError,
        match=(
            r"^the teacher .*five\.txt knows 5 classes, the data has 3; distil from a teacher of the same classes, or"
            r" say by teacher.classes which"
        ),
    ):
        distill_recipe(recipe, tmp_path / "student.yaml", tmp_path / "runs")
    assert not (tmp_path / "runs" / "student").exists()


def five_classes(path: Path, classes: list[str]) -> LoadedTeacher:
    return LoadedTeacher(Colours(torch.zeros(5, 3), 0.1, ()), None, sha256(path))


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        (
            distill.main,
            ["distillation.losses=[{name: nope}]"],
            "distillation.losses.0.name: got 'nope', expected 'kd', ",
        ),
        (
            distill.main,
            ["distillation.losses=[{name: cwd, options: {temperature: hot}}]"],
            "distillation.losses.0.options.temperature: got 'hot', expected: input should be a valid number",
        ),
        (
            distill.main,
            ["distillation.losses=[{name: kd, options: {ignore_index: 0}}]"],
            (
                "distillation.losses.0.options.ignore_index: unknown option of the loss 'kd'; allowed: temperature,"
                " standardize"
            ),
        ),
        *(
            (
                distill.main,
                [f"distillation.losses=[{{name: cwd, weight: {weight}}}]"],
                f"distillation.losses.0.weight: got {weight}, expected: input should be greater than 0",
            )
            for weight in (0, -1.5)
        ),
        (
            distill.main,
            ["distillation.tse.rule=nor"],
            "distillation.tse.rule: got 'nor', expected 'xor', 'and', 'or', 'lead' or 'student'",
        ),
        (distill.main, ["student.encoder=nope_50"], "unknown encoder 'nope_50'"),
        (distill.main, ["teacher.recipe=lost"], "no recipe 'lost'; expected a YAML file"),
        (
            distill.main,
            ["teacher.recipe=null", "teacher.checkpoint=lost.safetensors"],
            "no teacher checkpoint lost.safetensors",
        ),
        (distill.main, ["data.classes=[left, middle, right, above]"], "teacher.safetensors was trained on 3 classes"),
        (
            distill.main,
            ["data.classes=[left, middle, right, above]"],
            "or, for a teacher, say by teacher.classes which",
        ),
        (
            distill.main,
            ["data.classes=[left, no, right]"],
            "got False, expected text; if it is meant as such, put it in",
        ),
        (distill.main, ['teacher.checkpoint="\\0"'], "teacher.checkpoint: got '\\x00', which no file can be called"),
        (distill.main, ['teacher.checkpoint="\\ud800"'], "which no file can be called"),
        (distill.main, ["--name", "teacher"], "the student and its teacher would both be"),
        (distill.main, ["--name", "a b"], "--name is 'a b'; expected letters, digits"),
        (distill.main, ["--epochs", "3"], "no such option: --epochs; did you mean train.epochs=VALUE, without dashes?"),
        (train.main, ["--epochs=3"], "no such option: --epochs; did you mean train.epochs=VALUE, without dashes?"),
        (train.main, ["epochs=3"], "epochs: unknown key; did you mean 'train.epochs'?"),
        (train.main, ["data.size=96"], "data.size: got 96, expected [height, width], e.g. [360, 480]"),
        (train.main, ["--output", "/proc/none/runs"], "can't write /proc/none/runs/student_alone: "),
        (distill.main, ["--output", "/dev/null/runs"], "can't write /dev/null/runs/student: "),
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
    """A story whose teacher was trained, and whose teacher's recipe is another one now; returns the
    student's recipe.
    """
    story = write_story(tmp_path)
    teacher = tmp_path / "teacher.yaml"
    train_recipe(load_recipe(teacher), tmp_path / "runs")
    write_recipe(teacher, teacher_tree(tmp_path / "data", network=network(auxiliary=True, channels=24)))
    return story


def checkpoint_of(story: Path, resume: bool = False) -> Path:
    recipe, runs = load_recipe(story), story.parent / "runs"
    return teacher_checkpoint(
        recipe, named_teacher(recipe, story, runs), runs, resume, TrainingData(recipe), make_fabric(recipe.train)
    )


def test_a_teacher_of_another_recipe_is_used_with_a_warning(changed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (changed.parent / "runs" / "teacher" / "teacher.safetensors").read_bytes()
    assert checkpoint_of(changed).read_bytes() == before
    warning = " ".join(capsys.readouterr().err.split())
    assert warning.startswith(
        f"warning: the teacher in {changed.parent}/runs/teacher is used as it is, though {changed.parent}/teacher.yaml"
        " is another"
    )
    assert "recipe now (network.channels: 16 → 24); move that folder away to train it again" in warning


def test_an_unfinished_teacher_of_another_recipe_is_set_aside(changed: Path) -> None:
    runs = changed.parent / "runs"
    (runs / "teacher" / "summary.json").unlink()
    with pytest.raises(RddError, match=r"can't resume .*teacher: the recipe changed \(network\.channels: 16 → 24\)"):
        checkpoint_of(changed, resume=True)
    checkpoint = checkpoint_of(changed)
    assert load_segmenter(checkpoint)[0].network.channels == 24
    assert load_segmenter(runs / "teacher.1" / "teacher.safetensors")[0].network.channels == 16


@pytest.fixture
def half_taught(tmp_path: Path) -> Path:
    """A story whose teacher's training was killed between its first checkpoint and its first state: nothing else is
    there.
    """
    story = write_story(
        tmp_path, {"train": {"epochs": 1, "batch": 2, "device": "cpu", "precision": "32-true", "pictures_every": 0}}
    )
    train_recipe(load_recipe(tmp_path / "teacher.yaml", ["train.epochs=1"]), tmp_path / "runs")
    for name in ("summary.json", "state.ckpt"):
        (tmp_path / "runs" / "teacher" / name).unlink()
    return story


def test_a_half_trained_teacher_never_teaches(half_taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = half_taught.parent / "runs"
    expected = (runs / "teacher" / "teacher.safetensors").read_bytes()
    folder = distill_recipe(load_recipe(half_taught), half_taught, runs)
    assert "isn't there or isn't finished: training it first" in capsys.readouterr().out
    assert (runs / "teacher" / "summary.json").is_file()
    assert (runs / "teacher" / "teacher.safetensors").read_bytes() == expected
    assert (runs / "teacher.1" / "teacher.safetensors").is_file(), "what was there isn't lost"
    assert load_checkpoint(folder.student).metadata["teacher_sha256"] == sha256(
        runs / "teacher" / "teacher.safetensors"
    )


def test_a_checkpoint_of_an_unfinished_run_is_refused(half_taught: Path, tmp_path: Path) -> None:
    checkpoint = half_taught.parent / "runs" / "teacher" / "teacher.safetensors"
    recipe = load_recipe(half_taught, ["teacher.recipe=null", f"teacher.checkpoint={checkpoint}"])
    with pytest.raises(
        WeightsError,
        match=(
            r"teacher\.safetensors is of a run that isn't finished \(it has no summary\.json\); finish it with --resume"
        ),
    ):
        distill_recipe(recipe, half_taught, tmp_path / "runs")
    (tmp_path / "mine.safetensors").write_bytes(checkpoint.read_bytes())
    recipe = load_recipe(half_taught, ["teacher.recipe=null", f"teacher.checkpoint={tmp_path}/mine.safetensors"])
    assert distill_recipe(recipe, half_taught, tmp_path / "runs").finished, "one that was put somewhere by hand is used"


def test_a_teacher_that_is_being_trained_is_waited_for(story: Path) -> None:
    """Also where an earlier training of it is finished: the new one replaces it."""
    runs = story.parent / "runs"
    with (
        locked(runs / "teacher"),
        pytest.raises(
            RddError,
            match=r"^process \d+ is training in .*/runs/teacher, the teacher of this distillation; wait until it ends",
        ),
    ):
        distill_recipe(load_distillation(story), story, runs, name="second_at_once")
    assert not (runs / "second_at_once").exists()


def test_a_teacher_that_is_replaced_while_it_is_read(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = story.parent / "runs" / "teacher" / "summary.json"
    real, content = load_checkpoint, summary.read_bytes()

    def load(*arguments: Any) -> Any:
        summary.unlink()
        return real(*arguments)

    monkeypatch.setattr(checkpoint_teachers, "load_checkpoint", load)
    with pytest.raises(
        WeightsError, match=r"teacher\.safetensors was replaced by an unfinished one while it was read; start again"
    ):
        distill_recipe(load_distillation(story), story, story.parent / "runs", name="replaced")
    summary.write_bytes(content)


def test_a_teachers_damaged_state_is_trained_anew_unless_resuming_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = write_story(tmp_path)
    teacher = train_recipe(load_recipe(tmp_path / "teacher.yaml"), tmp_path / "runs")
    expected = teacher.teacher.read_bytes()
    teacher.summary.unlink()
    teacher.state.write_bytes(teacher.state.read_bytes()[:-100])
    with pytest.raises(RddError, match=r"can't resume from .*: the file is damaged"):
        checkpoint_of(story, resume=True)
    assert checkpoint_of(story).read_bytes() == expected
    assert "it is trained from the beginning" in " ".join(capsys.readouterr().err.split())
    assert teacher.finished


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["train.task_loss=ohem"],
            "train.task_loss is ohem, but RDD's stages choose the pixels; expected ce or balanced",
        ),
        (
            ["train.task_loss=balanced", "distillation.tse.class_weights=balanced"],
            "train.task_loss and distillation.tse.class_weights are both balanced; expected one of them",
        ),
    ],
)
def test_a_task_loss_that_a_distillation_cant_have_is_refused(story: Path, overrides: list[str], said: str) -> None:
    load_recipe(story, overrides)  # the student alone can
    with pytest.raises(RecipeError) as raised:
        load_distillation(story, overrides)
    assert said in str(raised.value)


def test_the_task_loss_reaches_rdd_and_plain_kd(story: Path) -> None:
    pixels = torch.tensor([1000, 100, 10])

    def loss(*overrides: str) -> Any:
        recipe = load_distillation(story, overrides)
        return rdd_loss(recipe.distillation, pixels, recipe.train)

    assert (loss().class_weight, loss().balanced, loss().ohem) == (None, False, None)
    for method in ("rdd", "kd"):
        balanced = loss("train.task_loss=balanced", f"distillation.method={method}")
        assert balanced.balanced
        assert torch.equal(balanced.class_weight, class_weights(pixels))
    hard = loss("train.task_loss=ohem", "train.min_kept_per_class=7", "distillation.method=kd")
    assert (hard.ohem, hard.class_weight) == (7, None)
    assert not loss("distillation.tse.class_weights=balanced").balanced


def test_keys_of_stages_that_there_are_not_are_told(story: Path) -> None:
    rule = "distillation.tse.rule=lead"
    assert not list(load_distillation(story, [rule]).distillation.unused())
    assert not list(load_distillation(story, ["distillation.method=kd"]).distillation.unused())
    for more, why in (("method=kd", "distillation.method is kd"), ("tfe_fraction=1", "tfe_fraction is 1")):
        recipe = load_distillation(story, [rule, "distillation.tse.min_kept=0.1", f"distillation.{more}"])
        assert list(recipe.distillation.unused()) == [
            f"distillation.tse.rule, distillation.tse.min_kept do nothing here: {why}"
        ]
    first = load_distillation(story, ["distillation.tfe.divergence=aux_main", "distillation.tfe_fraction=0"])
    assert list(first.distillation.unused()) == ["distillation.tfe.divergence does nothing here: tfe_fraction is 0"]
