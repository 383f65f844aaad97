"""The TensorRT backend's memory, stream and CUDA graph on the real CUDA runtime, with a stand-in for the engine: no
TensorRT needed.

The stand-in copies the frame's first bytes into the labels on the backend's stream: order, sizes and capture are
tested, not inference.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from common import SMOKE, add, guarded

HEIGHT, WIDTH = 360, 480
ENGINE = b"engine"


def stand_in(runtime: Any) -> types.ModuleType:
    """A module with what the backend calls of TensorRT."""

    class Context:
        def __init__(self) -> None:
            self.place: dict[str, int] = {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.place[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            (error,) = runtime.cudaMemcpyAsync(self.place["labels"], self.place["frame"], HEIGHT * WIDTH, kind, stream)
            return int(error) == 0

    class Engine:
        num_io_tensors = 2

        def get_tensor_name(self, index: int) -> str:
            return ("frame", "labels")[index]

        def get_tensor_dtype(self, name: str) -> Any:
            return np.uint8

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (1, HEIGHT, WIDTH, 3) if name == "frame" else (1, HEIGHT, WIDTH)

        def create_execution_context(self) -> Context:
            return Context()

    module = types.ModuleType("tensorrt_rtx")
    module.__dict__.update(
        __version__="0", nptype=lambda dtype: dtype, Logger=type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: Engine()),
    )  # fmt: skip
    return module


def main() -> None:
    try:
        import cuda.bindings.runtime as runtime
    except ImportError as error:
        add("engine", "cuda.bindings", str(error), "skipped")
        return
    sys.modules["tensorrt_rtx"] = stand_in(runtime)
    from rdd_deploy.runtime.backends.tensorrt import TensorRtBackend

    engine = SimpleNamespace(package="tensorrt-rtx", version="0", gpu=None, compute_capabilities=[])
    manifest: Any = SimpleNamespace(
        backend="tensorrt-rtx", model="model.engine", name="stand-in", engine=engine, input=SimpleNamespace(height=HEIGHT, width=WIDTH), precision="int8",
        profile="tensorrt-rtx-int8", provenance={}, needs_engine=False, files={"model.engine": hashlib.sha256(ENGINE).hexdigest()},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.engine").write_bytes(ENGINE)

        def opened(provider: str | None) -> Any:
            return TensorRtBackend(folder, manifest, device="cuda", provider=provider, threads=None)

        if SMOKE:
            from rdd_deploy.errors import DeviceError

            try:
                opened(None).activate()
            except DeviceError as error:
                add("engine", "without a GPU", str(error)[:50], "ok")
            return
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (20, 1, HEIGHT, WIDTH, 3), np.uint8)
        for provider in (None, "cuda-graph"):
            with guarded("engine", provider or "one by one"):
                backend = opened(provider)
                backend.activate()
                wrong = sum(
                    not np.array_equal(backend.infer(frame).ravel(), frame.ravel()[: HEIGHT * WIDTH])
                    for frame in frames
                )
                add("engine", f"{provider or 'one by one'}: wrong labels of 20", wrong, "FAILED" if wrong else "ok")
                times = []
                for turn in range(300):
                    since = time.perf_counter()
                    backend.infer(frames[turn % 20])
                    times.append(time.perf_counter() - since)
                add(
                    "engine",
                    f"{provider or 'one by one'}: ms of copies and calls around an inference",
                    1e3 * float(np.median(times)),
                )
                answers: list[Any] = []
                thread = threading.Thread(
                    target=lambda backend=backend, answers=answers: answers.append(backend.infer(frames[3]))
                )
                thread.start()
                thread.join(20)
                right = bool(answers) and np.array_equal(answers[0].ravel(), frames[3].ravel()[: HEIGHT * WIDTH])
                add("engine", f"{provider or 'one by one'}: from another thread", right, "ok" if right else "FAILED")
                backend.deactivate()
        with guarded("engine", "memory"):
            free = runtime.cudaMemGetInfo()[1]
            for _ in range(30):
                backend = opened("cuda-graph")
                backend.activate()
                backend.deactivate()
            lost = free - runtime.cudaMemGetInfo()[1]
            add("engine", "bytes lost by 30 times loading and closing", lost, "ok" if lost < 8 << 20 else "FAILED")


if __name__ == "__main__":
    sys.exit(main())
