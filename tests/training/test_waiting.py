"""No step of a training waits for the host: nothing is read from the device, nothing selected by a mask."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import pair
from loss_cases import CLASSES as LOSS_CLASSES
from loss_cases import drawn, made
from timm.layers import BatchNormAct2d
from torch import nn
from toys import tree, write_data, write_recipe
from unasked import unasked

from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import DivergedError
from rdd_deploy.losses import LOSSES, ranks
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.losses.region import RegionLoss
from rdd_deploy.losses.task import TaskLoss
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.outputs import Output
from rdd_deploy.recipe import Recipe, load_recipe
from rdd_deploy.training import finite, logger, loop, saving
from rdd_deploy.training.compact import EveryClass, Weights
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.finite import AT_MOST, FiniteCheck
from rdd_deploy.training.logger import TrainLogger
from rdd_deploy.training.loop import fit
from rdd_deploy.training.objective import DistillationObjective
from rdd_deploy.training.pseudo_labels import PseudoLabels
from rdd_deploy.training.readback import Readback
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.state import Loss, Method, Objective, _Step
from rdd_deploy.training.supervised import SupervisedObjective
from rdd_deploy.training.teacher_cache import CachedTeacher
from rdd_deploy.training.teacher_stores import Store
from rdd_deploy.training.whole_batch import one_dropout, synchronised

CLASSES = 5
NEAR = ranks.is_near


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is treated as a GPU is."""
    monkeypatch.setattr(ranks, "is_near", lambda _: False)


def stepped(loss: Any, *arguments: Any, **more: Any) -> None:
    """Forward and backward, once freely and once watched."""
    for watched in (False, True):
        leaf = torch.randn(2, CLASSES, 24, 32).requires_grad_()
        if watched:
            with unasked():
                value = loss(leaf, *arguments, **more)
                getattr(value, "total", value).backward()
        else:
            getattr(value := loss(leaf, *arguments, **more), "total", value).backward()
        assert leaf.grad is not None


def labels() -> torch.Tensor:
    target = torch.randint(0, CLASSES, (2, 24, 32), generator=torch.Generator().manual_seed(1))
    target[:, :3] = 255
    return target


@pytest.mark.parametrize("kind", ["ce", "ohem", "balanced"])
def test_task_losses(kind: str) -> None:
    stepped(TaskLoss(kind, torch.ones(CLASSES) if kind == "balanced" else None), labels())


@pytest.mark.parametrize("kind", ["dice", "lovasz"])
def test_region_losses(kind: Any) -> None:
    stepped(RegionLoss(kind), labels())


@pytest.mark.parametrize("ranked", [0.05, 100, "among others"])
@pytest.mark.parametrize(
    ("rule", "progress", "transition"), [("xor", 0.0, "hard"), ("student", 0.6, "hard"), ("lead", 0.6, "linear")]
)
def test_rdd(rule: Any, progress: float, transition: Any, ranked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if ranked == "among others":
        monkeypatch.setattr(ranks, "several", lambda: True)
    loss = RelativeDifficultyLoss(
        tfe_fraction=0.3, transition=transition, rule=rule, ce_weight=0.1, temperature=2.0, class_weight=torch.ones(CLASSES),
        min_kept=0.05 if ranked == "among others" else ranked,
    )  # fmt: skip
    teacher = torch.randn(2, CLASSES, 24, 32)
    stepped(
        loss,
        teacher,
        teacher.flip(0),
        labels(),
        progress,
        student_auxiliary=torch.randn(2, CLASSES, 24, 32).requires_grad_(),
    )


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_of_the_table(name: str) -> None:
    assert LOSS_CLASSES == CLASSES
    case, loss = drawn(), made(name)
    for watch in (False, True):
        leaves = {key: one.clone().requires_grad_() for key, one in case.student.items()}
        student, teacher = (Output(maps["logits"], None, maps) for maps in (leaves, case.teacher))
        if watch:
            with unasked():
                loss(student, teacher, case.target).backward()
        else:
            loss(student, teacher, case.target).backward()


def watched_among_others(rank: int) -> int:
    """Of each of two processes: every loss and the layers that look at the whole batch, watched; the first time they ask
    the others how much they have.
    """
    ranks.is_near = lambda _: False  # type: ignore[assignment]
    steps: list[tuple[nn.Module, Any]] = []
    target = labels()
    case = drawn()
    for name in sorted(LOSSES):
        student, teacher = (Output(maps["logits"], None, maps) for maps in (case.student, case.teacher))
        steps.append((made(name), (student, teacher, case.target)))
    logits = torch.randn(2, CLASSES, 24, 32)
    weights = torch.ones(CLASSES)
    steps += [
        (TaskLoss(kind, weights if kind == "balanced" else None), (logits, target)) for kind in ("ohem", "balanced")
    ]
    steps += [(RegionLoss(kind), (logits, target)) for kind in ("dice", "lovasz")]  # type: ignore[arg-type]
    norms = nn.Sequential(BatchNormAct2d(CLASSES), nn.Dropout(0.5), nn.BatchNorm2d(CLASSES, momentum=None))
    synchronised(norms)
    one_dropout(norms)
    steps.append((norms, (logits,)))
    for module, given in steps:
        for watch in (False, True):
            leaf = given[0]
            if isinstance(leaf, Output):
                leaves = {key: one.clone().requires_grad_() for key, one in leaf.features.items()}
                leaf = Output(leaves["logits"], None, leaves)
            else:
                leaf = leaf.clone().requires_grad_()
            with unasked() if watch else nullcontext():
                module(leaf, *given[1:]).sum().backward()
    return len(steps)


def test_among_other_processes() -> None:
    assert pair(watched_among_others) == 2 * [len(LOSSES) + 5]


def cached(place: Path, frames: int) -> CachedTeacher:
    """A cache of random logits in memory, of frames of 64x64."""
    logits = torch.randn(frames, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    stores = {}
    for name, form, values in (
        ("primary", EveryClass(3, 5), logits),
        ("agreement", Weights(), logits[:, :1].sigmoid()),
    ):
        np.save(place / f"{name}.npy", form.encoded(values).numpy())
        stores[name] = Store([(place / f"{name}.npy", frames)], form)
    return CachedTeacher(stores, np.tile(np.array([64, 64]), (frames, 1)))


class Late(Readback):
    """Arrives three looks later, as from a GPU that is busy."""

    def __init__(self, values: torch.Tensor) -> None:
        self.looks, self.values = 0, values.detach().clone()

    @property
    def ready(self) -> bool:
        self.looks += 1
        return self.looks > 3

    def read(self) -> Any:
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            return self.values.tolist()


class Told(TrainLogger):
    """As at a terminal."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._bar.silent = False


@pytest.mark.parametrize("kind", ["alone", "rdd, resident cache", "rdd, cache of the loader, frames without labels"])
def test_the_loop(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it does between two batches inside an epoch: update, average, clipping, finite check,
    progress bar, log.
    """
    content = tree(write_data(tmp_path / "data", train=10)) | {"name": "toy"}
    content["train"] |= {"epochs": 1, "ema": 0.9, "task_loss": "ohem"}
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", content))
    data, folder = TrainingData(recipe), RunFolder(tmp_path / "runs" / "toy")
    folder.write_recipe(recipe)
    objective: Objective = SupervisedObjective(recipe.train, torch.from_numpy(data.train_facts.pixels))
    beside = None
    if kind != "alone":
        teacher = cached(tmp_path, len(data.frames))
        if "resident" in kind:
            teacher.to(torch.device("cpu"))
        else:
            beside = teacher.read
        pseudo = PseudoLabels(torch.full((3,), 0.4), 5) if "without" in kind else None
        objective = DistillationObjective(
            RelativeDifficultyLoss(tfe_fraction=0.5), teacher, [("cwd", 3.0, LOSSES["cwd"].load()())], 0.4, pseudo
        )
    steps: list[int] = []
    until_lost = loop._until_lost

    def watched(*arguments: Any) -> Any:
        for number, batch in enumerate(until_lost(*arguments)):
            assert batch.labels.dtype == torch.uint8
            if 1 <= number < 4:  # a warm-up before, the epoch's end behind
                with unasked():
                    yield batch
                steps.append(number)
            else:
                yield batch

    monkeypatch.setattr(loop, "_until_lost", watched)
    for module in (finite, logger, saving):
        monkeypatch.setattr(module, "Readback", Late)
    monkeypatch.setattr(logger, "NOTE_EVERY", 2)
    monkeypatch.setattr(loop, "TrainLogger", Told)
    method = Method(objective, lambda _: "train", None, beside)
    fitted(recipe, data, method, folder)
    assert steps == [1, 2, 3]


def fitted(recipe: Recipe, data: TrainingData, method: Method, folder: RunFolder) -> None:
    fabric = make_fabric(recipe.train)
    fit(
        recipe,
        Segmenter(recipe.trained, 3),
        data.frames,
        data.validation,
        method,
        folder,
        folder.student,
        {},
        fabric,
        False,
    )


class Named:
    names = tuple(map(str, range(100)))


def test_a_step_that_diverged_is_found_when_its_numbers_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "Readback", Late)
    check = FiniteCheck(Named(), lambda: "")  # type: ignore[arg-type]
    bad = torch.tensor([float("inf")])
    check.add(torch.ones(1), torch.tensor([7]))
    check.add(bad, torch.tensor([8, 9]))
    with pytest.raises(DivergedError, match=r"^the loss is inf on the batch of 8, 9; "):
        [check.add(torch.ones(1), torch.tensor([index])) for index in range(10, 20)]
    check.add(torch.tensor([1.0, float("nan")]), torch.tensor([3]))
    with pytest.raises(DivergedError, match=r"^the gradient's norm is nan on the batch of 3; "):
        check.flush()
    assert AT_MOST < 10


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(), lambda values: values.tolist(), lambda values: values[values > 0], lambda values: bool(values.any()),
        lambda values: values.masked_select(values > 0), lambda values: torch.tensor(1.0), lambda values: values[values.argmax()],
        lambda values: torch.nn.functional.one_hot(values.long()),
    ],
)  # fmt: skip
def test_the_watch_itself(wait: Any) -> None:
    with unasked(), pytest.raises(AssertionError, match="would be waited for"):
        wait(torch.rand(4))
    assert NEAR(torch.zeros(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", ["ce", "ohem", "rdd"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_gpu_is_never_waited_for(kind: Any, optimizer: Any, tmp_path: Path) -> None:
    """Torch itself raises where the host would wait."""
    content = tree(write_data(tmp_path / "data", train=12)) | {"name": "toy"}
    content["train"] |= {"device": "cuda", "precision": "auto", "ema": 0.9, "optimizer": optimizer, "compile": False}
    content["train"] |= {"task_loss": kind} if kind != "rdd" else {}
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", content))
    data, folder = TrainingData(recipe), RunFolder(tmp_path / "runs" / "toy")
    folder.write_recipe(recipe)
    objective: Objective = SupervisedObjective(recipe.train, torch.from_numpy(data.train_facts.pixels))
    if kind == "rdd":
        teacher = cached(tmp_path, len(data.frames)).to(torch.device("cuda"))
        objective = DistillationObjective(RelativeDifficultyLoss(tfe_fraction=0.5), teacher, [], 0.4)
    until_lost = loop._until_lost

    def watched(*arguments: Any) -> Any:
        for number, batch in enumerate(until_lost(*arguments)):
            inside = number % 6 in (2, 3, 4)
            torch.cuda.set_sync_debug_mode("error" if inside else "default")
            try:
                yield batch
            finally:
                torch.cuda.set_sync_debug_mode("default")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_until_lost", watched)
        method = Method(objective, lambda _: "train", None)
        fitted(recipe, data, method, folder)


def test_a_batch_is_what_the_losses_expect() -> None:
    """Labels travel as bytes; a loss that indexes by them needs whole numbers, which the step makes of them."""
    seen: list[torch.dtype] = []

    class Look(Objective):
        def forward(self, output: Output, batch: Batch, progress: float) -> Any:
            seen.append(batch.labels.dtype)
            return Loss(output.primary.mean(), {})

    segmenter = Segmenter(Network(encoder="mobilenetv3_small_050", weights="none", channels=16), 3).eval()
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    _Step(segmenter, Look())(Batch(images, images[:, 0], torch.zeros(1, 5).long(), torch.zeros(1).long()), 0.0)
    assert seen == [torch.int64]
