"""mIoU against latency of any set of bundles, side by side in one process: table, JSON, plot and a report to pass on.

Both figures of a row come from the same artifact: the inferences that are counted for the mIoU are the ones that are timed. Runs on the
edge install; only ``--include torch`` needs more.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.benchmark.compare import merged
from rdd_deploy.benchmark.images import Images
from rdd_deploy.benchmark.records import Benchmark, LatencyMetric, read_benchmark
from rdd_deploy.benchmark.report.gallery import gallery
from rdd_deploy.benchmark.report.terminal import show
from rdd_deploy.benchmark.report.write import write_report
from rdd_deploy.benchmark.runners import Candidate, bundle_candidates, torch_candidates
from rdd_deploy.benchmark.session import Settings, judged, run_benchmark
from rdd_deploy.benchmark.timing import Measured, round_schedule
from rdd_deploy.console import command
from rdd_deploy.data import DATASETS
from rdd_deploy.data.config import options_of
from rdd_deploy.data.open import OtherClassesError, open_data, open_recorded
from rdd_deploy.errors import BudgetError, BundleError, DataError, DiskError, missing_package
from rdd_deploy.runtime.backends.base import parse_device
from rdd_deploy.utils.arguments import MAX_COUNT, finite
from rdd_deploy.utils.files import check_writable, remove_parts
from rdd_deploy.utils.machine import MAX_THREADS, available_cores

OUTPUT = Path("runs/benchmark")


class By(str, Enum):
    """The values of ``records.LatencyMetric``, for the command line."""

    MODEL_P50 = "model-p50"
    MODEL_P95 = "model-p95"
    END_TO_END_P50 = "end-to-end-p50"
    END_TO_END_P95 = "end-to-end-p95"


def open_images(candidates: Sequence[Candidate], data: Path | None, name: str | None, split: str, limit: int | None) -> tuple[str, Images]:
    """The images to measure on, and their data set's name: as asked for, else what the first readable bundle was made from.

    Where that is the data set that was asked for it is opened as the bundle's manifest says (size, seed, void ids). Bundles of other classes
    than the data's are passed over; they fail in their rows.
    """
    manifests = [candidate.manifest for candidate in candidates if candidate.manifest]
    others: OtherClassesError | None = None
    for one in manifests:
        recorded = one.provenance.get("data")
        if recorded and name in (None, recorded):
            if data is not None and recorded in DATASETS and not options_of(str(recorded)).in_folder:
                others_in_folders = " or ".join(known for known in DATASETS if options_of(known).in_folder)
                raise DataError(
                    f"'{one.name}' was made from {recorded}, which lie in no folder; "
                    + (f"say what {data} is: --data-name {others_in_folders}" if name is None else "leave --data out")
                )
            try:
                return str(recorded), Images(open_recorded(one, split, data), limit)
            except OtherClassesError as error:
                others = others or error
    if others is not None:
        raise others
    manifest = next(iter(manifests), None)
    name = name or "camvid"
    chosen = options_of(name).for_bundle(str(data or Path("data") / name), manifest)
    return name, Images(open_data(chosen, split, fetch=False), limit)


def measure_with_progress(
    candidates: Sequence[Candidate], images: Images, settings: Settings
) -> tuple[Benchmark, list[tuple[str, Measured]]]:
    """``run_benchmark`` under a progress bar on standard error."""
    total = len(candidates) * sum(len(turn) for turn in round_schedule(len(images), settings.rounds))
    with console.progress("cold starts", total, on="stderr") as bar:

        def advance(name: str, frames: int) -> None:
            bar.advance(frames, name if frames else f"cold start: {name}")

        return run_benchmark(candidates, images, settings, advance)


def prepare_folder(folder: Path) -> None:
    """Make the output folder and find out before the measuring, not after it, whether it can be written. Raises DiskError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"can't make the folder {folder}: {error.strerror or error}; choose another one with --output") from error
    check_writable(folder)
    remove_parts(folder)


def finish(benchmark: Benchmark) -> None:
    """End as ``errors`` documents. Raises BundleError if nothing ran, BudgetError if a decision found nothing."""
    own = [row for row in benchmark.rows if row.source is None]
    failed = [row for row in own if row.failure]
    if own and len(failed) == len(own):
        raise BundleError(f"none of the {len(failed)} rows could be measured; the first: {failed[0].failure}")
    missed = [decision.sentence for decision in benchmark.decisions if decision.chosen is None]
    if benchmark.decisions and len(missed) == len(benchmark.decisions):
        raise BudgetError("; ".join(missed))


@command
def main(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE", help="bundle folders, e.g. runs/latest/export/*")],
    data: Annotated[Path | None, typer.Option(help="where the data set lies; default: where the bundles were made from")] = None,
    data_name: Annotated[str | None, typer.Option(help=f"{', '.join(DATASETS)}; default: what the bundles were made from")] = None,
    split: Annotated[str, typer.Option(help="train, val or test")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="use so many images, spread evenly over the split")] = None,
    latency_budget_ms: Annotated[
        float | None, typer.Option(min=0.001, max=1e9, callback=finite, help="decide: the most accurate within it; exit code 3 if none is")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, max=100, callback=finite, help="mIoU points that a bundle may lie below its float one")
    ] = None,
    by: Annotated[By, typer.Option(help="the latency that budget, Pareto front and greyed rows go by")] = By.MODEL_P50,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="the images are measured in so many interleaved rounds")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads of every backend; default: the physical cores")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    include: Annotated[list[str] | None, typer.Option(help="torch: PyTorch eager, channels-last and torch.compile as rows, too")] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="an earlier benchmark.json; its rows join where machine and protocol are the same")
    ] = None,
    output: Annotated[Path, typer.Option(help="folder for benchmark.json, pareto.png and report.html")] = OUTPUT,
) -> None:
    """Measure bundles side by side: mIoU with its uncertainty against latency, cold start, memory and size.

    Example: `python -m rdd_deploy.benchmark runs/latest/export/* --data data/camvid --latency-budget-ms 15 --max-drop 1.0`
    """
    if unknown := set(include or ()) - {"torch"}:
        raise BundleError(f"--include {', '.join(sorted(unknown))} isn't known; expected torch")
    if include and importlib.util.find_spec("torch") is None:
        raise missing_package("torch", "train", "--include torch")
    parse_device(device)
    earlier = [(path, read_benchmark(path)) for path in {path.resolve(): path for path in compare or ()}.values()]
    threads = threads or available_cores()
    candidates = bundle_candidates(bundles, device, threads)
    if not candidates:
        raise BundleError("no bundle to measure; give folders that `python -m rdd_deploy.export --onnx` wrote, e.g. runs/latest/export/*")
    if all(candidate.failure for candidate in candidates):
        raise BundleError(f"none of the {len(candidates)} bundles can be read; the first: {candidates[0].failure}")
    candidates += torch_candidates(candidates) if include else []
    prepare_folder(output)
    name, images = open_images(candidates, data, data_name, split, limit)
    judge: LatencyMetric = by.value
    benchmark, results = measure_with_progress(candidates, images, Settings(name, split, device, threads, rounds, judge))
    benchmark = judged(merged(benchmark, earlier), latency_budget_ms, max_drop)
    try:
        show(benchmark)  # first of all: a full disk must not cost the figures
    finally:
        write_report(output, benchmark, gallery(results, images), images.label_space.palette)
    for warning in benchmark.warnings:
        console.warn(warning)
    console.info(f"{benchmark.seconds:.0f} s -> {output / 'report.html'}, pareto.png, benchmark.json")
    finish(benchmark)


if __name__ == "__main__":
    main()
