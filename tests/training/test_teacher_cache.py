"""The teacher's boundary: frozen, and the dense cache says what the live teacher says."""

import io
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toys import CLASSES, ENCODER, leftovers, write_data

from rdd_deploy.data.check import check_split
from rdd_deploy.data.config import Augment
from rdd_deploy.data.loader import Batch, CropDataset, FrameCache, Room
from rdd_deploy.data.open import open_split
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.errors import DiskError
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.tta import TestTimeAugmentation, tta_logits, tta_predictor
from rdd_deploy.training.teacher import LiveTeacher
from rdd_deploy.training.teacher_cache import CachedTeacher, cached_teacher

SIZE = (64, 64)


def segmenter(seed: int = 0, auxiliary: bool = True) -> Segmenter:
    torch.manual_seed(seed)
    made = Segmenter(Network(encoder=ENCODER, weights="none", channels=16, auxiliary=auxiliary), 3)
    for _ in range(3):  # let BatchNorm see something, so that logits differ from pixel to pixel
        made.train()(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    return made.eval()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> FrameCache:
    return FrameCache(open_split("folder", write_data(tmp_path_factory.mktemp("data")), "train", classes=CLASSES), Room(math.inf))


def opened(frames: FrameCache, folder: Path, views: TestTimeAugmentation = TestTimeAugmentation(SIZE), **changes: Any) -> CachedTeacher:
    given = {"teacher": segmenter(), "checkpoint_sha256": "a", "frames_digest": "b", "precision": None} | changes
    return cached_teacher(split=frames.split, views=views, folder=folder, device=torch.device("cpu"), **given)


def whole_frames(frames: FrameCache, flip: float) -> Batch:
    crops = CropDataset(frames, RandomScaleCrop(Augment(crop=SIZE, scale=(1.0, 1.0), flip=flip, jitter=0.0), SIZE), 0)
    return Batch(*(torch.stack(parts) for parts in zip(*(crops[0, i] for i in range(len(frames))), strict=True)))


def test_cached_is_live_where_the_crop_is_the_whole_frame(frames: FrameCache, tmp_path: Path) -> None:
    batch = whole_frames(frames, flip=0.0)
    live, cached = LiveTeacher(segmenter())(batch, True), opened(frames, tmp_path)(batch, True)
    for a, b in zip(live[:2], cached[:2], strict=True):
        assert a is not None
        assert b is not None
        assert (
            F.softmax(a, 1) - F.softmax(b, 1)
        ).abs().max() < 0.08  # the cache's grid is finer than the head's, so it is interpolated twice
        assert (F.softmax(a, 1) - F.softmax(b, 1)).abs().mean() < 0.005


def test_mirrored_crops_cut_mirrored_logits(frames: FrameCache, tmp_path: Path) -> None:
    teacher = opened(frames, tmp_path)
    straight, mirrored = teacher(whole_frames(frames, 0.0), False), teacher(whole_frames(frames, 1.0), False)
    assert torch.allclose(straight.primary.flip(-1), mirrored.primary, atol=1e-4)
    assert straight.auxiliary is None


def test_averaging_over_mirrored_views_is_symmetric_and_a_mean_of_probabilities(frames: FrameCache) -> None:
    network, images = segmenter(), whole_frames(frames, 0.0).images
    views = TestTimeAugmentation(SIZE, (1.0, 1.5), True)
    with torch.inference_mode():
        one = tta_logits(network, images, views, (16, 16)).primary
        other = tta_logits(network, images.flip(-1), views, (16, 16)).primary
        assert torch.allclose(one, other.flip(-1), atol=2e-2)
        assert torch.allclose(one.exp().sum(1), torch.ones(()), atol=1e-4)
        plain = tta_logits(network, images, TestTimeAugmentation(SIZE, (1.0,), True), (16, 16)).primary
        a = F.softmax(tta_logits(network, images, TestTimeAugmentation(SIZE), (16, 16)).primary, 1)
        b = F.softmax(tta_logits(network, images.flip(-1), TestTimeAugmentation(SIZE), (16, 16)).primary.flip(-1), 1)
        assert torch.allclose(plain.exp(), (a + b) / 2, atol=1e-5)


def test_a_cache_belongs_to_weights_frames_views_and_precision(frames: FrameCache, tmp_path: Path) -> None:
    opened(frames, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    opened(frames, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    opened(frames, tmp_path, checkpoint_sha256="other")
    opened(frames, tmp_path, frames_digest="other")
    opened(frames, tmp_path, views=TestTimeAugmentation(SIZE, (1.0,), True))
    opened(frames, tmp_path, views=TestTimeAugmentation((96, 96)))
    opened(frames, tmp_path, precision=torch.bfloat16)
    assert len(list(tmp_path.iterdir())) == 6


def test_no_gradient_and_no_change(frames: FrameCache) -> None:
    network = segmenter().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    output = LiveTeacher(network)(whole_frames(frames, 0.0), True)
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training
    assert not any(one is not None and one.requires_grad for one in output[:2])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def _fill_slowly(folder: str, data: str) -> None:
    frames = FrameCache(open_split("folder", data, "train", classes=CLASSES), Room(math.inf))
    opened(frames, Path(folder), advance=lambda _: time.sleep(60))


def test_killed_while_filling_it_is_filled_again(frames: FrameCache, tmp_path: Path) -> None:
    from multiprocessing import get_context

    process = get_context("forkserver").Process(target=_fill_slowly, args=(str(tmp_path), str(frames.split.pairs[0][0].parents[1])))  # type: ignore[attr-defined]
    process.start()
    while not list(tmp_path.glob(".*.part/primary.npy")):
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert len(leftovers(tmp_path)) == 1
    teacher = opened(frames, tmp_path)
    assert leftovers(tmp_path) == []
    assert np.abs(np.asarray(teacher.primary, np.float32)).sum((1, 2, 3)).all(), "a frame was left at zero"
    assert len(list(tmp_path.iterdir())) == 1


def test_another_run_may_finish_first(frames: FrameCache, tmp_path: Path) -> None:
    def meanwhile(_: int) -> None:
        opened(frames, tmp_path)

    # The process id names the part, so the inner run must stand in for another process.
    real, calls = os.getpid, []
    try:

        def advance(count: int) -> None:
            if not calls:
                calls.append(count)
                os.getpid = lambda: 4_194_303
                meanwhile(count)
                os.getpid = real

        teacher = opened(frames, tmp_path, advance=advance)
    finally:
        os.getpid = real
    assert leftovers(tmp_path) == []
    assert teacher.primary.shape[0] == len(frames)


def test_a_damaged_cache(frames: FrameCache, tmp_path: Path) -> None:
    opened(frames, tmp_path)
    (store,) = tmp_path.glob("*/primary.npy")
    store.write_bytes(store.read_bytes()[:1000])
    with pytest.raises(DiskError, match=r"the teacher cache .* is damaged \(.*\); delete that folder, it is filled again"):
        opened(frames, tmp_path)


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("primary.npy", lambda a: b""),
        ("primary.npy", lambda a: array(a[:1])),
        ("primary.npy", lambda a: array(a[:, :2])),
        ("primary.npy", lambda a: array(a.astype(np.float32))),
        ("primary.npy", lambda a: array(np.float16(1))),
        ("sizes.npy", lambda a: array(a[:1])),
        ("sizes.npy", lambda a: array(a * 0)),
        ("key.json", lambda a: b"rubbish"),
        ("key.json", lambda a: b"[1]"),
    ],
)
def test_a_cache_of_another_form(frames: FrameCache, tmp_path: Path, hashed: bool, name: str, change: Callable[[Any], bytes]) -> None:
    """Also one of an earlier version, without hashes."""
    opened(frames, tmp_path)
    (key,) = tmp_path.glob("*/key.json")
    if not hashed:
        key.write_text(json.dumps({name: value for name, value in json.loads(key.read_text()).items() if name != "sha256"}))
        opened(frames, tmp_path)
    file = key.with_name(name)
    file.write_bytes(change(np.load(file) if file.suffix == ".npy" else None))
    with pytest.raises(DiskError, match=r"the teacher cache .* is damaged \(.*\); delete that folder, it is filled again"):
        opened(frames, tmp_path)


def test_a_flipped_bit_in_the_cache_teaches_nobody(frames: FrameCache, tmp_path: Path) -> None:
    opened(frames, tmp_path)
    (store,) = tmp_path.glob("*/primary.npy")
    content = bytearray(store.read_bytes())
    content[-1] ^= 1
    store.write_bytes(content)
    with pytest.raises(DiskError, match=r"is damaged \(primary\.npy isn't what was written\)"):
        opened(frames, tmp_path)


def test_a_failing_fill_leaves_nothing(frames: FrameCache, tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match=r"No space left on device; free some space or set teacher.cache=false"):
        opened(frames, tmp_path, advance=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_is_measured_as_it_teaches(frames: FrameCache) -> None:
    network, views = segmenter(), TestTimeAugmentation(SIZE, (1.0,), True)
    given = [frames.split.frame(i) for i in range(3)]
    labels = tta_predictor(network, views, "cpu")(given)
    assert [one.shape for one in labels] == [(64, 64)] * 3
    again = tta_predictor(network, views, "cpu")([given[1]])
    assert (labels[1] != again[0]).sum() <= 2


def test_digest_of_the_toy_frames_is_stable(frames: FrameCache) -> None:
    assert check_split(frames.split).digest == check_split(frames.split).digest
