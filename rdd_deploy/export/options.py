"""What the export's command line adds to a profile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What the command line adds to a profile.

    Attributes:
        split: the artifact is measured on. limit: on its first so many frames.
        evaluate: False compares labels on a few frames only, and writes no figures.
        force: write a bundle that fails the gate, marked.
        plan: replay this quantisation plan.
        engine: False writes the graph for a TensorRT engine and builds none.
    """

    split: str = "val"
    limit: int | None = None
    evaluate: bool = True
    force: bool = False
    plan: Path | None = None
    engine: bool = True
