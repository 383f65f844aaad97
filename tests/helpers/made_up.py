"""Records with made-up figures."""

from __future__ import annotations

from rdd_deploy.benchmark.records import (
    Accuracy,
    Benchmark,
    Change,
    ColdStart,
    Latency,
    Machine,
    Protocol,
    Quantiles,
    Row,
)

CLASSES = ["blue", "green", "red"]


def quantiles(p50: float, p95: float | None = None) -> Quantiles:
    tail = p95 if p95 is not None else 1.5 * p50
    return Quantiles(p50_ms=p50, p95_ms=tail, p99_ms=tail + 1, mean_ms=1.1 * p50)


def row(
    name: str,
    ms: float,
    miou: float,
    *,
    device: str = "cpu",
    drop: float | None = None,
    p95: float | None = None,
    **more,
) -> Row:
    """A measured row; ``drop`` gives it a change against a row called float."""
    change = None
    if drop is not None:
        change = Change(
            reference="float", miou_change_pct=-drop, miou_change_low_pct=-drop - 1, miou_change_high_pct=-drop + 1,
            iou_change_pct={"blue": -3 * drop, "green": 0.0, "red": None}, worst_class="blue", worst_class_change_pct=-3 * drop,
            label_agreement_pct=97.0,
        )  # fmt: skip
    fields = {
        "name": name, "path": f"export/{name}", "backend": "onnxruntime", "precision": "fp32", "device": device, "provider": "X",
        "runtime": "onnxruntime 1.2.3", "run": "toy", "input_height": 48, "input_width": 64, "model_sha256": "0" * 64,
        "file_size_bytes": 3_000_000, "measured_utc": "2026-01-02T03:04:05+00:00",
        "accuracy": Accuracy(
            miou_pct=miou, miou_low_pct=miou - 1, miou_high_pct=miou + 1, pixel_accuracy_pct=90.0,
            iou_pct={"blue": miou, "green": 50.0, "red": None},
        ),
        "change": change,
        "latency": Latency(
            frames=60, model=quantiles(ms, p95), end_to_end=quantiles(ms + 5), model_p50_per_round_ms=[ms, ms],
            stages_p50_ms={"decode": 2.0, "resize": 0.5, "infer": ms, "resize back": 0.5, "draw": 2.0},
            model_throughput_fps=1000 / ms, end_to_end_throughput_fps=1000 / (ms + 5),
        ),
        "cold_start": ColdStart(load_ms=100, first_label_ms=120, peak_memory_mib=150, memory_before_load_mib=60, runs=3),
    } | more  # fmt: skip
    return Row.model_validate(fields)


def failed(name: str, why: str) -> Row:
    return row(name, 1, 50, failure=why, accuracy=None, latency=None, cold_start=None, device=None)


def machine(**more) -> Machine:
    fields = {
        "cpu_model": "Toy CPU", "architecture": "x86_64", "cores": 2, "governor": "performance", "gpu": None, "memory_gib": 8.0,
        "system": "Linux 6", "python": "3.11", "versions": {"onnxruntime": "1.2.3"}, "load_average_before": 0.1, "load_average_after": 0.9,
    } | more  # fmt: skip
    return Machine.model_validate(fields)


def protocol(**more) -> Protocol:
    fields = {
        "data": "toy", "split": "val", "images": 12, "images_sha256": "ab" * 32, "device_asked": "auto", "threads": 2, "rounds": 5,
        "timed_frames": 60, "warmup_frames_per_turn": 3, "bootstrap_resamples": 2000, "confidence_pct": 95.0, "seed": 0,
    } | more  # fmt: skip
    return Protocol.model_validate(fields)


def benchmark(*rows: Row, **more) -> Benchmark:
    fields = {
        "created_utc": "2026-01-02T03:04:05+00:00", "seconds": 12.5, "judge": "model-p50", "classes": CLASSES, "protocol": protocol(),
        "machine": machine(), "rows": list(rows),
    } | more  # fmt: skip
    return Benchmark.model_validate(fields)
