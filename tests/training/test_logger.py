"""Where a run's figures and pictures go: each log of ``train.loggers``, alone and over a resumed run, and none that
wasn't asked for.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import CLASSES, read_json, teacher_tree, tree, write_data, write_recipe

from rdd_deploy.errors import MissingPackageError, RddError, RecipeError
from rdd_deploy.recipe import load_distillation, load_recipe
from rdd_deploy.training import distillation
from rdd_deploy.training.loggers import check_installed
from rdd_deploy.training.loop import Interrupted
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.session import dry_run
from rdd_deploy.training.supervised import train_recipe

FAKE_WANDB = """
import json, os, random, signal
import numpy as np
import torch

def note(**what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(what) + "\\n")

class Image:
    def __init__(self, picture):
        self.shape = list(picture.shape)

class Run:
    def log(self, values, step):
        if step == int(os.environ.get("FAILS_AT", 0)):
            raise ConnectionError("the server is gone\\nfor good")
        note(call="log", step=step, values={name: getattr(value, "shape", value) for name, value in values.items()})
        if step == int(os.environ.get("STOPS_AT", 0)):
            os.kill(os.getpid(), signal.SIGTERM)
    def finish(self, exit_code):
        note(call="finish", exit_code=exit_code)

def init(**options):
    if os.environ.get("NO_LOGIN"):
        raise RuntimeError("api_key not configured (no-tty)")
    note(call="init", errors=os.environ.get("WANDB_ERROR_REPORTING"), **options)
    return Run()
"""
FAKE_MLFLOW = """
import json, os
from types import SimpleNamespace

class MlflowClient:
    def __init__(self, tracking_uri):
        self.note("client", tracking_uri, os.environ["MLFLOW_DISABLE_TELEMETRY"])
    def get_experiment_by_name(self, name):
        return None
    def create_experiment(self, name, artifact_location):
        self.note("experiment", name, artifact_location)
        return "7"
    def create_run(self, experiment, run_name):
        self.note("run", experiment, run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))
    def log_param(self, run, key, value):
        self.note("param", run, key, value)
    def log_metric(self, run, key, value, step):
        self.note("metric", run, key, value, step)
    def log_image(self, run, picture, artifact_file):
        self.note("image", run, list(picture.shape), artifact_file)
    def set_terminated(self, run, status):
        self.note("end", run, status)
    def note(self, *what):
        with open(os.environ["NOTES"], "a") as file:
            file.write(json.dumps(what) + "\\n")
"""
MISSING = (
    "train.loggers names wandb, which needs the package 'wandb', which isn't installed: pip install wandb, or leave"
    " wandb out of train.loggers"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a recipe with pictures, and ``runs/plain``, a finished run by it."""
    folder = tmp_path_factory.mktemp("logs")
    content = tree(write_data(folder / "data"))
    content["train"] |= {"epochs": 2, "pictures_every": 2}
    write_recipe(folder / "toy.yaml", content)
    train(folder, "plain")
    return folder


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``wandb`` on the path; returns the file in which it notes its calls."""
    (tmp_path / "packages" / "wandb").mkdir(parents=True)
    (tmp_path / "packages" / "wandb" / "__init__.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")  # is put back, whatever a log sets
        monkeypatch.delenv(name)
    return tmp_path / "notes"


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same of ``mlflow``."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "mlflow.py").write_text(FAKE_MLFLOW)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path / "notes"


@pytest.fixture
def no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it weren't installed, on a machine that has it."""
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not (Path(one) / "wandb" / "__init__.py").exists()])


def train(place: Path, name: str, *overrides: str, resume: bool = False) -> RunFolder:
    return train_recipe(load_recipe(place / "toy.yaml", overrides), place / "runs", resume, name)


def calls(notes: Path) -> list[Any]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def same_training(one: RunFolder, other: RunFolder) -> bool:
    """The same weights bit for bit, whatever the classes are called, and the same table but for the seconds."""
    tables, weights = [], [load_file(run.student) for run in (one, other)]
    for run in (one, other):
        with run.metrics.open(newline="") as file:
            tables.append(
                [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
            )
    alike = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    return alike and set(weights[0]) == set(weights[1]) and tables[0] == tables[1]


def events(run: RunFolder) -> EventAccumulator:
    return EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0}).Reload()


def test_tensorboard_holds_curves_iou_of_each_class_and_the_pictures(place: Path) -> None:
    run = RunFolder(place / "runs" / "plain")
    found = events(run)
    iou = {f"iou_pct/{name}" for name in CLASSES}
    assert set(found.Tags()["scalars"]) == {"lr", "loss_task", "seconds", "miou_pct", "pixel_accuracy_pct"} | iou
    assert [event.step for event in found.Scalars("loss_task")] == [1, 2]
    last = read_json(run.summary)["last"]["iou_pct"]
    for name in CLASSES:
        assert found.Scalars(f"iou_pct/{name}")[-1].value == pytest.approx(last[name], abs=1e-4)
    (picture,) = found.Images("pictures")
    assert picture.step == 2
    decoded = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded, cv2.imread(str(run.pictures / "epoch_002.png"))), "the same picture as in the folder"


@pytest.mark.parametrize("loggers", ["[]", "[csv]"])
def test_nothing_of_tensorboard_where_it_is_left_out(place: Path, loggers: str) -> None:
    name = f"quiet{len(loggers)}"
    run = train(place, name, f"train.loggers={loggers}")
    assert not (run.path / "tensorboard").exists()
    assert same_training(run, RunFolder(place / "runs" / "plain"))
    assert (run.pictures / "epoch_002.png").is_file()


def test_wandb_gets_figures_and_pictures_offline(place: Path, wandb: Path) -> None:
    run = train(place, "tracked", "train.loggers=[wandb]")
    begun, first, picture, second, end = calls(wandb)
    assert begun.pop("config")["train"]["loggers"] == ["wandb"]
    assert begun == {
        "call": "init", "errors": "false", "project": "rdd-deploy", "name": "tracked", "id": (run.path / "wandb" / "run_id.txt").read_text(),
        "resume": "allow", "dir": str(run.path), "mode": "offline", "settings": {"console": "off", "quiet": True},
    }  # fmt: skip
    assert (first["step"], second["step"]) == (1, 2)
    assert set(second["values"]) == {
        "lr",
        "loss_task",
        "seconds",
        "miou_pct",
        "pixel_accuracy_pct",
        *(f"iou_pct/{n}" for n in CLASSES),
    }
    shape = list(cv2.imread(str(run.pictures / "epoch_002.png")).shape)
    assert (picture["step"], picture["values"]) == (2, {"pictures": shape})
    assert end == {"call": "finish", "exit_code": 0}
    assert not (run.path / "tensorboard").exists()
    assert same_training(run, RunFolder(place / "runs" / "plain"))


def test_wandb_goes_online_where_the_user_says_so(place: Path, wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "streets")
    train(place, "online", "train.loggers=[wandb]", "train.epochs=1")
    begun = calls(wandb)[0]
    assert (begun["mode"], begun["project"], begun["errors"]) == ("online", "streets", None)


def test_mlflow_gets_figures_and_pictures_in_the_run_folder(place: Path, mlflow: Path) -> None:
    run = train(place, "flow", "train.loggers=[mlflow]", f"data.classes=[{CLASSES[0]}, Straße, {CLASSES[2]}]")
    noted = calls(mlflow)
    assert noted[:3] == [
        ["client", f"sqlite:///{run.path.resolve()}/mlflow/mlflow.db", "true"],
        ["experiment", "rdd-deploy", (run.path.resolve() / "mlflow" / "artifacts").as_uri()],
        ["run", "7", "flow"],
    ]
    assert ["param", "abc", "train.epochs", "2"] in noted
    metrics = [one for one in noted if one[0] == "metric"]
    assert {one[2] for one in metrics if one[2].startswith("iou_pct/")} == {
        "iou_pct/left",
        "iou_pct/Stra_df_e",
        "iou_pct/right",
    }
    assert [one[4] for one in metrics if one[2] == "miou_pct"] == [1, 2]
    assert [one[3] for one in noted if one[0] == "image"] == ["pictures/epoch_002.png"]
    assert noted[-1] == ["end", "abc", "FINISHED"]
    assert same_training(run, RunFolder(place / "runs" / "plain"))


def test_mlflow_goes_where_the_user_says(place: Path, mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    train(place, "sent", "train.loggers=[mlflow]", "train.epochs=1")
    assert calls(mlflow)[:2] == [["client", "http://tracker:5000", "true"], ["experiment", "rdd-deploy", None]]


def test_a_resumed_run_is_one_in_every_log(place: Path, wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOPS_AT", "1")
    with pytest.raises(Interrupted):
        train(place, "resumed", "train.loggers=[tensorboard, wandb]")
    monkeypatch.delenv("STOPS_AT")
    time.sleep(1)  # TensorBoard reads its files by name: by the second, then by a number as text, 10 before 9
    run = train(place, "resumed", "train.loggers=[tensorboard, wandb]", resume=True)
    found = events(run)
    assert [event.step for event in found.Scalars("loss_task")] == [1, 2]
    assert [event.step for event in found.Scalars(f"iou_pct/{CLASSES[0]}")] == [1, 2]
    assert [event.step for event in found.Images("pictures")] == [2]
    noted = calls(wandb)
    assert [one["call"] for one in noted] == ["init", "log", "finish", "init", "log", "log", "finish"]
    assert [one["exit_code"] for one in noted if one["call"] == "finish"] == [1, 0]
    assert noted[0]["id"] == noted[3]["id"]
    assert same_training(run, RunFolder(place / "runs" / "plain"))
    again = train(place, "resumed", "train.loggers=[csv]", resume=True)
    assert same_training(again, run), "where figures go isn't what a run is"


def test_a_new_run_in_the_place_of_another_is_another_in_wandb(place: Path, wandb: Path) -> None:
    for _ in range(2):
        train(place, "again", "train.loggers=[wandb]", "train.epochs=1")
    first, second = (one["id"] for one in calls(wandb) if one["call"] == "init")
    assert first != second


def test_a_log_that_fails_meanwhile_is_left_out(
    place: Path, wandb: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS_AT", "1")
    run = train(place, "cut", "train.loggers=[wandb, tensorboard]")
    assert [one["call"] for one in calls(wandb)] == ["init"]
    warning = (
        "warning: wandb failed (the server is gone) and gets nothing more of this run; the training goes on, and"
        " metrics.csv holds all"
    )
    assert capsys.readouterr().err.count(warning) == 1
    assert len(events(run).Scalars("lr")) == 2
    assert same_training(run, RunFolder(place / "runs" / "plain"))


def test_a_log_that_can_not_begin_stops_before_the_first_step(
    place: Path, wandb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_LOGIN", "1")
    with pytest.raises(RddError) as caught:
        train(place, "refused", "train.loggers=[wandb]")
    assert (
        str(caught.value)
        == "wandb can't begin (api_key not configured (no-tty)); fix that, or leave wandb out of train.loggers"
    )
    assert not RunFolder(place / "runs" / "refused").state.exists()


@pytest.mark.usefixtures("no_wandb")
def test_a_missing_package_is_told_before_anything_is_done(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingPackageError) as caught:
        train(place, "never", "train.loggers=[wandb]")
    assert str(caught.value) == MISSING
    assert not (place / "runs" / "never").exists()
    with pytest.raises(MissingPackageError) as caught:
        dry_run(
            load_recipe(place / "toy.yaml", ["train.loggers=[csv, wandb]"]),
            RunFolder(place / "runs" / "never"),
            resume=False,
        )
    assert str(caught.value) == MISSING
    (tmp_path / "wandb" / "offline-run").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingPackageError):  # a folder that W&B left behind isn't W&B
        check_installed(["wandb"])


@pytest.mark.usefixtures("no_wandb")
def test_a_dry_run_looks_at_the_teachers_logs_too(place: Path) -> None:
    teacher = teacher_tree(place / "data")
    teacher["train"] |= {"loggers": ["wandb"]}
    write_recipe(place / "teacher.yaml", teacher)
    source = write_recipe(place / "student.yaml", tree(place / "data") | {"teacher": {"recipe": "teacher.yaml"}})
    with pytest.raises(MissingPackageError) as caught:
        distillation.dry_run(load_distillation(source), source, RunFolder(place / "runs" / "student"), resume=False)
    assert str(caught.value) == MISSING


def test_an_unknown_log_lists_those_there_are(place: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(place / "toy.yaml", ["train.loggers=[tensorbord]"])
    assert "train.loggers.0: got 'tensorbord', expected 'csv', 'tensorboard', 'wandb' or 'mlflow'" in str(caught.value)


def test_an_earlier_versions_run_names_no_logs_and_goes_on(place: Path) -> None:
    run = train(place, "earlier", "train.epochs=1")
    written = run.recipe.read_text()
    lines = [line for line in written.splitlines() if line.strip() not in ("loggers:", "- csv", "- tensorboard")]
    assert len(lines) == len(written.splitlines()) - 3
    run.recipe.write_text("\n".join(lines) + "\n")
    assert run.load_recipe().train.loggers == ["csv", "tensorboard"]
    assert train(place, "earlier", "train.epochs=1", resume=True).finished
