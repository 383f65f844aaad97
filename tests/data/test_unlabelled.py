"""Folders, videos and the rest of a data set as frames without labels: all that can be read, each once, none that is
measured on.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from toys import CLASSES, picture, write_data, write_pair

from rdd_deploy.data import frame_index
from rdd_deploy.data.config import DataOptions, options_of
from rdd_deploy.data.label_space import LabelSpace
from rdd_deploy.data.open import open_data
from rdd_deploy.data.similar import DISTANCE, distance, fingerprint
from rdd_deploy.data.subset import labelled_indices
from rdd_deploy.data.unlabelled import INSIDE, JoinedSplit, LeftOut, Unlabelled, look_at_unlabelled, open_unlabelled
from rdd_deploy.errors import DataError, DiskError

SPACE = LabelSpace(tuple(CLASSES), ((1, 2, 3),) * 3)


def scene(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Smooth random shapes, as of a photograph: another seed is another scene."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def write(path: Path, frame: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return path


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    height, width = frames[0].shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (width, height))
    for frame in frames:
        video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    video.release()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set whose val frame is scene 1000."""
    write_data(tmp_path / "data", train=8, val=0)
    write_pair(tmp_path / "data", "val", "val", scene(1000), np.zeros((64, 96), np.uint8))
    return tmp_path


def options(root: Path, *places: Any, **changes: Any) -> DataOptions:
    tree = {
        "root": str(root / "data"),
        "classes": CLASSES,
        "scratch": str(root / "scratch"),
        "unlabelled": [str(place) for place in places],
    }
    return options_of("folder").model_validate(tree | changes)


def opened(root: Path, *places: Any, **changes: Any) -> tuple[Unlabelled, LeftOut]:
    return open_unlabelled(options(root, *places, **changes), SPACE)


def test_a_nested_folder_in_the_order_of_its_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = root / "pool"
    for seed, name in enumerate(("b/2.png", "a/1.jpg", "a/deep/0.PNG", "z.png")):
        write(pool / name, scene(seed))
    write(pool / ".thumbs/9.png", scene(9))
    (pool / "Thumbs.db").write_bytes(b"x")
    (pool / "photo.heic").write_bytes(b"x")
    (pool / "notes.txt").write_text("x")
    (pool / "loop").symlink_to(pool)
    split, left_out = opened(root, pool)
    assert list(split.names) == ["pool/a/1", "pool/a/deep/0", "pool/b/2", "pool/z"]
    assert split.names[-2:] == ["pool/b/2", "pool/z"]
    assert left_out.told() == ""
    assert np.array_equal(split.frame(1), scene(2))
    assert split.labels(3).shape == (64, 96)
    assert (split.labels(3) == INSIDE).all()
    said = " ".join(capsys.readouterr().err.split())
    assert f"2 hidden or system files or folders in {pool} passed over" in said
    assert f"1 pictures of kinds that aren't read in {pool} left out, the first is photo.heic: convert them" in said
    assert f"1 sub-folders that are links in {pool} not followed, the first is loop" in said


def test_near_duplicates_and_what_is_measured_are_left_out(root: Path) -> None:
    pool, again = root / "pool", root / "again"
    for number, seed in enumerate((0, 1, 0, 1000, 2)):
        write(pool / f"{number}.png", scene(seed))
    write(pool / "5.jpg", scene(1))
    write(pool / "6.jpg", scene(1000).clip(3, 250))
    write(again / "0.png", scene(2))
    write(again / "1.png", scene(3))
    split, left_out = opened(root, pool, again)
    assert list(split.names) == ["pool/0", "pool/1", "pool/4", "again/1"]
    assert left_out == LeftOut(near=3, measured=2)
    assert left_out.told() == "3 near-duplicates, 2 that look like frames of val or test"
    hashes = [fingerprint(split.frame(i)) for i in range(len(split))]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > DISTANCE
    kept, left_out = opened(root, pool, again, thin={"similar": "keep"})
    assert (len(kept), left_out) == (7, LeftOut(measured=2))
    assert opened(root, pool, again, thin={"limit": 2})[1] == LeftOut(near=3, measured=2, over=2)
    assert list(opened(root, pool, again, thin={"limit": 2})[0].names) == ["pool/0", "again/1"]
    assert list(opened(root, pool, again, thin={"every": 2})[0].names) == ["pool/0", "pool/4"], "again/0 is pool/4"


def test_frames_that_have_labels_and_the_data_sets_own_masks_are_no_frames_without(root: Path) -> None:
    """The folder of everything, in which the labelled ones lie as well."""
    shutil.copytree(root / "data/train", root / "data/pool")
    write(root / "data/pool/other.png", scene(3))
    split, left_out = opened(root, root / "data", thin={"similar": "keep"})
    assert list(split.names) == ["data/pool/other"]
    assert left_out == LeftOut(measured=1, labelled=16), "where they lie, and their copies"
    assert "16 that have labels" in left_out.told()


def test_an_error_of_the_machine_makes_no_frame_unreadable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "pool/1.png", scene(0))
    write(root / "pool/2.png", scene(1))

    def full(path: Path, *_: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(frame_index, "content", full)
        with pytest.raises(DataError, match=r"can't be read now \(Too many open files\); start again"):
            opened(root, root / "pool")
    assert len(opened(root, root / "pool")[0]) == 2


@pytest.mark.parametrize("given", ["", [""], ["pool", ""]])
def test_an_empty_name_is_no_folder(given: Any, root: Path) -> None:
    with pytest.raises(ValidationError, match="got an empty name, expected folders, videos or 'rest'"):
        options(root, unlabelled=given)
    assert options(root, unlabelled=None).unlabelled == []


def test_what_each_frame_is_follows_its_content(root: Path) -> None:
    pool = root / "pool"
    for seed in range(3):
        write(pool / f"{seed}.png", scene(seed))
    one, _ = opened(root, pool)
    shutil.copytree(pool, root / "elsewhere")
    other, _ = opened(root, root / "elsewhere")
    assert one.digests[:] == other.digests[:]
    assert one.digest == other.digest
    write(pool / "1.png", scene(7))
    changed, _ = opened(root, pool)
    assert [a == b for a, b in zip(one.digests, changed.digests, strict=True)] == [True, False, True]
    assert one.digest != changed.digest


def test_images_are_looked_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_index, "BLOCK", 2)
    pool = root / "pool"
    for seed in range(5):
        write(pool / f"{seed}.png", scene(seed))
    read: list[str] = []
    real = frame_index.read_frame
    monkeypatch.setattr(frame_index, "read_frame", lambda path: (read.append(path.name), real(path))[1])
    first, _ = opened(root, pool)
    assert sorted(read) == [f"{seed}.png" for seed in range(5)]
    read.clear()
    opened(root, pool)
    assert read == []
    write(pool / "5.png", scene(5))
    opened(root, pool)
    assert sorted(read) == ["4.png", "5.png"], "the last block alone"
    for file in (root / "scratch/index").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-1])
    read.clear()
    again, _ = opened(root, pool)
    assert len(read) == 6
    assert again.digests[:5] == first.digests[:]


def test_damaged_images_are_left_out_and_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = root / "pool"
    for seed in range(3):
        write(pool / f"{seed}.png", scene(seed))
    (pool / "1.png").write_bytes((pool / "1.png").read_bytes()[:200])
    (pool / "gone.jpg").symlink_to(pool / "nowhere")
    os.mkfifo(pool / "pipe.png")
    split, left_out = opened(root, pool)
    assert list(split.names) == ["pool/0", "pool/2"]
    assert left_out.unreadable == 3
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"3 of 5 unlabelled frames in {pool} can't be read and are left out, the first: can't read the image"
        f" {pool}/1.png: " in said
    )


def test_a_video_is_cut_once_into_the_frames_that_differ(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(root / "drive.avi", [scene(seed) for seed in (0, 0, 1, 1, 2, 0, 3, 4)])
    split, left_out = opened(root, video)
    assert list(split.names) == [f"drive.avi/{number:08d}" for number in (0, 2, 4, 6, 7)]
    assert left_out.told() == ""
    assert np.abs(split.frame(1).astype(int) - scene(1)).mean() < 12
    (folder,) = (root / "scratch/videos").glob("drive-*")
    inodes = {file.name: file.stat().st_ino for file in folder.iterdir()}
    opened(root, video)
    assert {file.name: file.stat().st_ino for file in folder.iterdir()} == inodes
    (folder / "00000004.jpg").unlink()
    assert list(opened(root, video)[0].names) == list(split.names)
    every, _ = opened(root, video, thin={"every": 3})
    assert list(every.names) == ["drive.avi/00000000", "drive.avi/00000003", "drive.avi/00000006"]
    both, _ = opened(root, root, thin={"similar": "keep", "limit": 6})
    assert len(both) == 6, "a folder with a video in it"


def test_videos_that_are_none(root: Path) -> None:
    whole = write_video(root / "whole.avi", [scene(seed) for seed in range(6)]).read_bytes()
    for name, content in (("empty.mp4", b""), ("rubbish.mp4", b"x" * 5000), ("head.avi", whole[:300])):
        (root / name).write_bytes(content)
        for look in (lambda place: opened(root, place), lambda place: look_at_unlabelled(options(root, place))):
            with pytest.raises(DataError, match=rf"data\.unlabelled: .*{name}.*convert it to mp4"):
                look(root / name)
    assert [path.name for path in (root / "scratch/videos").iterdir()] == ["claims"]
    os.mkfifo(root / "pipe.mp4")
    with pytest.raises(DataError, match=r"pipe\.mp4 is neither a file nor a folder"):
        opened(root, root / "pipe.mp4")


def test_a_video_that_is_cut_short_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(root / "short.avi", [scene(seed) for seed in range(20)])
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    split, _ = opened(root, video)
    assert 4 < len(split) < 15
    assert "short.avi ends after" in " ".join(capsys.readouterr().err.split())


def test_places_that_are_none(root: Path) -> None:
    (root / "nothing").mkdir()
    write(root / "one.png", scene(0))
    write(root / "seen/one.png", scene(1000))
    for place, why in {
        "nowhere": r"there is no .*nowhere; expected a folder of images or videos, a video, or 'rest'",
        "nothing": r"nothing holds no images or videos; expected files ending in \.png",
        "one.png": r"one\.png is a single image; name the folder that it lies in",
        "seen": r"no frame of .*seen remains \(1 that look like frames of val or test\); name others",
    }.items():
        with pytest.raises(DataError, match=why):
            opened(root, root / place)


def test_a_scratch_folder_that_cant_be_written(root: Path) -> None:
    write(root / "pool/1.png", scene(0))
    write_video(root / "v.avi", [scene(0)])
    (root / "file").write_text("x")
    for place in ("pool", "v.avi"):
        with pytest.raises(DiskError, match=r"can't write .*file.*; .*choose another folder with data\.scratch"):
            opened(root, root / place, scratch=str(root / "file"))


def test_the_rest_are_the_frames_whose_masks_arent_used(root: Path) -> None:
    data = options(root, "rest", labelled=0.25)
    used = open_data(data, "train")
    assert used.names == ["train0000", "train0004"]
    rest, _ = open_unlabelled(data.model_copy(update={"thin": data.thin.model_copy(update={"similar": "keep"})}), SPACE)
    assert sorted([*used.names, *rest.names]) == [f"train{number:04d}" for number in range(8)]
    assert np.array_equal(rest.frame(0), picture(1)[0])
    joined = JoinedSplit(used, rest)
    assert joined.names[1:4] == ["train0004", "train0001", "train0002"]
    assert (len(joined), joined.names[2]) == (8, "train0001")
    assert np.array_equal(joined.frame(2), rest.frame(0))
    assert (joined.labels(2) == INSIDE).all()
    assert np.array_equal(joined.labels(1), used.labels(1))


def test_every_so_many_th_frame_has_labels() -> None:
    for count in (1, 2, 7, 46, 367, 701, 2975):
        for share in (1e-6, 0.1, 0.125, 0.25, 1 / 3, 0.5, 0.7, 1.0):
            chosen = labelled_indices(count, share)
            assert len(chosen) == len(set(chosen)) == max(1, round(count * share))
            assert chosen[0] == 0
            assert chosen[-1] < count
            gaps = np.diff(chosen)
            assert not len(gaps) or gaps.max() - gaps.min() <= 1, "evenly"
        assert set(labelled_indices(count, 0.125)) <= set(labelled_indices(count, 0.25))
