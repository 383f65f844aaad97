"""The command as a process; what exports and times is slow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toys

from rdd_deploy.recipe import load_distillation
from rdd_deploy.recipe_files import find_recipe
from rdd_deploy.suggest.candidates import CANDIDATES
from rdd_deploy.suggest.rows import RECIPE


def suggest(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "rdd_deploy", "suggest", *map(str, words)]
    env = os.environ | {"COLUMNS": "400", "TMPDIR": str(tmp_path / "tmp")}
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


def test_the_list_and_mistakes(tmp_path: Path) -> None:
    refused = suggest(tmp_path, "--list", "--json", "l.json")
    assert refused.returncode == 2
    assert "--list times nothing, so there are no figures for --json" in refused.stderr
    done = suggest(tmp_path, "--list")
    assert done.returncode == 0
    assert all(encoder in done.stdout for encoder in CANDIDATES)
    head = load_distillation(find_recipe(RECIPE)).student.head  # what is timed is what the printed command trains
    assert done.stdout.count(f" {head} ") == len(CANDIDATES)
    done = suggest(tmp_path, "--latency", "soon", "--only", "mobileone_s9")
    assert done.returncode == 2
    assert toys.errors_of(done) == [
        "error: --latency is 'soon'; expected a time above zero, e.g. 5ms, 5 (milliseconds) or 0.005s"
    ]
    done = suggest(tmp_path, "--only", "mobileone_s9")
    assert done.returncode == 2
    assert "unknown encoder 'mobileone_s9'; did you mean" in toys.errors_of(done)[0]
    assert toys.leftovers(tmp_path) == []


@pytest.mark.slow
def test_candidates_are_timed_and_one_that_fails_is_a_row(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = suggest(
        tmp_path, "--backend", "onnxruntime", "--size", 64, 96, "--classes", 3, "--rounds", 1, "--json", figures, "--threads", 1,
        "--only", "repghostnet_050", "--only", "cait_xxs24_224", "--only", "tf_efficientnet_lite0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    toys.errors_of(done)
    told = toys.read_json(figures)
    rows = {one["encoder"]: one for one in told["rows"]}
    assert set(rows) == {"repghostnet_050", "cait_xxs24_224", "tf_efficientnet_lite0"}
    assert rows["tf_efficientnet_lite0"]["call_p95_ms"] >= rows["tf_efficientnet_lite0"]["call_p50_ms"] > 0
    assert told["worth_training"] == ["tf_efficientnet_lite0"]  # the only one of known accuracy
    assert "student.encoder=tf_efficientnet_lite0" in done.stdout
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("latency", "code"), [("5s", 0), ("0.001ms", 3)])
def test_candidates_through_openvino_within_a_latency(tmp_path: Path, latency: str, code: int) -> None:
    """EdgeNeXt's transposed maps are quantised there as well; a budget that none keeps is its own exit code."""
    figures = tmp_path / "figures.json"
    done = suggest(
        tmp_path, "--backend", "openvino", "--latency", latency, "--size", 64, 96, "--classes", 3, "--rounds", 1, "--threads", 1,
        "--head", "lraspp", "--json", figures, "--only", "edgenext_xx_small", "--only", "tf_efficientnet_lite0",
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    told = toys.read_json(figures)
    rows = {one["encoder"]: one for one in told["rows"]}
    assert set(rows) == {"edgenext_xx_small", "tf_efficientnet_lite0"}
    assert all(one["call_p50_ms"] > 0 for one in rows.values())
    assert ("tf_efficientnet_lite0" in told["worth_training"]) == (code == 0)
    assert list((tmp_path / "tmp").iterdir()) == []
