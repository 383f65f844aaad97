"""JPEG files that decode to something, but not to their picture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import pytest
from toys import CLASSES, picture, write_data

from rdd_deploy.benchmark.images import Images
from rdd_deploy.data.check import check_split
from rdd_deploy.data.jpeg import complaints, first_damaged
from rdd_deploy.data.open import open_split
from rdd_deploy.errors import DataError
from rdd_deploy.evaluate import _counted
from rdd_deploy.export.quantization.calibration_frames import from_folder


def jpeg(path: Path, *options: int) -> Path:
    frame = cv2.resize(picture(5)[0], (480, 360))
    cv2.imwrite(str(path), frame, [cv2.IMWRITE_JPEG_QUALITY, 95, *options])
    return path


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)


def fill_up(path: Path, filler: bytes) -> None:
    content = path.read_bytes()
    assert content.endswith(b"\xff\xd9")
    path.write_bytes(content[:-2] + filler + content[-2:])


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_damage_in_the_middle_is_found(tmp_path: Path, options: tuple[int, ...], capfd: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    whole, bad = jpeg(tmp_path / "whole.jpg", *options), jpeg(tmp_path / "bad.jpg", *options)
    assert first_damaged([whole, bad, tmp_path / "train" / "train0000.png"]) is None
    spoil(bad)
    assert cv2.imread(str(bad)) is not None, "OpenCV takes it"
    found = first_damaged([whole, bad])
    assert found is not None
    assert found[0] == bad
    assert found[1].startswith("Corrupt JPEG data: ")
    assert capfd.readouterr().err.count("Corrupt") == 1, "of the lone imread above"


def test_bytes_that_fill_up_a_file_are_harmless_others_are_the_pictures_own(tmp_path: Path) -> None:
    for name, filler, harmless in (("zeros", bytes(60), True), ("other", bytes(range(1, 61)), False)):
        path = jpeg(tmp_path / f"{name}.jpg")
        fill_up(path, filler)
        with complaints() as heard:
            cv2.imread(str(path))
        (line,) = heard
        assert re.fullmatch(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9", line)
        assert (first_damaged([path]) is None) == harmless


def test_the_check_names_the_damaged_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path, height=360, width=480)
    for index in (0, 1, 3):
        (tmp_path / "train" / f"train{index:04}.png").unlink()
        jpeg(tmp_path / "train" / f"train{index:04}.jpg")
    split = open_split("folder", tmp_path, "train", classes=CLASSES)
    fill_up(tmp_path / "train" / "train0000.jpg", bytes(8))
    check_split(split)
    spoil(tmp_path / "train" / "train0003.jpg")
    with pytest.raises(
        DataError,
        match=r"^can't read the image .*train0003\.jpg: the file is damaged \(Corrupt JPEG data: .*\); copy it again, or remove it",
    ):
        check_split(split)
    assert capfd.readouterr().err == ""


def test_evaluation_calibration_and_benchmarks_find_it_too(tmp_path: Path) -> None:
    """They read data that no training checked on this machine."""
    write_data(tmp_path, height=360, width=480)
    (tmp_path / "val" / "val1001.png").unlink()
    spoil(bad := jpeg(tmp_path / "val" / "val1001.jpg"))
    split = open_split("folder", tmp_path, "val", classes=CLASSES)
    sentence = rf"can't read the image {bad}: the file is damaged \(Corrupt JPEG data: .*\); copy it again"
    for read in (
        lambda: _counted(lambda frames: [frame[..., 0] % 3 for frame in frames], split, 1, "toy"),
        lambda: from_folder(bad.parent, [], 3, (96, 96)),
        lambda: Images(split),
    ):
        with pytest.raises(DataError, match=sentence):
            read()


def test_what_others_say_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with complaints() as heard:
        os.write(2, b"mine\nCorrupt JPEG data: bad Huffman code\nmine, too\n")
        assert heard == []
    assert heard == ["Corrupt JPEG data: bad Huffman code"]
    with pytest.raises(KeyError), complaints():
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "mine\nmine, too\nafter\n"


def test_without_a_standard_error(tmp_path: Path) -> None:
    write_data(tmp_path)
    program = (
        "import os; os.close(2)\n"
        "from rdd_deploy.data.open import open_split\n"
        "from rdd_deploy.data.check import check_split\n"
        f"print(check_split(open_split('folder', {str(tmp_path)!r}, 'train', classes={CLASSES!r})).count)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "6\n")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")
def test_no_temporary_folder_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be read-only, or full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    bad = jpeg(tmp_path / "bad.jpg")
    spoil(bad)
    assert first_damaged([bad])
