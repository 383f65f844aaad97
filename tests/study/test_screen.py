"""The table that a terminal shows while a study runs."""

from pathlib import Path

import pytest
import toys
from rich.console import Console
from toy_study import plan_of, write

from rdd_deploy.study.screen import Now, Screen, seconds_left


def test_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toys.write_story(tmp_path)
    plan = plan_of(write(tmp_path / "s.yaml", variants={"KD": {}, "RDD [b]": {}}))
    kd0, rdd0, kd1, rdd1 = plan.runs
    kd0.folder.path.mkdir(parents=True)
    kd0.folder.summary.write_text('{"best": {"miou_pct": 60.0}, "last": {"miou_pct": 59.125}, "protocol": {}}')
    rdd0.folder.path.mkdir()
    rdd0.folder.metrics.write_text("epoch,seconds,miou_pct\n1,100.0,41.5\n2,200.0,\n")
    now = Now([kd1], {rdd0.folder.path: True}, {rdd1.folder.path}, 1)
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(Screen(plan).table(now))
    text = console.export_text()
    [kd] = [line.split() for line in text.splitlines() if line.strip().startswith("KD")]
    [rdd] = [line.split() for line in text.splitlines() if line.strip().startswith("RDD")]
    assert kd == ["KD", "59.12", "waits"]
    assert rdd == ["RDD", "[b]", "epoch", "2/3", "41.50", "2", "min", "failed"]  # names aren't markup
    # An epoch of 100 s · 1.2: one is left of the one that goes on, three of the one that waits.
    assert "about 8 min to come" in text


def test_nothing_is_forecast_before_an_epoch_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toys.write_story(tmp_path)
    plan = plan_of(write(tmp_path / "s.yaml"))
    assert seconds_left(plan.runs, [], plan.runs) == 0
    plan.runs[0].folder.path.mkdir(parents=True)
    plan.runs[0].folder.metrics.write_text("epoch,seconds\n1,rubbish\n")
    assert seconds_left(plan.runs, [], plan.runs) == 0
