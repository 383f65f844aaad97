import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.data.base import LabelSpace, Split
from rdd_deploy.metrics import Confusion, evaluate_split, iou_from

VOID = 255


def drawn(seed: int, classes: int, images: int = 3, used: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, used or classes, (images, 6, 7), dtype=np.uint8)
    guess = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, used or classes, truth.shape)).astype(
        np.uint8
    )
    truth[rng.random(truth.shape) < 0.2] = VOID
    return truth, guess


def counted(truth: np.ndarray, guess: np.ndarray, classes: int) -> Confusion:
    confusion = Confusion([f"class {i}" for i in range(classes)])
    confusion.add(truth, guess)
    return confusion


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 12), unused=st.integers(0, 3))
def test_is_intersection_over_union_of_sets_of_pixels(seed: int, classes: int, unused: int) -> None:
    """By the definition, pixel by pixel: what is void in the truth is in neither set."""
    truth, guess = drawn(seed, classes, used=max(1, classes - unused))
    confusion = counted(truth, guess, classes)
    pixels = [
        (place, int(true), int(said))
        for place, (true, said) in enumerate(zip(truth.ravel(), guess.ravel(), strict=True))
        if true != VOID
    ]
    found = []
    for one in range(classes):
        are, called = {p for p, true, _ in pixels if true == one}, {p for p, _, said in pixels if said == one}
        for other in range(classes):
            assert confusion.matrix[one, other] == sum(said == other for _, true, said in pixels if true == one)
        if not are | called:
            assert np.isnan(confusion.iou[one])
            continue
        found.append(len(are & called) / len(are | called))
        assert confusion.iou[one] == pytest.approx(found[-1])
    assert confusion.miou == pytest.approx(sum(found) / len(found))
    assert confusion.pixel_accuracy == pytest.approx((truth == guess)[truth != VOID].mean())


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_void_is_inert(seed: int) -> None:
    truth, guess = drawn(seed, 5)
    before = counted(truth, guess, 5)
    guess[truth == VOID] = 4
    assert (counted(truth, guess, 5).matrix == before.matrix).all()
    guess[truth == VOID] = VOID
    assert (counted(truth, guess, 5).matrix == before.matrix).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 5))
def test_batch_size_and_order_are_irrelevant(seed: int, batch: int) -> None:
    truth, guess = drawn(seed, 5, images=5)
    whole = counted(truth, guess, 5)
    parts = Confusion(whole.classes)
    for start in reversed(range(0, 5, batch)):
        added = parts.add(truth[start : start + batch], guess[start : start + batch])
        assert added.sum() == (truth[start : start + batch] != VOID).sum()
    assert (parts.matrix == whole.matrix).all()
    assert parts.summary() == whole.summary()


def test_by_hand() -> None:
    confusion = counted(np.array([[0, 0, 1, VOID]], np.uint8), np.array([[0, 1, 1, 0]], np.uint8), 3)
    assert confusion.matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert confusion.summary() == {
        "miou_pct": 50.0,
        "pixel_accuracy_pct": 66.667,
        "iou_pct": {"class 0": 50.0, "class 1": 50.0, "class 2": None},
    }


def test_nothing_counted_has_no_figures() -> None:
    assert Confusion(["a", "b"]).summary() == {
        "miou_pct": None,
        "pixel_accuracy_pct": None,
        "iou_pct": {"a": None, "b": None},
    }


def test_many_matrices_at_once() -> None:
    matrices = np.stack([counted(*drawn(seed, 4), 4).matrix for seed in range(6)])
    assert np.allclose(iou_from(matrices), np.stack([iou_from(one) for one in matrices]), equal_nan=True)


@pytest.mark.parametrize(("truth", "guess"), [(3, 0), (0, 3), (0, VOID), (2, 200), (200, 0)])
def test_ids_out_of_range_are_refused(truth: int, guess: int) -> None:
    # A predicted id of 3 where the truth is 0 would be counted as truth 1, prediction 0.
    with pytest.raises(ValueError, match="ids above 2, the last of 3 classes"):
        counted(np.full((2, 2), truth, np.uint8), np.full((2, 2), guess, np.uint8), 3)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="must be of one size"):
        counted(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)


def test_the_parts_of_several_processes_add_up_to_the_whole() -> None:
    """Each frame is predicted in the batch that one process predicts it in."""
    truth, guess = drawn(0, 4, images=11)
    batches: list[list[int]] = []

    class Frames(Split):
        label_space, names = LabelSpace(("a", "b", "c", "d"), ((0, 0, 0),) * 4), [str(i) for i in range(11)]

        def frame(self, index: int) -> np.ndarray:
            return np.full((6, 7, 3), index, np.uint8)

        def labels(self, index: int) -> np.ndarray:
            return truth[index]

    def predict(frames: list[np.ndarray]) -> list[np.ndarray]:
        batches.append([int(one[0, 0, 0]) for one in frames])
        return [guess[index] for index in batches[-1]]

    whole = evaluate_split(predict, Frames(), 3).matrix
    of_one = batches.copy()
    batches.clear()
    parts = [evaluate_split(predict, Frames(), 3, part=(i, 5)).matrix for i in range(5)]
    assert (sum(parts) == whole).all()
    assert sorted(batches) == sorted(of_one)
    assert not parts[4].any(), "four batches"
