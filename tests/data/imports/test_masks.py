"""Exports that hold masks: VOC's layout (VOC, CVAT, labelme2voc), Roboflow's semantic masks, Cityscapes of CVAT,
Hugging Face's parquet.
"""

from pathlib import Path
from typing import Any

import exports
import numpy as np
import pngs
import pytest
from exports import H, W, area, convert, layers, opened, photo, write

from rdd_deploy.errors import DataError

VOC_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [7, 7, 7] * 252 + [224, 224, 192]


def test_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "VOCdevkit/VOC2012"
    values = layers((area(0, 0, 20, 20), 1), (area(20, 20, 22, 40), 255))
    for name in ("2007_000001", "2007_000002", "2007_000003"):
        photo(root / f"JPEGImages/{name}.jpg")
        write(root / f"SegmentationClass/{name}.png", exports.png(values, VOC_PALETTE))
        write(root / f"SegmentationObject/{name}.png", exports.png(values, VOC_PALETTE))
    photo(root / "JPEGImages/2007_000009.jpg")
    write(root / "ImageSets/Segmentation/train.txt", "2007_000001\n")
    write(root / "ImageSets/Segmentation/val.txt", "2007_000002\n")
    write(root / "ImageSets/Segmentation/trainval.txt", "2007_000001\n2007_000002\n")
    part, result = convert(tmp_path / "VOCdevkit", tmp_path / "out")
    told = capsys.readouterr().err
    assert "1 image left out: ImageSets/Segmentation doesn't list it, the first is 2007_000003" in told
    assert "1 image left out: it has no mask, the first is VOC2012/JPEGImages/2007_000009.jpg" in told
    assert part["classes"][:2] == ["background", "aeroplane"]
    assert result.images == {"train": 1, "val": 1}
    assert (opened(part, "val")["2007_000002"] == values).all()
    part, _ = convert(tmp_path / "VOCdevkit", tmp_path / "void", background="void")
    assert part["classes"][0] == "aeroplane"
    assert (opened(part)["2007_000001"] == layers((area(0, 0, 20, 20), 0), background=255)).all()


def test_cvats_segmentation_mask(tmp_path: Path) -> None:
    root, colours = tmp_path / "e", {"background": (0, 0, 0), "car": (250, 50, 83), "road": (0, 10, 255)}
    write(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\n" + "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in colours.items()),
    )
    values = layers((area(0, 0, 20, 20), 2), (area(5, 5, 10, 10), 1))
    pixels = np.array(list(colours.values()), np.uint8)[values]
    pixels[39] = (224, 224, 192)
    photo(root / "JPEGImages/sub/a.jpg")
    write(root / "SegmentationClass/sub/a.png", exports.png(pixels))
    write(root / "ImageSets/Segmentation/default.txt", "sub/a\n")
    part, _ = convert(root, tmp_path / "out")
    assert part["classes"] == list(colours)
    assert part["palette"] == [list(colour) for colour in colours.values()]
    values[39] = 255
    assert (opened(part)["a"] == values).all()
    pixels[0, 0] = (1, 2, 3)
    write(root / "SegmentationClass/sub/a.png", exports.png(pixels))
    with pytest.raises(
        DataError, match=r"a\.png holds colours \[\(1, 2, 3\)\] that the export's list of classes lacks"
    ):
        convert(root, tmp_path / "again")


def test_cvats_grey_colours(tmp_path: Path) -> None:
    """An optimiser stores a picture of black and white, or of any greys, in one channel."""
    values = layers((area(0, 0, 20, 20), 1))
    photo(tmp_path / "e/JPEGImages/a.jpg")
    write(tmp_path / "e/SegmentationClass/a.png", exports.png(values * 255))
    write(tmp_path / "e/labelmap.txt", "background:0,0,0::\ntraffic light: red:255,255,255::\n")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "traffic light: red"]
    assert (opened(part)["a"] == values).all()
    write(tmp_path / "e/labelmap.txt", "background:0,0,0::\ncar:9,9,9::\n")
    write(tmp_path / "e/SegmentationClass/a.png", exports.png(values))
    part, _ = convert(tmp_path / "e", tmp_path / "numbers")
    assert (opened(part)["a"] == values).all()
    write(tmp_path / "e/labelmap.txt", "background:1,1,1::\ncar:0,0,0::\n")
    with pytest.raises(DataError, match=r"its levels \[0, 1\] are both colours .* and numbers in it"):
        convert(tmp_path / "e", tmp_path / "both")


def test_labelme2voc(tmp_path: Path) -> None:
    values = layers((area(0, 0, 20, 20), 2), (area(20, 20, 22, 40), 255))
    photo(tmp_path / "e/JPEGImages/a.jpg")
    photo(tmp_path / "e/SegmentationClassVisualization/a.jpg")
    write(tmp_path / "e/SegmentationClassPNG/a.png", exports.png(values, VOC_PALETTE))
    write(tmp_path / "e/class_names.txt", "_background_\nx\ny\n")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "x", "y"]
    assert (opened(part)["a"] == values).all()


def test_roboflows_masks(tmp_path: Path) -> None:
    values = layers((area(0, 0, 20, 20), 1), (area(5, 5, 10, 10), 2))
    for split in ("train", "valid", "test"):
        photo(tmp_path / "e" / split / "a_jpg.rf.12.jpg")
        write(tmp_path / "e" / split / "a_jpg.rf.12_mask.png", exports.png(values))
        write(tmp_path / "e" / split / "_classes.csv", "Pixel Value, Class\n0, background\n1, car\n2, road\n")
    part, result = convert(tmp_path / "e", tmp_path / "out", classes="thing=car,road;other=background")
    assert part["classes"] == ["thing", "other"]
    assert result.images == {"train": 1, "val": 1, "test": 1}
    part, _ = convert(tmp_path / "e", tmp_path / "void", background="void")
    assert part["classes"] == ["car", "road"]
    assert (opened(part, "test")["a_jpg.rf.12"] == np.where(values == 0, 255, values - 1)).all()
    for text, sentence in (
        ("0, background\n" + "9" * 5000 + ", b\n", "expected a mask's value from 0"),
        ("0, background\n1, car, red\n", "expected a mask's value from 0"),
        ("0,background\n1," + "b" * 200_000, "isn't valid CSV"),
    ):
        write(tmp_path / "e/train/_classes.csv", "Pixel Value, Class\n" + text)
        with pytest.raises(DataError, match=sentence):
            convert(tmp_path / "e", tmp_path / "again")
    for split in ("train", "valid", "test"):
        write(tmp_path / "e" / split / "_classes.csv", 'Pixel Value, Class\n0, background\n1, "car, red"\n2, road\n')
    part, _ = convert(tmp_path / "e", tmp_path / "comma")
    assert part["classes"] == ["background", "car, red", "road"]
    write(tmp_path / "e/train/a_jpg.rf.12_mask.png", exports.png(values + 7))
    with pytest.raises(
        DataError,
        match=(
            r"a_jpg\.rf\.12_mask\.png holds the values \[7, 8, 9\], which mean nothing here; expected 255 void, 0 back"
        ),
    ):
        convert(tmp_path / "e", tmp_path / "again")


def test_cityscapes_of_cvat(tmp_path: Path) -> None:
    root, colours = tmp_path / "e", {"background": (0, 0, 0), "lane": (1, 2, 3), "kerb": (9, 9, 8)}
    write(root / "label_colors.txt", "".join(f"{r} {g} {b} {name}\n" for name, (r, g, b) in colours.items()))
    values = layers((area(0, 0, 20, 20), 2), (area(5, 5, 10, 10), 1))
    photo(root / "imgsFine/leftImg8bit/default/a_leftImg8bit.png")
    write(root / "gtFine/default/a_gtFine_color.png", exports.png(np.array(list(colours.values()), np.uint8)[values]))
    write(root / "gtFine/default/a_gtFine_labelIds.png", exports.png(values + 3))
    part, _ = convert(root, tmp_path / "out")
    assert part["classes"] == list(colours)
    assert (opened(part)["a_leftImg8bit"] == values).all()


def test_cityscapes_train_ids_are_no_label_ids(tmp_path: Path) -> None:
    photo(tmp_path / "e/leftImg8bit/train/x/x_leftImg8bit.png")
    place = tmp_path / "e/gtFine/train/x"
    write(place / "x_gtFine_labelTrainIds.png", exports.png(layers((area(0, 0, 9, 9), 13), background=255)))
    with pytest.raises(
        DataError, match=r"\*_labelTrainIds\.png alone, which need no import: train with data\.name=city"
    ):
        convert(tmp_path / "e", tmp_path / "out")
    (place / "x_gtFine_labelTrainIds.png").rename(place / "x_gtFine_labelIds.png")
    with pytest.raises(DataError, match=r"labelIds\.png holds 255, which labelIds .* never do: it looks like trainIds"):
        convert(tmp_path / "e", tmp_path / "out")


def test_masks_of_a_rare_class_are_shared_out(tmp_path: Path) -> None:
    """As annotations are: a class of 4 in 40 frames has one in a val of a quarter."""
    for number in range(40):
        photo(tmp_path / f"e/train/{'abcdefghij'[number // 4]}x{'abcd'[number % 4]}.jpg", number)
        values = layers((area(0, 0, 9, 9), 2 if number % 10 == 3 else 1))
        write(tmp_path / f"e/train/{'abcdefghij'[number // 4]}x{'abcd'[number % 4]}_mask.png", exports.png(values))
    write(tmp_path / "e/train/_classes.csv", "Pixel Value, Class\n0, background\n1, car\n2, rare\n")
    for seed in range(5):
        part, _ = convert(tmp_path / "e", tmp_path / f"out{seed}", val=0.25, seed=seed)
        assert sum((labels == 2).any() for labels in opened(part, "val").values()) == 1


def parquet(path: Path, masks: list[Any], columns: tuple[str, str] = ("image", "label")) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [photo(path.parents[2] / f"x{number}.jpg", number).read_bytes() for number in range(len(masks))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        [{"bytes": data, "path": None} for data in images],
        [mask if isinstance(mask, dict) else {"bytes": mask, "path": None} for mask in masks],
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({name: pa.array(row, kind) for name, row in zip(columns, rows, strict=True)}), path, row_group_size=2
    )
    return images


def test_parquet(tmp_path: Path) -> None:
    values = [layers((area(0, 0, number + 1, 20), 1), (area(5, 5, 10, 10), 2)) for number in range(5)]
    images = parquet(
        tmp_path / "e/data/train-00000-of-00001.parquet", [exports.png(one, VOC_PALETTE) for one in values]
    )
    parquet(tmp_path / "e/data/validation-00000-of-00001-ab12.parquet", [exports.png(values[0])])
    write(tmp_path / "e/id2label.json", {"0": "sky", "1": "road", "2": "car"})
    part, result = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["sky", "road", "car"]
    assert result.images == {"train": 5, "val": 1}
    labels = list(opened(part).values())
    assert all((one == other).all() for one, other in zip(labels, values, strict=True))
    assert [path.read_bytes() for path in sorted((tmp_path / "out/train").iterdir())] == images
    write(tmp_path / "e/id2label.json", {"0": "road", "1": "car"})
    part, _ = convert(tmp_path / "e", tmp_path / "reduced", reduce_labels=True)
    assert (next(iter(opened(part).values())) == np.where(values[0] == 0, 255, values[0] - 1)).all()
    (tmp_path / "e/id2label.json").unlink()
    part, _ = convert(tmp_path / "e", tmp_path / "unnamed")
    assert part["classes"] == ["class_0", "class_1", "class_2"]


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (b"\x89PNG\r\n\x1a\nrubbish", "row 0: label isn't an image that can be read"),
        (
            {"bytes": None, "path": "../../etc/passwd.png"},
            "row 0: label holds no bytes, and its path '../../etc/passwd.png' names no file",
        ),
        (exports.png(np.zeros((H, W, 3), np.uint8) + np.array([1, 2, 3], np.uint8)), "row 0: label holds colours"),
        (exports.png(np.zeros((5, 5), np.uint8)), "the annotations are for 5x5 pixels, the image"),
    ],
)
def test_parquet_rubbish(mask: Any, sentence: str, tmp_path: Path) -> None:
    parquet(tmp_path / "e/data/train-00000-of-00001.parquet", [mask])
    write(tmp_path / "e/id2label.json", {"0": "road", "1": "car"})
    with pytest.raises(DataError) as error:
        convert(tmp_path / "e", tmp_path / "out")
    assert sentence in str(error.value)


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "e/data/train-00000-of-00001.parquet"
    parquet(path, [exports.png(np.eye(H, W, dtype=np.uint8))] * 3)
    write(tmp_path / "e/id2label.json", {"0": "road", "1": "car"})
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"PAR1" + bytes(100), b"", whole[:200] + bytes(3000) + whole[3200:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet"):
            convert(tmp_path / "e", tmp_path / "out")
    parquet(path, [exports.png(np.eye(H, W, dtype=np.uint8))], ("photo_1", "photo_2"))
    with pytest.raises(
        DataError,
        match=r"has the image columns \['photo_1', 'photo_2'\]; expected one called image and one called label",
    ):
        convert(tmp_path / "e", tmp_path / "out")


def test_an_image_that_is_damaged_behind_its_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e/data/train-00000-of-00001.parquet"
    damaged = exports.png(np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8))
    mask, kind = exports.png(np.eye(H, W, dtype=np.uint8)), ["bytes", "path"]
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [damaged, damaged[:300] + bytes(50) + damaged[350:]]
    rows = [[dict(zip(kind, (one, None), strict=True)) for one in row] for row in (images, [mask, mask])]
    path.parent.mkdir(parents=True)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {name: pa.array(row, struct) for name, row in zip(("image", "label"), rows, strict=True)}
    pq.write_table(pa.table(columns), path)
    write(tmp_path / "e/id2label.json", {"0": "road", "1": "car"})
    part, result = convert(tmp_path / "e", tmp_path / "out")
    assert result.images == {"train": 1}
    assert len(opened(part)) == 1
    assert "1 image left out: it can't be read as an image, the first is" in " ".join(capsys.readouterr().err.split())


OPTIMISED = layers((area(0, 0, 20, 20), 2), (area(20, 0, 30, 60), 255))
"""Whose numbers, 0, 1 and 2 for the greys 0, 2 and 255, are ids as well."""


def roboflow(root: Path, mask: bytes) -> None:
    photo(root / "train/a.jpg")
    write(root / "train/_classes.csv", "Pixel Value, Class\n0, background\n1, car\n2, road\n")
    write(root / "train/a_mask.png", mask)


def labelme2voc(root: Path, mask: bytes) -> None:
    photo(root / "JPEGImages/a.jpg")
    write(root / "class_names.txt", "_background_\nx\ny\n")
    write(root / "SegmentationClassPNG/a.png", mask)


def voc_itself(root: Path, mask: bytes) -> None:
    labelme2voc(root, mask)
    (root / "class_names.txt").unlink()


def hugging_face(root: Path, mask: bytes) -> None:
    parquet(root / "data/train-00000-of-00001.parquet", [mask])
    write(root / "id2label.json", {"0": "background", "1": "car", "2": "road"})


@pytest.mark.parametrize("make", [roboflow, labelme2voc, voc_itself, hugging_face])
def test_greys_that_an_optimiser_numbered(make: Any, tmp_path: Path) -> None:
    """As the folder reader takes them: the numbers that a mask stores may be ids by chance."""
    make(tmp_path / "e", pngs.optimised(OPTIMISED))
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert (next(iter(opened(part).values())) == OPTIMISED).all()
    make(tmp_path / "e", pngs.optimised(OPTIMISED, [2, 0, 255]))
    part, _ = convert(tmp_path / "e", tmp_path / "other_order")
    assert (next(iter(opened(part).values())) == OPTIMISED).all()
    make(tmp_path / "two", pngs.optimised(np.where(OPTIMISED == 2, 0, OPTIMISED).astype(np.uint8)))
    with pytest.raises(
        DataError, match=r"can mean two things: it stores the numbers \[0, 1\] for the grey levels \[0, 255\]"
    ):
        convert(tmp_path / "two", tmp_path / "again")


def test_label_ids_that_an_optimiser_numbered(tmp_path: Path) -> None:
    ids = layers((area(0, 0, 20, 20), 7), (area(20, 0, 30, 60), 26))
    photo(tmp_path / "e/leftImg8bit/train/x/x_1_leftImg8bit.png")
    write(tmp_path / "e/gtFine/train/x/x_1_gtFine_labelIds.png", pngs.optimised(ids))
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    expected = np.where(ids == 7, 0, np.where(ids == 26, 13, 255))
    assert (opened(part)["x_1_leftImg8bit"] == expected).all()


def test_palettes_that_an_optimiser_sorted(tmp_path: Path) -> None:
    """PASCAL VOC's colours under other numbers."""
    values = layers((area(0, 0, 20, 20), 1), (area(5, 5, 10, 10), 2))
    roboflow(tmp_path / "e", exports.png(values, [0, 0, 0, 0, 128, 0, 128, 0, 0]))
    with pytest.raises(DataError, match=r"a_mask\.png stores the numbers \[0, 1, 2\] for colours that stand for"):
        convert(tmp_path / "e", tmp_path / "out")


def test_a_parquet_file_of_masks_of_few_bits(tmp_path: Path) -> None:
    values = layers((area(0, 0, 20, 20), 1), (area(5, 5, 10, 10), 2))
    hugging_face(tmp_path / "e", pngs.stored(values, 4))
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert (next(iter(opened(part).values())) == values).all()
    (tmp_path / "e/id2label.json").unlink()
    part, _ = convert(tmp_path / "e", tmp_path / "unnamed")
    assert part["classes"] == ["class_0", "class_1", "class_2"]
    assert (next(iter(opened(part).values())) == values).all()
    parquet(tmp_path / "e/data/train-00000-of-00001.parquet", [pngs.optimised(OPTIMISED)])
    with pytest.raises(
        DataError, match=r"row 0: label can mean two things: .* and nothing says which are classes; put id2label\.json"
    ):
        convert(tmp_path / "e", tmp_path / "again")


def test_cvats_black_and_white_in_one_bit(tmp_path: Path) -> None:
    """What is stored are the numbers 0 and 1, what is shown are colours of the list."""
    values = layers((area(0, 0, 20, 20), 1))
    photo(tmp_path / "e/JPEGImages/a.jpg")
    write(tmp_path / "e/SegmentationClass/a.png", pngs.stored(values, 1))
    write(tmp_path / "e/labelmap.txt", "lane:255,255,255::\nbackground:0,0,0::\n")
    with pytest.raises(DataError, match=r"its levels \[0, 255\] are both colours .* and numbers in it"):
        convert(tmp_path / "e", tmp_path / "out")
    write(tmp_path / "e/labelmap.txt", "background:0,0,0::\nlane:255,255,255::\n")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert (opened(part)["a"] == values).all()


def cvats_cityscapes(root: Path, name: str, values: np.ndarray, seed: int = 0, place: str = "") -> None:
    write(root / place / "label_colors.txt", "0 0 0 background\n255 0 0 lane\n0 255 0 kerb\n")
    photo(root / place / f"imgsFine/leftImg8bit/default/{name}_leftImg8bit.png", seed)
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[values]
    write(root / place / f"gtFine/default/{name}_gtFine_color.png", exports.png(colours))
    write(root / place / f"gtFine/default/{name}_gtFine_labelIds.png", exports.png(values))


def test_cityscapes_of_two_cameras(tmp_path: Path) -> None:
    """Whose frames have the same names."""
    values = [layers((area(0, 0, 5 * number, 20), number)) for number in (1, 2)]
    for number, one in enumerate(values):
        cvats_cityscapes(tmp_path / "e", f"cam{number}/000001", one, number)
    photo(tmp_path / "e/imgsFine/leftImg8bit/default/cam2/000001_leftImg8bit.png", 2)
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    labels = opened(part)
    for number, one in enumerate(values):
        name = f"imgsFine_leftImg8bit_default_cam{number}_000001_leftImg8bit"
        original = tmp_path / f"e/imgsFine/leftImg8bit/default/cam{number}/000001_leftImg8bit.png"
        assert (labels[name] == one).all()
        assert (tmp_path / f"out/train/{name}.png").read_bytes() == original.read_bytes()
    assert len(labels) == 2
    (tmp_path / "e/imgsFine/leftImg8bit/default/cam0/000001_leftImg8bit.png").unlink()
    part, _ = convert(tmp_path / "e", tmp_path / "one")
    assert len(opened(part)) == 1
    photo(tmp_path / "e/imgsFine/leftImg8bit/default/cam1/000001_leftImg8bit.jpg", 3)
    with pytest.raises(
        DataError, match=r"000001_gtFine_color\.png may be of .*\.jpg or of .*\.png; expected one image"
    ):
        convert(tmp_path / "e", tmp_path / "twins")


def test_cityscapes_of_cvat_in_a_folder_of_its_own(tmp_path: Path) -> None:
    values = layers((area(0, 0, 20, 20), 2), (area(5, 5, 10, 10), 1))
    cvats_cityscapes(tmp_path / "e", "a", values, 0, "task_1")
    cvats_cityscapes(tmp_path / "e", "a", values, 1, "task_2")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "lane", "kerb"]
    labels = opened(part)
    assert len(labels) == 2
    assert all((one == values).all() for one in labels.values())
    write(tmp_path / "e/task_2/label_colors.txt", "0 0 0 background\n0 255 0 lane\n255 0 0 kerb\n")
    with pytest.raises(DataError, match="name different classes or colours; give the folder of one export"):
        convert(tmp_path / "e", tmp_path / "again")
    (tmp_path / "e/task_2/label_colors.txt").unlink()
    with pytest.raises(
        DataError, match=r"task_2/.* has no label_colors\.txt in a folder above it, as other masks have"
    ):
        convert(tmp_path / "e", tmp_path / "again")


@pytest.mark.parametrize(("make", "folder"), [(roboflow, "train"), (labelme2voc, "JPEGImages")])
def test_twins_with_one_mask(make: Any, folder: str, tmp_path: Path) -> None:
    make(tmp_path / "e", exports.png(layers((area(0, 0, 20, 20), 1))))
    photo(tmp_path / "e" / folder / "a.png", 1)
    with pytest.raises(DataError, match=rf"{folder}/a\.jpg and {folder}/a\.png have the same name but for the ending"):
        convert(tmp_path / "e", tmp_path / "out")


def test_more_classes_than_a_mask_of_255_for_void_can_tell(tmp_path: Path) -> None:
    labelme2voc(tmp_path / "e", exports.png(np.eye(H, W, dtype=np.uint8)))
    write(tmp_path / "e/class_names.txt", "".join(f"c{number}\n" for number in range(256)))
    with pytest.raises(DataError, match="has 256 classes; expected at most 255, as the value 255 is void"):
        convert(tmp_path / "e", tmp_path / "out", classes="a=c1;b=*")
    write(tmp_path / "e/class_names.txt", "_background_\n\nx\n")
    with pytest.raises(DataError, match=r"class_names\.txt: line 2 is empty, and a line's number is its class's"):
        convert(tmp_path / "e", tmp_path / "out")
