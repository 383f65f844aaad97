"""Distilling with frames that nobody labelled, through real processes: resumed, shared, checked, and left aside where
there is no teacher.
"""

import csv
import os
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import safetensors.torch
import torch
import yaml
from toys import (
    Started,
    call,
    errors_of,
    leftovers,
    network,
    picture,
    read_json,
    tree,
    write_data,
    write_pair,
    write_recipe,
    write_story,
)

from rdd_deploy.errors import DataError, RecipeError
from rdd_deploy.recipe import StudentRecipe, TeacherRecipe, load_recipe, with_whole_paths
from rdd_deploy.training.data import TrainingData, parts_of_batch
from rdd_deploy.utils.locks import locked

MORE: dict[str, Any] = {
    "student": network(dropout=0.3),
    "teacher": {"recipe": "teacher.yaml", "cache": True},
    "distillation": {"tfe_fraction": 0.4, "losses": [{"name": "ifvd"}]},
    "train": {
        "epochs": 3,
        "batch": 4,
        "lr": 0.003,
        "optimizer": "adamw",
        "device": "cpu",
        "precision": "32-true",
        "pictures_every": 3,
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with 6 labelled frames, 9 in a folder and 4 in a video beside them, and its finished run ``whole``."""
    folder = tmp_path_factory.mktemp("unlabelled")
    write_story(
        folder,
        MORE
        | {"data": tree(folder / "data")["data"] | {"unlabelled": ["pool", "drive.avi"], "thin": {"similar": "keep"}}},
    )
    for number in range(9):
        (folder / "pool/deep").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"pool/deep/{number}.png"), cv2.cvtColor(picture(100 + number)[0], cv2.COLOR_RGB2BGR))
    video = cv2.VideoWriter(str(folder / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 64))
    for number in range(4):
        video.write(cv2.cvtColor(picture(200 + number)[0], cv2.COLOR_RGB2BGR))
    video.release()
    done = call("distill", "student.yaml", "--name", "whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (
        "unlabelled: 13 frames of pool, drive.avi beside 6 with labels; 2 of the 4 frames of each batch" in done.stdout
    )
    assert "unlabelled: the teacher is sure from left 0." in done.stdout
    return folder


def test_the_run_says_what_joined(place: Path) -> None:
    summary = read_json(place / "runs/whole/summary.json")
    told = summary["unlabelled"]
    assert (told["frames"], told["share"], set(told["thresholds"])) == (13, 0.5, {"left", "middle", "right"})
    assert told["left_out"] == {"unreadable": 0, "near": 0, "measured": 0, "labelled": 0, "over": 0}
    assert summary["steps"] == 3 * 3, "an epoch is a pass over the labelled frames, two of each batch of four"
    rows = list(csv.DictReader((place / "runs/whole/metrics.csv").read_text().splitlines()))
    assert all(0 < float(row["loss_sure"]) < 1 for row in rows)
    assert cv2.imread(str(place / "runs/whole/pictures/epoch_003.png")) is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_it_is_the_same_run_with_any_number_of_workers(place: Path, workers: int) -> None:
    words = ("student.yaml", f"data.workers={workers}", "--name", f"killed{workers}")
    run = place / "runs" / words[-1]
    process = Started("distill", *words, cwd=place)
    while not (run / "state.ckpt").is_file():
        assert process.running, process.stderr
        time.sleep(0.01)
    if process.running:
        process.signal(signal.SIGKILL)
    process.wait()
    resumed = call("distill", *words, "--resume", cwd=place)
    assert resumed.returncode == 0, resumed.stderr
    got, expected = (
        safetensors.torch.load_file(place / "runs" / name / "student.safetensors") for name in (run.name, "whole")
    )
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    if not workers:
        (place / "pool/deep/9.png").write_bytes((place / "pool/deep/8.png").read_bytes())
        refused = call("distill", *words, "--resume", cwd=place)
        (place / "pool/deep/9.png").unlink()
        assert refused.returncode == 2
        assert "the frames without labels (other images, or in another order) changed" in errors_of(refused)[-1]


def test_the_student_alone_leaves_them_aside(place: Path) -> None:
    done = call("train", "student.yaml", "train.epochs=1", cwd=place)
    assert done.returncode == 0, done.stderr
    assert (
        "data.unlabelled isn't used: without a teacher there is nothing to learn from frames without labels"
        in done.stdout
    )
    assert "13 frames" not in done.stdout
    teacher = call("train", "teacher.yaml", "data.unlabelled=pool", cwd=place)
    assert teacher.returncode == 2
    assert (
        "data.unlabelled: a teacher is trained with labels alone; leave it out here, it is a student's key"
        in teacher.stderr
    )


def test_a_cache_only_start_fills_and_trains_nothing(place: Path) -> None:
    words = (
        "student.yaml",
        "teacher.flip=true",
        "--output",
        "fleet",
        "--cache-only",
        f"teacher.checkpoint={place}/runs/teacher/teacher.safetensors",
    )
    cache = place / "runs/teacher/cache"
    before = set(cache.iterdir())
    with locked(place / "fleet" / "student"):  # as by a student of that name
        fleet = [Started("distill", *words, cwd=place) for _ in range(2)]
        several = [process.wait() for process in fleet]
    for done in several:
        assert done.returncode == 0, done.stderr
        assert "done: the teacher's cache is filled" in done.stdout
    made = {one for one in set(cache.iterdir()) - before if one.is_dir()}
    assert len(made) == 2, "frames with and without labels; the map is there"
    assert not (place / "fleet/student").exists()
    assert leftovers(cache) == []
    refused = call("distill", "student.yaml", "teacher.cache=false", "--cache-only", cwd=place)
    assert errors_of(refused) == [
        "error: --cache-only fills the teacher's cache, but teacher.cache is false: set teacher.cache=true"
    ]


@pytest.mark.slow
def test_two_processes_that_train_together(place: Path) -> None:
    for kept in (place / "runs/teacher/cache").glob("measured-*.json"):
        kept.unlink()
    done = call("distill", "student.yaml", "train.devices=2", "train.epochs=1", "--name", "pair", cwd=place)
    assert done.returncode == 0, done.stderr
    summary = read_json(place / "runs/pair/summary.json")
    assert summary["steps"] == 3
    assert summary["teacher"] == read_json(place / "runs/whole/summary.json")["teacher"], "each measures a part"


def test_a_dry_run_looks_and_writes_nothing(place: Path) -> None:
    before = sorted(place.rglob("*"))
    done = call("distill", "student.yaml", "data.scratch=none", "--dry-run", "--name", "dry", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "unlabelled: 10 images or videos in pool, drive.avi, before they are thinned out" in done.stdout
    assert sorted(place.rglob("*")) == before
    wrong = call(
        "distill",
        "student.yaml",
        "data.unlabelled=lost",
        "distillation.unlabelled.thresholds={car: 0.5}",
        "--dry-run",
        cwd=place,
    )
    assert wrong.returncode == 2
    assert (
        "data.unlabelled: there is no lost; expected a folder of images or videos, a video, or 'rest'" in wrong.stderr
    )


def test_places_are_found_like_the_datas_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    write_story(own, MORE)
    (own / "pool").mkdir()
    recipe = yaml.safe_load((own / "student.yaml").read_text())

    def unlabelled(value: Any, *words: str) -> list[str]:
        write_recipe(own / "student.yaml", recipe | {"data": recipe["data"] | {"unlabelled": value, "labelled": 0.5}})
        found = load_recipe(own / "student.yaml", words)
        return found.data.unlabelled

    monkeypatch.chdir(tmp_path)
    assert unlabelled("pool") == ["own/pool"] or unlabelled("pool") == [str(own / "pool")]
    assert [os.path.abspath(one) for one in unlabelled(["pool", "rest", "/else"])] == [
        str(own / "pool"),
        str(tmp_path / "rest"),
        "/else",
    ]
    assert unlabelled(["pool", "rest"])[1] == "rest"
    (tmp_path / "pool").mkdir()
    assert unlabelled("elsewhere", "data.unlabelled=pool") == ["pool"], "typed: from here"
    whole = with_whole_paths(load_recipe(own / "student.yaml", ["data.unlabelled=[rest, pool]"]))
    assert whole.data.unlabelled == ["rest", str(tmp_path / "pool")]


def test_the_rest_needs_a_share_of_labels_and_its_teacher_a_name(tmp_path: Path) -> None:
    source = write_story(tmp_path, MORE)
    with pytest.raises(
        RecipeError,
        match=(
            r"data\.unlabelled: rest are the frames that data\.labelled leaves out, which is 1: set data\.labelled to"
            r" less"
        ),
    ):
        load_recipe(source, ["data.unlabelled=rest"])
    for words in (
        ["distillation.unlabelled.share=1"],
        ["data.labelled=0"],
        ["data.thin.every=0"],
        ["data.unlabelled=3"],
    ):
        with pytest.raises(RecipeError, match=words[0].split("=")[0]):
            load_recipe(source, words)
    student, teacher = (
        load_recipe(source, ["data.labelled=0.125", "data.unlabelled=rest"]),
        load_recipe(tmp_path / "teacher.yaml"),
    )
    assert isinstance(student, StudentRecipe)
    assert isinstance(teacher, TeacherRecipe)
    beside = teacher.beside(student)
    assert (beside.name, beside.data.labelled, beside.data.unlabelled) == ("teacher_0.125_labels", 0.125, [])
    assert teacher.beside(load_recipe(source)).name == "teacher"  # type: ignore[arg-type]
    odd = load_recipe(tmp_path / "teacher.yaml", ["train.batch=5"])
    with pytest.raises(
        RecipeError,
        match=(
            r"(?s)the teacher's recipe teacher on the student's .*train\.batch is 5, which 2 devices can't share evenly"
        ),
    ):
        odd.beside(load_recipe(source, ["train.devices=2", "train.batch=4"]))  # type: ignore[union-attr, arg-type]


def test_what_cant_be_shared_out_is_refused(tmp_path: Path) -> None:
    source = write_story(
        tmp_path, MORE | {"data": tree(tmp_path / "data")["data"] | {"unlabelled": "data/val", "labelled": 0.2}}
    )
    with pytest.raises(
        RecipeError,
        match=r"data\.unlabelled joins frames with labels in each batch, and train\.batch is 1; expected 2 or more",
    ):
        load_recipe(source, ["train.batch=1"])
    with pytest.raises(
        DataError,
        match=r"1 train frames make batches of 1, of which 4 processes can't have a frame each; set train\.devices",
    ):
        TrainingData(load_recipe(source, ["train.devices=4", "data.unlabelled=[]"]))
    assert parts_of_batch(load_recipe(source, ["train.batch=3"]), 6) == (1, 2)
    assert parts_of_batch(load_recipe(source, ["train.batch=16"]), 1) == (1, 8)


def test_half_of_the_labels_and_the_rest(tmp_path: Path) -> None:
    """The teacher sees the same labels only."""
    write_data(tmp_path / "data", train=8, val=0)
    write_pair(tmp_path / "data", "val", "val", *picture(2000))
    write_story(
        tmp_path,
        MORE
        | {
            "data": (
                tree(tmp_path / "data")["data"] | {"labelled": 0.5, "unlabelled": "rest", "thin": {"similar": "keep"}}
            )
        },
    )
    done = call("distill", "student.yaml", "train.epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unlabelled: 4 frames of rest beside 4 with labels" in done.stdout
    assert "training teacher alone on cpu in 32-true -> runs/teacher_0.5_labels" in done.stdout
    assert done.stdout.count(", 4 train and 1 val frames") == 2
