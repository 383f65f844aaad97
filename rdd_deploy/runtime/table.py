"""The table of backends, which names a manifest's ``backend`` may have. Nothing is imported before a bundle asks for
it.
"""

from __future__ import annotations

from rdd_deploy.utils.tables import Entry

BACKENDS = {
    "onnxruntime": Entry("rdd_deploy.runtime.backends.onnxruntime:OnnxRuntimeBackend"),
    "openvino": Entry("rdd_deploy.runtime.backends.openvino:OpenVinoBackend"),
    "tensorrt": Entry("rdd_deploy.runtime.backends.tensorrt:TensorRtBackend"),
    "tensorrt-rtx": Entry("rdd_deploy.runtime.backends.tensorrt:TensorRtBackend"),
}
