"""What large data cost in bytes, hours and machines, and which part of a training saturates first at 1, 8 and 64 GPUs.

    python scripts/scaling.py              # the tables of docs/scaling.md
    python scripts/scaling.py --write      # write them there

Every number comes from a constant of ``CONSTANTS``, which says whether it was measured or is assumed. Put your own
there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

DOC = Path(__file__).parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- begin: scripts/scaling.py -->", "<!-- end: scripts/scaling.py -->"

CONSTANTS = {
    "crop_ms": (
        3.1,
        "ms of a core for a 360x360 crop with jitter, by its pixels for others",
        "measured: design.md, small measurements",
    ),
    "cache_11": (8.0, "bytes a grid point of the cache, 11 classes, grid of stride 4", "by construction: recipes.md"),
    "cache_19": (13.0, "the same, 19 classes", "by construction"),
    "cache_150": (25.0, "the same, 150 classes", "by construction"),
    "resident_share": (1 / 3, "of a GPU's memory that data.device: auto takes at most", "by construction"),
    "gpu_bytes": (85e9, "bytes of a GPU's memory (H100, 80 GB)", "its data sheet"),
    "gpu_flops": (
        200e12,
        "FLOP/s that a network's bf16 convolutions reach on an H100",
        "ASSUMED: a fifth of the peak, to be measured",
    ),
    "teacher_macs": (2372e9, "multiply-adds of DeepLabV3-R101 on 1024x2048", "published with CIRKD (CVPR 2022)"),
    "student_macs": (572e9, "multiply-adds of DeepLabV3-R18 on 1024x2048", "published there"),
    "student_parameters": (13.6e6, "of DeepLabV3-R18", "published there"),
    "small_rate": (
        3000.0,
        "images/s of MobileNetV3-large LR-ASPP at 360x360 on a GPU",
        "ASSUMED: the project's bar, to be measured",
    ),
    "small_parameters": (3.3e6, "of it", "counted"),
    "decode_mp": (150.0, "megapixels/s of a core that decodes JPEG or PNG", "ASSUMED"),
    "cores": (16.0, "CPU cores for each GPU", "ASSUMED"),
    "memory": (1e12, "bytes of memory of a machine of 8 GPUs", "ASSUMED"),
    "file_share": (1 / 2, "of it that keeps files which were read before (the system's page cache)", "ASSUMED"),
    "disk": (3e9, "bytes/s that a machine of 8 GPUs reads from its own disk", "ASSUMED: one NVMe disk"),
    "shared_disk": (10e9, "bytes/s of a file system that all machines share", "ASSUMED"),
    "link_inside": (300e9, "bytes/s of an all-reduce between GPUs of a machine", "ASSUMED: NVLink"),
    "link_between": (40e9, "bytes/s of an all-reduce between machines", "ASSUMED: 400 Gbit/s each"),
    "latency": (60e-6, "seconds that an all-reduce takes at least", "ASSUMED"),
}
C = {name: value for name, (value, _, _) in CONSTANTS.items()}
FULL = 1024 * 2048


class Data(NamedTuple):
    name: str
    frames: int
    height: int
    width: int
    file_bytes: float
    """Of a frame's image file."""
    grid: tuple[int, int]
    """The teacher's frame, of which every fourth pixel each way is kept."""
    per_point: float
    crop: tuple[int, int]
    iterations: int

    @property
    def decoded(self) -> float:
        return self.frames * self.height * self.width * 4.0  # three colours and a label

    @property
    def cache(self) -> float:
        return self.frames * self.grid[0] * self.grid[1] / 16 * self.per_point


DATA = (
    Data("CamVid", 367, 360, 480, 0.35e6, (360, 480), C["cache_11"], (360, 360), 40_000),
    Data("Cityscapes", 2975, 1024, 2048, 2.3e6, (1024, 2048), C["cache_19"], (512, 1024), 40_000),
    Data("ADE20k", 20_210, 512, 683, 46e3, (512, 512), C["cache_150"], (512, 512), 40_000),
    Data(
        "a million unlabelled 1280x720", 1_000_000, 720, 1280, 0.2e6, (512, 1024), C["cache_19"], (512, 1024), 500_000
    ),
)
"""Frames, sizes and crops are the sets' and the paper's; bytes of a file and the million's iterations (8 passes of batch 16) are assumed."""


def seconds(macs: float, pixels: float, passes: float) -> float:
    """On one GPU, for a network that was counted on 1024x2048; a backward counts two passes."""
    return 2 * macs * passes * pixels / FULL / C["gpu_flops"]


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def costs() -> list[str]:
    lines = [
        (
            "| data | files | decoded | cache | held on an 80 GB GPU | to fill the cache, GPU-h | to look at and decode"
            " once, core-h | 16 a step: R18 from the cache, GPU-h | live R101, GPU-h |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in DATA:
        room = C["resident_share"] * C["gpu_bytes"]
        held = "frames and cache" if one.decoded + one.cache < room else "the cache" if one.cache < room else "nothing"
        fill = one.frames * seconds(C["teacher_macs"], one.grid[0] * one.grid[1], 2)  # the frame and its mirror image
        look = one.frames * one.height * one.width / 1e6 / C["decode_mp"]
        crops = 16.0 * one.iterations
        pixels = one.crop[0] * one.crop[1]
        student, teacher = crops * seconds(C["student_macs"], pixels, 3), crops * seconds(C["teacher_macs"], pixels, 1)
        cells = [f"{number(size / 1e9)} GB" for size in (one.frames * one.file_bytes, one.decoded, one.cache)] + [held]
        cells += [number(time / 3600) for time in (fill, look, student, student + teacher)]
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    return lines


class Case(NamedTuple):
    """A training of 16 crops a GPU and step."""

    name: str
    rate: float
    """Images/s of a GPU that waits for nothing."""
    parameters: float
    pixels: float
    cached: float
    """Bytes that a crop reads of the cache."""
    megapixels: float
    """That are decoded for a crop; 0 where frames stay in memory."""
    file: float
    data: Data

    @property
    def in_memory(self) -> bool:
        """Whether files and cache are read once only, for the machine's memory holds them from then on."""
        whole = self.data.cache + (self.data.frames * self.file if self.file else 0)
        return whole < C["file_share"] * C["memory"]


def cases() -> list[Case]:
    city = DATA[1]
    pixels = float(city.crop[0] * city.crop[1])
    r18 = 1 / seconds(C["student_macs"], pixels, 3)
    per_crop = city.crop[0] * city.crop[1] / 16 * C["cache_19"]
    return [
        Case(
            "small student, 360x360, frames in RAM",
            C["small_rate"],
            C["small_parameters"],
            360.0 * 360,
            360 * 360 / 16 * C["cache_11"],
            0,
            0,
            DATA[0],
        ),
        Case("R18, Cityscapes, frames in RAM", r18, C["student_parameters"], pixels, per_crop, 0, 0, city),
        Case(
            "R18, Cityscapes, decoded each time",
            r18,
            C["student_parameters"],
            pixels,
            per_crop,
            FULL / 1e6,
            city.file_bytes,
            city,
        ),
        Case(
            "R18, a million frames",
            r18,
            C["student_parameters"],
            pixels,
            per_crop,
            720 * 1280 / 1e6,
            DATA[3].file_bytes,
            DATA[3],
        ),
    ]


def core_seconds(case: Case) -> float:
    return C["crop_ms"] / 1000 * case.pixels / 360**2 + case.megapixels / C["decode_mp"]


def all_reduce(case: Case, gpus: int) -> float:
    """Seconds of a step's all-reduce of float32 gradients, as a ring."""
    if gpus == 1:
        return 0.0
    return (
        C["latency"] + 2 * 4 * case.parameters * (gpus - 1) / gpus / C["link_inside" if gpus <= 8 else "link_between"]
    )


def limits(case: Case, gpus: int) -> dict[str, float]:
    """Images/s that each part could serve, once all was read for the first time."""
    machines = -(-gpus // 8)
    read = 0.0 if case.in_memory else case.cached + case.file
    return {
        "GPUs": gpus * case.rate,
        "cores": gpus * C["cores"] / core_seconds(case),
        "all-reduce": 16 * gpus / reduced if (reduced := all_reduce(case, gpus)) else np.inf,
        "own disks": machines * C["disk"] / read if read else np.inf,
        "shared disk": C["shared_disk"] / read if read else np.inf,
    }


def simulated(case: Case, gpus: int, steps: int = 1500, jitter: float = 0.35, prefetch: int = 2) -> float:
    """Images/s of synchronous training: a loader's processes take batches in turn, at most ``prefetch`` each ahead, and
    a step begins when every GPU has its batch. A batch's time is drawn (log-normal), disks serve all at their rate.
    """
    workers, rng = int(C["cores"]), np.random.default_rng(0)
    own = 16 * core_seconds(case)
    reading = (
        (0.0 if case.in_memory else 16.0)
        * gpus
        * (case.cached + case.file)
        / min(-(-gpus // 8) * C["disk"], C["shared_disk"])
    )
    # Nothing of it hidden behind the backward: the least favourable case.
    step = 16 / case.rate + all_reduce(case, gpus)
    free, read, ends = np.zeros((workers, gpus)), 0.0, np.zeros(steps)
    for number in range(steps):
        begun = ends[number - prefetch * workers] if number >= prefetch * workers else 0.0
        read = max(read, begun) + reading
        noise = rng.lognormal(-(jitter**2) / 2, jitter, gpus)
        ready = np.maximum(np.maximum(free[number % workers], begun) + own * noise, read)
        free[number % workers] = ready
        ends[number] = max(ends[number - 1] if number else 0.0, float(ready.max())) + step
    half = steps // 2
    return float(16 * gpus / np.polyfit(np.arange(half, steps), ends[half:], 1)[0])


def saturation() -> list[str]:
    lines = [
        "| training | GPUs | " + " | ".join(limits(cases()[0], 8)) + " | first | simulated | of the GPUs |",
        "|" + "---|" * 10,
    ]
    for case in cases():
        for gpus in (1, 8, 64):
            found = limits(case, gpus)
            first = min(found, key=lambda name: found[name])
            got = simulated(case, gpus)
            rates = " | ".join("–" if value == np.inf else number(value) for value in found.values())
            lines.append(
                f"| {case.name} | {gpus} | {rates} | {first} | {number(got)} | {100 * got / found['GPUs']:.0f} % |"
            )
    return lines


def tables() -> str:
    rows = [f"| `{name}` | {value:.3g} | {what} | {source} |" for name, (value, what, source) in CONSTANTS.items()]
    constants = ["| constant | value | what | from |", "|---|---|---|---|", *rows]
    parts = (
        ("## Constants", constants),
        ("## What data cost", costs()),
        ("## Images a second that each part can serve", saturation()),
    )
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    if not parser.parse_args().write:
        print(tables())
        return
    before, _, rest = DOC.read_text(encoding="utf-8").partition(BEGIN)
    DOC.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
