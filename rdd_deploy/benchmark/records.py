"""``benchmark.json``: typed, closed, with a schema version and the unit in every name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rdd_deploy.benchmark.options import LatencyMetric
from rdd_deploy.errors import BundleError
from rdd_deploy.utils.files import parse_json, read_file

SCHEMA_VERSION = 1
LARGEST_FILE = 64 << 20
Percent = Annotated[float, Field(ge=0, le=100)]
Points = Annotated[float, Field(ge=-100, le=100)]
Ms = Annotated[float, Field(ge=1e-6, le=1e9)]
Amount = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""Bounded, so that any file can be drawn and printed."""
Kind = Literal["bundle", "torch-eager", "torch-compile", "torch-channels-last"]
"""What a row measures: a bundle through ``rdd_deploy.runtime.Segmenter``, or a run's weights in PyTorch."""
TORCH_KINDS: tuple[Kind, ...] = ("torch-eager", "torch-channels-last", "torch-compile")
STAGES = ("decode", "resize", "infer", "resize back", "draw")


def _of_all_stages(times: dict[str, float]) -> dict[str, float]:
    if set(times) != set(STAGES):
        raise ValueError(f"got the stages {', '.join(times)}, expected {', '.join(STAGES)}")
    return times


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Protocol(_Closed):
    """What was measured and how. Rows share a table only where all of this is equal."""

    data: str
    split: str
    images: Annotated[int, Field(ge=1, le=2**53)]
    images_sha256: str
    """Of the decoded frames and labels, in order."""
    images_skipped: Count = 0
    labels_at: Literal["frame"] = "frame"
    device_asked: str
    threads: Annotated[int, Field(ge=1, le=2**53)]
    rounds: Annotated[int, Field(ge=1, le=2**53)]
    timed_frames: Annotated[int, Field(ge=1, le=2**53)]
    """Of each row, over all rounds."""
    warmup_frames_per_turn: Count
    bootstrap_resamples: Count
    confidence_pct: Percent
    seed: Count


class Machine(_Closed):
    """Where it ran. The first five fields decide whether rows are comparable, the rest explains them."""

    cpu_model: str
    architecture: str
    cores: Count
    governor: str | None
    """None where the system reports none (virtual machines, containers)."""
    gpu: str | None
    memory_gib: Amount | None
    system: str
    python: str
    versions: dict[str, str]
    load_average_before: Amount | None
    load_average_after: Amount | None = None

    def where(self, device: str) -> str:
        """The chip behind a row's device."""
        return self.gpu if device.startswith("cuda") and self.gpu else self.cpu_model


class Quantiles(_Closed):
    """Of wall-clock times in milliseconds."""

    p50_ms: Ms
    p95_ms: Ms
    p99_ms: Ms
    mean_ms: Ms


class Latency(_Closed):
    """``model`` is frame-sized bytes in, label bytes out, with all copies to and from a device. ``end_to_end`` adds the
    other stages.
    """

    frames: Count
    model: Quantiles
    end_to_end: Quantiles
    stages_p50_ms: Annotated[dict[str, Amount], AfterValidator(_of_all_stages)]
    model_p50_per_round_ms: list[Ms]
    model_throughput_fps: Amount
    end_to_end_throughput_fps: Amount

    def judged_ms(self, judge: LatencyMetric) -> float:
        """The figure that ``judge`` names."""
        part = self.model if judge.startswith("model") else self.end_to_end
        return part.p95_ms if judge.endswith("p95") else part.p50_ms


class ColdStart(_Closed):
    """In a fresh process: the backend's import, load and first label. Interpreter start, numpy and
    OpenCV stay outside.
    """

    load_ms: Amount
    first_label_ms: Amount
    """From the start of the load."""
    peak_memory_mib: Amount
    memory_before_load_mib: Amount
    runs: Count


class Accuracy(_Closed):
    """In percent; the interval is a bootstrap over images. A class that never occurs has None."""

    miou_pct: Percent
    miou_low_pct: Percent
    miou_high_pct: Percent
    pixel_accuracy_pct: Percent
    iou_pct: dict[str, Percent | None]


class Change(_Closed):
    """Against the float bundle, in percentage points; negative is worse. The interval resamples the same images for
    both.
    """

    reference: str
    miou_change_pct: Points
    miou_change_low_pct: Points
    miou_change_high_pct: Points
    iou_change_pct: dict[str, Points | None]
    worst_class: str | None
    worst_class_change_pct: Points | None
    label_agreement_pct: Percent


class Row(_Closed):
    """One bundle or network. ``failure`` says why there are no figures, or why some are missing."""

    name: str
    path: str
    backend: str
    precision: str
    device: str | None = None
    provider: str | None = None
    runtime: str | None = None
    """Package and version, e.g. ``onnxruntime 1.22.0``."""
    run: str | None = None
    """The training run that it comes from: bundles of one run share a float reference."""
    input_height: Count | None = None
    input_width: Count | None = None
    model_sha256: str | None = None
    file_size_bytes: Count | None = None
    measured_utc: str
    source: str | None = None
    """The file that it was merged from; None if it was measured in this run."""
    failure: str | None = None
    accuracy: Accuracy | None = None
    change: Change | None = None
    latency: Latency | None = None
    cold_start: ColdStart | None = None

    @property
    def measured(self) -> bool:
        """Whether it has both figures, from one artifact."""
        return self.failure is None and self.accuracy is not None and self.latency is not None

    @property
    def lacks_reference(self) -> bool:
        """Whether its change is unknown: no float bundle of its run and input size was measured."""
        return self.change is None and self.precision != "fp32"


class Decision(_Closed):
    """The answer to ``--latency-budget-ms`` and ``--max-drop`` for the rows of one device."""

    device: str
    latency_budget_ms: float | None
    max_drop_pct: float | None
    judge: LatencyMetric
    chosen: str | None
    nearest: str | None
    sentence: str


class Benchmark(_Closed):
    """The whole file."""

    schema_version: Literal[1] = 1
    created_utc: str
    seconds: Amount
    judge: LatencyMetric
    classes: Annotated[list[str], Field(max_length=255)]
    protocol: Protocol
    machine: Machine
    rows: Annotated[list[Row], Field(max_length=1000)]
    dominated: list[str] = []
    """Names of rows that another row of the same table dominates in mIoU and latency."""
    decisions: list[Decision] = []
    warnings: list[str] = []

    def tables(self) -> dict[str, list[Row]]:
        """Rows by the device that they really ran on; failed rows stand in the first table."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.measured:
                found.setdefault(row.device or "?", []).append(row)
        first = next(iter(found), "none")
        for row in self.rows:
            if not row.measured:
                found.setdefault(first, []).append(row)
        return found


def read_benchmark(path: Path) -> Benchmark:
    """Read and check a ``benchmark.json``. Raises BundleError with what is wrong with it.

    Older files may hold ``apart``: rows of other files that couldn't be compared with theirs. They are left out.
    """
    again = "give a benchmark.json that `python -m rdd_deploy.benchmark` wrote"
    try:
        value: Any = parse_json(read_file(path, LARGEST_FILE))
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror or error}; {again}") from error
    except ValueError as error:
        raise BundleError(f"{path} isn't JSON ({error}); {again}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(f"{path} has schema version {version!r}, expected {SCHEMA_VERSION}; {again}")
    value.pop("apart", None)
    try:
        return Benchmark.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise BundleError(f"{path} isn't a benchmark ({where}: {problem['msg']}); {again}") from error
