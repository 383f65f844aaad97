"""Options of the data sets, as recipes give them and as older versions of this program wrote them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys import network, tree, write_data, write_recipe

from rdd_deploy.data.camvid import CamvidOptions
from rdd_deploy.data.folder.config import FolderOptions
from rdd_deploy.data.streets.config import StreetsOptions
from rdd_deploy.errors import RecipeError
from rdd_deploy.recipe import StudentRecipe, load_recipe
from rdd_deploy.schema import validated
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.session import changes
from rdd_deploy.utils.problems import dotted, meant

ALL_DEFAULTS = {
    "root": "data/camvid",
    "size": [360, 480],
    "void_ids": [255],
    "others_void": False,
    "seed": 0,
    "memory": True,
}
"""What a run folder's recipe held for every data set, when all of them had one list of keys."""


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"name": "camvid"}, CamvidOptions()),
        ({"name": "camvid", "memory": False}, CamvidOptions(in_memory=False)),
        (
            {"name": "streets", "seed": 3, "count": 9, "memory": False},
            StreetsOptions(root="data/camvid", seed=3, count=9, in_memory=False),
        ),
        ({"name": "folder", "classes": ["a", "b"], "void_ids": [7]}, FolderOptions(classes=["a", "b"], void_ids=[7])),
    ],
)
def test_a_run_folder_of_an_older_version(tmp_path: Path, own: dict[str, Any], expected: Any) -> None:
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump({"name": "run", "data": ALL_DEFAULTS | own, "student": network()})
    )
    found = RunFolder(tmp_path).load_recipe().data
    assert found == expected
    assert type(found) is type(expected)


def test_an_older_run_is_resumed_by_the_same_recipe(tmp_path: Path) -> None:
    for name in ("camvid", "streets"):
        today = write_recipe(tmp_path / f"{name}.yaml", {"data": {"name": name}, "student": network()})
        (tmp_path / name).mkdir()
        write_recipe(tmp_path / name / "recipe.yaml", {"data": ALL_DEFAULTS | {"name": name}, "student": network()})
        changed = changes(RunFolder(tmp_path / name), load_recipe(today))
        assert [line for line in changed if not line.startswith("data.root")] == []


def test_an_old_key_of_a_users_own_recipe(tmp_path: Path) -> None:
    content = tree(tmp_path)
    content["data"]["memory"] = False
    path = write_recipe(tmp_path / "toy.yaml", content)
    for words in ([], ["data.memory=true"]):
        with pytest.raises(RecipeError) as raised:
            load_recipe(path, words)
        assert str(raised.value).splitlines()[1:] == ["  data.memory: is now called 'in_memory'; rename it"]


def test_keys_of_other_data_sets_at_their_defaults_mean_nothing() -> None:
    given = {"name": "camvid", "void_ids": [255], "ids": None, "others_void": False, "seed": 0, "count": None}
    assert validated(StudentRecipe, {"student": network(), "data": given}, "toy").data == CamvidOptions()
    with pytest.raises(RecipeError, match="2 problems"):
        validated(StudentRecipe, {"student": network(), "data": given | {"seed": False, "void_ids": [0]}}, "toy")


def test_every_data_sets_keys_can_be_named_and_meant() -> None:
    paths = list(dotted(StudentRecipe))
    assert len(paths) == len(set(paths))
    assert {"data.root", "data.classes", "data.count", "data.in_memory"} <= set(paths)
    assert "data.classes" in meant(StudentRecipe, "clases")


def test_a_value_that_is_no_part_or_names_nothing() -> None:
    for value, problem in (
        (3, "data: got 3, expected keys with values of their own"),
        (None, "data: got None, expected keys with values of their own"),
        (
            {"name": None},
            "data.name: got None, expected 'camvid', 'cityscapes', 'voc', 'ade20k', 'folder' or 'streets'",
        ),
        (
            {"name": ["camvid"]},
            "data.name: got ['camvid'], expected 'camvid', 'cityscapes', 'voc', 'ade20k', 'folder' or 'streets'",
        ),
    ):
        with pytest.raises(RecipeError) as raised:
            validated(StudentRecipe, {"student": network(), "data": value}, "toy")
        assert problem in str(raised.value)
        assert "1 problem:" in str(raised.value)


def test_checking_recipes_imports_nothing_heavy(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "toy.yaml", tree(write_data(tmp_path / "data")))
    program = (
        "import sys\nfrom rdd_deploy.recipe import StudentRecipe, load_recipe\nfrom rdd_deploy.utils.problems import dotted\n"
        f"load_recipe({str(path)!r})\nlist(dotted(StudentRecipe))\n"
        "print({'torch', 'numpy', 'cv2', 'PIL'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
