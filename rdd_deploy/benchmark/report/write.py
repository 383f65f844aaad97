"""``benchmark.json``, ``report.html`` and ``pareto.png`` from a benchmark. The page is one file that loads nothing, in
light and dark mode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path
from string import Template

from rdd_deploy.benchmark.records import Benchmark, Row
from rdd_deploy.benchmark.report import html, plot
from rdd_deploy.benchmark.report.gallery import DisagreementExample
from rdd_deploy.errors import DiskError, missing_package
from rdd_deploy.utils import files
from rdd_deploy.utils.text import in_html as escape

METHOD = (
    (
        "Both figures of a row come from one artifact: the labels that are counted for its mIoU are those of the"
        " inferences that are timed, through the same runtime class that the live app uses."
    ),
    (
        "Model: from the network-sized uint8 frame in host memory to the uint8 labels in host memory, with all copies"
        " to and from a device. End to end: decode the file, resize, infer, resize the labels back, draw the overlay,"
        " one after the other."
    ),
    (
        "Every round gives each bundle a turn on the same images in the same order (A B C, A B C, …), so a machine that"
        " slows down does so for all."
    ),
    (
        "Cold start and peak memory come from fresh processes: from the start of the load, with the backend's import"
        " and the check of the file's hash, to the first label; the file lies in the system's cache already. Peak"
        " memory is the process's whole resident memory on the host."
    ),
    (
        "The mIoU is of one confusion matrix over all images, at the size of the annotation, without void pixels. Its"
        " interval draws the images again with replacement; the interval of a change, which the plot shows, draws the"
        " same images for both bundles. Frames of one video resemble each other, so the interval for unseen streets is"
        " wider than the one shown."
    ),
    (
        "A row is dominated, and grey, if another one in its table is at least as fast and as accurate, and better in"
        " one of the two."
    ),
)


NO_PLOT = str(missing_package("matplotlib", "report", "the plot"))


def prepare_folder(folder: Path) -> None:
    """Make the output folder and find out before the measuring, not after it, whether it can be written. Raises
    DiskError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"can't make the folder {folder}: {error.strerror or error}; choose another one with --output"
        ) from error
    files.check_writable(folder)
    files.remove_parts(folder)


def write_report(
    folder: Path, benchmark: Benchmark, examples: Sequence[DisagreementExample], palette: Sequence[tuple[int, int, int]]
) -> list[str]:
    """Write JSON, page and, where matplotlib is installed, a plot per device into ``folder``, together or none.

    Returns:
        The names of the files. Raises DiskError.
    """
    contents = {
        "report.html": files.encoded(render(benchmark, examples, palette)),
        "benchmark.json": files.encoded(files.json_text(benchmark.model_dump(mode="json"))),
    }
    for number, (device, rows) in enumerate(benchmark.tables().items() if plot.available() else ()):
        name = "pareto.png" if number == 0 else f"pareto-{re.sub('[^A-Za-z0-9.]', '-', device)[:40]}.png"
        contents[name] = plot.pareto_png(rows, benchmark.judge, benchmark.dominated, *_decided(benchmark, device))
    files.write_together({folder / name: content for name, content in contents.items()})
    return list(contents)


def render(
    benchmark: Benchmark, examples: Sequence[DisagreementExample], palette: Sequence[tuple[int, int, int]]
) -> str:
    """The whole page."""
    protocol, machine = benchmark.protocol, benchmark.machine
    tables = benchmark.tables()
    measured = [row for rows in tables.values() for row in rows]
    own = [row for row in measured if row.measured and not row.source]
    where = f"{machine.gpu}, {machine.cpu_model}" if machine.gpu else machine.cpu_model
    lead = (
        f"{len(benchmark.rows)} {'row' if len(benchmark.rows) == 1 else 'rows'} on {protocol.images} images of"
        f" {protocol.data} {protocol.split}; {where}, {protocol.threads}"
        f" {'thread' if protocol.threads == 1 else 'threads'}; {benchmark.created_utc[:16].replace('T', ' ')} UTC"
    )
    template = Template(resources("rdd_deploy.benchmark.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title="mIoU against latency", lead=escape(lead), verdict=html.verdict(benchmark),
        tables="".join(_table_section(benchmark, device, rows, number) for number, (device, rows) in enumerate(tables.items())),
        stages=html.stage_bars(measured), classes=html.class_table(measured, benchmark.classes),
        gallery=html.gallery_section(examples, benchmark.classes, palette, len(own) == 1) if own else "",
        method="".join(f"<p>{escape(text)}</p>" for text in METHOD) + html.protocol_facts(protocol) + html.machine_facts(machine),
        footer=escape(f"Written by rdd-deploy benchmark in {benchmark.seconds:.0f} s; the same figures are in benchmark.json (schema {benchmark.schema_version})."),
    )  # fmt: skip


def _decided(benchmark: Benchmark, device: str) -> tuple[float | None, str | None]:
    """The budget of a device's decision, and whom it chose."""
    decision = next((decision for decision in benchmark.decisions if decision.device == device), None)
    return (decision.latency_budget_ms, decision.chosen) if decision else (None, None)


def _table_section(benchmark: Benchmark, device: str, rows: Sequence[Row], number: int) -> str:
    figure = f'<p class="note">{escape(NO_PLOT)}</p>'
    if plot.available():
        svg = plot.pareto_svg(
            rows, benchmark.judge, benchmark.dominated, *_decided(benchmark, device), title=f"mIoU over latency on {device}",
            description=_description(benchmark, rows), identifier=f"plot{number}",
        )  # fmt: skip
        figure = html.scrolled("figure", svg, f"plot on {device}")
    chosen = [decision.chosen for decision in benchmark.decisions if decision.device == device and decision.chosen]
    caption = f"All figures on {device}; grey rows are dominated: another one is at least as fast and as accurate"
    table = html.rows_table(rows, caption, benchmark.dominated, chosen)
    return (
        f'<section aria-labelledby="table{number}"><h2 id="table{number}">On'
        f" {escape(device)}</h2>{figure}{table}</section>"
    )


def _description(benchmark: Benchmark, rows: Sequence[Row]) -> str:
    """The plot in words, for who can't see it."""
    parts = []
    for row in rows:
        if row.latency is not None and row.accuracy is not None:
            state = "dominated" if row.name in benchmark.dominated else "on the front"
            parts.append(
                f"{row.name}: {row.latency.judged_ms(benchmark.judge):.2f} ms, {row.accuracy.miou_pct:.2f} %, {state}"
            )
    return "; ".join(parts)
