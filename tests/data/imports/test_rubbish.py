"""Any value of any JSON file replaced by any other: an import ends well or with one error in words, and leaves nothing
behind.
"""

import base64
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
from exports import H, W, area, box, convert, photo, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdd_deploy.errors import RddError

JUNK = [
    None, True, 0, -1, 1.5, 1e308, 10**30, "", "x", "../../etc/passwd", "\0", "\ud800", [], {}, [[]], [1, 2], {"a": 1}, [None], "9" * 5000,
    [[1, 2], [3, 4]],
]  # fmt: skip


def coco(root: Path) -> Path:
    photo(root / "a.png")
    shapes = [
        [[0, 0, 9, 0, 9, 9, 0, 9]],
        exports.coco_text(area(1, 1, 5, 5)),
        {"size": [H, W], "counts": exports.runs(area(1, 1, 5, 5), "F")},
    ]
    annotations = [{"image_id": 1, "category_id": 1, "segmentation": shape} for shape in shapes]
    return write(
        root / "x.json",
        exports.coco([{"id": 1, "file_name": "a.png", "height": H, "width": W}], annotations, ["x", "y"]),
    )


def label_studio(root: Path) -> Path:
    photo(root / "a.png")
    values = [
        {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["a"]},
        {"rle": exports.brush(area(1, 1, 5, 5)), "brushlabels": ["b"]},
    ]
    values.append({"x": 5, "y": 5, "width": 9, "height": 9, "rotation": 5, "rectanglelabels": ["b"]})
    results = [
        {"id": str(n), "original_width": W, "original_height": H, "value": value} for n, value in enumerate(values)
    ]
    return write(root / "x.json", [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}])


def labelme(root: Path) -> Path:
    photo(root / "a.png")
    mask = base64.b64encode(exports.png(np.ones((5, 5), np.uint8))).decode()
    shapes = [
        {"label": "a", "points": box(0, 0, 10, 20), "shape_type": "polygon"},
        {"label": "b", "points": [[30, 15], [5, 5]], "shape_type": "circle"},
        {"label": "c", "points": [[4, 4], [8, 8]], "shape_type": "mask", "mask": mask},
    ]
    return write(
        root / "a.json", {"shapes": shapes, "imagePath": "a.png", "imageData": None, "imageHeight": H, "imageWidth": W}
    )


def supervisely(root: Path) -> Path:
    photo(root / "ds/img/a.jpg")
    write(root / "meta.json", {"classes": [{"title": "a"}, {"title": "b"}], "tags": []})
    shapes = [
        {
            "classTitle": "a",
            "geometryType": "polygon",
            "points": {"exterior": box(2, 2, 30, 30), "interior": [box(10, 10, 20, 20)]},
        },
        {
            "classTitle": "b",
            "geometryType": "bitmap",
            "bitmap": {"origin": [5, 3], "data": exports.packed(np.ones((5, 5), bool))},
        },
    ]
    return write(root / "ds/ann/a.jpg.json", {"size": {"height": H, "width": W}, "objects": shapes})


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    for key in node if isinstance(node, dict) else range(min(len(node), 3)) if isinstance(node, list) else ():
        yield from places(node[key], (*above, key))


def changed(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    tree = copy.deepcopy(tree)
    node = tree
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return tree


@pytest.mark.parametrize("make", [coco, label_studio, labelme, supervisely])
def test_any_value_may_be_rubbish(make: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("rubbish")
    file = make(root / "e")
    tree = json.loads(file.read_text(encoding="utf-8"))
    convert(root / "e", root / "whole")
    outs = iter(range(10**6))

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(places(tree), key=str)), st.sampled_from(JUNK))
    def check(place: tuple[Any, ...], value: Any) -> None:
        file.write_text(json.dumps(changed(tree, place, value)), encoding="utf-8")
        out = root / f"out{next(outs)}"
        told = ""
        try:
            convert(root / "e", out, background="void")
        except RddError as error:
            told = str(error)
        assert len(told) < 4000
        assert out.exists() == (not told)
        assert not list(root.glob(".*"))

    check()
