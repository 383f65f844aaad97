"""How hard each term pulls: measured once an epoch, logged, warned of once, and without a trace in the training."""

import csv
import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import together
from toys import ENCODER, network, write_story

from rdd_deploy.data.loader import Batch
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.outputs import Output
from rdd_deploy.recipe import load_distillation, load_recipe
from rdd_deploy.recipe_train import Train
from rdd_deploy.training import gradients, state
from rdd_deploy.training.distillation import distill_recipe
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.logger import TrainLogger
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.state import Loss, Objective, TrainState
from rdd_deploy.training.supervised import train_recipe

TRAIN = {"epochs": 2, "batch": 2, "lr": 0.01, "device": "cpu", "precision": "32-true", "pictures_every": 0}
LOSSES = "distillation.losses=[{name: cwd, weight: 5000.0}, {name: kd, weight: 0.0001, options: {temperature: 2.0}}]"


class Terms(Objective):
    """A task, a small term and one that has no gradient at all."""

    maps = frozenset({"head", "stage4"})

    def forward(self, output: Output, batch: Batch, progress: float) -> Loss:
        task = output.primary.float().square().mean()
        parts = {"task": task, "map": 3 * output.features["stage4"].float().mean(), "idle": torch.zeros(())}
        return Loss(sum(parts.values(), torch.zeros(())), {"task": task.detach()}, parts)


def batch(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=g)
    return Batch(images, torch.zeros(2, 64, 64, dtype=torch.int64), torch.zeros(2, 5), torch.arange(2))


def trainee(objective: Objective, encoder: str = ENCODER, **changes: Any) -> TrainState:
    torch.manual_seed(0)
    train = Train(**(TRAIN | changes))
    return TrainState(
        Segmenter(Network(**network(dropout=0.3, encoder=encoder)), 3).train(), objective, train, make_fabric(train)
    )


def weights(one: TrainState) -> str:
    return hashlib.sha256(
        b"".join(value.numpy().tobytes() for value in one.segmenter.state_dict().values())
    ).hexdigest()


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are cut and taken apart as torch.compile does it, but no code is generated, which takes minutes."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: real(function, backend="aot_eager"))


@pytest.mark.parametrize(
    ("precision", "compiled"),
    [("32-true", False), ("bf16-mixed", False), pytest.param("32-true", True, marks=pytest.mark.slow)],
)
def test_comparing_leaves_the_training_as_it_is(precision: str, compiled: bool, quickly_compiled: None) -> None:
    plain, compared = (trainee(Terms(), "test_resnet", precision=precision, compile=compiled) for _ in range(2))
    for one, compare in ((plain, False), (compared, True)):
        torch.manual_seed(1)  # dropout draws
        for step in range(2):
            one.update(batch(step), 0.0, compare)
    assert weights(plain) == weights(compared)
    assert plain.gradients == {}
    assert list(compared.gradients) == ["task", "map", "idle"]
    assert compared.gradients["idle"] == 0
    compared.update(batch(), 0.0)
    assert compared.gradients == {}, "they are of the last step"


def test_norms_are_those_of_the_gradient_at_the_encoders_maps() -> None:
    one = trainee(Terms())
    torch.manual_seed(5)
    features = one.segmenter.encoded(batch().images)
    leaves = [feature.detach().requires_grad_() for feature in features]
    parts = Terms()(one.segmenter.decoded(leaves, (64, 64), Terms.maps), batch(), 0.0).parts
    expected = {}
    for name in ("task", "map"):
        found = torch.autograd.grad(parts[name], leaves, retain_graph=True, allow_unused=True)
        expected[name] = math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))
    assert expected["map"] == pytest.approx(3 / math.sqrt(leaves[-2].numel()))
    one = trainee(Terms())
    torch.manual_seed(5)
    one.update(batch(), 0.0, compare=True)
    assert {name: float(one.gradients[name]) for name in expected} == pytest.approx(expected, rel=1e-4)
    assert gradients.shares(one.gradients) == pytest.approx(
        {"map": expected["map"] / expected["task"], "idle": 0.0}, rel=1e-4
    )


@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_float16_gradients_need_a_scale(scale: float) -> None:
    maps = [torch.ones(1, 1, 10, 10, dtype=torch.float16, requires_grad=True)]
    parts = {"task": 1e-9 * maps[0].float().sum(), "kd": 2e-9 * maps[0].float().sum()}
    found = gradients.shares(gradients.gradient_norms(parts, maps, scale))
    assert found == ({} if scale == 1 else {"kd": pytest.approx(2, rel=0.01)})


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ({"task": 2.0, "kd": 1.0, "at": 50.0}, {"kd": 0.5, "at": 25.0}),
        ({"task": 0.0, "kd": 1.0}, {}),
        ({"task": math.nan, "kd": 1.0}, {}),
        ({"task": math.inf, "kd": 1.0}, {}),
        ({"task": 1.0, "kd": math.inf, "at": math.nan, "ce": 0.0}, {"ce": 0.0}),
        ({}, {}),
    ],
)
def test_shares(norms: dict[str, float], expected: dict[str, float]) -> None:
    assert gradients.shares({name: torch.tensor(value) for name, value in norms.items()}) == expected


def test_a_term_is_warned_of_once() -> None:
    rows = [{"epoch": 1, "grad_share_at": 38.2}, {"epoch": 2, "grad_share_at": 40.0, "grad_share_kd": 0.004}]
    assert gradients.warnings(rows[0], []) == [
        "the gradient of 'at' is 38 times the task's in epoch 1; lower its weight (distillation.losses) if the student"
        " doesn't learn"
    ]
    assert gradients.warnings(rows[1], rows[:1]) == [
        "the gradient of 'kd' is 0.004 times the task's in epoch 2; raise its weight (distillation.kd_weight), or leave"
        " it out"
    ]
    assert gradients.warnings({"epoch": 3, "grad_share_at": 50.0, "grad_share_kd": 1.0}, rows) == []


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_story(tmp_path_factory.mktemp("gradients"), {"train": TRAIN, "student": network(dropout=0.3)})


def test_a_distillation_logs_the_shares_and_warns(
    story: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = story.parent / "runs"
    run = distill_recipe(load_distillation(story, [LOSSES, "distillation.tse.rule=or"]), story, runs, name="watched")
    rows = list(csv.DictReader(run.metrics.read_text().splitlines()))
    columns = [name for name in rows[0] if name.startswith("grad_share_")]
    assert columns == ["grad_share_kd", "grad_share_cwd", "grad_share_extra_kd"]
    assert all(float(row["grad_share_cwd"]) > 10 and float(row["grad_share_extra_kd"]) < 0.01 for row in rows)
    warned = " ".join(capsys.readouterr().err.split())
    assert warned.count("the gradient of 'cwd' is") == warned.count("the gradient of 'extra_kd' is") == 1
    assert "times the task's in epoch 1; lower its weight (distillation.losses) if the student doesn't learn" in warned
    monkeypatch.setattr(state, "gradient_norms", lambda *_: {})
    blind = distill_recipe(load_distillation(story, [LOSSES, "distillation.tse.rule=or"]), story, runs, name="blind")
    assert "grad_share" not in blind.metrics.read_text()
    assert blind.student.read_bytes() == run.student.read_bytes()


def test_a_lone_student_has_nothing_to_compare(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "gradient_norms", lambda *_: pytest.fail("it was measured"))
    run = train_recipe(load_recipe(story, ["train.epochs=1", "student.auxiliary=true"]), story.parent / "runs")
    assert "grad_share" not in run.metrics.read_text()


def in_two(argument: tuple[int, str]) -> Any:
    """Norms and sums as one of two processes finds them."""
    rank, recipe = argument
    torch.manual_seed(0)
    maps = torch.randn(4, 2, 3, 3).split((3, 1))[rank].clone().requires_grad_()
    # As losses say it: this process's sum, divided by the mean count over processes.
    parts = {"task": maps.square().sum() / 2, "kd": maps.sum() / 2}
    norms = gradients.gradient_norms(parts, [maps])
    with TrainLogger(
        RunFolder(Path(recipe).parent / "pair"), load_recipe(Path(recipe)), 2, [], 0, enabled=False
    ) as book:
        book.step("tse", {"task": torch.tensor(1.0 + rank)}, 1)
        return {"norms": norms, "sums": book.sums()}


def test_several_processes_log_the_whole_batch(story: Path) -> None:
    first, second = together(in_two, [(0, str(story)), (1, str(story))])
    assert first == second
    torch.manual_seed(0)
    maps = torch.randn(4, 2, 3, 3).requires_grad_()
    alone = gradients.gradient_norms({"task": maps.square().sum() / 4, "kd": maps.sum() / 4}, [maps])
    assert gradients.shares(first["norms"]) == pytest.approx(gradients.shares(alone))
    assert first["sums"] == {"sums": {"task": 1.5}, "count": 1}
