"""Which frames calibrate, which are refused, and that a stale range table is never reused."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import toys
from toy_bundle import toy_graph
from toy_export import SIZE

from rdd_deploy.data.base import Frame, Labels, LabelSpace, Split
from rdd_deploy.errors import DataError, DiskError
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import Calibration, changed, load_profile
from rdd_deploy.export.quantization.calibrate import calibrated, least_error_range
from rdd_deploy.export.quantization.calibration_frames import from_folder, from_train
from rdd_deploy.export.quantization.ranges import check_ranges, load_table, table_path, tensors_to_calibrate
from rdd_deploy.export.trained_run import TrainedRun


class Listed(Split):
    """A split of given pairs."""

    def __init__(self, pairs: list[tuple[Frame, Labels]]) -> None:
        self.pairs = pairs
        self.label_space = LabelSpace(tuple(toys.CLASSES), toys.COLOURS)
        self.names = [f"frame{i}" for i in range(len(pairs))]

    def frame(self, index: int) -> Frame:
        return self.pairs[index][0]

    def labels(self, index: int) -> Labels:
        return self.pairs[index][1]


def smooth(value: int, label: int) -> tuple[Frame, Labels]:
    frame = np.full((32, 32, 3), value, np.uint8)
    frame[:, 16:] = value // 2
    return frame, np.full((32, 32), label, np.uint8)


def test_chosen_frames_cover_classes_and_brightness() -> None:
    pairs = [smooth(100 + i % 3, 0) for i in range(20)] + [
        smooth(100, 1),
        smooth(100, 2),
        smooth(250, 0),
        smooth(10, 0),
    ]
    chosen = from_train(Listed(pairs), [], 5, (32, 32))
    assert {"frame20", "frame21", "frame22", "frame23"} <= set(chosen.names)
    assert len(chosen) == 5
    assert chosen.network_input(0).shape == (1, 32, 32, 3)


def test_frames_are_bgr_like_every_deployed_one() -> None:
    frame, labels = smooth(100, 0)
    frame = frame.copy()
    frame[..., 0] += 7
    network_input = from_train(Listed([(frame, labels)]), [], 1, (32, 32)).network_input(0)
    assert (network_input[0, ..., 2] == frame[..., 0]).all()


def test_image_of_val_is_refused() -> None:
    pairs = [smooth(10 * i + 20, 0) for i in range(4)]
    with pytest.raises(
        DataError, match="the calibration image frame2 is also frame0 of the split that accuracy is measured on"
    ):
        from_train(Listed(pairs), [Listed([pairs[2]])], 2, (32, 32))


def test_noise_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    with pytest.raises(DataError, match="the calibration image frame0 is noise"):
        from_train(Listed([(noise, np.zeros((32, 32), np.uint8))]), [], 1, (32, 32))


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"no calibration folder {tmp_path / 'none'}; put images of the target's camera there"
    ):
        from_folder(tmp_path / "none", [], 4, SIZE)
    with pytest.raises(DataError, match=f"the calibration folder {tmp_path} holds no images"):
        from_folder(tmp_path, [], 4, SIZE)
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), toys.picture(index, *SIZE)[0])
    frames = from_folder(tmp_path, [], 2, SIZE)
    assert frames.names == ["0", "2"]


def test_a_folder_of_any_frame_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The live app takes any, too."""
    for index, (height, width) in enumerate(((50, 50), (120, 40), (480, 640))):
        cv2.imwrite(str(tmp_path / f"{index}.png"), toys.picture(index, height, width)[0])
    (tmp_path / "._0.png").write_bytes(b"a Mac's notes")
    frames = from_folder(tmp_path, [], 3, SIZE)
    assert [frames.network_input(index).shape for index in range(3)] == [(1, *SIZE, 3)] * 3
    said = capsys.readouterr().err
    assert (
        f"1 of 3 images in {tmp_path} is upright (portrait), the first is 1.png (120x40): stretched to the network's"
        " 64x96" in said
    )
    assert f"1 hidden or system file in {tmp_path} passed over" in said


def test_folder_with_frames_of_val_is_refused(tmp_path: Path) -> None:
    frames = [toys.picture(index, 120, 160)[0] for index in range(3)]
    val = Listed([(frame, np.zeros((120, 160), np.uint8)) for frame in frames])
    cv2.imwrite(str(tmp_path / "a.png"), toys.picture(7, 120, 160)[0][..., ::-1])
    assert len(from_folder(tmp_path, [val], 4, SIZE)) == 1
    cv2.imwrite(str(tmp_path / "b.png"), frames[2][..., ::-1])
    with pytest.raises(DataError, match=r"b\.png is also frame2 of the split that accuracy is measured on"):
        from_folder(tmp_path, [val], 4, SIZE)
    cv2.imwrite(
        str(tmp_path / "b.png"), cv2.resize(frames[2], (SIZE[1], SIZE[0]), interpolation=cv2.INTER_AREA)[..., ::-1]
    )
    with pytest.raises(
        DataError, match=r"b\.png shows what frame2 of the split that accuracy is measured on shows; take it out"
    ):
        from_folder(tmp_path, [val], 4, SIZE)


def test_val_is_refused_in_full_whatever_is_measured(source: TrainedRun, tmp_path: Path) -> None:
    val = source.split("val")
    folder = tmp_path / "frames"
    folder.mkdir()
    cv2.imwrite(str(folder / "last.png"), val.frame(len(val) - 1)[..., ::-1])
    asked = changed(load_profile("onnxruntime-int8"), calibration={"folder": str(folder), "images": 1})
    for options in (Options(limit=1), Options(evaluate=False), Options(split="train", limit=1)):
        with pytest.raises(DataError, match=r"last\.png is also .* of the split that accuracy is measured on"):
            export_profile(source, asked, tmp_path / "out", options)


def test_full_disk_is_one_sentence(
    graph: onnx.ModelProto, source: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    frames = from_train(source.split("train"), [], 1, SIZE)
    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(DiskError, match=r"can't write into .*: No space left on device; free some space or set TMPDIR"):
        calibrated(graph, frames, Calibration(images=1), tmp_path)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_methods(graph: onnx.ModelProto, source: TrainedRun, tmp_path: Path, method: str) -> None:
    frames = from_train(source.split("train"), [source.split("val")], 2, SIZE)
    config = Calibration.model_validate({"images": 2, "method": method, "bins": 512, "percentile": 99.0})
    few = onnx.ModelProto()
    few.CopyFrom(graph)
    if method == "entropy":  # onnxruntime's search takes a second a tensor: look at the stem only
        few = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(few)).extract_model(
            ["frame"], ["encoder.conv_stem/HardSwish"]
        )
    table = calibrated(few, frames, config, tmp_path)
    full = calibrated(few, frames, Calibration(images=2, method="minmax"), tmp_path)
    assert set(table.ranges) == set(full.ranges) == set(tensors_to_calibrate(few))
    for name, (low, high) in table.ranges.items():
        assert (
            full.ranges[name][0] - 1e-4 <= low <= high <= full.ranges[name][1] + 1e-4 + 0.02 * abs(full.ranges[name][1])
        )
    if method in ("percentile", "mse"):
        assert any(high < 0.99 * full.ranges[name][1] for name, (_, high) in table.ranges.items())


def test_stale_table_is_never_reused(graph: onnx.ModelProto, source: TrainedRun, tmp_path: Path) -> None:
    train, config = source.split("train"), Calibration(images=2)
    frames = from_train(train, [], 2, SIZE)
    first = calibrated(graph, frames, config, tmp_path)
    assert load_table(tmp_path, first.key) is not None
    assert calibrated(graph, frames, config, tmp_path).ranges == first.ranges
    other_weights = onnx.ModelProto()
    other_weights.CopyFrom(graph)
    content = bytearray(other_weights.graph.initializer[0].raw_data)
    content[0] ^= 1
    other_weights.graph.initializer[0].raw_data = bytes(content)
    others = [
        calibrated(other_weights, frames, config, tmp_path),
        calibrated(graph, from_train(train, [], 3, SIZE), config, tmp_path),
        calibrated(graph, frames, Calibration(images=2, method="percentile", bins=512), tmp_path),
    ]
    assert len({str(table_path(tmp_path, table.key)) for table in (first, *others)}) == 4
    path = table_path(tmp_path, first.key)
    path.write_text(path.read_text().replace('"method": "minmax"', '"method": "mse"'))
    assert load_table(tmp_path, first.key) is None  # edited: its key isn't its own any more
    path = table_path(tmp_path, first.key)
    first.save(tmp_path)
    tree = json.loads(path.read_text())
    tree["ranges"][next(iter(tree["ranges"]))] = [-1e6, 1e6]
    path.write_text(json.dumps(tree))
    assert load_table(tmp_path, first.key) is None
    path.write_text("{")
    assert load_table(tmp_path, first.key) is None


def test_overflow_is_an_error() -> None:
    with pytest.raises(
        DataError, match=r"activation 'a' is .*inf.* on the calibration images; the float network overflows"
    ):
        check_ranges({"a": (0.0, float("inf"))})


def test_least_error_range_cuts_a_lone_outlier() -> None:
    edges = np.linspace(-100, 100, 2049, dtype=np.float32)
    counts = np.zeros(2048, np.int64)
    counts[1024:1100] = 1_000_000
    counts[-1] = 1
    low, high = least_error_range((counts, edges, 0.0, 100.0))
    assert low == 0
    assert 7 < high < 40


MEMORY = """
import sys, tempfile
from pathlib import Path
import numpy as np, onnx
sys.path.insert(0, sys.argv[2])
import toys
from rdd_deploy.export.quantization import calibrate, calibration_frames as f
from rdd_deploy.export.profile import Calibration

def network_input(self, position):
    return toys.picture(position, 360, 480)[0][None]

f.CalibrationFrames.network_input = network_input
for images in sys.argv[4:]:
    frames = f.CalibrationFrames([str(i) for i in range(int(images))], [], None, (360, 480), "0")
    with tempfile.TemporaryDirectory() as folder:
        calibrate.calibrated(onnx.load(sys.argv[1]), frames, Calibration(method=sys.argv[3]), Path(folder))
    # Not ru_maxrss, which starts with what the process that started this one held.
    print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
assert "torch" not in sys.modules
"""


def peaks_mb(model: Path, method: str, *images: int) -> list[int]:
    """The peak after calibrating with each of these numbers of images, in turn in one process."""
    words = [sys.executable, "-c", MEMORY, str(model), str(Path(toys.__file__).parent), method, *map(str, images)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.splitlines() if line.isdigit()]  # between lines of progress


def exported(folder: Path, encoder: str, channels: int) -> Path:
    from rdd_deploy.export.onnx.export import onnx_from_segmenter
    from rdd_deploy.models.config import Network
    from rdd_deploy.models.segmenter import Segmenter

    network = Network.model_validate(toys.network(encoder=encoder, channels=channels))
    onnx.save(onnx_from_segmenter(Segmenter(network, 11), (360, 480)), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    toy_graph(model := tmp_path / "model.onnx", 360, 480, work=4)
    for method in ("minmax", "percentile"):
        few, many = peaks_mb(model, method, 4, 8)
        assert many < few + 50  # one image's activations are 46 MB
        assert many < 1000


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize(("method", "images"), [("minmax", 512), ("percentile", 512), ("mse", 24)])
def test_memory_stays_under_a_gigabyte(tmp_path: Path, method: str, images: int) -> None:
    assert peaks_mb(exported(tmp_path, "mobilenetv3_large_100", 128), method, images)[0] < 1000
