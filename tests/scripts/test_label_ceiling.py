import numpy as np
from script import script

label_ceiling = script("label_ceiling")


def test_what_is_wider_than_a_cell_comes_back_and_what_is_thin_doesnt() -> None:
    labels = np.zeros((64, 96), np.uint8)
    labels[16:48, 32:64] = 1
    labels[:, 80] = 2
    back = label_ceiling.there_and_back(labels, (64, 96), 1, 3)
    assert (back == labels).all()
    back = label_ceiling.there_and_back(labels, (64, 96), 8, 3)
    assert not (back == 2).any()
    assert (back[20:44, 36:60] == 1).all()
    assert back.shape == labels.shape


def test_void_has_no_class() -> None:
    labels = np.full((16, 16), 255, np.uint8)
    labels[:, :8] = 1
    assert set(np.unique(label_ceiling.there_and_back(labels, (16, 16), 4, 3))) <= {0, 1}
