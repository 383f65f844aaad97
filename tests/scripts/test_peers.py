"""The comparison with peers, without the peers: what is written for them, when a step is done again, their frames' way
there and back, the table, and that one that can't be had costs the others nothing."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from rdd_deploy.benchmark.options import LatencyMetric
from rdd_deploy.data.camvid import CAMVID, open_camvid
from rdd_deploy.errors import BundleError, RddError

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import peer_runners  # noqa: E402
import peer_steps  # noqa: E402
import peer_table  # noqa: E402
import peers  # noqa: E402

JUDGE = LatencyMetric.MODEL_P50


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A small CamVid whose frames tell their class by their colour, class 0 to 2 or void."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            blocks = rng.choice([0, 1, 2, 11], (3, 4)).astype(np.uint8)
            blocks[0, 0] = number % 3
            labels = np.kron(blocks, np.ones((16, 16), np.uint8))
            frame = np.zeros((*labels.shape, 3), np.uint8)
            for one in range(3):
                frame[labels == one, 2 - one] = 255  # BGR: class 0 is red
            for folder, image in ((split, frame), (f"{split}annot", labels)):
                (tmp_path / "camvid" / folder).mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(tmp_path / "camvid" / folder / f"{number}.png"), image)
    return tmp_path / "camvid"


def test_peers_get_training_frames_with_void_as_255(camvid: Path, tmp_path: Path) -> None:
    split = open_camvid(camvid, "train")
    peer_steps.write_data(split, tmp_path / "out")
    assert len(list((tmp_path / "out/images/one").iterdir())) == len(list((tmp_path / "out/masks/one").iterdir())) == 1
    for index in range(3):
        frame = cv2.imread(str(tmp_path / f"out/images/train/{index:05d}.png"))
        mask = cv2.imread(str(tmp_path / f"out/masks/train/{index:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(frame, cv2.imread(str(camvid / f"train/{index}.png")))
        assert mask.ndim == 2
        assert np.array_equal(mask, split.labels(index))
        assert {*np.unique(mask)} <= {0, 1, 2, 255}
    paths = peer_steps.write_yamls(tmp_path / "out", CAMVID.classes, tmp_path)
    trees = {name: yaml.safe_load(Path(path).read_text(encoding="utf-8")) for name, path in paths.items()}
    assert trees["train_yaml"]["names"] == dict(enumerate(CAMVID.classes))
    assert [trees[name]["val"] for name in ("train_yaml", "calibration_yaml")] == ["images/one", "images/train"]
    assert (Path(trees["train_yaml"]["path"]) / trees["calibration_yaml"]["val"]).is_dir()


def test_other_data_have_another_digest(camvid: Path) -> None:
    before = peer_steps.digest_of(open_camvid(camvid, "train"))
    assert peer_steps.digest_of(open_camvid(camvid, "train")) == before
    (camvid / "trainannot/2.png").write_bytes((camvid / "trainannot/0.png").read_bytes())
    assert peer_steps.digest_of(open_camvid(camvid, "train")) != before


def test_a_step_is_done_once_for_what_is_asked(tmp_path: Path) -> None:
    made: list[int] = []

    def step(minutes: int, fails: bool = False) -> peer_steps.Step:
        def work(place: Path) -> None:
            made.append(minutes)
            (place / "weights").write_text(str(minutes))
            if fails:
                raise peer_steps.PeerError("no")

        return peer_steps.Step("training", tmp_path / "train", {"minutes": minutes}, work)

    assert not step(1).done
    assert [step(1).ensure(), step(1).ensure(), step(2).ensure(), step(2).ensure()] == [True, False, True, False]
    assert made == [1, 2]
    assert (tmp_path / "train/weights").read_text() == "2"
    with pytest.raises(peer_steps.PeerError):
        step(3, fails=True).ensure()
    assert not step(3).done
    assert step(3).ensure()
    (tmp_path / "train/done.json").write_text("{")
    assert not step(3).done, "a torn record is none"


def test_a_child_says_why_it_failed_and_ends_with_us(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = [sys.executable, "-c", "raise ModuleNotFoundError(\"No module named 'ultralytics'\")"]
    with pytest.raises(
        peer_steps.PeerError, match=r"training failed: ModuleNotFoundError: No module named 'ultra.*log"
    ):
        peer_steps.run_logged(words, log, dict(os.environ), "training")
    program = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\nfrom pathlib import Path\nimport os, peer_steps\n"
    inner = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    words = f"[sys.executable, '-c', {inner!r}], Path({str(log)!r}), dict(os.environ), 'x', cores=1"
    program += f"peer_steps.run_logged({words})"
    log.unlink()
    parent = subprocess.Popen([sys.executable, "-c", program])
    until = time.monotonic() + 60
    while not (log.is_file() and log.read_text().strip()):
        assert time.monotonic() < until
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    child = int(log.read_text())
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < until, "the child outlives its parent"
        time.sleep(0.05)


def test_a_peers_process_sees_nothing_of_ours_and_fetches_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    found = peer_steps.environment(tmp_path / "env", download=False, threads=2)
    assert "PYTHONPATH" not in found
    assert (found["HF_HUB_OFFLINE"], found["YOLO_OFFLINE"], found["OMP_NUM_THREADS"]) == ("1", "true", "2")
    assert "YOLO_OFFLINE" not in peer_steps.environment(tmp_path / "env", download=True)


def test_without_a_network_the_sentence_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_logged(words: list[str], *rest: Any, **options: Any) -> None:
        if "pip" in words:
            raise peer_steps.PeerError("pip install failed: ERROR: No matching distribution found for ultralytics")

    monkeypatch.setattr(peer_steps, "run_logged", run_logged)
    with pytest.raises(
        peer_steps.PeerError,
        match=r"can't install ultralytics, which needs the Python package index .*PIP_FIND_LINKS.*No matching",
    ):
        peer_steps.make_environment(tmp_path, ["ultralytics"], own_torch=True)


def colour_scores(batch: np.ndarray) -> np.ndarray:
    """A network: red, green and blue are classes 0 to 2."""
    return batch[:, :3]


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (50, 70)])
def test_a_letterboxed_frame_comes_back_at_its_own_size(shape: tuple[int, int]) -> None:
    runner = peer_runners.Letterboxed(
        lambda batch: {"labels": colour_scores(batch).argmax(1).astype(np.uint8)}, (64, 96), ("a", "b", "c"), "x"
    )
    frame, labels = halves(shape)
    network_input = runner.prepare(frame)
    assert network_input.shape == (1, 3, 64, 96)
    assert (network_input.min(), network_input.max()) == (0, 1)
    assert (runner.restore(runner.infer(network_input), shape) == labels).mean() > 0.97


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (48, 48), (50, 70)])
def test_tiles_are_put_together_again(shape: tuple[int, int]) -> None:
    tiles = 1 if shape[0] == shape[1] else 2
    mean, std = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
    runner = peer_runners.Tiled(
        lambda batch: {"logits": colour_scores(batch)}, 32, tiles, ("a", "b", "c"), mean, std, "x"
    )
    frame, labels = halves(shape)
    network_input = runner.prepare(frame)
    assert network_input.shape == (tiles, 3, 32, 32)
    assert (network_input.min(), network_input.max()) == (-2, 2)
    assert (runner.restore(runner.infer(network_input), shape) == labels).mean() > 0.95
    with pytest.raises(BundleError, match="takes 3 squares"):
        runner.prepare(np.zeros((32, 90, 3), np.uint8))


def halves(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A frame in BGR: red on the left, blue on the right, green below, and its labels."""
    labels = np.zeros(shape, np.uint8)
    labels[:, shape[1] // 2 :] = 2
    labels[2 * shape[0] // 3 :] = 1
    frame = np.zeros((*shape, 3), np.uint8)
    for one in range(3):
        frame[labels == one, 2 - one] = 255
    return frame, labels


def row(name: str, ms: float, miou: float, failure: str | None = None) -> Any:
    latency = SimpleNamespace(
        model=SimpleNamespace(p50_ms=ms), end_to_end=SimpleNamespace(p50_ms=2 * ms), judged_ms=lambda judge: ms
    )
    return SimpleNamespace(
        name=name,
        runtime="onnxruntime 1.24",
        backend="onnxruntime",
        precision="int8",
        input_height=240,
        input_width=320,
        failure=failure,
        measured=failure is None,
        file_size_bytes=1_500_000,
        accuracy=SimpleNamespace(miou_pct=miou),
        latency=latency,
    )


def test_the_front_and_whose_it_is() -> None:
    rows = [
        row("ours/a", 2, 50),
        row("ours/b", 5, 60),
        row("yolo/x", 7, 55),
        row("yolo/y", 1, 0, failure="no | file\nhere"),
    ]
    peers_rows = frozenset({"yolo/x", "yolo/y"})
    found = peer_table.points(rows, peers_rows, frozenset(), JUDGE)
    assert [(one.name, one.front) for one in found] == [
        ("ours/a", True),
        ("ours/b", True),
        ("yolo/x", False),
        ("yolo/y", False),
    ]
    assert "At every latency the most accurate network is ours." in peer_table.front_in_words(found)
    text = peer_table.markdown(found, "facts")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(rows)
    assert "failed: no / file here" in text
    table = list(csv.DictReader(StringIO(peer_table.comma_separated(found))))
    assert [one["x fastest"] for one in table] == ["1.00", "2.50", "3.50", ""]
    better = peer_table.points([*rows, row("yolo/z", 9, 70)], peers_rows | {"yolo/z"}, frozenset(), JUDGE)
    assert "Of it a peer's: yolo/z." in peer_table.front_in_words(better)


def test_untrained_networks_have_a_latency_and_no_place_on_the_front() -> None:
    rows = [row("ours/a", 2, 50), row("yolo/x", 1, 99)]
    found = peer_table.points(rows, frozenset({"yolo/x"}), frozenset({"yolo/x"}), JUDGE)
    assert [(one.name, one.miou, one.front) for one in found] == [("yolo/x", None, False), ("ours/a", 50, True)]
    assert "No trained peer was measured" in peer_table.front_in_words(found)
    assert "| untrained |" in peer_table.markdown(found, "")
    assert "No front" in peer_table.front_in_words([])


def test_the_plot_has_both() -> None:
    pytest.importorskip("matplotlib")
    found = peer_table.points([row("ours/a", 2, 50), row("yolo/x", 1, 40)], frozenset({"yolo/x"}), frozenset(), JUDGE)
    png = peer_table.plot(found, JUDGE)
    assert png is not None
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).reshape(-1, 3)
    for colour in peer_table.COLOURS.values():
        wanted = [int(colour[at : at + 2], 16) for at in (5, 3, 1)]
        assert (picture == wanted).all(1).any()
    assert peer_table.plot([], JUDGE) is None


PROGRAM = """
import json, sys
from pathlib import Path
job = json.loads(Path(sys.argv[2]).read_text()); out = Path(job["out"])
assert "rdd_deploy" not in sys.modules
if sys.argv[1] == "train":
    (out / "last.pt").write_text("x")
else:
    assert Path(job["trained"]).read_text() == "x"
    from onnx import TensorProto, helper, save
    nodes = [helper.make_node("ArgMax", ["images"], ["long"], axis=1, keepdims=0)]
    nodes.append(helper.make_node("Cast", ["long"], ["labels"], to=TensorProto.UINT8))
    height, width = job["size"]
    ends = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height, width])], [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, height, width])]
    graph = helper.make_graph(nodes, "g", *ends)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), out / "model.onnx")
    one = {"precision": "fp32", "file": "model.onnx", "size": job["size"], "tool": "toy 1"}
    (out / "artifacts.json").write_text(json.dumps([one | {"backend": "onnxruntime"}, one | {"backend": "openvino"}]))
"""


def test_one_that_cannot_be_had_costs_the_others_nothing(
    camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.py").write_text(PROGRAM)
    monkeypatch.setattr(peers, "PROGRAMS", tmp_path)
    monkeypatch.setattr(
        peers, "PEERS", {"gone": peers.Peer("toy.py", ("gone",)), "toy": peers.Peer("toy.py", ("toy",))}
    )

    def make_environment(place: Path, packages: list[str], own_torch: bool) -> None:
        if "gone" in packages:
            raise peer_steps.PeerError("can't install gone")

    monkeypatch.setattr(peer_steps, "make_environment", make_environment)
    monkeypatch.setattr(peer_steps, "python_of", lambda place: sys.executable)
    work = tmp_path / "work"

    def call(*words: object) -> tuple[object, str, str]:
        asked = ["peers.py", "--data", camvid, "--work", work, "--threads", 1, "--rounds", 1, "--size", "48x64", *words]
        monkeypatch.setattr(sys, "argv", [str(word) for word in asked])
        code: object = 0
        try:
            peers.main()
        except SystemExit as ended:
            code = ended.code
        return code or 0, *capsys.readouterr()

    code, out, _ = call("--dry-run")
    assert code == 0
    assert "toy: training: to do; needs 20 min of 1 cores" in out
    assert not work.exists()
    code, out, error = call()
    assert code == 2
    assert "gone: can't install gone" in error
    assert "toy: " not in error
    table = list(csv.DictReader(StringIO((work / "results/peers.csv").read_text())))
    assert {one["network"] for one in table} == {"toy/onnxruntime-fp32", "toy/openvino-fp32"}
    assert all(one["mIoU %"] == "100.00" for one in table), (
        "classes are colours here, so predictions at the label's size are exact"
    )
    assert "Of it a peer's: toy/" in out
    rows = json.loads((work / "results/benchmark.json").read_text())["rows"]
    assert [one["backend"] for one in rows] == ["onnxruntime", "openvino"]
    assert all(one["file_size_bytes"] > 0 for one in rows)
    code, out, _ = call("--only", "toy")
    assert code == 0
    assert "toy: training: done before" in out
    code, out, _ = call("--only", "toy", "--minutes", 0)
    assert "toy: training: done before" not in out
    assert "untrained" in (work / "results/peers.md").read_text()
    code, _, error = call("--only", "gone")
    assert code == 2
    assert "nothing to measure" in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--minutes", "-1"], "expected 0 .untrained. to 10000"),
        (["--minutes", "nan"], "expected 0 .untrained. to 10000"),
        (["--threads", "0"], "the cores of this process"),
        (["--weights", "yolo26n-sem"], "expected PEER=FILE or PEER=download"),
        (["--weights", "other=x"], "the peers are yolo26n-sem, lightly-vitt16"),
        (["--weights", "yolo26n-sem=/nowhere.pt"], "there is no file /nowhere.pt"),
        (["--weights", "yolo26n-sem=download", "--minutes", "0"], "exclude each other"),
        (["--size", "240"], "expected HEIGHTxWIDTH"),
        (["--data", "/nowhere"], "no CamVid train split in /nowhere"),
    ],
)
def test_a_mistake_is_a_sentence(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers.py", *words])
    with pytest.raises(SystemExit) as ended:
        peers.main()
    assert ended.value.code == 2
    text = " ".join(capsys.readouterr().err.split())
    assert sentence.replace(".untrained.", "(untrained)") in text
    assert "Traceback" not in text


def test_the_programs_know_nothing_of_ours() -> None:
    for program in (SCRIPTS / "peer_programs").glob("*.py"):
        assert not [
            line
            for line in program.read_text().splitlines()
            if line.startswith(("import rdd_deploy", "from rdd_deploy"))
        ]
    assert {peer.program for peer in peers.PEERS.values()} == {
        path.name for path in (SCRIPTS / "peer_programs").glob("*.py")
    }
    assert issubclass(peer_steps.PeerError, RddError)


def program(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / "peer_programs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_yolo_trains_on_as_many_threads_as_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    class YOLO:
        """Takes one thread when it begins, as ultralytics does on two cores."""

        def __init__(self, weights: str, task: str) -> None:
            self.callbacks: list[Any] = []

        def add_callback(self, event: str, function: Any) -> None:
            assert event == "on_train_start"
            self.callbacks.append(function)

        def train(self, **options: Any) -> None:
            torch.set_num_threads(1)
            for one in self.callbacks:
                one(self)
            counts.append(torch.get_num_threads())
            (tmp_path / "run/weights").mkdir(parents=True)
            (tmp_path / "run/weights/last.pt").write_text("x")

    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=YOLO))
    before = torch.get_num_threads()
    job = {"minutes": 1, "weights": "none", "train_yaml": "x", "size": [240, 320], "seed": 0, "threads": 3}
    try:
        program("yolo26n_sem").train(job, tmp_path)
    finally:
        torch.set_num_threads(before)
    assert counts == [3]
    assert json.loads((tmp_path / "trained.json").read_text())["threads"] == 3


def test_eomts_steps_are_measured_warm_and_never_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vitt16 = program("lightly_vitt16")
    fits: list[int] = []

    def fitting(seconds: list[float]) -> Any:
        def fit(job: dict[str, Any], out: Path, steps: int) -> float:
            fits.append(steps)
            (out / "exported_models").mkdir(parents=True, exist_ok=True)
            (out / "exported_models/exported_last.pt").write_text("x")
            return seconds[len(fits) - 1]

        fits.clear()
        return fit

    job = {"minutes": 1, "threads": 1}
    monkeypatch.setattr(vitt16, "fit", fitting([90.0, 10.0, 16.0, 75.0]))
    vitt16.train(job, tmp_path)
    assert fits == [1, 1, 4, 30]
    assert json.loads((tmp_path / "trained.json").read_text())["seconds"] == 75
    monkeypatch.setattr(vitt16, "fit", fitting([90.0, 10.0, 9.0]))
    with pytest.raises(SystemExit, match=r"4 steps took 9\.00 s and one took 10\.00 s; expected more for 4"):
        vitt16.train(job, tmp_path)


def test_a_program_that_trains_otherwise_makes_its_trainings_anew(
    camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SimpleNamespace(
        work=tmp_path, own_torch=False, size=(48, 64), minutes=1.0, seed=0, threads=1, data=camvid, split="val"
    )
    train = open_camvid(camvid, "train")
    step = peers.plan("yolo26n-sem", asked, "none", train)[2]
    monkeypatch.setattr(step, "work", lambda place: None)
    step.ensure()
    assert peers.plan("yolo26n-sem", asked, "none", train)[2].done
    monkeypatch.setitem(peers.PEERS, "yolo26n-sem", replace(peers.PEERS["yolo26n-sem"], version=99))
    assert not peers.plan("yolo26n-sem", asked, "none", train)[2].done


def test_the_table_says_how_long_each_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "runs/one/export/onnxruntime-int8"
    bundle.mkdir(parents=True)
    assert peer_steps.training_of_ours(bundle) == ""
    summary = {"kind": "distill", "train_seconds": 3780.0, "encoder_weights": "ImageNet"}
    (tmp_path / "runs/one/summary.json").write_text(json.dumps(summary))
    said = peer_steps.training_of_ours(bundle)
    assert said == "63.0 min, encoder: ImageNet; its teacher's not counted"
    donor = summary | {
        "kind": "train",
        "encoder_weights": "/home/me/runs/a/student.safetensors (sha256 0f), with its head",
    }
    (tmp_path / "runs/one/summary.json").write_text(json.dumps(donor))
    assert peer_steps.training_of_ours(bundle) == (
        "63.0 min, encoder: a/student.safetensors (sha256 0f), with its head; that file's training not counted"
    )
    found = peer_table.points([row("ours/a", 2, 50)], frozenset(), frozenset(), JUDGE, {"ours/a": said})
    assert f"| {said} |" in peer_table.markdown(found, "")
    assert peer_steps.training_of_peer(tmp_path / "toy/train", 20, "none") == "20 min, from scratch"
    (tmp_path / "toy/train").mkdir(parents=True)
    (tmp_path / "toy/train/trained.json").write_text('{"seconds": 1500.0}')
    assert peer_steps.training_of_peer(tmp_path / "toy/train", 20, "download") == "25.0 min, from its maker's weights"
    assert "toy was trained for 25.0 min, expected about 20" in " ".join(capsys.readouterr().err.split())
