"""A study end to end, by processes: what is repeated, what goes on, what is refused, and that a killed one comes to the
same table.
"""

import csv
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
import yaml

from rdd_deploy.utils.locks import locked

UNSTEADY = {"train_seconds"}


def write_study(folder: Path, epochs: int = 2, **changes: Any) -> Path:
    """Data, recipes and a study of two variants and two seeds; a cached teacher of one epoch."""
    train = toys.tree(folder)["train"] | {"loggers": ["csv"]}
    student = {"train": train | {"epochs": epochs}, "teacher": {"recipe": "teacher.yaml", "cache": True}}
    toys.write_story(folder, student, {"train": train | {"epochs": 1}})
    tree = {
        "recipe": "student.yaml",
        "seeds": [0, 1],
        "baseline": "alone",
        "variants": {"alone": {"alone": True}, "RDD | x": {"set": {"train.class_bias": True}}},
    } | changes
    (folder / "toy.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return folder


def study(folder: Path, *words: object) -> toys.Started:
    return toys.Started("forked_study", "toy.yaml", *words, cwd=folder)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs" / "toy" / "results.csv").open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key not in UNSTEADY} for row in csv.DictReader(file)]


def summaries(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("summary.json")}


def until(what: Callable[[], object], started: toys.Started) -> None:
    end = time.monotonic() + 120
    while not what():
        assert started.running, started.stdout + started.stderr
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing disturbed."""
    folder = write_study(tmp_path_factory.mktemp("study"))
    before = files_below(folder)
    done = study(folder, "--dry-run").wait()
    assert done.returncode == 0, done.stderr
    assert files_below(folder) == before  # a dry run writes nothing
    assert "4 runs, 0 of them finished, 4 to come, after teacher teacher" in done.stdout
    assert re.search(r"about [\d.]+ min to come, 1 at once, from a measured step of each network", done.stdout)
    done = study(folder).wait()
    assert done.returncode == 0, done.stdout + done.stderr
    assert toys.errors_of(done) == []
    return folder


def test_the_table_is_written(finished: Path) -> None:
    found = rows(finished)
    assert [(row["variant"], row["seed"], row["run"]) for row in found] == [
        ("alone", "0", "alone_s0"), ("alone", "1", "alone_s1"), ("RDD | x", "0", "RDD-x_s0"), ("RDD | x", "1", "RDD-x_s1"),
    ]  # fmt: skip
    for row in found:
        summary = toys.read_json(finished / "runs" / "toy" / row["run"] / "summary.json")
        assert float(row["miou_last_pct"]) == summary["last"]["miou_pct"]
        assert float(row["miou_best_pct"]) == summary["best"]["miou_pct"]
        assert {name: float(row[f"iou_{name}_pct"]) for name in toys.CLASSES} == summary["last"]["iou_pct"]
    text = (finished / "runs" / "toy" / "table.md").read_text(encoding="utf-8")
    alone, rdd = (
        [float(row["miou_last_pct"]) for row in found if row["variant"] == name] for name in ("alone", "RDD | x")
    )
    differences = [b - a for a, b in zip(alone, rdd, strict=True)]
    # Of two: s / √2 is half their distance.
    mean, half = (
        sum(differences) / 2,
        12.7062 * abs(differences[0] - differences[1]) / 2,
    )
    [line] = [line for line in text.splitlines() if line.startswith("| RDD \\| x |")]
    assert f"{mean:+.2f} (" in line
    low, high = (float(value) for value in re.findall(r"\((\S+) to (\S+)\)", line)[0])
    assert (low, high) == (pytest.approx(mean - half, abs=0.01), pytest.approx(mean + half, abs=0.01))
    assert f"Teacher: {finished / 'runs' / 'teacher' / 'teacher.safetensors'}, mIoU " in text
    assert "mIoU of the last epoch" in text
    for seed in (0, 1):
        fitted = toys.read_json(finished / "runs" / "toy" / f"RDD-x_s{seed}" / "summary.json")["class_bias"]
        kept = "" if fitted["kept"] else ", not kept"
        assert f"RDD | x, seed {seed}: {fitted['miou_pct_without']:.2f}, {fitted['miou_pct_with']:.2f}{kept}" in text
    assert (finished / "runs" / "toy" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert toys.leftovers(finished / "runs") == []


def test_the_teacher_is_trained_once_and_its_cache_filled_once(finished: Path) -> None:
    assert len([path for path in (finished / "runs" / "teacher" / "cache").iterdir() if path.is_dir()]) == 1
    logs = {path.stem: path.read_text(encoding="utf-8") for path in (finished / "runs" / "toy" / "logs").glob("*.log")}
    assert [name for name, text in logs.items() if "training teacher alone" in text] == ["teacher"]
    assert not any((finished / "runs" / "toy").glob("*/teacher.safetensors"))


def test_what_is_finished_isnt_repeated(finished: Path) -> None:
    before, table = summaries(finished), rows(finished)
    shutil.rmtree(finished / "runs" / "toy" / "logs")
    (finished / "runs" / "toy" / "table.md").unlink()
    done = study(finished).wait()
    assert done.returncode == 0, done.stderr
    assert "start" not in done.stdout
    assert summaries(finished) == before
    assert rows(finished) == table
    assert (finished / "runs" / "toy" / "table.md").is_file()


def test_another_recipe_is_refused_and_never_counted(finished: Path) -> None:
    before = {path: path.read_bytes() for path in (finished / "runs").rglob("*") if path.is_file()}
    done = study(finished, "train.lr=0.5").wait()
    assert done.returncode == 2
    told = toys.errors_of(done)
    assert told[0].startswith("error: 4 folders of this study hold runs of another recipe or teacher; ")
    assert told[1] == "  runs/toy/alone_s0: train.lr: 0.01 → 0.5"
    assert {path: path.read_bytes() for path in (finished / "runs").rglob("*") if path.is_file()} == before


def test_a_second_study_in_the_same_folder_is_refused(finished: Path) -> None:
    with locked(finished / "runs" / "toy"):
        done = study(finished).wait()
    assert done.returncode == 2
    [line] = toys.errors_of(done)
    assert (
        line == f"error: process {os.getpid()} runs the study in runs/toy; wait until it ends, or give this one another"
        " folder with --name"
    )


def test_a_killed_study_comes_to_the_same_table(finished: Path, tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    # Another data.root with the same frames: it is the same teacher.
    shutil.copytree(finished / "runs" / "teacher", folder / "runs" / "teacher")
    killed = study(folder, "--jobs", 2)
    until(
        lambda: "epoch 1/2" in log(folder, "RDD-x_s0") or (folder / "runs/toy/RDD-x_s0/summary.json").is_file(), killed
    )
    killed.signal(signal.SIGKILL)
    assert killed.wait().returncode == -signal.SIGKILL
    before = summaries(folder)
    done = study(folder, "--jobs", 2).wait()
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(folder) == rows(finished)
    assert summaries(folder).items() >= before.items()  # what was finished stays
    assert (
        sum("training teacher alone" in path.read_text() for path in (folder / "runs" / "toy" / "logs").glob("*.log"))
        == 0
    )


def log(folder: Path, run: str) -> str:
    path = folder / "runs" / "toy" / "logs" / f"{run}.log"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def test_a_stopped_study_saves_its_runs_and_leaves_none_behind(finished: Path, tmp_path: Path) -> None:
    folder = write_study(tmp_path, epochs=1000, seeds=[0], variants={"alone": {"alone": True}})
    started = study(folder)
    until(lambda: "epoch 2/1000" in log(folder, "alone_s0"), started)
    pid = int((folder / "runs" / "toy" / ".alone_s0.lock").read_text())
    started.signal(signal.SIGTERM)
    done = started.wait()
    assert done.returncode == 128 + signal.SIGTERM
    assert toys.errors_of(done) == [
        "error: interrupted; what was reached is saved, and the same command goes on from there"
    ]
    assert (folder / "runs" / "toy" / "alone_s0" / "state.ckpt").is_file()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    variants = {
        "alone": {"alone": True},
        "bad": {"alone": True, "set": {"train.lr": 1e30, "train.clip": 0}},
        "killed": {"alone": True, "set": {"train.epochs": 1000}},
    }
    folder = write_study(tmp_path, epochs=1, seeds=[3], variants=variants)
    started = study(folder, "--jobs", 2)
    until(lambda: "epoch 1/1000" in log(folder, "killed_s3"), started)
    os.kill(int((folder / "runs" / "toy" / ".killed_s3.lock").read_text()), signal.SIGKILL)
    done = started.wait()
    assert done.returncode == 2
    told = toys.errors_of(done)
    assert told[0].startswith(
        "error: 2 runs failed and aren't in the table; fix what is wrong and give the same command again"
    )
    assert re.match(
        r"  bad, seed 3: the .+ on the batch of .+; lower train.lr.+\(log: runs/toy/logs/bad_s3.log\)", told[1]
    )
    assert told[2].startswith("  killed, seed 3: killed by SIGKILL")
    assert [row["variant"] for row in rows(folder)] == ["alone"]
    assert "Not finished: 2 of 3 runs are missing." in (folder / "runs" / "toy" / "table.md").read_text(
        encoding="utf-8"
    )


def test_a_run_of_another_process_is_waited_for_and_one_of_another_recipe_set_aside_on_demand(tmp_path: Path) -> None:
    folder = write_study(tmp_path, epochs=1, seeds=[0], variants={"alone": {"alone": True}})
    run = folder / "runs" / "toy" / "alone_s0"
    with locked(run):
        started = study(folder)
        until(lambda: "is training in runs/toy/alone_s0; waiting for it" in started.stdout, started)
        assert not run.exists()
    assert started.wait().returncode == 0
    first = (run / "student.safetensors").read_bytes()
    done = study(folder, "train.lr=0.5", "--set-aside").wait()
    assert done.returncode == 0, done.stderr
    assert (run.with_name("alone_s0.1") / "student.safetensors").read_bytes() == first
    assert [row["variant"] for row in rows(folder)] == ["alone"]
    assert (run / "student.safetensors").read_bytes() != first


def test_what_is_wrong_with_networks_and_losses_is_told_before_the_first_run(tmp_path: Path) -> None:
    variants = {"alone": {"alone": True}, "RDD": {}, "weights": {"set": {"student.weights": "nowhere.safetensors"}}}
    folder = write_study(tmp_path, variants=variants, baseline="RDD")
    done = study(folder).wait()
    assert done.returncode == 2
    [line] = toys.errors_of(done)
    assert line.startswith("error: weights: ")
    assert "nowhere.safetensors" in line
    assert not (folder / "runs").exists() or not any((folder / "runs").rglob("recipe.yaml"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\0\1", "isn't valid YAML"), ("[1, 2]", "holds a list; expected a mapping"), ("a: &x [*x]", "alias"), ("!!python/object:os.system {}", "isn't valid YAML"),
        ("", "has 3 problems"), ("recipe: teacher.yaml\nbaseline: a\nvariants: {a: {alone: true}}", "is a teacher's"), ("variants: 3\nrecipe: 4\nset: {a: .nan}", "problems"),
    ],
)  # fmt: skip
def test_rubbish(
    finished: Path,
    tmp_path: Path,
    text: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rdd_deploy.study import __main__ as command

    path = tmp_path / "rubbish.yaml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(finished)
    monkeypatch.setattr("sys.argv", ["study", str(path)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
