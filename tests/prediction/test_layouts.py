"""What annotation tools read back is what was written, pixel for pixel."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rdd_deploy.errors import DataError
from rdd_deploy.predict import FORMATS
from rdd_deploy.prediction.layouts import LAYOUTS, own_colours, run_lengths

CLASSES = ("road", "background", "car", "van")
PALETTE = ((0, 0, 0), (10, 20, 30), (9, 9, 9), (9, 9, 9))
NAMES = ("a.jpg", "drive one/b.png", "000017")


def maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.integers(0, 3, (13 + number, 17), np.uint8) for number, name in enumerate(NAMES)}


def write(kind: str, folder: Path) -> None:
    layout = LAYOUTS[kind](folder, CLASSES, PALETTE)
    for name, labels in maps().items():
        layout.mask(name).parent.mkdir(parents=True, exist_ok=True)
        layout.mask(name).write_bytes(layout.encoded(labels))
    layout.finish(NAMES)


def test_the_command_knows_all_layouts() -> None:
    assert tuple(LAYOUTS) == FORMATS


@pytest.mark.parametrize("kind", LAYOUTS)
def test_masks_are_read_back(kind: str, tmp_path: Path) -> None:
    write(kind, tmp_path)
    for name, labels in maps().items():
        assert np.array_equal(LAYOUTS[kind](tmp_path, CLASSES, PALETTE).labels(name), labels)


@pytest.mark.parametrize("kind", ["coco", "coco-polygons"])
def test_coco_by_its_own_tools(kind: str, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    write(kind, tmp_path)
    coco = COCO(tmp_path / "annotations" / "instances_default.json")
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    by_name = {image["file_name"]: image for image in coco.imgs.values()}
    assert set(by_name) == {"a.jpg", "drive one/b.png", "000017.png"}
    for name, labels in maps().items():
        image = by_name[name if "." in name else f"{name}.png"]
        assert (image["height"], image["width"]) == labels.shape
        read = np.full(labels.shape, 255, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum()
            assert kind == "coco" or len(annotation["segmentation"]) == 1, "some tools read the first polygon alone"
            assert annotation["bbox"] == list(cv2.boundingRect(mask.astype(np.uint8)))
            assert (read[mask] == 255).all(), "no pixel twice"
            read[mask] = annotation["category_id"] - 1
        assert np.array_equal(read, labels)


@pytest.mark.parametrize("kind", ["cvat", "coco", "coco-polygons"])
def test_what_was_corrected_comes_in_again(kind: str, tmp_path: Path) -> None:
    """``data import`` reads what ``predict`` wrote: each pixel, and the classes in their order."""
    from rdd_deploy.data.imports.work import ImportOptions, import_export
    from rdd_deploy.utils.yaml_file import load_yaml

    classes = ("sky", "zebra", "car", "van")  # none called background, and not in the alphabet's order
    names = ("a.jpg", "drive one/b.png", "drive two/b.png", "#c.png", "ä 日本/d e.png")
    rng = np.random.default_rng(2)
    layout = LAYOUTS[kind](tmp_path / "picked", classes, PALETTE)
    maps = {}
    for name in names:
        frame = rng.integers(0, 256, (13, 17, 3), np.uint8)
        labels = np.kron(rng.integers(0, 3, (5, 6), np.uint8), np.ones((3, 3), np.uint8))[:13, :17]
        for path, content in (
            (layout.folder / layout.frames / name, cv2.imencode(Path(name).suffix, frame)[1].tobytes()),
            (layout.mask(name), layout.encoded(labels)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        maps[(layout.folder / layout.frames / name).read_bytes()] = labels
    layout.finish(names)
    import_export(layout.folder, tmp_path / "data", ImportOptions(background="void", strict=True))
    assert load_yaml(tmp_path / "data" / "data.yaml")["data"]["classes"] == list(classes)
    images = list((tmp_path / "data" / "train").iterdir())
    assert len(images) == len(names)
    for image in images:
        with Image.open(tmp_path / "data" / "trainannot" / f"{image.stem}.png") as mask:
            assert np.array_equal(np.asarray(mask), maps[image.read_bytes()])


@pytest.mark.parametrize(
    "mask", [np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(5, 3, dtype=bool), np.ones((1, 1), bool)]
)
def test_run_lengths(mask: np.ndarray) -> None:
    from pycocotools import mask as coco

    height, width = mask.shape
    decoded = coco.decode(coco.frPyObjects({"size": [height, width], "counts": run_lengths(mask)}, height, width))
    assert np.array_equal(decoded, mask)
    assert sum(run_lengths(mask)) == mask.size


def test_cvat_by_its_labelmap(tmp_path: Path) -> None:
    write("cvat", tmp_path)
    lines = (tmp_path / "labelmap.txt").read_text().splitlines()
    assert lines[0].startswith("#")
    table = {}
    for line in lines[1:]:
        name, colour, parts, actions = line.split(":")
        assert (parts, actions) == ("", "")
        assert tuple(map(int, colour.split(","))) not in table, "each colour is one class"
        table[tuple(map(int, colour.split(",")))] = name
    assert sorted(table.values()) == sorted(CLASSES)
    assert (0, 0, 0) not in table, "black is CVAT's own background"
    assert (tmp_path / "ImageSets" / "Segmentation" / "default.txt").read_text() == 'a\n"drive one/b"\n000017\n'
    for name, labels in maps().items():
        path = tmp_path / "SegmentationClass" / f"{name.partition('.')[0]}.png"
        pixels = np.asarray(Image.open(path))
        read = [[CLASSES.index(table[tuple(map(int, pixel))]) for pixel in row] for row in pixels]
        assert np.array_equal(read, labels)


def test_cvats_background_is_added_where_no_class_is_one(tmp_path: Path) -> None:
    LAYOUTS["cvat"](tmp_path, ("a", "b"), ((0, 0, 0), (1, 1, 1))).finish([])
    assert (tmp_path / "labelmap.txt").read_text().splitlines()[1] == "background:0,0,0::"
    assert own_colours(("background", "b"), ((0, 0, 0), (1, 1, 1))) == [(0, 0, 0), (1, 1, 1)]
    with pytest.raises(DataError, match="the class 'a:b' can't stand in CVAT's labelmap"):
        LAYOUTS["cvat"](tmp_path, ("a:b", "c"), ((0, 0, 0), (1, 1, 1)))


def test_a_mask_that_isnt_ours(tmp_path: Path) -> None:
    layout = LAYOUTS["masks"](tmp_path, CLASSES, PALETTE)
    (tmp_path / "masks").mkdir()
    for content in (b"rubbish", layout.encoded(np.full((2, 2), 9, np.uint8))):
        layout.mask("a").write_bytes(content)
        with pytest.raises(DataError, match=r"can't read the mask .* back"):
            layout.labels("a")
