"""What of a folder is taken, and that everything else is told."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from toys import CLASSES, picture, write_data, write_pair

from rdd_deploy.data.base import FileSplit
from rdd_deploy.data.camvid import open_camvid
from rdd_deploy.data.listing import IMAGES, list_images, pair_up
from rdd_deploy.data.open import open_split
from rdd_deploy.errors import DataError


def opened(root: Path, split: str = "train") -> FileSplit:
    found = open_split("folder", root, split, classes=CLASSES)
    assert isinstance(found, FileSplit)
    return found


def test_everything_left_out_is_told_with_its_number_and_a_name(tmp_path: Path) -> None:
    write_data(tmp_path, train=2)
    train, annot = tmp_path / "train", tmp_path / "trainannot"
    (train / "berlin" / "day").mkdir(parents=True)
    for name in ("berlin/b.png", "berlin/day/a.JPG", "berlin/day/c.heic", "x.heic", "y.GIF"):
        (train / name).write_bytes(b"x")
    (train / "notes").mkdir()
    (train / "notes" / "readme.txt").write_text("no image")
    (train / "odd.png").mkdir()
    (train / "list.txt").write_text("no image")
    (annot / "old").mkdir()
    (annot / "old" / "m.png").write_bytes(b"x")
    (annot / "train0000.bmp").write_bytes(b"x")
    write_pair(tmp_path, "train", "lonely", *picture(5))
    (train / "lonely.png").unlink()
    for name in ("._train0000.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (train / name).write_bytes(b"x")
        (annot / name).write_bytes(b"x")
    (annot / ".thumbnails").mkdir()
    split = opened(tmp_path)
    assert list(split.names) == ["train0000", "train0001"]
    assert split.notes((64, 64)) == [
        f"2 sub-folders of {train} with 3 images, the first is berlin/b.png: left out, move the images up to use them",
        f"2 files in {train} of other kinds (.gif, .heic), the first is x.heic: left out, convert them to use them",
        f"4 hidden or system files in {train} passed over",
        f"1 sub-folder of {annot} with 1 image, the first is old/m.png: left out, move the images up to use them",
        f"1 file in {annot} of other kinds (.bmp), the first is train0000.bmp: left out, convert them to use them",
        f"5 hidden or system files in {annot} passed over",
        f"1 mask in {annot} without a frame in {train}, the first is lonely.png: left out",
    ]


@pytest.mark.parametrize(
    "names",
    [("train0000.PNG", "train0000.png"), ("train0000.png", "train0000.Png"), ("train0000.PNG", "train0000.pnG")],
)
def test_endings_count_in_either_case(tmp_path: Path, names: tuple[str, str]) -> None:
    write_data(tmp_path, train=1)
    for folder, name in zip(("train", "trainannot"), names, strict=True):
        (tmp_path / folder / "train0000.png").rename(tmp_path / folder / name)
    for split in (opened(tmp_path), open_camvid(tmp_path, "train")):
        assert [(image.name, mask.name) for image, mask in split.pairs] == [names]
    frame, labels = picture(0)
    assert (opened(tmp_path).frame(0) == frame).all()
    assert (opened(tmp_path).labels(0) == labels).all()


@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_two_that_differ_in_the_case_of_their_ending_alone(tmp_path: Path, folder: str) -> None:
    write_data(tmp_path, train=1)
    (tmp_path / folder / "train0000.PNG").write_bytes((tmp_path / folder / "train0000.png").read_bytes())
    for open_ in (opened, lambda root: open_camvid(root, "train")):
        with pytest.raises(
            DataError,
            match=r"train0000\.PNG and train0000\.png have the same name but for the ending; rename or remove one",
        ):
            open_(tmp_path)


def test_composed_and_decomposed_names_are_the_same(tmp_path: Path) -> None:
    name = "straße_é_ü"
    write_pair(tmp_path, "train", unicodedata.normalize("NFC", name), *picture(0))
    mask = tmp_path / "trainannot" / f"{unicodedata.normalize('NFC', name)}.png"
    mask.rename(mask.with_name(f"{unicodedata.normalize('NFD', name)}.png"))
    assert (opened(tmp_path).labels(0) == picture(0)[1]).all()
    other = tmp_path / "train" / f"{unicodedata.normalize('NFD', name)}.png"
    other.write_bytes((tmp_path / "train" / f"{unicodedata.normalize('NFC', name)}.png").read_bytes())
    with pytest.raises(DataError, match="have the same name"):
        opened(tmp_path)


@pytest.mark.parametrize("ending", [*IMAGES, ".JPG", ".Jfif", ".TIFF"])
def test_kinds_that_are_read(tmp_path: Path, ending: str) -> None:
    write_pair(tmp_path, "train", "a", *picture(0))
    kind = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM"}.get(
        ending.lower(), "JPEG"
    )
    Image.fromarray(picture(0)[0]).save(tmp_path / "train" / f"a{ending}", format=kind)
    if ending != ".png":
        (tmp_path / "train" / "a.png").unlink()
    assert opened(tmp_path).frame(0).shape == (64, 64, 3)


def test_errors_say_what_else_lies_there(tmp_path: Path) -> None:
    for folder in ("train/berlin", "trainannot"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train" / "berlin" / "a.png").write_bytes(b"x")
    with pytest.raises(
        DataError,
        match=(
            r"train holds no images; expected files ending in .*; 1 sub-folder of .*train with 1 image, the first is b"
        ),
    ):
        pair_up(tmp_path / "train", tmp_path / "trainannot")
    (tmp_path / "train" / "b.png").write_bytes(b"x")
    (tmp_path / "trainannot" / "b.tif").write_bytes(b"x")
    with pytest.raises(
        DataError,
        match=r"1 of 1 frames .* have no mask in .*, e\.g\. b\.png needs b\.png; .*; 1 file in .* \(\.tif\), the first",
    ):
        pair_up(tmp_path / "train", tmp_path / "trainannot")


def test_pipes_and_broken_links_stay_in_the_list(tmp_path: Path) -> None:
    """Else they'd be left out in silence; reading them is an error with their name."""
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("gone.png")
    (tmp_path / "loop").symlink_to("loop")
    assert [path.name for path in list_images(tmp_path).paths] == ["a.png", "b.png"]
    (tmp_path / "elsewhere" / "x").mkdir(parents=True)
    (tmp_path / "elsewhere" / "x" / "c.png").write_bytes(b"x")
    (tmp_path / "linked").symlink_to("elsewhere/x")
    assert list_images(tmp_path).folders == [("elsewhere/x/c.png", 1), ("linked/c.png", 1)]
