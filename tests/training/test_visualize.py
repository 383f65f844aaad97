"""A run's pictures: cells stay apart, every word is whole, classes and weights are explained."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from rdd_deploy.data.base import LabelSpace
from rdd_deploy.drawing import coloured
from rdd_deploy.training import visualize
from rdd_deploy.training.visualize import GAP, LINE, NARROWEST, Cell, grid, heatmap, write_picture

COLOURS = np.array(((200, 40, 40), (40, 200, 40), (40, 40, 200)), np.uint8)
SPACE = LabelSpace(("left", "middle", "right"), COLOURS)
RED = np.full((100, 200, 3), (255, 0, 0), np.uint8)


def white(picture: np.ndarray) -> bool:
    return bool((picture == 255).all())


def has(picture: np.ndarray, colour: object) -> bool:
    return bool((picture == np.asarray(colour, np.uint8)).all(-1).any())


def ink(text: str, width: int) -> int:
    """Dark pixels of a text."""
    return int((visualize._text(text, width) < 128).all(-1).sum())


def test_cells_and_rows_are_apart() -> None:
    picture = grid([[Cell("a", RED), Cell("b", RED)]] * 2, SPACE)
    red = (picture == (255, 0, 0)).all(-1)
    columns, rows = np.flatnonzero(red.any(0)), np.flatnonzero(red.any(1))
    assert columns.tolist() == [*range(GAP, GAP + 200), *range(2 * GAP + 200, 2 * GAP + 400)]
    assert len(rows) == 200
    assert np.diff(rows).max() > GAP + LINE, "the next row's title and a gap are between"
    edges = (picture[:GAP], picture[-GAP:], picture[:, :GAP], picture[:, -GAP:])
    assert all(map(white, edges))


@pytest.mark.parametrize(
    "title", ["stage 2: hard for one (teacher_only)", "w" * 90, "a " * 60 + "b", "in einer Straße"]
)
def test_no_title_is_cut_off(title: str) -> None:
    lines = list(visualize._wrapped(title, NARROWEST))
    assert "".join(lines).replace(" ", "") == title.replace(" ", "")
    assert max(map(visualize._width, lines)) <= NARROWEST
    assert ink(title, NARROWEST) == pytest.approx(ink(title, 4000), rel=0.1), "all of it is drawn"


def test_a_long_title_moves_no_picture_out_of_its_row() -> None:
    picture = grid([[Cell("a", RED), Cell("a title of several lines " * 4, RED)]], SPACE)
    red = (picture == (255, 0, 0)).all(-1)
    assert np.array_equal(red[:, GAP : GAP + 200], red[:, 2 * GAP + 200 : 2 * GAP + 400])


def test_small_pictures_are_enlarged_without_new_colours() -> None:
    labels = np.repeat(np.arange(3, dtype=np.uint8), 11)[None].repeat(20, 0)  # 20x33
    picture = grid([[Cell("truth", coloured(labels, SPACE))]], SPACE)
    times = -(-NARROWEST // 33)
    for colour in COLOURS:
        assert (picture[: LINE + 20 * times] == colour).all(-1).sum() >= 11 * 20 * times**2 * 0.8
    assert picture.shape[1] == 33 * times + 2 * GAP


def test_the_legend_names_every_class_and_void() -> None:
    picture = grid([[Cell("frame", RED)]], SPACE)
    legend = picture[GAP + LINE + 100 + 2 :]
    assert all(has(legend, colour) for colour in (*COLOURS, (0, 0, 0)))
    more = LabelSpace(tuple(f"class number {i}" for i in range(40)), np.arange(120, dtype=np.uint8).reshape(40, 3) + 60)
    wrapped = grid([[Cell("frame", RED)]], more)
    assert wrapped.shape[1] == picture.shape[1], "it goes on in the next line, not beyond the pictures"
    assert len(wrapped) > len(picture) + 19 * LINE
    assert all(has(wrapped, colour) for colour in more.palette)
    assert white(wrapped[:, -GAP:])


def test_names_from_outside_are_drawn_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    real = cv2.putText
    monkeypatch.setattr(cv2, "putText", lambda image, text, *rest: (drawn.append(text), real(image, text, *rest))[1])
    grid([[Cell("frame", RED)]], LabelSpace(("a\x1b[31m\nb", "\u202eright"), COLOURS[:2]))
    assert {"a\\x1b[31m\\nb", "\\u202eright"} <= set(drawn)


def test_the_scale_is_there_for_weights_alone() -> None:
    ramp = heatmap(np.linspace(0, 1, 200, dtype=np.float32)[None].repeat(100, 0))
    without, with_weights = (grid([[Cell("w", ramp, weights)]], SPACE) for weights in (False, True))
    below = with_weights[len(without) - GAP :]
    assert len(below) > 3 * LINE
    assert has(below, ramp[0, 0])
    assert has(below, ramp[0, -1])


def test_a_picture_is_written_as_it_is(tmp_path: Path) -> None:
    picture = grid([[Cell("frame", RED)]], SPACE)
    write_picture(tmp_path / "deep" / "a.png", picture)
    assert np.array_equal(cv2.imread(str(tmp_path / "deep" / "a.png"))[..., ::-1], picture)
