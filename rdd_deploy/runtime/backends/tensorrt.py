"""TensorRT and TensorRT-RTX engines. Both packages share one API; memory is handled with cuda-python, no torch and no
pycuda.
"""

from __future__ import annotations

import ctypes
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.errors import BundleError, DeviceError, missing_package
from rdd_deploy.runtime.backends.base import INPUT, OUTPUT, check_parallel, check_tensor, parse_device
from rdd_deploy.runtime.manifest import EngineInfo, Manifest, read_file

_MODULES = {"tensorrt": ("tensorrt", "gpu"), "tensorrt-rtx": ("tensorrt_rtx", "rtx")}
_GRAPH = "cuda-graph"


class TensorRtBackend:
    """An engine with one stream, its buffers allocated once: pinned on the host, plain on the device.

    Args:
        device: auto, cuda or cuda:N.
        provider: ``cuda-graph`` records copy, run and copy back once and replays them; None issues them one by one.
        threads: has no meaning on a GPU.
        parallel: 1, since there is one stream with its buffers.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: str,
        provider: str | None,
        threads: int | None,
        parallel: int = 1,
        verify: bool = True,
    ) -> None:
        package, extra = _MODULES[manifest.backend]
        if manifest.needs_engine:
            capability = " --compute-capability 8.6 (or your GPU's)" if manifest.backend == "tensorrt-rtx" else ""
            raise BundleError(
                f"{folder} holds the graph of an engine and no engine; build it on the machine that will run it: "
                f"rdd-deploy export {folder} --trt{capability}"
            )
        kind, index = parse_device(device)
        if kind == "cpu":
            raise DeviceError(
                f"{folder} is a {manifest.backend} engine and runs on an NVIDIA GPU only; pass --device cuda, or take"
                " an ONNX bundle"
            )
        if provider not in (None, _GRAPH):
            raise DeviceError(
                f"unknown provider '{provider}' for a {manifest.backend} engine; expected {_GRAPH} or none"
            )
        self._trt: Any = _import(package, manifest.backend, extra, folder)
        self._cuda: Any = _import("cuda.bindings.runtime", "cuda-python", extra, folder)
        self._path, self._manifest, self._index = folder / manifest.model, manifest, index or 0
        self.device, self.provider = f"cuda:{self._index}", provider or manifest.backend
        self._hash = manifest.files[manifest.model] if verify else None
        check_parallel(self._path, self.device, parallel)
        self._use_graph = provider == _GRAPH
        self._capability = ""
        self._graph: Any = None
        self._stream: Any = None
        self._context: Any = None
        self._host: dict[str, int] = {}
        self._gpu: dict[str, int] = {}
        self._views: dict[str, NDArray[np.uint8]] = {}

    def activate(self) -> None:
        engine = self._manifest.engine
        if engine is None:
            raise BundleError(f"{self._path} comes without the versions it was built with; {self._rebuild()}")
        if engine.package != self._manifest.backend:
            raise BundleError(
                f"{self._path} is an engine of {engine.package}, its manifest says {self._manifest.backend};"
                f" {self._rebuild()}"
            )
        if engine.version != self._trt.__version__:
            raise BundleError(
                f"{self._path} was built with {engine.package} {engine.version}, here is {self._trt.__version__};"
                f" {self._rebuild()}"
            )
        self._check_gpu(engine)
        logger = self._trt.Logger(self._trt.Logger.ERROR)
        loaded = self._trt.Runtime(logger).deserialize_cuda_engine(read_file(self._path, self._hash))
        if loaded is None:
            raise BundleError(f"{engine.package} can't load {self._path}; {self._rebuild()}")
        self._context = loaded.create_execution_context()
        if self._context is None:
            raise DeviceError(f"{self.device} has too little free memory for {self._path}; close other programs on it")
        self._check_tensors(loaded)
        self._stream = self._call("cudaStreamCreate")
        height, width = self._manifest.input.height, self._manifest.input.width
        self._allocate(INPUT, (1, height, width, 3))
        self._allocate(OUTPUT, (1, height, width))
        self._enqueue()  # the first run compiles and allocates, which a recording can't hold
        self._call("cudaStreamSynchronize", self._stream)
        if self._use_graph:
            self._record()

    def infer(self, network_input: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._call("cudaSetDevice", self._index)  # each thread has a device of its own, at first GPU 0
        np.copyto(self._views[INPUT], network_input)
        if self._graph is not None:
            self._call("cudaGraphLaunch", self._graph, self._stream)
        else:
            self._enqueue()
        self._call("cudaStreamSynchronize", self._stream)
        labels: NDArray[np.uint8] = np.array(self._views[OUTPUT])
        return labels

    def deactivate(self) -> None:
        self._views.clear()
        if self._stream is not None:
            self._call("cudaSetDevice", self._index)
        if self._graph is not None:
            self._call("cudaGraphExecDestroy", self._graph)
        for pointer in self._gpu.values():
            self._call("cudaFree", pointer)
        for pointer in self._host.values():
            self._call("cudaFreeHost", pointer)
        if self._stream is not None:
            self._call("cudaStreamDestroy", self._stream)
        self._graph = self._stream = self._context = None
        self._gpu.clear()
        self._host.clear()

    def _enqueue(self) -> None:
        kinds = self._cuda.cudaMemcpyKind
        frame, labels = self._views[INPUT].nbytes, self._views[OUTPUT].nbytes
        self._call(
            "cudaMemcpyAsync", self._gpu[INPUT], self._host[INPUT], frame, kinds.cudaMemcpyHostToDevice, self._stream
        )
        if not self._context.execute_async_v3(int(self._stream)):
            raise DeviceError(
                f"{self._path} failed on {self.device}; look at the messages of {self._manifest.backend} above"
            )
        self._call(
            "cudaMemcpyAsync", self._host[OUTPUT], self._gpu[OUTPUT], labels, kinds.cudaMemcpyDeviceToHost, self._stream
        )

    def _record(self) -> None:
        self._call(
            "cudaStreamBeginCapture", self._stream, self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        self._enqueue()
        recorded = self._call("cudaStreamEndCapture", self._stream)
        self._graph = self._call("cudaGraphInstantiate", recorded, 0)
        self._call("cudaGraphDestroy", recorded)

    def _allocate(self, name: str, shape: tuple[int, ...]) -> None:
        size = int(np.prod(shape))
        self._gpu[name] = self._call("cudaMalloc", size)
        self._host[name] = self._call("cudaMallocHost", size)
        memory = (ctypes.c_uint8 * size).from_address(int(self._host[name]))
        self._views[name] = np.ctypeslib.as_array(memory).reshape(shape)
        if not self._context.set_tensor_address(name, int(self._gpu[name])):
            raise BundleError(f"{self._path} takes no address for its tensor {name}; {self._rebuild()}")

    def _check_gpu(self, engine: EngineInfo) -> None:
        error, count = self._cuda.cudaGetDeviceCount()
        if int(error) or not count:
            raise DeviceError(
                f"{self._path} needs an NVIDIA GPU with its driver, and this machine has none; take an ONNX or OpenVINO"
                " bundle"
            )
        if self._index >= count:
            raise DeviceError(f"asked for {self.device}, this machine has {count} GPU(s), cuda:0 to cuda:{count - 1}")
        self._call("cudaSetDevice", self._index)
        gpu = self._call("cudaGetDeviceProperties", self._index)
        name, capability = bytes(gpu.name).split(b"\0")[0].decode(), f"{gpu.major}.{gpu.minor}"
        self._capability = capability
        built_for = engine.gpu if engine.gpu is not None else ", ".join(engine.compute_capabilities)
        fits = (
            name == engine.gpu
            if engine.gpu is not None
            else not engine.compute_capabilities or capability in engine.compute_capabilities
        )
        if not fits:
            raise BundleError(
                f"{self._path} was built for {built_for}, this GPU is {name} ({capability}); {self._rebuild()}"
            )

    def _check_tensors(self, engine: Any) -> None:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        if sorted(names) != [INPUT, OUTPUT]:
            raise BundleError(
                f"{self._path} has the tensors {', '.join(names)}, expected {INPUT} and {OUTPUT}; {self._rebuild()}"
            )
        for name in names:
            dtype = np.dtype(self._trt.nptype(engine.get_tensor_dtype(name))).name
            check_tensor(self._manifest, name, name, dtype, tuple(engine.get_tensor_shape(name)))

    def _call(self, function: str, *args: Any) -> Any:
        """Call the CUDA runtime; its first result is the status. Returns the second, if there is one."""
        error, *result = getattr(self._cuda, function)(*args)
        if int(error):
            name = getattr(error, "name", str(error))
            raise DeviceError(
                f"{function} failed on {self.device} with {name}; check the driver and the GPU's free memory"
                " (nvidia-smi)"
            )
        return result[0] if result else None

    def _rebuild(self) -> str:
        precision, profile = self._manifest.precision, self._manifest.profile
        own = profile not in (f"{self._manifest.backend}-{precision}", f"tensorrt-{precision}") or precision == "fp32"
        target = f"--profile {profile}" if own else f"--trt --{precision}"
        run = self._manifest.provenance.get("run")
        return (
            f"build it here: python -m rdd_deploy.export {f'runs/{run}' if run else 'RUN'}"
            f" {target}{self._for_capability()}"
        )

    def _for_capability(self) -> str:
        """tensorrt-rtx builds for named GPUs: this one's where it is known already, else those of the engine."""
        engine = self._manifest.engine
        known = self._capability or (",".join(engine.compute_capabilities) if engine else "")
        return f" --compute-capability {known}" if self._manifest.backend == "tensorrt-rtx" and known else ""


def _import(module: str, package: str, extra: str, folder: Path) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_package(package, extra, f"the bundle {folder}") from error
