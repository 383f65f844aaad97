"""``rdd-deploy bundle show | verify | pack | unpack``, as a user calls them."""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
import toys
from toy_bundle import CLASSES, toy_bundle
from toy_export import without

from rdd_deploy.errors import BundleError
from rdd_deploy.runtime import Segmenter, read_manifest
from rdd_deploy.utils.files import sha256


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """``rdd-deploy bundle COMMAND`` in this process, in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch, self._caught = monkeypatch, capsys
        monkeypatch.chdir(folder)

    def __call__(self, name: str, *words: object) -> Said:
        self._patch.setattr(sys, "argv", [f"rdd-deploy bundle {name}", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            import_module(f"rdd_deploy.bundle.{name}").main()
        out, err = self._caught.readouterr()
        assert "Traceback" not in err
        return Said(int(ended.value.code or 0), out, err)

    def refused(self, name: str, *words: object) -> str:
        said = self(name, *words)
        assert said.code == 2, said
        return said.err


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    (tmp_path / "here").mkdir()
    return Command(tmp_path / "here", monkeypatch, capsys)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(
        tmp_path / "toy",
        manifest={"name": "run/onnxruntime-fp32", "provenance": {"run": "my run", "git_commit": "abc"}},
    )


def test_show_tells_what_people_ask(run: Command, bundle: Path) -> None:
    said = run("show", bundle)
    assert said.code == 0
    facts = [
        "run/onnxruntime-fp32",
        "onnxruntime, profile onnxruntime-fp32",
        "fp32",
        "uint8[1, 48, 64, 3], BGR",
        "mIoU 100.00 % on 1 images of toy val",
        "not benchmarked here",
        "my run",
        "abc",
        "nearest_exact",
        "2.5",
        f"model.onnx: {(bundle / 'model.onnx').stat().st_size} bytes",
        "#00ff00",
        *CLASSES,
    ]
    for fact in facts:
        assert fact in said.out, fact


def test_show_as_json_is_json(run: Command, tmp_path: Path) -> None:
    bundle = toy_bundle(
        tmp_path / "odd", manifest={"classes": ["a\x1b[2J|`", "ä\u2028" + "x" * 300, "<b>"], "metrics": None}
    )
    said = run("show", bundle, "--json")
    assert "\x1b" not in said.out
    value = json.loads(said.out)
    assert value["manifest"] == json.loads((bundle / "manifest.json").read_text())
    assert value["files"]["model.onnx"] == {
        "bytes": (bundle / "model.onnx").stat().st_size,
        "sha256": sha256(bundle / "model.onnx"),
    }
    assert value["bytes"] == sum(path.stat().st_size for path in bundle.iterdir())
    assert run("show", bundle).code == 0


def benchmark(path: Path, model_sha256: str) -> Path:
    quantiles = {"p50_ms": 1.25, "p95_ms": 2, "p99_ms": 3, "mean_ms": 1.5}
    stages = dict.fromkeys(("decode", "resize", "infer", "resize back", "draw"), 0.1)
    latency = {"frames": 9, "model": quantiles, "end_to_end": quantiles | {"p50_ms": 4.5}, "stages_p50_ms": stages, "model_p50_per_round_ms": [1.25],
               "model_throughput_fps": 800, "end_to_end_throughput_fps": 200}  # fmt: skip
    row = {
        "name": "toy",
        "path": "x",
        "backend": "onnxruntime",
        "precision": "fp32",
        "device": "cpu",
        "measured_utc": "2026-01-02",
        "latency": latency,
    }
    protocol = {"data": "toy", "split": "val", "images": 1, "images_sha256": "0", "device_asked": "cpu", "threads": 1, "rounds": 1, "timed_frames": 9,
                "warmup_frames_per_turn": 1, "bootstrap_resamples": 1, "confidence_pct": 95, "seed": 0}  # fmt: skip
    machine = {"cpu_model": "Toy CPU", "architecture": "x", "cores": 1, "governor": None, "gpu": None, "memory_gib": None, "system": "x", "python": "x",
               "versions": {}, "load_average_before": None}  # fmt: skip
    rows = [row | {"model_sha256": model_sha256}, row | {"name": "other", "model_sha256": "0" * 64}]
    value = {"schema_version": 1, "created_utc": "x", "seconds": 1, "judge": "model-p50", "classes": list(CLASSES), "protocol": protocol,
             "machine": machine, "rows": rows}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_show_finds_the_latency_of_this_very_file(run: Command, bundle: Path, tmp_path: Path) -> None:
    benchmark(tmp_path / "here" / "runs" / "benchmark" / "benchmark.json", sha256(bundle / "model.onnx"))
    assert "1.25 ms the model, 4.50 ms a frame (medians) on Toy CPU, cpu, 2026-01-02" in run("show", bundle).out
    assert [row["model_p50_ms"] for row in json.loads(run("show", bundle, "--json").out)["latency"]] == [1.25]
    other = benchmark(tmp_path / "other.json", "1" * 64)
    assert "not benchmarked here" in run("show", bundle, "--benchmark", other).out
    other.write_text("{")
    assert "isn't JSON" in run.refused("show", bundle, "--benchmark", other)


def test_verify_says_that_all_is_well(run: Command, bundle: Path) -> None:
    run("pack", bundle, "--output", "a.tar")
    said = run("verify", bundle, "a.tar")
    assert said.code == 0
    assert f"{bundle} is whole: 1 hash right, manifest valid, model.onnx valid" in said.out
    assert "a.tar is whole" in said.out
    (bundle.parent / "toy.plan.yaml").write_text("as a shell's export/* brings along")
    assert run("verify", bundle, bundle.parent / "toy.plan.yaml").code == 0
    assert "isn't a whole, uncompressed tar" in run.refused("verify", bundle.parent / "toy.plan.yaml")
    assert sha256(bundle / "model.onnx") in said.out


def test_verify_tells_every_problem(run: Command, bundle: Path, tmp_path: Path) -> None:
    other = toy_bundle(tmp_path / "other")
    (other / "model.onnx").unlink()
    (bundle / "notes.txt").write_text("mine")
    (bundle / "model.onnx").write_bytes(b"other")
    lines = run.refused("verify", bundle, other, tmp_path / "none").splitlines()
    assert lines[0] == "error: 4 problems:"
    for line, sentence in zip(
        lines[1:],
        ("isn't the file that was exported", "notes.txt isn't named by", "has no model.onnx", "none isn't there"),
        strict=True,
    ):
        assert sentence in line


def relisted(bundle: Path) -> Path:
    said = json.loads((bundle / "manifest.json").read_text())
    said["files"]["model.onnx"] = sha256(bundle / "model.onnx")
    (bundle / "manifest.json").write_text(json.dumps(said))
    return bundle


def test_verify_looks_into_the_graph(run: Command, bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, bundle / "model.onnx")
    assert "isn't a valid ONNX graph" in run.refused("verify", relisted(bundle))
    wrong = toy_bundle(tmp_path / "wrong", manifest={"input": {"height": 40, "width": 64}})
    assert "has the tensor frame: uint8[1, 48, 64, 3], expected frame: uint8[1, 40, 64, 3]" in run.refused(
        "verify", wrong
    )
    model = onnx.load(wrong / "model.onnx")
    onnx.helper.set_model_props(model, {"schema_version": "2", "classes": '["x"]'})
    onnx.save(model, wrong / "model.onnx")
    assert 'says classes ["x"] of itself' in run.refused("verify", relisted(wrong))
    (wrong / "model.onnx").write_bytes(b"\x0f\x0f\x0f")
    assert "isn't ONNX" in run.refused("verify", relisted(wrong))


def test_pack_and_unpack(run: Command, bundle: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert f"run-onnxruntime-fp32.tar: 2 files, 0.010 MB, SHA-256 " in run("pack", bundle).out  # noqa: F541
    assert run("unpack", "run-onnxruntime-fp32.tar").code == 0
    assert read_manifest(here / "run-onnxruntime-fp32") == read_manifest(bundle)
    assert run("unpack", "run-onnxruntime-fp32.tar", "new/one/").code == 0
    Segmenter.load(here / "new" / "one").close()
    assert (
        run.refused("unpack", "run-onnxruntime-fp32.tar")
        == "error: there is a bundle in run-onnxruntime-fp32 already; replace it with --force, or name another folder"
        " as the second argument\n"
    )
    assert run("unpack", "run-onnxruntime-fp32.tar", "--force").code == 0
    assert toys.leftovers(here) == []


def test_mistakes(run: Command, bundle: Path, tmp_path: Path) -> None:
    run("pack", bundle, "--output", "a.tar")
    (tmp_path / "here" / "mine").mkdir()
    (tmp_path / "here" / "mine" / "thesis.txt").write_text("years")
    before = sorted(tmp_path.rglob("*"))
    refusals = {
        ("pack", bundle, "--output", "a.tar.gz"): "the archive isn't compressed; name it .tar",
        ("pack", bundle, "--output", bundle / "a.tar"): "lies in the bundle itself",
        ("pack", tmp_path / "here"): "has no manifest.json",
        ("pack", "a.tar"): "is a file; expected a folder with manifest.json",
        ("unpack", "a.tar", "."): "name a new folder as the second argument",
        ("unpack", "a.tar", "/"): "name a new folder as the second argument",
        ("unpack", "a.tar", "mine", "--force"): "mine holds other files and no manifest.json; it isn't overwritten",
        ("unpack", "a.tar", "mine/thesis.txt"): "a file is in its way",
        ("unpack", "mine"): "is a folder, pipe or device, expected a file",
        ("unpack", "none.tar"): "can't read none.tar: No such file or directory",
        ("show", "none"): "the bundle none isn't there",
    }
    for words, sentence in refusals.items():
        said = run.refused(*words)  # type: ignore[arg-type]
        assert sentence in said, words
        assert said.count("\n") == 1, words
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_in_the_place_of_a_folder_names_the_command(run: Command, bundle: Path) -> None:
    run("pack", bundle, "--output", "a.tar")
    with pytest.raises(
        BundleError,
        match=(
            r"a\.tar is a file; expected a folder with manifest\.json, .*; unpack it: rdd-deploy bundle unpack a\.tar$"
        ),
    ):
        Segmenter.load("a.tar")


def test_a_device_without_onnx_and_torch_verifies_what_came_over(run: Command, bundle: Path, tmp_path: Path) -> None:
    run("pack", bundle, "--output", "a.tar")
    done = without("torch,onnx,onnxruntime,openvino,torchvision", "bundle", "verify", Path(os.path.abspath("a.tar")))
    assert done.returncode == 0, done.stderr
    assert "graphs not looked into, since onnx isn't installed" in done.stdout
