"""What INT8 costs and gains on the CPU, for one trained student.

    python scripts/int8.py RUN [--data ROOT] [--rounds 20] [--limit N] [--json FILE]

Rows: torch eager, onnxruntime FP32 and INT8, OpenVINO FP32, bf16 and INT8, and NNCF's default on the same network and
images where NNCF is installed. Columns: mIoU on val, drop against torch in points, p50 latency of one frame in ms,
megabytes of the model, and the share of the upsampling + argmax tail in the latency. All backends are timed in turn,
TURN frames each, in one process and with the same number of threads, so that a busy machine slows all of them alike;
the load before and after is printed. A turn opens with WARMUP untimed frames, as in `rdd-deploy benchmark`: a network
in use has the caches to itself, and right after six others it would wait for its weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.utils

from rdd_deploy import console
from rdd_deploy.errors import RddError
from rdd_deploy.export.compare import Comparison, Infer, Reference, compare, reference_from
from rdd_deploy.export.onnx.graph import INPUT
from rdd_deploy.export.onnx.postprocess import TAIL
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import load_profile
from rdd_deploy.export.trained_run import TrainedRun, open_run
from rdd_deploy.runtime import Segmenter, read_manifest
from rdd_deploy.runtime.backends.openvino import shared_core
from rdd_deploy.utils import files
from rdd_deploy.utils.machine import machine

PROFILES = ("onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-bf16", "openvino-int8")
TURN, WARMUP = 20, 3


class Row(NamedTuple):
    """One line of the table."""

    name: str
    miou_pct: float
    drop_pct: float
    p50_ms: float
    p10_ms: float
    megabytes: float
    tail_share_pct: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=20, help=f"turns per backend, of {TURN} frames each")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, help="val frames")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    source = open_run(arguments.run, arguments.data)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="rdd-int8-") as name:
        bundles = {
            profile: path
            for profile in PROFILES
            if (path := exported(source, profile, Path(name), arguments.limit)) is not None
        }
        reference = reference_from(
            source.infer(), source.split("val", arguments.limit), source.data.size, source.data.name, "val"
        )
        rows = measured(source, bundles, reference, arguments.rounds, arguments.threads)
    show(
        rows,
        f"{source.run.path.name}, {source.data.name} val, {len(reference.labels)} images,"
        f" {source.data.size[0]}x{source.data.size[1]}",
    )
    console.info(
        f"{machine()}, {arguments.threads} threads, load before {load[0]:.1f}, after {os.getloadavg()[0]:.1f},"
        f" {time.strftime('%Y-%m-%d')}"
    )
    if arguments.json:
        files.write_json(
            arguments.json, {"rows": [row._asdict() for row in rows], "machine": machine(), "load": list(load)}
        )


def exported(source: TrainedRun, profile: str, folder: Path, limit: int | None) -> Path | None:
    """The bundle of a profile; None where its backend isn't here."""
    try:
        return export_profile(source, load_profile(profile), folder, Options(limit=limit, force=True))[0]
    except RddError as error:
        console.warn(f"{profile}: {error}")
        return None


def measured(
    source: TrainedRun, bundles: dict[str, Path], reference: Reference, rounds: int, threads: int
) -> list[Row]:
    """Accuracy one by one, latency in turn."""
    import torch

    torch.set_num_threads(threads)
    runtimes = {name: Segmenter.load(path, device="cpu", threads=threads) for name, path in bundles.items()}
    candidates: dict[str, Infer] = {
        "torch eager": source.infer(),
        **{name: runtime.infer for name, runtime in runtimes.items()},
    }
    sizes = {name: (path / read_manifest(path).model).stat().st_size / 1e6 for name, path in bundles.items()}
    sizes["torch eager"] = source.run.weights().stat().st_size / 1e6
    if (nncf := nncf_default(source, bundles, reference, threads)) is not None:
        candidates["openvino NNCF default"], sizes["openvino NNCF default"] = nncf
    comparisons: dict[str, Comparison] = {name: compare(infer, reference, name) for name, infer in candidates.items()}
    times = in_turn(candidates, reference, rounds)
    for runtime in runtimes.values():
        runtime.close()
    shares = {
        name: tail_share(path, reference, rounds, threads) for name, path in bundles.items() if name != "openvino-bf16"
    }
    return [
        Row(name, comparisons[name].miou_pct, comparisons[name].drop_pct, 1e3 * statistics.median(times[name]),
            1e3 * sorted(times[name])[len(times[name]) // 10], sizes[name], shares.get(name))
        for name in candidates
    ]  # fmt: skip


def in_turn(candidates: dict[str, Infer], reference: Reference, rounds: int) -> dict[str, list[float]]:
    """Seconds of ``infer`` per candidate: turn by turn, of which each round has one for every candidate."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds):
        blobs = [reference.network_input((turn * TURN + frame) % len(reference.labels)) for frame in range(TURN)]
        for name, infer in candidates.items():
            for network_input in blobs[:WARMUP]:
                infer(network_input)
            for network_input in blobs:
                start = time.perf_counter()
                infer(network_input)
                times[name].append(time.perf_counter() - start)
    return times


def nncf_default(
    source: TrainedRun, bundles: dict[str, Path], reference: Reference, threads: int
) -> tuple[Infer, float] | None:
    """NNCF's post-training quantisation with its defaults, on the same float graph and the same calibration frames.

    The tail isn't offered to it: asked for a range of each class, OpenVINO can't compile it (and with the other form,
    whose products NNCF quantises, it was slower and no more accurate).
    """
    try:
        import nncf
        import openvino
    except ImportError:
        console.warn("NNCF isn't installed (pip install nncf): its row is left out")
        return None
    profile = load_profile("openvino-int8")
    frames = source.calibration_frames(profile.calibration, reference.size, "val")
    model = shared_core(openvino).read_model(str(bundles["openvino-fp32"] / "model.onnx"))
    dataset = nncf.Dataset(range(len(frames)), lambda position: {INPUT: frames.network_input(position)})
    tail = nncf.IgnoredScope(patterns=[f"{TAIL}/.*"], validate=False)
    quantised = nncf.quantize(model, dataset, subset_size=len(frames), ignored_scope=tail)
    request = shared_core(openvino).compile_model(quantised, "CPU", openvino_options(threads)).create_infer_request()
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(quantised, str(Path(folder) / "model.xml"))
        size = (Path(folder) / "model.bin").stat().st_size / 1e6
    return lean(request), size


def tail_share(bundle: Path, reference: Reference, rounds: int, threads: int) -> float:
    """Percent of the latency that is gone when the graph ends before the upsampling to the frame's size: timed in turn,
    the median round.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(bundle / "model.onnx"))
    short = onnx.utils.Extractor(model).extract_model([INPUT], [logits_of(model)])
    make = openvino_infer if read_manifest(bundle).backend == "openvino" else onnxruntime_infer
    times = in_turn({"whole": make(model, threads), "short": make(short, threads)}, reference, rounds)
    short_s, whole_s = (np.median(np.reshape(times[name], (rounds, TURN)), axis=1) for name in ("short", "whole"))
    return float(100 * np.median(1 - short_s / whole_s))


def logits_of(model: onnx.ModelProto) -> str:
    """The tensor that is brought to the frame's size."""
    makers = {output: node for node in model.graph.node for output in node.output}
    if (first := next((node for node in model.graph.node if node.name.startswith(f"{TAIL}/")), None)) is not None:
        return str(first.input[0])
    node = makers[model.graph.output[0].name]
    while node.op_type != "Resize":
        node = makers[node.input[0]]
    return str(node.input[0])


def openvino_infer(model: onnx.ModelProto, threads: int) -> Infer:
    """As `rdd_deploy.runtime` runs it."""
    import openvino

    core = shared_core(openvino)
    return lean(
        core.compile_model(
            core.read_model(model.SerializeToString()), "CPU", openvino_options(threads)
        ).create_infer_request()
    )


def openvino_options(threads: int) -> dict[str, str | int]:
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}


def lean(request: Any) -> Infer:
    """An infer request of OpenVINO as a function, through its own tensors."""

    def infer(network_input: np.ndarray) -> np.ndarray:
        request.get_input_tensor().data[:] = network_input
        request.infer(share_outputs=True)
        return np.array(request.get_output_tensor().data)

    return infer


def onnxruntime_infer(model: onnx.ModelProto, threads: int) -> Infer:
    """As `rdd_deploy.runtime` runs it."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads, settings.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return lambda network_input: np.asarray(session.run(None, {INPUT: network_input})[0])


def show(rows: list[Row], title: str) -> None:
    """Print the table with the speed against the same backend's FP32."""
    cells = []
    middle = {row.name: row.p50_ms for row in rows}
    for row in rows:
        base = middle.get(f"{row.name.split('-')[0].split(' ')[0]}-fp32")
        ratio = f"{base / row.p50_ms:.2f} x" if base else "-"
        tail = "-" if row.tail_share_pct is None else f"{row.tail_share_pct:.1f}"
        figures = (
            f"{row.miou_pct:.2f}",
            f"{row.drop_pct:+.2f}",
            f"{row.p50_ms:.1f}",
            f"{row.p10_ms:.1f}",
            f"{row.megabytes:.1f}",
        )
        cells.append((row.name, *figures, ratio, tail))
    console.show(
        title, console.table(("", "mIoU %", "drop", "p50 ms", "p10 ms", "MB", "against its FP32", "tail %"), cells)
    )


if __name__ == "__main__":
    main()
