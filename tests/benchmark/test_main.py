import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from toy_bundle import toy_bundle
from toy_images import make_toy_data

from rdd_deploy.benchmark import __main__
from rdd_deploy.benchmark.records import Benchmark, read_benchmark

ONE_COLD_START = "import rdd_deploy.benchmark.cold_start as c, rdd_deploy.benchmark.__main__ as m; c.RUNS = 1; m.main()"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one run: a float bundle, one that loses, one that is broken, and a plain file."""
    export = tmp_path_factory.mktemp("runs") / "toy" / "export"
    toy_bundle(export / "onnxruntime-fp32", 60, 80)
    toy_bundle(export / "onnxruntime-int8", 60, 80, flip=True, manifest={"precision": "int8"})
    broken = toy_bundle(export / "broken")
    (broken / "model.onnx").write_bytes(b"edited")
    (export / "notes.txt").write_text("")
    return export


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdd_deploy.benchmark.cold_start.RUNS", 1)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
    try:
        __main__.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def folder(data: Path) -> list[object]:
    return ["--data", data, "--data-name", "folder", "--threads", 1, "--device", "cpu", "--rounds", 2]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, bundles: Path, data: Path) -> tuple[Path, Benchmark, str]:
    """One whole run as a command: its folder, its records, what it printed."""
    output = tmp_path_factory.mktemp("output") / "new" / "folder"
    command = [sys.executable, "-c", ONE_COLD_START, *sorted(map(str, bundles.iterdir())), *map(str, folder(data))]
    done = subprocess.run(
        [*command, "--output", str(output), "--latency-budget-ms", "10000", "--max-drop", "100"],
        capture_output=True, text=True, timeout=200, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output, read_benchmark(output / "benchmark.json"), done.stdout + done.stderr


def test_every_file_is_written(written: tuple[Path, Benchmark, str]) -> None:
    assert sorted(file.name for file in written[0].iterdir()) == ["benchmark.json", "pareto.png", "report.html"]


def test_both_figures_of_a_row_come_from_one_artifact(written: tuple[Path, Benchmark, str], bundles: Path) -> None:
    rows = {row.name: row for row in written[1].rows}
    assert list(rows) == ["broken", "onnxruntime-fp32", "onnxruntime-int8"]
    for name in ("onnxruntime-fp32", "onnxruntime-int8"):
        row, manifest = rows[name], json.loads((bundles / name / "manifest.json").read_text())
        assert row.measured
        assert row.model_sha256 == manifest["files"]["model.onnx"]
        assert row.file_size_bytes == (bundles / name / "model.onnx").stat().st_size
        assert (row.device, row.provider, row.precision) == ("cpu", "CPUExecutionProvider", manifest["precision"])
        assert row.latency is not None
        assert row.latency.frames == written[1].protocol.timed_frames == 20
        assert row.latency.model.p50_ms <= row.latency.model.p95_ms <= row.latency.model.p99_ms
        assert row.latency.model.p50_ms < row.latency.end_to_end.p50_ms
        assert row.cold_start is not None
    assert rows["onnxruntime-fp32"].runtime is not None
    assert rows["onnxruntime-fp32"].runtime.startswith("onnxruntime")


def test_accuracy_and_change_are_right(written: tuple[Path, Benchmark, str], data: Path) -> None:
    from toy_bundle import CLASSES, PALETTE, truth

    from rdd_deploy.data.open import open_split
    from rdd_deploy.metrics import Confusion

    split, confusion = open_split("folder", data, "val", classes=CLASSES, palette=PALETTE), Confusion(CLASSES)
    for index in range(len(split)):
        confusion.add(split.labels(index), truth(split.frame(index)[..., ::-1]))
    rows = {row.name: row for row in written[1].rows}
    own = rows["onnxruntime-fp32"].accuracy
    assert own is not None
    assert own.miou_pct == pytest.approx(100 * confusion.miou, abs=1e-3)
    assert own.miou_low_pct < own.miou_pct < own.miou_high_pct
    assert rows["onnxruntime-fp32"].change is None
    change = rows["onnxruntime-int8"].change
    assert change is not None
    assert change.reference == "onnxruntime-fp32"
    assert change.worst_class in CLASSES


def test_a_broken_bundle_keeps_its_row(written: tuple[Path, Benchmark, str]) -> None:
    row = written[1].rows[0]
    assert row.failure is not None
    assert "isn't the file that was exported" in row.failure
    assert "broken failed:" in written[2]
    assert "isn&#x27;t the file that was exported" in (written[0] / "report.html").read_text()


def test_what_the_terminal_says(written: tuple[Path, Benchmark, str]) -> None:
    for words in ("onnxruntime-fp32", "95 % interval", "decision: onnxruntime-", "report.html"):
        assert words in written[2]


def test_no_bundle_within_the_budget_is_exit_code_3(monkeypatch, bundles, data, tmp_path, capsys) -> None:
    code = call(
        monkeypatch,
        bundles / "onnxruntime-fp32",
        *folder(data),
        "--latency-budget-ms",
        0.001,
        "--output",
        tmp_path,
        "--limit",
        2,
    )
    assert code == 3
    assert "none on cpu within 0.001 ms (model-p50); the nearest is onnxruntime-fp32" in capsys.readouterr().err
    assert read_benchmark(tmp_path / "benchmark.json").decisions[0].chosen is None  # written all the same


def test_earlier_rows_join_by_flag(monkeypatch, written, bundles, data, tmp_path) -> None:
    earlier = written[0] / "benchmark.json"
    code = call(
        monkeypatch, bundles / "onnxruntime-fp32", *folder(data), "--output", tmp_path / "a", "--compare", earlier
    )
    assert code == 0
    joined = read_benchmark(tmp_path / "a" / "benchmark.json")
    assert [row.source for row in joined.rows] == [None, str(earlier), str(earlier), str(earlier)]


def test_rows_of_another_protocol_are_refused_before_the_measuring(
    monkeypatch, written, bundles, data, tmp_path, capsys
) -> None:
    earlier = written[0] / "benchmark.json"
    monkeypatch.setattr("rdd_deploy.benchmark.session.run_benchmark", lambda *_: pytest.fail("measured"))
    arguments = [*folder(data), "--limit", 3, "--output", tmp_path / "b", "--compare", earlier]
    assert call(monkeypatch, bundles / "onnxruntime-fp32", *arguments) == 2
    said = capsys.readouterr().err
    assert "error: --compare takes files of this machine and protocol only; what differs (there against here):" in said
    assert f"{earlier}: images: 12 against 3" in said.replace("\n", " ").replace("  ", " ")
    assert not list((tmp_path / "b").iterdir())


def test_earlier_rows_hide_no_failure(monkeypatch, written, bundles, data, tmp_path, capsys) -> None:
    arguments = [
        *folder(data),
        "--device",
        "cuda:7",
        "--latency-budget-ms",
        10000,
        "--compare",
        written[0] / "benchmark.json",
    ]
    assert call(monkeypatch, bundles / "onnxruntime-fp32", *arguments, "--output", tmp_path) == 2
    said = capsys.readouterr()
    assert "none of the 1 rows could be measured" in said.err
    assert "decision:" not in said.out
    assert len(read_benchmark(tmp_path / "benchmark.json").rows) == 4


def test_a_drop_is_judged_only_against_a_float_bundle(monkeypatch, bundles, data, tmp_path, capsys) -> None:
    arguments = [*folder(data), "--limit", 2, "--max-drop", 0.01, "--output", tmp_path]
    assert call(monkeypatch, bundles / "onnxruntime-int8", *arguments) == 3
    said = capsys.readouterr()
    assert "its drop is unknown, since no float bundle of its run and input size was measured" in said.err
    assert "no float" in said.out
    assert "no float bundle measured" in (tmp_path / "report.html").read_text()


def test_without_flags_it_measures_on_the_bundles_own_data_as_evaluate_does(monkeypatch, data, tmp_path) -> None:
    from rdd_deploy.evaluation import evaluate_bundle

    recorded = {
        "run": "toy",
        "data": "folder",
        "data_root": str(data),
        "data_height": 60,
        "data_width": 80,
        "data_void_ids": "255",
    }
    bundle = toy_bundle(tmp_path / "toy", 30, 40, manifest={"provenance": recorded})
    assert (
        call(monkeypatch, bundle, "--device", "cpu", "--threads", 1, "--rounds", 1, "--output", tmp_path / "out") == 0
    )
    (row,) = read_benchmark(tmp_path / "out" / "benchmark.json").rows
    assert row.accuracy is not None
    summary = evaluate_bundle(bundle, device="cpu", threads=1).summary
    assert row.accuracy.miou_pct == summary["miou_pct"]
    assert row.accuracy.iou_pct == summary["iou_pct"]


def test_the_recorded_settings_hold_where_the_recorded_data_is_asked_for(monkeypatch, data, tmp_path) -> None:
    """Void ids, as here, or size and seed of streets: naming the data set that the bundle names anyway
    changes nothing.
    """
    root = tmp_path / "data"
    shutil.copytree(data, root)
    for mask in (root / "valannot").iterdir():
        labels = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        labels[labels == 255] = 7
        cv2.imwrite(str(mask), labels)
    recorded = {
        "run": "toy",
        "data": "folder",
        "data_root": "/gone",
        "data_height": 60,
        "data_width": 80,
        "data_void_ids": "7",
    }
    bundle = toy_bundle(tmp_path / "toy", 60, 80, manifest={"provenance": recorded})
    assert call(monkeypatch, bundle, *folder(root), "--limit", 2, "--output", tmp_path / "out") == 0
    assert read_benchmark(tmp_path / "out" / "benchmark.json").protocol.images_skipped == 0


@pytest.mark.parametrize("wrong_first", [True, False])
def test_a_bundle_of_other_classes_costs_its_row_wherever_it_stands(monkeypatch, data, tmp_path, wrong_first) -> None:
    recorded = {"data": "folder", "data_root": str(data), "data_height": 60, "data_width": 80, "data_void_ids": "255"}
    right = toy_bundle(tmp_path / "right", 60, 80, manifest={"provenance": recorded})
    wrong = toy_bundle(tmp_path / "wrong", 60, 80, manifest={"provenance": {**recorded, "data": "streets"}})
    both = [wrong, right] if wrong_first else [right, wrong]
    assert call(monkeypatch, *both, "--limit", 2, "--rounds", 1, "--device", "cpu", "--output", tmp_path / "out") == 0
    assert {row.name: row.failure for row in read_benchmark(tmp_path / "out" / "benchmark.json").rows} == {
        "right": None,
        "wrong": None,
    }


def test_figures_outlive_the_terminal(bundles: Path, data: Path, tmp_path: Path) -> None:
    """Nobody reads on, the disk behind standard output is full, or it can't hold a name."""
    shutil.copytree(bundles / "onnxruntime-fp32", odd := tmp_path / "flöat")
    words = [sys.executable, "-c", ONE_COLD_START, str(odd), *map(str, folder(data)), "--limit", "2", "--output"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "ascii"}
    with open(os.devnull) as nobody, open("/dev/full", "w") as full:
        for name, out, code in (("shut", nobody, 2), ("full", full, 2), ("ascii", subprocess.PIPE, 0)):
            done = subprocess.run(
                [*words, str(tmp_path / name)],
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env=environment,
            )
            assert "Traceback" not in done.stderr
            assert done.returncode == code, done.stderr
            assert ("can't print to standard output" in done.stderr) == (code == 2)
            assert len(list((tmp_path / name).iterdir())) == 3
            assert read_benchmark(tmp_path / name / "benchmark.json").rows[0].measured


def test_an_output_that_cannot_be_written_is_found_first(monkeypatch, bundles, data, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert call(monkeypatch, bundles / "onnxruntime-fp32", *folder(data), "--output", tmp_path / "file") == 2
    assert (
        f"can't make the folder {tmp_path / 'file'}: File exists; choose another one with --output"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/no/such/bundle"], "none of the 1 bundles can be read; the first: the bundle /no/such/bundle isn't there"),
        (["{export}/notes.txt"], "no bundle to measure"),
        ([os.fsdecode(b"/no/b\xff")], "isn't UTF-8"),
        (["{export}/broken"], "isn't the file that was exported"),
        (
            ["{export}/onnxruntime-fp32", "--data-name", "folder", "--data", "/no/such/data"],
            "no val split in /no/such/data",
        ),
        (
            ["{export}/onnxruntime-fp32", "--data-name", "kitti"],
            "unknown data set 'kitti'; expected one of camvid, ",
        ),
        (["{export}/onnxruntime-fp32", "--compare", "/no/such/file"], "can't read /no/such/file"),
        (["{export}/onnxruntime-fp32", "--include", "jax"], "--include jax isn't known; expected torch"),
        (
            ["{export}/onnxruntime-fp32", "--data-name", "folder", "--data", "{data}", "--device", "cuda:7"],
            "none of the 1 rows could be measured",
        ),
        (
            ["{export}/onnxruntime-fp32", "--data-name", "streets", "--limit", "1"],
            "it was made for 3 classes (blue, green, red), the data has 11",
        ),
        (["{export}/onnxruntime-fp32", "--latency-budget-ms", "nan"], "--latency-budget-ms"),
        (["{export}/onnxruntime-fp32", "--latency-budget-ms", "inf"], "--latency-budget-ms"),
        (["{export}/onnxruntime-fp32", "--max-drop", "inf"], "--max-drop"),
        (["{export}/onnxruntime-fp32", "--device", "gpu"], "unknown device 'gpu'; expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    monkeypatch, bundles, data, tmp_path, capsys, arguments, words
) -> None:
    filled = [argument.format(export=bundles, data=data) for argument in arguments]
    assert call(monkeypatch, *filled, "--output", tmp_path, "--threads", 1) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_include_torch_without_torch_names_the_extra(monkeypatch, bundles, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert call(monkeypatch, bundles / "onnxruntime-fp32", "--include", "torch") == 2
    assert (
        "--include torch needs the package 'torch', which isn't installed: pip install 'rdd-deploy[train]'"
        in capsys.readouterr().err
    )


BLOCKED = """
import sys
BLOCKED = {"torch", "torchvision", "timm", "matplotlib", "onnx", "PIL", "scipy", "safetensors", "lightning_fabric"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
from rdd_deploy.benchmark.__main__ import main
try:
    main()
finally:
    assert not BLOCKED & set(sys.modules), BLOCKED & set(sys.modules)
"""


def test_the_edge_install_is_enough(bundles: Path, data: Path, tmp_path: Path) -> None:
    arguments = [str(bundles / "onnxruntime-fp32"), *map(str, folder(data)), "--limit", "2", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["benchmark.json", "report.html"]
    assert (
        "the plot needs the package 'matplotlib', which isn't installed: pip install 'rdd-deploy[report]'"
        in done.stdout
    )


def test_help_shows_an_example(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, "--help") == 0
    assert (
        "python -m rdd_deploy.benchmark runs/latest/export/* --data data/camvid --latency-budget-ms 15 --max-drop 1.0"
        in capsys.readouterr().out
    )


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nsys.argv = ['benchmark', '--help']\n"
        "from rdd_deploy.benchmark.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'cv2', 'torch', 'matplotlib', 'onnxruntime'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True, env=environment
    )
    assert done.stderr == "[]\n"
