"""Damaged JPEG files, which OpenCV decodes all the same: its decoder only complains, on standard error and without the file's path."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rdd_deploy.frames import read_image

_COMPLAINT = re.compile(rb"^(?:Corrupt JPEG data|Premature end of JPEG file).*\n?", re.MULTILINE)
_LEFT_OVER = re.compile(rb"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_one_at_a_time = threading.Lock()


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect what libjpeg says on file descriptor 2 inside the block, from any thread; the list is filled at its end.

    Whatever else is written there in the meantime is passed on. Where descriptor 2 is closed nothing can be heard.
    """
    heard: list[str] = []
    with _one_at_a_time, tempfile.TemporaryFile() as file:
        try:
            own = os.dup(2)
        except OSError:
            own = -1
        if own < 0 or file.fileno() == 2:
            yield heard
            return
        os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            os.dup2(own, 2)
            file.seek(0)
            said = file.read()
            heard += [line.decode(errors="replace").strip() for line in _COMPLAINT.findall(said)]
            with suppress(OSError):  # a closed pipe is no reason to stop
                os.write(own, _COMPLAINT.sub(b"", said))
            os.close(own)


def first_damaged(paths: Sequence[Path]) -> tuple[Path, str] | None:
    """The first of these files that is a JPEG and damaged, with what the decoder says of it."""
    for path in paths:
        with path.open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                continue
        with complaints() as heard:
            read_image(path)
        if told := [line for line in heard if not _padding(path, line)]:
            return path, told[0]
    return None


def _padding(path: Path, complaint: str) -> bool:
    """Whether the decoder only found bytes too many at the end, and these are all alike: some cameras fill up their files.

    Other left-over bytes are the picture's own: the decoder lost its way at the damage, and had made all pixels before the data ended.
    """
    if not (match := _LEFT_OVER.fullmatch(complaint.encode())):
        return False
    content = path.read_bytes()
    end = content.rfind(b"\xff\xd9")
    return len(set(content[max(0, end - int(match[1])) : end])) <= 1
