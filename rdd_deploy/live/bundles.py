"""Which bundles to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rdd_deploy.errors import BundleError, DeviceError
from rdd_deploy.runtime import Segmenter
from rdd_deploy.runtime.manifest import MANIFEST
from rdd_deploy.utils.machine import available_cores
from rdd_deploy.utils.places import followed

EXPORTS = Path("runs/latest/export")
MAX_BUNDLES = 9


def newest_bundle(folder: Path = EXPORTS) -> Path:
    """The bundle written last. Raises BundleError, naming the command that makes one."""
    found = by_age(folder)
    if not found:
        raise BundleError(
            f"there is no bundle in {folder}; make one with `python -m rdd_deploy.export --onnx`, or name one with"
            " --bundle FOLDER"
        )
    return found[0]


def by_age(folder: Path) -> list[Path]:
    """The bundles in a folder, the one written last first: by the time of their manifests, which export writes last."""
    found = []
    for path in followed(folder).glob(f"*/{MANIFEST}"):
        with suppress(OSError):  # gone meanwhile
            found.append((path.stat().st_mtime_ns, path.parent))
    return [path for _, path in sorted(found, reverse=True)]


@contextmanager
def loaded(
    paths: Sequence[Path], *, device: str, provider: str | None, threads: int | None, parallel: int = 1
) -> Iterator[list[Segmenter]]:
    """All bundles, loaded and warm; closed at the end. Raises what ``Segmenter.load`` and ``infer`` raise.

    Args:
        parallel: so many frames at a time are wanted of each bundle. Where one can't, all are loaded for one on each
            core, or, if it is on a GPU for example, for one.
    """
    if len(paths) > MAX_BUNDLES:
        raise BundleError(f"got {len(paths)} bundles, expected at most {MAX_BUNDLES}: one for each key")

    def load(stack: ExitStack, parallel: int) -> list[Segmenter]:
        shared = shared_threads(threads, parallel)
        asked: dict[str, Any] = {"device": device, "provider": provider, "threads": shared, "parallel": parallel}
        return [stack.enter_context(Segmenter.load(path, **asked)) for path in paths]

    with ExitStack() as stack:
        for many in dict.fromkeys((parallel, min(parallel, available_cores()), 1)):
            try:
                segmenters = load(stack, many)
                break
            except DeviceError:
                if many == 1:  # any other trouble with a device came up again
                    raise
                stack.close()
        for segmenter in segmenters:
            warm_up(segmenter)
        yield segmenters


def shared_threads(threads: int | None, parallel: int) -> int | None:
    """Threads of several inferences together: left to itself a backend would take one for each frame."""
    return available_cores() if threads is None and parallel > 1 else threads


def warm_up(segmenter: Segmenter) -> None:
    """The first inference takes several times as long; no frame should wait for that. Raises what ``infer`` raises."""
    nothing = np.zeros((1, *segmenter.input_size, 3), np.uint8)
    for _ in range(segmenter.parallel):
        segmenter.infer(nothing)
