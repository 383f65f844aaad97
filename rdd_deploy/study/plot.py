"""The study's plot with matplotlib: each variant's seeds with mean and deviation, and the paired difference to the
baseline beside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from rdd_deploy.benchmark.report.plot import COLOURS, DPI, available
from rdd_deploy.study.statistics import Row
from rdd_deploy.utils.text import shown

__all__ = ["available", "png"]
_LONGEST_NAME = 32


def png(rows: Sequence[Row], baseline: str, teacher: float | None = None) -> bytes:
    """Draw the rows as PNG; the same rows give the same bytes.

    Args:
        teacher: its mIoU in %, drawn as a line.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    file = BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that its font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 9, "text.parse_math": False})
        figure = Figure(figsize=(9.5, 1.5 + 0.32 * len(rows)), layout="constrained", facecolor=COLOURS["paper"])
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _values(left, rows, baseline, teacher)
        _differences(right, rows, baseline)
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _values(axes: Any, rows: Sequence[Row], baseline: str, teacher: float | None) -> None:
    for y, row in enumerate(rows):
        colour = COLOURS["dominated" if row.variant == baseline else "accent"]
        axes.plot(list(row.miou.values()), [y] * len(row.miou), "o", ms=4, mfc="none", mec=COLOURS["whisker"])
        if row.mean is not None:
            axes.errorbar(row.mean, y, xerr=row.deviation, fmt="o", color=colour, capsize=3)
        if row.variant == baseline and row.mean is not None:
            axes.axvline(row.mean, color=COLOURS["dominated"], lw=1, ls=(0, (4, 3)))
    if teacher is not None:
        axes.axvline(teacher, color=COLOURS["good"], lw=1)
        axes.annotate(
            " teacher",
            (teacher, 1),
            xycoords=("data", "axes fraction"),
            va="bottom",
            ha="center",
            color=COLOURS["good"],
        )
    names = [shown(row.variant) for row in rows]
    axes.set_yticks(
        range(len(rows)), [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in names]
    )
    axes.invert_yaxis()
    axes.set_xlabel("mIoU in % of the last epoch; bars: deviation over seeds")
    _tidy(axes)


def _differences(axes: Any, rows: Sequence[Row], baseline: str) -> None:
    axes.axvline(0, color=COLOURS["dominated"], lw=1, ls=(0, (4, 3)))
    for y, row in enumerate(rows):
        if row.difference is not None:
            hollow = COLOURS["paper"] if row.difference.half_width is None else COLOURS["accent"]
            axes.errorbar(
                row.difference.mean,
                y,
                xerr=row.difference.half_width,
                fmt="o",
                color=COLOURS["accent"],
                mfc=hollow,
                capsize=3,
            )
    axes.set_xlabel(f"points against {shown(baseline)[:_LONGEST_NAME]}; bars: 95 % interval")
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=COLOURS["grid"])
    axes.tick_params(colors=COLOURS["soft"], length=3)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=COLOURS["soft"])
