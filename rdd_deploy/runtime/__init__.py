"""Frame in, label map out, on whatever runs the bundle. Never imports torch.

>>> from rdd_deploy.runtime import Segmenter
>>> with Segmenter.load("runs/latest/export/onnxruntime-fp32") as segmenter:
...     labels = segmenter(frame)  # uint8 (H, W, 3) BGR -> uint8 (H, W)
"""

from rdd_deploy.runtime.manifest import SCHEMA_VERSION, EngineInfo, InputSpec, Manifest, Metrics, read_manifest, write_manifest
from rdd_deploy.runtime.segmenter import Segmenter

__all__ = ["SCHEMA_VERSION", "EngineInfo", "InputSpec", "Manifest", "Metrics", "Segmenter", "read_manifest", "write_manifest"]
