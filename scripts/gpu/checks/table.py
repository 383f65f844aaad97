"""The table of results: ``table.py show [PART]`` prints it, ``table.py add PART WHAT VALUE [VERDICT]`` adds a row. No
torch here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

RESULTS = Path(os.environ.get("OUT", ".gpu/out")) / "results.jsonl"


def add(part: str, what: str, value: object, verdict: str = "") -> None:
    """Append a row; verdict is empty where a figure speaks for itself."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"part": part, "what": what, "value": value, "verdict": verdict}) + "\n")
    print(f"ROW {part}: {what} = {value} {verdict}", flush=True)


def show(part: str | None = None) -> None:
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.is_file() else []
    for row in rows:
        if part in (None, row["part"]):
            value = row["value"]
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            print(f"{row['part'][:11]:11} {row['what'][:62]:62} {text[:60]:>16} {row['verdict']}".rstrip())


if __name__ == "__main__":
    if sys.argv[1] == "add":
        add(*sys.argv[2:6])
    else:
        show(*sys.argv[2:3])
