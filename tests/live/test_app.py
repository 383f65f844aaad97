"""The whole app in this process, headless, on real files."""

import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from live_app import count, run
from toy_bundle import toy_bundle, truth

from rdd_deploy.errors import BundleError, DataError, DeviceError, DiskError, RddError, SourceError
from rdd_deploy.live import app, grabber, inference, sources
from rdd_deploy.live import bundles as bundles_module
from rdd_deploy.live.app import live
from rdd_deploy.live.options import LiveOptions, parse_size
from rdd_deploy.live.x_server import check_display


def test_video_is_played_whole(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    record = run(tmp_path, bundles[0], source=str(video), record=tmp_path / "seen.mp4")
    assert (record["frames"], record["drops"], record["reconnects"], record["live"]) == (40, 0, 0, False)
    assert count(tmp_path / "seen.mp4") == 40
    assert record["fps"] > 0
    for times in (record["end_to_end_ms"], *record["stages_ms"].values()):
        assert 0 <= times["p50"] <= times["p95"] <= times["p99"]
    assert record["bundles"][0]["miou_pct"] is None


def test_max_frames(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    assert run(tmp_path, bundles[0], source=str(video), max_frames=7)["frames"] == 7


def test_split_measures_disagreement(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    same = run(tmp_path, bundles[0], bundles[0], source=str(video), split=True)
    assert same["disagreement_pct"] == 0
    other = run(tmp_path, *bundles, source=str(video), split=True, record=tmp_path / "seen.avi")
    assert other["disagreement_pct"] > 90
    assert [bundle["frames"] for bundle in other["bundles"]] == [40, 40]


def test_labels_give_the_running_miou(tmp_path: Path, bundles: tuple[Path, Path], folder: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in folder.iterdir():
        mask = truth(np.asarray(cv2.imread(str(path))))
        mask[:4] = 7
        cv2.imwrite(str(masks / path.name), mask)
    record = run(tmp_path, bundles[0], source=str(folder), labels=masks, data_void=(7,))
    assert record["bundles"][0]["miou_pct"] == 100.0
    with pytest.raises(DataError, match="pass --data-void 7"):
        run(tmp_path, bundles[0], source=str(folder), labels=masks)


def masks_of(folder: Path, place: Path) -> Path:
    """A folder with the toy network's own prediction to each frame."""
    masks = place / "masks"
    masks.mkdir()
    for path in folder.iterdir():
        cv2.imwrite(str(masks / path.name), truth(np.asarray(cv2.imread(str(path)))))
    return masks


def test_a_bad_mask_costs_one_frame_its_truth(
    tmp_path: Path, bundles: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = masks_of(folder, tmp_path)
    (masks / "frame0.png").write_bytes(b"no mask")
    record = run(tmp_path, bundles[0], source=str(folder), labels=masks)
    assert (record["frames"], record["bad_frames"], record["bundles"][0]["miou_pct"]) == (12, 0, 100.0)
    assert "frame0.png" in (said := capsys.readouterr().err)
    assert "its frame counts for no mIoU" in said


def test_bad_masks_in_a_row_end_the_run(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(40):
        cv2.imwrite(str(masks / f"{index}.png"), np.full((48, 64), 7 if index else 0, np.uint8))
    with pytest.raises(DataError, match=r"30\.png holds unknown class ids \[7\]"):
        run(tmp_path, bundles[0], source=str(video), labels=masks)
    assert json.loads((tmp_path / "stats.json").read_text())["frames"] == 30


def test_a_bundle_of_other_classes_than_the_labels_is_named(
    tmp_path: Path, bundles: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = masks_of(folder, tmp_path)
    other = toy_bundle(tmp_path / "animals", manifest={"classes": ["cat", "dog", "cow"]})
    run(tmp_path, bundles[0], other, source=str(folder), labels=masks, max_frames=1)
    assert (
        capsys.readouterr().err
        == "warning: bundle 2 animals has other classes than bundle 1, whose ids the labels hold: no mIoU for it\n"
    )


def test_streets_count_against_their_own_labels(tmp_path: Path) -> None:
    from rdd_deploy.data.camvid import CAMVID

    label_space = {"classes": list(CAMVID.classes), "palette": list(CAMVID.palette)}
    record = run(
        tmp_path, toy_bundle(tmp_path / "toy", manifest=label_space), source="streets", size=(64, 48), max_frames=3
    )
    assert record["bundles"][0]["miou_pct"] is not None
    assert record["frames"] == 3


def test_a_slow_bundle_shows_in_the_age(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = run(tmp_path, bundles[0], source=str(video), max_frames=8)["end_to_end_ms"]
    infer = inference.Inference._label
    monkeypatch.setattr(inference.Inference, "_label", lambda self, *a: (time.sleep(0.3), infer(self, *a))[1])
    slow = run(tmp_path, bundles[0], source=str(video), max_frames=8)["end_to_end_ms"]
    assert slow["p50"] >= 300 > quick["p50"]


def test_the_frames_behind_an_miou_are_counted(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "masks").mkdir()
    for index in (3, 17):
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), np.zeros((48, 64), np.uint8))
    (bundle,) = run(tmp_path, bundles[0], source=str(video), labels=tmp_path / "masks")["bundles"]
    assert (bundle["frames"], bundle["labelled_frames"]) == (40, 2)
    assert "% over 2 frames" in capsys.readouterr().out


def test_a_folder_has_no_rate_to_keep_to(
    tmp_path: Path, bundles: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(tmp_path, bundles[0], source=str(folder), realtime=True)
    assert (record["frames"], record["drops"]) == (12, 0)
    assert "has no frame rate: it is played whole, not in real time" in capsys.readouterr().err


def test_split_needs_a_second_bundle(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, bundles[0], source=str(video), split=True, max_frames=2)["disagreement_pct"] is None
    assert "split view needs a second bundle of the same classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
        np.zeros((48, 64, 3), np.uint16),
    ],
)
def test_a_bad_frame_is_skipped(
    tmp_path: Path,
    bundles: tuple[Path, Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: np.ndarray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = sources.read_image
    monkeypatch.setattr(sources, "read_image", lambda path: bad if path.name == "frame3.png" else read(path))
    record = run(tmp_path, bundles[0], source=str(folder))
    assert (record["frames"], record["bad_frames"]) == (11, 1)
    assert "warning: frame frame3: got a frame of shape" in capsys.readouterr().err


def test_nothing_but_bad_frames(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "i").mkdir()
    for index in range(3):
        (tmp_path / "i" / f"{index}.png").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"i gave no usable frame \(3 were skipped\); check the source"):
        run(tmp_path, bundles[0], source=str(tmp_path / "i"))
    monkeypatch.setattr(inference.Segmenter, "prepare", lambda *_: (_ for _ in ()).throw(SourceError("grey")))
    with pytest.raises(SourceError, match="30 frames in a row can't be used, the last one: grey"):
        run(tmp_path, bundles[0], source=str(video))


def test_a_truncated_video_is_reported(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.avi"
    chunk = b"00dc"  # named once in an AVI's head, then before every frame; the index behind the last one is lost
    cut.write_bytes(chunk.join(video.read_bytes().split(chunk)[:22]))
    assert run(tmp_path, bundles[0], source=str(cut))["frames"] == 20
    assert "frames early; the file is damaged or cut off" in capsys.readouterr().err


def test_bundle_errors(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BundleError,
        match=r"there is no bundle in runs/latest/export; make one with `python -m rdd_deploy.export --onnx`",
    ):
        run(tmp_path, source=str(video))
    with pytest.raises(BundleError, match="got 10 bundles, expected at most 9"):
        run(tmp_path, *[bundles[0]] * 10, source=str(video))
    broken = toy_bundle(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"edited")
    with pytest.raises(BundleError, match="isn't the file that was exported"):
        run(tmp_path, broken, source=str(video))


def test_the_newest_bundle_is_the_default(tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.chdir(tmp_path)
    for age, name in ((100, "b"), (50, "c"), (200, "a")):
        folder = toy_bundle(tmp_path / bundles_module.EXPORTS / name)
        os.utime(folder / "manifest.json", (time.time() - age,) * 2)
    assert run(tmp_path, source=str(video), max_frames=1)["bundles"][0]["name"] == "c"


def test_a_model_that_misbehaves_is_found_before_the_run(tmp_path: Path, video: Path) -> None:
    with pytest.raises(BundleError, match="gave the class id"):
        run(tmp_path, toy_bundle(tmp_path / "toy", offset=9), source=str(video), record=tmp_path / "seen.mp4")
    assert not (tmp_path / "seen.mp4").exists()
    assert not (tmp_path / "stats.json").exists()


def test_bundles_are_warm_before_the_first_frame(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each inference that can run at a time has run once before the source is opened."""
    infer, opened, early = bundles_module.Segmenter.infer, [], []

    def spy(self: Any, network_input: np.ndarray) -> np.ndarray:
        if not opened:
            early.append(self.manifest.name)
        return infer(self, network_input)

    open_source = app.open_source
    monkeypatch.setattr(bundles_module.Segmenter, "infer", spy)
    monkeypatch.setattr(
        app, "open_source", lambda *given, **options: (opened.append(True), open_source(*given, **options))[1]
    )
    record = run(tmp_path, *bundles, source=str(video), threads=2, max_frames=3)
    assert len(early) == 2 * record["inference_workers"] == 4
    assert len(set(early)) == 2
    assert record["frames"] == 3


def test_size_is_checked() -> None:
    assert parse_size("640x480") == (640, 480)
    for text in ("640", "x", "640x", "0x0", "-1x5", "99999x99999"):
        with pytest.raises(RddError, match="expected WIDTHxHEIGHT"):
            parse_size(text)


def test_stats_that_cant_be_written_are_found_before_the_run(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "out.json"):
        with pytest.raises(
            DiskError, match=r"can't write .*; (give the file's name as well|free some space or choose another folder)"
        ):
            live(LiveOptions(bundles=(bundles[0],), source="streets", headless=True, stats=path))
    with pytest.raises(DiskError, match=r"can't save frames to .*; choose another one with --save-to"):
        live(LiveOptions(bundles=(bundles[0],), source="streets", headless=True, save_to=tmp_path / "file" / "x"))


def test_one_file_for_two_purposes_is_refused(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    own = tmp_path / "own.avi"
    own.write_bytes(video.read_bytes())
    (tmp_path / "link.avi").symlink_to(own)
    both = tmp_path / "both.mp4"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"source": str(own), "record": own}, "--source and --record"),
        ({"source": str(own), "record": tmp_path / "link.avi"}, "--source and --record"),
        ({"source": f"file://{own}", "stats": tmp_path / "." / "own.avi"}, "--source and --stats"),
        ({"source": str(video), "record": both, "stats": both}, "--record and --stats"),
    ]
    for options, which in cases:
        with pytest.raises(DiskError, match=f"{which} are the same file, .*; it would be overwritten"):
            live(LiveOptions(bundles=(bundles[0],), headless=True, **options))
    assert own.read_bytes() == video.read_bytes()
    assert not both.exists()


@pytest.mark.parametrize(
    ("display", "sentence"),
    [
        ("", "DISPLAY isn't set"),
        (":987", "no X server answers at DISPLAY=:987"),
        ("nonsense", "expected something like :0"),
    ],
)
def test_without_a_display(monkeypatch: pytest.MonkeyPatch, display: str, sentence: str) -> None:
    """Qt would end the process; we say what to do instead."""
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(DeviceError, match=f"{sentence}.*--headless"):
        check_display()


def test_leftovers_of_killed_runs_are_swept(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    """Of stats, recordings and saved pictures, each in its folder."""
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in (".stats.json.4194305.part", ".seen.4194305.part.avi", "saved/.frame.png.4194305.part"):
        (tmp_path / name).touch()
    run(tmp_path, bundles[0], source=str(video), record=tmp_path / "seen.avi", save_to=saved, max_frames=1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["saved", "seen.avi", "stats.json"]


def test_the_stats_are_there_before_a_silent_source_is_waited_for(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks to stop may kill a few seconds later."""
    seen: list[bool] = []
    stop = grabber.Grabber.stop
    monkeypatch.setattr(
        grabber.Grabber, "stop", lambda self: (seen.append((tmp_path / "stats.json").is_file()), stop(self))[1]
    )
    run(tmp_path, bundles[0], source=str(video), realtime=True, max_frames=2)
    assert seen == [True]
