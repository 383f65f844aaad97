from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import network

from rdd_deploy.data.loader import Batch
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe_train import Train
from rdd_deploy.training import compiling, state
from rdd_deploy.training.compiling import CompilerError, choose_kernels, is_compiled
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.state import TrainState, _is_fused
from rdd_deploy.training.supervised import SupervisedObjective


def on(device: str, processes: int = 1) -> Any:
    return SimpleNamespace(device=torch.device(device), world_size=processes)


def test_when_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.utils._triton

    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: True)
    auto, long = Train(), compiling.PAYS_FROM
    assert auto.compile == "auto"
    assert is_compiled(auto, on("cuda"), long)
    assert not is_compiled(auto, on("cuda"), long - 1)
    assert not is_compiled(auto, on("cuda", 2), long)
    assert not is_compiled(auto, on("cpu"), long)
    assert not is_compiled(Train(deterministic=True), on("cuda"), long)
    assert is_compiled(Train(compile=True), on("cpu"), 1)
    assert not is_compiled(Train(compile=False), on("cuda"), long)
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: False)
    assert not is_compiled(auto, on("cuda"), long)


def test_deterministic_steps_are_not_compiled() -> None:
    with pytest.raises(ValueError, match=r"train\.deterministic and train\.compile are both true, .*compile=auto"):
        Train(deterministic=True, compile=True)


def trained(train: Train, steps: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    trainee = TrainState(
        Segmenter(Network(**network()), 3).train(), SupervisedObjective(train, torch.ones(3)), train, make_fabric(train)
    )
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    batch = Batch(images, images[:, 0] % 3, torch.zeros(2, 5), torch.arange(2))
    for _ in range(steps):
        trainee.update(batch, 0.5)
    return [value.clone() for value in trainee.segmenter.parameters()]


def test_where_the_compiler_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``auto`` goes on without it, ``true`` was asked for."""
    import torch._dynamo.exc

    def broken(function: Any, **_: Any) -> Any:
        def call(*arguments: Any) -> Any:
            raise torch._dynamo.exc.TorchDynamoException("no C compiler\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    options: dict[str, Any] = {"device": "cpu", "precision": "32-true"}
    with pytest.raises(
        CompilerError, match=r"^train\.compile: torch's compiler failed \(no C compiler\); set train\.compile=false$"
    ):
        trained(Train(compile=True, **options))
    plain = trained(Train(compile=False, **options))
    monkeypatch.setattr(state, "is_compiled", lambda *_: True)
    again = trained(Train(**options))
    assert all(map(torch.equal, plain, again))
    assert capsys.readouterr().err.count("this run goes on without it") == 1


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_tries_its_kernels_unless_a_run_is_to_be_deterministic(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", deterministic)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", deterministic)
    choose_kernels(SimpleNamespace(device=torch.device("cpu")))  # type: ignore[arg-type]
    assert torch.backends.cudnn.benchmark is deterministic, "on a CPU it stays as it is"
    choose_kernels(SimpleNamespace(device=torch.device("cuda")))  # type: ignore[arg-type]
    assert torch.backends.cudnn.benchmark is not deterministic


def test_one_kernel_updates_all_parameters_on_a_gpu() -> None:
    def fused(device: str, precision: str, clip: float) -> bool:
        fabric: Any = SimpleNamespace(device=torch.device(device), _precision=SimpleNamespace(precision=precision))
        return _is_fused(Train(clip=clip), fabric)

    assert fused("cuda", "bf16-mixed", 1.0)
    assert fused("cuda", "16-mixed", 0.0)
    assert not fused("cuda", "16-mixed", 1.0), "Fabric clips no scaled gradients of such an optimizer"
    assert not fused("cpu", "32-true", 0.0)


def test_weights_lie_channels_last() -> None:
    train = Train(device="cpu", precision="32-true")
    segmenter = Segmenter(Network(**network()), 3)
    TrainState(segmenter, SupervisedObjective(train, torch.ones(3)), train, make_fabric(train))
    weight = next(one for one in segmenter.parameters() if one.ndim == 4 and one.shape[1] > 1 and one.shape[-1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
