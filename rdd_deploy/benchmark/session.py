"""A benchmark from bundles and images to records: cold starts, rounds, accuracy, front, decisions."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import cv2

from rdd_deploy import console
from rdd_deploy.benchmark.accuracy import CONFIDENCE_PCT, RESAMPLES, accuracy_of, change_of, draw, reference_of, stacked
from rdd_deploy.benchmark.cold_start import ColdFailure, cold_start
from rdd_deploy.benchmark.images import Images
from rdd_deploy.benchmark.options import Settings
from rdd_deploy.benchmark.pareto import decide, dominated_names
from rdd_deploy.benchmark.records import Benchmark, ColdStart, Machine, Protocol, Row
from rdd_deploy.benchmark.runners import Candidate
from rdd_deploy.benchmark.timing import WARMUP, Measured, latency_of, measure, round_schedule
from rdd_deploy.errors import BudgetError, BundleError
from rdd_deploy.utils import machine as facts
from rdd_deploy.utils.files import sha256

BUSY = 0.25
"""Load per core before the benchmark starts from which there is a warning."""
_DRIFT = 1.2
"""Ratio of a row's slowest to its fastest round from which the machine is called unsteady."""


def run_benchmark(
    candidates: Sequence[Candidate],
    images: Images,
    settings: Settings,
    advance: Callable[[str, int], None] = lambda name, frames: None,
) -> tuple[Benchmark, list[tuple[str, Measured]]]:
    """Measure all candidates; a failure costs its row the figures, never the others.

    Returns:
        The records, and (name, raw result) of the rows that were measured, for the gallery.
    """
    began = time.monotonic()
    machine = describe()
    cv2.setNumThreads(settings.threads)
    cold: dict[str, ColdStart] = {}
    failures = {candidate.name: candidate.failure for candidate in candidates if candidate.failure}
    for candidate in candidates:
        if settings.cold and candidate.name not in failures:
            try:
                cold[candidate.name] = cold_start(candidate)
            except ColdFailure as error:
                failures[candidate.name] = str(error)
        advance(candidate.name, 0)
    able = [candidate for candidate in candidates if candidate.name not in failures]
    results = dict(
        zip((candidate.name for candidate in able), measure(able, images, settings.rounds, advance), strict=True)
    )
    rows = _rows(candidates, results, failures, cold, images, settings.seed)
    machine = machine.model_copy(update={"load_average_after": facts.load_average()})
    benchmark = Benchmark(
        created_utc=now(), seconds=round(time.monotonic() - began, 1), judge=settings.judge, classes=list(images.label_space.classes),
        protocol=protocol_of(images, settings), machine=machine, rows=rows, warnings=_warnings(machine, rows, images),
    )  # fmt: skip
    return benchmark, [(row.name, results[row.name]) for row in rows if row.measured]


def judged(benchmark: Benchmark, budget_ms: float | None, max_drop: float | None) -> Benchmark:
    """The benchmark with its dominated rows and, where asked for, a decision per device; none if only earlier rows
    could be measured.
    """
    tables = benchmark.tables()
    dominated = [name for rows in tables.values() for name in dominated_names(rows, benchmark.judge)]
    asked = (budget_ms is not None or max_drop is not None) and any(
        row.measured and row.source is None for row in benchmark.rows
    )
    decisions = (
        [decide(rows, device, budget_ms, max_drop, benchmark.judge) for device, rows in tables.items()] if asked else []
    )
    return benchmark.model_copy(update={"dominated": dominated, "decisions": decisions})


def measure_with_progress(
    candidates: Sequence[Candidate], images: Images, settings: Settings
) -> tuple[Benchmark, list[tuple[str, Measured]]]:
    """``run_benchmark`` under a progress bar on standard error."""
    total = len(candidates) * sum(len(turn) for turn in round_schedule(len(images), settings.rounds))
    with console.progress("cold starts", total, on="stderr") as bar:

        def advance(name: str, frames: int) -> None:
            bar.advance(frames, name if frames else f"cold start: {name}")

        return run_benchmark(candidates, images, settings, advance)


def finish(benchmark: Benchmark) -> None:
    """Set the exit code by what was measured. Raises BundleError if nothing ran, BudgetError if a decision found
    nothing.
    """
    own = [row for row in benchmark.rows if row.source is None]
    failed = [row for row in own if row.failure]
    if own and len(failed) == len(own):
        raise BundleError(f"none of the {len(failed)} rows could be measured; the first: {failed[0].failure}")
    missed = [decision.sentence for decision in benchmark.decisions if decision.chosen is None]
    if benchmark.decisions and len(missed) == len(benchmark.decisions):
        raise BudgetError("; ".join(missed))


def now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _rows(
    candidates: Sequence[Candidate],
    results: dict[str, Measured],
    failures: dict[str, str],
    cold: dict[str, ColdStart],
    images: Images,
    seed: int,
) -> list[Row]:
    classes, drawn = images.label_space.classes, draw(len(images), RESAMPLES, seed)
    rows = []
    for candidate in candidates:
        result = results.get(candidate.name, Measured(failure=failures.get(candidate.name)))
        row = _facts(candidate, result).model_copy(
            update={"cold_start": cold.get(candidate.name), "failure": result.failure}
        )
        if result.failure is None:
            row = row.model_copy(
                update={"accuracy": accuracy_of(stacked(result), drawn, classes), "latency": latency_of(result)}
            )
        rows.append(row)

    def with_change(row: Row) -> Row:
        reference = reference_of(row, rows) if row.measured else None
        if reference is None:
            return row
        change = change_of(results[row.name], results[reference.name], reference.name, drawn, classes, images)
        return row.model_copy(update={"change": change})

    return [with_change(row) for row in rows]


def _facts(candidate: Candidate, result: Measured) -> Row:
    """A row without figures."""
    manifest = candidate.manifest
    backend, precision, size, model, weights = "unknown", "unknown", result.input_size or candidate.size, None, []
    if candidate.kind != "bundle":
        backend, precision = "torch", "fp32"
        weights = [candidate.path] if candidate.failure is None else []
        model = sha256(candidate.path) if weights else None
    elif manifest is not None:
        backend, precision = manifest.backend, manifest.precision
        size = size or (manifest.input.height, manifest.input.width)
        weights = [candidate.path / name for name in manifest.files]
        model = manifest.files[manifest.model]
    return Row(
        name=candidate.name, path=str(candidate.path), backend=backend, precision=precision, device=result.device, provider=result.provider,
        runtime=candidate.runtime, run=candidate.run, input_height=size[0] if size else None, input_width=size[1] if size else None,
        model_sha256=model, file_size_bytes=sum(file.stat().st_size for file in weights) if weights else None, measured_utc=now(),
    )  # fmt: skip


def protocol_of(images: Images, settings: Settings) -> Protocol:
    """What will be measured, and how."""
    return Protocol(
        data=settings.data, split=settings.split, images=len(images), images_sha256=images.sha256, images_skipped=len(images.skipped),
        device_asked=settings.device, threads=settings.threads, rounds=settings.rounds,
        timed_frames=sum(len(turn) for turn in round_schedule(len(images), settings.rounds)), warmup_frames_per_turn=WARMUP,
        bootstrap_resamples=RESAMPLES, confidence_pct=CONFIDENCE_PCT, seed=settings.seed,
    )  # fmt: skip


def _warnings(machine: Machine, rows: Sequence[Row], images: Images) -> list[str]:
    found = []
    load = machine.load_average_before
    if load is not None and load > BUSY * machine.cores:
        found.append(
            f"the machine was busy before the benchmark began (load average {load:g} on {machine.cores} cores):"
            " latencies are too high and unsteady"
        )
    unsteady: dict[str, float] = {}
    for row in rows:
        rounds = row.latency.model_p50_per_round_ms if row.latency else []
        if len(rounds) > 1 and max(rounds) > _DRIFT * min(rounds):
            unsteady[row.name] = max(rounds) / min(rounds)
    if unsteady:
        worst = max(unsteady, key=lambda name: unsteady[name])
        found.append(
            f"the machine was unsteady: {len(unsteady)} of {len(rows)} rows changed by more than {_DRIFT:g}x between"
            f" rounds ({worst}: {unsteady[worst]:.1f}x); measure again on a quiet machine"
        )
    if images.skipped:
        found.append(f"{len(images.skipped)} unreadable images were left out, the first: {images.skipped[0]}")
    return found


def describe() -> Machine:
    """Facts of this machine; None for what the system doesn't report."""
    return Machine(
        cpu_model=facts.cpu_model(), architecture=platform.machine(), cores=facts.available_cores(), governor=facts.governor(), gpu=facts.gpu(),
        memory_gib=facts.memory_gib(), system=f"{platform.system()} {platform.release()}", python=platform.python_version(),
        versions=facts.versions([*facts.RUNTIME_PACKAGES, "torch"]), load_average_before=facts.load_average(),
    )  # fmt: skip
