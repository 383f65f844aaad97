import made_up
import numpy as np
import pytest

from rdd_deploy.benchmark.accuracy import accuracy_of, change_of, draw, reference_of
from rdd_deploy.benchmark.images import Images, encode_png
from rdd_deploy.benchmark.report.gallery import disagreements, gallery, spread_worst
from rdd_deploy.benchmark.timing import Measured
from rdd_deploy.data.base import IGNORE
from rdd_deploy.metrics import Confusion

CLASSES = ("blue", "green", "red")


def result_of(images: Images, wrong: dict[int, int]) -> Measured:
    """A result that is right but for the first ``wrong[image]`` rows of an image, where it says the next class."""
    result = Measured()
    for number in range(len(images)):
        truth = images.truth(number)
        labels = np.where(truth == IGNORE, 0, truth).astype(np.uint8)
        labels[: wrong.get(number, 0)] = (labels[: wrong.get(number, 0)] + 1) % 3
        result.matrices[number] = Confusion(CLASSES).add(truth, labels)
        result.labels[number] = encode_png(labels)
    return result


def test_accuracy_is_that_of_the_one_matrix() -> None:
    matrices = np.array([[[8, 2], [0, 0]], [[0, 0], [5, 5]]])
    accuracy = accuracy_of(matrices, draw(2, 100, 0), ("a", "b"))
    assert accuracy.iou_pct == {"a": pytest.approx(800 / 15, abs=1e-3), "b": pytest.approx(500 / 12, abs=1e-3)}
    assert accuracy.miou_pct == pytest.approx((800 / 15 + 500 / 12) / 2, abs=1e-3)
    assert accuracy.pixel_accuracy_pct == 65
    assert accuracy.miou_low_pct <= accuracy.miou_pct <= accuracy.miou_high_pct


def test_a_class_that_never_occurs_has_no_iou() -> None:
    assert accuracy_of(np.array([[[4, 0], [0, 0]]]), draw(1, 9, 0), ("a", "b")).iou_pct == {"a": 100.0, "b": None}


def test_change_against_itself_is_nothing(toy_split) -> None:
    images = Images(toy_split)
    result = result_of(images, {1: 5})
    change = change_of(result, result, "float", draw(12, 50, 0), CLASSES, images)
    assert (
        change.miou_change_pct,
        change.miou_change_low_pct,
        change.miou_change_high_pct,
        change.label_agreement_pct,
    ) == (0, 0, 0, 100)


def test_the_worst_class_and_the_agreement(toy_split) -> None:
    images = Images(toy_split)
    change = change_of(
        result_of(images, {0: 28, 1: 28}), result_of(images, {}), "float", draw(12, 200, 0), CLASSES, images
    )
    assert change.miou_change_low_pct <= change.miou_change_pct <= change.miou_change_high_pct
    assert change.miou_change_pct < 0
    assert change.worst_class == min(CLASSES, key=lambda name: change.iou_change_pct[name])
    assert change.worst_class_change_pct == min(change.iou_change_pct.values())
    assert change.label_agreement_pct == pytest.approx(100 * (1 - 2 * 28 / (12 * 56)), abs=1e-3)


def test_the_reference_is_the_float_bundle_of_the_same_run() -> None:
    rows = [
        made_up.row("a-int8", 1, 50, precision="int8", run="a"), made_up.row("a-torch", 9, 51, backend="torch", run="a"),
        made_up.row("a-openvino", 2, 51, backend="openvino", run="a"), made_up.row("a-onnx", 2, 51, run="a"),
        made_up.row("b-int8", 1, 50, precision="int8", run="b"), made_up.row("b-fp32", 2, 50, run="b"),
        made_up.row("c-int8", 1, 50, precision="int8", run="c"),
    ]  # fmt: skip
    references = {row.name: reference.name if (reference := reference_of(row, rows)) else None for row in rows}
    assert references == {
        "a-int8": "a-onnx", "a-torch": "a-onnx", "a-openvino": "a-onnx", "a-onnx": None, "b-int8": "b-fp32", "b-fp32": None,
        "c-int8": None,
    }  # fmt: skip


def test_a_float_bundle_of_another_size_is_no_reference() -> None:
    """Else what is lost by a smaller input would count as lost by 8 bits."""
    large, small = {"input_height": 96, "input_width": 128}, {"input_height": 48, "input_width": 64}
    rows = [
        made_up.row("large", 9, 51, **large), made_up.row("large-int8", 2, 51, precision="int8", **large),
        made_up.row("small-int8", 1, 50, precision="int8", **small),
    ]  # fmt: skip
    assert [reference.name if (reference := reference_of(row, rows)) else None for row in rows] == [None, "large", None]
    rows.append(made_up.row("small", 3, 50, **small))
    assert (found := reference_of(rows[2], rows)) is not None
    assert found.name == "small"


def test_disagreement_counts_known_pixels_only(toy_split) -> None:
    images = Images(toy_split)
    right, wrong = result_of(images, {}), result_of(images, {2: 14, 7: 60})
    shares = disagreements([right, wrong], images)
    assert shares[2] == pytest.approx(14 / 56)
    assert shares[7] == 1
    assert np.count_nonzero(shares) == 2
    assert (disagreements([wrong], images) == shares).all()  # alone, against the truth, which ``right`` is


def test_the_gallery_shows_the_worst_first(toy_split) -> None:
    images = Images(toy_split)
    named = [("right", result_of(images, {})), ("wrong", result_of(images, {2: 14, 7: 60}))]
    exhibits = gallery(named, images)
    assert [(one.name, one.disagreement_pct) for one in exhibits] == [("007", 100.0), ("002", 25.0)]
    assert [picture.caption for picture in exhibits[0].pictures] == [
        "frame",
        "truth",
        "not all agree",
        "right",
        "wrong",
    ]
    assert exhibits[0].pictures[4].detail == "0.0 % of its pixels right"
    assert all(picture.jpeg[:2] == b"\xff\xd8" for one in exhibits for picture in one.pictures)
    assert gallery([], images) == []
    assert gallery(named[:1], images) == []


def test_the_gallery_shows_who_disagrees(toy_split) -> None:
    images = Images(toy_split)
    named = [(f"right{number}", result_of(images, {})) for number in range(7)]
    named[6] = ("wrong", result_of(images, {7: 60}))
    (exhibit,) = gallery(named, images)
    assert [picture.caption for picture in exhibit.pictures[3:]] == ["right0", "right1", "right2", "right3", "wrong"]


def test_neighbours_in_a_video_are_shown_once() -> None:
    shares = np.zeros(100)
    shares[[10, 11, 12, 50, 90]] = [0.5, 0.9, 0.8, 0.3, 0.4]
    assert spread_worst(shares, 3) == [11, 90, 50]
