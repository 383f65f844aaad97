"""Exports of annotation tools that keep shapes: CVAT, Label Studio, Labelme, Supervisely, YOLO's text files,
Cityscapes' polygons.
"""

import base64
from pathlib import Path
from typing import Any

import cv2
import exports
import numpy as np
import pytest
from exports import H, W, area, box, closed, convert, layers, masks, opened, photo, write

from rdd_deploy.errors import DataError


def cvat(
    shapes: str, labels: str = "<label><name>car</name><color>#102030</color></label><label><name>road</name></label>"
) -> str:
    image = f'<image id="0" name="sub/a.png" width="{W}" height="{H}">{shapes}</image>'
    return (
        '<?xml version="1.0"'
        f' encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>'
        f"{image}</annotations>"
    )


def points(*corners: int) -> str:
    return ";".join(f"{x},{y}" for x, y in box(*corners))


def test_cvat_for_images(tmp_path: Path) -> None:
    photo(tmp_path / "e/images/sub/a.png")
    brush = area(3, 2, 7, 9, 10, 12)
    brush[5, 5] = False
    counts = ", ".join(map(str, exports.runs(brush, "C")))
    shapes = (
        f'<polygon label="car" points="{points(0, 0, 20, 20)}" z_order="1"/>'
        f'<polygon label="road" points="{points(10, 10, 30, 30)}" z_order="0"/>'
        '<box label="road" xtl="40" ytl="2" xbr="50" ybr="12" z_order="0"/>'
        f'<mask label="car" rle="{counts}" left="45" top="20" width="12" height="10" z_order="0"/>'
        '<ellipse label="road" cx="35" cy="35" rx="3" ry="2" z_order="0"/>'
        '<box label="car" xtl="10" ytl="34" xbr="14" ybr="38" rotation="90" z_order="0"/>'
        '<polyline label="car" points="1,1;2,2"/><tag label="car"/><points label="car" points="1,1"/>'
    )
    write(tmp_path / "e/annotations.xml", cvat(shapes))
    part, result = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "car", "road"]
    assert part["palette"][1] == [16, 32, 48]
    ellipse = cv2.ellipse(np.zeros((H, W), np.uint8), (35, 35), (3, 2), 0, 0, 360, 1, -1).astype(bool)
    placed = np.zeros((H, W), bool)
    placed[20:30, 45:57] = brush
    expected = layers(
        (area(10, 10, 30, 30), 2),
        (area(2, 40, 12, 50), 2),
        (placed, 1),
        (ellipse, 2),
        (area(34, 10, 38, 14), 1),
        (area(0, 0, 20, 20), 1),
    )
    assert (opened(part)["a"] == expected).all()
    assert result.decided == (100, 1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (cvat("<polygon")[:-20], "isn't valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + cvat(""), "defines entities"),
        (
            cvat('<mask label="car" rle="4" left="0" top="0" width="99999" height="99999"/>'),
            "reaches beyond the image of 40x60",
        ),
        (
            cvat('<mask label="car" rle="1,b" left="0" top="0" width="9" height="9"/>'),
            "run lengths are '1,b'; expected whole numbers",
        ),
        (cvat('<polygon label="car" points="1,1;2;3,3"/>'), "a point is [2.0]; expected two numbers"),
        (cvat('<polygon label="car" points="1,1;2,x;3,3"/>'), "a polygon's points are '1,1;2,x;3,3'"),
        (cvat('<box label="car" xtl="1" ytl="inf" xbr="2" ybr="3"/>'), "box's 'ytl' is 'inf'; expected a number"),
        (cvat("").replace("</meta>", '</meta><track label="car"/>'), "is CVAT for video; expected CVAT for images 1.1"),
    ],
)
def test_cvat_rubbish(text: str, sentence: str, tmp_path: Path) -> None:
    photo(tmp_path / "e/images/sub/a.png")
    write(tmp_path / "e/annotations.xml", text)
    with pytest.raises(DataError) as error:
        convert(tmp_path / "e", tmp_path / "out", format="cvat")
    assert sentence in str(error.value)


def result(kind: str, **value: Any) -> dict[str, Any]:
    return {"id": kind, "type": kind, "original_width": W, "original_height": H, "image_rotation": 0, "value": value}


def percent(*corners: float) -> list[list[float]]:
    return [[100 * x / W, 100 * y / H] for x, y in box(*corners)]  # type: ignore[arg-type]


def tasks() -> tuple[list[dict[str, Any]], np.ndarray]:
    """Polygon, brush over it, turned box; two annotations, a cancelled one; a task without any."""
    brush = area(5, 5, 12, 30)
    brush[7, 8:20:2] = False
    results = [
        result("polygonlabels", points=percent(0, 0, 10, 20), polygonlabels=["road"], closed=True),
        result("brushlabels", format="rle", rle=exports.brush(brush), brushlabels=["car"]),
        result("rectanglelabels", x=50, y=50, width=10, height=10, rotation=90, rectanglelabels=["sky"]),
        result("keypointlabels", x=5, y=5, width=0.5, keypointlabels=["car"]),
        {"type": "choices", "value": {"choices": ["good"]}},
        result("bitmasklabels", imageDataURL="data:image/png;base64,", bitmasklabels=["car"]),
    ]
    data = [
        {
            "id": 1,
            "data": {"image": "/data/upload/1/1f2e3d4c-a.png"},
            "annotations": [{"result": results[:1]}, {"result": results}, {"result": [], "was_cancelled": True}],
        },
        {"id": 2, "data": {"image": "/data/local-files/?d=images/b.png"}, "annotations": []},
    ]
    # 10 % of 60x40 at (30, 20), turned by 90 degrees about its top left corner: 6x4 become 4 to the left and 6 down.
    return data, layers((area(0, 0, 10, 20), 2), (brush, 1), (area(20, 26, 26, 30), 3))


def test_label_studio(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        photo(tmp_path / "e/images" / name)
    data, expected = tasks()
    write(tmp_path / "e/export.json", data)
    part, result_ = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "car", "road", "sky"]
    assert result_.images == {"train": 1}
    assert (opened(part)["a"] == expected).all()
    with pytest.raises(DataError, match="--strict, and not everything") as error:
        convert(tmp_path / "e", tmp_path / "strict", strict=True)
    told = str(error.value)
    assert "1 annotation left out: it is a point or line" in told
    assert "1 annotation left out: results of the type 'bitmasklabels' aren't read" in told
    assert "1 image left out: it isn't annotated, the first is /data/local-files/?d=images/b.png" in told
    assert "1 annotation left out: the task was annotated more than once" in told


def test_label_studios_json_min(tmp_path: Path) -> None:
    photo(tmp_path / "e/a.png")
    shapes = [
        {"points": percent(0, 0, 8, 8), "polygonlabels": ["x"], "original_width": W, "original_height": H},
        {
            "rle": exports.brush(area(4, 4, 9, 9)),
            "format": "rle",
            "brushlabels": ["y"],
            "original_width": W,
            "original_height": H,
        },
    ]
    write(
        tmp_path / "e/min.json",
        [{"image": "https://host.example/x/a.png?token=1", "id": 1, "tag": shapes, "annotator": 1}],
    )
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert (opened(part)["a"] == layers((area(0, 0, 8, 8), 1), (area(4, 4, 9, 9), 2))).all()


def test_label_studios_brushes_alone_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "e/task-1-annotation-2-by-1-tag-Car-0.png")
    with pytest.raises(DataError, match="which don't say which image each belongs to; export JSON"):
        convert(tmp_path / "e", tmp_path / "out")


def test_a_label_studio_task_of_several_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        photo(tmp_path / "e" / name)
    of = [result("polygonlabels", points=percent(0, 0, 9, 9), polygonlabels=["car"], closed=True) for _ in range(2)]
    first, second = of[0] | {"to_name": "one"}, of[1] | {"to_name": "two", "id": "other"}
    two, pages = {"one": "a.png", "two": "b.png"}, {"pages": ["a.png", "b.png"]}
    for data, results, sentence in (
        (two, [first, second], "task 0 annotates more than one image ('one', 'two'); expected one a task"),
        (pages, [first], "task 0 annotates more than one image ('pages')"),
        ({"one": "a.png"}, [first | {"item_index": 1}], "task 0 annotates more than one image ('one')"),
        ({"left": "a.png", "right": "b.png"}, [first], "names 2 images in 'data' (left, right)"),
    ):
        write(tmp_path / "e/export.json", [{"id": 1, "data": data, "annotations": [{"result": results}]}])
        with pytest.raises(DataError) as error:
            convert(tmp_path / "e", tmp_path / "out")
        assert sentence in str(error.value)
    write(tmp_path / "e/export.json", [{"id": 1, "data": two, "annotations": [{"result": [second]}]}])
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert list(opened(part)) == ["b"]


def test_an_image_that_is_annotated_twice(tmp_path: Path) -> None:
    photo(tmp_path / "e/a.png")
    shape = result("polygonlabels", points=percent(0, 0, 9, 9), polygonlabels=["car"], closed=True)
    task = {"data": {"image": "/data/upload/1/1f2e3d4c-a.png"}, "annotations": [{"result": [shape]}]}
    write(tmp_path / "e/export.json", [{"id": 1, **task}, {"id": 2, **task}])
    with pytest.raises(DataError, match=r"a\.png is annotated twice, by .*task 0 and by .*task 1; expected each image"):
        convert(tmp_path / "e", tmp_path / "out")
    photo(tmp_path / "c/images/sub/a.png")
    for job in ("annotations_1.xml", "annotations_2.xml"):
        write(tmp_path / "c" / job, cvat('<box label="car" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"/>'))
    with pytest.raises(DataError, match=r"sub/a\.png is annotated twice"):
        convert(tmp_path / "c", tmp_path / "out")


def test_cvats_frames_of_a_video_have_no_ending(tmp_path: Path) -> None:
    """Of a video's task CVAT's XML names frame_000000, whose file is frame_000000.PNG."""
    for number in range(2):
        photo(tmp_path / f"e/images/frame_00000{number}.PNG", number)
    photo(tmp_path / "e/images/other/frame_000001.png", 7)
    image = '<image id="{0}" name="frame_00000{0}" width="{1}" height="{2}"><box label="car" xtl="0" ytl="0" xbr="{3}" ybr="9"/></image>'
    text = cvat("").split("<image ")[0] + "".join(image.format(n, W, H, 9 + n) for n in range(2)) + "</annotations>"
    write(tmp_path / "e/annotations.xml", text)
    photo(tmp_path / "e/images/frame_000002.png.png", 9)  # of another image, frame_000002.png, which isn't there
    text = text.replace("</annotations>", image.format(2, W, H, 9).replace("000002", "000002.png") + "</annotations>")
    write(tmp_path / "e/annotations.xml", text)
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert list(opened(part)) == ["frame_000000", "frame_000001"]
    for number in range(2):
        assert (opened(part)[f"frame_00000{number}"] == layers((area(0, 0, 9, 9 + number), 1))).all()


def labelme(shapes: list[dict[str, Any]], image: str = "a.png", **more: Any) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": H,
        "imageWidth": W,
        **more,
    }


def test_labelme(tmp_path: Path) -> None:
    photo(tmp_path / "e/a.png")
    patch = area(1, 1, 3, 4, 5, 6)
    mask = base64.b64encode(exports.png(patch.astype(np.uint8))).decode()
    shapes = [
        {"label": "road", "points": box(0, 0, 10, 20), "shape_type": "polygon"},
        {"label": "car", "points": [[30, 15], [5, 5]], "shape_type": "rectangle"},
        {"label": "sun", "points": [[45, 10], [48, 14]], "shape_type": "circle"},
        {"label": "car", "points": [[40, 30], [45, 34]], "shape_type": "mask", "mask": mask},
        {"label": "__ignore__", "points": box(36, 0, 39, 5), "shape_type": "polygon"},
        {"label": "_background_", "points": box(0, 0, 2, 2), "shape_type": "polygon"},
        {"label": "car", "points": [[1, 1], [2, 2]], "shape_type": "line"},
        {"label": "car", "points": [[1, 1]], "shape_type": "point"},
    ]
    write(tmp_path / "e/a.json", labelme(shapes))
    photo(tmp_path / "e/lonely.png")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "car", "road", "sun"]
    ys, xs = np.mgrid[:H, :W]
    circle = (xs - 45) ** 2 + (ys - 10) ** 2 <= 25
    placed = np.zeros((H, W), bool)
    placed[30:35, 40:46] = patch
    expected = layers(
        (closed(0, 0, 10, 20), 2),
        (closed(5, 5, 15, 30), 1),
        (circle, 3),
        (placed, 1),
        (closed(36, 0, 39, 5), 255),
        (closed(0, 0, 2, 2), 0),
    )
    labels = opened(part)["a"]
    rim = np.abs(np.hypot(xs - 45, ys - 10) - 5) < 0.8  # Pillow's circle may differ from the formula by a pixel
    assert (labels == expected)[~rim].all()
    assert sorted(masks(tmp_path / "out")) == ["a"]


def test_labelmes_copy_inside_the_json_and_its_list_of_labels(tmp_path: Path) -> None:
    data = photo(tmp_path / "x.jpg").read_bytes()
    shapes = [{"label": "b", "points": box(0, 0, 3, 3), "shape_type": "polygon"}]
    write(tmp_path / "e/a.json", labelme(shapes, "C:\\Users\\me\\photo.jpg", imageData=base64.b64encode(data).decode()))
    write(tmp_path / "e/labels.txt", "__ignore__\n_background_\nz\nb\n")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert part["classes"] == ["background", "z", "b"]
    assert (tmp_path / "out/train/photo.jpg").read_bytes() == data
    assert (opened(part)["photo"] == layers((closed(0, 0, 3, 3), 2))).all()


def png_of(height: int, width: int) -> str:
    """A PNG that promises so many pixels."""
    data = bytearray(exports.png(np.zeros((1, 1), np.uint8)))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return base64.b64encode(bytes(data)).decode()


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"mask": png_of(100000, 100000)}, "the mask promises 100000x100000 pixels, the image has 40x60"),
        ({"mask": "&&&"}, "the mask isn't a PNG in base64"),
        ({"mask": base64.b64encode(b"GIF89a").decode()}, "the mask holds no PNG"),
        ({"mask": 5}, "the mask is 5; expected a PNG in base64"),
        ({"points": [[0, 0]]}, "a mask has 1 points; expected 2"),
        ({"points": [[0, 0], [1, True]]}, "a point is [1, True]; expected two numbers"),
        ({"points": "all"}, "the points are 'all'; expected a list of [x, y]"),
        ({"label": None}, "the class's name is missing; expected text"),
        ({"shape_type": 3}, "'shape_type' is 3; expected text"),
    ],
)
def test_labelme_rubbish(shape: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    photo(tmp_path / "e/a.png")
    whole = {"label": "car", "points": [[0, 0], [4, 4]], "shape_type": "mask", "mask": png_of(1, 1)}
    write(tmp_path / "e/a.json", labelme([whole | {"label": "road"}, whole | shape]))
    with pytest.raises(DataError) as error:
        convert(tmp_path / "e", tmp_path / "out")
    assert sentence in str(error.value)
    assert "a.json" in str(error.value)


def supervisely(root: Path, objects: list[dict[str, Any]]) -> None:
    photo(root / "ds1/img/a.jpg")
    classes = [
        {"title": "car", "shape": "bitmap", "color": "#0A0B0C"},
        {"title": "road", "shape": "polygon", "color": "#112233"},
    ]
    write(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    write(
        root / "ds1/ann/a.jpg.json",
        {"description": "", "tags": [], "size": {"height": H, "width": W}, "objects": objects},
    )


def test_supervisely(tmp_path: Path) -> None:
    bitmap = area(0, 0, 6, 8, 7, 9)
    bitmap[2, 2] = False
    shapes = [
        {
            "classTitle": "road",
            "geometryType": "polygon",
            "points": {"exterior": box(2, 2, 30, 30), "interior": [box(10, 10, 20, 20)]},
        },
        {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"origin": [5, 3], "data": exports.packed(bitmap)}},
        {"classTitle": "car", "geometryType": "rectangle", "points": {"exterior": [[40, 5], [50, 9]], "interior": []}},
        {"classTitle": "car", "geometryType": "line", "points": {"exterior": [[40, 5], [50, 9]], "interior": []}},
    ]
    supervisely(tmp_path / "e", shapes)
    part, result_ = convert(tmp_path / "e", tmp_path / "out")
    assert part["palette"][1:] == [[10, 11, 12], [17, 34, 51]]
    placed = np.zeros((H, W), bool)
    placed[3:10, 5:14] = bitmap
    road = closed(2, 2, 30, 30) & ~closed(10, 10, 20, 20)
    assert (opened(part)["a"] == layers((road, 2), (placed, 1), (closed(5, 40, 9, 50), 1))).all()
    assert result_.decided[0] == int((road & placed).sum())


def bomb() -> str:
    """A PNG's begin and 50 MB of zeros behind it, in a few bytes."""
    import zlib

    return base64.b64encode(zlib.compress(exports.png(np.zeros((1, 1), np.uint8)) + bytes(50_000_000))).decode()


@pytest.mark.parametrize(
    ("bitmap", "sentence"),
    [
        ({"origin": [0, 0], "data": bomb()}, "the mask unpacks to more bytes than an image of 40x60 pixels has"),
        (
            {"origin": [55, 0], "data": exports.packed(np.ones((9, 9), bool))},
            "a bitmap of 9x9 pixels at (55, 0) reaches beyond the image",
        ),
        ({"origin": [10**12, 0], "data": exports.packed(np.ones((9, 9), bool))}, "lies far outside of the image"),
        ({"origin": None, "data": ""}, "a point is None; expected two numbers"),
        ({"origin": [0, 0], "data": "eJw="}, "the mask holds no PNG"),
    ],
)
def test_supervisely_rubbish(bitmap: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    supervisely(tmp_path / "e", [{"classTitle": "car", "geometryType": "bitmap", "bitmap": bitmap}])
    with pytest.raises(DataError) as error:
        convert(tmp_path / "e", tmp_path / "out")
    assert sentence in str(error.value)


def shares(*corners: int) -> str:
    return " ".join(f"{x / W:.6f} {y / H:.6f}" for x, y in box(*corners))


@pytest.mark.parametrize("layout", ["ultralytics", "roboflow", "cvat", "label studio"])
def test_yolo(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "e"
    lines = f"1 {shares(7, 7, 11, 11)}\n0 {shares(5, 5, 20, 31)}\n1 0.5 0.5 0.1 0.1\n"
    names = {"ultralytics": {0: "cat", 1: "dog"}, "roboflow": ["cat", "dog"], "cvat": {0: "cat", 1: "dog"}}.get(layout)
    import yaml

    if layout == "roboflow":
        places = [("train/images", "train/labels"), ("valid/images", "valid/labels")]
        write(
            root / "data.yaml",
            yaml.safe_dump(
                {
                    "train": "../train/images",
                    "val": "../valid/images",
                    "test": "../test/images",
                    "nc": 2,
                    "names": names,
                }
            ),
        )
    elif layout == "label studio":
        places = [("images", "labels")]
        write(root / "classes.txt", "cat\ndog\n")
    else:
        places = [("images/train", "labels/train"), ("images/val", "labels/val")]
        lists = {split: f"{split}.txt" if layout == "cvat" else f"images/{split}" for split in ("train", "val")}
        write(
            root / "data.yaml",
            yaml.safe_dump(
                {"path": "/home/other/datasets/mine" if layout == "ultralytics" else ".", **lists, "names": names}
            ),
        )
        if layout == "cvat":
            for split in ("train", "val"):
                write(root / f"{split}.txt", f"data/images/{split}/a.jpg\ndata/images/{split}/b.jpg\n")
    for images, labels in places:
        photo(root / images / "a.jpg")
        photo(root / images / "b.jpg")
        write(root / labels / "a.txt", lines)
    part, result_ = convert(root, tmp_path / "out")
    assert part["classes"] == ["background", "cat", "dog"]
    assert result_.images == ({"train": 2} if layout == "label studio" else {"train": 2, "val": 2})
    labels_ = opened(part)
    assert (labels_["a"] == layers((closed(5, 5, 20, 31), 1), (closed(7, 7, 11, 11), 2))).all()
    assert not labels_["b"].any()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("7 0.1 0.1 0.2 0.2 0.3 0.1", "line 1: the class 7 isn't among the names (0, 1)"),
        ("0 10 10 20 20 30 30", "its coordinates reach from 10 to 30; expected shares of the image from 0 to 1"),
        ("0 0.1 nan 0.2 0.2 0.3 0.1", "expected shares of the image"),
        ("car 0.1 0.1 0.2 0.2 0.3 0.1", "expected a class and coordinates from 0 to 1"),
        ("0 0.1 0.1 0.2 0.2 0.3", "line 1 has 5 coordinates; expected x y of 3 points or more"),
    ],
)
def test_yolo_rubbish(line: str, sentence: str, tmp_path: Path) -> None:
    photo(tmp_path / "e/images/a.jpg")
    write(tmp_path / "e/labels/a.txt", line)
    write(tmp_path / "e/data.yaml", "names: [a, b]\n")
    with pytest.raises(DataError) as error:
        convert(tmp_path / "e", tmp_path / "out")
    assert sentence in str(error.value)
    assert "a.txt" in str(error.value)


def test_names_that_yaml_takes_for_truth(tmp_path: Path) -> None:
    photo(tmp_path / "e/images/a.jpg")
    write(tmp_path / "e/labels/a.txt", "0 0.1 0.1 0.2 0.2 0.3 0.1")
    write(tmp_path / "e/data.yaml", "names: [yes, no]\n")
    with pytest.raises(DataError, match="the class's name is True, as YAML reads a bare yes or no; put it in quotes"):
        convert(tmp_path / "e", tmp_path / "out")


def test_cityscapes_polygons(tmp_path: Path) -> None:
    root = tmp_path / "e"
    photo(root / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png")
    nodes = [
        {"label": "road", "polygon": box(0, 0, 30, 50)},
        {"label": "cargroup", "polygon": box(5, 5, 10, 10)},
        {"label": "license plate", "polygon": box(0, 0, 30, 50)},
        {"label": "ego vehicle", "polygon": box(20, 20, 25, 25)},
        {"label": "car", "polygon": box(0, 0, 30, 50), "deleted": 1},
    ]
    write(
        root / "gtFine/val/ulm/ulm_000000_000019_gtFine_polygons.json",
        {"imgHeight": H, "imgWidth": W, "objects": nodes},
    )
    part, _ = convert(root, tmp_path / "out")
    assert len(part["classes"]) == 19
    expected = layers(
        (closed(0, 0, 30, 50), 0), (closed(5, 5, 10, 10), 13), (closed(20, 20, 25, 25), 255), background=255
    )
    assert (opened(part, "val")["ulm_000000_000019_leftImg8bit"] == expected).all()
    ids = np.where(expected == 0, 7, np.where(expected == 13, 26, 1)).astype(np.uint8)
    write(root / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png", exports.png(ids))
    part, _ = convert(root, tmp_path / "again")  # labelIds count where both are there
    assert (opened(part, "val")["ulm_000000_000019_leftImg8bit"] == expected).all()


def test_every_xml_of_cvats_is_read(tmp_path: Path) -> None:
    """Whatever they are called; VOC's, one an image, aren't CVAT's."""
    for number, name in enumerate(("annotations", "job_1", "job_2", "x", "y")):
        photo(tmp_path / f"e/images/sub{number}/a.png", number)
        text = cvat(f'<box label="car" xtl="0" ytl="0" xbr="{number + 1}" ybr="9"/>').replace("sub/", f"sub{number}/")
        write(tmp_path / f"e/{name}.xml", text)
    write(tmp_path / "e/voc.xml", "<annotation><object/></annotation>")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    labels = opened(part)
    assert len(labels) == 5
    assert all((labels[f"images_sub{n}_a"] == layers((area(0, 0, 9, n + 1), 1))).all() for n in range(5))


def test_json_min_whose_first_task_isnt_annotated(tmp_path: Path) -> None:
    region = {
        "points": percent(0, 0, 9, 9),
        "polygonlabels": ["car"],
        "closed": True,
        "original_width": W,
        "original_height": H,
    }
    photo(tmp_path / "e/b.png")
    write(tmp_path / "e/x.json", [{"id": 1, "image": "a.png"}, {"id": 2, "image": "b.png", "label": [region]}])
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert list(opened(part)) == ["b"]


def yolo(root: Path, text: str, *splits: str) -> None:
    write(root / "data.yaml", f"names: [car, road]\n{text}")
    for split in splits:
        photo(root / f"images/{split}/{split}1.jpg")
        write(root / f"labels/{split}/{split}1.txt", f"0 {shares(0, 0, 9, 9)}\n")


def test_what_data_yaml_doesnt_list_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yolo(tmp_path / "e", "train: images/train\nval: images/val\n", "train", "val", "test")
    write(tmp_path / "e/labels/train/gone.txt", f"1 {shares(0, 0, 9, 9)}\n" * 2)
    write(tmp_path / "e/labels/train/notes.txt", "made by me\n")
    convert(tmp_path / "e", tmp_path / "out")
    told = " ".join(capsys.readouterr().err.split())
    assert "1 image left out: no split of data.yaml holds it, the first is images/test/test1.jpg" in told
    assert "1 annotation left out: its image is left out, the first is labels/test/test1.txt" in told
    assert "2 annotations left out: its image isn't in the export, the first is labels/train/gone.txt" in told
    assert "notes.txt" not in told
    with pytest.raises(DataError, match="--strict"):
        convert(tmp_path / "e", tmp_path / "strict", strict=True)


def test_images_in_two_splits_of_data_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yolo(tmp_path / "e", "train: images/x\nval: images/x\n", "x")
    _, result_ = convert(tmp_path / "e", tmp_path / "out")
    assert result_.images == {"train": 1}
    assert "1 image in two splits of data.yaml, of which the first counts: images/x/x1.jpg (train, val)" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: 5\n", "data.yaml: 'train' is 5; expected a folder or list of images, or several"),
        ("val: {a: 1}\n", "data.yaml: 'val' is an object; expected a folder"),
        ("train: [images/train, 3]\n", "data.yaml: 'train' is 3; expected a folder"),
    ],
)
def test_splits_that_are_no_folders(text: str, sentence: str, tmp_path: Path) -> None:
    yolo(tmp_path / "e", text, "train")
    with pytest.raises(DataError) as error:
        convert(tmp_path / "e", tmp_path / "out")
    assert sentence in str(error.value)


def test_an_empty_line_in_a_list_of_classes(tmp_path: Path) -> None:
    photo(tmp_path / "e/images/a.jpg")
    write(tmp_path / "e/labels/a.txt", f"1 {shares(0, 0, 9, 9)}\n")
    write(tmp_path / "e/classes.txt", "car\n\nroad\n")
    with pytest.raises(DataError, match=r"classes\.txt: line 2 is empty, and a line's number is its class's"):
        convert(tmp_path / "e", tmp_path / "out")
    write(tmp_path / "e/classes.txt", "car\nroad\n\n")
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert (opened(part)["a"] == layers((closed(0, 0, 9, 9), 2))).all()
