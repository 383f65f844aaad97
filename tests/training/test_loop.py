"""The loop, through real processes: killed and resumed, interrupted, diverged."""

import contextlib
import csv
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from toys import (
    Started,
    call,
    errors_of,
    leftovers,
    network,
    picture,
    read_json,
    teacher_tree,
    tree,
    write_data,
    write_pair,
    write_recipe,
    write_story,
)

from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import DeviceError, DivergedError
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_segmenter, save_segmenter
from rdd_deploy.outputs import Output
from rdd_deploy.recipe import load_recipe
from rdd_deploy.recipe_train import Train
from rdd_deploy.training import fabric as fabric_module
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import is_emulated, make_fabric, resolve_precision
from rdd_deploy.training.loop import fit
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.state import Loss, Method, Objective, learning_rate_factor
from rdd_deploy.training.supervised import train_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, recipes and an uninterrupted run of them: a teacher with its cache, and ``whole``, a student."""
    folder = tmp_path_factory.mktemp("fit")
    write_data(folder / "data")
    # Dropout, EMA and Adam's moments must all survive; 12 steps, the stage switches in the second epoch.
    student: dict[str, Any] = {
        "student": network(dropout=0.3),
        "teacher": {"recipe": "teacher.yaml", "cache": True, "flip": True},
        "distillation": {"tfe_fraction": 0.4},
        "train": {
            "epochs": 4,
            "batch": 2,
            "lr": 0.003,
            "optimizer": "adamw",
            "ema": 0.9,
            "device": "cpu",
            "precision": "32-true",
            "pictures_every": 2,
        },
    }
    write_story(folder, student)
    done = call("distill", "student.yaml", "--name", "whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def result(run: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, str]]]:
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    return safetensors.torch.load_file(run / "student.safetensors"), [
        {k: v for k, v in row.items() if k != "seconds"} for row in rows
    ]


def assert_same_run(one: Path, other: Path) -> None:
    (tensors, rows), (expected, wanted) = result(one), result(other)
    assert rows == wanted
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    first, second = read_json(one / "summary.json"), read_json(other / "summary.json")
    for key in ("best", "last", "steps", "teacher", "encoder_weights", "protocol"):
        assert first[key] == second[key]
    assert leftovers(one) == []


def wait_for(path: Path, process: Started) -> None:
    while not path.is_file():
        assert process.running, process.stderr
        time.sleep(0.02)


def test_killed_at_any_moment_and_resumed_is_the_same_run(place: Path) -> None:
    # States are written behind the training's back, after most of its steps.
    process = Started("distill", "student.yaml", "--name", "killed", "train.save_minutes=1e-6", cwd=place)
    run = place / "runs" / "killed"
    wait_for(run / "state.ckpt", process)
    time.sleep(random.Random(os.getpid()).uniform(0, 0.2))
    with contextlib.suppress(ProcessLookupError):  # on an idle machine it may be finished before
        process.signal(signal.SIGKILL)
    assert process.wait().returncode in (-signal.SIGKILL, 0)  # 0: it was finished before
    resumed = call("distill", "student.yaml", "--name", "killed", "--resume", cwd=place)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(run, place / "runs" / "whole")


def test_a_distillation_killed_at_any_moment_and_run_again_is_the_same(place: Path) -> None:
    """While its teacher is trained: from the moment of its first checkpoint, before there is a state, to a random later
    one.
    """
    runs = place / "again"
    for number, wait in enumerate((0.0, random.Random(os.getpid()).uniform(0, 0.1))):
        process = Started("distill", "student.yaml", "--output", "again", cwd=place)
        checkpoint = runs / "teacher" / "teacher.safetensors"
        before = checkpoint.stat().st_ino if checkpoint.is_file() else 0
        while not checkpoint.is_file() or (number and checkpoint.stat().st_ino == before):
            if not process.running:
                break  # it was finished before
            time.sleep(0.001)
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):
            process.signal(signal.SIGKILL)
        process.wait()
    done = call("distill", "student.yaml", "--output", "again", cwd=place)
    assert done.returncode == 0, done.stderr
    for run in ("teacher/teacher.safetensors", "student/student.safetensors"):
        expected = place / "runs" / run.replace("student/", "whole/")
        tensors, wanted = safetensors.torch.load_file(runs / run), safetensors.torch.load_file(expected)
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_ctrl_c_saves_inside_an_epoch_and_resumes(place: Path) -> None:
    process = Started("distill", "student.yaml", "--name", "stopped", "--resume", "train.pictures_every=1", cwd=place)
    run = place / "runs" / "stopped"
    wait_for(run / "metrics.csv", process)
    process.signal(signal.SIGINT)
    stopped = process.wait()
    assert "nothing to resume: runs/stopped holds no state; starting from the beginning" in stopped.stdout
    assert stopped.returncode == 130, stopped.stderr
    (line,) = errors_of(stopped)
    assert line.endswith("of 12; the state is saved, go on with the same command and --resume")
    assert leftovers(run) == []
    refused = call("distill", "student.yaml", "--name", "stopped", "--resume", cwd=place)
    assert (refused.returncode, errors_of(refused)) == (
        2,
        [
            "error: can't resume runs/stopped: the recipe changed (train.pictures_every: 1 → 2); use the same recipe"
            " and overrides, or start again without --resume"
        ],
    )
    resumed = call("distill", "student.yaml", "--name", "stopped", "--resume", "train.pictures_every=1", cwd=place)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(run, place / "runs" / "whole")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that could be resumed, on data and a teacher of its own."""
    folder = tmp_path_factory.mktemp("begun")
    write_story(
        folder, {"train": {"epochs": 1, "batch": 2, "device": "cpu", "precision": "32-true", "pictures_every": 0}}
    )
    done = call("distill", "student.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def exchange(root: Path) -> None:
    """Two training pairs under each other's names: the same frames in another order."""
    for kind in ("train", "trainannot"):
        one, other = root / kind / "train0000.png", root / kind / "train0001.png"
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)


def relabel(root: Path) -> None:
    write_pair(root, "train", "train0002", picture(2)[0], picture(3)[1])


def reteach(root: Path) -> None:
    path = root.parent / "runs" / "teacher" / "teacher.safetensors"
    segmenter, facts = load_segmenter(path)
    save_segmenter(path, segmenter, facts | {"note": "trained again"})


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (exchange, "the training frames (other images, or in another order) and the training frames' masks"),
        (relabel, "the training frames' masks"),
        (reteach, "the teacher's checkpoint"),
    ],
)
def test_resuming_on_what_changed_is_refused(begun: Path, tmp_path: Path, spoil: Any, what: str) -> None:
    place = tmp_path / "place"
    shutil.copytree(begun, place, symlinks=True)
    for path in place.glob("*.yaml"):
        path.write_text(path.read_text().replace(str(begun), str(place)))
    recipe = place / "runs" / "student" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(begun), str(place)))
    spoil(place / "data")
    refused = call("distill", "student.yaml", "--resume", cwd=place)
    assert (refused.returncode, errors_of(refused)) == (
        2,
        [
            f"error: can't resume runs/student: since it was begun {what} changed; put back what was there, or start"
            " again without --resume"
        ],
    )


def test_a_state_that_does_not_say_what_it_was_begun_by(begun: Path) -> None:
    path = begun / "runs" / "student" / "state.ckpt"
    state = torch.load(path, weights_only=True)
    assert set(state["origin"]) == {"train_frames", "train_labels", "teacher_sha256"}
    del state["origin"]
    torch.save(state, path)
    resumed = call("distill", "student.yaml", "--resume", cwd=begun)
    assert resumed.returncode == 0, resumed.stderr
    assert (
        "warning: runs/student/state.ckpt doesn't say by which data it was begun; if they changed since, the resumed"
        in resumed.stderr
    )


def test_resuming_a_finished_run_changes_nothing(place: Path) -> None:
    again = call("distill", "student.yaml", "--name", "whole", "--resume", cwd=place)
    assert again.returncode == 0, again.stderr
    assert read_json(place / "runs" / "whole" / "summary.json")["last"]["iou_pct"]


def test_what_a_run_leaves_behind(place: Path) -> None:
    run = place / "runs" / "whole"
    names = {path.name for path in run.iterdir()}
    assert names == {
        "recipe.yaml",
        "state.ckpt",
        "student.safetensors",
        "metrics.csv",
        "summary.json",
        "tensorboard",
        "pictures",
    }
    assert sorted(path.name for path in (run / "pictures").iterdir()) == ["epoch_002.png", "epoch_004.png"]
    assert (place / "runs" / "latest").is_symlink()
    _, rows = result(run)
    # 12 steps, 40 % of them are 4.8: steps 0 to 4.
    assert [row["stage"] for row in rows] == [
        "tfe",
        "tse",
        "tse",
        "tse",
    ]
    assert all(float(row["miou_pct"]) > 0 for row in rows)
    summary = read_json(run / "summary.json")
    assert summary["steps"] == 12
    assert summary["best"]["miou_pct"] == max(float(row["miou_pct"]) for row in rows)
    assert summary["protocol"]["images"] == 3


def test_no_teacher_tensor_in_the_students_files(place: Path) -> None:
    run, teacher = place / "runs" / "whole", place / "runs" / "teacher"
    student_names = set(result(run)[0])
    state = torch.load(run / "state.ckpt", weights_only=True)
    assert set(state["model"]) == student_names
    assert not any(name.startswith("auxiliary") for name in student_names)
    taught = safetensors.torch.load_file(teacher / "teacher.safetensors")
    assert any(name.startswith("auxiliary") for name in taught)
    shapes = {tuple(value.shape) for name, value in taught.items() if name.startswith("auxiliary")}
    assert not shapes & {tuple(value.shape) for value in state["average"].values()} - {
        tuple(v.shape) for v in state["model"].values()
    }


def test_diverging_ends_with_the_batchs_names(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    write_recipe(tmp_path / "student.yaml", tree(root))
    done = call("train", "student.yaml", "train.lr=1e30", "train.warmup=0", "train.clip=0", cwd=tmp_path)
    assert done.returncode == 5
    (line,) = errors_of(done)
    assert line.startswith("error: the loss is nan on the batch of train000")
    assert line.count("train000") == 2
    assert line.endswith("set train.precision=32-true"), "in the first epoch there are no best weights yet"
    assert leftovers(tmp_path / "runs" / "student_alone") == []
    assert not (tmp_path / "runs" / "student_alone" / "summary.json").exists()


class Stub(Objective):
    """An objective that is one function."""

    def __init__(self, function: Callable[[Output, Batch, float], Loss]) -> None:
        super().__init__()
        self.function = function

    def forward(self, output: Output, batch: Batch, progress: float) -> Loss:
        return self.function(output, batch, progress)


def test_diverging_later_says_that_the_best_weights_are_kept(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", tree(write_data(tmp_path / "data")) | {"name": "toy"}))

    def objective(output: Output, batch: Batch, progress: float) -> Loss:
        loss = output.primary.mean() * (float("nan") if progress > 0.4 else 0)  # in the second epoch of three
        return Loss(loss, {"task": loss.detach()})

    data, folder = TrainingData(recipe), RunFolder(tmp_path / "runs" / "toy")
    folder.write_recipe(recipe)
    segmenter, story = Segmenter(recipe.trained, 3), Method(Stub(objective), lambda _: "train", None)
    with pytest.raises(DivergedError, match=r"set train\.precision=32-true\. The best weights so far are kept$"):
        fit(
            recipe,
            segmenter,
            data.frames,
            data.validation,
            story,
            folder,
            folder.student,
            {},
            make_fabric(recipe.train),
            False,
        )
    assert folder.student.is_file()


def test_a_broken_gradient_names_its_own_batch(tmp_path: Path) -> None:
    """Its loss is finite, so only the gradient's norm tells; the next batch's loss would be NaN."""
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", tree(write_data(tmp_path / "data")) | {"name": "toy"}))
    seen: list[torch.Tensor] = []

    def objective(output: Output, batch: Batch, progress: float) -> Loss:
        seen.append(batch.indices)
        loss = output.primary.mean()
        total = loss + (loss - loss).sqrt() if len(seen) == 2 else loss  # 0, with the slope of a square root at 0
        return Loss(total, {"task": total.detach()})

    data, folder = TrainingData(recipe), RunFolder(tmp_path / "runs" / "toy")
    folder.write_recipe(recipe)
    segmenter, story = Segmenter(recipe.trained, 3), Method(Stub(objective), lambda _: "train", None)
    with pytest.raises(DivergedError) as raised:
        fit(
            recipe,
            segmenter,
            data.frames,
            data.validation,
            story,
            folder,
            folder.student,
            {},
            make_fabric(recipe.train),
            False,
        )
    names = ", ".join(data.frames.split.names[int(i)] for i in seen[1])
    assert str(raised.value).startswith(f"the gradient's norm is nan on the batch of {names}; lower train.lr, ")
    assert not folder.state.exists()


def test_a_state_of_broken_weights_is_not_saved(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", train=2)  # one step an epoch: its loss is finite, what it leaves behind isn't
    content = teacher_tree(root, evaluation={"every": 2})
    content["train"] |= {"epochs": 2, "lr": 3e38, "momentum": 0, "weight_decay": 1, "warmup": 0, "clip": 0}
    with pytest.raises(DivergedError, match=r"^the weights are no longer finite \(e\.g\. "):
        train_recipe(load_recipe(write_recipe(tmp_path / "teacher.yaml", content)), tmp_path / "runs")
    assert not (tmp_path / "runs" / "teacher" / "state.ckpt").exists()


def test_weights_that_the_last_step_broke_are_not_saved(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", train=2)  # one step: its loss is finite, what it leaves behind isn't
    write_recipe(tmp_path / "teacher.yaml", teacher_tree(root))
    done = call(
        "train",
        "teacher.yaml",
        "train.lr=3e38",
        "train.momentum=0",
        "train.weight_decay=1",
        "train.warmup=0",
        "train.clip=0",
        cwd=tmp_path,
    )
    assert done.returncode == 5, done.stderr
    (line,) = errors_of(done)
    assert line.startswith("error: the weights are no longer finite (e.g. ")
    assert not (tmp_path / "runs" / "teacher" / "teacher.safetensors").exists()


def test_poly_schedule_with_warm_up() -> None:
    assert learning_rate_factor(0.0, 0.0, 0.9) == 1
    assert learning_rate_factor(0.5, 0.0, 0.9) == pytest.approx(0.5**0.9)
    assert learning_rate_factor(0.99, 0.02, 0.9) == pytest.approx(0.01**0.9)
    assert learning_rate_factor(0.01, 0.02, 0.9) == pytest.approx(0.99**0.9 / 2)
    assert learning_rate_factor(0.02, 0.02, 0.9) == pytest.approx(0.98**0.9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"device": "tpu"}, "can't train on 1 x 'tpu'"),
        (
            {"device": "cpu", "precision": "16-mixed"},
            "train.precision is 16-mixed, which 'cpu' can't compute in; set train.precision=auto",
        ),
    ],
)
def test_devices_and_precisions_that_are_not_there(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence):
        make_fabric(Train(**changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_no_gpu(device: str) -> None:
    sentence = (
        rf"train.device is '{device}' but torch .* finds no CUDA device; install a driver, or set train.device=cpu"
    )
    with pytest.raises(DeviceError, match=sentence):
        make_fabric(Train(device=device))


@pytest.mark.gpu
def test_gpu_means_cuda() -> None:
    one, other = make_fabric(Train(device="gpu")), make_fabric(Train(device="cuda"))
    assert one.device.type == "cuda"
    assert one._precision.precision == other._precision.precision


def pretend_bf16(monkeypatch: pytest.MonkeyPatch, native: bool, torch_says: bool = True) -> None:
    monkeypatch.setattr(fabric_module, "has_native_bf16", lambda: native)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: torch_says)
    fabric_module._warn_of_emulation.cache_clear()


@pytest.mark.parametrize(
    ("native", "torch_says", "chosen"),
    [(True, True, "bf16-mixed"), (False, True, "32-true"), (True, False, "32-true"), (False, False, "32-true")],
)
def test_auto_takes_bf16_only_where_the_cpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, torch_says: bool, chosen: str
) -> None:
    pretend_bf16(monkeypatch, native, torch_says)
    assert resolve_precision("auto", "cpu") == chosen
    assert make_fabric(Train(device="cpu"))._precision.precision == chosen


@pytest.mark.parametrize("allowed", [True, False])
def test_float32_is_float32_unless_tf32_is_asked_for(allowed: bool) -> None:
    make_fabric(Train(device="cpu", precision="32-true", tf32=allowed))
    kinds = {
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
        torch.backends.cudnn.rnn.fp32_precision,
    }
    assert kinds == {"tf32" if allowed else "ieee"}
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (
        allowed,
        allowed,
    ), "what export and compilation read"


@pytest.mark.parametrize("native", [True, False])
def test_precision_that_was_named_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], native: bool
) -> None:
    pretend_bf16(monkeypatch, native)
    assert resolve_precision("32-true", "cpu") == "32-true"
    for _ in range(2):
        assert make_fabric(Train(device="cpu", precision="bf16-mixed"))._precision.precision == "bf16-mixed"
    expected = (
        ""
        if native
        else (
            "warning: train.precision is bf16-mixed, which this CPU only emulates: slower than float32; set"
            " train.precision=auto\n"
        )
    )
    assert capsys.readouterr().err == expected
    assert is_emulated("bf16-mixed", "cpu") is not native
    assert not is_emulated("bf16-mixed", "cuda")
    fabric_module._warn_of_emulation.cache_clear()
