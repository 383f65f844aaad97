import xml.etree.ElementTree as ElementTree

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.benchmark.report.plot import HEIGHT, WIDTH, log_ticks, nice_ticks, pareto_shapes
from rdd_deploy.benchmark.report.shapes import Area, Dot, Line, Text, png, svg

times, mious = st.floats(0.05, 2000), st.floats(0, 100)


@given(st.floats(0, 1000), st.floats(0.01, 1000), st.integers(3, 10))
def test_ticks_lie_within_and_are_few(low: float, span: float, count: int) -> None:
    ticks = nice_ticks(low, low + span, count)
    assert 1 <= len(ticks) <= 2 * count + 2
    assert all(low - 1e-6 <= tick <= low + span + 1e-6 for tick in ticks)


@given(times, st.floats(1.5, 1000))
def test_log_ticks_lie_within(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert list(ticks) == sorted(set(ticks))


@given(st.lists(st.tuples(times, mious), min_size=1, max_size=7), st.one_of(st.none(), times))
@settings(max_examples=50)
def test_everything_lies_on_the_canvas(points: list[tuple[float, float]], budget: float | None) -> None:
    rows = []
    for number, (ms, miou) in enumerate(points):
        row = made_up.row(f"row{number}", ms, 50)
        accuracy = row.accuracy.model_copy(update={"miou_pct": miou, "miou_low_pct": max(0, miou - 1), "miou_high_pct": min(100, miou + 1)})
        rows.append(row.model_copy(update={"accuracy": accuracy}))
    for shape in pareto_shapes(rows, "model-p50", ["row1"], budget, "row0"):
        ends = shape.points if isinstance(shape, Line) else [(shape.x, shape.y)]
        if isinstance(shape, Area):
            ends = [(shape.x, shape.y), (shape.x + shape.width, shape.y + shape.height)]
        assert all(-1e-6 <= x <= WIDTH + 1e-6 and -1e-6 <= y <= HEIGHT + 1e-6 for x, y in ends), shape


def test_slower_is_right_and_more_accurate_is_up() -> None:
    rows = [made_up.row("fast", 10, 60), made_up.row("good", 20, 70)]
    dots = [shape for shape in pareto_shapes(rows, "model-p50", []) if isinstance(shape, Dot)]
    fast, good = sorted(dots, key=lambda dot: dot.title)
    assert fast.x < good.x
    assert fast.y > good.y


def test_dominated_is_hollow_and_the_choice_ringed() -> None:
    rows = [made_up.row("a", 10, 70), made_up.row("b", 20, 60)]
    dots = [shape for shape in pareto_shapes(rows, "model-p50", ["b"], 15, "a") if isinstance(shape, Dot)]
    assert [dot.style for dot in dots] == ["beaten", "front", "chosen"]


def test_names_beside_each_other_do_not_cover_each_other() -> None:
    rows = [made_up.row(f"onnxruntime-{name}", 10 + ms, 60 + ms) for name, ms in (("fp32", 0.0), ("int8", 0.1), ("fp16", 0.2))]
    names = [shape for shape in pareto_shapes(rows, "model-p50", []) if isinstance(shape, Text) and shape.text.startswith("onnx")]
    boxes = [name.box for name in names]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for a, b, c, d in boxes[:i]:
            assert min(right, c) <= max(left, a) or min(bottom, d) <= max(top, b)


def test_both_renderers() -> None:
    shapes = pareto_shapes([made_up.row("<a> & b", 10, 70)], "end-to-end-p95", [], 5)
    root = ElementTree.fromstring(svg(shapes, WIDTH, HEIGHT, "title", "all & <everything>"))
    assert root.attrib["role"] == "img"
    assert any(text.text == "<a> & b" for text in root.iter("text"))
    picture = png(shapes, WIDTH, HEIGHT)
    assert picture.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert 0.3 < (picture == 255).mean() < 1


def test_nothing_measured_is_said() -> None:
    shapes = pareto_shapes([made_up.failed("a", "why")], "model-p50", [])
    assert [shape.text for shape in shapes] == ["nothing could be measured"]
    assert np.any(png(shapes, WIDTH, HEIGHT) != 255)


@pytest.mark.parametrize("anchor", ["start", "middle", "end"])
def test_the_old_fonts_of_opencv_4_do_as_well(monkeypatch: pytest.MonkeyPatch, anchor: str) -> None:
    import cv2

    monkeypatch.delattr(cv2, "FontFace", raising=False)
    picture = png([Text(100, 50, "mIoU × 5", "label", anchor, bold=True)], 200, 100)  # type: ignore[arg-type]
    assert (picture != 255).any()
