"""Which ranges does a profile like best? Every calibration method, judged on train frames that didn't calibrate; val
stays unseen.

    python scripts/ranges.py RUN [RUN ...] [--profile openvino-int8] [--frames 100] [--json FILE]

Columns: share of labels equal to the float network's, and mIoU in points above the float network's, both through the
profile's own backend and without any fallback. A default chosen here isn't fitted to the frames that it will be
measured on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from rdd_deploy import console
from rdd_deploy.data.base import Subset, evenly_spaced
from rdd_deploy.export.compare import Reference, reference_from
from rdd_deploy.export.pipeline import measured
from rdd_deploy.export.profile import Calibration, Profile, load_profile
from rdd_deploy.export.quantization.calibrate import calibrated
from rdd_deploy.export.quantization.qdq import qdq_from_onnx
from rdd_deploy.export.quantization.schemes import open_scheme
from rdd_deploy.export.trained_run import TrainedRun, open_run
from rdd_deploy.utils import files

METHODS = {
    "minmax": {},
    "percentile 99.9": {"method": "percentile", "percentile": 99.9},
    "percentile 99.99": {"method": "percentile", "percentile": 99.99},
    "percentile 99.999": {"method": "percentile", "percentile": 99.999},
    "mse": {"method": "mse"},
    "entropy": {"method": "entropy"},
}


class Row(NamedTuple):
    """One method on one run; percent, and points against the float network."""

    run: str
    method: str
    agreement_pct: float
    miou_change: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--profile", default="openvino-int8")
    parser.add_argument("--frames", type=int, default=100, help="train frames to judge on")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile)
    assert profile.calibration is not None, "a float profile has no ranges"
    rows: list[Row] = []
    for path in arguments.runs:
        source = open_run(path)
        reference = unseen(source, profile, arguments.frames)
        console.info(
            f"{path.name}: {len(reference.labels)} train frames, float mIoU {100 * reference.confusion.miou:.2f} %"
        )
        for name, options in METHODS.items():
            config = Calibration.model_validate(profile.calibration.model_dump() | {"method": "minmax"} | options)
            rows.append(Row(path.name, name, *judged(source, profile, reference, config)))
            console.info(f"  {name}: labels agree on {rows[-1].agreement_pct:.3f} %, mIoU {rows[-1].miou_change:+.2f}")
    show(rows, f"{profile.name}: agreement with float in %, change of mIoU in points")
    if arguments.json:
        files.write_json(arguments.json, [row._asdict() for row in rows])


def unseen(source: TrainedRun, profile: Profile, count: int) -> Reference:
    """The float network on train frames that aren't calibration frames."""
    size = profile.size or source.data.size
    train, seen = source.split("train"), source.calibration_frames(profile.calibration, size, "val")
    others = evenly_spaced(Subset(train, [i for i in range(len(train)) if i not in seen.paths_or_indices]), count)
    return reference_from(source.infer(), others, size, source.data.name, "train")


def judged(source: TrainedRun, profile: Profile, reference: Reference, config: Calibration) -> tuple[float, float]:
    """Agreement and change of mIoU with one way of finding ranges."""
    model = source.graph(reference.size)
    table = calibrated(
        model,
        source.calibration_frames(profile.calibration, reference.size, "val"),
        config,
        source.run.path / "calibration",
    )
    found = measured(
        profile, qdq_from_onnx(model, table, open_scheme(profile.scheme_name), profile.placement), source, reference
    )
    return found.agreement_pct, -found.drop_pct


def show(rows: list[Row], title: str) -> None:
    """One line a method, one column a run, and the mean."""
    runs = list(dict.fromkeys(row.run for row in rows))
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        cells = [f"{row.agreement_pct:.2f} {row.miou_change:+.2f}" for row in own]
        mean = [sum(row[column] for row in own) / len(own) for column in (2, 3)]
        lines.append((method, *cells, f"{mean[0]:.2f} {mean[1]:+.2f}"))
    console.show(title, console.table(("", *runs, "mean"), lines))


if __name__ == "__main__":
    main()
