"""A run folder that version 0.1.0 wrote, before recipe keys and modules got their names of today, still loads,
evaluates and resumes.
"""

import tarfile
from pathlib import Path

import pytest
import toys

from rdd_deploy.evaluation import evaluate_run
from rdd_deploy.export.trained_run import open_run
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe import StudentRecipe, TeacherRecipe, load_recipe
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.resume import read_state
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.session import changes
from rdd_deploy.training.state import Objective, TrainState

ARCHIVE = Path(__file__).with_name("runs.tar.xz")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Its data were /data/toy, of which only the frames of ``toys`` are made again."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    toys.write_data(tmp_path / "data")
    for recipe in tmp_path.glob("runs/*/recipe.yaml"):
        recipe.write_text(recipe.read_text().replace("/data/toy", str(tmp_path)))
    return tmp_path / "runs"


def test_recipes_mean_what_they_meant(runs: Path) -> None:
    student, teacher = RunFolder(runs / "student").load_recipe(), RunFolder(runs / "teacher").load_recipe()
    assert isinstance(student, StudentRecipe)
    assert isinstance(teacher, TeacherRecipe)
    asked = student.distillation
    assert (asked.tfe_fraction, asked.transition, asked.ce_weight) == (0.5, "linear", 0.5)
    assert (asked.tfe.divergence, asked.tse.rule) == ("aux_main", "or")
    assert teacher.trained.auxiliary


def test_the_same_recipe_in_the_words_of_today_may_resume_it(runs: Path, tmp_path: Path) -> None:
    tree = toys.tree(tmp_path / "data") | {
        "teacher": {"recipe": "teacher.yaml"},
        "student": toys.network(encoder="mobilenetv3_small_050", channels=8),
    }
    tree["train"] |= {"epochs": 2, "momentum": 0.0}
    tree["distillation"] = {
        "tfe_fraction": 0.5, "transition": "linear", "ce_weight": 0.5, "tse": {"rule": "or"}, "tfe": {"divergence": "aux_main"},
    }  # fmt: skip
    toys.write_recipe(tmp_path / "teacher.yaml", toys.teacher_tree(tmp_path / "data"))
    recipe = load_recipe(toys.write_recipe(tmp_path / "student.yaml", tree))
    assert changes(RunFolder(runs / "student"), recipe) == []


def test_a_run_is_evaluated_and_opened_for_export(runs: Path) -> None:
    assert evaluate_run(runs / "student").summary["miou_pct"] >= 0
    source = open_run(runs / "student")
    assert list(source.classes) == toys.CLASSES


def test_a_state_goes_on(runs: Path) -> None:
    import torch

    folder = RunFolder(runs / "student")
    recipe = folder.load_recipe()
    state = TrainState(Segmenter(recipe.trained, 3), Objective(), recipe.train, make_fabric(recipe.train))
    origin = torch.load(folder.state, weights_only=True)["origin"]
    assert len(read_state(folder, state, origin, 3).rows) == 2
    assert state.step == 6
