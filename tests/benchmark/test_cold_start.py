import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from toy_bundle import toy_bundle

from rdd_deploy.benchmark.cold_start import ColdFailure, cold_start, memory_mib, reason
from rdd_deploy.benchmark.runners import Candidate, bundle_candidates, torch_candidates
from rdd_deploy.benchmark.session import describe
from rdd_deploy.errors import BundleError
from rdd_deploy.utils import machine


def test_a_cold_start_in_a_process_of_its_own(tmp_path: Path, one_cold_start: None) -> None:
    ballast = bytearray(300 << 20)  # the parent's memory must not count
    ballast[::4096] = b"x" * len(ballast[::4096])
    cold = cold_start(Candidate("toy", "bundle", toy_bundle(tmp_path / "toy"), "cpu", 1))
    assert 0 < cold.load_ms < cold.first_label_ms
    assert 0 < cold.memory_before_load_mib <= cold.peak_memory_mib < memory_mib("VmRSS")
    assert cold.runs == 1
    del ballast


def test_a_bundle_that_breaks_its_promise_says_so(tmp_path: Path) -> None:
    with pytest.raises(ColdFailure, match=r"gave the class id [789], its manifest names 3 classes"):
        cold_start(Candidate("toy", "bundle", toy_bundle(tmp_path / "toy", offset=7), "cpu", 1))


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -SEGV $$", "the process was killed by SIGSEGV while loading or at the first label"),
        ("echo oops >&2; exit 3", "the process ended with exit code 3: oops"),
    ],
)
def test_a_crash_is_a_reason_and_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text(f"#!/bin/sh\n{script}\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(ColdFailure) as error:
        cold_start(Candidate("toy", "bundle", tmp_path))
    assert str(error.value) == words


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_it_ends_with_the_benchmark(tmp_path: Path) -> None:
    """Killed while a cold start compiles, the benchmark leaves neither that process nor what it started,
    nor its files.
    """
    (tmp_path / "tmp").mkdir()
    compiler = (
        "import os, tempfile, time; open(os.path.join(os.environ['TORCHINDUCTOR_CACHE_DIR'], 'half'), 'w');"
        f" print(os.getpid(), file=open({str(tmp_path / 'pid')!r}, 'w')); time.sleep(60)"
    )
    opening = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {compiler!r}])"
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys, rdd_deploy.benchmark.runners as runners\nrunners.Candidate.open = lambda self: exec({opening!r},"
        " {})\n"
    )
    script = (
        "from pathlib import Path; from rdd_deploy.benchmark.cold_start import *; cold_start(Candidate('toy',"
        " 'torch-compile', Path('x')))"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as benchmark:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        assert list((tmp_path / "tmp").glob("*/half"))
        benchmark.kill()
    compiling = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}")
    wait_for(lambda: not compiling.exists() or "Z" in (compiling / "stat").read_text().split()[2])
    wait_for(lambda: not list((tmp_path / "tmp").iterdir()))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH")
def test_a_module_in_the_present_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_cold_start: None
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('of the present folder')")
    monkeypatch.chdir(tmp_path)
    assert cold_start(Candidate("toy", "bundle", toy_bundle(tmp_path / "toy"), "cpu", 1)).runs == 1


def test_reasons_are_one_line() -> None:
    assert reason(BundleError("our own sentence")) == "our own sentence"
    assert reason(RuntimeError("\n first line\nsecond")) == "RuntimeError: first line"
    assert reason(KeyError()) == "KeyError"


def test_candidates_are_named_apart_and_files_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("a", "b"):
        toy_bundle(tmp_path / run / "export" / "fp32", manifest={"provenance": {"run": run}})
    (tmp_path / "a" / "export" / "fp32.plan.yaml").write_text("")
    paths = [
        tmp_path / "a/export/fp32",
        tmp_path / "a/export/fp32.plan.yaml",
        tmp_path / "a/export/fp32/model.onnx",
        tmp_path / "b/export/fp32",
        tmp_path / "a/export/../export/fp32",
    ]
    candidates = bundle_candidates([*paths, tmp_path / "gone"], "cpu", 1)
    assert [candidate.name for candidate in candidates][:2] == ["a/fp32", "b/fp32"]
    said = capsys.readouterr().err
    assert "model.onnx is a file, not a bundle; left out" in said
    assert "plan.yaml" not in said
    assert candidates[2].failure is not None
    assert "isn't there" in candidates[2].failure
    assert [candidate.run for candidate in candidates[:2]] == ["a", "b"]
    alone = bundle_candidates(paths[:1], "cpu", 1)
    assert [candidate.name for candidate in alone] == ["fp32"]


def test_torch_rows_need_the_run_folder(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "run" / "export" / "fp32")
    rows = torch_candidates(bundle_candidates([bundle], "cpu", 1))
    assert [row.name for row in rows] == ["torch-eager", "torch-channels-last", "torch-compile"]
    assert all(
        row.failure and row.failure.endswith("PyTorch rows need the run folder that the bundle was exported from")
        for row in rows
    )
    (tmp_path / "run" / "student.safetensors").write_bytes(b"")
    rows = torch_candidates(bundle_candidates([bundle], "cpu", 1))
    assert [(row.path.name, row.size, row.failure) for row in rows] == [("student.safetensors", (48, 64), None)] * 3


def test_torch_rows_need_the_weights_that_were_exported(tmp_path: Path) -> None:
    provenance = {"run": "toy", "weights_sha256": "0123456789abcdef"}
    bundle = toy_bundle(tmp_path / "run" / "export" / "fp32", manifest={"provenance": provenance})
    (tmp_path / "run" / "student.safetensors").write_bytes(b"other")
    candidates = bundle_candidates([bundle], "cpu", 1)
    assert candidates[0].run == "toy 0123456789ab"
    failures = {row.failure for row in torch_candidates(candidates)}
    weights = tmp_path / "run" / "student.safetensors"
    assert failures == {f"{weights} was trained further since the bundle fp32 was exported; export it again"}


def test_facts_of_this_machine() -> None:
    facts = describe()
    assert facts.cpu_model
    assert 1 <= facts.cores <= (os.cpu_count() or 1)
    assert {"numpy", "opencv-python"} <= set(facts.versions)


def test_the_governor_and_hyper_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, governor in enumerate(("powersave", "performance", "powersave", "powersave")):
        for name, text in (
            ("cpufreq/scaling_governor", governor),
            ("topology/thread_siblings_list", f"{cpu % 2},{cpu % 2 + 2}"),
        ):
            file = tmp_path / f"cpu{cpu}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
    monkeypatch.setattr(machine, "CPU", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert machine.governor() == "performance, powersave"
    assert machine.available_cores() <= 2  # four threads of two cores


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_a_backend_that_is_not_installed_names_the_extra(tmp_path: Path) -> None:
    engine = {"package": "tensorrt", "version": "10.0"}
    bundle = toy_bundle(tmp_path / "toy", manifest={"backend": "tensorrt", "engine": engine})
    with pytest.raises(ColdFailure) as error:
        cold_start(Candidate("toy", "bundle", bundle))
    assert "needs the package 'tensorrt', which isn't installed: pip install 'rdd-deploy[gpu]'" in str(error.value)
