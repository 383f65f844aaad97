"""Which of several processes is the first: as Fabric takes it, whatever launcher started them."""

from __future__ import annotations

import os
from pathlib import Path

import lightning_fabric.plugins.environments as fabrics
import pytest
from toys import teacher_tree, write_recipe

from rdd_deploy.console import process_rank
from rdd_deploy.errors import DeviceError
from rdd_deploy.recipe import load_recipe
from rdd_deploy.training.session import as_launched
from rdd_deploy.utils import launchers

SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4"}
LSF = {"LSB_JOBID": "1", "JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_RANK": "3", "JSM_NAMESPACE_SIZE": "4"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables but the test's own."""
    words = ("SLURM_", "LSB_", "JSM_", "OMPI_", "PMI_", "TORCHELASTIC_")
    for name in [
        name for name in os.environ if name.startswith(words) or name.endswith("RANK") or name == "WORLD_SIZE"
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(launchers, "_together", False)


@pytest.mark.parametrize(
    ("variables", "environment"),
    [
        (TORCHRUN, fabrics.TorchElasticEnvironment), (TORCHRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, fabrics.TorchElasticEnvironment),
        (SLURM, fabrics.SLURMEnvironment), (LSF, fabrics.LSFEnvironment),
    ],
)  # fmt: skip
def test_the_rank_is_the_one_that_fabric_takes(
    variables: dict[str, str], environment: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ranks").write_text(f"launch\n{os.uname().nodename}\n")
    for name, value in (variables | {"LSB_DJOB_RANKFILE": str(tmp_path / "ranks")}).items():
        monkeypatch.setenv(name, value)
    from lightning_fabric.connector import _Connector

    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    launchers.check(2, 2)
    chosen = _Connector(accelerator="cpu", devices=2, num_nodes=2, strategy="ddp").cluster_environment
    assert type(chosen) is environment
    found = launchers.launched()
    assert found is not None
    assert process_rank() == found.rank == chosen.global_rank() == 3
    assert found.size == chosen.world_size()


def test_fabrics_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    launchers.check(2, 1)
    assert process_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_rank() == 1
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("GROUP_RANK", "1")  # the second node's first process isn't the first of all
    assert process_rank() == 1
    launchers.check(1, 2)


def test_a_clusters_task_that_trains_alone_is_its_own_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    launchers.check(1, 1)
    assert process_rank() == 0


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (SLURM, r"^srun started 4 processes, but train\.devices x train\.nodes is 2 x 1; set train\.devices to the processes of a node"),
        (TORCHRUN, r"^torchrun started 4 processes, but train\.devices x train\.nodes is 2 x 1"),
        ({"SLURM_NTASKS": "1"}, r"^srun started 1 process, but"),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            r"OMPI_COMM_WORLD_SIZE says that 2 processes were started together, by a launcher that the training library doesn't know \(the package "
            r"mpi4py isn't installed\); expected torchrun, srun \(SLURM\), jsrun \(LSF\) or mpirun with the package mpi4py, or none: with",
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, r"^WORLD_SIZE says that 2 processes .* doesn't know \(it sets RANK without torchrun's other variables\)"),
    ],
)  # fmt: skip
def test_other_launchers_and_numbers_are_refused(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=sentence):
        launchers.check(2, 1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, (2, 2)), (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, None), (SLURM | {"SLURM_NNODES": "2"}, (2, 2)),
        (SLURM | {"SLURM_NNODES": "3"}, None), (LSF, None), (LSF | {"JSM_NAMESPACE_LOCAL_SIZE": "2"}, (2, 2)),
    ],
)  # fmt: skip
def test_processes_and_nodes_are_the_launchers(
    variables: dict[str, str], expected: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (variables | {"LSB_DJOB_RANKFILE": "ranks"}).items():
        monkeypatch.setenv(name, value)
    found = launchers.launched()
    assert found is not None
    assert launchers.shape(found) == expected


@pytest.mark.parametrize("variables", [SLURM | {"SLURM_NTASKS": "3"}, LSF])
def test_processes_that_are_not_as_many_on_each_machine_are_refused(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would train alone, in the same folder."""
    for name, value in (variables | {"LSB_DJOB_RANKFILE": "ranks"}).items():
        monkeypatch.setenv(name, value)
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", teacher_tree(tmp_path / "data")))
    with pytest.raises(
        DeviceError, match=r"^(srun started 3|jsrun started 4) processes and doesn't say how many on each"
    ):
        as_launched(recipe)
    alone = load_recipe(tmp_path / "toy.yaml", ["train.devices=1"])
    assert as_launched(alone) is alone, "each trains a network of its own"
