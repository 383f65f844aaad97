"""One command for all, imported only where it is called, and mistakes as one sentence."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import toys

from rdd_deploy.cli import COMMANDS, usage

EDGE = """
import sys

for name in ("torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors", "lightning_fabric"):
    sys.modules[name] = None  # as if it weren't installed
from rdd_deploy.cli import main
main()
"""


WATCHED = """
import sys
from rdd_deploy.cli import main
try:
    main()
finally:
    print("torch imported:", "torch" in sys.modules)
"""


def edge(*words: object) -> subprocess.CompletedProcess[str]:
    """``rdd-deploy …`` as on a device without the training stack."""
    return subprocess.run(
        [sys.executable, "-c", EDGE, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


def test_usage_names_every_command() -> None:
    for name in (
        "distill",
        "train",
        "study",
        "evaluate",
        "export",
        "bundle",
        "benchmark",
        "parity",
        "predict",
        "live",
        "data",
        "demo",
    ):
        assert f"\n  {name} " in usage()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_main(name: str) -> None:
    assert callable(import_module(COMMANDS[name][0]).main)


def test_help_and_version() -> None:
    assert edge("--help").stdout.startswith("usage: rdd-deploy COMMAND")
    assert edge("--version").stdout.startswith("rdd-deploy ")
    done = edge()
    assert (done.returncode, done.stdout.split("\n")[0]) == (2, "usage: rdd-deploy COMMAND [ARGUMENTS]")


def test_unknown_command() -> None:
    done = edge("exprot")
    assert done.returncode == 2
    allowed = "distill, train, study, evaluate, export, bundle, parity, predict, benchmark, suggest, live, data, demo"
    assert toys.errors_of(done) == [f"error: unknown command 'exprot'; did you mean 'export'? allowed: {allowed}"]


@pytest.mark.parametrize("name", ["evaluate", "benchmark", "live", "predict"])
def test_edge_commands_run_without_torch(name: str) -> None:
    done = edge(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"rdd-deploy {name}" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [("distill", ["camvid_mbv3"]), ("train", ["camvid_teacher_lite2"]), ("export", ["--onnx"]), ("parity", ["x"])],
)
def test_training_commands_name_the_extra(name: str, words: list[str]) -> None:
    done = edge(name, *words)
    assert done.returncode == 2
    [line] = toys.errors_of(done)
    assert "isn't installed: pip install 'rdd-deploy[train]'" in line


@pytest.mark.parametrize("command", ["distill", "train"])
def test_a_wrong_recipe_is_refused_before_torch_is_imported(command: str, tmp_path: Path) -> None:
    toys.write_recipe(tmp_path / "toy.yaml", toys.tree(tmp_path))
    words = [command, "toy.yaml", "train.lr=-1", "--name", "x=y", "--resume", "train.sed=1"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert toys.errors_of(done)[0] == f"error: toy.yaml has {3 if command == 'distill' else 2} problems:"
    assert done.stdout == "torch imported: False\n"


@pytest.mark.parametrize("words", [["--epochs", "3"], ["--epochs=3"]])
def test_an_option_that_is_a_key_of_the_recipe(words: list[str], tmp_path: Path) -> None:
    toys.write_recipe(tmp_path / "toy.yaml", toys.tree(tmp_path))
    done = toys.call("cli", "train", "toy.yaml", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert toys.errors_of(done) == [
        "error: no such option: --epochs; did you mean train.epochs=VALUE, without dashes? --help lists what there is"
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "error: no target named; expected --onnx, --openvino, --trt or --profile FILE"),
        (["--int8"], "error: --int8 names a precision but no target; add --onnx, --openvino or --trt"),
        (["--profile", "none"], "error: no profile 'none'; expected a YAML file, or one of "),
        (
            ["nowhere", "--onnx"],
            "error: no run folder nowhere; train one first: python -m rdd_deploy.distill recipes/camvid_mbv3.yaml",
        ),
        (
            ["--onnx"],
            (
                "error: no finished run (runs/latest); train one first: python -m rdd_deploy.distill"
                " recipes/camvid_mbv3.yaml"
            ),
        ),
        (
            ["--onnx", "--compute-capability", "8.6"],
            "error: --compute-capability names GPUs for TensorRT; profile 'onnxruntime-fp32' is for",
        ),
        (
            ["--onnx", "--openvino", "--plan", "p.yaml"],
            "error: --plan replays one profile's plan, got 2 profiles; name one",
        ),
        (["--onnx", "--fp16"], "error: --onnx has no fp16; expected fp32 or int8"),
        (["--onnx", "--max-drop", "-1"], "error: invalid value for '--max-drop': "),
        (
            ["--openvino", "--weight-bits", "7"],
            "error: --weight-bits belongs to INT8; profile 'openvino-fp32' is fp32, so leave it out",
        ),
        (
            ["--openvino", "--int8", "--weight-bits", "7", "--plan", "p.yaml"],
            "error: --plan replays p.yaml, which holds placement.weight_bits; change it there, and leave --weight-bits out",
        ),
        (["--openvino", "--int8", "--weight-bits", "6"], "error: invalid value for '--weight-bits': "),
    ],
)
def test_export_mistakes(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = toys.call("export.__main__", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert toys.errors_of(done)[0].startswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_export_of_a_run_without_weights(tmp_path: Path) -> None:
    toys.write_recipe(tmp_path / "run" / "recipe.yaml", toys.tree(tmp_path))
    done = toys.call("export.__main__", "run", "--onnx", cwd=tmp_path)
    assert done.returncode == 2
    [line] = toys.errors_of(done)
    assert line.startswith("error: run holds no weights (student.safetensors or teacher.safetensors); train it first")


STARTED = """
import json, sys
from rdd_deploy.cli import main
sys.argv = ["/usr/bin/rdd-deploy", "train", "no such.yaml", "train.devices=2"]
try:
    main()
except SystemExit:
    from lightning_fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd
    print(json.dumps(_basic_subprocess_cmd()[1:]))
"""


@pytest.mark.slow
def test_further_processes_of_a_command_are_started_by_its_module() -> None:
    """Fabric starts a training's other processes by the main module's name and sys.argv."""
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["-m", "rdd_deploy.train", "no such.yaml", "train.devices=2"]
