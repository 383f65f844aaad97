"""Every shipped recipe is a test case."""

import re
from pathlib import Path

import pytest
import torch

from rdd_deploy.data.camvid import CAMVID
from rdd_deploy.losses import LOSSES
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe import StudentRecipe, TeacherRecipe, load_recipe
from rdd_deploy.recipe_files import card_note, find_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.y*ml"))


def test_count() -> None:
    assert len(RECIPES) >= 18
    assert all(path.suffix == ".yaml" and path.parent == ROOT / "recipes" for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    network = recipe.trained
    assert recipe.name == path.stem
    if isinstance(recipe, StudentRecipe):
        assert all(extra.name in LOSSES for extra in recipe.distillation.losses)
        assert recipe.teacher is not None
        assert recipe.teacher.recipe is not None
        teacher = load_recipe(find_recipe(recipe.teacher.recipe, beside=path))
        assert isinstance(teacher, TeacherRecipe)
        assert teacher.data.name == recipe.data.name
        if recipe.distillation.method == "rdd" and recipe.distillation.tfe_fraction > 0:
            assert teacher.trained.auxiliary
    with torch.device("meta"), torch.inference_mode():  # shapes alone: nothing is computed
        segmenter = Segmenter(network.model_copy(update={"weights": "none"}), len(CAMVID)).eval()
        output = segmenter(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert tuple(output.primary.shape) == (1, 11, 64, 96)
    assert (output.auxiliary is not None) == network.auxiliary


def students() -> dict[str, list[str]]:
    """The paper's table in docs/recipes.md: each student with its overrides."""
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    part = text[text.index("## The paper's tables") : text.index("## The paper's data sets")]
    rows = re.findall(r"^\| (\w[^|]*\d[^|]*|MobileNetV3-\w+) \| (none|`[^`]+`) \|$", part, re.MULTILINE)
    return {name: said.strip("`").split() if said != "none" else [] for name, said in rows}


def test_each_student_of_the_table_on_each_data_set() -> None:
    assert len(students()) == 12
    for name, overrides in students().items():
        recipes = [
            load_recipe(ROOT / f"recipes/{data}_paper.yaml", overrides)
            for data in ("camvid", "cityscapes", "voc", "ade")
        ]
        network = recipes[0].trained
        assert all(recipe.trained == network for recipe in recipes)
        if name not in ("DeepLabV3-MobileNetV2", "PSPNet-R18"):  # the others' kinds are those of shipped recipes
            continue
        with torch.device("meta"), torch.inference_mode():
            output = Segmenter(network.model_copy(update={"weights": "none"}), 19).eval()(
                torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
            )
        assert tuple(output.primary.shape) == (1, 19, 64, 96)


def test_a_run_card_says_when_nobody_has_run_the_recipe(tmp_path: Path) -> None:
    assert (
        card_note(ROOT / "recipes/voc_paper.yaml")
        == "nobody has run voc_paper.yaml yet, as its run card says; what comes of it is unknown"
    )
    assert card_note(ROOT / "recipes/camvid_mbv3.yaml")
    assert card_note(ROOT / "recipes/camvid_mbv3_small_half.yaml") == ""
    (tmp_path / "a.yaml").write_bytes(b"# Measured: \xff\n")
    assert card_note(tmp_path / "a.yaml") == card_note(tmp_path / "none.yaml") == ""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_run_card(path: Path) -> None:
    """A recipe opens with its goal and the exact command, which names this file, and says what was measured."""
    head = path.read_text(encoding="utf-8").splitlines()
    assert head[0].startswith("# Goal:"), head[0]
    assert any(line.startswith("# Measured:") for line in head), "no line 'Measured:'"
    commands = re.findall(
        r"python -m rdd_deploy\.(distill|train) (recipes/\S+)", "\n".join(line for line in head if line.startswith("#"))
    )
    assert (
        ("distill" if isinstance(load_recipe(path), StudentRecipe) else "train"),
        f"recipes/{path.name}",
    ) in commands
