"""What runs a model file: one small file a backend, imported only when a bundle asks for it.

A new backend is a file here with a class that keeps the contract of ``base.Backend``, a line in ``_BACKENDS`` and its
name in ``manifest.BackendName``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from rdd_deploy.runtime.backends.base import Backend
from rdd_deploy.runtime.manifest import Manifest

__all__ = ["BACKENDS", "Backend", "open_backend"]

_BACKENDS = {
    "onnxruntime": "onnxruntime:OnnxRuntimeBackend",
    "openvino": "openvino:OpenVinoBackend",
    "tensorrt": "tensorrt:TensorRtBackend",
    "tensorrt-rtx": "tensorrt:TensorRtBackend",
}
BACKENDS = tuple(_BACKENDS)


def open_backend(
    folder: Path,
    manifest: Manifest,
    *,
    device: str,
    provider: str | None,
    threads: int | None,
    parallel: int = 1,
    verify: bool = True,
) -> Backend:
    """Make the backend that the manifest names; nothing is loaded before ``activate()``.

    Raises:
        MissingPackageError: its package isn't installed (the message names the extra).
        DeviceError: it can't run on that device or provider.
    """
    module, _, name = _BACKENDS[manifest.backend].partition(":")
    made: Backend = getattr(import_module(f"{__name__}.{module}"), name)(
        folder, manifest, device=device, provider=provider, threads=threads, parallel=parallel, verify=verify
    )
    return made
