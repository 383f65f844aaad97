"""COCO's instances and panoptic JSON, in the layouts of COCO, CVAT, Roboflow and Label Studio."""

from pathlib import Path

import exports
import numpy as np
import pytest
from exports import H, W, area, box, convert, layers, masks, opened, photo, write

from rdd_deploy.errors import DataError


def flat(*corners: int) -> list[int]:
    return [number for point in box(*corners) for number in point]


def image(key: int, name: str, **more: object) -> dict[str, object]:
    return {"id": key, "file_name": name, "height": H, "width": W, **more}


def test_polygons_runs_and_crowds_in_cocos_own_layout(tmp_path: Path) -> None:
    source = tmp_path / "coco"
    for split, name in (("train2017", "a.jpg"), ("train2017", "b.jpg"), ("val2017", "c.jpg")):
        photo(source / split / name)
    whole, small, dot = area(0, 0, 30, 50), area(5, 5, 20, 20), area(10, 10, 12, 12)
    train = exports.coco(
        [image(1, "a.jpg"), image(2, "b.jpg")],
        [
            {"image_id": 1, "category_id": 2, "segmentation": [flat(10, 10, 12, 12), flat(30, 52, 32, 55)]},
            {"image_id": 1, "category_id": 1, "segmentation": exports.coco_text(small)},
            {
                "image_id": 1,
                "category_id": 3,
                "segmentation": {"size": [H, W], "counts": exports.runs(whole, "F")},
                "iscrowd": 1,
            },
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]},
        ],
        ["cat", "dog", "bird"],
    )
    write(source / "annotations" / "instances_train2017.json", train)
    write(source / "annotations" / "captions_train2017.json", {"images": [], "annotations": [], "info": {}})
    write(
        source / "annotations" / "instances_val2017.json", exports.coco([image(7, "c.jpg")], [], ["cat", "dog", "bird"])
    )
    part, result = convert(source, tmp_path / "out")
    assert part["classes"] == ["background", "cat", "dog", "bird"]
    assert result.images == {"train": 2, "val": 1}
    labels = opened(part)
    # The smaller lies on top, whatever the order; the crowd lies below all, although its region is listed last.
    assert (labels["a"] == layers((whole, 3), (small, 1), (dot | area(30, 52, 32, 55), 2))).all()
    assert not labels["b"].any()
    assert not opened(part, "val")["c"].any()
    assert result.decided == (int(small.sum()), 1)
    assert (tmp_path / "out/train/a.jpg").read_bytes() == (source / "train2017/a.jpg").read_bytes()


def test_the_rule_of_overlaps_is_the_users(tmp_path: Path) -> None:
    photo(tmp_path / "e/images/a.png")
    small, large = flat(5, 5, 10, 10), flat(0, 0, 20, 20)
    both = [
        {"image_id": 1, "category_id": 1, "segmentation": [small]},
        {"image_id": 1, "category_id": 2, "segmentation": [large]},
    ]
    write(tmp_path / "e/annotations/instances_default.json", exports.coco([image(1, "a.png")], both, ["x", "y"]))
    for number, (rule, expected) in enumerate(
        [(None, layers((area(0, 0, 20, 20), 2), (area(5, 5, 10, 10), 1))), ("order", layers((area(0, 0, 20, 20), 2)))]
    ):
        _, result = convert(tmp_path / "e", tmp_path / f"out{number}", overlap=rule)
        assert (masks(tmp_path / f"out{number}")["a"] == expected).all()
        assert result.decided == (25, 1)
    with pytest.raises(DataError, match=r"annotations\[1\] \(y\) overlaps a region of another class in 25 pixels"):
        convert(tmp_path / "e", tmp_path / "out", overlap="error")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "out0", "out1"]


def test_roboflows_layout(tmp_path: Path) -> None:
    """Images beside the JSON, a category above the others that nothing is labelled as, valid/ for val."""
    for split, number in (("train", 1), ("valid", 2)):
        photo(tmp_path / "e" / split / "x_jpg.rf.0a.jpg", number)
        tree = exports.coco(
            [image(0, "x_jpg.rf.0a.jpg")], [{"image_id": 0, "category_id": 2, "segmentation": [flat(0, 0, 9, 9)]}], []
        )
        tree["categories"] = [
            {"id": 0, "name": "things", "supercategory": "none"},
            {"id": 1, "name": "car", "supercategory": "things"},
            {"id": 2, "name": "van", "supercategory": "things"},
        ]
        write(tmp_path / "e" / split / "_annotations.coco.json", tree)
    part, result = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "car", "van"]
    assert result.images == {"train": 1, "val": 1}
    for split in ("train", "val"):
        assert (opened(part, split)["x_jpg.rf.0a"] == layers((area(0, 0, 9, 9), 2))).all()


def test_label_studios_layout_with_windows_paths(tmp_path: Path) -> None:
    photo(tmp_path / "e/images/1f2e3d4c-a b.png")
    tree = exports.coco(
        [image(0, "images\\1f2e3d4c-a b.png")],
        [{"image_id": 0, "category_id": 1, "segmentation": [flat(1, 2, 3, 4)]}],
        ["x", "y"],
    )
    write(tmp_path / "e/result.json", tree)
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert (opened(part)["1f2e3d4c-a b"] == layers((area(1, 2, 3, 4), 1))).all()


def test_panoptic(tmp_path: Path) -> None:
    photo(tmp_path / "e/val2017/a.jpg")
    segments = np.zeros((H, W, 3), np.uint8)
    segments[:10], segments[10:20] = (3, 2, 1), (255, 0, 0)
    write(tmp_path / "e/annotations/panoptic_val2017/a.png", exports.png(segments))
    info = [{"id": 3 + 2 * 256 + 65536, "category_id": 10}, {"id": 255, "category_id": 92}]
    tree = {
        "images": [image(5, "a.jpg")],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": info}],
        "categories": [{"id": 92, "name": "road", "isthing": 0}, {"id": 10, "name": "car", "isthing": 1}],
    }
    write(tmp_path / "e/annotations/panoptic_val2017.json", tree)
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["road", "car"]
    assert (opened(part, "val")["a"] == layers((area(0, 0, 10, W), 1), (area(10, 0, 20, W), 0), background=255)).all()
    tree["annotations"][0]["segments_info"] = info[:1]
    write(tmp_path / "e/annotations/panoptic_val2017.json", tree)
    with pytest.raises(DataError, match=r"a\.png holds segments \[255\] that its JSON doesn't list"):
        convert(tmp_path / "e", tmp_path / "again")


@pytest.mark.parametrize(
    ("segmentation", "sentence"),
    [
        ([[0, 0, 5, float("nan"), 3, 3]], "isn't valid JSON: NaN is no number"),
        ([[0, 0, 5, 5, 3]], "a polygon is [0, 0, 5, 5, 3]; expected numbers x, y, x, y"),
        ([[0, 0, 1e9, 0, 5, 5]], "the point (1e+09, 0) lies far outside of the image of 40x60 pixels"),
        ([[0, 0, "5", 0, 5, 5]], "expected numbers x, y, x, y"),
        (
            {"size": [100000, 100000], "counts": [10**10]},
            "the mask's size is [100000, 100000]; expected the image's, [40, 60]",
        ),
        ({"size": [H, W], "counts": [5, 5]}, "the run lengths make 10 pixels; expected 40x60 = 2400"),
        ({"size": [H, W], "counts": [-5, 2405]}, "a run length is -5"),
        ({"size": [H, W], "counts": "o"}, "the run lengths are cut off"),
        ({"size": [H, W], "counts": "\u1234"}, "isn't COCO's compressed form"),
        ({"size": [H, W], "counts": "P" * 50}, "isn't COCO's compressed form"),
        ({"size": [H, W]}, "the run lengths are missing"),
        ("all of it", "'segmentation' is 'all of it'; expected an object"),
    ],
)
def test_rubbish_is_one_sentence_with_its_place(segmentation: object, sentence: str, tmp_path: Path) -> None:
    photo(tmp_path / "e/a.png")
    tree = exports.coco(
        [image(1, "a.png")], [{"image_id": 1, "category_id": 1, "segmentation": segmentation}], ["x", "y"]
    )
    write(tmp_path / "e/x.json", tree)
    with pytest.raises(DataError) as error:
        convert(tmp_path / "e", tmp_path / "out", format="coco")
    assert sentence in str(error.value)
    assert "x.json" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"categories": 3}, "'categories' is 3; expected a list"),
        ({"images": [1]}, "images[0] is 1; expected an object"),
        (
            {"annotations": [{"image_id": 1, "category_id": 9}]},
            "annotations[0]: the category 9 isn't among the file's categories",
        ),
        ({"categories": [{"id": 1, "name": " "}]}, "the class's name is ' '; expected text"),
        ({"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}, "the id 1 is given to two categories"),
        (
            {"images": [{"id": 1, "file_name": "a.png", "height": 10**9, "width": 10**9}]},
            "gives the image 1000000000x1000000000 pixels",
        ),
        (
            {"images": [{"id": 1, "file_name": "a.png", "height": H, "width": W + 1}]},
            "the annotations are for 40x61 pixels, the image a.png has",
        ),
        ({"images": [{"id": 1, "file_name": "a.png", "height": 10**400, "width": 5}]}, "expected a number of pixels"),
        ({"images": [{"id": [], "file_name": "a.png"}]}, "'id' is a list; expected a number"),
    ],
)
def test_a_file_of_other_types(change: dict[str, object], sentence: str, tmp_path: Path) -> None:
    photo(tmp_path / "e/a.png")
    write(tmp_path / "e/x.json", exports.coco([image(1, "a.png")], [], ["x", "y"]) | change)
    with pytest.raises(DataError) as error:
        convert(tmp_path / "e", tmp_path / "out", format="coco")
    assert sentence in str(error.value)


def one_image(file: str, name: str) -> dict[str, object]:
    return exports.coco(
        [image(1, file)], [{"image_id": 1, "category_id": 1, "segmentation": [flat(0, 0, 9, 9)]}], [name]
    )


def test_every_file_of_the_kind_is_read_or_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        photo(tmp_path / f"e/images/{name}.png")
    write(tmp_path / "e/annotations/instances_default.json", one_image("a.png", "car"))
    write(tmp_path / "e/annotations/stuff_default.json", one_image("b.png", "road"))
    write(tmp_path / "e/annotations/person_keypoints_default.json", one_image("a.png", "person"))
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "car", "road"]
    assert sorted(opened(part)) == ["a", "b"]
    assert (
        "1 JSON file of captions or keypoints passed over, the first is annotations/person_keypoints_default.json"
        in " ".join(capsys.readouterr().out.split())
    )


def test_an_image_in_two_files(tmp_path: Path) -> None:
    photo(tmp_path / "e/images/a.png")
    for name in ("one", "two"):
        write(tmp_path / f"e/annotations/{name}.json", one_image("a.png", name))
    with pytest.raises(DataError, match=r"a\.png is annotated twice, by .*one\.json.* and by .*two\.json"):
        convert(tmp_path / "e", tmp_path / "out")
