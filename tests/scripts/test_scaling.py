"""docs/scaling.md says what its script says, and the simulation keeps to the formulas."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import scaling  # noqa: E402


def test_the_tables_are_the_scripts() -> None:
    text = scaling.DOC.read_text(encoding="utf-8")
    assert text.partition(scaling.BEGIN)[2].partition(scaling.END)[0].strip() == scaling.tables()
    assert all("ASSUMED" in source or "measured" in source or source for _, _, source in scaling.CONSTANTS.values())


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_no_more_than_the_slowest_part_serves(gpus: int) -> None:
    for case in scaling.cases():
        limits = scaling.limits(case, gpus)
        steps = 600
        assert scaling.simulated(case, gpus, steps) <= 1.01 * min(limits.values())
        alone = case._replace(cached=1e-9, file=0, megapixels=0, pixels=1.0)
        without = scaling.simulated(alone, gpus, steps, jitter=0.0)
        assert without == pytest.approx(1 / (1 / limits["GPUs"] + (1 / limits["all-reduce"])), rel=0.01), (
            "only steps and gradients"
        )
