"""Frames as a viewer shows them and masks as they were drawn, of every kind of file; damaged ones are refused."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pngs import chunks_of, png, stored
from toys import COLOURS, picture

from rdd_deploy.data.image_file import header_of
from rdd_deploy.data.reader import read_frame, read_image, read_mask
from rdd_deploy.errors import DataError

FRAME = picture(0, 24, 40)[0]


def saved(path: Path, image: Image.Image, **how: Any) -> Path:
    image.save(path, **how)
    return path


def refused(path: Path, sentence: str, read: Any = read_image) -> None:
    with pytest.raises(DataError, match=sentence) as raised:
        read(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".jfif", ".webp", ".tif", ".ppm"])
def test_frames_are_rgb(tmp_path: Path, suffix: str) -> None:
    kind = {".jfif": "JPEG"}.get(suffix)
    path = saved(
        tmp_path / f"frame{suffix}",
        Image.fromarray(FRAME),
        format=kind,
        **({"lossless": True} if suffix == ".webp" else {}),
    )
    got = read_frame(path)
    assert (got.dtype, got.shape) == (np.uint8, (24, 40, 3))
    assert np.abs(got.astype(int) - FRAME).mean() < (30 if kind or suffix == ".jpg" else 1e-9)
    assert (read_image(path)[..., ::-1] == got).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_frames_are_turned_as_their_tag_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    block = np.zeros((24, 40, 3), np.uint8)
    block[:10, :12], block[14:, :12] = (250, 30, 30), (30, 30, 250)
    how: dict[str, Any] = {"tiffinfo": {274: orientation}} if suffix == ".tif" else {"exif": exif.tobytes()}
    how |= {"lossless": True} if suffix == ".webp" else {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(block), **how)
    plain = saved(tmp_path / "plain.png", Image.fromarray(block))
    with Image.open(plain) as image:
        image.getexif()[0x112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(image))
    got = read_frame(path)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() < 40
    head = header_of(path)
    assert head is not None
    assert (head.shown, head.orientation) == (expected.shape[:2], orientation)


def test_a_tag_behind_the_pixels_and_one_of_big_endian(tmp_path: Path) -> None:
    chunks = chunks_of(saved(tmp_path / "a.png", Image.fromarray(FRAME)).read_bytes())
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 8, 0, 0)
    (tmp_path / "a.png").write_bytes(png([*chunks[:-1], (b"eXIf", exif), chunks[-1]]))
    assert (read_frame(tmp_path / "a.png") == np.rot90(FRAME)).all()
    # Not the standard's, but written.
    for kind, value in (
        (4, struct.pack(">I", 8)),
        (8, struct.pack(">hxx", 8)),
        (9, struct.pack(">i", 8)),
    ):
        exif_of_kind = b"MM\0*" + struct.pack(">IHHHI", 8, 1, 0x112, kind, 1) + value + bytes(4)
        (tmp_path / "a.png").write_bytes(png([*chunks[:-1], (b"eXIf", exif_of_kind), chunks[-1]]))
        assert (read_frame(tmp_path / "a.png") == np.rot90(FRAME)).all()
    for broken in (b"", b"II", exif[:14], exif.replace(b"\0\x08\0\0", b"\0\x09\0\0"), b"MM\0*\xff\xff\xff\xff"):
        (tmp_path / "a.png").write_bytes(png([*chunks[:-1], (b"eXIf", broken), chunks[-1]]))
        assert (read_frame(tmp_path / "a.png") == FRAME).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_other_pixels_give_what_a_viewer_shows(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.fromarray(FRAME).convert(mode)
    if (mode, suffix) == ("LA", ".bmp"):
        pytest.skip("no such file")
    path = saved(tmp_path / f"a{suffix}", image, **({"lossless": True} if suffix == ".webp" else {}))
    assert (read_frame(path) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".png", "RGBA"), (".png", "LA"), (".tif", "RGBA"), (".tif", "LA"), (".webp", "RGBA")]
)
def test_transparent_pixels_are_refused(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.fromarray(FRAME).convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.putpixel((3, 3), 254)
    image.putalpha(alpha)
    refused(
        saved(tmp_path / f"a{suffix}", image, **({"lossless": True} if suffix == ".webp" else {})),
        "parts of it are transparent",
    )


def test_a_transparent_value_counts_where_it_occurs(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    colours = Image.fromarray(FRAME).quantize(8)
    for number, (image, there, absent) in enumerate(
        ((grey, 2, 77), (Image.fromarray(FRAME), tuple(FRAME[0, 0].tolist()), (1, 2, 3)))
    ):
        refused(saved(tmp_path / f"{number}.png", image, transparency=there), "parts of it are transparent")
        path = saved(tmp_path / f"{number}.png", image, transparency=absent)
        assert (read_frame(path) == np.asarray(image.convert("RGB"))).all()
    refused(
        saved(tmp_path / "p.png", colours, transparency=int(np.asarray(colours)[0, 0])), "parts of it are transparent"
    )


def test_print_colours(tmp_path: Path) -> None:
    block = np.repeat(np.array([[[250, 10, 10], [10, 10, 250]]], np.uint8), 16, 1).repeat(16, 0)
    print_colours = Image.fromarray(block).convert("CMYK")
    for suffix in (".jpg", ".tif"):
        path = saved(tmp_path / f"a{suffix}", print_colours, **({"quality": 100} if suffix == ".jpg" else {}))
        assert np.abs(read_frame(path).astype(int) - block).max() < 8
    content = (tmp_path / "a.jpg").read_bytes()
    start = content.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    (tmp_path / "a.jpg").write_bytes(content[:start] + content[end:])
    refused(tmp_path / "a.jpg", "four print colours .* doesn't say whether they are inverted; save it as RGB")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits(tmp_path: Path, suffix: str, channels: int) -> None:
    deep = FRAME.astype(np.uint16) * 257
    pixels = {1: deep[..., 0], 3: deep, 4: np.dstack([deep, np.full((24, 40), 65535, np.uint16)])}[channels]
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), pixels)
    assert (read_image(path) == (FRAME if channels > 1 else FRAME[..., :1])).all()
    if channels < 4:
        cv2.imwrite(str(path), pixels >> 4)
        refused(
            path,
            r"16 bits a channel but no value above \d{4}, as of a camera with 12 bits, and would come out nearly black;"
            r" scale the val",
        )
        cv2.imwrite(str(path), pixels * 0)
        assert not read_image(path).any(), "a black picture is black with any number of bits"


@pytest.mark.parametrize("default", [False, True])
def test_an_animated_png_is_its_first_picture(tmp_path: Path, default: bool) -> None:
    """The one outside the animation, where there is one, as readers show that know no animations."""
    more = [Image.fromarray(FRAME[::-1]), Image.fromarray(FRAME[:, ::-1])]
    path = saved(tmp_path / "a.png", Image.fromarray(FRAME), save_all=True, append_images=more, default_image=default)
    assert b"acTL" in path.read_bytes()
    assert (read_frame(path) == FRAME).all()


def test_a_tiff_whose_tags_are_damaged(tmp_path: Path) -> None:
    """Places and lengths of its strips that are no whole numbers."""
    whole, path = WHOLE["TIFF"], tmp_path / "a.tif"
    for tag in (273, 279):
        start = whole.index(struct.pack("<HH", tag, 4))
        for kind in (2, 11):
            path.write_bytes(whole[: start + 2] + struct.pack("<H", kind) + whole[start + 4 :])
            refused(path, "can't read the image")


def test_pixels_that_no_viewer_knows(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "32 bits a channel, not whole numbers; save it with 8")
    cv2.imwrite(str(tmp_path / "colours.tif"), np.ones((8, 8, 3), np.float32))
    refused(tmp_path / "colours.tif", "it holds float32 numbers; save it with 8 bits a channel")
    Image.fromarray(FRAME).save(tmp_path / "a.gif")
    refused(tmp_path / "a.gif", "it is a GIF file, which isn't read; save it as PNG or JPEG")
    (tmp_path / "b.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    refused(tmp_path / "b.jpg", "it is a HEIC or AVIF file")


def small(kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(FRAME).save(file, kind, **how)
    return file.getvalue()


WHOLE = {
    "PNG": small("PNG"), "JPEG": small("JPEG"), "progressive": small("JPEG", progressive=True), "BMP": small("BMP"), "PPM": small("PPM"),
    "WEBP": small("WEBP"), "lossless": small("WEBP", lossless=True), "TIFF": small("TIFF"), "deflate": small("TIFF", compression="tiff_deflate"),
    "LZW": small("TIFF", compression="tiff_lzw"),
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(WHOLE)), part=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_refused(tmp_path_factory: pytest.TempPathFactory, kind: str, part: float) -> None:
    whole = WHOLE[kind]
    path = tmp_path_factory.mktemp("cut") / "a.png"
    path.write_bytes(whole)
    expected = read_image(path)
    path.write_bytes(whole[: int(part * len(whole))])
    try:
        got = read_image(path)
    except DataError:
        return
    assert (got == expected).all(), "only what isn't the picture's was missing"
    assert kind not in ("PNG", "JPEG", "progressive", "WEBP", "lossless")


@settings(max_examples=200, deadline=None)
@given(bit=st.integers(0, 8 * 400), palette=st.booleans())
def test_a_flipped_bit_never_becomes_a_label(tmp_path_factory: pytest.TempPathFactory, bit: int, palette: bool) -> None:
    labels = picture(0, 24, 40)[1] % 4
    content = bytearray(stored(labels, 2, [*COLOURS, (0, 0, 0)]) if palette else stored(labels, 8))
    bit %= 8 * len(content)
    content[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("flipped") / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"can't read the mask .*a\.png"):
        read_mask(path)


def test_pixels_are_checked_by_their_own_sum_as_well(tmp_path: Path) -> None:
    """A file that was written damaged has chunks whose checksums are right."""
    path = tmp_path / "a.png"
    labels = picture(0, 24, 40)[1] % 4
    for content in (stored(labels, 2, [*COLOURS, (0, 0, 0)]), stored(labels, 8)):
        for change in (
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            lambda data: data[:-4],
            lambda data: data[: len(data) // 2],
        ):
            path.write_bytes(
                png([(kind, change(data) if kind == b"IDAT" else data) for kind, data in chunks_of(content)])
            )
            refused(path, "can't read the mask", read_mask)
    deflated = bytearray(WHOLE["deflate"])
    with Image.open(io.BytesIO(WHOLE["deflate"])) as image:
        offset, count = image.tag_v2[273][0], image.tag_v2[279][0]  # type: ignore[attr-defined]
    deflated[offset + count - 1] ^= 1
    path.write_bytes(deflated)
    refused(path, r"the file is damaged \(Error -3 .*\); copy it again")


THUMBNAIL = small("JPEG", quality=30)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_ends_where_its_picture_does(tmp_path: Path, progressive: bool) -> None:
    """A thumbnail in its EXIF block has an end of its own, and so may what follows."""
    frame = Image.fromarray(picture(3, 60, 80)[0])
    path = saved(
        tmp_path / "a.jpg", frame, progressive=progressive, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + THUMBNAIL
    )
    whole, expected = path.read_bytes(), read_image(path)
    assert whole.count(b"\xff\xd9") == 2
    for behind in (
        b"the camera's own notes",
        bytes(100_000),
        os.urandom(90_000),
        b"\0\0\0\x18ftypmp42" + bytes(80_000),
        THUMBNAIL,
    ):
        path.write_bytes(whole + behind)
        assert (read_image(path) == expected).all()
        if b"\xff\xd9" not in behind:
            path.write_bytes(whole[:-40] + behind)
            refused(path, "the file is cut short|file is damaged")
    for keep in (0.3, 0.6, 0.9, 0.99):
        path.write_bytes(whole[: int(keep * len(whole))])
        refused(path, "the file is cut short|file is damaged")


def test_what_is_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for read, what in ((read_image, "image"), (read_mask, "mask")):
        for name, sentence in (
            ("pipe", "it isn't a file but a folder, pipe or device; remove it"), ("folder", "it isn't a file but"),
            ("empty", "the file is empty"), ("link", "no such file"), ("lost", "no such file"),
        ):  # fmt: skip
            refused(tmp_path / f"{name}.png", rf"can't read the {what} .*{name}\.png: {sentence}", read)
            assert header_of(tmp_path / f"{name}.png") is None
    refused(Path("/dev/zero"), "it isn't a file")
    assert capfd.readouterr().err == "", "OpenCV adds warnings of its own"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(FRAME))
    path.chmod(0)
    refused(path, "Permission denied; check the file and its permissions")


def test_an_image_of_any_name_is_read(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.png"))
    odd.write_bytes(WHOLE["PNG"])
    assert (read_frame(odd) == FRAME).all()


@pytest.mark.parametrize(("height", "width"), [(60000, 60000), (9000, 10000), (2**31 - 1, 1), (0, 5)])
def test_a_header_that_promises_too_much(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(
        png(
            [
                (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
                (b"IDAT", zlib.compress(b"x")),
                (b"IEND", b""),
            ]
        )
    )
    refused(path, f"it promises {height}x{width} pixels; expected at most" if height else "not an image")


def test_masks_by_index_however_they_are_stored(tmp_path: Path) -> None:
    labels = (np.arange(64 * 64).reshape(64, 64) % 3).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "grey.png"), labels)
    cv2.imwrite(str(tmp_path / "three.png"), np.repeat(labels[..., None], 3, 2))
    Image.fromarray(labels).convert("LA").save(tmp_path / "alpha.png")
    Image.fromarray(labels).convert("RGBA").save(tmp_path / "four.png")
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette([200, 40, 40, 40, 200, 40, 40, 40, 200])
    palette.save(tmp_path / "palette.PNG")
    cv2.imwrite(str(tmp_path / "deep.png"), labels.astype(np.uint16) * 300)
    for name in ("grey.png", "three.png", "alpha.png", "four.png", "palette.PNG"):
        assert (read_mask(tmp_path / name).values == labels).all(), name
    assert (read_mask(tmp_path / "deep.png").values == labels.astype(int) * 300).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [None, COLOURS])
def test_masks_of_few_bits_keep_their_ids(tmp_path: Path, bits: int, palette: Any) -> None:
    labels = (np.arange(9 * 13).reshape(9, 13) % min(2**bits, 3 if palette else 256)).astype(np.uint8)
    (tmp_path / "mask.png").write_bytes(stored(labels, bits, palette and palette[: 2**bits]))
    assert (read_mask(tmp_path / "mask.png").values == labels).all()


def test_an_interlaced_mask(tmp_path: Path) -> None:
    """Seven passes of one pixel each in 1x1, the first alone."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 3, 0, 0, 1)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", bytes([9, 0, 0, 0, 9, 0])),
        (b"IDAT", zlib.compress(b"\0\1")),
        (b"IEND", b""),
    ]
    (tmp_path / "mask.png").write_bytes(png(chunks))
    assert read_mask(tmp_path / "mask.png").values.tolist() == [[1]]


def test_masks_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    for kind, named in (("JPEG", "JPEG"), ("WEBP", "WEBP"), ("BMP", "BMP"), ("TIFF", "TIFF"), ("PPM", "PPM")):
        path.write_bytes(WHOLE[kind])
        lossy = ", and its compression changes ids, at the edges most" if kind in ("JPEG", "WEBP") else ""
        refused(
            path,
            rf"can't read the mask .*mask\.png: it is a {named} file named \.png{lossy}; export the masks again as PNG",
            read_mask,
        )
    path.write_bytes(WHOLE["PNG"])
    refused(
        path,
        r"is a mask of shape \(24, 40, 3\) and type uint8; expected one 8-bit channel of class ids \(not colours\)",
        read_mask,
    )
    image = Image.new("LA", (8, 8), (1, 128))
    image.save(path)
    refused(path, "is a mask with transparent pixels; expected class ids alone", read_mask)
    path.write_bytes(stored(np.array([[0, 1, 2, 3]]), 8, COLOURS))
    refused(path, "it holds the index 3, its palette only 3 colours", read_mask)


def test_a_turned_mask_is_turned(tmp_path: Path) -> None:
    """As its frame is: programs that draw masks copy the tag."""
    exif = Image.Exif()
    exif[0x112] = 6
    labels = picture(0, 24, 40)[1]
    Image.fromarray(labels).save(tmp_path / "a.png", exif=exif.tobytes())
    assert (read_mask(tmp_path / "a.png").values == np.rot90(labels, -1)).all()
