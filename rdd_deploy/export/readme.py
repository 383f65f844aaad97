"""A bundle's README.md: what its manifest says, for people who have never heard of rdd_deploy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from string import Template

from rdd_deploy.runtime.backends.base import INPUT, OUTPUT
from rdd_deploy.runtime.manifest import GRAPH, MANIFEST, Manifest
from rdd_deploy.utils.text import shown

_MARKUP = re.compile(r"[\\`*\[\]<>|~&@:$]|(?<![^\W_])_|_(?![^\W_])|(?<=[wW]{3})\.")
"""What Markdown, its tables and GitHub's own additions (links, mathematics, mentions) would read as more than text."""
_TRACED = ("run", "recipe", "weights_sha256", "fine_tuned_sha256", "built_from", "git_commit")

_PYTHON = Template("""\
import cv2
import numpy as np
$import_

H, W = $height, $width
$open
frame = x = cv2.imread("frame.jpg")  # uint8, BGR
while x.shape[0] >= 2 * H and x.shape[1] >= 2 * W and x.shape[0] % 2 == x.shape[1] % 2 == 0:
    x = cv2.resize(x, (x.shape[1] // 2, x.shape[0] // 2), interpolation=cv2.INTER_AREA)
shrinks = max(x.shape[0] / H, x.shape[1] / W)
x = cv2.resize(x, (W, H), interpolation=cv2.INTER_LINEAR if shrinks < $shrink_from else cv2.INTER_AREA)
$run
labels = cv2.resize(labels, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # class ids, of the frame's size
cv2.imwrite("labels.png", labels)
""")

_CPP = Template("""\
#include <algorithm>
#include <array>
#include <cstdint>
$include
#include <opencv2/opencv.hpp>

int main() {
    const int H = $height, W = $width;
$open
    cv::Mat frame = cv::imread("frame.jpg"), x = frame, labels;  // uint8, BGR
    while (x.rows >= 2 * H && x.cols >= 2 * W && x.rows % 2 == 0 && x.cols % 2 == 0)
        cv::resize(cv::Mat(x), x, cv::Size(x.cols / 2, x.rows / 2), 0, 0, cv::INTER_AREA);
    const double shrinks = std::max(double(x.rows) / H, double(x.cols) / W);
    cv::resize(cv::Mat(x), x, cv::Size(W, H), 0, 0, shrinks < $shrink_from ? cv::INTER_LINEAR : cv::INTER_AREA);
$run
    cv::resize(small, labels, frame.size(), 0, 0, cv::INTER_NEAREST_EXACT);  // class ids, of the frame's size
    cv::imwrite("labels.png", labels);
}
""")

_ORT_OPEN = """\
session = onnxruntime.InferenceSession($model, providers=["CPUExecutionProvider"])"""
_ORT_OPEN_INT8 = """\
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on CPUs without VNNI, too
session = onnxruntime.InferenceSession($model, options, providers=["CPUExecutionProvider"])"""
_ORT_RUN = f"""\
labels = session.run(["{OUTPUT}"], {{"{INPUT}": x[np.newaxis]}})[0][0]"""
_ORT_CPP_OPEN = """\
    Ort::Env environment;
    Ort::SessionOptions options;
    Ort::Session session(environment, ORT_TSTR($model), options);"""
_ORT_CPP_OPEN_INT8 = _ORT_CPP_OPEN.replace(
    "options;",
    'options;\n    options.AddConfigEntry("session.x64quantprecision", "1");  // exact sums on CPUs without VNNI, too',
)
_ORT_CPP_RUN = f"""\
    const std::array<int64_t, 4> shape{{1, H, W, 3}};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto input = Ort::Value::CreateTensor<uint8_t>(memory, x.data, x.total() * 3, shape.data(), shape.size());
    const char *inputs[] = {{"{INPUT}"}}, *outputs[] = {{"{OUTPUT}"}};
    auto results = session.Run(Ort::RunOptions{{nullptr}}, inputs, &input, 1, outputs, 1);
    cv::Mat small(H, W, CV_8UC1, results[0].GetTensorMutableData<uint8_t>());"""
_OV_OPEN = """\
model = openvino.Core().compile_model($model, "CPU", {"INFERENCE_PRECISION_HINT": "$hint"})"""
_OV_RUN = "labels = model(x[np.newaxis])[0][0]"
_OV_CPP_OPEN = """\
    ov::Core core;
    auto request = core.compile_model($model, "CPU", {{"INFERENCE_PRECISION_HINT", "$hint"}}).create_infer_request();"""
_OV_CPP_RUN = """\
    request.set_input_tensor(ov::Tensor(ov::element::u8, {1, size_t(H), size_t(W), 3}, x.data));
    request.infer();
    cv::Mat small(H, W, CV_8UC1, request.get_output_tensor().data<uint8_t>());"""


def readme_text(manifest: Manifest) -> str:
    """A bundle's README, of nothing but its manifest: the same manifest gives the same text. Names from outside stand
    in it as text.
    """
    return "\n\n".join(_sections(manifest)) + "\n"


def _sections(manifest: Manifest) -> Iterator[str]:
    size = f"{manifest.input.height}×{manifest.input.width}"
    yield f"# {in_markdown(manifest.name)}"
    yield (
        f"A network for semantic segmentation: it takes a picture and gives one of {len(manifest.classes)} classes for"
        f" each pixel. Written by rdd-deploy from `{MANIFEST}`, which programs read; the hashes of all files are in"
        " there, too."
    )
    yield "## Classes"
    yield _classes(manifest)
    yield "## Input and output"
    yield "\n".join(
        [
            "| | name | type | shape | values |",
            "|---|---|---|---|---|",
            (
                f"| input | `{INPUT}` | uint8 | 1 × {manifest.input.height} × {manifest.input.width} × 3 (NHWC) | 0 to"
                " 255 as they are, channels in the order B, G, R |"
            ),
            (
                f"| output | `{OUTPUT}` | uint8 | 1 × {manifest.input.height} × {manifest.input.width} | class ids, 0"
                f" to {len(manifest.classes) - 1} |"
            ),
        ]
    )
    yield "Colour order, normalisation, upsampling and argmax are inside the network."
    yield "## From a frame to labels"
    yield _rule(manifest)
    yield from _examples(manifest)
    yield "## Accuracy"
    yield _accuracy(manifest)
    yield "## What runs it"
    yield _runs_with(manifest, size)
    if traced := [(key, manifest.provenance[key]) for key in _TRACED if manifest.provenance.get(key) not in (None, "")]:
        yield "## Where it comes from"
        yield "\n".join(["| | |", "|---|---|", *(f"| {key} | {in_markdown(value)} |" for key, value in traced)])


def _classes(manifest: Manifest) -> str:
    measured = manifest.metrics.iou_pct if manifest.metrics else {}
    lines = ["| id | class | colour (RGB) | |", "|---|---|---|---|"]
    if measured:
        lines = ["| id | class | colour (RGB) | | IoU % |", "|---|---|---|---|---|"]
    for index, (name, (r, g, b)) in enumerate(zip(manifest.classes, manifest.palette, strict=True)):
        line = f"| {index} | {in_markdown(name)} | {r}, {g}, {b} | `#{r:02x}{g:02x}{b:02x}` |"
        lines.append(f"{line} {_figure(measured.get(name))} |" if measured else line)
    return "\n".join(lines)


def _rule(manifest: Manifest) -> str:
    """In words what ``Preprocessing`` and ``Postprocessing`` name."""
    height, width = manifest.input.height, manifest.input.width
    return "\n".join(
        [
            "All three steps are calls of OpenCV's `resize` on uint8; the aspect ratio isn't kept.",
            "",
            (
                f"1. As long as both sides of the frame are even, its height is at least {2 * height} and its width at"
                f" least {2 * width}: halve both with `INTER_AREA` (the mean of 2×2 pixels)."
            ),
            (
                f"2. Unless it is {height} high and {width} wide now, resize it to that: with `INTER_LINEAR` where"
                f" max(height / {height}, width / {width}) is below {manifest.preprocessing.shrink_from:g}, else with"
                " `INTER_AREA`."
            ),
            "3. Resize the labels to the frame's size with `INTER_NEAREST_EXACT`.",
            "",
            (
                "With the same build of OpenCV this gives rdd-deploy's labels bit for bit; other builds may round a"
                " pixel of step 2 differently. A grey frame becomes one of three channels first (`cv2.COLOR_GRAY2BGR`);"
                " `imread` does so by itself."
            ),
        ]
    )


def _examples(manifest: Manifest) -> Iterator[str]:
    model = GRAPH if manifest.backend.startswith("tensorrt") else manifest.model
    openvino = manifest.backend == "openvino"
    values = {
        "height": manifest.input.height, "width": manifest.input.width, "shrink_from": f"{manifest.preprocessing.shrink_from!r}",
        "model": shown(json.dumps(model, ensure_ascii=False)), "hint": {"bf16": "bf16", "fp16": "f16"}.get(manifest.precision, "f32"),
    }  # fmt: skip
    exact = manifest.precision == "int8"
    if openvino:
        python = {"import_": "import openvino", "open": _OV_OPEN, "run": _OV_RUN}
        cpp = {"include": "#include <openvino/openvino.hpp>", "open": _OV_CPP_OPEN, "run": _OV_CPP_RUN}
    else:
        python = {"import_": "import onnxruntime", "open": _ORT_OPEN_INT8 if exact else _ORT_OPEN, "run": _ORT_RUN}
        cpp = {
            "include": "#include <onnxruntime_cxx_api.h>",
            "open": _ORT_CPP_OPEN_INT8 if exact else _ORT_CPP_OPEN,
            "run": _ORT_CPP_RUN,
        }
    engine = manifest.backend.startswith("tensorrt")
    yield f"## In Python, with {'OpenVINO' if openvino else 'onnxruntime'}"
    if engine:
        yield (
            f"This runs `{GRAPH}`, which the engine is built from: labels may differ from the engine's where two"
            " classes are nearly as likely."
        )
    else:
        yield (
            "In a folder of your own, with a copy of the model: other files in the bundle's folder make rdd-deploy"
            " refuse it."
        )
    yield f"```python\n{_filled(_PYTHON, python, values)}```"
    yield f"## In C++, with {'OpenVINO' if openvino else 'onnxruntime'}"
    yield f"```cpp\n{_filled(_CPP, cpp, values)}```"
    yield "## With rdd-deploy"
    yield (
        "```python\nfrom rdd_deploy.runtime import Segmenter\n\nwith Segmenter.load(\"FOLDER\") as segmenter:\n"
        "    labels = segmenter(frame)  # BGR of any size -> class ids of the same size\n```"
    )  # fmt: skip


def _filled(template: Template, parts: dict[str, str], values: dict[str, object]) -> str:
    return template.substitute(values | {key: Template(part).substitute(values) for key, part in parts.items()})


def _accuracy(manifest: Manifest) -> str:
    metrics, engine = manifest.metrics, manifest.backend.startswith("tensorrt")
    if metrics is None:
        graph = manifest.provenance.get("graph_miou_pct")
        if engine and isinstance(graph, int | float):
            return f"The engine hasn't been measured; the graph that it is built from has mIoU {graph:.2f} %."
        return "Not measured."
    lines = [
        f"mIoU {_figure(metrics.miou_pct)} %, pixel accuracy {_figure(metrics.pixel_accuracy_pct)} %: measured on this"
        f" very file, on {metrics.images} images of {in_markdown(metrics.data)}, split {in_markdown(metrics.split)};"
        " one confusion matrix over all of them, at the frames' own size, pixels without a label (void) left out."
    ]
    if metrics.float_miou_pct is not None:
        lines.append(f"The float network has {_figure(metrics.float_miou_pct)} % there.")
    if manifest.forced:
        lines.append("**It lost more accuracy than its gate allows, and was written because that was asked for.**")
    return " ".join(lines)


def _runs_with(manifest: Manifest, size: str) -> str:
    engine = manifest.engine
    what = {"onnxruntime": "onnxruntime, provider `CPUExecutionProvider`", "openvino": "OpenVINO, device `CPU`"}.get(
        manifest.backend
    )
    if engine is not None:
        built_for = (
            engine.gpu if engine.gpu is not None else f"compute capability {', '.join(engine.compute_capabilities)}"
        )
        what = f"{engine.package} {in_markdown(engine.version)} on {in_markdown(built_for)}, and nothing else"
    elif what is None:
        what = (
            f"{manifest.backend}, once an engine is built from `{GRAPH}` on its GPU: `rdd-deploy export FOLDER --trt`"
        )
    opset = f", ONNX opset {manifest.opset}" if manifest.opset is not None else ""
    measured = " (what the accuracy above was measured with)" if manifest.metrics is not None else ""
    return (
        f"{what}{measured}. Precision {manifest.precision}, input {size}{opset}, profile"
        f" {in_markdown(manifest.profile)}."
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def in_markdown(text: object) -> str:
    """One line of text from outside, for Markdown: control characters visible, markup and HTML without effect."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", shown(text).strip())
