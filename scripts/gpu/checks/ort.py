"""A student's ONNX graph through the project's onnxruntime backend on the GPU: labels against torch, and time.

Also whether CUDA's libraries are found where torch wasn't imported before: edge devices have none.
"""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from common import DEVICE, SMOKE, WORK, add, guarded

from rdd_deploy.export.onnx.export import onnx_from_segmenter
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from rdd_deploy.utils.files import sha256

SIZE = (96, 128) if SMOKE else (360, 480)
BARE = (
    "import onnxruntime as o, sys; s = o.InferenceSession(sys.argv[1], providers=['CUDAExecutionProvider']);"
    " print(s.get_providers()[0])"
)
PRELOADED = BARE.replace("; s =", "; o.preload_dlls(); s =")


def main() -> None:
    add(
        "onnxruntime",
        "version, providers",
        f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}",
    )
    folder = WORK / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = Segmenter(Network(encoder="mobilenetv3_large_100", weights="none"), 11)
    frames = np.random.default_rng(0).integers(0, 256, (8, 1, *SIZE, 3), np.uint8)
    stacked = torch.from_numpy(np.concatenate(frames)[..., ::-1].copy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        for module in network.train().modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network(stacked)
        expected = network.eval()(stacked).primary.argmax(1).numpy()
    onnx.save(onnx_from_segmenter(network, SIZE), folder / "model.onnx")
    manifest: Any = SimpleNamespace(
        backend="onnxruntime",
        model="model.onnx",
        name="check",
        input=SimpleNamespace(height=SIZE[0], width=SIZE[1]),
        precision="fp32",
        profile="check",
        files={"model.onnx": sha256(folder / "model.onnx")},
    )
    for device in ("cpu", DEVICE.type):
        with guarded("onnxruntime", device):
            backend = OnnxRuntimeBackend(folder, manifest, device=device, provider=None, threads=None)
            backend.activate()
            labels = np.concatenate([backend.infer(frame) for frame in frames])
            times = []
            for turn in range(8 if SMOKE else 200):
                since = time.perf_counter()
                backend.infer(frames[turn % 8])
                times.append(time.perf_counter() - since)
            same = 100 * float((labels == expected).mean())
            add("onnxruntime", f"{backend.provider}: same labels as torch %", same, "ok" if same > 99.9 else "FAILED")
            add(
                "onnxruntime",
                f"{backend.provider}: ms a frame of {SIZE[0]}x{SIZE[1]}",
                1000 * float(np.median(times[len(times) // 4 :])),
            )
            backend.deactivate()
    for name, code in (("without torch", BARE), ("without torch, preload_dlls()", PRELOADED)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder / "model.onnx")], capture_output=True, text=True, timeout=60
        )
        print(done.stderr[-2000:])
        add("onnxruntime", f"a session {name} runs on", (done.stdout.strip().splitlines() or ["failed"])[-1])


if __name__ == "__main__":
    sys.exit(main())
