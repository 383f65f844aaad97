"""Videos cut into image files once, so that training reads their frames in any order. No torch here.

Each video has a folder of its own under ``data.scratch``, written elsewhere and renamed: it is there whole or not at
all. Frames that look like one that was written before aren't written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2

from rdd_deploy import console
from rdd_deploy.data.frame_index import FileSource, Source
from rdd_deploy.data.similar import Seen, fingerprint
from rdd_deploy.errors import DataError, DiskError
from rdd_deploy.utils import files
from rdd_deploy.utils.opencv import silence_opencv
from rdd_deploy.utils.sharing import claimed, share

QUALITY = 95
"""Of the JPEGs: they take a tenth of a PNG's room, and the video was compressed harder before."""
CUT_SHORT = 0.9
"""A video that holds less than this share of the frames that it promises is told; containers estimate."""

# Read at the first capture; its chatter says less than our sentences.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def cut_videos(videos: Sequence[Path], scratch: Path, every: int, within: int | None) -> Iterator[Source]:
    """The frames of each video, cut first where that wasn't done yet; several processes share the videos.

    Args:
        every: every so many-th frame. within: see ``data.thin.similar``.

    Raises:
        DataError: a video can't be decoded. DiskError: ``scratch`` can't be written.
    """
    folder = scratch / "videos"
    names = {_name(video, every, within): video for video in videos}

    def is_done(name: str) -> bool:
        return _told(folder / name) is not None

    def work(name: str) -> bool:
        if not is_done(name):
            with claimed(folder, name) as mine:
                if mine and not is_done(name):
                    _cut(names[name], folder / name, every, within)
        return is_done(name)

    try:
        share(
            list(names),
            work,
            is_done,
            lambda count: console.info(f"waiting for other processes, which cut the last {count} videos"),
        )
    except OSError as error:
        raise DiskError(
            f"can't write {folder}: {error.strerror or error}; free some space or choose another folder with"
            " data.scratch"
        ) from error
    for name, video in names.items():
        told = _told(folder / name)
        if told is None:
            raise DataError(f"the frames of {video} in {folder / name} were taken away meanwhile; start again")
        if told["cut_short"] and console.process_rank() == 0:
            console.warn(
                f"the video {video} ends after {told['frames']} of {told['promised']} frames: it is cut short or"
                " damaged; what is there is used"
            )
        yield FileSource(folder / name, told["names"], str(video), is_thinned=True)


def look_at_video(path: Path) -> None:
    """Decode one frame. Raises DataError."""
    with _opened(path) as video:
        if not any(good for good, _ in (video.read() for _ in range(30))):
            raise DataError(_empty(path))


def _empty(path: Path) -> str:
    return (
        f"data.unlabelled: no frame of the video {path} can be decoded; it is empty, damaged or of a format that OpenCV"
        " doesn't read: convert it to mp4"
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A video file, turned as it says, as the live app shows it. Raises DataError."""
    if not files.has_utf8_name(path):
        raise DataError(
            f"data.unlabelled: can't read the video {path}: OpenCV takes no name that isn't UTF-8; rename it"
        )
    if not path.is_file():  # a pipe would hold this process until somebody writes
        raise DataError(f"data.unlabelled: {path} isn't a file; expected a video")
    silence_opencv()
    # FFmpeg would take what stands before a colon for a protocol.
    video = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not video.isOpened():
            raise DataError(
                f"data.unlabelled: can't read the video {path}: it is empty, damaged or of a format that OpenCV doesn't"
                " decode; convert it to mp4"
            )
        yield video
    finally:
        video.release()


def _name(video: Path, every: int, within: int | None) -> str:
    """Of a video's folder, by what it depends on. Raises DataError."""
    try:
        status = video.stat()
    except OSError as error:
        raise DataError(
            f"data.unlabelled: can't read the video {video}: {error.strerror or error}; check the file and its"
            " permissions"
        ) from error
    key = [os.path.abspath(video), status.st_size, status.st_mtime_ns, every, within, QUALITY]
    known = json.dumps(key).encode()  # JSON escapes what UTF-8 can't hold
    stem = "".join(one if one.isascii() and (one.isalnum() or one in "_-") else "-" for one in video.stem[:24])
    return f"{stem.lstrip('-_') or 'video'}-{hashlib.sha256(known).hexdigest()[:12]}"


def _told(folder: Path) -> dict[str, Any] | None:
    """What ``video.json`` says of a folder, with the ``names`` of its images; None where it isn't whole."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = files.parse_json(files.read_file(folder / "video.json", 1 << 20))
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".jpg"))
        if told["kept"] == len(names) and all(type(told[key]) is int for key in ("frames", "promised", "cut_short")):
            return {**told, "names": names}
    return None


def _cut(path: Path, place: Path, every: int, within: int | None) -> None:
    """Write a video's frames elsewhere and rename them. Raises DataError, OSError."""
    part = files.temporary_beside(place)
    part.mkdir()
    try:
        with _opened(path) as video:
            promised = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
            fps = video.get(cv2.CAP_PROP_FPS)
            frames, kept, reached = 0, 0, 0.0
            seen = None if within is None else Seen(within)
            with console.progress(f"video {path.name}", promised or None) as bar:
                while video.grab():
                    number, frames = frames, frames + 1
                    bar.advance()
                    reached = video.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                    if number % every:
                        continue
                    good, frame = video.retrieve()
                    if not good or frame is None:
                        continue
                    if seen is not None:
                        one = fingerprint(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
                        if seen.near(one) is not None:
                            continue
                        seen.add(one)
                    _write_image(part / f"{number:08d}.jpg", frame)
                    kept += 1
        if not kept:
            raise DataError(_empty(path))
        # Frames at odd times are fewer than their container's length times its rate; then it is the time that tells.
        in_time = fps > 0 and reached * fps >= CUT_SHORT * promised
        told = {
            "video": str(path),
            "frames": frames,
            "promised": promised,
            "kept": kept,
            "every": every,
            "similar": within,
        }
        files.write_json(part / "video.json", told | {"cut_short": int(frames < CUT_SHORT * promised and not in_time)})
        if place.is_dir():  # not whole, or it would have been used
            shutil.rmtree(place)
        os.rename(part, place)
        console.info(f"video {path.name}: {frames} frames, {kept} kept in {place}")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_image(path: Path, frame: Any) -> None:
    done, encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise DataError(f"OpenCV can't write a frame of {frame.shape[1]}x{frame.shape[0]} as JPEG")
    path.write_bytes(encoded.tobytes())
