"""What is kept of log-probabilities says nearly what they said, and who is the likeliest exactly."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rdd_deploy.training.compact import RANGE, EveryClass, Likeliest, Weights, compact_form

CLASSES = (2, 3, 11, 19, 150, 255)


def drawn(classes: int, seed: int, sharp: float) -> torch.Tensor:
    return sharp * torch.randn(2, classes, 5, 7, generator=torch.Generator().manual_seed(seed))


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(1)


@settings(max_examples=60)
@given(
    classes=st.sampled_from(CLASSES),
    seed=st.integers(0, 10_000),
    sharp=st.sampled_from([0.0, 0.01, 1.0, 4.0, 30.0, 1e4]),
)
@example(classes=11, seed=59, sharp=0.01)
def test_probabilities_come_back(classes: int, seed: int, sharp: float) -> None:
    form, logits = compact_form(classes), drawn(classes, seed, sharp)
    planes = form.encoded(logits)
    assert (planes.dtype, planes.shape) == (torch.uint8, (2, form.planes, 5, 7))
    got, exact = form.decoded(planes), F.log_softmax(logits.double(), 1)
    assert (got.dtype, got.shape) == (torch.float32, logits.shape)
    assert got.logsumexp(1).abs().max() < 1e-5, "they add up to 1"
    if sharp:  # else all are alike
        assert torch.equal(got.argmax(1), logits.argmax(1))
    if isinstance(form, EveryClass):
        assert divergence(exact, got).max() < 0.02


@settings(max_examples=40)
@given(
    classes=st.sampled_from(CLASSES),
    seed=st.integers(0, 10_000),
    sharp=st.sampled_from([0.01, 1.0, 4.0]),
    bits=st.sampled_from([5, 8]),
)
def test_all_classes_are_exact_up_to_the_steps_of_the_distances(
    classes: int, seed: int, sharp: float, bits: int
) -> None:
    logits = drawn(classes, seed, sharp)
    exact = F.log_softmax(logits, 1)
    distance = exact.max(1, keepdim=True).values - exact
    for form, most in ((EveryClass(classes, bits), 2**bits - 1), (Likeliest(classes, 300), 255)):
        got = form.decoded(form.encoded(logits))
        apart = got.max(1, keepdim=True).values - got
        # Roots are rounded to whole steps: sqrt(d) is within half a step of what it was, or a whole one where it would
        # be taken for the likeliest.
        step = RANGE**0.5 / most
        assert ((apart.sqrt() - distance.clamp(max=RANGE).sqrt()).abs() <= 1.01 * step + 5e-3).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), sharp=st.sampled_from([1.0, 3.0]), kept=st.sampled_from([1, 3, 12]))
def test_the_rest_keeps_its_mass(seed: int, sharp: float, kept: int) -> None:
    logits = drawn(150, seed, sharp)
    exact, form = F.softmax(logits, 1), Likeliest(150, kept)
    got = form.decoded(form.encoded(logits)).exp()
    top = exact.topk(kept, 1).indices
    assert (got.gather(1, top) / exact.gather(1, top) - 1).abs().max() < 0.12
    others, rest = (one.scatter(1, top, 0).sum(1) for one in (got, exact))
    assert (others / rest - 1).abs().max() < 0.12
    spread = got.scatter(1, top, torch.nan)
    assert (spread.nan_to_num(0).amax(1) - spread.nan_to_num(1).amin(1)).abs().max() < 1e-6, "evenly"


@pytest.mark.parametrize(("classes", "most"), [(11, 8.8 - 1), (19, 76 / 5 - 1), (150, 30 - 1)])
def test_bytes_a_pixel(classes: int, most: float) -> None:
    """A fifth, or a twentieth, of float16 of two classifiers, with a byte for stage 1's weight."""
    assert compact_form(classes).planes <= most


@pytest.mark.parametrize("form", [EveryClass(11, 5), Likeliest(150, 12)])
def test_never_and_not_a_number(form: EveryClass | Likeliest) -> None:
    logits = drawn(form.classes, 0, 2.0)
    logits[:, 3] = -torch.inf
    got = form.decoded(form.encoded(logits))
    assert got.isfinite().all()
    if isinstance(form, EveryClass):
        assert got[:, 3].exp().max() < 1e-6
    for broken in (torch.nan, torch.inf):
        logits[1, 4, 2, 2] = broken
        with pytest.raises(ValueError, match="NaN or infinity"):
            form.encoded(logits)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_weights(seed: int) -> None:
    weight = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(seed)) ** 4
    weight[0, 0, 0, :2] = torch.tensor([1.0, 1e-30])
    got = Weights().decoded(Weights().encoded(weight))
    assert (got - weight).abs().max() <= 0.5 / 255 + 1 / 255 * (weight < 0.5 / 255).any()
    assert got.min() > 0
    assert got[0, 0, 0, 0] == 1
