"""A run and its bundle are measured by one protocol and give the same figures; a bundle needs no torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toys

from rdd_deploy.data.base import Frame, Labels, LabelSpace, Split, limited
from rdd_deploy.errors import DataError
from rdd_deploy.evaluate import main
from rdd_deploy.evaluation import evaluate_bundle, evaluate_run
from rdd_deploy.metrics import evaluate_split

NO_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "onnx", "safetensors", "matplotlib"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from rdd_deploy.evaluate import main
main()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights and its float bundle."""
    import torch

    from rdd_deploy.export.pipeline import Options, export_profile
    from rdd_deploy.export.profile import load_profile
    from rdd_deploy.export.trained_run import open_run
    from rdd_deploy.models.config import Network
    from rdd_deploy.models.segmenter import Segmenter
    from rdd_deploy.models.weights import save_segmenter
    from rdd_deploy.training.run_folder import RunFolder

    folder = tmp_path_factory.mktemp("evaluate")
    data = toys.write_data(folder / "data")
    run = RunFolder(folder / "runs" / "toy")
    network = toys.network()
    toys.write_recipe(run.recipe, toys.tree(data) | {"name": "toy", "student": network})
    torch.manual_seed(0)
    segmenter = Segmenter(Network.model_validate(network), 3).eval()
    save_segmenter(
        run.student, segmenter, {"classes": toys.CLASSES, "palette": [list(c) for c in toys.COLOURS], "size": [64, 64]}
    )
    export_profile(open_run(run.path), load_profile("onnxruntime-fp32"), run.export, Options())
    return run.path


def test_run_and_bundle_agree(run: Path) -> None:
    torch_figures, bundle_figures = evaluate_run(run), evaluate_bundle(run / "export" / "onnxruntime-fp32")
    assert bundle_figures.protocol == torch_figures.protocol
    assert bundle_figures.protocol == {
        "data": "folder", "split": "val", "images": 3, "input_height": 64, "input_width": 64, "labels_at": "frame", "classes": 3,
    }  # fmt: skip
    assert bundle_figures.summary["miou_pct"] == pytest.approx(torch_figures.summary["miou_pct"], abs=0.05)


def test_limit_and_other_split(run: Path) -> None:
    assert evaluate_run(run, "train", limit=2).protocol["images"] == 2
    with pytest.raises(DataError, match="the limit is 0; expected 1 frame or more"):
        evaluate_run(run, limit=0)


def test_data_root_override(run: Path, tmp_path: Path) -> None:
    other = toys.write_data(tmp_path / "elsewhere", val=1)
    assert evaluate_bundle(run / "export" / "onnxruntime-fp32", root=other).protocol["images"] == 1


def test_bundle_without_torch(run: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-c",
        NO_TORCH,
        str(run / "export" / "onnxruntime-fp32"),
        "--json",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "mIoU" in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert set(written["summary"]["iou_pct"]) == set(toys.CLASSES)
    assert written["protocol"]["split"] == "val"


def test_command_on_a_run(run: Path) -> None:
    done = toys.call("evaluate", run, "--limit", "1", cwd=run)
    assert done.returncode == 0, done.stderr
    assert "folder val: 1 images, network at 64x64" in done.stdout
    assert "void pixels don't count" in done.stdout


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights and no bundle."""
    from rdd_deploy.models.config import Network
    from rdd_deploy.models.segmenter import Segmenter
    from rdd_deploy.models.weights import save_segmenter
    from rdd_deploy.training.run_folder import RunFolder

    folder = tmp_path_factory.mktemp("devices")
    run = RunFolder(folder / "runs" / "toy")
    toys.write_recipe(run.recipe, toys.tree(toys.write_data(folder / "data")) | {"name": "toy"})
    save_segmenter(
        run.student,
        Segmenter(Network.model_validate(toys.network()), 3).eval(),
        {"classes": toys.CLASSES, "size": [64, 64]},
    )
    return run.path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--device", "cuda:99"], "the device is 'cuda:99' but torch"),
        (["--device", "tpu"], "the device is 'tpu'; expected auto, cpu, cuda or cuda:N"),
        (["--device", "cpu:1"], "the device is 'cpu:1'; expected auto, cpu, cuda or cuda:N"),
        (["--threads", "0"], "invalid value for '--threads': "),
        (
            ["--provider", "cuda"],
            "--provider 'cuda' is for a bundle, but RUN is a run, which PyTorch measures; choose with --device",
        ),
    ],
)
def test_what_a_run_cannot_be_measured_on(
    untrained: Path,
    words: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", str(untrained), *words])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    assert " ".join(capsys.readouterr().err.split()).replace(str(untrained), "RUN").startswith(f"error: {sentence}")


def test_device_and_threads_of_a_run(untrained: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert evaluate_run(untrained, device="cpu", threads=3).what.endswith("student.safetensors (torch fp32 on cpu)")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_a_run_on_cuda(untrained: Path) -> None:
    for device in ("cuda", "cuda:0", "auto"):
        assert "(torch fp32 on cuda" in evaluate_run(untrained, limit=1, device=device).what


def test_neither_run_nor_bundle(tmp_path: Path) -> None:
    done = toys.call("evaluate", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    expected = "expected a run folder (with recipe.yaml) or a bundle (with manifest.json)"
    assert toys.errors_of(done) == [f"error: {tmp_path} has neither of the two; {expected}"]
    done = toys.call("evaluate", "nowhere", cwd=tmp_path)
    assert toys.errors_of(done) == [f"error: nowhere isn't a folder; {expected}"]


def test_edited_bundle_is_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run / "export" / "onnxruntime-fp32", copy)
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    done = toys.call("evaluate", copy, cwd=tmp_path)
    assert done.returncode == 2
    [line] = toys.errors_of(done)
    assert "isn't the file that was exported: its SHA-256 is" in line


class Made(Split):
    """Two frames of other sizes than each other."""

    def __init__(self) -> None:
        self.label_space = LabelSpace(("a", "b"), ((0, 0, 0), (255, 255, 255)))
        self.names = ["small", "large"]

    def frame(self, index: int) -> Frame:
        return np.zeros(((4, 6), (8, 10))[index] + (3,), np.uint8)

    def labels(self, index: int) -> Labels:
        labels = np.zeros(((4, 6), (8, 10))[index], np.uint8)
        labels[0] = 255
        labels[1] = 1
        return labels


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_one_matrix_whatever_the_batch(batch: int) -> None:
    confusion = evaluate_split(lambda frames: [np.zeros(frame.shape[:2], np.uint8) for frame in frames], Made(), batch)
    assert confusion.matrix.tolist() == [[2 * 6 + 6 * 10, 0], [6 + 10, 0]]


def test_empty_split_is_an_error() -> None:
    empty = Made()
    empty.names = []
    with pytest.raises(DataError, match="the val split holds no frames"):
        limited(empty, None, "val")


def test_where_points_are_lost_is_told_and_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run and of its bundle alike, whatever measures it."""
    found = []
    for number, what in enumerate((run, run / "export" / "onnxruntime-fp32")):
        written = tmp_path / f"{number}.json"
        monkeypatch.setattr(sys, "argv", ["evaluate", str(what), "--lost", "--json", str(written)])
        with pytest.raises(SystemExit) as raised:
            main()
        assert not raised.value.code
        found.append(json.loads(written.read_text()))
    assert found[0]["lost"] == found[1]["lost"]
    assert set(found[0]["lost"]["classes"]) == set(toys.CLASSES)
    missing = 100 - found[0]["summary"]["miou_pct"]
    assert sum(one["points_lost"] or 0 for one in found[0]["lost"]["classes"].values()) == pytest.approx(
        missing, abs=0.01
    )
    assert "where the points of mIoU are lost" in capsys.readouterr().out
