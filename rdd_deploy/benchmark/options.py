"""The benchmark's options, without imports that would slow its help down."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class LatencyMetric(str, Enum):
    """The latency that the Pareto front, the dominated rows and the budget go by."""

    MODEL_P50 = "model-p50"
    MODEL_P95 = "model-p95"
    END_TO_END_P50 = "end-to-end-p50"
    END_TO_END_P95 = "end-to-end-p95"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Args:
        data, split: names of the data set and its split.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads of every backend.
        rounds: how many interleaved rounds the images are measured in.
        judge: the latency that rows are compared by.
        cold: measure cold starts, too.
        seed: of the bootstrap.
    """

    data: str
    split: str
    device: str
    threads: int
    rounds: int
    judge: LatencyMetric
    cold: bool = True
    seed: int = 0
