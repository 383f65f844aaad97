"""Losses that keep a memory, and what is told of them before a training begins."""

from pathlib import Path

import pytest
import toys

from rdd_deploy.errors import RecipeError
from rdd_deploy.losses import cirkd_memory
from rdd_deploy.losses.config import Distillation
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe import StudentRecipe, load_distillation
from rdd_deploy.training.distillation import distill_recipe, dry_run
from rdd_deploy.training.objective import DistillationObjective, extra_losses
from rdd_deploy.training.run_folder import RunFolder


def story(folder: Path) -> tuple[StudentRecipe, Path, Path]:
    """A student with a memory bank whose teacher isn't trained yet, its file, and the folder of runs."""
    source = toys.write_story(
        folder, student={"distillation": {"losses": [{"name": "cirkd_memory", "options": {"regions": 4000}}]}}
    )
    return load_distillation(str(source), ()), source, folder / "runs"


def test_a_bank_that_does_not_fit_ends_it_before_the_teacher_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, source, runs = story(tmp_path)
    monkeypatch.setattr(cirkd_memory, "free_memory", lambda: 1e6)
    said = []
    for begin in (
        lambda: dry_run(recipe, source, RunFolder(runs / "student"), False),
        lambda: distill_recipe(recipe, source, runs),
    ):
        with pytest.raises(RecipeError) as told:
            begin()
        said.append(str(told.value))
    assert said == 2 * [
        "cirkd_memory: its bank takes 0.6 MB (3 classes with 6000 places of 16 numbers in float16), more than half of"
        " the 1.0 MB of memory that are free; lower its options pixels and regions"
    ]
    assert not list(tmp_path.glob("runs/*/*"))


def test_its_size_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, source, runs = story(tmp_path)
    dry_run(recipe, source, RunFolder(runs / "student"), False)
    assert "distillation.losses: cirkd_memory keeps 0.6 MB in memory, and in the state that is saved" in "".join(
        capsys.readouterr()
    )


@pytest.mark.parametrize(("student", "teacher"), [(True, True), (False, True), (True, False)])
def test_dsd_reads_the_auxiliary_map_where_both_networks_have_it(student: bool, teacher: bool) -> None:
    networks = [Segmenter(Network(**toys.network(auxiliary=one)), 3) for one in (student, teacher)]
    config = Distillation(losses=[{"name": "dsd_pixel"}])
    objective = DistillationObjective(None, None, extra_losses(config, *networks), 0.4)
    assert objective.maps == {"head", "logits"} | ({"auxiliary"} if student and teacher else set())
