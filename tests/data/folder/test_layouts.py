"""A ``folder`` data set in the layouts that people and tools leave, and what is wrong in others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from layouts import coloured, refuse_folder, stripes, write_image, write_mask, write_palette
from toys import tree

from rdd_deploy.data.folder.config import FolderOptions
from rdd_deploy.data.ids import Ids
from rdd_deploy.data.open import data_at, label_ids, open_data, open_recorded, open_split
from rdd_deploy.errors import DataError, RecipeError
from rdd_deploy.recipe import StudentRecipe
from rdd_deploy.schema import validated

CLASSES = ["road", "car"]
COLOURS = {0: (0, 0, 0), 1: (128, 64, 128), 2: (0, 0, 142), 3: (0, 60, 100)}
NAMED = {"background": COLOURS[0], "road": COLOURS[1], "car": COLOURS[2], "van": COLOURS[3]}
MASK = stripes([1, 2, 3, 0])
FOLDED = stripes([0, 1, 1, 255])


def options(root: Path, **keys: Any) -> FolderOptions:
    data = validated(
        StudentRecipe, tree(root, data={"name": "folder", "root": str(root), "size": [64, 64], **keys}), "toy"
    ).data
    assert isinstance(data, FolderOptions)
    return data


def problems(root: Path, **keys: Any) -> list[str]:
    with pytest.raises(RecipeError) as raised:
        options(root, **keys)
    return [line.strip() for line in str(raised.value).splitlines()[1:]]


def pair(root: Path, image: str, mask: str, labels: np.ndarray = stripes([0, 1, 255])) -> None:
    write_image(root / image)
    write_mask(root / mask, labels)


def read(data: FolderOptions, split: str = "val") -> tuple[list[str], np.ndarray]:
    opened = open_data(data, split)
    return list(opened.names), opened.labels(0)


@pytest.mark.parametrize(
    ("files", "images", "masks", "names"),
    [
        ([("val/a.jpg", "val/a_mask.png"), ("val/b.png", "val/b_mask.png")], "{split}/*", "{split}/{stem}_mask.png", ["a", "b"]),
        ([("valid/a.jpg", "valid/a_mask.png")], "{split}/*.jpg", "{split}/{stem}_mask.png", ["a"]),
        ([("i/val/x/y/a.JPG", "m/val/x/y/a.PNG"), ("i/val/b.jpg", "m/val/b.png")], "i/{split}/**/*.jpg", "m/{split}/{path}.png", ["b", "a"]),
        ([("i/val/x/a.jpg", "m/x/val-a.png")], "i/{split}/*/*", "m/{parent}/{split}-{stem}.png", ["a"]),
        ([("val/a.jpg", "ann/val/a.jpg.png")], "{split}/*.jpg", "ann/{split}/{name}.png", ["a"]),
        ([("l/val/u/p_0_left.png", "g/val/u/p_0_ids.png")], "l/{split}/**/{stem}_left.png", "g/{split}/{path}_ids.png", ["p_0_left"]),
        ([("val/é.jpg", "m/e\u0301.png")], "{split}/*.jpg", "m/{stem}.png", ["é"]),
    ],
)  # fmt: skip
def test_patterns(tmp_path: Path, files: list[tuple[str, str]], images: str, masks: str, names: list[str]) -> None:
    for image, mask in files:
        pair(tmp_path, image, mask)
    data = options(tmp_path, classes=CLASSES, images=images, masks=masks)
    found, labels = read(data)
    assert found == names
    assert (labels == stripes([0, 1, 255])).all()


def test_links_in_a_circle_and_hidden_folders(tmp_path: Path) -> None:
    pair(tmp_path, "real/val/a.jpg", "m/a.png")
    pair(tmp_path, "i/.hidden/val/c.jpg", "m/c.png")
    (tmp_path / "i" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "circle").symlink_to(tmp_path / "real")
    assert read(options(tmp_path, classes=CLASSES, images="i/**/{split}/*.jpg", masks="m/{stem}.png"))[0] == ["a"]


def test_what_is_wrong_in_patterns_is_told_together(tmp_path: Path) -> None:
    got = problems(
        tmp_path, classes=CLASSES, images="../x/{step}/*.jpg", masks="m/mask.png", split={"val": 0.6, "test": 0.5}
    )
    assert "data.split gives 0.6 to val and 0.5 to test; expected a sum below 1, the rest is for training" in got[0]
    got = problems(tmp_path, classes=CLASSES, images="../x/{step}/*.jpg", masks="m/mask.jpg")
    assert any("data.images is '../x/{step}/*.jpg'; expected a path inside data.root" in line for line in got)
    assert any("which holds {step}; allowed: {split}, {stem}" in line for line in got)
    assert any("expected a pattern that ends in .png" in line for line in got)
    assert any("the same mask for every image; expected {stem}, {path} or {name}" in line for line in got)
    assert any("finds the same frames for every split" in line for line in got)
    assert (
        "which holds a wildcard"
        in problems(tmp_path, classes=CLASSES, images="{split}/**/*", masks="m/**/{stem}.png")[0]
    )
    assert "without data.masks" in problems(tmp_path, classes=CLASSES, images="{split}/*")[0]
    both = problems(
        tmp_path, classes=CLASSES, images="i/*", masks="m/{stem}.png", lists={"val": "v.txt"}, split={"val": 0.5}
    )
    assert "data.lists and data.split both say" in both[0]


def test_frames_and_masks_that_are_missing(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"classes": CLASSES, "images": "{split}/*.jpg", "masks": "m/{stem}.png"}
    data = options(tmp_path, **keys)
    with pytest.raises(
        DataError,
        match=(
            r"no val images in .*matches data.images = val/\*\.jpg \(nor any with valid or validation in place of val\)"
        ),
    ):
        data.open("val")
    pair(tmp_path, "val/a.jpg", "m/a.png")
    write_image(tmp_path / "val/b.jpg")
    with pytest.raises(
        DataError,
        match=r"1 of 2 frames in .* have no mask, e.g. val/b.jpg needs m/b.png; nothing of that name is there",
    ):
        data.open("val")
    write_mask(tmp_path / "m/b.png", stripes([0]))
    write_mask(tmp_path / "m/c.png", stripes([0]))
    opened = data.open("val")
    assert [note for note in opened.notes() if "without a frame, the first is m/c.png: left out" in note]
    with pytest.raises(DataError, match="would be its own mask"):
        (
            options(tmp_path, classes=CLASSES, images="{split}/*", masks="{split}/{stem}.png").open("val")
            if write_image(tmp_path / "val/d.png") is None
            else None
        )


def test_lists(tmp_path: Path) -> None:
    for name in ("x/a", "x/b", "y/a", "c d", "#1"):
        pair(tmp_path, f"i/{name}.jpg", f"m/{name}.png")
    keys: dict[str, Any] = {
        "classes": CLASSES,
        "images": "i/**/*.jpg",
        "masks": "m/{path}.png",
        "lists": {"train": "t.txt", "val": "v.txt"},
    }
    (tmp_path / "v.txt").write_text("# ours\n#2 too\n\nb\ni/x/a.jpg\n/i/y/a\nc d\n#1.jpg\n", encoding="utf-8-sig")
    opened = options(tmp_path, **keys).open("val")
    assert [str(image.relative_to(tmp_path)) for image, _ in opened.pairs] == [
        "i/x/b.jpg",
        "i/x/a.jpg",
        "i/y/a.jpg",
        "i/c d.jpg",
        "i/#1.jpg",
    ]
    (tmp_path / "v.txt").write_text("/i/x/a.jpg /m/y/a.png\n")
    pairs_only = options(tmp_path, classes=CLASSES, lists={"val": "v.txt"}).open("val")
    assert [mask.relative_to(tmp_path).as_posix() for _, mask in pairs_only.pairs] == ["m/y/a.png"]
    for line in (f"{tmp_path}/i/x/a.jpg\t{tmp_path}/m/y/a.png", "i\\x\\a.jpg\tm\\y\\a.png", ".\\i\\x\\a.jpg,m/y/a.png"):
        (tmp_path / "v.txt").write_bytes(f"{line}\r\n".encode())
        assert options(tmp_path, classes=CLASSES, lists={"val": "v.txt"}).open("val").pairs == pairs_only.pairs
    (tmp_path / "v.txt").write_bytes(f"i\\c d.jpg\r\n{tmp_path}/i/x/b.jpg\r\n".encode())
    assert options(tmp_path, **keys).open("val").names == ["c d", "b"]
    for line, sentence in (
        ("a", r"v.txt, line 1 names 'a', which i/x/a.jpg and i/y/a.jpg are both called; give the path"),
        ("z", r"line 1 names 'z', which is none of the images i/"),
        ("b\nx/b", r"line 2 names i/x/b.jpg, which line 1 does already"),
        ("../../etc/a.jpg m/x/a.png", r"lies outside the data set's folder"),
        ("//etc/a.jpg m/x/a.png", r"'etc/a.jpg', which isn't in"),
        ("no such.jpg", r"names 'no such.jpg', which is none of"),
        ("i/x/a.jpg m/x/z.png", r"'m/x/z.png', which isn't in"),
        ("i/x/a.jpg m/x/a.jpg", r"expected a PNG mask"),
        ("", r"names no frame"),
        ("# all of them", r"names no frame"),
    ):
        (tmp_path / "v.txt").write_text(line + "\n")
        with pytest.raises(DataError, match=sentence):
            options(tmp_path, **keys).open("val")
    with pytest.raises(DataError, match=r"can't read the list .*t\.txt: No such file"):
        options(tmp_path, **keys).open("train")
    with pytest.raises(DataError, match=r"data.lists names no list for test"):
        options(tmp_path, **keys).open("test")


def test_open_split_takes_every_key_of_the_data_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pair(tmp_path, f"i/{name}.jpg", f"m/{name}.png")
    keys: dict[str, Any] = {"classes": CLASSES, "images": "i/*", "masks": "m/{stem}.png", "split": {"val": 0.5}}
    assert {open_split("folder", tmp_path, split, **keys).names[0] for split in ("train", "val")} == {"a", "b"}


def test_a_split_by_share_is_whole_and_the_same_after_a_round_trip(tmp_path: Path) -> None:
    for drive in "abcdef":
        for number in range(4):
            pair(
                tmp_path,
                f"i/{drive}_{number:03}.jpg",
                f"m/{drive}_{number:03}.png",
                stripes([0, 1] if drive < "d" else [0, 255]),
            )
    data = options(tmp_path, classes=CLASSES, images="i/*.jpg", masks="m/{stem}.png", split={"val": 0.3, "test": 0.2})
    names = {split: list(data.open(split).names) for split in ("train", "val", "test")}
    assert sorted(name for found in names.values() for name in found) == sorted(
        path.stem for path in (tmp_path / "i").iterdir()
    )
    drives = {split: {name[0] for name in found} for split, found in names.items()}
    assert not drives["train"] & (drives["val"] | drives["test"])
    assert not drives["val"] & drives["test"]
    manifest: Any = SimpleNamespace(
        name="toy", classes=CLASSES, palette=((1, 2, 3), (4, 5, 6)), provenance=data.provenance()
    )
    again = open_recorded(manifest, "val")
    assert list(again.names) == names["val"]
    pair(tmp_path, "i/new_000.jpg", "m/new_000.png")
    assert any("no longer holds just the frames" in note for note in open_recorded(manifest, "val").notes())  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"data.split gives test no share"):
        options(tmp_path, classes=CLASSES, images="i/*.jpg", masks="m/{stem}.png", split={"val": 0.3}).open("test")


def cvat(root: Path) -> Path:
    """CVAT's "segmentation mask" export."""
    write_image(root / "JPEGImages/a.jpg")
    write_mask(root / "SegmentationClass/a.png", coloured(MASK, COLOURS))
    lines = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in NAMED.items()]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("a\n")
    return root


def roboflow(root: Path) -> Path:
    """Roboflow's "semantic segmentation masks" export."""
    for split in ("train", "valid"):
        stem = f"{split}_jpg.rf.0123456789abcdef0123456789abcdef"
        pair(root, f"{split}/{stem}.jpg", f"{split}/{stem}_mask.png", MASK)
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, road\n2, car\n3, van\n")
    return root


CVAT = {
    "images": "JPEGImages/*.jpg",
    "masks": "SegmentationClass/{stem}.png",
    "lists": {"val": "ImageSets/Segmentation/default.txt"},
}
ROBOFLOW = {"images": "{split}/*.jpg", "masks": "{split}/{stem}_mask.png"}
MERGED = {"merge": {"car": ["car", "van"]}, "background": "void"}


@pytest.mark.parametrize(
    "keys",
    [
        {"write": cvat, **CVAT, **MERGED},
        {"write": cvat, **CVAT, **MERGED, "classes": CLASSES},
        {"write": cvat, **CVAT, **MERGED, "classes": CLASSES, "colours": "labelmap.txt"},
        {"write": cvat, **CVAT, **MERGED, "colours": {"road": [128, 64, 128], "car": [0, 0, 142], "van": [0, 60, 100]}},
        {"write": cvat, **CVAT, "classes": CLASSES, "merge": {"car": ["car", "van"], "void": ["background"]}},
        {
            "write": cvat,
            **CVAT,
            "colours": {"road": [128, 64, 128], "car": [[0, 0, 142], [0, 60, 100]]},
            "others_void": True,
        },
        {"write": roboflow, **ROBOFLOW, **MERGED},
        {"write": roboflow, **ROBOFLOW, **MERGED, "classes": CLASSES},
        {"write": roboflow, **ROBOFLOW, "classes": CLASSES, "merge": {"car": ["car", "van"]}, "others_void": True},
        {"write": roboflow, **ROBOFLOW, "ids": {"road": 1, "car": [2, 3], "void": 0}},
        {"write": roboflow, **ROBOFLOW, "classes": CLASSES, "ids": [1, [2, 3]], "background": "void"},
        {"write": roboflow, **ROBOFLOW, "classes": CLASSES, "ids": {"road": 1, "car": 2, "van": 3}, **MERGED},
    ],
)
def test_exports_of_tools_by_name_and_back_from_a_bundle(tmp_path: Path, keys: dict[str, Any]) -> None:
    write = keys["write"]
    data = options(write(tmp_path), **{key: value for key, value in keys.items() if key != "write"})
    opened = data.open("val")
    assert opened.label_space.classes == tuple(CLASSES)
    assert (opened.labels(0) == FOLDED).all()
    manifest: Any = SimpleNamespace(
        name="toy", classes=opened.label_space.classes, palette=opened.label_space.palette, provenance=data.provenance()
    )
    assert all(isinstance(value, str | int | float | None) for value in manifest.provenance.values())
    for table in [*tmp_path.rglob("_classes.csv"), *tmp_path.rglob("labelmap.txt")]:
        if not keys.get("classes") or keys.get("colours"):
            table.unlink()  # a bundle knows by itself
    assert (open_recorded(manifest, "val").labels(0) == FOLDED).all()
    assert (Ids(2, **label_ids(manifest)).labels(opened.pairs[0][1]) == FOLDED).all()
    if "colours" in keys or (write is cvat and "classes" not in keys):
        assert opened.label_space.palette == (COLOURS[1], COLOURS[2])


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (CVAT, "labelmap.txt names 'background', and nothing says what it is; set data.background=class or data.background=void"),
        ({**CVAT, "background": "void", "colours": "labelmap.txt", "classes": ["road", "car"]}, "names van, which data.classes doesn't; add them there"),
        ({**CVAT, "background": "void", "merge": {"car": ["can"]}}, "data.merge names 'can', which isn't in "),
        ({**CVAT, "background": "void", "colours": "labelmap.txt", "classes": ["road", "car", "vans"], "others_void": True}, "data.classes names vans, which nothing"),
        ({**CVAT, "classes": CLASSES, "ids": [1, 2], "merge": {"car": ["van"]}}, "data.merge joins classes by their names in the masks; give these names"),
        ({**CVAT, "classes": CLASSES, "ids": [1, 2], "colours": "labelmap.txt"}, "data.ids and data.colours both say what the masks hold"),
        ({**CVAT, "colours": {"a": [1, 2, 3], "b": [1, 2]}}, "data.colours"),
        ({**CVAT, "colours": {"a": [1, 2, 3], "b": [1, 2, 3]}}, "data.colours gives (1, 2, 3) to both 'a' and 'b'"),
        ({**CVAT, "classes": ["background", "car"], "background": "void"}, "data.background is void, but data.classes names 'background'"),
        ({**CVAT, "classes": ["car", "background"], "background": "class"}, "data.background is class, so that 0 means the class 'background', but"),
        ({**CVAT, "classes": CLASSES, "ids": [0, 1], "background": "void"}, "data.background is void, but data.ids gives 0 to a class"),
        ({**CVAT, "classes": CLASSES, "lists": {"dev": "x.txt"}}, "data.lists.dev: unknown key"),
        ({**CVAT, "classes": CLASSES, "background": "nothing"}, "data.background: got 'nothing', expected 'class' or 'void'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_names(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    assert any(sentence in line for line in problems(cvat(tmp_path), **keys))


def test_zero_is_background_or_void(tmp_path: Path) -> None:
    pair(tmp_path, "val/a.png", "valannot/a.png", stripes([0, 1, 2]))
    (void := options(tmp_path, classes=CLASSES, background="void")).open("val")
    assert (void.open("val").labels(0) == stripes([255, 0, 1])).all()
    data = options(tmp_path, classes=CLASSES, background="class").open("val")
    assert data.label_space.classes == ("background", *CLASSES)
    assert (data.labels(0) == stripes([0, 1, 2])).all()
    named = options(tmp_path, classes=["background", *CLASSES], background="class").open("val")
    assert (named.labels(0) == stripes([0, 1, 2])).all()


def test_a_table_in_the_folder_leaves_masks_of_numbers_alone(tmp_path: Path) -> None:
    """Recipes that named their classes before tables were read keep their meaning."""
    (tmp_path / "labelmap.txt").write_text("void:0,0,0::\nother:1,1,1::\n")
    pair(tmp_path, "val/a.png", "valannot/a.png", stripes([0, 1, 255]))
    write_image(tmp_path / "val/b.png")
    write_palette(tmp_path / "valannot/b.png", stripes([0, 1, 255]), [(9, 9, 8), (1, 1, 1), *[(0, 0, 0)] * 254])
    opened = options(tmp_path, classes=CLASSES).open("val")
    assert all((opened.labels(i) == stripes([0, 1, 255])).all() for i in (0, 1))


def test_masks_of_sixteen_bits_by_name(tmp_path: Path) -> None:
    pair(tmp_path, "val/a.png", "valannot/a.png", stripes([1000, 40000, 65535]))
    data = options(tmp_path, ids={"road": 1000, "car": 40000, "void": 65535})
    assert (read(data)[1] == stripes([0, 1, 255])).all()


def test_hostile_manifests_are_one_sentence(tmp_path: Path) -> None:
    write_image(tmp_path / "val/a.png")
    base = options(tmp_path, classes=CLASSES).provenance()
    for change in (
        {"data_colours": "[1"},
        {"data_colours": '{"road": "x"}'},
        {"data_lists": "[" * 5000},
        {"data_images": "../../*", "data_masks": "{stem}.png"},
        {"data_split": '{"val": 3}', "data_images": "a/*", "data_masks": "{stem}.png"},
        {"data_images": 7},
    ):
        manifest: Any = SimpleNamespace(
            name="toy", classes=CLASSES, palette=((1, 2, 3), (4, 5, 6)), provenance={**base, **change}
        )
        with pytest.raises(DataError, match="the manifest of 'toy' names can't be opened"):
            open_recorded(manifest, "val")


def test_a_folder_that_moved_with_its_table(tmp_path: Path) -> None:
    data = options(cvat(tmp_path / "a"), **CVAT, **MERGED)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = validated(FolderOptions, data.model_dump(), "toy")
    with pytest.raises(DataError, match=r"there is no folder .*/a; expected the data set in it"):
        moved.open("val")
    assert (data_at(moved, tmp_path / "b").open("val").labels(0) == FOLDED).all()  # type: ignore[attr-defined]
    (tmp_path / "b/labelmap.txt").unlink()
    with pytest.raises(DataError, match=r"data.classes is missing; .*, and .*/b holds no labelmap.txt or _classes.csv"):
        data_at(moved, tmp_path / "b").open("val")


def test_a_run_folder_keeps_every_key(tmp_path: Path) -> None:
    from rdd_deploy.training.run_folder import RunFolder

    keys = {**CVAT, **MERGED, "colours": {"road": [128, 64, 128], "car": [[0, 0, 142]], "van": [0, 60, 100]}}
    for part in (keys, {"classes": CLASSES, "ids": {"road": 1, "car": [2, 3], "void": 0}, **ROBOFLOW}):
        data = {"name": "folder", "root": str(cvat(tmp_path / str(len(part)))), "size": [64, 64], **part}
        recipe = validated(StudentRecipe, tree(tmp_path, name="toy", data=data), "toy")
        run = RunFolder(tmp_path / "run")
        run.write_recipe(recipe)
        assert run.load_recipe() == recipe


def test_folders_of_a_splits_other_names_are_told(tmp_path: Path) -> None:
    for name in ("train", "val", "valid", "validation"):
        pair(tmp_path, f"i/{name}/{name}.jpg", f"m/{name}/{name}.png")
    data = options(tmp_path, images="i/{split}/*.jpg", masks="m/{split}/{stem}.png", classes=CLASSES)
    opened = open_data(data, "val")
    assert list(opened.names) == ["val"]
    for name in ("valid", "validation"):
        assert (
            f"1 image of {name} left out, as val is there and read for val, the first is i/{name}/{name}.jpg"
            in opened.notes()
        )
    assert not [note for note in open_data(data, "train").notes() if "left out, as" in note]


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "i/val/x/a.jpg", "m/val/x/a.png")
    pair(tmp_path, "i/val/y/b.jpg", "m/val/y/b.png")
    data = options(tmp_path, images="i/{split}/**/*.jpg", masks="m/{split}/{path}.png", classes=CLASSES)
    refuse_folder(monkeypatch, tmp_path / "i/val/y")
    with pytest.raises(DataError, match=r"can't read the folder .*i/val/y: Permission denied; give yourself"):
        open_data(data, "val")
