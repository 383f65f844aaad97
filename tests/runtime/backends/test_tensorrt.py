"""No GPU is needed: the CUDA runtime and the engine are replaced by host memory, so that copies, shapes and order are
checked for real.
"""

import ctypes
import importlib
import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from toy_bundle import toy_bundle, truth

from rdd_deploy.errors import BundleError, DeviceError, MissingPackageError
from rdd_deploy.runtime import Segmenter
from rdd_deploy.runtime.backends import tensorrt as backend
from rdd_deploy.utils.files import sha256

FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


class Status(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100


class FakeCuda(ModuleType):
    """cuda.bindings.runtime over malloc'ed host memory; counts what is taken and given back."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.blocks: dict[int, Any] = {}
        self.streams = self.graphs = 0
        self.count, self.calls = 1, []  # type: ignore[var-annotated]
        self.recording: list[Any] | None = None
        self.fail = ""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda") and name[4:5].isupper() and not name.endswith(("Kind", "Mode")):
            self.calls.append(name)
            if self.fail == name:
                return lambda *_: (Status.cudaErrorMemoryAllocation, None)
        return super().__getattribute__(name)

    def cudaGetDeviceCount(self) -> Any:
        return (Status.cudaSuccess, self.count) if self.count else (Status.cudaErrorNoDevice, None)

    def cudaSetDevice(self, index: int) -> Any:
        return (Status.cudaSuccess,)

    def cudaGetDeviceProperties(self, index: int) -> Any:
        return Status.cudaSuccess, SimpleNamespace(name=b"Test GPU\0\0", major=8, minor=6)

    def cudaStreamCreate(self) -> Any:
        self.streams += 1
        return Status.cudaSuccess, 77

    def cudaStreamDestroy(self, stream: int) -> Any:
        self.streams -= 1
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        return (Status.cudaSuccess,)

    def cudaMalloc(self, size: int) -> Any:
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return Status.cudaSuccess, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, pointer: int) -> Any:
        del self.blocks[pointer]
        return (Status.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> Any:
        self.later(lambda: ctypes.memmove(target, source, size))
        return (Status.cudaSuccess,)

    def later(self, work: Any) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        self.recording = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        recorded, self.recording = self.recording, None
        return Status.cudaSuccess, recorded

    def cudaGraphInstantiate(self, recorded: Any, flags: int) -> Any:
        self.graphs += 1
        return Status.cudaSuccess, recorded

    def cudaGraphDestroy(self, recorded: Any) -> Any:
        return (Status.cudaSuccess,)

    def cudaGraphExecDestroy(self, recorded: Any) -> Any:
        self.graphs -= 1
        return (Status.cudaSuccess,)

    def cudaGraphLaunch(self, recorded: Any, stream: int) -> Any:
        for work in recorded:
            work()
        return (Status.cudaSuccess,)


class FakeEngine:
    num_io_tensors = 2
    shapes: ClassVar = {"frame": (1, 48, 64, 3), "labels": (1, 48, 64)}

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return ["frame", "labels"][index]

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def create_execution_context(self) -> "FakeEngine":
        return self

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.cuda.later(self.run)
        return stream == 77

    def run(self) -> None:
        frame = np.frombuffer((ctypes.c_uint8 * (48 * 64 * 3)).from_address(self.addresses["frame"]), np.uint8).reshape(
            48, 64, 3
        )
        labels = np.ctypeslib.as_array((ctypes.c_uint8 * (48 * 64)).from_address(self.addresses["labels"]))
        labels[:] = truth(frame).ravel()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    trt = ModuleType("tensorrt_rtx")
    trt.__version__ = "9.9.9"  # type: ignore[attr-defined]
    trt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})  # type: ignore[attr-defined]
    trt.nptype = lambda kind: np.dtype(kind)  # type: ignore[attr-defined]
    trt.Runtime = lambda logger: SimpleNamespace(  # type: ignore[attr-defined]
        deserialize_cuda_engine=lambda network_input: FakeEngine(fake) if network_input == b"engine" else None
    )
    real = importlib.import_module
    fakes = {"tensorrt_rtx": trt, "cuda.bindings.runtime": fake}
    monkeypatch.setattr(backend, "import_module", lambda name: fakes.get(name) or real(name))
    return fake


def engine_bundle(folder: Path, content: bytes = b"engine", **engine: Any) -> Path:
    toy_bundle(folder)
    (folder / "model.onnx").unlink()
    (folder / "model.engine").write_bytes(content)
    info = {"package": "tensorrt-rtx", "version": "9.9.9", "gpu": None, "compute_capabilities": ["8.6"]} | engine
    manifest = folder / "manifest.json"
    fields = {
        "backend": "tensorrt-rtx",
        "precision": "int8",
        "profile": "tensorrt-rtx-int8",
        "model": "model.engine",
        "engine": info,
    }
    fields["files"] = {"model.engine": sha256(folder / "model.engine")}
    fields["provenance"] = {"run": "camvid_lite0"}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | fields))
    return folder


@pytest.mark.parametrize("provider", [None, "cuda-graph"])
def test_runs_and_gives_everything_back(tmp_path: Path, cuda: FakeCuda, provider: str | None) -> None:
    segmenter = Segmenter.load(engine_bundle(tmp_path / "rtx"), provider=provider)
    assert (segmenter.device, segmenter.provider) == ("cuda:0", provider or "tensorrt-rtx")
    assert len(cuda.blocks) == 4
    cuda.calls.clear()
    first = segmenter(FRAME)
    kept = first.copy()
    second = segmenter(255 - FRAME)
    assert np.array_equal(first, kept)
    assert np.array_equal(first, truth(FRAME))
    assert np.array_equal(second, truth(255 - FRAME))
    assert not {"cudaMalloc", "cudaMallocHost"} & set(cuda.calls), "memory is taken once, not per frame"
    assert ("cudaGraphLaunch" in cuda.calls) == (provider is not None)
    segmenter.close()
    assert (cuda.blocks, cuda.streams, cuda.graphs) == ({}, 0, 0)


@pytest.mark.parametrize("provider", [None, "cuda-graph"])
def test_every_thread_that_infers_sets_its_device(
    tmp_path: Path, cuda: FakeCuda, provider: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA has it: a thread begins on GPU 0, and a stream of another one can't be used there."""
    on: dict[int, int] = {}
    cuda.count = 2
    monkeypatch.setattr(
        FakeCuda,
        "cudaSetDevice",
        lambda self, index: on.update({threading.get_ident(): index}) or (Status.cudaSuccess,),
    )
    for name in ("cudaMemcpyAsync", "cudaGraphLaunch", "cudaStreamSynchronize", "cudaFree", "cudaStreamDestroy"):

        def on_its_own(self: FakeCuda, *words: Any, real: Any = getattr(FakeCuda, name)) -> Any:
            assert on.get(threading.get_ident(), 0) == 1
            return real(self, *words)

        monkeypatch.setattr(FakeCuda, name, on_its_own)
    segmenter = Segmenter.load(engine_bundle(tmp_path / "rtx"), device="cuda:1", provider=provider)
    with ThreadPoolExecutor(1) as pool:
        assert np.array_equal(pool.submit(segmenter, FRAME).result(), truth(FRAME))
        pool.submit(segmenter.close).result()


REBUILD = "build it here: python -m rdd_deploy.export runs/camvid_lite0 --trt --int8"


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        ({"version": "10.1"}, f"was built with tensorrt-rtx 10.1, here is 9.9.9; {REBUILD}"),
        ({"compute_capabilities": ["8.9", "12.0"]}, f"was built for 8.9, 12.0, this GPU is Test GPU (8.6); {REBUILD}"),
        ({"gpu": "Other GPU"}, f"was built for Other GPU, this GPU is Test GPU (8.6); {REBUILD}"),
        ({"content": b"damaged"}, f"tensorrt-rtx can't load {{path}}; {REBUILD}"),
    ],
)
def test_engines_of_elsewhere(tmp_path: Path, cuda: FakeCuda, engine: dict[str, Any], sentence: str) -> None:
    bundle = engine_bundle(tmp_path / "rtx", **engine)
    with pytest.raises(BundleError) as caught:
        Segmenter.load(bundle)
    assert sentence.format(path=bundle / "model.engine") in str(caught.value)
    assert (cuda.blocks, cuda.streams) == ({}, 0)


def test_no_gpu(tmp_path: Path, cuda: FakeCuda) -> None:
    cuda.count = 0
    with pytest.raises(
        DeviceError,
        match="needs an NVIDIA GPU with its driver, and this machine has none; take an ONNX or OpenVINO bundle",
    ):
        Segmenter.load(engine_bundle(tmp_path / "rtx"))


def test_other_devices(tmp_path: Path, cuda: FakeCuda) -> None:
    bundle = engine_bundle(tmp_path / "rtx")
    with pytest.raises(DeviceError, match="runs on an NVIDIA GPU only; pass --device cuda"):
        Segmenter.load(bundle, device="cpu")
    with pytest.raises(DeviceError, match=r"asked for cuda:3, this machine has 1 GPU\(s\)"):
        Segmenter.load(bundle, device="cuda:3")
    with pytest.raises(
        DeviceError, match="unknown provider 'x' for a tensorrt-rtx engine; expected cuda-graph or none"
    ):
        Segmenter.load(bundle, provider="x")
    with pytest.raises(
        DeviceError,
        match=r"asked for 2 inferences at a time of .*model\.engine on cuda:0, which takes one; leave parallel at 1",
    ):
        Segmenter.load(bundle, parallel=2)
    assert (cuda.blocks, cuda.streams) == ({}, 0)


@pytest.mark.parametrize("function", ["cudaStreamCreate", "cudaMalloc", "cudaMallocHost"])
def test_cuda_failures_leave_nothing_behind(tmp_path: Path, cuda: FakeCuda, function: str) -> None:
    cuda.fail = function
    with pytest.raises(
        DeviceError, match=f"{function} failed on cuda:0 with cudaErrorMemoryAllocation; check the driver"
    ):
        Segmenter.load(engine_bundle(tmp_path / "rtx"))
    assert (cuda.blocks, cuda.streams) == ({}, 0)


def test_other_shape(tmp_path: Path, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "shapes", {"frame": (1, 48, 64, 3), "labels": (1, 24, 32)})
    with pytest.raises(
        BundleError, match=r"has the tensor labels: uint8\[1, 24, 32\], expected labels: uint8\[1, 48, 64\]"
    ):
        Segmenter.load(engine_bundle(tmp_path / "rtx"))


def test_packages_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(
        MissingPackageError, match=r"'tensorrt-rtx', which isn't installed: pip install 'rdd-deploy\[rtx\]'"
    ):
        Segmenter.load(engine_bundle(tmp_path / "rtx"))


@pytest.mark.trt
def test_the_names_used_exist_in_the_wheels() -> None:
    """Against the installed packages: every CUDA function and TensorRT method that the backend calls by name."""
    trt, runtime = pytest.importorskip("tensorrt_rtx"), pytest.importorskip("cuda.bindings.runtime")
    source = Path(backend.__file__).read_text()
    functions = set(re.findall(r'_call\("(\w+)"', source)) | {
        "cudaGetDeviceCount",
        "cudaMemcpyKind",
        "cudaStreamCaptureMode",
    }
    assert len(functions) > 12
    assert not [name for name in functions if not hasattr(runtime, name)]
    for owner, names in (
        (
            trt.ICudaEngine,
            ["num_io_tensors", "get_tensor_name", "get_tensor_dtype", "get_tensor_shape", "create_execution_context"],
        ),
        (trt.IExecutionContext, ["set_tensor_address", "execute_async_v3"]),
        (trt.Runtime, ["deserialize_cuda_engine"]),
    ):
        assert not [name for name in names if not hasattr(owner, name)]
    assert np.dtype(trt.nptype(trt.uint8)) == np.uint8
