"""A loss with a projection and a memory bank, and a teacher from elsewhere: each is one file and one
line in a table.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
import yaml
from safetensors.torch import load_file

HELPERS = Path(toys.__file__).parent


def distil(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(HELPERS.parents[1]), str(HELPERS)])
    return toys.call("forked_seams", "student.yaml", *words, cwd=folder, env={"PYTHONPATH": paths} | environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seams")
    tree: dict[str, Any] = toys.tree(toys.write_data(folder / "data"))
    tree["teacher"] = {"checkpoint": "colours.txt", "source": "colours", "options": {"sharpness": 0.2}}
    cirkd = {"name": "cirkd_memory", "weight": 0.1, "options": {"pixels": 3000, "regions": 5}}
    tree["distillation"] = {"losses": [{"name": "banked", "weight": 0.5, "options": {"size": 3}}, cirkd]}
    tree["train"] |= {"ema": 0.9}
    toys.write_recipe(folder / "student.yaml", tree)
    (folder / "colours.txt").write_text("\n".join(" ".join(map(str, colour)) for colour in toys.COLOURS))
    done = distil(folder)
    assert done.returncode == 0, done.stderr
    return folder


def state(run: Path) -> dict[str, Any]:
    return dict(torch.load(run / "state.ckpt", weights_only=True))


def test_the_loss_is_trained_and_logged_but_never_part_of_the_student(place: Path) -> None:
    run = place / "runs" / "student"
    assert "loss_banked" in (run / "metrics.csv").read_text().splitlines()[0]
    saved = state(run)
    toy, cirkd = ({name for name in saved["objective"] if name.startswith(f"losses.{index}.")} for index in range(2))
    assert toy == {"losses.0.project.weight", "losses.0.project.bias", "losses.0.bank"}
    assert {"losses.1.queues.pixel.vectors", "losses.1.queues.region.pointer", "losses.1.step"} < cirkd
    assert saved["objective"]["losses.1.step"] == 9
    assert saved["objective"]["losses.1.queues.pixel.pointer"].any()
    assert saved["objective"]["losses.0.bank"].shape == (3, 3)
    assert saved["objective"]["losses.0.bank"].all(), "one row for each step, and no other"
    parameters = [name for name in saved["model"] if "running" not in name and "num_batches" not in name]
    assert len(saved["optimizer"]["state"]) == len(parameters) + 2 + 4
    assert not any("project.weight" in name and "losses" in name for name in load_file(run / "student.safetensors"))
    assert set(load_file(run / "student.safetensors")) <= set(saved["model"])
    assert not any("losses" in name for name in saved["average"])


def test_the_teacher_from_elsewhere_taught(place: Path) -> None:
    summary = yaml.safe_load((place / "runs" / "student" / "summary.json").read_text())
    assert summary["teacher"]["checkpoint"].endswith("colours.txt")
    assert summary["teacher"]["miou_pct"] > 80, "it knows the colours"


def test_stopped_and_resumed_it_is_the_same_bit_for_bit(place: Path) -> None:
    stopped = distil(place, "--name", "stopped", TOY_STOP="4")
    assert stopped.returncode == 130, stopped.stderr
    assert state(place / "runs" / "stopped")["step"] == 4
    resumed = distil(place, "--name", "stopped", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole, parts = place / "runs" / "student", place / "runs" / "stopped"
    assert (parts / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    for name, value in state(whole)["objective"].items():
        assert torch.equal(value, state(parts)["objective"][name]), name


def test_a_cache_holds_the_maps_that_losses_read(place: Path) -> None:
    done = distil(place, "teacher.cache=true", "--name", "cached")
    assert done.returncode == 0, done.stderr
    assert "loss_banked" in (place / "runs/cached/metrics.csv").read_text().splitlines()[0]
    assert sorted(path.name for path in (place / "cache").glob("*/*/*.npy")) == [
        "agreement.npy", "map_head.npy", "primary.npy", "sizes.npy", "sizes.npy",
    ]  # fmt: skip


def test_a_teacher_without_the_map_is_told_before_its_cache_is_filled(place: Path) -> None:
    done = distil(
        place, "teacher.cache=true", "teacher.options.maps=[logits]", "teacher.options.sharpness=0.3", "--name", "none"
    )
    assert done.returncode == 2
    (line,) = toys.errors_of(done)
    assert line == "error: distillation.losses: of the teacher, it has no map head; leave out the loss that reads it"
    assert "to be written" not in done.stdout


@pytest.mark.slow
def test_two_processes_train_one_projection(place: Path) -> None:
    (place / "notes").mkdir()
    done = distil(place, "train.devices=2", "--name", "pair", TOY_NOTES=str(place / "notes"))
    assert done.returncode == 0, done.stderr
    first, second = ((place / "notes" / rank).read_text() for rank in "01")
    assert first == second, "their halves of the batch differ, so only shared gradients leave them alike"
