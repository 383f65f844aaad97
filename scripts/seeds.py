"""Mean ± deviation over seeds of finished runs, as a Markdown table.

    python scripts/seeds.py 'student alone=runs/lite0_alone_*' 'KD=runs/lite0_kd_*' 'RDD=runs/lite0_rdd_*'

Figures are read from each run's summary.json. ``last`` is the end of the schedule, ``best`` the best evaluation on the way (chosen on the
same split, so a little flattering: compare methods by ``last``).
"""

from __future__ import annotations

import argparse
import glob
import json
import statistics
from pathlib import Path
from typing import Any


def mean_and_deviation(values: list[float]) -> str:
    """``mean ± sample deviation``; a single value stands alone."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table."""
    last, best = ([run[key]["miou_pct"] for run in runs] for key in ("last", "best"))
    seeds = ", ".join(str(run["seed"]) for run in runs)
    seconds = statistics.mean(run["train_seconds"] for run in runs)
    return f"| {name} | {mean_and_deviation(last)} | {mean_and_deviation(best)} | {' / '.join(f'{v:.2f}' for v in last)} | {seeds} | {runs[0]['epochs']} | {seconds / 60:.0f} |"


def classes(name: str, runs: list[dict[str, Any]]) -> str:
    """One line of the per-class table, mean over seeds of the last evaluation."""
    per_run = [run["last"]["iou_pct"] for run in runs if run["last"].get("iou_pct")]
    return (
        f"| {name} | " + " | ".join(f"{statistics.mean(r[c] for r in per_run):.1f}" for c in per_run[0]) + " |"
        if per_run
        else f"| {name} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=GLOB", help="a method and the run folders of its seeds")
    groups: dict[str, list[dict[str, Any]]] = {}
    for group in parser.parse_args().groups:
        name, _, pattern = group.partition("=")
        summaries = [Path(folder) / "summary.json" for folder in sorted(glob.glob(pattern))]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in summaries if path.is_file()]
        if not runs:
            parser.error(f"no finished run matches {pattern}")
        groups[name] = runs
    protocols = {json.dumps(run["protocol"], sort_keys=True) for runs in groups.values() for run in runs}
    if len(protocols) > 1:
        parser.error(f"runs of {len(protocols)} protocols don't belong into one table: {'; '.join(sorted(protocols))}")
    print("| | mIoU last % | mIoU best % | each seed (last) | seeds | epochs | minutes |\n|---|---|---|---|---|---|---|")
    for name, runs in groups.items():
        print(row(name, runs))
    names = list(next(iter(groups.values()))[0]["protocol"].items())
    print(f"\n{', '.join(f'{key} {value}' for key, value in names)}; {next(iter(groups.values()))[0]['machine']}\n")
    first = next(run["last"]["iou_pct"] for runs in groups.values() for run in runs if run["last"].get("iou_pct"))
    print("| IoU % | " + " | ".join(first) + " |\n|---" * 1 + "|---" * len(first) + "|")
    for name, runs in groups.items():
        print(classes(name, runs))


if __name__ == "__main__":
    main()
