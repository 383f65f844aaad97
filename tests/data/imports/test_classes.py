"""Classes of an import: void however it is spelt, names with signs in them, the order of a recipe."""

import sys
from pathlib import Path

import exports
import numpy as np
import pytest
import toys
from exports import area, convert, layers, opened, photo, write

from rdd_deploy.data.__main__ import main
from rdd_deploy.data.imports.classes import classes_of, parsed
from rdd_deploy.data.imports.export import Export
from rdd_deploy.data.label_space import LabelSpace
from rdd_deploy.errors import DataError


def shapes(*labels: str) -> Export:
    return Export(dict.fromkeys(labels), [])


def test_void_is_void_however_it_is_spelt() -> None:
    export = shapes("Void", "car", "van")
    for spec in (None, "*=*", "Void=Void;*=*", "VOID=Void;car;van"):
        found = classes_of(export, spec, None, False)
        assert found.names == ["background", "car", "van"], spec
        assert found.ids["Void"] == 255
    found = classes_of(export, "void=void;*=*", "Void", False)
    assert found.names == ["car", "van"]
    assert found.unlabelled == 255


def test_signs_in_labels() -> None:
    assert parsed(r"car=car\, red;a\=b\;c;d\\e=d") == {"car": ["car, red"], "a=b;c": ["a=b;c"], "d\\e": ["d"]}
    export = shapes("car, red", "a=b;c")
    assert classes_of(export, r"car=car\, red;*=*", None, False).names == ["background", "car", "a=b;c"]
    with pytest.raises(DataError, match=r"no label 'car'; .*it has car\\, red, a\\=b\\;c"):
        classes_of(export, "car=car, red;*=*", None, False)


LIKE = LabelSpace(("road", "background", "car"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))


def test_like_gives_the_order() -> None:
    found = classes_of(shapes("car", "road"), None, None, False, LIKE)
    assert (found.names, found.palette) == (list(LIKE.classes), list(LIKE.palette))
    assert (found.ids["car"], found.ids["road"], found.unlabelled) == (2, 0, 1)
    without = LabelSpace(("road", "car"), ((1, 1, 1), (3, 3, 3)))
    found = classes_of(shapes("car"), None, None, False, without)
    assert (found.names, found.ids["car"], found.unlabelled) == (["road", "car"], 1, 255)
    with pytest.raises(DataError, match=r"--like: the recipe has no class 'cart'; .*--classes 'car=cart;\*=\*'"):
        classes_of(shapes("cart", "road"), None, None, False, LIKE)
    with pytest.raises(DataError, match="--like: the recipe has no class 'street'"):
        classes_of(shapes("car", "road"), None, "street", False, LIKE)


def cvat(root: Path, *classes: str) -> np.ndarray:
    """What `predict --format cvat` and the tool write: each class in its colour, black for the background."""
    colours = {name: (0, 0, 0) if name == "background" else (90 + 40 * n, 5, 9) for n, name in enumerate(classes)}
    text = "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in colours.items())
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\n" + text)
    values = layers((area(0, 0, 20, 20), 2), (area(5, 5, 10, 10), 1))
    photo(root / "JPEGImages/a.jpg")
    write(root / "SegmentationClass/a.png", exports.png(np.array(list(colours.values()), np.uint8)[values]))
    write(root / "ImageSets/Segmentation/default.txt", "a\n")
    return values


@pytest.mark.parametrize(
    ("recipe", "order", "table"),
    [
        (["background", "lane", "car"], ["background", "lane", "car"], [0, 1, 2]),
        (["car", "background", "lane"], ["background", "lane", "car"], [1, 2, 0]),
        (["car", "lane"], ["background", "lane", "car"], [255, 1, 0]),  # CVAT's own background
    ],
)
def test_the_loops_masks_have_the_recipes_ids(
    recipe: list[str], order: list[str], table: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = cvat(tmp_path / "e", *order)
    data = {"name": "folder", "root": "nowhere", "classes": recipe}
    toys.write_recipe(tmp_path / "mine.yaml", toys.tree(tmp_path, data=None) | {"data": data})
    words = ["rdd-deploy", "import", tmp_path / "e", tmp_path / "out", "--like", tmp_path / "mine.yaml", "--strict"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    part = exports.load_yaml(tmp_path / "out/data.yaml")["data"]
    assert part["classes"] == recipe
    assert (opened(part)["a"] == np.array(table, np.uint8)[values]).all()


def test_like_a_recipe_whose_masks_hold_other_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cvat(tmp_path / "e", "background", "lane", "car")
    data = {"name": "folder", "root": "nowhere", "classes": ["lane", "car"], "ids": [7, 26]}
    toys.write_recipe(tmp_path / "mine.yaml", toys.tree(tmp_path, data=None) | {"data": data})
    words = ["rdd-deploy", "import", tmp_path / "e", tmp_path / "out", "--like", tmp_path / "mine.yaml"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "masks of the recipe's data hold other values than 0, 1, 2 … and 255" in " ".join(
        capsys.readouterr().err.split()
    )


def test_the_exports_splits_can_be_set_aside(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid", "dev", "test")):
        photo(tmp_path / f"e/images/{split}/{'abcd'[number]}.jpg", number)
        write(tmp_path / f"e/labels/{split}/{'abcd'[number]}.txt", "0 0 0 0.5 0 0.5 0.5\n")
    write(tmp_path / "e/classes.txt", "car\n")
    _, result = convert(tmp_path / "e", tmp_path / "own")
    assert result.images == {"train": 1, "val": 2, "test": 1}
    with pytest.raises(DataError, match="or set that aside with --ignore-splits"):
        convert(tmp_path / "e", tmp_path / "out", val=0.25)
    _, result = convert(tmp_path / "e", tmp_path / "out", val=0.25, ignore_splits=True)
    assert result.images == {"train": 3, "val": 1}


def test_boxes_alone_are_no_masks(tmp_path: Path) -> None:
    photo(tmp_path / "e/images/a.jpg")
    write(tmp_path / "e/labels/a.txt", "0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "e/data.yaml", "names: [car, road]\n")
    with pytest.raises(DataError, match="none of 1 annotation can be drawn, so that all masks would be empty"):
        convert(tmp_path / "e", tmp_path / "out")
    write(tmp_path / "e/labels/a.txt", "0 0.5 0.5 0.2 0.2\n1 0 0 0.5 0 0.5 0.5\n")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert opened(part)["a"].max() == 2
