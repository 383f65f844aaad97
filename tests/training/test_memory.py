"""A step for which the GPU has too little memory says which batch would do."""

from typing import Any

import one_batch
import pytest
import torch
from gloo import together
from one_batch import Case, trained
from torch.utils._python_dispatch import TorchDispatchMode

from rdd_deploy.data.loader import BatchBeside
from rdd_deploy.errors import MachineError
from rdd_deploy.losses.task import TaskLoss
from rdd_deploy.training import memory
from rdd_deploy.training.copy_paste import copy_pasted
from rdd_deploy.training.determinism import set_deterministic
from rdd_deploy.training.memory import largest


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that fit, and behind them how many were tried; as a GPU says it whose memory is full."""
    told = [0]
    real = TaskLoss.forward

    def forward(self: TaskLoss, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        told.append(len(logits))
        if len(logits) > told[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        return real(self, logits, target)

    monkeypatch.setattr(TaskLoss, "forward", forward)
    return told


@pytest.mark.parametrize("fits", [1, 2, 3, 5])
def test_the_largest_batch_that_goes_through_is_named(room: list[int], fits: int) -> None:
    room[0] = fits
    with pytest.raises(MachineError) as told:
        trained((0, 1, Case()))
    assert (
        str(told.value)
        == f"the GPU's memory is full (CUDA out of memory): a batch of 6 crops of 64x64 doesn't fit, {fits} would: set"
        f" train.batch={fits}, make augment.crop smaller, or end what else uses the GPU"
    )
    assert told.value.exit_code == 2
    assert max(room[2:]) < one_batch.IMAGES


class RefusesBilinear(TorchDispatchMode):
    """As a GPU where deterministic algorithms are asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "upsample_bilinear2d_backward" in func.name():
            raise RuntimeError("upsample_bilinear2d_backward_out_cuda does not have a deterministic implementation")
        return func(*args, **(kwargs or {}))


def test_deterministic_trainings_are_tried_as_such(room: list[int]) -> None:
    room[0] = 2
    try:
        with pytest.raises(MachineError, match="doesn't fit, 2 would"), RefusesBilinear():
            trained((0, 1, Case({"deterministic": True})))
    finally:
        set_deterministic(False)


def test_not_even_one(room: list[int]) -> None:
    with pytest.raises(MachineError, match=r"doesn't fit, nor does a single one; make augment\.crop smaller"):
        trained((0, 1, Case()))


def test_each_of_several_processes_tries_its_own_part() -> None:
    """Without the others, who try other sizes."""
    said = together(one_batch.refused, [(rank, 2, Case({}, {}), fits) for rank, fits in enumerate((2, 1))])
    for sentence, fits in zip(said, (2, 1), strict=True):
        assert (
            f"a batch of 3 crops of 64x64 a process doesn't fit, {fits} would: set train.batch={2 * fits}," in sentence
        )


@pytest.mark.parametrize("most", range(1, 40))
def test_the_largest_below(most: int) -> None:
    for fits in range(most):
        assert largest(lambda n, fits=fits: n <= fits, most) == fits  # type: ignore[misc]


def test_what_was_read_beside_is_cut_as_well() -> None:
    whole = one_batch.batch(0)
    part = memory._part(BatchBeside(*whole, {"logits": torch.zeros(6, 2), "scale": torch.tensor(3.0)}), 4)  # type: ignore[arg-type]
    assert [len(one) for one in part[:4]] == [4] * 4
    assert part.beside["logits"].shape == (4, 2)  # type: ignore[attr-defined]
    assert part.beside["scale"] == 3  # type: ignore[attr-defined]


def test_of_what_was_copied_between_images_a_part_holds_nothing() -> None:
    whole = one_batch.batch(0)
    pasted = copy_pasted(whole, 1.0, 3, 100, [0])
    assert pasted.pasted.mask.any()
    part = memory._part(pasted, 4)  # type: ignore[arg-type]
    assert [len(one) for one in part[:4]] == [4] * 4
    assert part.pasted is None  # type: ignore[attr-defined]
