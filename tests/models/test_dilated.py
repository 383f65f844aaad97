import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from rdd_deploy.models import dilated
from rdd_deploy.models.config import Network
from rdd_deploy.models.dilated import fast_dilated_gradients
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.state import Objective, TrainState

Sides = int | tuple[int, int]


def convolution(kernel: Sides, dilation: Sides, channels: int = 6, bias: bool = False) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, channels, kernel, padding="same", dilation=dilation, groups=channels, bias=bias)


def as_numbers(one: nn.Conv2d) -> nn.Conv2d:
    """Padding as timm writes it."""
    one.padding = tuple(d * (k // 2) for k, d in zip(one.kernel_size, one.dilation, strict=True))
    return one


def gradients(layer: nn.Conv2d, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x = x.detach().requires_grad_()
    y = layer(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y.detach(), list(torch.autograd.grad((y * weight).sum(), [x, *layer.parameters()]))


LAYOUTS = {
    "planes": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second column": lambda x: torch.stack((x, x), -1).flatten(-2)[..., ::2],
    "turned": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(9, 12), (8, 7), (3, 1), (1, 16)])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (5, 2), (3, 4), (5, 4), ((3, 5), (1, 2)), (3, 12)])
def test_outputs_are_equal_and_gradients_to_rounding(
    kernel: int, dilation: int, size: tuple[int, int], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dilated, "BLOCK", 500)  # several blocks, the last one smaller
    plain = as_numbers(convolution(kernel, dilation, bias=True))
    fast = copy.deepcopy(plain)
    assert fast_dilated_gradients(fast) == 1
    x = LAYOUTS[layout](torch.randn(5, 6, *size))
    (wanted, of_plain), (got, of_fast) = gradients(plain, x), gradients(fast, x)
    assert torch.equal(got, wanted)
    for a, b in zip(of_plain, of_fast, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    fast = as_numbers(convolution(3, 2, channels=2, bias=True)).double()
    function = lambda x, w, b: dilated._Convolution.apply(x, w, b, (2, 2))  # noqa: E731
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, fast.weight, fast.bias))


@pytest.mark.parametrize("frozen", [0, 1])
def test_only_what_is_wanted_is_computed(frozen: int) -> None:
    layer = as_numbers(convolution(3, 2))
    fast_dilated_gradients(layer)
    x = torch.randn(2, 6, 8, 8, requires_grad=not frozen)
    layer.weight.requires_grad_(bool(frozen))
    layer(x).sum().backward()
    assert (x.grad is None) == bool(frozen)
    assert (layer.weight.grad is None) != bool(frozen)


def test_layers_of_other_kinds_stay() -> None:
    plain = {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 6}
    changes = [
        {"padding": 1, "dilation": 1}, {"groups": 1}, {"stride": 2}, {"padding": 1}, {"padding_mode": "reflect"},
        {"kernel_size": 4, "padding": 4},
    ]  # fmt: skip
    others: list[nn.Module] = [nn.Conv2d(6, 6, **(plain | change)) for change in changes]
    others += [nn.Conv2d(6, 12, **plain), nn.ConvTranspose2d(6, 6, **plain)]
    assert fast_dilated_gradients(nn.ModuleList(others)) == 0


def test_it_is_a_convolution_to_everything_else() -> None:
    net = nn.Sequential(as_numbers(convolution(5, 2)), nn.BatchNorm2d(6), as_numbers(convolution(3, 4, bias=True)))
    plain, x = copy.deepcopy(net), torch.randn(2, 6, 9, 9)
    assert fast_dilated_gradients(net) == 2
    assert fast_dilated_gradients(net) == 0
    assert isinstance(net[0], nn.Conv2d)
    assert net.state_dict().keys() == plain.state_dict().keys()
    copied = copy.deepcopy(net)
    copied.load_state_dict(plain.state_dict())
    flops = []
    for one in (plain, net, copied):
        with FlopCounterMode(display=False) as counted:
            y = one(x)
        flops.append(counted.get_total_flops())
        assert torch.equal(y, plain(x))
    assert len(set(flops)) == 1
    assert "Convolution" not in str(torch.jit.trace(net, x, check_trace=False).graph)
    with torch.autocast("cpu", torch.bfloat16):
        assert net[0](x).dtype == torch.bfloat16
    assert net[0](x.double()[:, :0].new_zeros(0, 6, 4, 4).float()).shape == (0, 6, 4, 4)
    F.mse_loss(net(x), x).backward()
    assert net[0].weight.grad is not None


def test_a_training_on_a_cpu_uses_it() -> None:
    train = Train(epochs=1, batch=2, device="cpu", precision="32-true")
    config = {"encoder": "mobilenetv3_small_050", "weights": "none", "channels": 16}
    network = Segmenter(Network.model_validate(config), 3)
    TrainState(network, Objective(), train, make_fabric(train))
    assert sum(isinstance(one, dilated._DilatedDepthwise) for one in network.modules()) == 2
