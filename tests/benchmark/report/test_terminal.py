from io import StringIO
from pathlib import Path

import made_up
import pytest
from rich.console import Console

from rdd_deploy import console
from rdd_deploy.benchmark.compare import merged
from rdd_deploy.benchmark.records import Benchmark
from rdd_deploy.benchmark.report.terminal import show
from rdd_deploy.benchmark.session import judged

GREEN, GREY = "\x1b[1;32m", "\x1b[90m"


def printed(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a wide terminal with colours gets."""
    file = StringIO()
    monkeypatch.setattr(console, "_out", Console(file=file, force_terminal=True, color_system="standard", width=300, highlight=False))
    show(benchmark)
    return file.getvalue()


def test_rows_of_another_machine_are_neither_chosen_nor_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [made_up.row("float", 30, 70), made_up.row("int8", 10, 69, drop=1), made_up.row("slow", 40, 60, drop=10)]
    far = made_up.machine(cpu_model="Other CPU", gpu="Other GPU")
    other = made_up.benchmark(*rows, made_up.row("gpu-float", 2, 70, device="cuda:0"), machine=far)
    own, _, apart = printed(judged(merged(made_up.benchmark(*rows), [(Path("old.json"), other)]), 15, None), monkeypatch).partition(
        "old.json"
    )
    assert GREEN in own
    assert GREY in own
    tables = apart.partition("decision:")[0]
    assert "int8" in tables
    assert GREEN not in tables
    assert GREY not in tables
    on_cpu, _, on_gpu = tables.partition("old.json, cuda:0: Other GPU; measured otherwise (cpu_model")
    assert on_cpu.startswith(", cpu: Other CPU; measured otherwise (cpu_model")
    assert "int8" in on_cpu
    assert "gpu-float" not in on_cpu
    assert "gpu-float" in on_gpu


def test_names_stay_apart_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StringIO()
    monkeypatch.setattr(console, "_out", Console(file=file, force_terminal=True, color_system=None, width=60, highlight=False))
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
