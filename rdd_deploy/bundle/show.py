"""``rdd-deploy bundle show``: what a bundle is, for people or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdd_deploy import console
from rdd_deploy.bundle.archive import as_folder
from rdd_deploy.errors import RddError
from rdd_deploy.runtime.manifest import MANIFEST, Manifest, read_manifest
from rdd_deploy.utils.files import json_text

if TYPE_CHECKING:
    from rdd_deploy.benchmark.records import Benchmark

BENCHMARK = Path("runs/benchmark/benchmark.json")


@console.command
def main(
    bundle: Annotated[Path, typer.Argument(help="the bundle's folder, or a .tar that `bundle pack` wrote")],
    benchmark: Annotated[
        Path | None, typer.Option(help=f"benchmark.json with its latency; default: {BENCHMARK}, where it is there")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON in place of tables")] = False,
) -> None:
    """What a bundle is: classes, input, target, precision, sizes, accuracy, latency where it was benchmarked, and where
    it comes from.

    Hashes aren't checked: `rdd-deploy bundle verify` does that.

    Example: `rdd-deploy bundle show runs/latest/export/onnxruntime-int8`
    """
    with as_folder(bundle) as folder:
        manifest = read_manifest(folder, verify=False)
        sizes = {name: (folder / name).stat().st_size for name in (MANIFEST, *manifest.files)}
    latency = list(_latency(manifest, benchmark))
    if json:
        files = {name: {"bytes": size, "sha256": manifest.files.get(name)} for name, size in sizes.items()}
        value = {"bundle": str(bundle), "bytes": sum(sizes.values()), "files": files, "latency": latency}
        console.info(*json_text(value | {"manifest": manifest.model_dump(mode="json")}).splitlines())
        return
    facts = list(_facts(manifest, sizes, latency))
    console.show(str(bundle), console.table(("", manifest.name), facts, left=(0, 1), framed=False))
    measured = manifest.metrics.iou_pct if manifest.metrics else {}
    rows = [
        (f"{index}", name, f"#{r:02x}{g:02x}{b:02x}", _figure(measured.get(name)))
        for index, (name, (r, g, b)) in enumerate(zip(manifest.classes, manifest.palette, strict=True))
    ]
    console.show("classes", console.table(("id", "class", "colour", "IoU %"), rows, left=(1, 2), framed=False))


def _facts(manifest: Manifest, sizes: dict[str, int], latency: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    size, rule = manifest.input, manifest.preprocessing
    yield "target", f"{manifest.backend}, profile {manifest.profile}"
    yield "precision", manifest.precision
    yield "input", f"frame: {size.dtype}[1, {size.height}, {size.width}, 3], {size.color}, 0 to 255"
    yield "output", f"labels: uint8[1, {size.height}, {size.width}], class ids 0 to {len(manifest.classes) - 1}"
    yield (
        "frames",
        (
            f"halved ({rule.halve_interpolation}) while even and at least twice as large, then {rule.interpolation}, or"
            f" {rule.shrink_interpolation} where that shrinks by {rule.shrink_from:g} or more; the aspect ratio isn't"
            " kept"
        ),
    )
    yield "labels", f"to the frame's size by {manifest.postprocessing.interpolation}"
    yield "accuracy", _accuracy(manifest)
    for row in latency:
        yield (
            "latency",
            (
                f"{row['model_p50_ms']:.2f} ms the model, {row['end_to_end_p50_ms']:.2f} ms a frame (medians) on"
                f" {row['machine']}, {row['provider'] or row['device']}, {row['measured_utc']}"
            ),
        )
    if not latency:
        yield "latency", "not benchmarked here"
    if manifest.engine is not None:
        engine = manifest.engine
        yield "engine", f"{engine.package} {engine.version} for {engine.gpu or ', '.join(engine.compute_capabilities)}"
    elif manifest.needs_engine:
        yield "engine", "none: built on its GPU from graph.onnx, `rdd-deploy export FOLDER --trt`"
    if manifest.forced:
        yield "forced", "it lost more accuracy than its gate allows"
    yield "size", f"{sum(sizes.values()) / 1e6:.3f} MB in {len(sizes)} files"
    for name, count in sizes.items():
        yield "", f"{name}: {count} bytes"
    for key, value in manifest.provenance.items():
        if value not in (None, ""):
            yield key, str(value)


def _accuracy(manifest: Manifest) -> str:
    metrics = manifest.metrics
    if metrics is None:
        return "not measured"
    told = f"mIoU {_figure(metrics.miou_pct)} % on {metrics.images} images of {metrics.data} {metrics.split}"
    return told if metrics.float_miou_pct is None else f"{told}; the float network {_figure(metrics.float_miou_pct)} %"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _latency(manifest: Manifest, path: Path | None) -> Iterator[dict[str, Any]]:
    """Rows of a benchmark that measured this very model file."""
    if path is None and not BENCHMARK.is_file():
        return
    from rdd_deploy.benchmark.records import read_benchmark

    try:
        benchmark: Benchmark = read_benchmark(path or BENCHMARK)
    except RddError as error:
        if path is not None:
            raise
        console.warn(f"latency isn't shown: {error}")
        return
    for row in benchmark.rows:
        if row.model_sha256 == manifest.files[manifest.model] and row.latency is not None:
            yield {
                "model_p50_ms": row.latency.model.p50_ms,
                "end_to_end_p50_ms": row.latency.end_to_end.p50_ms,
                "machine": benchmark.machine.where(row.device or "cpu"),
                "device": row.device,
                "provider": row.provider,
                "threads": benchmark.protocol.threads,
                "measured_utc": row.measured_utc,
            }


if __name__ == "__main__":
    main()
