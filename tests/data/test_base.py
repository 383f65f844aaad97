import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from toys import CLASSES, COLOURS, picture

from rdd_deploy.data.base import IGNORE, FileSplit, Task, read_frame, read_mask
from rdd_deploy.errors import DataError

TASK = Task(tuple(CLASSES), COLOURS)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_frames_are_rgb(tmp_path: Path, suffix: str) -> None:
    frame, _ = picture(0)
    path = tmp_path / f"frame{suffix}"
    cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 100])
    got = read_frame(path)
    assert (got.dtype, got.shape) == (np.uint8, (64, 64, 3))
    assert np.abs(got.astype(int) - frame).mean() < (25 if suffix == ".jpg" else 1e-9)


def test_masks_by_index_however_they_are_stored(tmp_path: Path) -> None:
    labels = (np.arange(64 * 64).reshape(64, 64) % 3).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "grey.png"), labels)
    cv2.imwrite(str(tmp_path / "three.png"), np.repeat(labels[..., None], 3, 2))
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette([200, 40, 40, 40, 200, 40, 40, 40, 200])
    palette.save(tmp_path / "palette.png")
    for name in ("grey", "three", "palette"):
        assert (read_mask(tmp_path / f"{name}.png") == labels).all(), name


def write_grey_png(path: Path, labels: np.ndarray, bits: int) -> None:
    """A greyscale PNG of 1, 2 or 4 bits a pixel; no library here writes all three."""
    padded = np.pad(labels, ((0, 0), (0, -labels.shape[1] % (8 // bits))))
    packed = np.packbits(np.unpackbits(padded[..., None], axis=2)[..., 8 - bits :].reshape(len(labels), -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_keep_their_ids(tmp_path: Path, bits: int) -> None:
    labels = (np.arange(9 * 13).reshape(9, 13) % 2**bits).astype(np.uint8)
    write_grey_png(tmp_path / "mask.png", labels, bits)
    assert (read_mask(tmp_path / "mask.png") == labels).all()


def test_masks_that_are_none(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((8, 8), np.uint16))
    with pytest.raises(DataError, match="type uint16; expected one 8-bit channel of class ids"):
        read_mask(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"can't read the mask .*lost.png: no such file"):
        read_mask(tmp_path / "lost.png")
    Image.fromarray(np.zeros((64, 64), np.uint8), mode="P").save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"can't read the mask .*cut.png"):
        read_mask(tmp_path / "cut.png")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_jpeg_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "frame.jpg"
    cv2.imwrite(str(path), picture(0)[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DataError, match="or the file is damaged"):
        read_frame(path)
    path.write_bytes(whole + b"the camera's own notes")
    assert read_frame(path).shape == (64, 64, 3)


def test_a_missing_frame(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"can't read the image .*lost.png: no such file"):
        read_frame(tmp_path / "lost.png")
    assert capfd.readouterr().err == "", "OpenCV adds a warning of its own"


def test_ids_are_mapped_and_checked(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2, 11], [255, 2, 1, 0]], np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), mask)
    pairs = [(tmp_path / "a.png", tmp_path / "a.png")]
    got = FileSplit(TASK, pairs, [11, 255]).labels(0)
    assert got.tolist() == [[0, 1, 2, IGNORE], [IGNORE, 2, 1, 0]]
    assert got.dtype == np.uint8
    with pytest.raises(DataError, match=r"a\.png holds unknown class ids \[11\]; expected 0 to 2 or a void id \(255\)"):
        FileSplit(TASK, pairs, [255]).labels(0)
    with pytest.raises(DataError, match=r"unknown class ids \[11, 255\]; expected 0 to 2 or a void id \(none\)"):
        FileSplit(TASK, pairs, []).labels(0)


def test_tasks() -> None:
    with pytest.raises(DataError, match="3 classes but 2 palette colours; give one colour a class"):
        Task(("a", "b", "c"), COLOURS[:2])
    with pytest.raises(DataError, match="got 1 classes, expected 2 to 255"):
        Task(("a",), COLOURS[:1])
