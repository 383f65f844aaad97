"""OpenVINO: ``model.onnx`` or ``model.xml``, on the CPU unless told otherwise."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.errors import BundleError, DeviceError, missing_package
from rdd_deploy.runtime.backends.base import (
    INPUT,
    OUTPUT,
    check_model,
    check_parallel,
    check_precision,
    check_tensor,
    parse_device,
)
from rdd_deploy.runtime.manifest import Manifest, read_file
from rdd_deploy.utils.machine import available_cores, has_native_bf16, saturates_int8

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""Precision of what isn't quantised. INT8 layers stay INT8 under any hint; without one, their float neighbours would silently run in
bf16 on CPUs that have it, and the accuracy would depend on the machine."""
_NAMES = {"u8": "uint8"}
_process: int | None = None
"""The one that OpenVINO was begun in."""


@functools.cache
def shared_core(openvino: Any) -> Any:
    """OpenVINO's core, one for the life of the process.

    With the first model a core sets a stack of its own for the thread's signal handlers, and unmaps it when the core
    goes. It puts back what was there before only if its own is still in place: where two cores go in the order in which
    they came, or in another thread, the thread is left with a stack that isn't there, and the next signal ends the
    process.
    """
    return openvino.Core()


class OpenVinoBackend:
    """A compiled model, tuned for latency, for each inference that may run at a time.

    Each computes in its caller's thread. Streams of one compiled model have threads of their own, and two hand-overs a
    frame. What it costs is memory for the weights of each, and the time to load them.

    Args:
        device: auto or cpu; CUDA is another backend's.
        provider: OpenVINO's own device name (CPU, GPU, NPU); None is CPU.
        threads: CPU threads of all inferences together; None leaves it to OpenVINO (the physical cores), or is one for
            each of them where several run at a time.
        parallel: so many frames are computed at a time, on the CPU; more callers wait.
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
        try:
            import openvino
        except ImportError as error:
            raise missing_package("openvino", "openvino", f"the bundle {folder}") from error
        self._openvino: Any = openvino
        if parse_device(device)[0] == "cuda":
            raise DeviceError(
                f"{folder} runs with OpenVINO, which has no CUDA; pass --device cpu, or take a bundle of another"
                " backend"
            )
        self._path = folder / manifest.model
        self._manifest = manifest
        self._hashes: dict[str, str] = dict(manifest.files) if verify else {}
        self._threads, self._parallel = threads, parallel
        self._requests = Requests()
        self.provider = (provider or "CPU").upper()
        self.device = self.provider.lower()
        check_parallel(self._path, self.device, parallel)

    def activate(self) -> None:
        self._check_process()
        core = shared_core(self._openvino)
        if self.provider not in core.available_devices:
            raise DeviceError(
                f"asked OpenVINO for {self.provider}, it has {', '.join(core.available_devices)}; "
                "install the device's driver or leave it to CPU"
            )
        try:
            model = self._read(core)
        except BundleError:
            raise
        except Exception as error:  # RuntimeError or its own, by version
            raise BundleError(
                f"OpenVINO can't read {self._path}: {_last_line(error)}; export the bundle again"
            ) from error
        self._check_tensors(model)
        if self._parallel > available_cores():
            raise DeviceError(
                f"asked OpenVINO for {self._parallel} inferences at a time, cores for this process:"
                f" {available_cores()}; ask for no more"
            )
        narrow = self._manifest.provenance.get("weight_bits") == 7
        if self._manifest.precision == "int8" and self.provider == "CPU" and not narrow and saturates_int8():
            console.warn(
                f"this CPU has no VNNI: OpenVINO's INT8 sums may saturate, and {self._path.parent} say other labels"
                " than where it was measured; evaluate it here, export it with --weight-bits 7, or take a bundle of"
                " onnxruntime or float32"
            )
        hint = HINTS[self._manifest.precision]
        if hint == "bf16" and self.provider == "CPU" and not has_native_bf16():
            raise DeviceError(
                "asked OpenVINO for bf16, which this CPU lacks (AVX512-BF16 or AMX) or ONEDNN_MAX_CPU_ISA forbids:"
                " emulated, it is slower than float32; take a bundle of another precision (openvino-fp32 runs"
                " everywhere)"
            )
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        if self._threads and self.provider == "CPU":
            options["INFERENCE_NUM_THREADS"] = self._threads
        if self._parallel > 1:
            # Unpinned, or all of them would be pinned to the same cores.
            shared = max(self._threads or 0, self._parallel) // self._parallel
            options |= {"INFERENCE_NUM_THREADS": shared, "ENABLE_CPU_PINNING": False}
        for _ in range(self._parallel):
            request = self._compiled(core, model, hint, options).create_infer_request()
            # The binding prepares itself at the first look at a tensor; two threads that take it together wait for each
            # other for ever.
            request.get_output_tensor().data  # noqa: B018
            self._requests.add(request)

    def _read(self, core: Any) -> Any:
        """The model, from the bytes that were hashed: without a path, nothing that lies beside it is found."""
        content = read_file(self._path, self._hashes.get(self._manifest.model))
        weights = b""
        if content[:64].lstrip().startswith(b"<"):  # OpenVINO's own, with its weights beside it
            beside = PurePosixPath(self._manifest.model).with_suffix(".bin").as_posix()
            if beside in self._manifest.files:
                weights = read_file(self._path.with_suffix(".bin"), self._hashes.get(beside))
        else:
            check_model(self._path, self._manifest, content)
        return core.read_model(content, weights)

    def _check_process(self) -> None:
        """OpenVINO keeps threads for all models, and joins them when it is begun again: in a process that was forked
        off that never ends.
        """
        global _process
        if _process is None:
            _process = os.getpid()
        if _process != os.getpid():
            raise DeviceError(
                f"can't load {self._path}: OpenVINO was in use already when this process was forked off, and its"
                " threads aren't here; load bundles in the forked processes only, or start those with"
                " multiprocessing's 'spawn'"
            )

    def _compiled(self, core: Any, model: Any, hint: str, options: dict[str, Any]) -> Any:
        """A compiled model that is what was asked for. Raises DeviceError."""
        try:
            compiled = core.compile_model(model, self.provider, options)
        except Exception as error:
            raise DeviceError(
                f"OpenVINO can't run {self._path} on {self.provider} in {hint}: {_last_line(error)}; take another"
                " bundle"
            ) from error
        obtained = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if obtained != hint:
            raise DeviceError(
                f"asked OpenVINO for {hint}, this {self.provider} gives {obtained}; "
                "take a bundle of another precision (openvino-fp32 runs everywhere)"
            )
        if obtained_devices := [
            name for name in compiled.get_property("EXECUTION_DEVICES") if not name.startswith(self.provider)
        ]:
            raise DeviceError(f"asked OpenVINO for {self.provider}, got {', '.join(obtained_devices)}; leave it to CPU")
        return compiled

    def infer(self, network_input: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Its own tensors are filled and read here: `request.infer([blob])` wraps both again each time, which takes 0.15
        # to 0.3 ms.
        requests = self._requests
        request = requests.take()
        try:
            request.get_input_tensor().data[:] = network_input
            request.infer(share_outputs=True)
            labels: NDArray[np.uint8] = request.get_output_tensor().data.copy()
        finally:
            requests.give_back(request)
        return labels

    def deactivate(self) -> None:
        self._requests = Requests()

    def _check_tensors(self, model: Any) -> None:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise BundleError(
                f"{self._path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs, expected one of each; "
                "export the bundle again"
            )
        for what, port in ((INPUT, model.inputs[0]), (OUTPUT, model.outputs[0])):
            name = what if what in port.names else port.any_name  # folding leaves a tensor with several names
            shape = ["?" if dim.is_dynamic else dim.get_length() for dim in port.partial_shape]
            kind = port.element_type.to_string()
            check_tensor(self._manifest, what, name, _NAMES.get(kind, kind), shape)
        quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        if quantised != (self._manifest.precision == "int8"):
            check_precision(self._path, self._manifest, "int8" if quantised else "float")


class Requests:
    """Requests that aren't computing. A thread gets the one that it had before, if that is free.

    Each has its own weights, which then may still be in the caches of the thread's core: handed out in turns,
    requests take longer (docs/design.md, small measurements).
    """

    def __init__(self) -> None:
        self._free: list[Any] = []
        self._changed = threading.Condition()
        self._mine = threading.local()

    def add(self, request: Any) -> None:
        """One more."""
        self._free.append(request)

    def take(self) -> Any:
        """Waits for one that is free."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            mine = getattr(self._mine, "request", None)
            request = next((free for free in self._free if free is mine), self._free[0])
            self._free.remove(request)
        self._mine.request = request
        return request

    def give_back(self, request: Any) -> None:
        """It is free again."""
        with self._changed:
            self._free.append(request)
            self._changed.notify()


def _last_line(error: Exception) -> str:
    """OpenVINO puts the source file first and the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
