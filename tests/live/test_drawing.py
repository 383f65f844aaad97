from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.drawing import Overlay, disagreement, step
from rdd_deploy.live import hud
from rdd_deploy.live.hud import Hud, Panel, drawable, fitted, paste
from rdd_deploy.live.renderer import Picture
from rdd_deploy.live.stats import Meter, Stats
from rdd_deploy.live.types import CapturedFrame, Prediction, Result
from rdd_deploy.runtime import Segmenter

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)
RNG = np.random.default_rng(0)


@settings(max_examples=30)
@given(height=st.integers(1, 90), width=st.integers(1, 90), opacity=st.floats(0, 1))
def test_overlay_is_the_blend(height: int, width: int, opacity: float) -> None:
    frame = RNG.integers(0, 256, (height, width, 3), np.uint8)
    labels = RNG.integers(0, 3, (height, width), np.uint8)
    kept = frame.copy()
    drawn = Overlay(PALETTE, opacity).draw(frame, labels)
    expected = frame * (1 - opacity) + PALETTE[labels][..., ::-1] * opacity
    assert np.abs(drawn - expected).max() <= 1
    assert np.array_equal(frame, kept)


def test_overlay_reuses_its_canvas() -> None:
    frame, labels = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), np.uint8)
    canvas = np.empty_like(frame)
    assert np.shares_memory(Overlay(PALETTE, 1.0).draw(frame, labels, canvas), canvas)
    assert (canvas == (0, 255, 0)).all()


def test_opacity_steps_stay_in_range() -> None:
    assert step(0.5, 1) == 0.6
    assert step(0.95, 1) == 1.0
    assert step(0.05, -1) == 0.0


def test_disagreement_is_a_share() -> None:
    first, second = np.zeros((4, 10), np.uint8), np.zeros((4, 10), np.uint8)
    second[0] = 7
    assert disagreement(first, second) == 0.25


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (360, 480), (1080, 1920)])
def test_hud_fits_any_frame(size: tuple[int, int]) -> None:
    canvas = np.full((*size, 3), 100, np.uint8)
    Hud().draw(canvas, ["12.3 fps"], ["road", "car", "sky"], PALETTE, notice="opacity 60%", show_help=True)
    assert canvas.shape == (*size, 3)


def test_legend_shows_the_classes_colours() -> None:
    canvas = np.zeros((360, 480, 3), np.uint8)
    Hud().draw(canvas, [], ["road", "car", "sky"], PALETTE)
    assert {(0, 0, 255), (0, 255, 0), (30, 20, 10)} <= {
        tuple(map(int, pixel)) for pixel in canvas[300:, 400:].reshape(-1, 3)
    }


def test_the_status_says_everything(bundles: tuple[Path, Path]) -> None:
    with Segmenter.load(bundles[0], device="cpu") as first, Segmenter.load(bundles[1], device="cpu") as second:
        stats = Stats([first, second])
        right = np.zeros((10, 10), np.uint8)
        wrong = right.copy()
        wrong[:2] = 1
        predictions = (Prediction(0, right[None], 1.0, 2.0, None), Prediction(1, wrong[None], 1.5, 4.0, None))
        result = Result(CapturedFrame(np.zeros((10, 10, 3), np.uint8), 0, "0", 0.0, 4.0, right), predictions)
        picture = Picture([first, second], stats, 0.5)
        stats.answered(result, [right, wrong], first.classes)
        stats.differed((0, 1), disagreement(right, wrong))
        stats.shown(3.0, 5.0, 0.0)
        stats.age = Meter()
        stats.age.add(20.0)
        stats.age.add(40.0)
        stats._shown.clear()
        stats._shown.extend([1.0, 1.1])
        assert picture._status(result, 7, True) == [
            "1/2 brightest",
            "onnxruntime fp32 cpu",
            "2/2 darkest",
            "onnxruntime fp32 cpu",
            "10.0 fps  drops 7",
            "age p50 30 p95 39 ms",
            "capture 4.0 prepare 2.5 ms",
            "infer 6.0 draw 3.0 show 5.0 ms",
            "mIoU 100.0 % (1)",
            "mIoU 40.0 % (2)",
            "left | right differ 20.0 %",
            "paused",
        ]
        alone = picture._status(Result(result.captured, predictions[:1]), 0, False)
        assert alone[0] == "1/2 brightest"
        assert alone[-1] == "mIoU 100.0 %"


def test_panel_is_drawn_once_per_text() -> None:
    panel = Panel()
    first = panel.image(["a"], 0.5, 100)
    assert panel.image(["a"], 0.5, 100) is first
    assert panel.image(["b"], 0.5, 100) is not first


def test_paste_from_the_far_side() -> None:
    canvas = np.zeros((10, 10, 3), np.uint8)
    paste(canvas, np.full((2, 3, 3), 200, np.uint8), -1, -1)
    assert (canvas[8:, 7:] == 200).all()
    assert canvas.sum() == 200 * 18


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=120), st.integers(0, 500), st.booleans())
def test_any_text_is_drawn_and_shortened_only_where_it_does_not_fit(text: str, room: int, every_letter: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not every_letter:
            patch.setattr(hud, "_ANY_LETTER", False)
        shown = drawable(text)
    assert every_letter or shown.isascii()
    assert shown.isprintable()
    line = fitted(shown, 0.5, room)
    assert line == shown or hud._width(shown, 0.5) > room
    assert hud._width(line, 0.5) <= max(room, hud._width("...", 0.5))
    Hud().draw(np.zeros((90, 120, 3), np.uint8), [text], [text, "b", "c"], PALETTE, notice=text)


def test_names_keep_both_ends_and_accents_without_unicode_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "1/2 camvid_effnet_lite0_half_onnxruntime-int8"
    assert fitted(name, 0.38, 472) == name  # more than 28 letters, on a frame of 480 columns
    short = fitted(name, 0.38, 120)
    assert (short[:5], short[-5:]) == ("1/2 c", "-int8")
    assert "..." in short
    monkeypatch.setattr(hud, "_ANY_LETTER", False)
    assert drawable("Stra\u00dfe \u017elut\u00e1 \u9053\x1b[31m\udcff") == "Strasse zluta <9053>?[31m?"
