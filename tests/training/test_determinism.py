"""``train.deterministic``: products in place of what has no deterministic backward on a GPU, and nothing left that
hasn't.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import one_batch
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from one_batch import Case, trained
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rdd_deploy.errors import RecipeError
from rdd_deploy.export.onnx.export import onnx_from_segmenter
from rdd_deploy.losses import LOSSES
from rdd_deploy.losses.task import TaskLoss
from rdd_deploy.models import HEADS
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.training.determinism import deterministic_layers, not_deterministic, set_deterministic

sides = st.integers(1, 40)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    set_deterministic(False)


@settings(max_examples=25, deadline=None)
@given(given_=st.tuples(sides, sides), wanted=st.tuples(sides, sides), align=st.booleans(), seed=st.integers(0, 99))
def test_bilinear_is_the_same_to_rounding(
    given_: tuple[int, int], wanted: tuple[int, int], align: bool, seed: int
) -> None:
    check(lambda x: F.interpolate(x, wanted, mode="bilinear", align_corners=align), given_, seed)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=(1.7, 0.6), mode="bilinear"),
        nn.UpsamplingBilinear2d(scale_factor=4),
    ],
)
def test_by_factors(layer: nn.Module) -> None:
    check(layer, (13, 20), 0)


def test_of_the_sizes_that_trainings_have() -> None:
    for small, large in (((23, 30), (360, 480)), ((12, 12), (45, 45)), ((1, 1), (23, 23)), ((512, 3), (1024, 5))):
        check(lambda x, size=large: F.interpolate(x, size, mode="bilinear", align_corners=False), small, 1)  # type: ignore[misc]


@settings(max_examples=15, deadline=None)
@given(given_=st.tuples(sides, sides), wanted=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
def test_adaptive_pooling_is_the_same_to_rounding(given_: tuple[int, int], wanted: tuple[int, int], seed: int) -> None:
    check(nn.AdaptiveAvgPool2d(wanted), given_, seed)


def check(layer: Any, size: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, 3, *size).requires_grad_()
    expected = layer(x)
    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((expected * weight).sum(), x)
    with deterministic_layers(), Seen() as seen:
        found = layer(x)
        (other,) = torch.autograd.grad((found * weight).sum(), x)
    assert not {"upsample_bilinear2d", "_adaptive_avg_pool2d"} & seen.names
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-3)


class Seen(TorchDispatchMode):
    """Collects the names of torch's operations, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition("::")[2]
        self.names |= {name, name.partition(".")[0]}
        return func(*args, **(kwargs or {}))


NOT_DETERMINISTIC = {
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward",
    "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward", "put_", "put", "histc", "median.dim",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward",
}  # fmt: skip
"""What torch documents to raise an error on CUDA tensors where deterministic algorithms are asked for."""

STUDENTS: list[dict[str, Any]] = [{"head": head, "auxiliary": head == "lraspp"} for head in HEADS]


@pytest.mark.parametrize("student", STUDENTS, ids=lambda one: one["head"])
def test_no_step_holds_what_is_not_deterministic(student: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every head, with every loss."""
    monkeypatch.setattr(one_batch, "STEPS", 2)
    monkeypatch.setattr(one_batch, "IMAGES", 2)
    losses = [{"name": name} for name in LOSSES if name != "cirkd_memory"] + [
        {"name": "cirkd_memory", "options": {"pixels": 20, "regions": 5}}
    ]
    rdd = {
        "tfe_fraction": 0.4,
        "tse": {"class_weights": "balanced", "min_kept": 0.9},
        "losses": losses if student["head"] == "lraspp" else [],
    }
    for case in (
        Case({"deterministic": True, "task_loss": "balanced"}, student, None),
        Case({"deterministic": True, "region_loss": "dice"}, student, rdd),
        Case({"deterministic": True, "region_loss": "lovasz"}, student, None),
    ):
        with Seen() as seen:
            trained((0, 1, case))
        assert "convolution_backward" in seen.names
        assert sorted(seen.names & NOT_DETERMINISTIC) == []
    with Seen() as seen:
        trained((0, 1, Case({}, student, None)))
    assert seen.names & NOT_DETERMINISTIC, "or the test sees nothing"


def test_what_has_no_such_form_is_a_sentence() -> None:
    raised = RuntimeError(
        "upsample_bicubic2d_backward_out_cuda does not have a deterministic implementation, but you set …\nmore"
    )
    told = not_deterministic(raised)
    assert isinstance(told, RecipeError)
    assert str(told).startswith(
        "train.deterministic is true, and upsample_bicubic2d_backward_out_cuda has no deterministic form; set it to"
        " false"
    )
    assert not_deterministic(RuntimeError("another")) is None


def test_an_operation_of_the_forward_without_such_a_form_ends_the_run_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: Any) -> None:
        raise RuntimeError("nll_loss2d_forward_out_cuda_template does not have a deterministic implementation, but …")

    monkeypatch.setattr(TaskLoss, "forward", forward)
    with pytest.raises(RecipeError, match="nll_loss2d_forward_out_cuda_template has no deterministic form"):
        trained((0, 1, Case({"deterministic": True})))


def test_the_switches_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_exported_graphs_are_the_same() -> None:
    """Their Resize stays one: nothing of the network itself is changed."""
    torch.manual_seed(0)
    segmenter = Segmenter(Network(**toys.network()), 3).eval()
    expected = [node.op_type for node in onnx_from_segmenter(segmenter, (64, 64)).graph.node]
    set_deterministic(True)
    found = [node.op_type for node in onnx_from_segmenter(segmenter, (64, 64)).graph.node]
    assert found == expected
    assert "Resize" in found
