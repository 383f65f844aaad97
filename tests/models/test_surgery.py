import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from rdd_deploy.models.build import without_gradient
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.surgery import (
    depthwise_in_float32,
    drop_squeeze_excite,
    slice_strided_pointwise,
    swap_activations,
)
from rdd_deploy.training.whole_batch import synchronised


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("mobilenetv3_small_050", features_only=True, pretrained=False).eval()


def test_counts_and_shapes() -> None:
    module = encoder()
    before = [tuple(x.shape) for x in module(torch.zeros(1, 3, 64, 64))]
    assert drop_squeeze_excite(module) == 9
    assert swap_activations(module) > 9
    assert drop_squeeze_excite(module) == swap_activations(module) == 0
    assert [tuple(x.shape) for x in module(torch.zeros(1, 3, 64, 64))] == before


def test_depthwise_in_float32_changes_only_what_autocast_does() -> None:
    plain, module, x = encoder(), encoder(), torch.randn(1, 3, 64, 64)
    assert depthwise_in_float32(module) == sum(m.groups > 1 for m in module.modules() if isinstance(m, nn.Conv2d)) > 0
    for a, b in zip(plain(x), module(x), strict=True):
        assert torch.equal(a, b)
    types: set[torch.dtype] = set()
    for one in module.modules():
        if isinstance(one, nn.Conv2d) and one.groups > 1:
            one.register_forward_hook(lambda _, inputs, output: types.update({inputs[0].dtype, output.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(plain(x), module(x), strict=True):
            assert (a - b).abs().max() < 0.2 * a.abs().max()
        assert torch.is_autocast_enabled("cpu")
    assert types == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")
    copy.deepcopy(module)(x)  # as the weight average does


@pytest.mark.parametrize("channels", [3, 7])
def test_strided_pointwise_convolutions_of_few_channels_train_in_channels_last(channels: int) -> None:
    """PyTorch's own backward of them corrupts the heap: there the process may die."""
    layer = nn.Sequential(nn.Conv2d(channels, 48, 1, 2, bias=False), nn.Conv2d(48, 8, 1, 2), nn.Conv2d(8, 8, 3, 2, 1))
    plain, x = copy.deepcopy(layer), torch.randn(2, channels, 97, 96)
    assert slice_strided_pointwise(layer) == 1
    assert slice_strided_pointwise(layer) == 0
    assert layer.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(layer(x), plain(x))
    for _ in range(3):
        layer(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
        plain(x).square().sum().backward()
    torch.testing.assert_close(layer[0].weight.grad, plain[0].weight.grad, rtol=1e-3, atol=1e-3)


def segmenter(name: str, **options: object) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(Network.model_validate({"encoder": name, "weights": "none", "channels": 16} | options), 3)


def test_parameters_that_nothing_depends_on_are_found() -> None:
    network = segmenter("test_efficientnet", auxiliary=True).train()
    statistics, state = {name: one.clone() for name, one in network.named_buffers()}, torch.get_rng_state()
    assert without_gradient(network) == []
    network.auxiliary, spare = None, network.auxiliary
    network.add_module("spare", spare)
    found = without_gradient(network)
    assert found == [f"spare.{name}" for name, _ in spare.named_parameters()] != []
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(statistics[name], one) for name, one in network.named_buffers() if name in statistics)


@pytest.mark.slow
def test_hrnets_unused_parameters_are_found() -> None:
    found = without_gradient(segmenter("hrnet_w18_small"))
    assert found
    assert all(name.startswith("encoder.") for name in found)


@pytest.mark.parametrize("training", [False, True])
def test_norms_with_an_activation_keep_it_when_they_are_synchronised(training: bool) -> None:
    """torch's own conversion drops it: every network on several GPUs would be another one."""
    network = segmenter("test_efficientnet", dropout=0.0).train(training)
    other = copy.deepcopy(network)
    synchronised(other)
    assert not any(type(one) in (nn.BatchNorm2d, BatchNormAct2d) for one in other.modules())
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for _ in range(2):  # the second time with running statistics of the first
        assert torch.equal(network(frames).primary, other(frames).primary)
    assert list(network.state_dict()) == list(other.state_dict())
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
