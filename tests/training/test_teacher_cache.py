"""The teacher's boundary: frozen, and the caches say what the live teacher says."""

import io
import json
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional as F
from toys import CLASSES, ENCODER, leftovers, read_json, write_data

from rdd_deploy.data.check import check_split
from rdd_deploy.data.config import Augment
from rdd_deploy.data.loader import Batch, CropDataset, FrameCache, Room, training_loader
from rdd_deploy.data.open import open_split
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop, cut_logits
from rdd_deploy.errors import DiskError, WeightsError
from rdd_deploy.losses.rdd import RelativeDifficultyLoss, teacher_full_evaluated
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.tta import TestTimeAugmentation, tta_logits, tta_predictor
from rdd_deploy.outputs import resized
from rdd_deploy.recipe_train import Train
from rdd_deploy.training import teacher, teacher_filling, teacher_measuring, teacher_shards
from rdd_deploy.training.copy_paste import copy_pasted
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.teacher import LiveTeacher
from rdd_deploy.training.teacher_cache import CachedTeacher, cached_teacher
from rdd_deploy.utils import files

SIZE = (64, 64)


def segmenter(seed: int = 0, auxiliary: bool = True) -> Segmenter:
    torch.manual_seed(seed)
    made = Segmenter(Network(encoder=ENCODER, weights="none", channels=16, auxiliary=auxiliary), 3)
    for _ in range(3):  # let BatchNorm see something, so that logits differ from pixel to pixel
        made.train()(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    return made.eval()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> FrameCache:
    return FrameCache(
        open_split("folder", write_data(tmp_path_factory.mktemp("data")), "train", classes=CLASSES), Room(math.inf)
    )


def opened(
    frames: FrameCache, folder: Path, views: TestTimeAugmentation = TestTimeAugmentation(SIZE), **changes: Any
) -> CachedTeacher:
    given = {"teacher": segmenter(), "checkpoint_sha256": "a", "frames_digest": "b", "precision": None} | changes
    return cached_teacher(split=frames.split, views=views, folder=folder, device=torch.device("cpu"), **given)


CROP = (56, 48)


def random_crops(frames: FrameCache) -> Batch:
    crops = CropDataset(frames, RandomScaleCrop(Augment(crop=CROP, scale=(0.5, 2.0), jitter=0.0), SIZE), 0)
    return Batch(*(torch.stack(parts) for parts in zip(*(crops[0, i] for i in range(len(frames))), strict=True)))


def whole_frames(frames: FrameCache, flip: float) -> Batch:
    crops = CropDataset(frames, RandomScaleCrop(Augment(crop=SIZE, scale=(1.0, 1.0), flip=flip, jitter=0.0), SIZE), 0)
    return Batch(*(torch.stack(parts) for parts in zip(*(crops[0, i] for i in range(len(frames))), strict=True)))


def test_cached_is_live_where_the_crop_is_the_whole_frame(frames: FrameCache, tmp_path: Path) -> None:
    batch = whole_frames(frames, flip=0.0)
    live, cached = LiveTeacher(segmenter())(batch, True), opened(frames, tmp_path, form="dense")(batch, True)
    assert live.agreement is None
    assert cached.agreement is None
    for a, b in zip(live[:2], cached[:2], strict=True):
        assert a is not None
        assert b is not None
        assert (
            F.softmax(a, 1) - F.softmax(b, 1)
        ).abs().max() < 0.08  # the cache's grid is finer than the head's, so it is interpolated twice
        assert (F.softmax(a, 1) - F.softmax(b, 1)).abs().mean() < 0.005


@pytest.mark.parametrize("divergence", ["main_aux", "aux_main"])
def test_compact_is_nearly_dense(frames: FrameCache, tmp_path: Path, divergence: Any) -> None:
    batch = random_crops(frames)
    dense, compact = (opened(frames, tmp_path, form=form, divergence=divergence) for form in ("dense", "compact"))
    a, b = dense(batch, True), compact(batch, True)
    assert a.auxiliary is not None
    assert b.auxiliary is None
    assert b.agreement is not None
    assert a.primary.shape == b.primary.shape
    log_p, log_q = F.log_softmax(a.primary, 1), F.log_softmax(b.primary, 1)
    assert (log_p.exp() * (log_p - log_q)).sum(1).mean() < 1e-4
    weight = teacher_full_evaluated(a.primary, a.auxiliary, divergence=divergence)
    assert (b.agreement.dtype, b.agreement.shape) == (torch.float32, weight.shape)
    assert (b.agreement - weight).abs().max() < 0.05
    assert (b.agreement - weight).abs().mean() < 0.005
    again = compact(batch, False)
    assert again.agreement is None
    assert torch.equal(again.primary, b.primary)
    target = torch.randint(0, 3, weight.shape)
    student, loss = torch.randn_like(a.primary), RelativeDifficultyLoss(divergence=divergence)
    one = loss(student, a.primary, a.auxiliary, target, 0.0).total
    other = loss(student, b.primary, None, target, 0.0, agreement=b.agreement).total
    assert one.item() == pytest.approx(other.item(), rel=0.01)


def test_a_dense_cache_is_as_it_always_was(frames: FrameCache, tmp_path: Path) -> None:
    views = TestTimeAugmentation(SIZE, (1.0, 1.5), True)
    teacher, batch = opened(frames, tmp_path, views=views, form="dense"), random_crops(frames)
    given = torch.stack([frames[int(i)][0] for i in batch.indices])
    with torch.inference_mode():
        exact = tta_logits(segmenter(), given, views, (32, 32))
    got = teacher(batch, True)
    for name, logits, cut in zip(("primary", "auxiliary"), exact[:2], got[:2], strict=True):
        assert logits is not None
        assert cut is not None
        stored = torch.from_numpy(np.array(teacher.stores[name].array[batch.indices.numpy()]))
        assert torch.equal(cut, cut_logits(stored, batch.windows, SIZE, CROP))
        assert (stored - logits.half()).abs().max() < 0.01


@pytest.mark.parametrize("form", ["compact", "dense"])
@pytest.mark.parametrize("workers", [0, 2])
def test_loaded_in_any_process_or_held_on_the_device_it_says_the_same(
    frames: FrameCache, tmp_path: Path, form: Any, workers: int
) -> None:
    teacher = opened(frames, tmp_path, form=form, maps={"head", "logits", "stage2"})
    assert "beside" not in whole_frames(frames, 0.0)._fields
    crops = CropDataset(frames, RandomScaleCrop(Augment(crop=CROP, scale=(0.5, 2.0), jitter=0.0), SIZE), 3)
    loaded = list(training_loader(crops, ResumableBatchSampler(len(frames), 3, 2, 5), workers, False, teacher.read))
    assert len(loaded) == 4
    maps = {"head": (5, 6), "logits": (10, 9), "stage2": (20, 20)}
    for batch in loaded:
        assert "primary" in batch.beside  # type: ignore[attr-defined]
        got = teacher(batch, True, maps)
        bare = teacher(Batch(*batch[:4]), True, maps)
        assert batch.images.shape[-2:] == CROP
        for one, other in ((got.primary, bare.primary), *((got.features[name], bare.features[name]) for name in maps)):
            assert torch.equal(one, other)
    resident = opened(frames, tmp_path, form=form, maps=set(maps)).to(torch.device("cpu"))
    assert resident.read(loaded[0]) == {}
    held, read = resident(loaded[0], True, maps), teacher(loaded[0], True, maps)
    for name in maps:
        assert held.features[name].shape[-2:] == maps[name]
        assert torch.allclose(held.features[name], read.features[name], atol=1e-4)
    assert torch.allclose(held.primary, read.primary, atol=1e-4)
    for a, b in ((held.auxiliary, read.auxiliary), (held.agreement, read.agreement)):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-4)  # type: ignore[arg-type]


def test_maps_are_the_live_teachers(frames: FrameCache, tmp_path: Path) -> None:
    """Whole frames, plain, at the teacher's own stride, resized to the student's map."""
    batch, maps = whole_frames(frames, 0.0), {"head": (8, 8), "stage1": (16, 16), "auxiliary": (16, 16)}
    live = LiveTeacher(segmenter())(batch, False, maps).features
    got = opened(frames, tmp_path, views=TestTimeAugmentation(SIZE, (1.0, 1.5), True), maps=set(maps))(
        batch, False, maps
    ).features
    assert set(got) == set(maps)
    for name, size in maps.items():
        assert (got[name] - resized(live[name], size)).abs().max() < 2e-3 * live[name].abs().max()


def test_what_was_copied_into_a_crop_is_what_it_said_of_it_where_it_was(frames: FrameCache, tmp_path: Path) -> None:
    cache, batch = opened(frames, tmp_path, maps={"stage3"}), random_crops(frames)
    pasted = copy_pasted(batch, 1.0, 3, len(frames), [1])
    mask, shift, _ = pasted.pasted
    source = (torch.arange(len(mask)) + shift) % len(mask)
    assert mask.any()
    before, after = (cache(one, True, {"stage3": (7, 6), "logits": (7, 6)}) for one in (batch, pasted))
    assert torch.equal(after.primary, torch.where(mask[:, None], before.primary[source], before.primary))
    assert before.agreement is not None
    assert after.agreement is not None
    assert torch.equal(after.agreement, torch.where(mask, before.agreement[source], before.agreement))
    for name, said in before.features.items():
        assert torch.equal(after.features[name], pasted.pasted.onto(said))
        assert not torch.equal(after.features[name], said)


def test_each_map_is_a_folder_that_other_runs_use(frames: FrameCache, tmp_path: Path) -> None:
    opened(frames, tmp_path, maps={"logits"})
    assert len(list(tmp_path.iterdir())) == 1, "logits come from the main files"
    opened(frames, tmp_path, maps={"head"})
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npy")}
    assert len(list(tmp_path.iterdir())) == 2
    both = opened(frames, tmp_path, maps={"head", "stage1"}, views=TestTimeAugmentation(SIZE, (1.0,), True))
    assert len(list(tmp_path.iterdir())) == 4
    assert all(file.stat().st_mtime_ns == since for file, since in before.items())
    with pytest.raises(ValueError, match=r"the teacher's cache was opened without stage2"):
        both(whole_frames(frames, 0.0), False, {"stage2": (4, 4)})
    with pytest.raises(ValueError, match="the network has no map auxiliary"):
        opened(frames, tmp_path, teacher=segmenter(auxiliary=False), checkpoint_sha256="none", maps={"auxiliary"})
    assert len(list(tmp_path.iterdir())) == 4, "nothing was filled"


def test_size_and_time_are_told(frames: FrameCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(frames, tmp_path)
    size, duration = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"teacher cache: 0\.00614 MB to be written in {tmp_path}, [\d.]+ GB are free", size)
    assert re.fullmatch(r"teacher cache: about [\d.]+ min", duration)
    opened(frames, tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("part", "form"), [("head", "compact"), ("head", "dense"), ("auxiliary", "compact"), ("auxiliary", "dense")]
)
def test_a_teacher_that_says_nan(part: str, form: Any, frames: FrameCache, tmp_path: Path) -> None:
    broken = segmenter()
    with torch.no_grad():
        next(getattr(broken, part).parameters()).fill_(torch.nan)
    with pytest.raises(
        WeightsError, match=r"the teacher's logits of train0000.* can't be kept: they hold NaN or infinity"
    ):
        opened(frames, tmp_path, teacher=broken, form=form)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["claims"], "nothing was kept"


def _fill_with_others(rank: int, port: int, folder: str, data: str, dies: bool) -> None:
    teacher_shards.SHARD = 4
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    frames = FrameCache(open_split("folder", data, "train", classes=CLASSES), Room(math.inf))

    def advance(_: int) -> None:
        if dies and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    opened(frames, Path(folder), fabric=fabric, maps={"head"}, advance=advance)


def _pair(folder: Path, data: Path, dies: bool = False) -> list[int | None]:
    from multiprocessing import get_context

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [
        get_context("forkserver").Process(target=_fill_with_others, args=(r, port, str(folder), str(data), dies))
        for r in range(2)
    ]  # type: ignore[attr-defined]
    for process in pair:
        process.start()
    for process in pair:
        process.join(100)
    return [process.exitcode for process in pair]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six frames are two shards."""
    monkeypatch.setattr(teacher_shards, "SHARD", 4)


@pytest.mark.usefixtures("small_shards")
def test_two_processes_fill_it_with_the_same_bytes(frames: FrameCache, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        opened(frames, tmp_path / "one", maps={"head"})
    finally:
        torch.set_num_threads(threads)
    assert _pair(tmp_path / "two", frames.split.pairs[0][0].parents[1]) == [0, 0]
    one, two = (
        {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    assert len(one) == 2 * (3 + 1 + 2 + 1), "two shards, each of two folders"
    assert one == two


@pytest.mark.usefixtures("small_shards")
def test_one_of_two_is_killed(frames: FrameCache, tmp_path: Path) -> None:
    data = frames.split.pairs[0][0].parents[1]
    codes = _pair(tmp_path, data, dies=True)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    assert (opened(frames, tmp_path, maps={"head"}).primary.sum((1, 2, 3)) > 0).all()
    assert leftovers(tmp_path) == []


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
    opened(frames, tmp_path, form="dense")
    opened(frames, tmp_path, divergence="aux_main")
    assert len(list(tmp_path.iterdir())) == 8


def test_no_gradient_and_no_change(frames: FrameCache) -> None:
    network = segmenter().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    output = LiveTeacher(network)(whole_frames(frames, 0.0), True)
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training
    assert not any(one is not None and one.requires_grad for one in output[:2])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def _fill_and_stop(folder: str, data: str, stops_after: int) -> None:
    """Fill a cache, and wait for a signal after so many frames."""
    teacher_shards.SHARD = 4
    torch.set_num_threads(1)
    frames = FrameCache(open_split("folder", data, "train", classes=CLASSES), Room(math.inf))
    seen = []

    def advance(count: int) -> None:
        seen.append(count)
        if sum(seen) >= stops_after:
            time.sleep(60)

    opened(frames, Path(folder), advance=advance)


def _started(folder: Path, frames: FrameCache, stops_after: int) -> Any:
    from multiprocessing import get_context

    data = str(frames.split.pairs[0][0].parents[1])  # type: ignore[attr-defined]
    process = get_context("forkserver").Process(target=_fill_and_stop, args=(str(folder), data, stops_after))  # type: ignore[attr-defined]
    process.start()
    return process


def shards_in(folder: Path) -> dict[str, int]:
    """The inode of each file of the shards that are there."""
    whole = [told.parent for told in folder.rglob("shard.json") if not told.parent.name.startswith(".")]
    return {str(file): file.stat().st_ino for shard in whole for file in shard.iterdir()}


@pytest.mark.usefixtures("small_shards")
def test_killed_while_filling_it_goes_on(frames: FrameCache, tmp_path: Path) -> None:
    """What was there stays, also by its inode; what was half-written is gone."""
    process = _started(tmp_path, frames, 6)
    while not (shards_in(tmp_path) and list(tmp_path.glob("*/.*.part/primary.npy"))):
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    there = shards_in(tmp_path)
    assert len(there) == 4
    assert len([one for one in leftovers(tmp_path) if one.endswith(".part")]) == 1
    done: list[int] = []
    teacher = opened(frames, tmp_path, advance=done.append)
    assert done == [4, 2], "four frames were there"
    after = shards_in(tmp_path)
    assert len(after) == 8
    assert after.items() >= there.items()
    assert leftovers(tmp_path) == []
    assert np.array_equal(teacher.primary, opened(frames, tmp_path / "another").primary)


@pytest.mark.usefixtures("small_shards")
def test_processes_that_know_nothing_of_each_other_share_the_work(
    frames: FrameCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One holds the first shard and is killed; another fills the second meanwhile, waits, and takes the
    first one over.
    """
    process = _started(tmp_path, frames, 1)
    while not list(tmp_path.glob("*/.*.part/primary.npy")):
        assert process.is_alive()
        time.sleep(0.02)
    done: list[int] = []

    def advance(count: int) -> None:
        done.append(count if process.is_alive() else -count)
        if len(done) == 1:  # time enough to begin to wait for the other shard
            threading.Timer(0.6, lambda: os.kill(process.pid, signal.SIGKILL)).start()

    teacher = opened(frames, tmp_path, advance=advance)
    process.join()
    assert done == [2, -4]
    assert "teacher cache: waiting for other processes, which fill the last 1 shard" in " ".join(
        capsys.readouterr().out.split()
    )
    assert leftovers(tmp_path) == []
    assert np.array_equal(teacher.primary, opened(frames, tmp_path / "another").primary)


@pytest.mark.usefixtures("small_shards")
def test_a_frame_counts_once_where_another_process_is_at_one_of_its_folders(
    frames: FrameCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, folders, tried = teacher_filling.claimed, [], set()

    @contextmanager
    def claimed(folder: Path, part: str) -> Iterator[bool]:
        folders.append(folder)
        with real(folder, part) as mine:
            yield mine and (folder == folders[0] or (folder, part) in tried)
        tried.add((folder, part))

    monkeypatch.setattr(teacher_filling, "claimed", claimed)
    done: list[int] = []
    opened(frames, tmp_path, maps={"head"}, advance=done.append)
    assert sum(done) == len(frames)
    assert len(tried) == 4


def test_a_shard_belongs_to_its_frames_and_stays_when_others_follow() -> None:
    digests = [f"{number:032x}" for number in range(200)]
    first, then = teacher_shards.shards_of(150, "x", digests[:150]), teacher_shards.shards_of(200, "y", digests)
    assert [shard[1:] for shard in then] == [(0, 64), (64, 64), (128, 64), (192, 8)]
    assert first[:2] == then[:2]
    assert first[2].name != then[2].name
    moved = teacher_shards.shards_of(200, "y", [digests[1], digests[0], *digests[2:]])
    assert [one.name == other.name for one, other in zip(moved, then, strict=True)] == [False, True, True, True]
    whole = teacher_shards.shards_of(200, "x")
    assert (
        len(
            {shard.name for shard in (*whole, *teacher_shards.shards_of(200, "y"), *teacher_shards.shards_of(150, "x"))}
        )
        == 4 + 4 + 3 - 2
    )


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


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("name", "change", "hashed"),
    [
        ("primary.npy", lambda a: b"", True),
        ("primary.npy", lambda a: array(a)[:-1], True),
        ("primary.npy", lambda a: array(a ^ (a == a.max())), True),
        ("primary.npy", lambda a: None, True),
        ("sizes.npy", lambda a: None, False),
        ("primary.npy", lambda a: b"", False),
        ("primary.npy", lambda a: array(a[:1]), False),
        ("primary.npy", lambda a: array(a[:, :2]), False),
        ("primary.npy", lambda a: array(a.astype(np.float32)), False),
        ("primary.npy", lambda a: array(np.float16(1)), False),
        ("sizes.npy", lambda a: array(a[:1]), False),
        ("sizes.npy", lambda a: array(a * 0), False),
        ("shard.json", lambda a: b"rubbish", True),
        ("shard.json", lambda a: b"[1]", True),
        ("shard.json", lambda a: b"{}", True),
    ],
)
def test_a_damaged_shard_is_filled_again(
    frames: FrameCache,
    tmp_path: Path,
    name: str,
    change: Callable[[Any], bytes | None],
    hashed: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where whoever changed it wrote the hash that fits; the other shard stays."""
    expected = opened(frames, tmp_path).primary
    before = shards_in(tmp_path)
    told = min(tmp_path.glob("*/*/shard.json"))
    file = told.with_name(name)
    content = change(np.load(file) if file.suffix == ".npy" else None)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    if not hashed and content is not None:
        description = read_json(told)
        description["sha256"][name] = files.sha256(file)
        told.write_text(json.dumps(description))
    capsys.readouterr()
    done: list[int] = []
    assert np.array_equal(opened(frames, tmp_path, advance=done.append).primary, expected)
    assert sorted(done) in ([2, 4], [4, 2])
    assert re.search(
        r"warning: the teacher cache .* is damaged \(.*\): 1 of 2 shards will be filled again",
        " ".join(capsys.readouterr().err.split()),
    )
    assert shards_in(tmp_path).keys() == before.keys()
    other = {path: inode for path, inode in before.items() if not path.startswith(str(told.parent))}
    assert shards_in(tmp_path).items() >= other.items()
    assert leftovers(tmp_path) == []


def test_a_failing_fill_leaves_nothing_half_written(frames: FrameCache, tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        DiskError,
        match=(
            r"No space left on device; free some space or set teacher.cache=false. What was filled stays: the same"
            r" command"
        ),
    ):
        opened(frames, tmp_path, advance=fail)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["claims"]


def test_a_teacher_is_measured_as_it_teaches(frames: FrameCache) -> None:
    network, views = segmenter(), TestTimeAugmentation(SIZE, (1.0,), True)
    given = [frames.split.frame(i) for i in range(3)]
    labels = tta_predictor(network, views, "cpu")(given)
    assert [one.shape for one in labels] == [(64, 64)] * 3
    again = tta_predictor(network, views, "cpu")([given[1]])
    assert (labels[1] != again[0]).sum() <= 2


@pytest.mark.parametrize("live", [True, False])
def test_a_teacher_is_measured_in_the_precision_that_it_teaches_in(
    frames: FrameCache, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[bool, torch.dtype]] = []
    network = segmenter()
    real = network.logits_at_stride

    def looked(*words: Any, **more: Any) -> Any:
        used.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return real(*words, **more)

    monkeypatch.setattr(network, "logits_at_stride", looked)
    recipe = SimpleNamespace(evaluation=SimpleNamespace(split="val"))
    taught = teacher.Teacher(network, None, TestTimeAugmentation(SIZE), Path("t"), "0" * 64, Path("caches"), "t")  # type: ignore[arg-type]
    data = SimpleNamespace(validation=frames.split)
    fabric = make_fabric(Train(device="cpu", precision="bf16-mixed"))
    teacher_measuring._measured(recipe, taught, data, fabric, SIZE if live else None)  # type: ignore[arg-type]
    assert set(used) == {(True, torch.bfloat16)}


def test_digest_of_the_toy_frames_is_stable(frames: FrameCache) -> None:
    assert check_split(frames.split).digest == check_split(frames.split).digest
