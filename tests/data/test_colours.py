from pathlib import Path

import numpy as np
import pytest
from layouts import coloured, stripes, write_mask, write_palette

from rdd_deploy.data.colour_masks import colour_map
from rdd_deploy.data.colours import find_label_map, read_label_map, voc_colour
from rdd_deploy.errors import DataError

CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:0,0,142::\nroad : wet:128,64,128:a,b:c\n"
ROBOFLOW = "Pixel Value, Class\r\n0, background\r\n1, car\r\n2, road\r\n"
COLOURS = {0: (0, 0, 0), 1: (0, 0, 142), 2: (128, 64, 128)}


def test_tables_of_tools(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(CVAT)
    found = read_label_map(tmp_path / "labelmap.txt")
    assert found.colours == {"background": [(0, 0, 0)], "car": [(0, 0, 142)], "road : wet": [(128, 64, 128)]}
    (tmp_path / "_classes.csv").write_text(ROBOFLOW)
    assert read_label_map(tmp_path / "_classes.csv").ids == {"background": [0], "car": [1], "road": [2]}
    assert find_label_map(tmp_path) == tmp_path / "labelmap.txt"
    assert find_label_map(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("labelmap.txt", "road\n", r"line 1 is 'road'; expected name:red,green,blue"),
        ("labelmap.txt", "road:1,2,300::\n", r"line 1 is 'road:1,2,300::'"),
        ("labelmap.txt", "a:1,2,3::\nb:1,2,3::\n", r"gives \(1, 2, 3\) to both 'a' and 'b'"),
        ("labelmap.txt", "a:1,2,3::\na:1,2,4::\n", r"holds the name 'a' twice"),
        ("labelmap.txt", "# nothing\n", r"names no class"),
        ("labelmap.txt", "\xff", r"expected UTF-8 text"),
        (
            "_classes.csv",
            "filename, car, road\na.jpg, 1, 0\n",
            r"begins with 'filename, car, road'; expected the columns 'Pixel Value, Class'",
        ),
        ("_classes.csv", "Pixel Value, Class\nx, car\n", r"has the row 'x, car'"),
        (
            "_classes.csv",
            "Pixel Value, Class\n70000, car\n",
            r"has the row '70000, car'; expected a mask's value from 0 to 65535",
        ),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=sentence):
        read_label_map(tmp_path / name)


def test_voc_colours() -> None:
    assert [voc_colour(i) for i in (0, 1, 2, 8, 15)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (64, 0, 0),
        (192, 128, 128),
    ]
    assert len({voc_colour(i) for i in range(256)}) == 256


def test_masks_of_colours(tmp_path: Path) -> None:
    table = colour_map([("background", 255, [COLOURS[0]]), ("car", 0, [COLOURS[1]]), ("road", 1, [COLOURS[2]])])
    mask, expected = stripes([2, 0, 1]), stripes([1, 255, 0])
    write_mask(tmp_path / "rgb.png", coloured(mask, COLOURS))
    write_palette(tmp_path / "palette.png", mask, list(COLOURS.values()))
    assert all((table.labels(tmp_path / name) == expected).all() for name in ("rgb.png", "palette.png"))
    rgba = np.dstack([coloured(mask, COLOURS), np.full(mask.shape, 255, np.uint8)])
    import cv2

    cv2.imwrite(str(tmp_path / "rgba.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    assert (table.labels(tmp_path / "rgba.png") == expected).all()
    rgba[0, 0, 3] = 0
    cv2.imwrite(str(tmp_path / "rgba.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    with pytest.raises(DataError, match=r"can't read the mask .*rgba\.png: parts of it are transparent"):
        table.labels(tmp_path / "rgba.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "rgb.png").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"can't read the mask .*cut\.png: the file is cut short"):
        table.labels(tmp_path / "cut.png")


def test_unknown_colours_are_told_with_the_nearest(tmp_path: Path) -> None:
    table = colour_map([("car", 0, [COLOURS[1]]), ("road", 1, [COLOURS[2]])])
    picture = coloured(stripes([1, 2]), COLOURS)
    picture[:2, :3] = (250, 250, 10)
    write_mask(tmp_path / "a.png", picture)
    with pytest.raises(
        DataError,
        match=(
            r"a\.png holds the colour \(250, 250, 10\) at 6 of 768 pixels, which data.colours doesn't name; the nearest"
            r" there is "
            r"\(128, 64, 128\) of road; name it there, or say that all other colours are void \(data.others_void=true\)"
        ),
    ):
        table.labels(tmp_path / "a.png")
    picture[:2, :3] = (126, 66, 127)
    picture[2, 0] = (127, 65, 126)
    write_mask(tmp_path / "b.png", picture)
    with pytest.raises(
        DataError, match=r"\(126, 66, 127\) at 6 of 768 pixels, and 1 more such colours at 1 pixels.*antialiasing.*JPEG"
    ):
        table.labels(tmp_path / "b.png")
    write_mask(tmp_path / "ids.png", stripes([0, 1]))
    with pytest.raises(DataError, match=r"the mask seems to hold numbers, not colours: give data.ids instead"):
        table.labels(tmp_path / "ids.png")
    others = colour_map([("car", 0, [COLOURS[1]]), ("road", 1, [COLOURS[2]])], others_void=True)
    assert (others.labels(tmp_path / "a.png")[:2, :3] == 255).all()
