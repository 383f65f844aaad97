"""Damaged checkpoints and states: a sentence, never weights of another kind."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from toys import CLASSES, network, tree, write_data, write_recipe

from rdd_deploy.errors import RddError, WeightsError
from rdd_deploy.export.trained_run import open_run
from rdd_deploy.models.config import Network
from rdd_deploy.models.pretrained import initialise
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_checkpoint
from rdd_deploy.recipe import Recipe, load_recipe
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.resume import read_state
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.session import metadata_of
from rdd_deploy.training.state import Objective, TrainState
from rdd_deploy.training.supervised import train_recipe
from rdd_deploy.utils.files import sha256


class Run:
    """A finished toy run: its parts by name, to be changed and read again."""

    def __init__(self, folder: Path) -> None:
        content = tree(write_data(folder / "data"))
        content["train"] |= {"epochs": 2, "ema": 0.9, "optimizer": "adamw"}
        self.recipe: Recipe = load_recipe(write_recipe(folder / "toy.yaml", content))
        self.data = TrainingData(self.recipe)
        self.folder: RunFolder = train_recipe(self.recipe, folder / "runs", data=self.data)
        facts = metadata_of(self.recipe, self.data, "")
        self.origin = {key: facts[key] for key in ("train_frames", "train_labels")}
        self.whole = self.folder.state.read_bytes()
        self.checkpoint = self.folder.student.read_bytes()
        self.trainee = TrainState(
            Segmenter(self.recipe.trained, 3), Objective(), self.recipe.train, make_fabric(self.recipe.train)
        )

    def state(self) -> dict[str, Any]:
        return dict(torch.load(io.BytesIO(self.whole), weights_only=True))

    def read(self, content: bytes) -> Any:
        self.folder.state.write_bytes(content)
        return read_state(self.folder, self.trainee, self.origin, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("resuming"))


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def changed(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The state with the value at ``a/b/c`` replaced; a function is given what was there."""
    *outer, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    node: Any = state
    for part in outer:
        node = node[part]
    node[last] = value(node[last]) if callable(value) else value
    return state


def spoilt(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[(-1,) * tensor.ndim] = math.nan
    return tensor


CHANGES: list[tuple[str, Any, str]] = [
    ("step", 7, "its step is 7, expected a whole number from 0 to 6"),
    ("step", -1, "its step is -1"),
    ("step", True, "its step is True"),
    ("step", 3, "its log doesn't hold one row for each of the 1 epochs before step 3"),
    ("step", "6", "its step is '6'"),
    ("best", math.nan, "its best is nan, expected a number from -1 to 100"),
    ("best", 101.0, "its best is 101.0"),
    ("best_epoch", 3, "its best_epoch is 3, expected a whole number from 0 to 2"),
    ("seconds", math.inf, "its seconds is inf"),
    ("seconds", None, "its seconds is None"),
    ("rng", [], "it isn't a state on cpu"),
    ("rng/0", lambda t: t[:-1], "it isn't a state on cpu"),
    ("rng/0", lambda t: t.float(), "it isn't a state on cpu"),
    ("precision", {"scale": 1.0}, "it was trained in another precision"),
    ("rows", [], "its log doesn't hold one row for each of the 2 epochs"),
    ("rows/0/epoch", 2, "its log doesn't hold one row"),
    ("rows/1/lr", [1], "its log holds something else than names with numbers and texts"),
    ("sums", {"sums": {}, "count": 2}, "the sums of its unfinished epoch aren't those of 0 steps"),
    ("sums/sums", {"task": "x"}, "the sums of its unfinished epoch"),
    ("sums/sums", {"task": math.nan}, "the sums of its unfinished epoch"),
    ("optimizer/state", {}, "the optimizer's averages are missing"),
    ("model/encoder.bn1.running_var", lambda t: t - 100, "it holds values that are NaN or infinite, or a negative variance (encoder.bn1.running_var)"),
    ("model/encoder.conv_stem.weight", spoilt, "it holds values that are NaN or infinite, or a negative variance (encoder.conv_stem.weight)"),
    ("average/module.encoder.conv_stem.weight", spoilt, "it holds values that are NaN or infinite, or a negative variance (module.encoder.conv_stem.weight)"),
    ("optimizer/state/0/exp_avg", spoilt, "it holds values that are NaN or infinite, or a negative variance (exp_avg)"),
    *((path, value, "it holds another network's state, or one of another version") for path, value in (
        ("format", 3), ("model", {}), ("model", []), ("model/encoder.conv_stem.weight", lambda t: t[:1]), ("average", {}), ("average", None),
        ("model/encoder.conv_stem.weight", lambda t: t.double()), ("model/encoder.conv_stem.weight", "x"), ("optimizer", {}), ("optimizer", 1),
        ("optimizer/param_groups", []), ("optimizer/param_groups/0/weight_decay", 0.5), ("optimizer/state/0", {}), ("optimizer/state/0", None),
        ("optimizer/state/0/exp_avg", lambda t: t[:1]), ("optimizer/state/0/exp_avg", lambda t: t.int()), ("optimizer/state", {999: {}}), ("precision", 5), ("sums", []), ("rows", [1, 2]),
        ("origin", [1]), ("origin", {"train_frames": 1}),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "problem"), CHANGES)
def test_a_changed_state_is_refused_before_anything_is_taken_from_it(
    run: Run, path: str, value: Any, problem: str
) -> None:
    before = copy.deepcopy(run.trainee.segmenter.state_dict())
    with pytest.raises(WeightsError) as raised:
        run.read(saved(changed(run.state(), path, value)))
    assert str(raised.value).startswith(f"can't resume from {run.folder.state}: {problem}")
    assert str(raised.value).endswith("; start again without --resume")
    after = run.trainee.segmenter.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_key_of_a_state_is_needed(run: Run) -> None:
    for key in set(run.state()) - {"origin", "objective"}:  # which earlier versions didn't write
        state = run.state()
        del state[key]
        with pytest.raises(WeightsError, match="it holds another network's state, or one of another version"):
            run.read(saved(state))


def test_flipped_bits_and_cut_ends_of_a_state_are_noticed(run: Run) -> None:
    damaged = list(variants(run.whole, 60))
    told = [sentence for content in damaged if (sentence := problem_of(lambda content=content: run.read(content)))]
    assert len(told) >= len(damaged) - 6, "but for bits of the archive that mean nothing"
    assert not any("\n" in sentence for sentence in told)
    assert len(run.read(run.whole).rows) == 2


def problem_of(read: Callable[[], Any]) -> str:
    """The sentence that reading ends with; empty where it doesn't. Any other error is the test's."""
    try:
        read()
    except RddError as error:
        return str(error)
    return ""


def variants(content: bytes, count: int) -> Iterator[bytes]:
    rng = random.Random(5)
    for number in range(count):
        if number % 6 == 0:
            yield content[: rng.randrange(len(content))]
            continue
        flipped = bytearray(content)
        place = (
            rng.randrange(len(content))
            if number % 2
            else rng.choice((rng.randrange(3000), len(content) - 1 - rng.randrange(3000)))
        )
        flipped[place] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


def test_damaged_checkpoints_end_in_a_sentence(run: Run, tmp_path: Path) -> None:
    for content in variants(run.checkpoint, 30):
        (tmp_path / "a.safetensors").write_bytes(content)
        problem_of(lambda: load_checkpoint(tmp_path / "a.safetensors"))


def with_facts(run: Run, tmp_path: Path, change: Callable[[dict[str, Any]], Any], tensors: Any = None) -> Path:
    length = int.from_bytes(run.checkpoint[:8], "little")
    metadata = json.loads(run.checkpoint[8 : 8 + length])["__metadata__"]
    facts = json.loads(metadata["facts"])
    metadata["facts"] = json.dumps(change(facts))
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.torch.save(tensors or safetensors.torch.load(run.checkpoint), metadata))
    return path


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("classes", [1, 2, 3], "2 to 255 names"), ("classes", "abc", "2 to 255 names"), ("classes", ["a"], "2 to 255 names"),
        ("classes", ["a"] * 256, "2 to 255 names"), ("palette", [[1, 2, 3]], "3 colours of three numbers from 0 to 255"),
        ("palette", [[1, 2, 300]] * 3, "3 colours"), ("palette", [[1, 2]] * 3, "3 colours"), ("palette", "red", "3 colours"),
        ("palette", [[1, 2, True]] * 3, "3 colours"), ("size", [0, 64], "[height, width]"), ("classes", ["\ud800", "b", "c"], "2 to 255 names"), ("size", [64], "[height, width]"),
        ("size", ["64", "64"], "[height, width]"), ("size", [64, 10**9], "[height, width]"), ("size", None, "[height, width]"),
    ],
)  # fmt: skip
def test_facts_of_a_checkpoint_are_checked(run: Run, tmp_path: Path, key: str, value: Any, expected: str) -> None:
    path = with_facts(run, tmp_path, lambda facts: facts | {key: value})
    with pytest.raises(WeightsError, match=rf"a\.safetensors says of itself {key} = .*; expected ") as raised:
        load_checkpoint(path)
    assert expected in str(raised.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_at_every_load(run: Run, tmp_path: Path, value: float) -> None:
    sentence = (
        r"holds weights that are NaN or infinite, or a negative variance, in 1 of \d+ tensors, e\.g\."
        r" encoder\.conv_stem\.weight; the file is damaged, or its"
    )
    tensors = safetensors.torch.load(run.checkpoint)
    tensors["encoder.conv_stem.weight"][0, 0, 0, 0] = value
    path = with_facts(run, tmp_path, lambda facts: facts, tensors)
    with pytest.raises(WeightsError, match=sentence):
        load_checkpoint(path, CLASSES)
    torch.save(tensors, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        with pytest.raises(WeightsError, match=sentence):
            initialise(Segmenter(Network.model_validate(network(weights=str(tmp_path / name))), 3))


def test_a_checkpoint_without_colours_is_not_exported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(run.folder.recipe, tmp_path / "run")
    path = with_facts(run, tmp_path, lambda facts: {key: value for key, value in facts.items() if key != "palette"})
    path.rename(tmp_path / "run" / "student.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"student\.safetensors doesn't say which colours its classes are drawn in; expected a checkpoint",
    ):
        open_run(tmp_path / "run")


def test_a_negative_variance_is_refused_like_nan(run: Run, tmp_path: Path) -> None:
    tensors = safetensors.torch.load(run.checkpoint)
    tensors["encoder.bn1.running_var"][0] = -1.0
    with pytest.raises(
        WeightsError, match=r"or a negative variance, in 1 of \d+ tensors, e\.g\. encoder\.bn1\.running_var"
    ):
        load_checkpoint(with_facts(run, tmp_path, lambda facts: facts, tensors), CLASSES)


def test_tensors_of_another_type_are_refused(run: Run, tmp_path: Path) -> None:
    tensors = safetensors.torch.load(run.checkpoint)
    tensors["encoder.conv_stem.weight"] = tensors["encoder.conv_stem.weight"].double()
    with pytest.raises(
        WeightsError, match=r"conv_stem\.weight is torch\.float64, expected torch\.float32; the file was edited"
    ):
        load_checkpoint(with_facts(run, tmp_path, lambda facts: facts, tensors))


def test_what_is_hashed_is_what_was_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), real(path))[1])
    loaded = load_checkpoint(run.folder.student)
    assert loaded.sha256 == sha256(run.folder.student)
    assert reads == [run.folder.student], "read once: another process can't exchange it between loading and hashing"
