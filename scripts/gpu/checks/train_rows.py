"""The rows of one training in the table: ``python train_rows.py NAME RUN EXIT_CODE SECONDS GPU_CSV FIRST_LINE``

GPU_CSV holds nvidia-smi's utilisation, clock and memory over time; the run's part begins at FIRST_LINE.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from table import add


def main(what: str, run: Path, code: int, seconds: int, gpu: Path, first: int) -> None:
    rows = list(csv.DictReader((run / "metrics.csv").open())) if (run / "metrics.csv").is_file() else []
    summary = json.loads((run / "summary.json").read_text()) if (run / "summary.json").is_file() else {}
    miou = summary.get("last", {}).get("miou_pct") or next(
        (row["miou_pct"] for row in reversed(rows) if row.get("miou_pct")), None
    )
    verdict = (
        ""
        if code == 0
        else f"exit code {code}" + (" (out of time, the state is saved)" if code == 124 else " FAILED, see log.txt")
    )
    add("train", f"{what}: mIoU %, last epoch", f"{miou} after {len(rows)} epochs", verdict)
    trained = summary.get("train_seconds") or (float(rows[-1]["seconds"]) if rows else 0)
    add("train", f"{what}: seconds in steps / in all", f"{trained} / {seconds}")
    if "steps" in summary and trained:
        add("train", f"{what}: ms a step", 1000 * float(trained) / summary["steps"])
    lines = (
        [line.split(",") for line in gpu.read_text().splitlines()[first:] if line.count(",") == 2]
        if gpu.is_file()
        else []
    )
    busy = [float(line[0]) for line in lines if line[0].strip().isdigit()]
    if busy:
        peak = max(float(line[2]) for line in lines) / 1024
        add("train", f"{what}: GPU busy by nvidia-smi, mean % / peak GiB", f"{sum(busy) / len(busy):.0f} / {peak:.1f}")


if __name__ == "__main__":
    what, run, code, seconds, gpu, first = sys.argv[1:]
    main(what, Path(run), int(code), int(seconds), Path(gpu), int(first))
