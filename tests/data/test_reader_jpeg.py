"""JPEG files: whole ones in every kind that is around, and those that decode to something, but not to their picture."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from toys import CLASSES, picture, write_data

from rdd_deploy.benchmark.images import Images
from rdd_deploy.data.check import check_split
from rdd_deploy.data.open import open_split
from rdd_deploy.data.reader import read_image
from rdd_deploy.errors import DataError
from rdd_deploy.evaluation import _counted
from rdd_deploy.export.quantization.calibration_frames import from_folder

FRAME = cv2.resize(picture(5)[0], (480, 360))
SCENE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (361, 483, 3), np.uint8), (5, 5), 0)
"""Of a size that no block divides."""


def by_opencv(*options: int, image: np.ndarray = FRAME) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95, *options])[1].tobytes()


def by_pillow(mode: str = "RGB", image: np.ndarray = FRAME, **options: Any) -> bytes:
    Image.fromarray(image).convert(mode).save(file := io.BytesIO(), "JPEG", **options)
    return file.getvalue()


def jpeg(path: Path, *options: int) -> Path:
    path.write_bytes(by_opencv(*options))
    return path


def spoil(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    return path


def filled_up(content: bytes, filler: bytes) -> bytes:
    assert content.endswith(b"\xff\xd9")
    return content[:-2] + filler + content[-2:]


WHOLE = {
    "progressive": by_opencv(cv2.IMWRITE_JPEG_PROGRESSIVE, 1, image=SCENE),
    "restart markers": by_opencv(cv2.IMWRITE_JPEG_RST_INTERVAL, 3, image=SCENE),
    **{
        f"sampling {sampling:x}": by_opencv(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, image=SCENE)
        for sampling in (0x221111, 0x211111, 0x111111, 0x121111, 0x411111)
    },
    "grey": by_pillow("L", SCENE),
    "print colours": by_pillow("CMYK", SCENE),
    "poor and progressive": by_pillow(image=SCENE, quality=20, progressive=True, subsampling=2),
    "stored as RGB": by_pillow(image=SCENE, keep_rgb=True),
    "a clip behind it": by_opencv(image=SCENE) + bytes(range(256)) * 320,
    "filled up behind it": by_opencv(image=SCENE) + bytes(80_000),
}


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
def test_whole_ones_have_the_pixels_that_opencv_gives_them(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "x.jpg").write_bytes(content)
    assert (read_image(path) == cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)).all()


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_damage_in_the_middle_is_found(
    tmp_path: Path, options: tuple[int, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    bad = spoil(jpeg(tmp_path / "bad.jpg", *options))
    with pytest.raises(
        DataError, match=rf"^can't read the image {bad}: the file is damaged \(Corrupt JPEG data: .*\); copy it again"
    ):
        read_image(bad)
    assert capfd.readouterr().err == ""
    assert cv2.imread(str(bad)) is not None, "OpenCV takes it"


@pytest.mark.parametrize("cut", [-2, -700, 3000])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    for name, content in WHOLE.items():
        if "behind" not in name:
            (path := tmp_path / "x.jpg").write_bytes(content[:cut])
            with pytest.raises(
                DataError, match=r"the file is cut short; copy it again, or remove it|the file is damaged"
            ):
                read_image(path)


def test_bytes_that_fill_up_a_file_are_harmless_others_are_the_pictures_own(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    whole = by_opencv()
    for content in (filled_up(whole, bytes(60)), filled_up(whole, b"\xff" * 60), filled_up(whole, b"\0") + bytes(5000)):
        path.write_bytes(content)
        assert (read_image(path) == cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)).all()
    path.write_bytes(filled_up(whole, bytes(range(1, 61))))
    with pytest.raises(DataError, match=r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9"):
        read_image(path)


def test_what_the_decoder_cannot_take_at_all(tmp_path: Path) -> None:
    content = bytearray(by_opencv())
    start = content.index(b"\xff\xc0")
    content[start + 1] = 0xC3  # lossless, it says now
    (path := tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match="can't read the image"):
        read_image(path)


def test_every_command_that_reads_data_finds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path, height=360, width=480)
    (tmp_path / "val" / "val1001.png").unlink()
    bad = spoil(jpeg(tmp_path / "val" / "val1001.jpg"))
    split = open_split("folder", tmp_path, "val", classes=CLASSES)
    sentence = (
        rf"can't read the image {bad}: the file is damaged \(Corrupt JPEG data: .*\); copy it again, or remove it"
    )
    for read in (
        lambda: check_split(split),
        lambda: _counted(lambda frames: [frame[..., 0] % 3 for frame in frames], split, 1, "toy"),
        lambda: from_folder(bad.parent, [], 3, (96, 96)),
    ):
        with pytest.raises(DataError, match=sentence):
            read()
    assert Images(split).skipped == ["val1001"], "like any other image that can't be read"
    assert f"can't read the image {bad}: the file is damaged" in capsys.readouterr().err


def test_without_its_package_other_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    write_data(tmp_path)
    assert check_split(open_split("folder", tmp_path, "train", classes=CLASSES)).count == 6
    with pytest.raises(
        DataError,
        match="JPEG files are read with the package 'simplejpeg', which isn't installed: pip install simplejpeg",
    ):
        read_image(jpeg(tmp_path / "x.jpg"))
