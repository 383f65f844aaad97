import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pngs import optimised, stored
from toys import COLOURS

from rdd_deploy.data.ids import IGNORE, Ids
from rdd_deploy.data.open import label_ids
from rdd_deploy.errors import DataError


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_ids_are_mapped_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.array([[0, 1, 2, 11], [255, 2, 1, 0]], np.uint8))
    got = Ids(3, void_ids=[11, 255]).labels(path)
    assert got.tolist() == [[0, 1, 2, IGNORE], [IGNORE, 2, 1, 0]]
    assert got.dtype == np.uint8
    with pytest.raises(
        DataError,
        match=r"a\.png holds unknown class ids \[11\]; expected 0 to 2 or a void id \(255\): say with data\.ids ",
    ):
        Ids(3, void_ids=[255]).labels(path)
    with pytest.raises(DataError, match=r"unknown class ids \[11, 255\]; expected 0 to 2 or a void id \(none\)"):
        Ids(3).labels(path)
    with pytest.raises(
        DataError, match=r"unknown class ids \[0, 1\]; expected 2, 11, 13 or a void id \(255\): pass --x 0 1"
    ):
        Ids(2, ids=[[2], [11, 13]], void_ids=[255], way_out="pass --x {values}").labels(path)


def test_a_refusal_stays_short(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.arange(40, 1000, dtype=np.uint16).reshape(24, 40))
    with pytest.raises(
        DataError, match=r"ids \[151, .*162\] and 837 more; expected 1 to 150 or a void id \(0, 2000, 2001\): ask"
    ) as caught:
        Ids(150, ids=[[index + 1] for index in range(150)], void_ids=[0, 2001, 2000], way_out="ask").labels(path)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_gaps_several_values_a_class_and_others_void(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.array([[0, 7, 11, 12, 26, 255]], np.uint8))
    assert Ids(3, [[7], [11, 12], [26]], others_void=True).labels(path).tolist() == [[255, 0, 1, 1, 2, 255]]
    assert Ids(2, [[0], [255]], others_void=True).labels(path).tolist() == [[0, 255, 255, 255, 255, 1]]
    cv2.imwrite(str(path), np.array([[1, 2, 3, 0]], np.uint8))
    assert Ids(3, [[1], [2], [3]], void_ids=[0]).labels(path).tolist() == [[0, 1, 2, 255]]


def test_masks_of_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.array([[0, 1000, 65535]], np.uint16))
    assert Ids(2, [[0], [1000]], [65535]).labels(path).tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match=r"unknown class ids \[1000, 65535\]"):
        Ids(2, void_ids=[255]).labels(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_grey_mask_means_the_same_however_it_is_packed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Classes 0 to 5 and void as 8-bit grey, and as a palette of greys in any order."""
    values = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 255]), min_size=1, max_size=40))
    mask = np.array([values], np.uint8)
    order = data.draw(st.permutations(sorted(set(values))))
    path = written(tmp_path_factory.mktemp("m") / "m.png", optimised(mask, order))
    ids = Ids(6, void_ids=[255])
    expected = np.where(mask == 255, IGNORE, mask)
    moved = {grey for index, grey in enumerate(order) if index != grey}
    if moved and moved <= {0, 255}:  # black and white, which may as well be colours for the eye
        with pytest.raises(DataError, match="can mean two things"):
            ids.labels(path)
    else:
        assert (ids.labels(path) == expected).all()


def test_what_was_taken_for_ids_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = Ids(3, void_ids=[255])
    mask = np.array([[0, 2, 2, 255]], np.uint8)
    for name in ("a", "b"):
        assert ids.labels(written(tmp_path / f"{name}.png", optimised(mask))).tolist() == mask.tolist()
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert f"{tmp_path}/a.png and maybe others in its folder" in said
    assert "the grey levels [0, 2, 255] are taken as ids, not the numbers [0, 1, 2]" in said


COLOURED = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]


@pytest.mark.parametrize(
    ("palette", "ids", "expected"),
    [
        (COLOURED, Ids(4, void_ids=[255]), [0, 1, 2, 3]),
        (COLOURED, Ids(4, [[3], [2], [1], [0]]), [3, 2, 1, 0]),
        # Greys for the eye.
        (
            [(0, 0, 0), (80, 80, 80), (160, 160, 160), (255, 255, 255)],
            Ids(4, void_ids=[255]),
            [0, 1, 2, 3],
        ),
        (
            [(0, 0, 0), (7, 7, 7), (11, 11, 11), (26, 26, 26)],
            Ids(3, [[7], [11], [26]], others_void=True),
            [255, 0, 1, 2],
        ),
        ([(3, 3, 3), (2, 2, 2), (1, 1, 1), (0, 0, 0)], Ids(4, void_ids=[255]), [3, 2, 1, 0]),
        ([(0, 0, 0)] * 4, Ids(4, void_ids=[255]), [0, 1, 2, 3]),  # one grey for all: no ids were stored so
        ([(i, i, i) for i in range(256)], Ids(4, void_ids=[255]), [0, 1, 2, 3]),
    ],
)
def test_palettes(tmp_path: Path, palette: list[tuple[int, int, int]], ids: Ids, expected: list[int]) -> None:
    numbers = np.array([[0, 1, 2, 3]], np.uint8)
    for bits in (2, 4, 8):
        if len(palette) <= 2**bits:
            assert ids.labels(written(tmp_path / "a.png", stored(numbers, bits, palette))).tolist() == [expected], bits


@pytest.mark.parametrize(
    "content", [stored(np.array([[0, 1]]), 1, [(0, 0, 0), (255, 255, 255)]), stored(np.array([[0, 1]]), 1)]
)
def test_black_and_white_is_never_guessed(tmp_path: Path, content: bytes) -> None:
    """Class 1, or void? A program that makes files smaller writes the second, one that draws the first."""
    path = written(tmp_path / "a.png", content)
    sentence = (
        r"a\.png can mean two things: it stores the numbers \[0, 1\] for the grey levels \[0, 255\], and both are ids"
        r" of this data set; save it "
        "as greyscale with 8 bits, or, where the numbers are meant, with a palette of colours"
    )
    with pytest.raises(DataError, match=sentence):
        Ids(2, void_ids=[255]).labels(path)
    assert Ids(2).labels(path).tolist() == [[0, 1]]
    assert Ids(2, [[0], [255]]).labels(path).tolist() == [[0, 1]]
    assert Ids(2, [[1], [0]]).labels(path).tolist() == [[1, 0]]


def test_black_and_white_that_mean_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", stored(np.array([[0, 1]]), 1))
    assert Ids(2, [[0], [1, 255]]).labels(path).tolist() == [[0, 1]]


def test_others_may_be_void_behind_a_palette(tmp_path: Path) -> None:
    """Grey levels that mean nothing, packed: their numbers are ids by chance alone."""
    ids = Ids(3, [[1], [2], [3]], others_void=True)
    with pytest.raises(
        DataError,
        match=r"can mean two things: .* numbers \[0, 1, 2\] for the grey levels \[0, 5, 9\], .* ids .* or void",
    ):
        ids.labels(written(tmp_path / "a.png", optimised(np.array([[0, 5, 9]], np.uint8))))
    assert ids.labels(written(tmp_path / "a.png", stored(np.array([[0, 1, 2]]), 2))).tolist() == [[255, 0, 1]], (
        "true numbers of few bits"
    )


def test_numbers_of_greys_that_are_no_ids_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a.png", optimised(np.array([[0, 7, 11]], np.uint8)))
    assert Ids(3, void_ids=[255]).labels(path).tolist() == [[0, 1, 2]]
    said = capsys.readouterr().err
    assert (
        "the numbers [0, 1, 2] are taken as ids, as the grey levels [0, 7, 11] aren't all ids of this data set" in said
    )
    Ids(4, void_ids=[255]).labels(written(path, stored(np.array([[0, 1, 2, 3]]), 2)))
    assert not capsys.readouterr().err, "few bits without a palette are numbers"


def test_a_folder_is_read_one_way(tmp_path: Path) -> None:
    """An id that nobody knows, packed, must not become one that is known."""
    ids = Ids(3, void_ids=[255])
    masks = [np.array([values], np.uint8) for values in ([0, 2, 255], [0, 1, 7])]
    paths = [written(tmp_path / f"{number}.png", optimised(mask)) for number, mask in enumerate(masks)]
    for first, second in (paths, paths[::-1]):
        ids = Ids(3, void_ids=[255])
        ids.labels(first)
        with pytest.raises(
            DataError,
            match=r"0\.png holds .* as the grey levels of its palette, .*1\.png as the numbers that it stores: one",
        ):
            ids.labels(second)


def sorted_anew(mask: np.ndarray, palette: Sequence[tuple[int, int, int]], order: Sequence[int]) -> bytes:
    """A mask of colours after a program that drops the colours it doesn't use and sorts the others."""
    table = np.zeros(256, np.uint8)
    table[list(order)] = np.arange(len(order))
    return stored(table[mask], 2, [palette[number] for number in order])


@pytest.mark.parametrize(
    "palette", [[(200, 40, 40), (40, 200, 40), (40, 40, 200)], [(9, 9, 9), (9, 9, 9), (40, 200, 40), (40, 40, 200)]]
)
def test_a_colour_of_two_numbers_is_refused(tmp_path: Path, palette: list[tuple[int, int, int]]) -> None:
    count = len(palette)
    mask, ids = np.array([range(count)], np.uint8), Ids(4, void_ids=[255])
    for name in ("a", "b"):
        assert ids.labels(written(tmp_path / f"{name}.png", stored(mask, 2, palette))).tolist() == mask.tolist()
    order = [count - 1, *range(count - 1)]
    with pytest.raises(
        DataError,
        match=r"c\.png stores the number 0 for the colour \(40, 40, 200\), and .*a\.png the number \d, as programs",
    ):
        ids.labels(written(tmp_path / "c.png", sorted_anew(mask, palette, order)))
    other = Ids(4, void_ids=[255])
    other.labels(tmp_path / "c.png")
    with pytest.raises(
        DataError, match=r"c\.png stores the number 0 for the colour \(40, 40, 200\), and .*a\.png the number"
    ):
        ids.check_palettes(other)
    ids.check_palettes(ids)


def test_a_number_of_two_colours_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = Ids(3, void_ids=[255])
    for number in range(3):
        palette = [(10, 10, 10), (number, 200, 40), (40, 40, 200)]
        ids.labels(written(tmp_path / f"{number}.png", stored(np.array([[0, 1, 2]]), 2, palette)))
    said = capsys.readouterr().err
    assert (
        said.count(
            f"shows the number 1 as the colour (1, 200, 40), {tmp_path}/0.png as (0, 200, 40): make sure that the"
            " numbers mean the same"
        )
        == 1
    )
    assert said.count("shows the number") == 1


@pytest.mark.parametrize("order", list(itertools.permutations([0, 1, 2])))
def test_colours_are_compared_with_the_recipes_and_vocs(tmp_path: Path, order: tuple[int, ...]) -> None:
    mask = np.array([[0, 1, 2, 2]], np.uint8)
    for palette, ids, told in (
        (COLOURS, Ids(3, void_ids=[255], colours=COLOURS), "which data.palette gives to class"),
        (
            COLOURED,
            Ids(3, void_ids=[255]),
            rf"for colours that stand for the ids {list(order)} in PASCAL VOC's palette".replace("[", r"\["),
        ),
    ):
        path = written(tmp_path / "a.png", sorted_anew(mask, palette, order))
        if order == (0, 1, 2):
            assert ids.labels(path).tolist() == mask.tolist()
            continue
        with pytest.raises(DataError, match=told):
            ids.labels(path)
    path = written(
        tmp_path / "a.png",
        sorted_anew(np.array([[0, 15]], np.uint8), [*COLOURED, *[(1, 1, 1)] * 11, (192, 128, 128)], [0, 15]),
    )
    with pytest.raises(DataError, match=r"stand for the ids \[0, 15\] in PASCAL"):
        Ids(21, void_ids=[255]).labels(path)


def test_colours_of_voc_that_are_for_the_eye(tmp_path: Path) -> None:
    palette = [(128, 0, 0), (0, 128, 0), (0, 0, 128)]  # the ids 1, 2 and 4, one more than there are
    path = written(tmp_path / "a.png", stored(np.array([[0, 1, 2]]), 2, palette))
    assert Ids(3, void_ids=[255]).labels(path).tolist() == Ids(3, others_void=True).labels(path).tolist() == [[0, 1, 2]]
    palette = [(0, 0, 0), (0, 128, 0), (128, 0, 0)]
    path = written(path, stored(np.array([[0, 1, 2]]), 2, palette))
    with pytest.raises(DataError, match=r"or, where the numbers are meant, give the masks' colours in data\.palette"):
        Ids(3, void_ids=[255]).labels(path)
    assert Ids(3, void_ids=[255], colours=palette).labels(path).tolist() == [[0, 1, 2]]
    recorded: Any = SimpleNamespace(palette=palette, provenance={"data": "folder", "data_void_ids": "255"})
    assert Ids(3, **label_ids(recorded)).labels(path).tolist() == [[0, 1, 2]], "labels beside the live app"


def test_colour_palettes_of_a_library(tmp_path: Path) -> None:
    labels = (np.arange(64 * 64).reshape(64, 64) % 3).astype(np.uint8)
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette([value for colour in COLOURS for value in colour])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (Ids(3, void_ids=[255]).labels(tmp_path / "palette.png") == labels).all()
