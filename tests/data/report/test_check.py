"""``rdd-deploy data check``: everything wrong at once, what looks wrong with its reason, and a page that
stands alone.
"""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from toys import CLASSES, COLOURS, errors_of, leftovers, picture, read_json, tree, write_data, write_pair, write_recipe

from rdd_deploy.data.folder.config import FolderOptions
from rdd_deploy.data.report import check
from rdd_deploy.data.report.scan import facts_of
from rdd_deploy.data.streets.config import StreetsOptions
from rdd_deploy.errors import DataError

OPTIONS = {"name": "folder", "classes": CLASSES, "palette": COLOURS, "size": (64, 64)}


def run(root: Path, out: Path, frames: int = 12, **options: Any) -> dict[str, Any]:
    """What the check of a folder found; its problems raise as they do for a user."""
    data = FolderOptions.model_validate(OPTIONS | {"root": str(root)} | options)
    check.check_data("toy", data, "val", out, frames)
    found: dict[str, Any] = read_json(out / "data_check.json")
    return found


def stripes(index: int, height: int = 64, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """As ``picture``, with stripes that are wide enough to look at."""
    return next(
        one
        for seed in range(index, 10**9, 1000)
        if min(np.bincount((one := picture(seed, height, width))[1].ravel())[:3]) > 500
    )


def write_wide(root: Path, train: int, val: int) -> Path:
    """A data set in which nothing looks wrong."""
    for split, first, count in (("train", 0, train), ("val", 500, val)):
        for index in range(first, first + count):
            write_pair(root, split, f"{split}{index:04d}", *stripes(index))
    return root


def reasons(found: dict[str, Any]) -> dict[str, str]:
    return {one["frame"]: "; ".join(one["reasons"]) for one in found["suspicious"]}


class Page(HTMLParser):
    """Whether tags are closed in their order, what is loaded, and the text."""

    void = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_data_that_is_fine(tmp_path: Path) -> None:
    found = run(write_wide(tmp_path / "data", train=10, val=4), tmp_path / "out")
    assert (found["fine"], found["problems"], found["notes"]) == (True, [], [])
    assert found["splits"]["train"]["frames"] == 10
    labels = [stripes(index)[1] for index in range(10)]
    counts = np.sum([np.bincount(one.ravel(), minlength=256) for one in labels], 0)
    assert list(found["splits"]["train"]["pixels"].values()) == counts[:3].tolist()
    assert found["splits"]["train"]["void_pixels"] == counts[255]
    assert found["splits"]["train"]["frames_with"] == dict.fromkeys(CLASSES, 10)
    assert found["splits"]["val"]["sizes"] == {"64x64": 4}
    text = (tmp_path / "out" / "data_check.html").read_text()
    page = Page(text)
    assert "Training takes this data" in page.text
    images = [attributes for tag, attributes in page.attributes if tag == "img"]
    assert len(images) == 12
    assert all((one["src"] or "").startswith("data:image/jpeg;base64,") and one["alt"] for one in images)
    assert not any("loading" in one for one in images), "they are in the page: printing and looking see them all"
    assert not [a for tag, a in page.attributes if tag in ("script", "link", "iframe")], "it loads and runs nothing"
    assert "http" not in text.replace("http-equiv", "")
    assert [a["href"] for tag, a in page.attributes if tag == "a"] == ["#content"]
    labelled = {a["aria-labelledby"] for _, a in page.attributes if "aria-labelledby" in a}
    assert labelled <= {a.get("id") for _, a in page.attributes}
    assert "prefers-color-scheme: dark" in text
    assert leftovers(tmp_path / "out") == []


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Training would stop at the first of them."""
    root = write_data(tmp_path / "data", train=6, val=3)
    frame, labels = picture(0)
    write_pair(root, "val", "again", frame, labels)
    write_pair(root, "train", "small", frame, labels[:60])
    write_pair(root, "train", "strange", picture(60)[0], np.where(labels == 1, 77, labels).astype(np.uint8))
    (root / "val" / "val1001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "trainannot" / "train0003.png").write_bytes(b"no mask")
    (root / "trainannot" / "train0004.png").unlink()
    (root / "train" / "train0004.png").unlink()
    with pytest.raises(DataError) as told:
        run(root, tmp_path / "out")
    first, *more = told.value.lines
    assert first == "training would refuse this data for 5 reasons; fix them, and check again:"
    for words in (
        "small: the frame is 64x64, its mask 60x64",
        "unknown class ids [77]",
        "val1001.png",
        "train0003.png",
        "train0000 and again",
    ):
        assert sum(words in line for line in more) == 1, words
    found = read_json(tmp_path / "out" / "data_check.json")
    assert found["problems"] == more
    assert found["splits"]["train"]["unusable"] == 3
    page = Page((tmp_path / "out" / "data_check.html").read_text())
    assert "Training would refuse this data" in page.text
    assert all(line in page.text for line in more)


def test_it_refuses_what_training_refuses(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", train=3, val=2)
    for path in (root / "valannot").iterdir():
        cv2.imwrite(str(path), np.full((64, 64), 255, np.uint8))
    with pytest.raises(DataError, match="every pixel of the val split is void"):
        run(root, tmp_path / "out")
    for path in (root / "val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="val holds no images"):
        run(root, tmp_path / "out")
    assert read_json(tmp_path / "out" / "data_check.json")["splits"]["train"]["frames"] == 3
    with pytest.raises(DataError, match=r"for 2 reasons.*\n.*no train split in .*\n.*no val split in"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert Page((tmp_path / "out" / "data_check.html").read_text()).text.count("no train split") == 1


def test_absent_classes_are_told(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", train=4, val=2)
    for path in (root / "valannot").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        cv2.imwrite(str(path), np.where(labels == 2, 255, labels))
    found = run(root, tmp_path / "out")
    assert "no pixel of right in val; it can't be learned or measured there" in found["notes"]
    assert "never occurs" in Page((tmp_path / "out" / "data_check.html").read_text()).text


def test_what_looks_wrong(tmp_path: Path) -> None:
    root = write_wide(tmp_path / "data", train=24, val=8)
    labels = stripes(100)[1]
    write_pair(
        root, "train", "void", picture(101)[0], np.full_like(labels, 255) - (np.arange(64) == 3).astype(np.uint8) * 253
    )
    write_pair(root, "train", "single", picture(102)[0], np.zeros_like(labels))
    # A mask that was made smaller with interpolation: between 0 and 2 lies 1, which isn't there.
    rim = cv2.resize((np.indices((64, 64)).sum(0) > 64).astype(np.uint8) * 2, (32, 32), interpolation=cv2.INTER_AREA)
    write_pair(root, "train", "rim", picture(103)[0], cv2.resize(rim, (64, 64), interpolation=cv2.INTER_LINEAR))
    tiny = labels.copy()
    tiny[tiny == 1] = 0
    tiny[5, 5:8] = 1
    write_pair(root, "train", "tiny", picture(104)[0], tiny)
    big = stripes(105, 96, 64)
    write_pair(root, "train", "big", *big)
    blurred = cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), (64, 64))
    write_pair(root, "train", "seen", blurred, labels)
    cv2.imwrite(
        str(root / "val" / "alike.jpg"), cv2.cvtColor(blurred, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 60]
    )
    cv2.imwrite(str(root / "valannot" / "alike.png"), labels)
    found = run(root, tmp_path / "out", frames=40)
    told = reasons(found)
    assert "98.4 % void" in told["void"]
    assert "nothing but left" in told["single"]
    assert "middle" in told["rim"]
    assert "only as slivers at most 2 pixels wide" in told["rim"]
    assert "only a few pixels of middle (3)" in told["tiny"]
    assert "96x64, where 29 of 30 are 64x64" in told["big"]
    assert not {name for name in told if name.startswith(("train", "val"))}, "pictures that are as all others"
    assert {"train": "seen", "val": "alike"}.items() <= found["near_duplicates"][0].items()
    assert found["near_duplicates"][0]["distance"] <= 4
    page = Page((tmp_path / "out" / "data_check.html").read_text())
    alts = [a["alt"] or "" for tag, a in page.attributes if tag == "img"]
    for name in ("void", "single", "rim", "tiny", "big"):
        [alt] = [one for one in alts if one.startswith(f"{name} of train")]
        assert told[name] in alt
    assert page.text.index("nothing but left") < page.text.index("Others")


def test_rims_in_all_masks_are_found_too(tmp_path: Path) -> None:
    """Ids between those of two classes, along the edge of them in every mask; the class in between is nowhere really
    there.
    """
    root = write_wide(tmp_path / "data", train=8, val=3)
    for number, path in enumerate(sorted((root / "trainannot").iterdir())):
        labels = (np.indices((64, 64)).sum(0) > 40 + number).astype(np.float32) * 2
        cv2.imwrite(str(path), cv2.GaussianBlur(labels, (3, 3), 0).round().astype(np.uint8))
    found = run(root, tmp_path / "out")
    [note] = found["notes"]
    assert note.startswith("middle is mostly slivers at most 2 pixels wide in train (100 % of its pixels")


def test_thin_is_what_no_square_holds() -> None:
    labels = np.zeros((12, 12), np.uint8)
    labels[2:5, 2:5] = 1  # 3x3: thick
    labels[8:10, :] = 2  # 2 wide
    labels[11, 11] = 255  # void doesn't count
    facts = facts_of(np.zeros((12, 12, 3), np.uint8), labels, 3)
    assert facts.thin.tolist()[1:] == [0, 24]
    assert facts.pixels.tolist() == [144 - 9 - 24 - 1, 9, 24]
    assert facts.void == 1


def test_names_from_outside_are_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    classes = [evil, '"><img src=x onerror=alert(1)>', "\x1b[31mright"]
    root = write_data(tmp_path / "data", train=3, val=2)
    frame, labels = picture(200)
    write_pair(root, "train", "<b>&{{ 7*7 }}", frame, np.zeros_like(labels))
    run(root, tmp_path / "out", classes=classes)
    text = (tmp_path / "out" / "data_check.html").read_text()
    page = Page(text)
    assert not [tag for tag, _ in page.attributes if tag == "script"]
    assert not [a for tag, a in page.attributes if "onerror" in a]
    assert evil in page.text
    assert "<b>&{{ 7*7 }}" in page.text
    assert "\x1b" not in text


def test_the_page_stays_small(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for index in range(24):
        noise = rng.integers(0, 256, (100, 140, 3), np.uint8)
        write_pair(root, "train" if index < 16 else "val", f"{index}", noise, rng.integers(0, 3, (100, 140), np.uint8))
    for frames in (0, 24):
        run(root, tmp_path / "out", frames=frames)
        text = (tmp_path / "out" / "data_check.html").read_text()
        assert text.count("<img") <= frames
        assert len(text) < 4_000_000


def test_the_command(tmp_path: Path) -> None:
    """In a process of its own, without torch."""
    program = "import sys; sys.modules['torch'] = None\nfrom rdd_deploy.cli import main\nmain()"
    recipe = write_recipe(tmp_path / "mine.yaml", tree(write_data(tmp_path / "data", train=2, val=1)))
    (tmp_path / "data" / "train" / "train0001.png").write_bytes(b"")
    words = [
        sys.executable,
        "-c",
        program,
        "data",
        "check",
        str(recipe),
        "--output",
        str(tmp_path / "out"),
        "--frames",
        "4",
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=100, check=False, env=os.environ | {"COLUMNS": "400"}
    )
    assert done.returncode == 2
    first, second = errors_of(done)
    assert first == "error: training would refuse this data for 1 reason; fix them, and check again:"
    assert second == f"  can't read the image {tmp_path}/data/train/train0001.png: the file is empty"
    assert f"{tmp_path}/out/data_check.html, data_check.json" in done.stdout


@pytest.mark.slow
def test_data_that_is_no_files(tmp_path: Path) -> None:
    data = StreetsOptions(size=(32, 48), count=3)
    check.check_data("streets", data, "val", tmp_path / "out", 4)
    found = read_json(tmp_path / "out" / "data_check.json")
    assert (found["data"], found["root"], found["fine"]) == ("streets", None, True)
    assert all(one["file"] is None for one in found["suspicious"])
