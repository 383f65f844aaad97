"""Frame in, label map out, on whatever runs the bundle. Never imports torch.

>>> from rdd_deploy.runtime import Segmenter
>>> with Segmenter.load("runs/latest/export/onnxruntime-fp32") as segmenter:
...     labels = segmenter(frame)  # uint8 (H, W, 3) BGR -> uint8 (H, W)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdd_deploy.runtime.facts import SCHEMA_VERSION, InputSpec
from rdd_deploy.runtime.manifest import EngineInfo, Manifest, Metrics, read_manifest, write_manifest

if TYPE_CHECKING:
    from rdd_deploy.runtime.segmenter import Segmenter

__all__ = [
    "SCHEMA_VERSION",
    "EngineInfo",
    "InputSpec",
    "Manifest",
    "Metrics",
    "Segmenter",
    "read_manifest",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    """``Segmenter``, imported at its first use: a command line that is only parsed needs no OpenCV."""
    if name != "Segmenter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rdd_deploy.runtime.segmenter import Segmenter

    return Segmenter
