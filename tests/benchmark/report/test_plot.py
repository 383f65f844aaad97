import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from matplotlib import rcParams
from matplotlib.text import Annotation

from rdd_deploy.benchmark.options import LatencyMetric
from rdd_deploy.benchmark.records import Row
from rdd_deploy.benchmark.report.plot import COLOURS, paired_interval, pareto_figure, pareto_png, pareto_svg

MODEL = LatencyMetric.MODEL_P50
times, mious = st.floats(0.05, 2000), st.floats(0, 100)
EIGHT = {
    "onnxruntime-fp32": (20, 0.0), "onnxruntime-int8": (12, 0.4), "openvino-fp32": (18, 0.02), "openvino-int8": (7, 0.5),
    "openvino-bf16": (17.6, 0.1), "torch-eager": (31, 0.0), "torch-compile": (25, 0.01), "torch-channels-last": (29, 0.02),
}  # fmt: skip


def eight() -> list[Row]:
    """As many rows as one run gives, most of them within half a point."""
    return [
        made_up.row(name, ms, 62.3 - drop, drop=drop if name != "onnxruntime-fp32" else None)
        for name, (ms, drop) in EIGHT.items()
    ]


def labels(figure: Any) -> dict[str, Annotation]:
    return {one.get_text(): one for one in figure.axes[0].texts}


def svg(*args: Any, **kwargs: Any) -> str:
    return pareto_svg(*args, title="title", description="all & <everything>", identifier="plot0", **kwargs)


@given(st.lists(st.tuples(times, mious), min_size=1, max_size=7), st.one_of(st.none(), times))
@settings(max_examples=25, deadline=None)
def test_everything_lies_on_the_canvas(points: list[tuple[float, float]], budget: float | None) -> None:
    rows = []
    for number, (ms, miou) in enumerate(points):
        row = made_up.row(f"row{number}", ms, 50, drop=0.5)
        assert row.accuracy is not None
        rows.append(row.model_copy(update={"accuracy": row.accuracy.model_copy(update={"miou_pct": miou})}))
    figure = pareto_figure(rows, MODEL, [] if len(rows) < 2 else ["row1"], budget, "row0")
    (axes,) = figure.axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for line in axes.lines[1 if budget else 0 :]:
        xs, ys = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert ((xs >= left) & (xs <= right) & (ys >= low) & (ys <= high)).all(), line
    assert budget is None or left <= budget <= right


def test_slower_is_right_and_more_accurate_is_up() -> None:
    names = labels(pareto_figure([made_up.row("fast", 10, 60), made_up.row("good", 20, 70)], MODEL, []))
    assert (names["fast"].xy, names["good"].xy) == ((10, 60), (20, 70))


def test_the_axis_is_logarithmic_where_rows_lie_far_apart() -> None:
    near, far = ([made_up.row("a", 10, 60, p95=10), made_up.row("b", slow, 70, p95=slow)] for slow in (49, 51))
    assert [pareto_figure(rows, MODEL, []).axes[0].get_xscale() for rows in (near, far)] == ["linear", "log"]
    assert "logarithmic" in pareto_figure(far, MODEL, []).axes[0].get_xlabel()


def test_intervals_are_those_of_the_change_around_the_rows_miou() -> None:
    """The made-up change of -0.4 points lies within -1.4 and 0.6; the mIoU's own interval would be 68.6 to 70.6."""
    row = made_up.row("int8", 10, 69.6, drop=0.4)
    assert row.change is not None
    assert paired_interval(row) == pytest.approx((68.6, 70.6))
    narrow = row.model_copy(
        update={"change": row.change.model_copy(update={"miou_change_low_pct": -0.5, "miou_change_high_pct": -0.3})}
    )
    assert paired_interval(narrow) == pytest.approx((69.5, 69.7))
    float_bundle = made_up.row("float", 30, 70)
    assert paired_interval(float_bundle) is None
    axes = pareto_figure([float_bundle, narrow], MODEL, []).axes[0]
    vertical = [line.get_ydata() for line in axes.lines if line.get_marker() == "_"]
    assert [tuple(ends) for ends in vertical] == [pytest.approx((69.5, 69.7))]
    assert "95 % interval of the change against the float bundle, which has none" in axes.get_title(loc="left")


def test_dominated_is_hollow_and_the_choice_ringed() -> None:
    rows = [made_up.row("a", 10, 70), made_up.row("b", 20, 60)]
    axes = pareto_figure(rows, MODEL, ["b"], 15, "a").axes[0]
    dots = [(line.get_markeredgecolor(), line.get_markerfacecolor()) for line in axes.lines if line.get_marker() == "o"]
    hollow, front, ring = (
        (COLOURS["dominated"], COLOURS["paper"]),
        (COLOURS["accent"], COLOURS["accent"]),
        (COLOURS["good"], "none"),
    )
    assert dots == [hollow, front, ring]
    assert labels(pareto_figure(rows, MODEL, ["b"], 15, "a"))["a"].get_fontweight() == "bold"


def test_eight_names_do_not_cover_each_other() -> None:
    figure = pareto_figure(
        eight(), MODEL, ["torch-eager", "torch-compile", "torch-channels-last"], 15, "onnxruntime-int8"
    )
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = {name: label.get_window_extent(renderer) for name, label in labels(figure).items() if name in EIGHT}
    assert len(boxes) == 8
    for (one, first), (other, second) in combinations(boxes.items(), 2):
        assert not first.overlaps(second), (one, other)
    assert all(
        box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes.values()
    )


def test_png_and_svg_are_of_one_figure() -> None:
    rows = [made_up.row("<a> & $b_1$", 10, 70), made_up.row('id="#ffffff"\x1b', 20, 71)]
    root = ElementTree.fromstring(svg(rows, "end-to-end-p95", [], 5).replace("xlink:href", "href"))
    assert root.attrib["role"] == "img"
    texts = {text.text for text in root.iter("text")}
    assert {"<a> & $b_1$", 'id="#ffffff"\\x1b', "budget 5 ms"} <= texts
    assert [one.text for one in root if one.tag in ("title", "desc")] == ["title", "all & <everything>"]
    picture = cv2.imdecode(np.frombuffer(pareto_png(rows, "end-to-end-p95", [], 5), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (940, 1720, 3)
    assert 0.3 < (picture == 255).mean() < 1


def test_all_colours_of_the_svg_are_the_pages() -> None:
    page = (Path(pareto_svg.__code__.co_filename).parent / "page.html").read_text(encoding="utf-8")
    text = svg(eight(), MODEL, ["torch-eager"], 15, "onnxruntime-int8")
    assert "#" not in text.replace('href="#plot0-', "").replace("url(#plot0-", "")
    assert "style>" not in text
    for name, colour in COLOURS.items():
        assert f"--{name}: {colour};" in page, name
        assert page.count(f"--{name}:") == 2, "light and dark"


def test_the_same_rows_give_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    """Also where somebody has a matplotlib style of their own."""
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 20\nsvg.fonttype: path\n")
    script = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); import made_up\n"
        "from rdd_deploy.benchmark.report.plot import *\n"
        "rows = [made_up.row('a', 10, 70), made_up.row('b', 20, 71, drop=1)]\n"
        "text = pareto_svg(rows, 'model-p50', [], 15, title='t', description='d', identifier='plot0')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print(hashlib.sha256(pareto_png(rows, 'model-p50', [], 15) + text.encode()).hexdigest())"
    )
    helpers, root = Path(made_up.__file__).parent, Path(__file__).parents[3]
    digests = set()
    for seed, folder in (("1", root), ("2", tmp_path)):
        environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script, str(helpers)]
        digests.add(
            subprocess.run(
                command, capture_output=True, text=True, check=True, env=environment, cwd=folder, timeout=100
            ).stdout
        )
    assert len(digests) == 1


def test_it_leaves_others_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rcParams, "lines.linewidth", 7.5)
    before = repr(rcParams)
    pareto_png([made_up.row("a", 10, 70)], MODEL, [])
    assert repr(rcParams) == before
    assert rcParams["lines.linewidth"] == 7.5


def test_nothing_measured_is_said() -> None:
    assert list(labels(pareto_figure([made_up.failed("a", "why")], MODEL, []))) == ["nothing could be measured"]


def test_long_names_keep_both_ends() -> None:
    (name,) = labels(pareto_figure([made_up.row("a" * 30 + "-" * 5000 + "b" * 30, 10, 70)], MODEL, []))
    assert name == "a" * 20 + "…" + "b" * 20
