import copy

import timm
import torch
from torch import nn

from rdd_deploy.models.surgery import depthwise_in_float32, drop_squeeze_excite, swap_activations


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
