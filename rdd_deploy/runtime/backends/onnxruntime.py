"""onnxruntime: on the CPU, and through its CUDA, TensorRT and TensorRT-RTX providers."""

from __future__ import annotations

import functools
import io
import os
from contextlib import redirect_stdout
from importlib import import_module, metadata
from pathlib import Path
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
    check_tensor,
    parse_device,
)
from rdd_deploy.runtime.manifest import Manifest, read_file
from rdd_deploy.utils import telemetry

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
_FALLBACK = {"cuda": ["cpu"], "tensorrt": ["cuda", "cpu"], "tensorrt-rtx": ["cpu"], "cpu": []}
"""Providers for the nodes that the first one doesn't take: those of the same device, then the CPU."""
_OPTIONS = {"cuda": {"use_tf32": "0"}, "tensorrt": {"trt_engine_cache_enable": "0"}}
"""float32 is what was asked for: by default GPUs since Ampere would multiply in TensorFloat-32, of 10 bits. No cached engines: one would be loaded
unseen, where all else of a bundle is hashed, and perhaps be another GPU's; an engine to keep is built by ``export --trt``."""
_NO_TF32 = "NVIDIA_TF32_OVERRIDE"
"""Variable by which TensorRT, whose providers have no option for it, leaves TensorFloat-32 alone."""
SPIN_US = "100"
"""How long idle worker threads turn over before they sleep. The default (about a millisecond) takes the cores from decoding and drawing:
on two busy Zen 4 cores EfficientNet-lite0 at 240×320 took 42 ms with it, 28 ms with this, 31 ms without any; a 2 ms network was 1.5 times
slower without any, since waking up costs too. Versions that don't know the key ignore it."""
EXACT_INT8 = ("session.x64quantprecision", "1")
"""On x86 CPUs without VNNI products of U8 and S8 are added in 16 bits, which saturate: other labels than where the bundle was measured, with
nothing said. This computes them in U8 x U8 there, which is slower and exact; elsewhere it changes nothing."""
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")


class OnnxRuntimeBackend:
    """``model.onnx`` in an InferenceSession.

    Args:
        device: ``auto`` takes CUDA where it really starts and the graph isn't INT8 (whose Q/DQ form here is the CPU's),
            else the CPU.
        provider: cpu, cuda, tensorrt, tensorrt-rtx or onnxruntime's own name; None follows the device.
        threads: CPU threads of all inferences together; None leaves it to onnxruntime (the physical cores), or is one
            for each of them where several run at a time.
        parallel: so many frames are to be computed at a time, on the CPU. Each computes in its caller's thread; more
            callers share the cores.
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
            import onnxruntime
        except ImportError as error:
            raise missing_package("onnxruntime", "cpu", f"the bundle {folder}") from error
        self._ort: Any = onnxruntime
        if sentence := telemetry.quiet_onnxruntime(onnxruntime):
            console.warn(sentence)
        self._path = folder / manifest.model
        self._manifest = manifest
        self._hash = manifest.files[manifest.model] if verify else None
        self._threads, self._parallel = threads, parallel
        self._session: Any = None
        kind, self._index = parse_device(device)
        self._auto = kind == "auto" and provider is None
        self._plugged: list[Any] = []
        self._wanted = _wanted(kind, provider, manifest, onnxruntime.get_available_providers())
        self.device = "cpu" if self._wanted == "cpu" else f"cuda:{self._index or 0}"
        self.provider = PROVIDERS[self._wanted]
        if not self._auto:
            check_parallel(self._path, self.device, parallel)

    def activate(self) -> None:
        if self._wanted == "tensorrt-rtx":
            self._plugged = _plugged(self._ort)
        if not self._plugged:
            self._require(self._wanted)
        content = read_file(self._path, self._hash)
        try:
            check_model(self._path, self._manifest, content)
        except ValueError as error:
            raise BundleError(f"onnxruntime can't load {self._path}: {error}; export the bundle again") from error
        try:
            self._session = self._open(self._wanted, content)
        except DeviceError:
            if not self._auto:
                raise
            self.device, self.provider = "cpu", PROVIDERS["cpu"]  # auto promises what works, and says so in .device
            self._session = self._open("cpu", content)
        check_parallel(self._path, self.device, self._parallel)
        model_input, model_output = self._session.get_inputs(), self._session.get_outputs()
        if len(model_input) != 1 or len(model_output) != 1:
            raise BundleError(
                f"{self._path} has {len(model_input)} inputs and {len(model_output)} outputs, expected one of each;"
                " export the bundle again"
            )
        for what, tensor in ((INPUT, model_input[0]), (OUTPUT, model_output[0])):
            check_tensor(
                self._manifest, what, tensor.name, tensor.type.removeprefix("tensor(").removesuffix(")"), tensor.shape
            )

    def infer(self, network_input: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            labels: NDArray[np.uint8] = self._session.run([OUTPUT], {INPUT: network_input})[0]
        except Exception as error:  # onnxruntime raises a class of its own per failure, without a common base
            raise BundleError(
                f"onnxruntime can't run {self._path}: {_first_line(error)}; export the bundle again"
            ) from error
        return labels

    def deactivate(self) -> None:
        self._session = None

    def _require(self, wanted: str) -> None:
        available = self._ort.get_available_providers()
        if PROVIDERS[wanted] not in available:
            raise DeviceError(
                f"asked for {PROVIDERS[wanted]}, but this onnxruntime has {', '.join(available)}; install the one with"
                " it (pip install"
                f" {'onnxruntime-ep-nv-tensorrt-rtx' if wanted == 'tensorrt-rtx' else repr('rdd-deploy[gpu]')}), or"
                f" pass --device cpu.{mixed_distributions() or ''}"
            )

    def _open(self, wanted: str, content: bytes) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3  # its warnings about node placement aren't the user's business; failures raise
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        options.add_session_config_entry(*EXACT_INT8)
        if self._threads or self._parallel > 1:
            # The session's own threads help whoever calls, so with several callers only what they leave is to be added.
            options.intra_op_num_threads = (self._threads or self._parallel) - self._parallel + 1
        chain = [wanted, *_FALLBACK[wanted]]
        here = set(self._ort.get_available_providers())
        device = {"device_id": str(self._index or 0)}
        providers: list[tuple[str, dict[str, str]]] | None = [
            (PROVIDERS[name], {} if name == "cpu" else device | _OPTIONS.get(name, {}))
            for name in chain
            if PROVIDERS[name] in here
        ]
        if wanted != "cpu":
            if wanted != "cuda":
                os.environ.setdefault(_NO_TF32, "0")
            preload(self._ort)
        if wanted == "tensorrt-rtx" and self._plugged:
            if (self._index or 0) >= len(self._plugged):
                raise DeviceError(
                    f"asked for {self.device}, {PROVIDERS[wanted]} finds {len(self._plugged)} GPU(s), cuda:0 to"
                    f" cuda:{len(self._plugged) - 1}"
                )
            options.add_provider_for_devices([self._plugged[self._index or 0]], {})
            providers = None  # those of the options
        try:
            # Its own fallback would print a banner and go on with the CPU.
            session = self._ort.InferenceSession(content, options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime raises a class of its own per failure, without a common base
            if wanted != "cpu":
                raise DeviceError(
                    f"onnxruntime can't run {self._path} with {PROVIDERS[wanted]}: {_first_line(error)}; "
                    f"check driver and CUDA libraries (nvidia-smi), or pass --device cpu.{mixed_distributions() or ''}"
                ) from error
            raise BundleError(
                f"onnxruntime can't load {self._path}: {_first_line(error)}; export the bundle again"
            ) from error
        session._model_bytes = None  # it would keep the file in memory for that fallback
        obtained = session.get_providers()
        if obtained[0] != PROVIDERS[wanted]:
            raise DeviceError(
                f"asked onnxruntime for {PROVIDERS[wanted]}, got {obtained[0]}; "
                f"check driver and CUDA libraries (nvidia-smi), or pass --device cpu.{mixed_distributions() or ''}"
            )
        return session


def preload(ort: Any) -> None:
    """Load the CUDA and cuDNN that pip installed, before a session on a GPU; onnxruntime since 1.21 knows where they
    are.
    """
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # what is missing it prints; a session that needs it says so itself
            ort.preload_dlls()


@functools.cache
def _plugged(ort: Any) -> list[Any]:
    """The devices of the TensorRT-RTX provider, which is a plugin in a package of its own since onnxruntime 1.24; none
    where it isn't there.
    """
    try:
        plugin: Any = import_module("onnxruntime_ep_nv_tensorrt_rtx")
        register = ort.register_execution_provider_library
    except (ImportError, AttributeError):
        return []
    try:
        register(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:  # onnxruntime raises a class of its own per failure, without a common base
        raise DeviceError(
            f"onnxruntime can't load {PROVIDERS['tensorrt-rtx']} from the package onnxruntime-ep-nv-tensorrt-rtx:"
            f" {_first_line(error)}; check the driver (nvidia-smi), or pass --device cpu"
        ) from error
    return [one for one in ort.get_ep_devices() if one.ep_name == plugin.get_ep_name()]


def _wanted(kind: str, provider: str | None, manifest: Manifest, available: list[str]) -> str:
    """The short name of the provider to ask for."""
    if provider is not None:
        short = {long.lower(): name for name, long in PROVIDERS.items()}.get(provider.lower(), provider.lower())
        if short not in PROVIDERS:
            raise DeviceError(f"unknown onnxruntime provider '{provider}'; expected one of {', '.join(PROVIDERS)}")
        if kind == ("cuda" if short == "cpu" else "cpu"):
            raise DeviceError(f"provider '{provider}' doesn't run on the device '{kind}'; leave one of the two out")
        return short
    if kind == "auto":
        return "cuda" if PROVIDERS["cuda"] in available and manifest.precision != "int8" else "cpu"
    return kind


def mixed_distributions() -> str | None:
    """A sentence if several onnxruntime wheels are installed (they overwrite each other's files; the last one wins),
    else None.
    """
    found = [name for name in _DISTRIBUTIONS if _installed(name)]
    if len(found) < 2:
        return None
    keep = "onnxruntime-gpu" if "onnxruntime-gpu" in found else found[-1]
    return (
        f" Found {' and '.join(found)} installed over each other; fix it with: "
        f"pip uninstall -y {' '.join(found)} && pip install {keep} (on a machine without a GPU: onnxruntime)"
    )


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
