import numpy as np
from script import script

label_ceiling = script("label_ceiling")


def back(labels: np.ndarray, stride: int, classes: int, logits: str) -> np.ndarray:
    size = labels.shape
    return label_ceiling.said(getattr(label_ceiling, logits)(labels, size, stride, classes), size, labels)


def pole() -> np.ndarray:
    """A block, and a class 2 pixels wide, in the middle of cells of 8."""
    labels = np.zeros((64, 96), np.uint8)
    labels[16:48, 32:64] = 1
    labels[:, 83:85] = 2
    return labels


def test_of_averages_what_is_wider_than_a_cell_comes_back_and_what_is_thin_doesnt() -> None:
    labels = pole()
    assert (back(labels, 1, 3, "averaged") == labels).all()
    there = back(labels, 8, 3, "averaged")
    assert not (there == 2).any()
    assert (there[20:44, 36:60] == 1).all()
    assert there.shape == labels.shape


def test_fitted_logits_say_what_averages_cannot() -> None:
    labels = pole()
    there = back(labels, 8, 3, "fitted")
    assert (there == labels).mean() > (back(labels, 8, 3, "averaged") == labels).mean()
    assert (there[:, 83:85] == 2).mean() > 0.9
    assert (there == 2).sum(1).max() <= 3


def test_void_has_no_class() -> None:
    labels = np.full((16, 16), 255, np.uint8)
    labels[:, :8] = 1
    for logits in ("averaged", "fitted"):
        assert set(np.unique(back(labels, 4, 3, logits))) <= {0, 1}
