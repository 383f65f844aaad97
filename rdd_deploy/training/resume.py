"""A run's saved state, read again: whole, of this network, of this run's data and teacher, or a sentence that says what
it isn't.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from rdd_deploy import console
from rdd_deploy.errors import WeightsError
from rdd_deploy.models.tensors import load_archive, senseless
from rdd_deploy.training.compiling import HOW
from rdd_deploy.training.run_folder import RunFolder

if TYPE_CHECKING:
    from rdd_deploy.training.state import TrainState


ORIGIN = {
    "train_frames": "the training frames (other images, or in another order)",
    "train_labels": "the training frames' masks",
    "unlabelled_frames": "the frames without labels (other images, or in another order)",
    "teacher_sha256": "the teacher's checkpoint",
    "budget": "train.budget",
}
"""Facts beside the recipe that a run's every step depends on, and what each is to a person."""

OTHER = "it holds another network's state, or one of another version"


class ResumeError(WeightsError):
    """A run can't go on from its state."""


class Resumed(NamedTuple):
    """The log of a resumed run: its rows, and the sums of the unfinished epoch."""

    rows: list[dict[str, Any]]
    sums: dict[str, Any]


def read_state(folder: RunFolder, train_state: TrainState, origin: dict[str, str], per_epoch: int) -> Resumed:
    """Set the training to where its state was taken; nothing of it is changed before all of the state was looked at.

    Args:
        origin: the run's own facts of ``ORIGIN``. per_epoch: steps of an epoch.

    Raises:
        ResumeError: damaged, of another network, not finite, or begun from other facts than ``origin``.
    """
    state = _loaded(folder, train_state)
    try:
        problem = _problem(state, train_state, per_epoch)
        if not problem:
            train_state.restore(state)
    except Exception as error:  # what a changed type leads to is of many kinds
        raise ResumeError(f"can't resume from {folder.state}: {OTHER}; start again without --resume") from error
    if problem:
        raise ResumeError(f"can't resume from {folder.state}: {problem}; start again without --resume")
    if (saved := len(state["rng"])) != (here := train_state.fabric.world_size):
        console.info(
            f"resuming: the state was saved by {saved} process{'es' if saved > 1 else ''}, this is {here}: the same"
            " run, to rounding"
        )
    before = state.get("origin")
    if before is None:
        # Of an earlier version. Refusing it would throw hours of training away for what is most likely unchanged.
        console.warn(
            f"{folder.state} doesn't say by which data it was begun; if they changed since, the resumed run isn't the"
            " same"
        )
    elif changed := [what for key, what in ORIGIN.items() if before.get(key) != origin.get(key)]:
        raise ResumeError(
            f"can't resume {folder.path}: since it was begun {' and '.join(changed)} changed; put back what was there,"
            " or start again without --resume"
        )
    return Resumed(state["rows"], state["sums"])


def _loaded(folder: RunFolder, train_state: TrainState) -> Any:
    try:
        content = folder.state.read_bytes()
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise ValueError("it is no archive")
        state = load_archive(content, train_state.fabric.device)
        # Earlier versions had none.
        return state | {"objective": state.get("objective", {})} if isinstance(state, dict) else state
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # a damaged archive raises many kinds, and for a pickled one torch's own words advise to run its code
        why = (
            error.strerror if isinstance(error, OSError) else ""
        ) or "the file is damaged, or wasn't written by distill or train"
        raise ResumeError(
            f"can't resume from {folder.state}: {why}; put a whole one there, or start again without --resume"
        ) from error


def _problem(state: Any, train_state: TrainState, per_epoch: int) -> str:
    """What is wrong with a state; empty where nothing is."""
    now = train_state.state(alone=True)
    if not isinstance(state, dict) or set(now) - set(state) or state["format"] != now["format"]:
        return OTHER
    average, model, objective = state["average"], state["model"], state["objective"]
    train = train_state.config
    if state["step"] and not state["optimizer"]["state"] and (train.optimizer == "adamw" or train.momentum):
        return "the optimizer's averages are missing"
    if (
        not _alike(model, now["model"])
        or not _alike(objective, now["objective"])
        or not _alike(average, now["average"])
        or not _fits(state["optimizer"], train_state)
    ):
        return OTHER
    if broken := [
        name for part in (model, objective, average, *state["optimizer"]["state"].values()) for name in senseless(part)
    ]:
        return f"it holds values that are NaN or infinite, or a negative variance ({broken[0]})"
    for key in ("rng", "rng_cuda"):
        if (
            not isinstance(state[key], list)
            or bool(state[key]) != bool(now[key])
            or len(state[key]) not in (0, len(state["rng"]))
            or not all(_is_like(one, now[key][0]) for one in state[key])
        ):
            return f"it isn't a state on {train_state.fabric.device.type}"
    if set(state["precision"]) != set(now["precision"]):
        return "it was trained in another precision"
    return _problem_of_progress(state, train_state, per_epoch)


def _problem_of_progress(state: dict[str, Any], train_state: TrainState, per_epoch: int) -> str:
    train = train_state.config
    for key, kind, least, most in (
        ("step", int, 0, train.epochs * per_epoch), ("best_epoch", int, 0, train.epochs), ("best", float, -1, 100), ("seconds", float, 0, math.inf),
    ):  # fmt: skip
        value = state[key]
        if type(value) is not kind or not least <= value <= most or not math.isfinite(value):
            return (
                f"its {key} is {value!r:.40}, expected {'a whole number' if kind is int else 'a number'} from {least}"
                f" to {most}"
            )
    rows, sums = state["rows"], state["sums"]
    epoch, inside = divmod(state["step"], per_epoch)
    plain = (str, int, float, type(None))
    if not isinstance(rows, list) or [row["epoch"] for row in rows] != list(range(1, epoch + 1)):
        return f"its log doesn't hold one row for each of the {epoch} epochs before step {state['step']}"
    if not all(type(name) is str and type(value) in plain for row in rows for name, value in row.items()):
        return "its log holds something else than names with numbers and texts"
    if sums["count"] != inside or not all(
        type(name) is str and type(value) is float and math.isfinite(value) for name, value in sums["sums"].items()
    ):
        return f"the sums of its unfinished epoch aren't those of {inside} steps"
    origin = state.get("origin")
    return "" if origin is None or all(type(text) is str for item in origin.items() for text in item) else OTHER


def _is_like(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and one.dtype == other.dtype


def _alike(one: Any, other: Mapping[str, Tensor]) -> bool:
    return (
        isinstance(one, dict)
        and set(one) == set(other)
        and all(_is_like(value, other[name]) for name, value in one.items())
    )


def _fits(state: dict[str, Any], train_state: TrainState) -> bool:
    """Whether an optimizer's state belongs to the trained parameters and, but for the learning rates of the step, to
    its options.
    """
    now = train_state.optimizer.state_dict()
    options = [
        [
            {key: value for key, value in group.items() if key != "lr" and key not in HOW}
            for group in one["param_groups"]
        ]
        for one in (state, now)
    ]
    parameters = [parameter for group in train_state.optimizer.param_groups for parameter in group["params"]]
    adam = train_state.config.optimizer == "adamw"
    names = {"step", "exp_avg", "exp_avg_sq"} if adam else {"momentum_buffer"}

    def belongs(index: Any, entry: dict[str, Any]) -> bool:
        shape = parameters[index].shape
        there = {name: value for name, value in entry.items() if adam or value is not None}
        known = set(entry) == names if adam else set(entry) <= names
        return known and all(
            value.is_floating_point() and value.shape == (() if name == "step" else shape)
            for name, value in there.items()
        )

    return options[0] == options[1] and all(
        type(index) is int and belongs(index, entry) for index, entry in state["state"].items()
    )
