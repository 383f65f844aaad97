"""The edge: nothing of the training stack may be imported, and bundles run without it."""

import subprocess
import sys
from pathlib import Path

from toy_bundle import toy_bundle

SCRIPT = """
import sys

BLOCKED = {"torch", "torchvision", "timm", "segmentation_models_pytorch", "lightning_fabric", "safetensors", "onnx",
           "onnxscript", "matplotlib", "PIL", "tensorboard", "scipy"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocker())
import numpy as np
from rdd_deploy.runtime import Segmenter

with Segmenter.load(sys.argv[1]) as segmenter:
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert (segmenter(frame) == frame.argmax(-1)).all()
assert not BLOCKED & set(sys.modules), BLOCKED & set(sys.modules)
print("ran")
"""


def test_load_and_infer(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "toy")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bundle)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "ran"), done.stderr
