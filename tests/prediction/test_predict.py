"""``rdd-deploy predict``: masks of real folders and videos by a bundle whose answer is known; stopped, resumed,
refused.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from toy_bundle import CLASSES, PALETTE, toy_bundle, truth
from toys import errors_of, leftovers, read_json

from rdd_deploy.data.ids import Ids
from rdd_deploy.errors import RddError
from rdd_deploy.prediction.predict import Options, predict

SIZE = (48, 64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It sees frames at a quarter of the size, and so differs at edges."""
    return toy_bundle(tmp_path_factory.mktemp("bundles") / "other", 12, 16)


def scene(seed: int, cells: tuple[int, int] = (6, 8)) -> np.ndarray:
    """BGR blocks of SIZE."""
    colours = np.random.default_rng(seed).integers(0, 256, (*cells, 3), np.uint8)
    return cv2.resize(colours, SIZE[::-1], interpolation=cv2.INTER_NEAREST)


def write_frames(folder: Path, count: int = 6) -> dict[str, np.ndarray]:
    """Frames in nested folders, by their relative names."""
    frames = {f"{'drive one' if number % 2 else 'b/c'}/frame{number}.png": scene(number) for number in range(count)}
    for name, frame in frames.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), frame)
    return frames


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def started(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rdd_deploy.predict", *map(str, words)]
    environment = os.environ | {"COLUMNS": "400"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str]) -> "subprocess.CompletedProcess[str]":
    stdout, stderr = process.communicate(timeout=100)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_masks_of_a_nested_folder(bundle: Path, tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames")
    cv2.imwrite(str(tmp_path / "frames" / "big.png"), cv2.resize(scene(9), (128, 96), interpolation=cv2.INTER_NEAREST))
    out = tmp_path / "out"
    predict(Options(bundle, tmp_path / "frames", out, overlay=True, confidence=True))
    ids = Ids(len(CLASSES))
    for name, frame in frames.items():
        mask = (out / "masks" / name).with_suffix(".png")
        assert np.array_equal(ids.labels(mask), truth(frame))
        with Image.open(mask) as image:  # a viewer shows the classes' colours
            assert np.array_equal(np.asarray(image.convert("RGB")), np.array(PALETTE, np.uint8)[truth(frame)])
        overlay = cv2.imread(str((out / "overlays" / name).with_suffix(".jpg")))
        assert overlay is not None
        assert overlay.shape == frame.shape
        sure = cv2.imread(str((out / "confidence" / name).with_suffix(".png")), cv2.IMREAD_UNCHANGED)
        assert sure is not None
        assert (sure == 255).all(), "it works pixel by pixel: mirrored it says the same"
    assert ids.labels(out / "masks" / "big.png").shape == (96, 128)
    table = {row["frame"]: row for row in rows(out)}
    assert set(table) == {*frames, "big.png"}
    for name, frame in frames.items():
        shares = [float(table[name][f"share_{one}"]) for one in CLASSES]
        assert shares == pytest.approx(np.bincount(truth(frame).ravel(), minlength=3) / frame[..., 0].size, abs=1e-5)
        assert float(table[name]["confidence_mean"]) == 1
        assert table[name]["disagreement"] == ""
    assert leftovers(out) == []


def test_a_palette_of_greys_is_read_as_ids(tmp_path: Path) -> None:
    """Black and white are what two classes are often drawn in; a palette of greys alone would be read as
    grey levels.
    """
    grey = toy_bundle(tmp_path / "grey", manifest={"palette": [(0, 0, 0), (255, 255, 255), (128, 128, 128)]})
    frames = write_frames(tmp_path / "frames", 2)
    predict(Options(grey, tmp_path / "frames", tmp_path / "out"))
    ids = Ids(len(CLASSES), void_ids=[255])
    for name, frame in frames.items():
        assert np.array_equal(ids.labels((tmp_path / "out" / "masks" / name).with_suffix(".png")), truth(frame))


def test_a_killed_prediction_goes_on(bundle: Path, tmp_path: Path) -> None:
    slow = toy_bundle(tmp_path / "slow", 96, 128, work=20)
    frames = {f"{number:03d}.png": scene(number).repeat(2, 0).repeat(2, 1) for number in range(60)}
    (tmp_path / "frames").mkdir()
    for name, frame in frames.items():
        cv2.imwrite(str(tmp_path / "frames" / name), frame)
    out = tmp_path / "out"
    words = (slow, tmp_path / "frames", out, "--threads", 1)
    process = started(*words)
    while not (out / "progress.jsonl").is_file() or (out / "progress.jsonl").read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    finished(process)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "masks").iterdir() if path.suffix == ".png"}
    assert 5 <= len(before) < 60, "it was killed in the middle"
    ids = Ids(len(CLASSES))
    assert all(np.array_equal(ids.labels(out / "masks" / name), truth(frames[name])) for name in before), (
        "only whole files are there"
    )
    done = (out / "progress.jsonl").read_text().splitlines()
    with (out / "progress.jsonl").open("a") as file:
        file.write('{"frame": "torn')
    assert not (out / "predictions.csv").exists()
    ended = finished(started(*words))
    assert ended.returncode == 0, ended.stderr
    assert f"{60 - len(done)} frames in" in ended.stdout
    assert f"{len(done)} were done before" in ended.stdout
    for name, frame in frames.items():
        assert np.array_equal(ids.labels(out / "masks" / name), truth(frame))
    assert [row["frame"] for row in rows(out)] == list(frames)
    untouched = [name for name in before if f'"{name}"' in "".join(done)]
    assert all((out / "masks" / name).stat().st_mtime_ns == before[name] for name in untouched)
    assert leftovers(out) == []


def test_ctrl_c_ends_in_one_sentence(tmp_path: Path) -> None:
    slow = toy_bundle(tmp_path / "slow", 96, 128, work=20)
    (tmp_path / "frames").mkdir()
    for number in range(80):
        cv2.imwrite(str(tmp_path / "frames" / f"{number}.png"), scene(number))
    out = tmp_path / "out"
    process = started(slow, tmp_path / "frames", out, "--threads", 1)
    while not (out / "progress.jsonl").is_file():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    done = finished(process)
    assert done.returncode == 130
    [line] = errors_of(done)
    assert line.startswith("error: interrupted after ")
    assert f"of 80 frames; their masks are in {out}/masks, the same command goes on" in line
    assert len(list((out / "masks").iterdir())) == len((out / "progress.jsonl").read_text().splitlines())
    assert leftovers(out) == []


def test_another_prediction_isnt_mixed_in(bundle: Path, other: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "frames")
    write_frames(tmp_path / "others", 2)
    out = tmp_path / "out"
    predict(Options(bundle, tmp_path / "frames", out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for options, word in (
        (Options(other, tmp_path / "frames", out), "model: "),
        (Options(bundle, tmp_path / "others", out), "frames: "),
        (Options(bundle, tmp_path / "frames", out, "coco"), "--format: masks there, coco now"),
        (Options(bundle, tmp_path / "frames", out, overlay=True), "--overlay: no there, yes now"),
        (Options(bundle, tmp_path / "frames", out, others=(other,)), "--disagree: none there"),
        (Options(bundle, tmp_path / "frames", out, every=2), "--every: 1 there, 2 now"),
    ):
        with pytest.raises(RddError, match=f"^{out} holds another prediction \\({word}.*name a new folder"):
            predict(options)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    cv2.imwrite(str(tmp_path / "frames" / "b/c" / "frame0.png"), scene(77))
    with pytest.raises(RddError, match=r"holds the prediction of b/c/frame0\.png, which was changed since or isn't in"):
        predict(Options(bundle, tmp_path / "frames", out))


def test_new_frames_join_and_removed_masks_come_back(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frames(tmp_path / "frames", 3)
    out = tmp_path / "out"
    predict(Options(bundle, tmp_path / "frames", out))
    (out / "masks" / "b" / "c" / "frame0.png").unlink()
    cv2.imwrite(str(tmp_path / "frames" / "new.png"), scene(50))
    capsys.readouterr()
    predict(Options(bundle, tmp_path / "frames", out))
    assert "2 frames in" in capsys.readouterr().out
    assert sorted(row["frame"] for row in rows(out)) == [
        "b/c/frame0.png",
        "b/c/frame2.png",
        "drive one/frame1.png",
        "new.png",
    ]
    predict(Options(bundle, tmp_path / "frames", out))
    assert "nothing was left to do, 4 were done before" in capsys.readouterr().out


def test_unreadable_images_are_told_behind_all_others(bundle: Path, tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames", 4)
    (tmp_path / "frames" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (tmp_path / "frames" / "empty.jpg").write_bytes(b"")
    done = finished(started(bundle, tmp_path / "frames", tmp_path / "out"))
    assert done.returncode == 2
    first, *others = errors_of(done)
    assert first == "error: 2 of 6 images couldn't be read, and have no mask; all others are done:"
    assert [line.partition(":")[0].strip() for line in others] == [
        f"can't read the image {tmp_path}/frames/{n}.jpg" for n in ("broken", "empty")
    ]
    assert {row["frame"] for row in rows(tmp_path / "out")} == set(frames)


def test_what_is_refused(bundle: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    frames = tmp_path / "frames"
    for options, sentence in (
        (Options(bundle, frames, tmp_path / "full"), "isn't empty and holds no prediction"),
        (Options(bundle, frames, frames / "out"), "lies in the folder of the frames"),
        (Options(bundle, tmp_path / "empty", tmp_path / "out"), "holds no images, nor do the folders in it"),
        (Options(bundle, tmp_path / "nothing", tmp_path / "out"), "there is no .*nothing; expected a folder of images"),
        (Options(frames, frames, tmp_path / "out"), "has neither of the two; expected a run folder"),
        (
            Options(bundle, frames, tmp_path / "out", pick=3),
            "a lone bundle doesn't tell; name other bundles with --disagree",
        ),
    ):
        with pytest.raises(RddError, match=sentence):
            predict(options)
    for name in ("twin.png", "twin.bmp"):
        cv2.imwrite(str(frames / name), scene(3))
    with pytest.raises(RddError, match=r"twin\.bmp and twin\.png have the same name but for the ending"):
        predict(Options(bundle, frames, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_folder_whose_files_were_edited(bundle: Path, tmp_path: Path) -> None:
    """What lies in OUT is text from outside: nothing in it leads out of it, and rubbish is refused or done again."""
    frames = write_frames(tmp_path / "frames", 2)
    out = tmp_path / "out"
    predict(Options(bundle, tmp_path / "frames", out))
    line = (out / "progress.jsonl").read_text().splitlines()[0]
    for rubbish in ("[1]\n", '{"frame": 3}\n', "\xff\n", line.replace('"height": 48', '"height": "tall"') + "\n"):
        (out / "progress.jsonl").write_bytes(rubbish.encode("latin-1"))
        predict(Options(bundle, tmp_path / "frames", out))
        assert len(rows(out)) == len(frames)
    (out / "progress.jsonl").write_text(line.replace("b/c/frame0.png", "../../../etc/passwd") + "\n")
    with pytest.raises(RddError, match="etc/passwd, which was changed since or isn't in"):
        predict(Options(bundle, tmp_path / "frames", out))
    for rubbish in ("{}", "[]", '{"parts": 3}', "not JSON"):
        (out / "predict.json").write_text(rubbish)
        with pytest.raises(RddError, match=r"predict\.json can't be read"):
            predict(Options(bundle, tmp_path / "frames", out))


def test_names_that_no_list_can_hold_are_left_out(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = write_frames(tmp_path / "frames", 2)
    content = cv2.imencode(".png", scene(1))[1].tobytes()
    (tmp_path / "frames" / "two\nlines.png").write_bytes(content)
    with open(os.fsencode(tmp_path / "frames") + b"/\xff.png", "wb") as file:
        file.write(content)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "more.png").write_bytes(content)
    (tmp_path / "frames" / "link").symlink_to(tmp_path / "elsewhere")
    predict(Options(bundle, tmp_path / "frames", tmp_path / "out"))
    assert {row["frame"] for row in rows(tmp_path / "out")} == set(frames)
    told = capsys.readouterr().err
    assert "2 of 4 images in" in told
    assert "/link is a link to a folder: left out" in told


def write_video(path: Path, count: int = 12) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE[::-1])
    for number in range(count):
        writer.write(scene(number, (3, 4)))
    writer.release()


def test_a_video(bundle: Path, other: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "drive.avi")
    out = tmp_path / "out"
    predict(Options(bundle, tmp_path / "drive.avi", out, every=3, others=(other,), pick=2))
    assert sorted(path.name for path in (out / "masks").iterdir()) == [
        "000000.png",
        "000003.png",
        "000006.png",
        "000009.png",
    ]
    video = cv2.VideoCapture(str(tmp_path / "drive.avi"))
    for number in range(12):
        _, frame = video.read()
        if number % 3 == 0:
            assert np.array_equal(
                Ids(3).labels(out / "masks" / f"{number:06d}.png"), truth(np.asarray(frame, np.uint8))
            )
            picked = out / "picked" / "images" / f"{number:06d}.png"
            assert not picked.exists() or np.array_equal(cv2.imread(str(picked)), frame)
    assert len(list((out / "picked" / "images").iterdir())) == 2
    before = (out / "masks" / "000006.png").read_bytes()
    (out / "masks" / "000006.png").unlink()
    predict(Options(bundle, tmp_path / "drive.avi", out, every=3, others=(other,)))
    assert (out / "masks" / "000006.png").read_bytes() == before
    assert len(rows(out)) == 4


def test_a_video_that_is_cut_short_or_none(bundle: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "drive.avi", 40)
    content = (tmp_path / "drive.avi").read_bytes()
    (tmp_path / "short.avi").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        RddError, match=r"short\.avi ended after \d+ of 40 frames: it was cut short, is damaged"
    ) as told:
        predict(Options(bundle, tmp_path / "short.avi", tmp_path / "out"))
    count = int(str(told.value).partition("after ")[2].partition(" ")[0])
    assert 5 < count < 40
    assert len(list((tmp_path / "out" / "masks").iterdir())) == count
    assert len(rows(tmp_path / "out")) == count
    (tmp_path / "no.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(RddError, match=r"can't read the video .*no\.mp4: it is damaged or of a format"):
        predict(Options(bundle, tmp_path / "no.mp4", tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_disagreement_and_what_is_picked(bundle: Path, other: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):  # the finer the blocks, the more the coarse bundle gets wrong
        cv2.imwrite(str(frames / f"{number}.png"), scene(number, [(2, 2), (6, 8), (12, 16), (24, 32)][number]))
    cv2.imwrite(str(frames / "3 again.png"), cv2.add(scene(3, (24, 32)), np.full((*SIZE, 3), 2, np.uint8)))
    out = tmp_path / "out"
    predict(Options(bundle, frames, out, others=(other,), pick=2))
    with (out / "disagreement.csv").open() as file:
        order = [(row["frame"], float(row["disagreement"])) for row in csv.DictReader(file)]
    assert {name for name, _ in order[:2]} == {"3.png", "3 again.png"}
    assert [share for _, share in order] == sorted((share for _, share in order), reverse=True)
    picked = (out / "picked.txt").read_text().splitlines()
    assert len(picked) == 2
    assert len({"3.png", "3 again.png"} & set(picked)) == 1, "of two that look alike one is enough"
    assert sorted(path.name for path in (out / "picked" / "images").iterdir()) == sorted(picked)
    for name in picked:
        assert (out / "picked" / "images" / name).read_bytes() == (frames / name).read_bytes()
        assert (out / "picked" / "masks" / name).read_bytes() == (out / "masks" / name).read_bytes()
    corrected = out / "picked" / "masks" / picked[0]
    corrected.write_bytes(b"hours of work")
    predict(Options(bundle, frames, out, others=(other,), pick=2))
    assert corrected.read_bytes() == b"hours of work", "the same choice is left as it is"
    predict(Options(bundle, frames, out, others=(other,), pick=1))
    assert len(list((out / "picked" / "images").iterdir())) == 1
    assert (out / "picked.1" / "masks" / picked[0]).read_bytes() == b"hours of work", "an earlier choice is moved aside"


def test_bundles_of_other_classes_arent_compared(bundle: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", 1)
    strange = toy_bundle(tmp_path / "strange", manifest={"classes": ["red", "green", "blue"]})
    with pytest.raises(RddError, match=r"has the classes blue, green, red, .* has red, green, blue"):
        predict(Options(bundle, tmp_path / "frames", tmp_path / "out", others=(strange,)))


def test_one_process_at_a_time(bundle: Path, tmp_path: Path) -> None:
    from rdd_deploy.utils.locks import locked

    write_frames(tmp_path / "frames", 1)
    sentence = f"^process {os.getpid()} predicts into {tmp_path}/out; wait until it ends, or name another folder$"
    with locked((tmp_path / "out").resolve()), pytest.raises(RddError, match=sentence):
        predict(Options(bundle, tmp_path / "frames", tmp_path / "out"))


def taught_run(folder: Path) -> tuple[Path, Path]:
    """A run that has learned its stripes, and frames of them."""
    import toy_export

    network = toy_export.toys.network()
    data = toy_export.toys.write_data(folder / "data")
    return toy_export.write_run(folder / "run", data, toy_export.taught(network, 5), network), data / "val"


def test_a_run_is_as_sure_as_its_softmax(bundle: Path, tmp_path: Path) -> None:
    import torch

    from rdd_deploy.data.reader import read_frame
    from rdd_deploy.models.predict import torch_predictor
    from rdd_deploy.models.weights import load_segmenter

    run, frames = taught_run(tmp_path)
    out = tmp_path / "out"
    predict(Options(run, frames, out, confidence=True, pick=2, device="cpu"))
    network = load_segmenter(run / "student.safetensors")[0].eval()
    by_name = {row["frame"]: row for row in rows(out)}
    for path in frames.iterdir():
        frame = read_frame(path)
        [labels] = torch_predictor(network, (64, 96))([frame])
        assert np.array_equal(Ids(3).labels(out / "masks" / path.name), labels)
        with torch.inference_mode():
            wide = torch.from_numpy(cv2.resize(frame, (96, 64))).permute(2, 0, 1)[None]
            sure = network(wide).primary.softmax(1).amax(1).numpy()
        assert float(by_name[path.name]["confidence_mean"]) == pytest.approx(sure.mean(), abs=1e-4)
        assert float(by_name[path.name]["confidence_p5"]) == pytest.approx(np.percentile(sure, 5), abs=1e-4)
        drawn = cv2.imread(str(out / "confidence" / path.name), cv2.IMREAD_UNCHANGED)
        assert drawn is not None
        assert drawn.mean() / 255 == pytest.approx(sure.mean(), abs=0.01)
    least = min(by_name.values(), key=lambda row: float(row["confidence_mean"]))
    assert (out / "picked.txt").read_text().splitlines()[0] == least["frame"]
    assert read_json(out / "predict.json")["confidence"].startswith("probability of the likeliest class")
    with pytest.raises(RddError, match="--provider 'cpu' is for a bundle, but"):
        predict(Options(run, frames, tmp_path / "other", provider="cpu"))
    with pytest.raises(RddError, match="has the classes left, middle, right"):
        predict(Options(run, frames, tmp_path / "other", others=(bundle,)))


@pytest.mark.slow
def test_a_run_and_its_bundle_agree(tmp_path: Path) -> None:
    run, frames = taught_run(tmp_path)
    subprocess.run(
        [sys.executable, "-m", "rdd_deploy.export", str(run), "--onnx"], check=True, timeout=200, capture_output=True
    )
    exported = run / "export" / "onnxruntime-fp32"
    predict(Options(run, frames, tmp_path / "by run", others=(exported,)))
    predict(Options(exported, frames, tmp_path / "by bundle"))
    for path in frames.iterdir():
        one, two = (Ids(3).labels(tmp_path / by / "masks" / path.name) for by in ("by run", "by bundle"))
        assert (one != two).mean() < 0.001
    assert all(float(row["disagreement"]) < 0.001 for row in rows(tmp_path / "by run"))
    assert "labels, no probabilities" in read_json(tmp_path / "by bundle" / "predict.json")["confidence"]


def test_new_frames_shift_which_each_second_one_is(bundle: Path, tmp_path: Path) -> None:
    """What is done stays; it isn't taken for frames that are gone."""
    for number in range(4):
        (tmp_path / "frames").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"frames/b{number}.png"), scene(number))
    options = Options(bundle, tmp_path / "frames", tmp_path / "out", every=2)
    predict(options)
    assert [row["frame"] for row in rows(tmp_path / "out")] == ["b0.png", "b2.png"]
    cv2.imwrite(str(tmp_path / "frames/a.png"), scene(9))
    predict(options)
    assert sorted(row["frame"] for row in rows(tmp_path / "out")) == ["a.png", "b0.png", "b1.png", "b2.png", "b3.png"]
    cv2.imwrite(str(tmp_path / "frames/b2.png"), scene(8))
    with pytest.raises(RddError, match=r"holds the prediction of b2\.png, which was changed since"):
        predict(options)
    (tmp_path / "frames/b0.png").unlink()
    cv2.imwrite(str(tmp_path / "frames/b2.png"), scene(2))
    with pytest.raises(RddError, match="holds the prediction of b"):
        predict(options)
