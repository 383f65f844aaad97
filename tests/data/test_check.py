from pathlib import Path

import cv2
import numpy as np
import pytest
from pngs import stored
from toys import CLASSES, COLOURS, picture, tree, write_data, write_pair

from rdd_deploy.data.base import LabelSpace, Split
from rdd_deploy.data.check import check_apart, check_split
from rdd_deploy.data.open import open_split
from rdd_deploy.data.reader import read_mask
from rdd_deploy.errors import DataError
from rdd_deploy.recipe import StudentRecipe
from rdd_deploy.training.data import TrainingData


def opened(root: Path, split: str = "train") -> Split:
    return open_split("folder", root, split, classes=CLASSES)


def test_facts(tmp_path: Path) -> None:
    write_data(tmp_path, train=4)
    seen: list[int] = []
    facts = check_split(opened(tmp_path), lambda: seen.append(1))
    labels = np.concatenate([picture(i)[1] for i in range(4)])
    assert (facts.count, len(seen)) == (4, 4)
    assert facts.pixels.tolist() == [(labels == i).sum() for i in range(3)]
    assert facts.void_share == pytest.approx((labels == 255).mean())
    assert facts.absent(tuple(CLASSES)) == []


def test_classes_that_never_occur(tmp_path: Path) -> None:
    for index in range(2):
        frame, labels = picture(index)
        write_pair(tmp_path, "train", f"{index}", frame, np.where(labels == 1, 0, labels).astype(np.uint8))
    assert check_split(opened(tmp_path)).absent(tuple(CLASSES)) == ["middle"]


def test_the_digest_is_of_the_frames_in_their_order(tmp_path: Path) -> None:
    """A teacher's cache is kept per index: renamed, repeated or fewer frames are other frames, other masks aren't."""
    write_data(tmp_path / "a", train=3)
    facts = check_split(opened(tmp_path / "a"))
    before = facts.digest
    assert check_split(opened(tmp_path / "a")).digest == before
    frame, labels = picture(1)
    write_pair(tmp_path / "a", "train", "train0001", frame, 2 - np.minimum(labels, 2))
    relabelled = check_split(opened(tmp_path / "a"))
    assert relabelled.digest == before
    assert relabelled.labels_digest != facts.labels_digest
    write_pair(tmp_path / "a", "train", "train0001", frame, labels)
    first, last = tmp_path / "a" / "train" / "train0000.png", tmp_path / "a" / "train" / "train0002.png"
    one, other = first.read_bytes(), last.read_bytes()
    first.write_bytes(other)
    last.write_bytes(one)
    assert check_split(opened(tmp_path / "a")).digest != before
    first.write_bytes(one)
    last.write_bytes(one)
    repeated = check_split(opened(tmp_path / "a"))
    last.unlink()
    assert check_split(opened(tmp_path / "a")).digest != repeated.digest


def test_the_same_picture_in_two_splits(tmp_path: Path) -> None:
    write_data(tmp_path, train=3, val=2)
    train, val = check_split(opened(tmp_path)), check_split(opened(tmp_path, "val"))
    check_apart(train, val, "val")
    write_pair(tmp_path, "val", "again", *picture(2))
    with pytest.raises(
        DataError, match=r"^1 images are in both train and val, e\.g\. train0002 and again; remove them from one"
    ):
        check_apart(train, check_split(opened(tmp_path, "val")), "val")


class Given(Split):
    label_space = LabelSpace(tuple(CLASSES), COLOURS)

    def __init__(self, *pairs: tuple[np.ndarray, np.ndarray]) -> None:
        self.given, self.names = pairs, [f"sample {i}" for i in range(len(pairs))]

    def frame(self, index: int) -> np.ndarray:
        return self.given[index][0]

    def labels(self, index: int) -> np.ndarray:
        return self.given[index][1]


def test_splits_that_are_no_files() -> None:
    frame, labels = picture(0)
    with pytest.raises(DataError, match="the split holds no samples"):
        check_split(Given())
    with pytest.raises(DataError, match="sample 1: the frame is 64x64, its mask 64x60; both must be of one size"):
        check_split(Given((frame, labels), (frame, labels[:, :60])))
    strange = labels.copy()
    strange[0, :2] = 3, 200
    with pytest.raises(
        DataError, match=r"sample 0: the labels hold unknown class ids \[3, 200\]; expected 0 to 2 or void"
    ):
        check_split(Given((frame, strange)))
    with pytest.raises(DataError, match="every pixel of the split is void"):
        check_split(Given((frame, np.full_like(labels, 255))))


@pytest.mark.camvid
def test_camvid(camvid: Path) -> None:
    train, val = open_split("camvid", camvid, "train"), open_split("camvid", camvid, "val")
    facts, other = check_split(train), check_split(val)
    assert (facts.count, other.count) == (367, 101)
    assert not facts.absent(train.label_space.classes)
    assert not other.absent(val.label_space.classes)
    assert facts.pixels.sum() + round(facts.void_share * 367 * 360 * 480) == 367 * 360 * 480
    check_apart(facts, other, "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_of_which_some_have_their_palette_sorted_anew(tmp_path: Path, split: str) -> None:
    """In one folder, or between two."""
    write_data(tmp_path, train=2, val=2)
    recipe = StudentRecipe.model_validate(tree(tmp_path))
    for mask in (*tmp_path.glob("*annot/*.png"),):
        labels = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        turned = mask.name == "train0001.png" if split == "train" else mask.parent.name == "valannot"
        order = [2, 1, 0] if turned else [0, 1, 2]
        labels[labels == 255] = 0
        mask.write_bytes(stored(np.array(order, np.uint8)[labels], 2, [COLOURS[index] for index in order]))
        assert read_mask(mask).colours is not None
    with pytest.raises(
        DataError,
        match=rf"{split}\d+\.png stores the number . for the colour \(\d+, \d+, \d+\), and .*\.png the number",
    ):
        TrainingData(recipe)
