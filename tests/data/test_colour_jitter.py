"""The jitter's matrix against torchvision's own functions, step by step."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from rdd_deploy.data import colour_jitter

FACTOR = st.floats(0.7, 1.3)


def picture(seed: int, low: int = 90, high: int = 165) -> torch.Tensor:
    """Middling colours: nothing is cut off at 0 or 255, which torchvision does after each step."""
    return torch.randint(low, high, (3, 31, 42), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), factor=FACTOR)
def test_brightness_contrast_and_saturation_are_torchvisions(seed: int, factor: float) -> None:
    image = picture(seed)
    for matrix, expected in (
        (colour_jitter.brightness(factor), F.adjust_brightness(image, factor)),
        (colour_jitter.contrast(factor), F.adjust_contrast(image, factor)),
        (colour_jitter.saturation(factor), F.adjust_saturation(image, factor)),
    ):
        # It rounds down, we to the nearest, and greys are rounded before they are mixed in.
        assert (colour_jitter.apply(image, matrix).int() - expected.int()).abs().max() <= 2


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), turn=st.floats(-0.03, 0.03))
def test_hue_turns_as_torchvisions_and_keeps_greys_and_luma(seed: int, turn: float) -> None:
    image = picture(seed)
    got, expected = colour_jitter.apply(image, colour_jitter.hue(turn)).double(), F.adjust_hue(image, turn).double()
    # HSV turns along another circle, and changes lumas; the same way and about as far.
    moved, like = (got - image).flatten(), (expected - image).flatten()
    assert abs(turn) < 0.01 or 0.8 < moved.std() / like.std() < 1.25
    assert abs(turn) < 0.01 or torch.corrcoef(torch.stack((moved, like)))[0, 1] > 0.55
    luma = torch.from_numpy(colour_jitter.GREY)
    assert (torch.tensordot(luma, got - image, 1)).abs().max() <= 1
    grey = torch.full((3, 4, 4), 131, dtype=torch.uint8)
    assert (colour_jitter.apply(grey, colour_jitter.hue(turn)).int() - 131).abs().max() <= 1


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), factors=st.tuples(FACTOR, FACTOR, FACTOR))
def test_steps_in_a_row_are_one_matrix(seed: int, factors: tuple[float, float, float]) -> None:
    image = picture(seed, 110, 145)
    steps = [
        colour_jitter.brightness(factors[0]),
        colour_jitter.saturation(factors[1]),
        colour_jitter.contrast(factors[2]),
    ]
    one, several = np.eye(3, 6), image
    for step in steps:
        one, several = colour_jitter.then(one, step), colour_jitter.apply(several, step)
    assert (colour_jitter.apply(image, one).int() - several.int()).abs().max() <= 3


def test_draws_stay_in_their_ranges_and_come_from_torchs_generator() -> None:
    grey = torch.full((3, 2, 2), 120, dtype=torch.uint8)
    torch.manual_seed(3)
    first = [colour_jitter.draw(0.3) for _ in range(200)]
    torch.manual_seed(3)
    assert all((a == colour_jitter.draw(0.3)).all() for a in first)
    # Of a grey picture only the brightness can change.
    shown = [int(colour_jitter.apply(grey, matrix)[0, 0, 0]) for matrix in first]
    assert min(shown) >= 0.7 * 120 - 1
    assert max(shown) <= 1.3 * 120 + 1
    assert max(shown) - min(shown) > 40
    assert np.ptp([matrix[0, 1] for matrix in first]) > 0.05
    np.testing.assert_allclose(colour_jitter.draw(0.0), np.eye(3, 6), atol=1e-3)


def test_the_strongest_is_cut_off_at_black_and_white() -> None:
    torch.manual_seed(0)
    image = picture(5, 0, 256)
    for _ in range(20):
        shown = colour_jitter.apply(image, colour_jitter.draw(1.0))
        assert shown.dtype == torch.uint8
        assert shown.shape == image.shape
