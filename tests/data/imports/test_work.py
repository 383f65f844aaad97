"""An import as a whole: nothing half-written, nothing from outside of the export, what is decided is said."""

import errno
import itertools
import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
import toys
from exports import H, W, area, box, closed, convert, layers, masks, opened, photo, write
from layouts import refuse_folder

from rdd_deploy.data.__main__ import main
from rdd_deploy.data.imports import FORMATS, files
from rdd_deploy.data.imports.classes import parsed
from rdd_deploy.data.imports.export import Region, Sample
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.imports.splits import assign
from rdd_deploy.errors import DataError, DiskError
from rdd_deploy.recipe import load_recipe
from rdd_deploy.utils.yaml_file import load_yaml


def labelme(
    root: Path,
    name: str,
    *shapes: tuple[str, list[list[int]]],
    height: int = H,
    width: int = W,
    path: str = "",
    **more: Any,
) -> None:
    listed = [{"label": label, "points": points, "shape_type": "polygon"} for label, points in shapes]
    tree = {"shapes": listed, "imagePath": path or f"{name}.jpg", "imageHeight": height, "imageWidth": width, **more}
    write(root / f"{name}.json", tree)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Labelme: six images of two sequences, a car on a road in each."""
    root = tmp_path / "e"
    for name in ("seqA_001", "seqA_002", "seqA_003", "seqB_001", "seqB_002", "seqC_001"):
        photo(root / f"{name}.jpg", int(name[-1]))
        labelme(root, name, ("road", box(0, 0, 30, 50)), ("Car", box(5, 5, 10, 10)))
    return root


def test_a_recipe_takes_what_was_written_in_both_ways(export: Path, tmp_path: Path) -> None:
    part, _ = convert(export, tmp_path / "out", val=0.3)
    recipe = toys.tree(tmp_path, data=None)
    toys.write_recipe(tmp_path / "toy.yaml", recipe | {"data": part})
    assert load_recipe(tmp_path / "toy.yaml").data.model_dump()["classes"] == ["background", "Car", "road"]
    text = (tmp_path / "out/data.yaml").read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if line.startswith("# rdd-deploy train RECIPE ")]
    import shlex

    override = shlex.split(line.removeprefix("# rdd-deploy train RECIPE "))
    toys.write_recipe(tmp_path / "other.yaml", recipe | {"data": {"name": "camvid", "root": "nowhere"}})
    assert load_recipe(tmp_path / "other.yaml", override).data == load_recipe(tmp_path / "toy.yaml").data
    assert len(opened(part)) + len(opened(part, "val")) == 6


def test_classes_are_merged_by_name(export: Path, tmp_path: Path) -> None:
    part, _ = convert(export, tmp_path / "out", classes="thing=CAR;void=road", ignore_case=True, background="street")
    assert part["classes"] == ["street", "thing"]
    assert (opened(part)["seqA_001"] == layers((closed(0, 0, 30, 50), 255), (closed(5, 5, 10, 10), 1))).all()
    part, _ = convert(export, tmp_path / "void", background="void")
    assert part["classes"] == ["Car", "road"]
    assert (
        opened(part)["seqA_001"] == layers((closed(0, 0, 30, 50), 1), (closed(5, 5, 10, 10), 0), background=255)
    ).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"classes": "thing=Car"},
            "--classes forgets 'road'; add it, or ;*=* to keep all others, or ;void=* to make them void",
        ),
        ({"classes": "thing=car,road"}, "the export has no label 'car'; did you mean 'Car'? it has Car, road"),
        ({"classes": "a=Car;b=Car,road"}, "--classes gives 'Car' to 'a' and to 'b'; give it to one"),
        ({"classes": "a=*;b=*"}, "--classes gives all other labels ('*') to two classes"),
        ({"classes": "a="}, "'a=' isn't of the form NEW=OLD,OLD"),
        ({"classes": ";"}, "--classes is empty"),
        ({"classes": "a=Car,road", "background": "void"}, "the export has 1 classes (a); expected 2 to 255"),
        (
            {"reduce_labels": True},
            "--reduce-labels is about masks of Hugging Face's parquet files, and this is labelme",
        ),
        ({"format": "yolo"}, "has 6 images (.png, .jpg, .jpeg …) and no text file of labels for any of them"),
        ({"format": "coco"}, "holds no images of the format 'coco'"),
    ],
)
def test_options_that_cannot_be(export: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    if options.get("format") == "yolo":
        write(export / "classes.txt", "a\nb\n")
    with pytest.raises(DataError) as error:
        convert(export, tmp_path / "out", **options)
    assert sentence in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_a_map() -> None:
    assert parsed("car=car, van ;void=unlabelled;road;*=*") == {
        "car": ["car", "van"],
        "void": ["unlabelled"],
        "road": ["road"],
        "*": ["*"],
    }


def test_more_classes_than_a_mask_can_hold(tmp_path: Path) -> None:
    photo(tmp_path / "e/a.png")
    write(
        tmp_path / "e/x.json",
        exports.coco([{"id": 1, "file_name": "a.png"}], [], [f"c{number}" for number in range(255)]),
    )
    with pytest.raises(
        DataError, match=r"has 256 classes .* expected 2 to 255, as masks have 8 bits: merge some with --classes"
    ):
        convert(tmp_path / "e", tmp_path / "out")
    part, _ = convert(tmp_path / "e", tmp_path / "out", background="void")
    assert len(part["classes"]) == 255
    assert (opened(part)["a"] == 255).all()


def samples(*names: str, split: str | None = None) -> list[Sample]:
    return [Sample(name, Path(name), split) for name in names]


def test_a_share_keeps_sequences_together_and_is_the_same_everywhere() -> None:
    names = [f"{sequence}/f{number:04}.jpg" for sequence in "abcdefgh" for number in range(5)]
    splits, notes = assign(samples(*names), 0.25, 1)
    assert not notes
    assert {splits[5 * group : 5 * group + 5].count("val") for group in range(8)} == {0, 5}
    assert splits.count("val") == 10
    assert assign(samples(*reversed(names)), 0.25, 1)[0] == splits[::-1]
    assert assign(samples(*names), 0.25, 2)[0] != splits
    copies = [f"{name}_jpg.rf.{copy}.jpg" for name in "abcdefghij" for copy in ("aa1Zq8xW", "bb2bb2bb")]
    splits, _ = assign(samples(*copies), 0.2, 0)
    assert splits.count("val") == 4
    assert all(splits[2 * number] == splits[2 * number + 1] for number in range(10))


def test_a_share_of_one_video_is_blocks_and_every_class_has_its_part() -> None:
    splits, notes = assign(samples(*[f"image_{number}.jpg" for number in range(100)]), 0.2, 0)
    assert splits.count("val") == 20
    assert sum(one != other for one, other in itertools.pairwise(splits)) <= 8, (
        "neighbours in a video are all but the same image"
    )
    assert "cut into blocks of 5 consecutive frames" in notes[0]
    assert "data." not in notes[0]
    rare = samples(*(f"{chr(97 + number % 26)}{chr(97 + number // 26)}.jpg" for number in range(100)))
    for number, sample in enumerate(rare):
        sample.regions = [
            Region("rare" if number % 10 == 0 else "road", lambda height, width: np.zeros((height, width), bool), "")
        ]
    splits, _ = assign(rare, 0.2, 0)
    assert [splits[number] for number in range(0, 100, 10)].count("val") == 2


def test_shares_that_cannot_be() -> None:
    with pytest.raises(DataError, match="but the export has its own val split"):
        assign([*samples("a"), *samples("b", split="val")], 0.5, 0)
    with pytest.raises(DataError, match=r"--val 0\.5 of 1 images leaves none for one of the splits"):
        assign(samples("a.jpg"), 0.5, 0)


def test_exif_orientation(tmp_path: Path) -> None:
    """Polygons of the picture as shown, and of the picture as stored: either mask fits what the reader shows."""
    root = tmp_path / "e"
    photo(root / "shown.jpg", orientation=6)
    labelme(root, "shown", ("a", box(0, 0, 50, 10)), ("b", box(0, 20, 5, 25)), height=W, width=H)
    photo(root / "stored.jpg", orientation=6)
    labelme(root, "stored", ("a", box(0, 0, 10, 50)), ("b", box(20, 0, 25, 5)))
    part, result = convert(root, tmp_path / "out")
    assert part["size"] == [W, H]
    labels = opened(part)
    assert (labels["shown"] == layers((closed(0, 0, 50, 10, W, H), 1), (closed(0, 20, 5, 25, W, H), 2))).all()
    assert (labels["stored"] == np.rot90(layers((closed(0, 0, 10, 50), 1), (closed(20, 0, 25, 5), 2)), -1)).all()
    told = " ".join(result.notes)
    assert "fit them as shown, the first is shown.jpg" in told
    assert "fit them as stored: their masks were turned as well, the first is stored.jpg" in told
    labelme(root, "stored", ("a", box(0, 0, 10, 50)), height=H, width=H)
    with pytest.raises(
        DataError, match=r"for 40x40 pixels, the image stored\.jpg has 60x40 \(turned by its EXIF orientation 6\)"
    ):
        convert(root, tmp_path / "again")


def test_what_is_missing_is_told_and_counted(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (export / "seqA_001.jpg").unlink()
    (export / "seqA_002.jpg").write_bytes(b"")
    photo(export / "extra.jpg")
    _, result = convert(export, tmp_path / "out", val=0.3)
    assert sum(result.images.values()) == 4
    told = capsys.readouterr()
    assert "labelme, 7 images, 12 annotations" in told.out
    for sentence in (
        (
            "1 image left out: the image isn't in the export, and the JSON holds no copy (imageData), the first is"
            " seqA_001.json"
        ),
        "2 annotations left out: its image is left out",
        "1 image left out: it has no JSON file, the first is extra.jpg",
        (
            "1 image left out: it can't be read as an image, the first is seqA_002.jpg (not an image that OpenCV can"
            " decode, or the file is damaged)"
        ),
        "2 annotations left out: its image can't be read",
    ):
        assert sentence in told.err
    with pytest.raises(DataError, match="--strict, and not everything of the export can be imported"):
        convert(export, tmp_path / "strict", strict=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "out"]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """``rdd-deploy data …`` in a process."""
    words = (sys.executable, "-m", "rdd_deploy", "data", *words)
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["imprt"], "unknown command 'imprt'; did you mean 'import'? allowed: check, import"),
        (["import", "e", "out", "--format", "cocoo"], "'cocoo' is none; did you mean coco? expected cityscapes, coco"),
        (["import", "e", "out", "--val", "2"], "2.0 is no share; expected one between 0 and 1"),
        (["import", "e", "out", "--overlap", "x"], "'x' is none; expected order, small-on-top, error"),
        (
            ["import", "nowhere", "out"],
            "no export in nowhere; expected the folder that the annotation tool's archive unpacks to",
        ),
    ],
)
def test_words_that_mean_nothing(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rdd-deploy", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_dry_run_writes_nothing(export: Path, tmp_path: Path) -> None:
    done = command("import", export, tmp_path / "out", "--dry-run", "--val", "0.34")
    assert done.returncode == 0, done.stderr
    assert "labelme, 6 images, 12 annotations, 2 labels" in done.stdout
    assert "train 4, val 2 images would be written" in done.stdout
    assert "unlabelled pixels are the class 'background' (id 0); --background void makes them void" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/../{root}/secret.jpg", "a/../../secret.jpg", "..\\secret.jpg"])
def test_names_lead_nowhere_outside(name: str, tmp_path: Path) -> None:
    photo(tmp_path / "secret.jpg")
    photo(tmp_path / "e/ok.jpg")
    labelme(tmp_path / "e", "ok", ("a", box(0, 0, 5, 5)), ("b", box(0, 0, 3, 3)))
    labelme(tmp_path / "e", "evil", ("a", box(0, 0, 5, 5)), path=name.format(root=tmp_path))
    convert(tmp_path / "e", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/train").iterdir()) == ["ok.jpg"]


def test_links_lead_nowhere_outside(export: Path, tmp_path: Path) -> None:
    (export / "seqA_001.jpg").unlink()
    (export / "seqA_001.jpg").symlink_to(photo(tmp_path / "secret.jpg"))
    with pytest.raises(DataError, match=r"seqA_001\.jpg is a link that leads out of the export"):
        convert(export, tmp_path / "out")
    (export / "seqA_001.jpg").unlink()
    (export / "seqA_001.jpg").symlink_to("seqA_002.jpg")  # inside it may
    convert(export, tmp_path / "out")
    assert not (tmp_path / "out/train/seqA_001.jpg").is_symlink()
    os.mkfifo(export / "pipe.json")
    with pytest.raises(DataError, match=r"can't read .*pipe\.json: it is a folder, pipe or device"):
        convert(export, tmp_path / "again")


def test_names_that_meet_or_are_hidden(tmp_path: Path) -> None:
    root = tmp_path / "e"
    for folder, name in (("x", "a"), ("y", "a"), ("y", "A"), ("z", "-b c")):
        photo(root / folder / f"{name}.jpg")
        labelme(root / folder, name, ("a", box(0, 0, 5, 5)), ("b", box(0, 0, 3, 3)))
    part, _ = convert(root, tmp_path / "out")
    assert sorted(opened(part)) == ["_-b c", "x_a", "y_A", "y_a_2"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "no export in"),
        (lambda path: path.with_suffix(".zip"), "is an archive; unpack it into a folder (unzip e.zip -d e)"),
        (
            lambda path: write(path / "x.txt", "hello"),
            "is no export that is known (it holds x.txt); expected one of cityscapes, coco",
        ),
        (lambda path: write(path / "x.zip", "PK"), "unpack x.zip first"),
        (lambda path: write(path / "x.json", "[" * 100_000), "x.json is nested too deep"),
        (lambda path: write(path / "x.json", b"\xff\xfe{}"), "x.json isn't UTF-8 text"),
        (lambda path: write(path / "x.json", '{"shapes": [], "imagePath"'), "x.json isn't valid JSON"),
        (lambda path: write(path / "x.json", "9" * 5000), "x.json isn't valid JSON"),
        (lambda path: write(path / "annotations.xml", "<annotations/>"), "holds no images of the format 'cvat'"),
    ],
)
def test_what_is_no_export(make: Any, sentence: str, tmp_path: Path) -> None:
    made = make(tmp_path / "e")
    path = tmp_path / "e"
    if isinstance(made, Path) and made.suffix == ".zip" and made.parent == tmp_path:
        path = write(made, "PK")
    with pytest.raises(DataError) as error:
        convert(path, tmp_path / "out")
    assert sentence in str(error.value)


def test_where_it_may_not_be_written(export: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for out, sentence in (
        (tmp_path / "there", "is there already; give a new folder"),
        (export / "out", "lies inside of the export"),
    ):
        with pytest.raises(DiskError, match=sentence):
            convert(export, out)


def test_two_formats_at_once(export: Path, tmp_path: Path) -> None:
    write(export / "coco.json", exports.coco([{"id": 1, "file_name": "seqA_001.jpg"}], [], ["x", "y"]))
    with pytest.raises(DataError, match="may be coco or labelme; say which with --format coco"):
        convert(export, tmp_path / "out")
    part, _ = convert(export / "coco.json", tmp_path / "out")  # one file is the export
    assert part["classes"] == ["background", "x", "y"]
    (export / "annotations").mkdir()
    (export / "coco.json").rename(export / "annotations/coco.json")
    assert opened(convert(export / "annotations/coco.json", tmp_path / "beside")[0]).keys() == {"seqA_001"}


def test_every_format_tells_rubbish_apart(tmp_path: Path) -> None:
    """None of the readers takes an empty folder or somebody's notes for its own."""
    write(tmp_path / "e/notes.json", {"hello": 1})
    photo(tmp_path / "e/a.jpg")
    source = Source(tmp_path / "e")
    assert [name for name, entry in FORMATS.items() if entry.load().found(source)] == []


SLOW = """
import os, signal, sys, time
from pathlib import Path
from rdd_deploy.data.imports import files
from rdd_deploy.data.imports.work import ImportOptions, import_export

put = files.put_mask
def slow(labels, folder, stem):
    put(labels, folder, stem)
    print("one", flush=True)
    time.sleep(60)
files.put_mask = slow
import_export(Path(sys.argv[1]), Path(sys.argv[2]), ImportOptions())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_import_that_is_stopped_leaves_nothing_and_starts_again(number: int, export: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SLOW, str(export), str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "one\n":
                process.send_signal(number)
                break
        process.wait(30)
    left = [path.name for path in tmp_path.iterdir() if path.name != "e"]
    assert "out" not in left
    # Of a killed one the part stays, under a name that nobody takes for a data set.
    assert bool(left) == (number == signal.SIGKILL)
    part, _ = convert(export, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "out"]
    assert len(opened(part)) == 6
    assert len(masks(tmp_path / "out")) == 6


def test_a_full_disk_and_a_place_that_was_taken(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying names the file that is read; the disk is to blame."""

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "link", full)
        patch.setattr(files.shutil, "copyfile", full)
        with pytest.raises(DiskError, match=r"can't write .*out: No space left on device; free some space"):
            convert(export, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["e"]
    put = files.write_data_yaml
    monkeypatch.setattr(files, "write_data_yaml", lambda *of: (put(*of), write(tmp_path / "out/theirs", "x")))
    with pytest.raises(DiskError, match="was made by somebody else meanwhile, and wasn't touched"):
        convert(export, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]
    with pytest.raises(DiskError, match=r"theirs is a file; give a folder"):
        convert(export, tmp_path / "out/theirs/x")


def test_an_image_that_is_too_large_and_no_train(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (export / "val").mkdir()
    for path in [*export.glob("*.jpg"), *export.glob("*.json")]:
        path.rename(export / "val" / path.name)
    head = b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", 46_000, 46_000, 8, 2, 0, 0, 0)), (b"IEND", b"")
    ))  # fmt: skip
    (export / "val/seqA_001.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + head)
    convert(export, tmp_path / "out")
    told = capsys.readouterr().err
    assert "the first is val/seqA_001.jpg (it promises 46000x46000 pixels; expected at most 89478485 in all)" in told
    assert "there is no train split, which training needs" in told


def test_hostile_class_names_stay_text(tmp_path: Path) -> None:
    root = tmp_path / "e"
    photo(root / "a.jpg")
    labelme(root, "a", ("x\ndata: {name: evil}", box(0, 0, 5, 5)), ("[red]'b\x1b[31m: #", box(0, 0, 3, 3)))
    part, _ = convert(root, tmp_path / "out")
    assert set(part["classes"]) == {"background", "x\ndata: {name: evil}", "[red]'b\x1b[31m: #"}
    assert set(load_yaml(tmp_path / "out/data.yaml")) == {"data"}
    assert "\x1b" not in (tmp_path / "out/data.yaml").read_text(encoding="utf-8")


def test_a_missing_package_is_one_sentence(tmp_path: Path) -> None:
    photo(tmp_path / "e/a.png")
    shape = [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}]
    write(tmp_path / "e/x.json", exports.coco([{"id": 1, "file_name": "a.png"}], shape, ["x", "y"]))
    program = (
        "import sys; sys.modules['pycocotools'] = sys.modules['torch'] = None; sys.argv = ['rdd-deploy',"
        " *sys.argv[1:]]\nfrom rdd_deploy.cli import main\nmain()"
    )
    words = [sys.executable, "-c", program, "data", "import", str(tmp_path / "e"), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "needs the package 'pycocotools', which isn't installed: pip install 'rdd-deploy[data]'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_the_area_helper_is_half_open() -> None:
    assert area(0, 0, 2, 3).sum() == 6
    assert closed(0, 0, 2, 3).sum() == 12


def test_a_failed_import_leaves_no_empty_folders(export: Path, tmp_path: Path) -> None:
    (export / "seqA_002.json").write_text('{"shapes": [{"label": 3}], "imagePath": "seqA_002.jpg", "imageData": null}')
    with pytest.raises(DataError):
        convert(export, tmp_path / "new" / "deep" / "out")
    labelme(export, "seqA_002", ("road", box(0, 0, 30, 50)), height=7)
    with pytest.raises(DataError, match="the annotations are for 7x60 pixels"):
        convert(export, tmp_path / "new" / "deep" / "out")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_read(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (export / "sub").mkdir()
    refuse_folder(monkeypatch, export / "sub")
    with pytest.raises(DataError, match=r"can't read the folder .*sub: Permission denied; give yourself"):
        convert(export, tmp_path / "out")
