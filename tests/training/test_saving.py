"""States are written in the background: whole, of one moment, and what goes wrong is told."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import leftovers

from rdd_deploy.errors import DiskError
from rdd_deploy.training import saving
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.saving import Agreement, StateWriter, snapshot
from rdd_deploy.utils import files


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.recipe.touch()
    return run


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are written once it is set."""
    opened, write = threading.Event(), files.write_bytes

    def late(path: Path, content: bytes) -> None:
        assert opened.wait(20)
        write(path, content)

    monkeypatch.setattr(saving.files, "write_bytes", late)
    return opened


def test_what_is_written_is_of_the_moment_when_it_was_asked_for(folder: RunFolder, gate: threading.Event) -> None:
    weights = torch.arange(4.0)
    rows: list[dict[str, Any]] = [{"epoch": 1}]
    with StateWriter(folder, 5, False) as writer:
        writer.write({"weights": weights, "rows": rows, "step": 3})
        weights += 1  # the training goes on
        rows[0]["epoch"] = 2
        rows.append({})
        assert not folder.state.exists()
        gate.set()
    state = torch.load(folder.state, weights_only=True)
    assert state["weights"].tolist() == [0, 1, 2, 3]
    assert (state["rows"], state["step"]) == ([{"epoch": 1}], 3)


def test_one_after_the_other(folder: RunFolder, gate: threading.Event) -> None:
    with StateWriter(folder, 5, False) as writer:
        writer.write({"step": 1})
        threading.Timer(0.05, gate.set).start()
        writer.write({"step": 2})  # waits for the first
        assert torch.load(folder.state)["step"] in (1, 2)
        writer.wait()
        assert torch.load(folder.state)["step"] == 2
    assert leftovers(folder.path) == []


def test_what_went_wrong_is_raised_where_the_run_goes_on(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise DiskError("can't write: no space left")

    monkeypatch.setattr(saving.files, "write_bytes", full)
    with StateWriter(folder, 5, False) as writer:
        writer.check()
        writer.write({"step": 1})
        with pytest.raises(DiskError, match="no space left"):
            writer.wait()
        writer.check()  # it was told
    with pytest.raises(DiskError, match="no space left"), StateWriter(folder, 5, False) as writer:
        writer.write({"step": 1})
    ended = KeyError()
    # What ended the run is told, not what followed.
    with (
        pytest.raises(KeyError),
        StateWriter(folder, 5, False) as writer,
    ):
        writer.write({"step": 1}) or _raise(ended)  # type: ignore[func-returns-value]


def _raise(error: Exception) -> None:
    raise error


def test_a_folder_that_was_taken_away_is_not_written_again(folder: RunFolder) -> None:
    folder.recipe.unlink()
    with pytest.raises(DiskError, match="was moved or deleted"), StateWriter(folder, 5, False) as writer:
        writer.write({"step": 1})
    assert not folder.state.exists()


def test_when_it_is_time(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with StateWriter(folder, 2, False) as writer:
        assert not writer.due(False)
        assert writer.due(True), "the first epoch's end shows that a state can be written"
        writer.write({})
        assert not writer.due(True)
        now[0] = 119
        assert not writer.due(True)
        now[0] = 120
        assert writer.due(False)
    with StateWriter(folder, 2, True) as writer:
        assert not writer.due(True), "resumed: there is one"
    with StateWriter(folder, 0, True) as writer:
        now[0] = 1e6
        assert (writer.due(True), writer.due(False)) == (True, False)


def test_a_snapshot_shares_nothing(folder: RunFolder) -> None:
    value = {
        "a": [torch.zeros(2), (torch.ones(1), "text")],
        "b": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)[:1],
    }
    copied = snapshot(value)
    value["a"][0] += 1  # type: ignore[operator]
    assert copied["a"][0].tolist() == [0, 0]
    assert copied["a"][1][1] == "text"
    assert copied["b"].stride() == value["b"].stride()  # type: ignore[union-attr]
    assert copied["b"].untyped_storage().nbytes() == 4 * 48


class OnGpu(torch.Tensor):
    """As a tensor of a GPU, which answers later."""

    is_cuda = True


@pytest.mark.parametrize("due", [9, 10, 15])
def test_a_state_that_is_due_is_saved_once_though_gpus_answer_at_the_next_question(
    due: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda *words, **_: full(*words).as_subclass(OnGpu))
    monkeypatch.setattr(saving, "Readback", Arrived)
    monkeypatch.setattr(saving.distributed, "all_reduce", lambda *_: None)
    agreed: Any = Agreement(SimpleNamespace(world_size=2, device="cpu"))  # type: ignore[arg-type]
    wanted, saved = 0, []
    for step in range(1, 80):
        wanted = 1 if step == due else wanted
        if agreed(wanted, step, False):
            saved.append(step)
            wanted = 0
    assert saved == [-(-due // 10) * 10 + 10]


class Arrived:
    """What was copied from such a tensor."""

    def __init__(self, values: torch.Tensor) -> None:
        self.value = float(values)

    def read(self) -> float:
        return self.value
