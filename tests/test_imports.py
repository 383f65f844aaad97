"""What must import without the training stack, and everything without the packages that only some commands need."""

import subprocess
import sys
from pathlib import Path

import pytest

import rdd_deploy

BLOCKER = """
import sys
BLOCKED = set(sys.argv[1].split(","))
def hidden(find):
    return lambda name, *rest: None if name.partition(".")[0] in BLOCKED else find(name, *rest)
for finder in [finder for finder in sys.meta_path if not isinstance(finder, type) or "Path" in finder.__name__]:
    finder.find_spec = hidden(finder.find_spec)  # as if it weren't installed, for those who look before they import too
from importlib import import_module
for name in sys.argv[2].split(","):
    import_module(name)
"""
TRAINING = "torch,torchvision,timm,segmentation_models_pytorch,lightning_fabric,safetensors,tensorboard"
OPTIONAL = "onnx,onnxscript,onnxruntime,onnx_ir,openvino,tensorrt,tensorrt_rtx,polygraphy,tensorboard,matplotlib,scipy,pandas,nncf,aiohttp"
ROOT = Path(rdd_deploy.__file__).parent
MODULES = sorted(
    ".".join(("rdd_deploy", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)


def imported(blocked: str, names: list[str]) -> str:
    words = [sys.executable, "-c", BLOCKER, blocked, ",".join(names)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120).stderr[-1500:]


@pytest.mark.parametrize("blocked", [TRAINING + ",PIL,matplotlib,scipy"])
def test_the_edge_needs_no_torch(blocked: str) -> None:
    names = [
        "data",
        "data.check",
        "data.download",
        "data.open",
        "metrics",
        "runtime",
        "recipe",
        "evaluate",
        "preprocess",
        "utils.files",
        "cli",
        "training.run_folder",
    ]
    assert imported(blocked, [f"rdd_deploy.{name}" for name in names]) == ""


def test_every_module_imports_without_optional_packages() -> None:
    """Except those that are about such a package: a backend is opened, and a graph built, only by a command that asks
    for it.
    """
    about = ("rdd_deploy.export", "rdd_deploy.runtime.backends.", "rdd_deploy.live.web.", "rdd_deploy.suggest.")
    names = [name for name in MODULES if not name.endswith("__main__") and not name.startswith(about)]
    assert len(names) > 40
    assert imported(OPTIONAL, names) == ""
