import pytest
import torch

from rdd_deploy.models import HEADS
from rdd_deploy.models.heads import FCN, LRASPP, FeatureInfo
from rdd_deploy.outputs import resized

SHAPE = FeatureInfo([8, 16, 24, 32], [2, 4, 8, 16])


def features(height: int, width: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, -(-height // s), -(-width // s), generator=g)
        for c, s in zip(SHAPE.channels, SHAPE.strides, strict=True)
    ]


@pytest.mark.parametrize("name", HEADS)
def test_logits_lie_on_one_of_the_encoders_grids(name: str) -> None:
    given = features(119, 157)
    logits = HEADS[name].load()(SHAPE, 16, 7, 0.1).eval()(given)
    assert tuple(logits.shape[:2]) == (2, 7)
    assert tuple(logits.shape[-2:]) in {tuple(one.shape[-2:]) for one in given}


@pytest.mark.parametrize("name", ["lraspp_detail", "lraspp_refine", "lraspp_fpn"])
def test_detail_heads_have_their_logits_at_stride_4(name: str) -> None:
    given = features(119, 157)
    logits = HEADS[name].load()(SHAPE, 16, 7, 0.1).eval()(given)
    assert logits.shape[-2:] == given[1].shape[-2:]


@pytest.mark.parametrize("name", ["lraspp_refine", "lraspp_fpn"])
def test_what_they_add_is_zero_before_the_training(name: str) -> None:
    head, given = HEADS[name].load()(SHAPE, 16, 7, 0.0).eval(), features(64, 96)
    plain = LRASPP(SHAPE, 16, 7, 0.0).eval()
    plain.load_state_dict({key: head.state_dict()[key] for key in plain.state_dict()})
    with torch.no_grad():
        assert torch.equal(head(given), resized(plain(given), given[1].shape[-2:]))
        head.classify_detail.weight.fill_(0.1)
        assert not torch.equal(head(given), resized(plain(given), given[1].shape[-2:]))


def test_lraspp_classifies_before_it_resizes() -> None:
    """A 1x1 convolution and a bilinear resize commute; the head uses that, here it is checked."""
    head, given = LRASPP(SHAPE, 16, 7, 0.0).eval(), features(64, 96)
    with torch.no_grad():
        x = head.project(given[-1]) * head.gate(given[-1])
        grown = torch.nn.functional.interpolate(x, given[2].shape[-2:], mode="bilinear", align_corners=False)
        expected = head.classify_high(grown) + head.classify_low(given[2])
        assert torch.allclose(head(given), expected, atol=1e-5)


def test_lraspp_takes_its_detail_from_before_the_last_map() -> None:
    assert LRASPP(FeatureInfo([8, 16, 24, 32], [2, 4, 8, 8]), 16, 7, 0.0).low == 2
    assert LRASPP(SHAPE, 16, 7, 0.0).low == 2


def test_auxiliary_head_keeps_the_size() -> None:
    assert tuple(FCN(24, 7, 0.1).eval()(torch.zeros(1, 24, 9, 11)).shape) == (1, 7, 9, 11)
