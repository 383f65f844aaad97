from io import StringIO

import made_up
import pytest
from rich.console import Console

from rdd_deploy import console
from rdd_deploy.benchmark.records import Benchmark
from rdd_deploy.benchmark.report.terminal import show
from rdd_deploy.benchmark.session import judged

GREEN, GREY = "\x1b[1;32m", "\x1b[90m"


def printed(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a wide terminal with colours gets."""
    file = StringIO()
    monkeypatch.setattr(
        console, "_out", Console(file=file, force_terminal=True, color_system="standard", width=300, highlight=False)
    )
    show(benchmark)
    return file.getvalue()


def test_dominated_rows_are_grey_and_the_choice_is_green(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [made_up.row("float", 30, 70), made_up.row("int8", 10, 69, drop=1), made_up.row("slow", 40, 60, drop=10)]
    lines = printed(judged(made_up.benchmark(*rows), 15, None), monkeypatch).partition("decision:")[0].splitlines()
    coloured = {
        name: {mark for line in lines if f"{name} " in line for mark in (GREEN, GREY) if mark in line}
        for name in ("float", "int8", "slow")
    }
    assert coloured == {"float": set(), "int8": {GREEN}, "slow": {GREY}}


def test_names_stay_apart_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StringIO()
    monkeypatch.setattr(
        console, "_out", Console(file=file, force_terminal=True, color_system=None, width=60, highlight=False)
    )
    show(made_up.benchmark(made_up.row("onnxruntime-fp32", 30, 70), made_up.row("onnxruntime-int8", 10, 69, drop=1)))
    table = file.getvalue().replace("\n", "").replace(" ", "")
    names = "".join(line[:20].strip() for line in file.getvalue().splitlines()[1:])
    assert "fp32" in names
    assert "int8" in names
    assert "…" not in table


def test_a_row_without_a_float_bundle_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = printed(made_up.benchmark(made_up.row("int8", 10, 69, precision="int8")), monkeypatch)
    assert "no float" in alone
    assert "reference" not in alone
    assert "reference" in printed(made_up.benchmark(made_up.row("float", 30, 70)), monkeypatch)
