"""What runs a model file: one small file a backend, imported only when a bundle asks for it.

A new backend is a file here with a class that keeps the contract of ``base.Backend``, and a line in ``BACKENDS``
(``runtime.table``).
"""

from __future__ import annotations

from pathlib import Path

from rdd_deploy.runtime.backends.base import Backend
from rdd_deploy.runtime.manifest import Manifest
from rdd_deploy.runtime.table import BACKENDS

__all__ = ["Backend", "open_backend"]


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
    made: Backend = BACKENDS[manifest.backend].load()(
        folder, manifest, device=device, provider=provider, threads=threads, parallel=parallel, verify=verify
    )
    return made
