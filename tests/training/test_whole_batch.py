"""Several processes train what one trains: the same losses, masks, gradients and weights, by the real
step over gloo.
"""

import copy
from typing import Any

import one_batch
import pytest
import torch
from gloo import pair, together
from one_batch import Case, Steps, trained
from torch import nn

from rdd_deploy.training.whole_batch import one_dropout, synchronised

EVERY_METHOD = [
    {"name": name}
    for name in (
        "kd",
        "at",
        "fitnet",
        "skd",
        "ifvd",
        "cwd",
        "cwd_features",
        "dist",
        "pearson",
        "dsd_pixel",
        "dsd_category",
    )
]
MEMORY = {"name": "cirkd_memory", "weight": 0.1, "options": {"pixels": 40, "regions": 6}}
CROSS = {"name": "cirkd_batch", "options": {"window": 4}}

CASES = {
    # Stage 1, the switch, stage 2 with its thresholds and class weights; a bank that is written by rank; pairs across
    # processes.
    "rdd": Case(
        {"optimizer": "sgd", "ema": 0.9},
        {"auxiliary": True},
        {"tfe_fraction": 0.4, "tse": {"min_kept": 0.3, "class_weights": "balanced"}, "losses": [MEMORY, CROSS]},
    ),
    "ohem": Case({"task_loss": "ohem"}, {"auxiliary": True, "head": "deeplabv3"}),
    "balanced": Case({"task_loss": "balanced", "optimizer": "adamw", "lr": 1e-4}, {"head": "pspnet"}),
    "methods": Case({"task_loss": "ohem"}, {}, {"method": "kd", "temperature": 2.0, "losses": EVERY_METHOD}),
    "linear": Case(
        {"task_loss": "balanced"},
        {"head": "deeplabv3plus"},
        {"tfe_fraction": 0.2, "transition": "linear", "tse": {"rule": "lead", "min_kept": 500}},
    ),
}
RUN = [("rdd", 2), ("ohem", 3)]
SLOW = [(name, ranks) for name in CASES for ranks in (2, 3) if (name, ranks) not in RUN]


@pytest.mark.parametrize(("name", "ranks"), [*RUN, *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW)])
def test_several_processes_are_one(name: str, ranks: int) -> None:
    (alone,) = together(trained, [(0, 1, CASES[name])])
    parts = together(trained, [(rank, ranks, CASES[name]) for rank in range(ranks)])
    check(
        Steps(*alone), [Steps(*one) for one in parts], 2e-3 if CASES[name].train.get("optimizer") == "adamw" else 1e-5
    )


def test_a_layer_that_nothing_depends_on_stays_as_it_is() -> None:
    """As HRNet's: two processes would wait for its gradient."""
    parts = together(trained, [(rank, 2, Case({}, {}, spare=True)) for rank in range(2)])
    (alone,) = together(trained, [(0, 1, Case({}, {}, spare=True))])
    check(Steps(*alone), [Steps(*one) for one in parts])
    assert "spare.weight" in Steps(*alone).weights
    assert not any("spare" in name for step in Steps(*parts[0]).gradients for name in step)


def check(alone: Steps, parts: list[Steps], least: float = 1e-5) -> None:
    """``least``: of the weights' difference; Adam makes a step of the learning rate's size of a gradient that is
    rounding alone.
    """
    for step in range(one_batch.STEPS):
        where = f"step {step}"
        assert sum(one.losses[step] for one in parts) / len(parts) == pytest.approx(alone.losses[step], abs=1e-5), where
        for name, value in alone.terms[step].items():
            assert sum(one.terms[step][name] for one in parts) / len(parts) == pytest.approx(value, abs=1e-5), (
                f"{where}, {name}"
            )
        if alone.masks:
            assert torch.allclose(torch.cat([one.masks[step] for one in parts]), alone.masks[step], atol=1e-5), where
        norm = float(torch.stack([one.norm() for one in alone.gradients[step].values()]).norm())
        for name, gradient in alone.gradients[step].items():
            for one in parts:
                assert (one.gradients[step][name] - gradient).abs().max() <= 1e-5 * max(1, norm), f"{where}, {name}"
    for own, others in (
        (alone.weights, [one.weights for one in parts]),
        (alone.objective, [one.objective for one in parts]),
    ):
        for name, value in own.items():
            for other in others:
                assert torch.allclose(
                    other[name].double(), value.double(), atol=1e-3 if value.dtype == torch.float16 else least
                ), name


def norm_of(rank: int, channels_last: bool) -> Any:
    """Values, gradients and running statistics of a part of a batch, of which the last process may have none."""
    module, x, weight = made()
    synchronised(module)
    part = (slice(0, 3), slice(3, 4), slice(4, 4))[rank] if rank < 2 else slice(4, 4)
    own = (
        x[part]
        .contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        .requires_grad_()
    )
    y = module(own)
    (y * weight[part]).sum().backward()
    parameters = {name: one.grad.numpy() for name, one in module.named_parameters()}
    return y.detach().numpy(), own.grad.numpy(), parameters, {name: one.numpy() for name, one in module.named_buffers()}


def made() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    module = nn.Sequential(nn.BatchNorm2d(5), nn.Hardswish(), nn.BatchNorm2d(5, momentum=None, eps=1e-3))
    for one in module.parameters():
        nn.init.normal_(one)
    return module, 100 + 3 * torch.randn(4, 5, 6, 7), torch.randn(4, 5, 6, 7)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_norm_of_all_processes_is_batch_norm(channels_last: bool) -> None:
    module, x, weight = made()
    reference = copy.deepcopy(module).double()
    x = x.double().requires_grad_()
    y = reference(x)
    (y * weight).sum().backward()
    parts = pair(norm_of, channels_last)
    torch.testing.assert_close(
        torch.cat([torch.from_numpy(one[0]) for one in parts]).double(), y.detach(), rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(
        torch.cat([torch.from_numpy(one[1]) for one in parts]).double(), x.grad, rtol=1e-3, atol=1e-4
    )
    for name, one in reference.named_parameters():
        summed = sum(torch.from_numpy(part[2][name]) for part in parts)
        torch.testing.assert_close(summed.double(), one.grad, rtol=1e-4, atol=1e-3)
    for part in parts:
        for name, one in reference.named_buffers():
            torch.testing.assert_close(torch.tensor(part[3][name]).double(), one.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alone_dropout_draws_what_torchs_does(kind: type[nn.Module], dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, 5, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    module = nn.Sequential(kind(0.3), nn.Identity())
    torch.manual_seed(1)
    expected = module(x)
    one_dropout(module)
    torch.manual_seed(1)
    assert torch.equal(module(x), expected)
    assert torch.equal(module.eval()(x), x)
