"""A data set in Cityscapes' layout: one module, here this one, and one line in the table."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import pytest
from pydantic import Field

from rdd_deploy.data import DATASETS
from rdd_deploy.data.config import DataOptions
from rdd_deploy.data.label_space import LabelSpace
from rdd_deploy.data.open import label_ids, open_data, open_recorded
from rdd_deploy.errors import DataError, RecipeError
from rdd_deploy.recipe import StudentRecipe, load_recipe
from rdd_deploy.schema import validated
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.utils.tables import Entry

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit

ROAD_SCENE = LabelSpace(("road", "sidewalk", "car"), ((128, 64, 128), (244, 35, 232), (0, 0, 142)))
TRAIN_IDS = [[7], [8], [26, 29]]
"""Label ids of each class; all others are void."""


class RoadSceneOptions(DataOptions):
    """leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png."""

    name: Literal["road_scene"] = "road_scene"
    cities: list[str] | None = Field(None, description="only these")
    coarse: bool = False

    def open(self, split: str) -> FileSplit:
        from rdd_deploy.data.base import FileSplit
        from rdd_deploy.data.ids import Ids

        root = Path(self.root)
        images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        images = [path for path in images if self.cities is None or path.parent.name in self.cities]
        if not images:
            raise DataError(f"no {split} split in {root}: expected leftImg8bit/{split}/<city>/*_leftImg8bit.png")
        labels = root / "gtFine" / split
        pairs = [
            (path, labels / path.parent.name / path.name.replace("leftImg8bit", "gtFine_labelIds")) for path in images
        ]
        return FileSplit(ROAD_SCENE, pairs, Ids(len(ROAD_SCENE), TRAIN_IDS, others_void=True))

    @classmethod
    def label_ids(cls, manifest: Any) -> dict[str, Any]:
        return {"ids": TRAIN_IDS, "others_void": True}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cities, one frame each and split; the table's line is added."""
    monkeypatch.setitem(DATASETS, "road_scene", Entry(f"{__name__}:RoadSceneOptions"))
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for city in ("aachen", "bochum"):
            stem = f"{city}_000000_000019"
            for folder, end, image in (
                ("leftImg8bit", "leftImg8bit", random.integers(0, 256, (64, 128, 3), np.uint8)),
                ("gtFine", "gtFine_labelIds", random.choice(np.array([0, 7, 8, 26, 29, 33], np.uint8), (64, 128))),
            ):
                (tmp_path / folder / split / city).mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(tmp_path / folder / split / city / f"{stem}_{end}.png"), image)
    return tmp_path


def recipe_of(root: Path, **options: Any) -> StudentRecipe:
    network = {"encoder": "mobilenetv3_small_050", "weights": "none"}
    return validated(
        StudentRecipe,
        {
            "name": "toy",
            "student": network,
            "data": {"name": "road_scene", "root": str(root), "size": [64, 128], **options},
        },
        "toy",
    )


def test_a_recipe_names_it_with_its_own_options(root: Path) -> None:
    data = recipe_of(root, cities=["bochum"], coarse=True).data
    assert isinstance(data, RoadSceneOptions)
    split = open_data(data, "train")
    assert split.names == ["bochum_000000_000019_leftImg8bit"]
    stored = cv2.imread(
        str(root / "gtFine/train/bochum/bochum_000000_000019_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED
    )
    assert stored is not None
    labels = split.labels(0)
    for value, expected in ((0, 255), (7, 0), (8, 1), (26, 2), (29, 2), (33, 255)):
        assert (labels[stored == value] == expected).all()


def test_what_is_wrong_in_it_is_told_like_all_else(root: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe_of(root, citys=["x"], cities=3, void_ids=[3], seed=0, others_void=False)
    assert str(raised.value).splitlines()[1:] == [
        "  data.cities: got 3, expected a list in brackets, e.g. [a, b]",
        (
            "  data.citys: unknown key; did you mean 'cities'? allowed: name, root, size, workers, in_memory, device,"
            " labelled, unlabelled, thin, scratch, cities, coarse"
        ),
        "  data.void_ids belongs to the 'folder' data set, not to 'road_scene'; leave it out",
    ]
    with pytest.raises(
        RecipeError, match=r"data\.cities belongs to the 'road_scene' data set, not to 'camvid'; leave it out"
    ):
        validated(
            StudentRecipe,
            {"name": "x", "student": {"encoder": "mobilenetv3_small_050"}, "data": {"cities": ["a"]}},
            "toy",
        )
    with pytest.raises(RecipeError, match="'folder', 'streets' or 'road_scene'; did you mean 'road_scene'"):
        recipe_of(root, name="road_scen")


def test_a_run_is_trained_on_it_and_a_bundle_finds_it_again(root: Path) -> None:
    from rdd_deploy.benchmark.images import open_images
    from rdd_deploy.training.data import TrainingData

    recipe = recipe_of(root, cities=["aachen"], coarse=True)
    assert TrainingData(recipe).train_facts.count == 1
    run = RunFolder(root / "run")
    run.write_recipe(recipe)
    assert run.load_recipe() == recipe

    provenance = recipe.data.provenance()
    assert all(isinstance(value, str | int | float | None) for value in provenance.values())
    manifest: Any = SimpleNamespace(
        name="toy",
        classes=ROAD_SCENE.classes,
        palette=ROAD_SCENE.palette,
        input=SimpleNamespace(height=64, width=128),
        provenance=provenance,
    )
    assert open_recorded(manifest, "val").names == ["aachen_000000_000019_leftImg8bit"]
    assert label_ids(manifest) == {"ids": TRAIN_IDS, "others_void": True}
    name, images = open_images([manifest], None, None, "val", None)
    assert (name, len(images)) == ("road_scene", 1)
    manifest.provenance = {}
    name, images = open_images([manifest], root, "road_scene", "val", None)
    assert (name, len(images)) == ("road_scene", 2)


def test_a_folder_that_is_named_relatively(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "toy.yaml").write_text("{student: {encoder: mobilenetv3_small_050}, data: {name: road_scene, root: .}}")
    monkeypatch.chdir("/")
    assert len(open_data(load_recipe(root / "toy.yaml").data, "train")) == 2
