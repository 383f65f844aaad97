import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.lost_pixels import LostPixels, edge_distance
from rdd_deploy.metrics import Confusion

VOID = 255
CLASSES = ("road", "pole", "car")


def scene() -> np.ndarray:
    """Road with a pole two pixels wide, a car of 30 by 40 pixels, a small one of 10 by 10, and a void strip. 100 by
    200.
    """
    labels = np.zeros((100, 200), np.uint8)
    labels[10:90, 50:51] = 1
    labels[40:70, 100:140] = 2
    labels[80:90, 10:19] = 2
    labels[:, 190:] = VOID
    return labels


def counted(truth: np.ndarray, predicted: np.ndarray) -> dict:
    lost = LostPixels(CLASSES)
    lost.add(truth, predicted)
    return lost.summary()


def test_objects_are_told_apart_by_their_width_and_area() -> None:
    truth = scene()
    predicted = np.where(truth == 1, 0, truth)  # the pole is missed
    predicted[40:55, 100:140] = 0  # and half of the large car
    found = counted(truth, predicted)["classes"]
    assert found["pole"]["objects"]["thin"] == {"count": 1, "pixels_pct": 100.0, "recall_pct": 0.0}
    assert found["car"]["objects"]["small"] == {
        "count": 1,
        "pixels_pct": pytest.approx(100 * 90 / 1290, abs=1e-3),
        "recall_pct": 100.0,
    }
    assert found["car"]["objects"]["large"]["recall_pct"] == 50.0
    assert found["car"]["objects"]["thin"] == {"count": 0, "pixels_pct": 0.0, "recall_pct": None}
    assert (found["pole"]["taken_for"], found["pole"]["taken_for_pct"]) == ("road", 100.0)
    assert found["road"]["taken_for"] is None


def test_points_lost_add_up_to_what_is_missing() -> None:
    truth = scene()
    predicted = np.roll(truth, 7, 1)
    predicted[predicted == VOID] = 0
    found, confusion = counted(truth, predicted)["classes"], Confusion(CLASSES)
    confusion.add(truth, predicted)
    assert sum(one["points_lost"] for one in found.values()) == pytest.approx(100 * (1 - confusion.miou), abs=0.01)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000))
def test_edge_distance_is_that_of_every_pair_of_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (3, 4), dtype=np.uint8), np.ones((3, 3), np.uint8))
    rows, columns = np.indices(labels.shape)
    beside = np.zeros(labels.shape, bool)
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        y, x = np.clip(rows + dy, 0, labels.shape[0] - 1), np.clip(columns + dx, 0, labels.shape[1] - 1)
        beside |= labels[y, x] != labels
    expected = np.full(labels.shape, np.inf)
    for y, x in zip(*np.nonzero(beside), strict=True):
        expected = np.minimum(expected, np.hypot(rows - y, columns - x))
    np.testing.assert_allclose(edge_distance(labels), expected, atol=1e-3)


def test_errors_fall_into_the_band_of_their_distance() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 2
    predicted = truth.copy()
    predicted[:, 20:22] = 0  # the two columns right of the edge
    edges = counted(truth, predicted)["edges"]
    assert list(edges) == ["0 to 2 px", "2 to 4 px", "4 to 8 px", "from 8 px on"]
    assert edges["0 to 2 px"] == {"pixels_pct": 10.0, "wrong_pct": 50.0, "of_all_wrong_pct": 100.0}
    assert edges["from 8 px on"]["wrong_pct"] == 0.0
    assert sum(one["pixels_pct"] for one in edges.values()) == pytest.approx(100)


def test_nothing_counted_says_nothing() -> None:
    found = counted(np.full((5, 5), VOID, np.uint8), np.zeros((5, 5), np.uint8))
    assert found["classes"]["pole"]["iou_pct"] is None
    assert found["edges"]["0 to 2 px"]["wrong_pct"] is None
