"""``rdd-deploy benchmark``: mIoU against latency of any set of bundles, side by side in one process: table, JSON, plot
and a page.

Both figures of a row come from the same artifact: the inferences that are counted for the mIoU are the ones that are
timed. Runs on the edge install; ``--include torch`` and the plot need more.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.benchmark.options import LatencyMetric, Settings
from rdd_deploy.console import command
from rdd_deploy.errors import BundleError, missing_package
from rdd_deploy.utils.arguments import MAX_COUNT, finite
from rdd_deploy.utils.machine import MAX_THREADS, available_cores

OUTPUT = Path("runs/benchmark")


@command
def main(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE", help="bundle folders, e.g. runs/latest/export/*")],
    data: Annotated[
        Path | None, typer.Option(help="where the data set lies; default: where the bundles were made from")
    ] = None,
    data_name: Annotated[
        str | None, typer.Option(help="name of the data set; default: what the bundles were made from")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test")] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="use so many images, spread evenly over the split")
    ] = None,
    latency_budget_ms: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1e9, callback=finite, help="decide: the most accurate within it; exit code 3 if none is"
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=100, callback=finite, help="mIoU points that a bundle may lie below its float one"),
    ] = None,
    by: Annotated[
        LatencyMetric, typer.Option(help="the latency that budget, Pareto front and dominated rows go by")
    ] = LatencyMetric.MODEL_P50,
    rounds: Annotated[
        int, typer.Option(min=1, max=50, help="the images are measured in so many interleaved rounds")
    ] = 5,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_THREADS, help="CPU threads of every backend; default: the physical cores"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    include: Annotated[
        list[str] | None, typer.Option(help="torch: PyTorch eager, channels-last and torch.compile as rows, too")
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="an earlier benchmark.json; its rows join the table; refused where machine or protocol differ"
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="folder for benchmark.json, report.html and, with matplotlib, pareto.png")
    ] = OUTPUT,
) -> None:
    """Measure bundles side by side: mIoU with its uncertainty against latency, cold start, memory and size.

    Example: `python -m rdd_deploy.benchmark runs/latest/export/* --data data/camvid --latency-budget-ms 15 --max-drop 1.0`
    """
    if unknown := set(include or ()) - {"torch"}:
        raise BundleError(f"--include {', '.join(sorted(unknown))} isn't known; expected torch")
    if include and importlib.util.find_spec("torch") is None:
        raise missing_package("torch", "train", "--include torch")

    from rdd_deploy.benchmark.compare import check_comparable, merged
    from rdd_deploy.benchmark.images import open_images
    from rdd_deploy.benchmark.records import read_benchmark
    from rdd_deploy.benchmark.report.gallery import gallery
    from rdd_deploy.benchmark.report.terminal import show
    from rdd_deploy.benchmark.report.write import NO_PLOT, prepare_folder, write_report
    from rdd_deploy.benchmark.runners import bundle_candidates, torch_candidates
    from rdd_deploy.benchmark.session import describe, finish, judged, measure_with_progress, protocol_of
    from rdd_deploy.runtime.backends.base import parse_device

    parse_device(device)
    earlier = [(path, read_benchmark(path)) for path in {path.resolve(): path for path in compare or ()}.values()]
    threads = threads or available_cores()
    candidates = bundle_candidates(bundles, device, threads)
    if not candidates:
        raise BundleError(
            "no bundle to measure; give folders that `python -m rdd_deploy.export --onnx` wrote, e.g."
            " runs/latest/export/*"
        )
    if all(candidate.failure for candidate in candidates):
        raise BundleError(f"none of the {len(candidates)} bundles can be read; the first: {candidates[0].failure}")
    candidates += torch_candidates(candidates) if include else []
    prepare_folder(output)
    name, images = open_images([one.manifest for one in candidates if one.manifest], data, data_name, split, limit)
    settings = Settings(name, split, device, threads, rounds, by)
    if earlier:  # before the measuring, not after it
        check_comparable(describe(), protocol_of(images, settings), images.label_space.classes, earlier)
    benchmark, results = measure_with_progress(candidates, images, settings)
    benchmark = judged(merged(benchmark, earlier), latency_budget_ms, max_drop)
    try:
        show(benchmark)  # first of all: a full disk must not cost the figures
    finally:
        written = write_report(output, benchmark, gallery(results, images), images.label_space.palette)
    for warning in benchmark.warnings:
        console.warn(warning)
    console.info(f"{benchmark.seconds:.0f} s -> {output / written[0]}, {', '.join(written[1:])}")
    if not any(file.endswith(".png") for file in written):
        console.info(NO_PLOT)
    finish(benchmark)


if __name__ == "__main__":
    main()
