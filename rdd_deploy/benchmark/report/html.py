"""The report's parts as HTML. Every text that comes from outside is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from rdd_deploy.benchmark.records import STAGES, Benchmark, Change, Machine, Protocol, Quantiles, Row
from rdd_deploy.benchmark.report.gallery import DisagreementExample
from rdd_deploy.utils.text import in_html as escape

_HEADINGS = (
    ("bundle", ""), ("mIoU %", "95 % interval"), ("change", "95 % interval"), ("worst class", "change"), ("model ms p50", "p95 · p99"),
    ("end to end ms p50", "p95 · p99"), ("frames / s", "model · all"), ("cold start ms", "of it load"), ("memory MiB", "file MiB"),
)  # fmt: skip


def scrolled(tag: str, content: str, name: str) -> str:
    """A block that scrolls sideways by itself where the screen is narrow, also by keyboard."""
    return f'<{tag} class="wide" role="region" aria-label="{escape(name)}" tabindex="0">{content}</{tag}>'


def rows_table(rows: Sequence[Row], caption: str, dominated: Sequence[str] = (), chosen: Sequence[str] = ()) -> str:
    """All figures of one table."""
    head = "".join(f'<th scope="col">{escape(one)}<small>{escape(two)}</small></th>' for one, two in _HEADINGS)
    body = "".join(_row(row, row.name in dominated, row.name in chosen) for row in rows)
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return scrolled("div", table, caption)


def _row(row: Row, is_dominated: bool, is_chosen: bool) -> str:
    kind = "failed" if row.failure else "chosen" if is_chosen else "dominated" if is_dominated else ""
    state = "chosen" if is_chosen else "dominated" if is_dominated else ""
    size = f"{row.input_width}×{row.input_height}" if row.input_width else ""
    facts = " · ".join(
        filter(
            None,
            [row.precision if row.precision != "unknown" else "", size, state and f'<span class="tag">{state}</span>'],
        )
    )
    more = escape(" · ".join(filter(None, [row.runtime or row.backend, row.source and f"from {row.source}"])))
    name = f'<th scope="row">{_breakable(row.name)}<small>{facts}</small><small>{more}</small></th>'
    if row.accuracy is None or row.latency is None or row.failure:
        return (
            f'<tr class="failed">{name}<td class="why" colspan="{len(_HEADINGS) - 1}">failed:'
            f" {escape(row.failure or 'no figures')}</td></tr>"
        )
    accuracy, latency, cold = row.accuracy, row.latency, row.cold_start
    cells = [
        f"{accuracy.miou_pct:.2f}<small>{accuracy.miou_low_pct:.1f} to {accuracy.miou_high_pct:.1f}</small>",
        *(["no float bundle measured", "–"] if row.lacks_reference else _change(row.change)),
        *(f"{part.p50_ms:.2f}<small>{_tails(part)}</small>" for part in (latency.model, latency.end_to_end)),
        f"{_fps(latency.model_throughput_fps)} · {_fps(latency.end_to_end_throughput_fps)}",
        f"{cold.first_label_ms:.0f}<small>{cold.load_ms:.0f}</small>" if cold else "–",
        (f"{cold.peak_memory_mib:.0f}" if cold else "–")
        + (f"<small>{row.file_size_bytes / 2**20:.1f}</small>" if row.file_size_bytes is not None else ""),
    ]
    return f'<tr class="{kind}">{name}{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _breakable(name: str) -> str:
    """Escaped, with places where a long name may be broken."""
    return escape(name).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _fps(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _tails(part: Quantiles) -> str:
    return f"{part.p95_ms:.2f} · {part.p99_ms:.2f}"


def _change(change: Change | None) -> list[str]:
    if change is None:
        return ["reference", "–"]
    unchanged = change.worst_class is None or (change.worst_class_change_pct or 0) > -0.005
    worst = (
        "none worse"
        if unchanged
        else f"{escape(str(change.worst_class))}<small>{_signed(change.worst_class_change_pct)}</small>"
    )
    span = f"{_minus(change.miou_change_low_pct)} to {_minus(change.miou_change_high_pct)}"
    return [f"{_signed(change.miou_change_pct)}<small>{span}</small>", worst]


def _signed(value: float | None) -> str:
    if value is None:
        return "–"
    kind = "minus" if value <= -0.005 else "plus" if value >= 0.005 else ""
    return f'<span class="{kind}">{_minus(value)}</span>' if kind else _minus(value)


def _minus(value: float) -> str:
    return "±0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")


def stage_bars(rows: Sequence[Row]) -> str:
    """Stacked bars of the stages' medians, all on one scale."""
    measured = [row for row in rows if row.latency is not None and row.measured]
    if not measured:
        return "<p>Nothing could be measured.</p>"
    legend = "".join(f'<li><i class="s{number}"></i>{escape(name)}</li>' for number, name in enumerate(STAGES, 1))
    totals = [sum(row.latency.stages_p50_ms.values()) for row in measured if row.latency]
    lines = []
    for row, total in zip(measured, totals, strict=True):
        assert row.latency is not None
        stages = row.latency.stages_p50_ms
        parts = "".join(
            f'<span class="s{number}" style="width:{100 * stages[name] / (max(totals) or 1):.2f}%"></span>'
            for number, name in enumerate(STAGES, 1)
        )
        said = ", ".join(f"{name} {stages[name]:.2f} ms" for name in STAGES)
        lines.append(
            f'<span>{escape(row.name)}</span><div class="stack" role="img" aria-label="{said}"'
            f' title="{said}">{parts}</div><span>{total:.2f} ms</span>'
        )
    return f'<ul class="legend">{legend}</ul><div class="stages">{"".join(lines)}</div>'


def class_table(rows: Sequence[Row], classes: Sequence[str]) -> str:
    """IoU and change per class and bundle, with a bar in each cell; the classes that lose most come first."""
    measured = [row for row in rows if row.accuracy is not None and row.measured]
    if not measured:
        return "<p>Nothing could be measured.</p>"

    def hurt(name: str) -> float:
        return min(
            (change for row in measured if row.change and (change := row.change.iou_change_pct.get(name)) is not None),
            default=0.0,
        )

    head = "".join(f'<th scope="col">{_breakable(row.name)}</th>' for row in measured)
    body = []
    for name in sorted(classes, key=hurt):
        cells = "".join(_class_cell(row, name) for row in measured)
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    caption = "IoU per class; the class that loses most stands first"
    table = (
        f'<table class="classes" style="min-width:{140 + 110 * len(measured)}px"><caption>{caption}</caption>'
        f'<thead><tr><th scope="col">class</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    )
    return scrolled("div", table, caption)


def _class_cell(row: Row, name: str) -> str:
    value = row.accuracy.iou_pct.get(name) if row.accuracy else None
    if value is None:
        return '<td class="none">never occurs</td>'
    change = _signed(row.change.iou_change_pct.get(name)) if row.change else "–" if row.lacks_reference else "reference"
    return f'<td style="--share:{value:.1f}"><small>{change}</small>{value:.1f}</td>'


def gallery_section(
    examples: Sequence[DisagreementExample],
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    single: bool,
) -> str:
    """Frames with overlays as embedded JPEG, and the colours' legend."""
    title = "Frames it gets most wrong" if single else "Frames on which the bundles disagree most"
    if not examples:
        none = (
            "No pixel of any frame is wrong."
            if single
            else "There are none: all that was measured agrees on every pixel of every frame."
        )
        return f'<section aria-labelledby="gallery"><h2 id="gallery">{title}</h2><p>{none}</p></section>'
    legend = "".join(
        f'<li><i style="background:rgb{tuple(colour)}"></i>{escape(name)}</li>'
        for name, colour in zip(classes, palette, strict=True)
    )
    parts = []
    for example in examples:
        pictures = "".join(
            _picture(picture.caption, picture.detail, picture.jpeg, example.name) for picture in example.pictures
        )
        count = len(example.pictures)
        columns = count if count <= 5 else (count + 1) // 2
        parts.append(f'<h3>{escape(example.name)}</h3><div class="frames" style="--columns:{columns}">{pictures}</div>')
    return (
        f'<section aria-labelledby="gallery"><h2 id="gallery">{title}</h2><ul'
        f' class="legend">{legend}</ul>{"".join(parts)}</section>'
    )


def _picture(caption: str, detail: str, jpeg: bytes, name: str) -> str:
    said = escape(
        " ".join(filter(None, [name, caption, detail])),
    )
    more = f"<span>{escape(detail)}</span>" if detail else ""
    data = base64.b64encode(jpeg).decode("ascii")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}"'
        f' alt="{said}"><figcaption>{escape(caption)}{more}</figcaption></figure>'
    )


def verdict(benchmark: Benchmark) -> str:
    """Decisions and warnings, first thing on the page."""
    cards = []
    for decision in benchmark.decisions:
        kind, word = ("yes", f"Take {decision.chosen}") if decision.chosen else ("no", "No bundle fits")
        cards.append(f'<div class="card {kind}"><strong>{escape(word)}</strong>{escape(decision.sentence)}</div>')
    if benchmark.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in benchmark.warnings)
        cards.append(f'<div class="card warn" role="note"><strong>Read with care</strong><ul>{items}</ul></div>')
    return "".join(cards)


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """A list of names and values; those without a value are left out."""
    kept = [(name, str(value)) for name, value in pairs if value not in (None, "")]
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in kept)}</dl>"


def machine_facts(machine: Machine) -> str:
    """Where it ran."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    load = f"{machine.load_average_before} before, {machine.load_average_after} after"
    memory = f"{machine.memory_gib} GiB" if machine.memory_gib else None
    return facts([
        ("CPU", f"{machine.cpu_model}, {machine.cores} physical cores usable, {machine.architecture}"), ("GPU", machine.gpu),
        ("CPU governor", machine.governor or "not told by this system"), ("memory", memory), ("system", machine.system),
        ("load average", load), ("Python", machine.python), ("packages", versions),
    ])  # fmt: skip


def protocol_facts(protocol: Protocol) -> str:
    """How it was measured, in numbers."""
    skipped = f", {protocol.images_skipped} unreadable ones left out" if protocol.images_skipped else ""
    return facts([
        ("images", f"{protocol.images} of {protocol.data} {protocol.split}{skipped}; SHA-256 {protocol.images_sha256[:16]}…"),
        ("device asked for", protocol.device_asked), ("threads", f"{protocol.threads}, in every backend and in OpenCV"),
        ("timed frames a row", f"{protocol.timed_frames} in {protocol.rounds} interleaved rounds"),
        ("warm-up", f"{protocol.warmup_frames_per_turn} untimed frames at the start of every turn"),
        ("intervals", f"{protocol.confidence_pct:g} %, {protocol.bootstrap_resamples} bootstrap resamples of the images, seed {protocol.seed}"),
    ])  # fmt: skip
