"""The Pareto plot with matplotlib: one figure, as PNG for a file of its own and as SVG for the page."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from rdd_deploy.benchmark.accuracy import CONFIDENCE_PCT
from rdd_deploy.benchmark.options import LatencyMetric
from rdd_deploy.benchmark.pareto import point
from rdd_deploy.benchmark.records import Row
from rdd_deploy.utils.text import in_html as escape
from rdd_deploy.utils.text import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "paper": "#ffffff", "ink": "#1b1d23", "soft": "#5b6070", "grid": "#e6e8ee", "accent": "#1d5bd8", "whisker": "#9db8ee", "tail": "#dbe6fb",
    "dominated": "#858a96", "dominated-whisker": "#cfd2da", "dominated-tail": "#e9eaee", "good": "#0b7a45", "warn": "#94510a", "over": "#fdf3ec",
}  # fmt: skip
"""Colours of the PNG. In the SVG each is the page's CSS variable of that name, which has a second value for dark mode."""
SIZE_INCHES, DPI = (8.6, 4.7), 200
_LOG_FROM = 5.0
"""Ratio of the slowest to the fastest from which the latency axis is logarithmic."""
_LONGEST_NAME = 40
_PLACES = [(x, y) for y in (7, -15, 21, -29, 35, -43) for x in (9, -9)]
"""Where a name may stand beside its dot, in points; the best first."""


def available() -> bool:
    """Whether matplotlib, which the edge lacks, is installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def pareto_png(*args: Any, **kwargs: Any) -> bytes:
    """``pareto_figure`` as PNG; the same rows give the same bytes."""
    return _saved(args, kwargs, "png", "", facecolor=COLOURS["paper"], metadata={"Software": None})


def pareto_svg(*args: Any, title: str, description: str, identifier: str, **kwargs: Any) -> str:
    """``pareto_figure`` as an ``<svg>`` element for a page that has the CSS variables of COLOURS.

    Args:
        title, description: the plot in words.
        identifier: makes its ids unique within the page.
    """
    none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    text = _saved(args, kwargs, "svg", identifier, facecolor="none", metadata=none).decode("utf-8")
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None

    def in_page(tag: re.Match[str]) -> str:
        own = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{identifier}-", tag[0])
        return re.sub("|".join(COLOURS.values()), lambda colour: f"var(--{names[colour[0]]})", own)

    names = {colour: name for name, colour in COLOURS.items()}
    text = re.sub(
        r"<[^>]*>", in_page, re.sub(r"<style.*?</style>", "", text[text.index(">", text.index("<svg")) + 1 :])
    )
    return (
        f'<svg class="plot" {box[0]} role="img" aria-labelledby="{identifier}-title {identifier}-description"><title'
        f' id="{identifier}-title">{escape(title)}</title><desc'
        f' id="{identifier}-description">{escape(description)}</desc>' + text
    )


def _saved(args: Any, kwargs: Any, form: str, salt: str, **options: Any) -> bytes:
    import matplotlib

    file = BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that its font lacks
        matplotlib.rcdefaults()  # nobody's own style: the same rows look the same everywhere
        matplotlib.rcParams.update({"svg.hashsalt": salt or "pareto", "svg.fonttype": "none", "font.size": 9})
        pareto_figure(*args, **kwargs).savefig(file, format=form, dpi=DPI, **options)
    return file.getvalue()


def pareto_figure(
    rows: Sequence[Row],
    judge: LatencyMetric,
    dominated: Sequence[str],
    budget_ms: float | None = None,
    chosen: str | None = None,
) -> Figure:
    """Draw the measured rows of one table: mIoU over latency, the front as a staircase, dominated rows grey and hollow.

    Args:
        rows: of one device.
        judge: the latency to draw.
        dominated: names of the dominated rows.
        budget_ms: drawn as a border; what lies beyond is tinted.
        chosen: gets a ring.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.07, 0.115, 0.905, 0.80), facecolor="none")
    measured = [row for row in rows if row.measured]
    if not measured:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing could be measured", ha="center", color=COLOURS["soft"], transform=axes.transAxes)
        return figure
    _limits(axes, measured, judge, budget_ms)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=COLOURS["grid"])
    axes.tick_params(which="both", colors=COLOURS["soft"], length=3)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=COLOURS["soft"])
    scale = ", logarithmic" if axes.get_xscale() == "log" else ""
    axes.set_xlabel(f"latency, {str(judge).replace('-p', ' p')} in ms{scale} (left is better)", color=COLOURS["soft"])
    bands = "; bands: p50 to p95" if judge.endswith("p50") else ""
    axes.set_title(
        f"mIoU in % (up is better); bars: {CONFIDENCE_PCT:g} % interval of the change against the float bundle, which has none{bands}",
        loc="left", fontsize=9, color=COLOURS["soft"],
    )  # fmt: skip
    if budget_ms is not None:
        axes.axvspan(budget_ms, axes.get_xlim()[1], color=COLOURS["over"], lw=0, zorder=0)
        axes.axvline(budget_ms, color=COLOURS["warn"], ls=(0, (4, 3)), lw=1.2)
        end = axes.transData.transform((budget_ms, 0))[0] > 0.88 * figure.bbox.width
        axes.annotate(
            f"budget {budget_ms:g} ms",
            (budget_ms, 0),
            (-4 if end else 4, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if end else "left",
            color=COLOURS["warn"],
            annotation_clip=False,
        )
    front = sorted(point(row, judge) for row in measured if row.name not in dominated)
    axes.step(
        [front[0][0], *(ms for ms, _ in front), axes.get_xlim()[1]], [axes.get_ylim()[0], *(miou for _, miou in front), front[-1][1]],
        where="post", color=COLOURS["accent"], lw=1.6, zorder=2,
    )  # fmt: skip
    for row in sorted(measured, key=lambda row: row.name not in dominated):  # grey lies below
        _dot(axes, row, judge, row.name in dominated, row.name == chosen)
    _names(figure, axes, measured, judge, dominated, chosen)
    return figure


def paired_interval(row: Row) -> tuple[float, float] | None:
    """The mIoU of the float bundle plus the interval of the change against it, in percent; None without a change, as
    for the float bundle.

    Both bundles are measured on the same images, so most of the spread of their mIoUs is the images' and cancels in the
    change.
    """
    if row.change is None or row.accuracy is None:
        return None
    reference = row.accuracy.miou_pct - row.change.miou_change_pct
    low, high = sorted(
        min(100.0, max(0.0, reference + end))
        for end in (row.change.miou_change_low_pct, row.change.miou_change_high_pct)
    )
    return low, high


def _p95(row: Row, judge: LatencyMetric) -> float:
    assert row.latency is not None
    return (row.latency.model if judge.startswith("model") else row.latency.end_to_end).p95_ms


def _limits(axes: Any, rows: Sequence[Row], judge: LatencyMetric, budget_ms: float | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    times = [ms for row in rows for ms in (point(row, judge)[0], _p95(row, judge))] + ([budget_ms] if budget_ms else [])
    if max(times) > _LOG_FROM * min(times):
        axes.set_xscale("log")
        axes.set_xlim(min(times) / 1.3, max(times) * 1.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    else:
        axes.set_xlim(0, max(times) * 1.12)
        axes.xaxis.set_major_locator(MaxNLocator(8))
    ends = [miou for row in rows for miou in (point(row, judge)[1], *(paired_interval(row) or ()))]
    margin = max(0.12 * (max(ends) - min(ends)), 0.5)
    axes.set_ylim(max(0.0, min(ends) - margin), min(100.0, max(ends) + margin))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _dot(axes: Any, row: Row, judge: LatencyMetric, is_dominated: bool, is_chosen: bool) -> None:
    (ms, miou), grey = point(row, judge), "dominated-" if is_dominated else ""
    if judge.endswith("p50"):
        axes.plot(
            [ms, _p95(row, judge)], [miou, miou], color=COLOURS[f"{grey}tail"], lw=6, solid_capstyle="butt", zorder=1
        )
    if interval := paired_interval(row):
        axes.plot([ms, ms], interval, color=COLOURS[f"{grey}whisker"], marker="_", ms=7, mew=1.4, lw=1.4, zorder=3)
    colour = COLOURS["dominated" if is_dominated else "accent"]
    axes.plot(
        ms, miou, "o", ms=7, mec=colour, mfc=COLOURS["paper"] if is_dominated else colour, zorder=4, clip_on=False
    )
    if is_chosen:
        axes.plot(ms, miou, "o", ms=13, mec=COLOURS["good"], mew=1.8, mfc="none", zorder=4, clip_on=False)


def _names(
    figure: Figure, axes: Any, rows: Sequence[Row], judge: LatencyMetric, dominated: Sequence[str], chosen: str | None
) -> None:
    """Each name at the place beside its dot that covers least of the other names and dots; those on the front choose
    first.
    """
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    dots = [axes.transData.transform(point(row, judge)) for row in rows]
    taken: list[Any] = []
    for row in sorted(rows, key=lambda row: (row.name in dominated, point(row, judge))):
        name = shown(row.name)
        if len(name) > _LONGEST_NAME:
            name = f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 2 :]}"
        label = axes.annotate(
            name, point(row, judge), _PLACES[0], textcoords="offset points", parse_math=False, annotation_clip=False, zorder=5,
            color=COLOURS["dominated" if row.name in dominated else "ink"], fontweight="bold" if row.name == chosen else "normal",
        )  # fmt: skip

        def box(place: tuple[int, int], label: Any = label) -> Any:
            label.set(position=place, ha="left" if place[0] > 0 else "right")
            return label.get_window_extent(renderer)

        def cost(place: tuple[int, int], box: Any = box) -> float:
            own = box(place)
            outside = max(
                0.0, axes.bbox.x0 - own.x0, own.x1 - figure.bbox.x1, axes.bbox.y0 - own.y0, own.y1 - figure.bbox.y1
            )
            covered = sum(
                max(0.0, min(own.x1, one.x1) - max(own.x0, one.x0))
                * max(0.0, min(own.y1, one.y1) - max(own.y0, one.y0))
                for one in taken
            )
            return float(50 * outside + covered + 300 * sum(own.padded(4).contains(x, y) for x, y in dots))

        taken.append(box(min(_PLACES, key=cost)))
