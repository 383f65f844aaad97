"""What the machine is asked, with the answers faked: no test depends on the CPU that runs it."""

from pathlib import Path

import pytest

from rdd_deploy.errors import DeviceError
from rdd_deploy.utils import machine

ZEN4 = "flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni\n"
SAPPHIRE = "flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n"
SKYLAKE = "flags\t\t: fpu avx2 avx512f avx512_vnni avx_ne_convert\n"
GRAVITON3 = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n"
GRAVITON2 = "processor\t: 0\nFeatures\t: fp asimd lrcpc dcpop\n"


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    (folder / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", folder / "cpuinfo")


@pytest.mark.parametrize(
    ("text", "native"),
    [
        (ZEN4, True),
        (SAPPHIRE * 4, True),
        (SKYLAKE, False),
        (GRAVITON3, True),
        (GRAVITON2, False),
        (ZEN4 + SKYLAKE, False),
        ("model name\t: avx512_bf16\n", False),
        ("", False),
    ],
)
def test_native_bf16_is_what_the_cpu_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, native: bool
) -> None:
    pretend(monkeypatch, tmp_path, text)
    assert machine.has_native_bf16() is native


def test_no_cpuinfo_means_no_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert not machine.has_native_bf16()


@pytest.mark.parametrize(
    ("limit", "native"),
    [
        ("AVX2", False),
        ("avx512_core_vnni", False),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_AMX", True),
        ("ALL", True),
        ("", True),
    ],
)
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_for_onednn_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, limit: str, native: bool
) -> None:
    pretend(monkeypatch, tmp_path, SAPPHIRE)
    monkeypatch.setenv(name, limit)
    assert machine.has_native_bf16() is native


@pytest.mark.parametrize(
    ("threads", "expected"), [(0, "1 or more"), (-5, "1 or more"), (1025, "1024 at most"), (99999999, "1024 at most")]
)
def test_numbers_of_threads_that_are_refused(threads: int, expected: str) -> None:
    with pytest.raises(DeviceError) as caught:
        machine.check_threads(threads, "PyTorch")
    assert str(caught.value) == f"asked for {threads} threads; expected {expected}, or none to let PyTorch choose"


@pytest.mark.parametrize("threads", [None, 1, 1024])
def test_numbers_of_threads_that_are_taken(threads: int | None) -> None:
    machine.check_threads(threads)


@pytest.mark.parametrize(
    ("text", "limit", "saturates"),
    [
        ("flags\t\t: fpu sse2 avx2\n", "", True),
        ("flags\t\t: fpu sse2 avx2 avx_vnni\n", "", False),
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n", "", False),
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n", "AVX2", True),
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n", "avx512_core_vnni", False),
        (GRAVITON2, "", False),
        ("", "", False),
    ],
)
def test_where_int8_saturates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, limit: str, saturates: bool
) -> None:
    pretend(monkeypatch, tmp_path, text)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert machine.saturates_int8() is saturates


GIB = 2**30


def cgroup(folder: Path, limit: str, used: int, given_up: int, old: bool = False) -> None:
    """The files of one, of version 1 where it is ``old``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{'total_' * old}inactive_file {given_up}\n")


@pytest.mark.parametrize("old", [False, True])
def test_free_memory_is_what_the_tightest_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """As of a SLURM job or a service, whose limits are not at the top."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("9:memory:/slurm/job_7\n3:cpu:/\n" if old else "0::/slurm/job_7\n")
    top = tmp_path / "memory" if old else tmp_path
    without = machine.free_memory()
    cgroup(top / "slurm", "max", GIB, 0, old)
    cgroup(top / "slurm/job_7", str(GIB // 4), GIB // 8, GIB // 16, old)
    assert machine.free_memory() == 3 * GIB // 16
    cgroup(top / "slurm", str(GIB // 8), GIB // 16, 0, old)
    assert machine.free_memory() == GIB // 16
    cgroup(top, str(GIB // 8), GIB, 0, old)
    assert machine.free_memory() == 0
    (tmp_path / "own").unlink()
    assert without is None or machine.free_memory() > GIB // 4
