"""Geometry: cached teacher logits must land on exactly the pixels that the crop shows."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rdd_deploy.data.base import IGNORE
from rdd_deploy.data.config import Augment
from rdd_deploy.data.transforms import CropWindow, RandomScaleCrop, cut, cut_logits


def coordinates(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose red is x and whose green is y (in pixel centres, times 2), and labels that are the row's and
    column's parity.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack((2 * x + 1, 2 * y + 1, torch.full_like(x, 77))).to(torch.uint8)
    return image, torch.zeros(height, width, dtype=torch.uint8)


def coordinate_logits(height: int, width: int, stride: int) -> torch.Tensor:
    """The same two coordinates as logits at a stride, half-pixel aligned."""
    h, w = height // stride, width // stride
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    return torch.stack((2 * stride * x, 2 * stride * y))[None]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 100_000), stride=st.sampled_from([1, 2, 4]), low=st.sampled_from([0.5, 1.0, 1.7]), spread=st.sampled_from([0.0, 0.8]),
    base=st.sampled_from([(96, 120), (48, 60), (72, 100)]), crop=st.sampled_from([(64, 64), (40, 72)]),
)  # fmt: skip
def test_logits_follow_the_crop(
    seed: int, stride: int, low: float, spread: float, base: tuple[int, int], crop: tuple[int, int]
) -> None:
    height, width = 96, 120
    image, labels = coordinates(height, width)
    transform = RandomScaleCrop(Augment(crop=crop, scale=(low, low + spread), jitter=0.0), base)
    torch.manual_seed(seed)
    got = transform(image, labels)
    window = torch.tensor([[int(v) for v in got.window]])
    cuts = cut_logits(coordinate_logits(height, width, stride), window, (height, width), crop)[0]
    # Near the frame's border the picture fades into its grey frame and coarse logits are clamped; compare inside.
    margin = 2 * stride + 4 * max(got.window.height / crop[0], got.window.width / crop[1], 1)
    inside = (
        (cuts[0] / 2 > margin)
        & (cuts[0] / 2 < width - margin)
        & (cuts[1] / 2 > margin)
        & (cuts[1] / 2 < height - margin)
    )
    assume(inside.any())
    assert (got.labels[inside] != IGNORE).all()
    assert (got.image[:2].float() - cuts).abs()[
        :, inside
    ].max() <= 1.01  # rounding to uint8 once or twice; a source pixel is 2
    assert (got.image[2][inside] == 77).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 100_000), low=st.sampled_from([0.4, 0.7, 1.0, 2.1]), flip=st.sampled_from([0.0, 1.0]))
def test_labels_lie_where_the_picture_lies(seed: int, low: float, flip: float) -> None:
    """The label of each output pixel is that of the source pixel under its centre: no shift against the picture."""
    height, width, crop = 90, 110, (50, 70)
    columns = torch.arange(width, dtype=torch.uint8).expand(height, width).contiguous()
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width).contiguous()
    transform = RandomScaleCrop(Augment(crop=crop, scale=(low, low), jitter=0.0, flip=flip), (height, width))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for labels, axis in ((columns, 0), (rows, 1)):
        torch.manual_seed(seed)
        got = transform(image, labels)
        window = torch.tensor([[int(v) for v in got.window]])
        centre = cut_logits(coordinate_logits(height, width, 1), window, (height, width), crop)[0, axis] / 2
        shown = (got.labels != IGNORE) & (centre > 0.75) & (centre < (width, height)[axis] - 0.75)
        assert shown.any()
        assert (got.labels[shown].float() + 0.5 - centre[shown]).abs().max() <= 0.5 + 1e-3


@settings(max_examples=40)
@given(seed=st.integers(0, 100_000), scale=st.sampled_from([0.3, 0.5, 0.9]))
def test_beyond_the_frame_is_void(seed: int, scale: float) -> None:
    image, labels = coordinates(60, 80)
    transform = RandomScaleCrop(Augment(crop=(64, 64), scale=(scale, scale), jitter=0.0, flip=0.0), (60, 80))
    torch.manual_seed(seed)
    got = transform(image, labels)
    top, left, height, width, _ = got.window
    y, x = (torch.arange(64) + 0.5) * height / 64 + top, (torch.arange(64) + 0.5) * width / 64 + left
    outside = ((y < -0.01) | (y > 60.01))[:, None] | ((x < -0.01) | (x > 80.01))[None]
    inside = ((y > 0.01) & (y < 59.99))[:, None] & ((x > 0.01) & (x < 79.99))[None]
    assert (got.labels[outside] == IGNORE).all()
    assert (got.labels[inside] != IGNORE).all()
    far = ((y < -8) | (y > 68))[:, None] | ((x < -8) | (x > 88))[None]
    assert (got.image[:, far] == 128).all()


@pytest.mark.parametrize(
    "window", [CropWindow(-3, -4, 20, 30, False), CropWindow(2, 3, 4, 5, False), CropWindow(-2, 1, 5, 40, True)]
)
def test_cut_is_a_crop_of_the_padded_picture(window: CropWindow) -> None:
    picture = torch.arange(2 * 10 * 12, dtype=torch.uint8).view(2, 10, 12)
    padded = torch.full((2, 110, 112), 9, dtype=torch.uint8)
    padded[:, 50:60, 50:62] = picture
    expected = padded[:, 50 + window.top :, 50 + window.left :][:, : window.height, : window.width]
    assert torch.equal(cut(picture, window, fill=9), expected)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 100_000),
    frame=st.sampled_from([(64, 64), (119, 157), (33, 300)]),
    scale=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_windows_lie_inside_or_around_the_frame(seed: int, frame: tuple[int, int], scale: float) -> None:
    torch.manual_seed(seed)
    window = RandomScaleCrop(Augment(crop=(64, 64), scale=(scale, scale)), (64, 64)).draw(*frame)
    for start, length, side in ((window.top, window.height, frame[0]), (window.left, window.width, frame[1])):
        inside = start >= 0 and start + length <= side
        around = start <= 0 and start + length >= side
        assert inside or around


def test_uint8_in_and_out_at_the_crops_size() -> None:
    image, labels = coordinates(70, 90)
    torch.manual_seed(0)
    got = RandomScaleCrop(Augment(crop=(48, 40)), (70, 90))(image, labels)
    assert (got.image.dtype, tuple(got.image.shape)) == (torch.uint8, (3, 48, 40))
    assert (got.labels.dtype, tuple(got.labels.shape)) == (torch.uint8, (48, 40))
    assert type(got.image) is torch.Tensor
    assert type(got.labels) is torch.Tensor


def test_the_source_is_left_alone() -> None:
    image, labels = coordinates(70, 90)
    before = image.clone(), labels.clone()
    for seed in range(5):
        torch.manual_seed(seed)
        RandomScaleCrop(Augment(crop=(70, 90), scale=(1.0, 1.0)), (70, 90))(image, labels)
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])


def test_flip_and_jitter_can_be_switched_off_and_on() -> None:
    image, labels = coordinates(64, 64)
    still = RandomScaleCrop(Augment(crop=(64, 64), scale=(1.0, 1.0), flip=0.0, jitter=0.0), (64, 64))(image, labels)
    assert torch.equal(still.image, image)
    mirrored = RandomScaleCrop(Augment(crop=(64, 64), scale=(1.0, 1.0), flip=1.0, jitter=0.0), (64, 64))(image, labels)
    assert torch.equal(mirrored.image, image.flip(-1))
    torch.manual_seed(1)
    coloured = RandomScaleCrop(Augment(crop=(64, 64), scale=(1.0, 1.0), flip=0.0, jitter=0.5), (64, 64))(image, labels)
    assert not torch.equal(coloured.image, image)
    assert torch.equal(coloured.labels, labels)
