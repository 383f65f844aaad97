import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from toy_bundle import toy_bundle

from rdd_deploy.errors import BundleError, DeviceError, MissingPackageError
from rdd_deploy.runtime import Segmenter, read_manifest
from rdd_deploy.runtime.backends import onnxruntime as backend
from rdd_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from rdd_deploy.utils.files import sha256


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "toy")


def test_threads_reach_the_session(bundle: Path) -> None:
    segmenter = Segmenter.load(bundle, device="cpu", threads=1)
    session: Any = segmenter._backend
    assert session._session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(("threads", "parallel", "intra"), [(None, 2, 1), (2, 2, 1), (4, 2, 3)])
def test_several_callers_share_the_threads(bundle: Path, threads: int | None, parallel: int, intra: int) -> None:
    """Each caller computes too, and all use the session's threads: so many fewer are made."""
    segmenter = Segmenter.load(bundle, threads=threads, parallel=parallel)
    session: Any = segmenter._backend
    assert session._session.get_session_options().intra_op_num_threads == intra


def test_one_at_a_time_on_a_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("nothing needs loading to see this")
    )
    with pytest.raises(
        DeviceError,
        match=r"asked for 2 inferences at a time of .* on cuda:1, which takes one; leave parallel at 1, or run",
    ):
        Segmenter.load(bundle, device="cuda:1", parallel=2)


@pytest.mark.parametrize("provider", ["cpu", "CPUExecutionProvider"])
def test_provider_by_short_or_long_name(bundle: Path, provider: str) -> None:
    assert Segmenter.load(bundle, provider=provider).provider == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'; expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        (
            {"provider": "coreml"},
            "unknown onnxruntime provider 'coreml'; expected one of cpu, cuda, tensorrt, tensorrt-rtx",
        ),
        (
            {"provider": "cuda", "device": "cpu"},
            "provider 'cuda' doesn't run on the device 'cpu'; leave one of the two out",
        ),
        ({"provider": "cpu", "device": "cuda"}, "provider 'cpu' doesn't run on the device 'cuda'"),
    ],
)
def test_what_cant_be_asked(bundle: Path, arguments: dict[str, str], sentence: str) -> None:
    with pytest.raises(DeviceError) as caught:
        Segmenter.load(bundle, **arguments)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"device": "cuda"}, "CUDA"), ({"provider": "tensorrt"}, "Tensorrt"), ({"device": "cuda:1"}, "CUDA")],
)
def test_provider_that_this_wheel_lacks(bundle: Path, arguments: dict[str, str], name: str) -> None:
    with pytest.raises(
        DeviceError,
        match=rf"asked for {name}ExecutionProvider, but this onnxruntime has .*pip install 'rdd-deploy\[gpu\]'",
    ):
        Segmenter.load(bundle, **arguments)  # type: ignore[arg-type]


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gpu wheel on a machine without a driver: CUDA is offered, but the session comes back with the CPU."""
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **_: real(path, options, providers=["CPUExecutionProvider"]),
    )


def test_obtained_is_compared_with_asked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch)
    with pytest.raises(
        DeviceError, match="asked onnxruntime for CUDAExecutionProvider, got CPUExecutionProvider; check driver"
    ):
        Segmenter.load(bundle, device="cuda")


def test_auto_takes_what_starts_and_says_so(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch)
    segmenter = Segmenter.load(bundle)
    assert (segmenter.device, segmenter.provider) == ("cpu", "CPUExecutionProvider")
    assert Segmenter.load(bundle, parallel=2).parallel == 2


def opened_with(monkeypatch: pytest.MonkeyPatch, available: list[str]) -> dict[str, Any]:
    """What a session on a GPU would be opened with."""
    real, seen = onnxruntime.InferenceSession, {"preloaded": 0}
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*available, "CPUExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "preload_dlls",
        lambda: seen.update(preloaded=seen["preloaded"] + 1) or print("a banner"),
        raising=False,
    )

    def session(content: bytes, options: Any, providers: Any = None, **_: Any) -> Any:
        seen["providers"] = providers
        made = real(content, options if providers else onnxruntime.SessionOptions(), providers=["CPUExecutionProvider"])
        monkeypatch.setattr(
            made, "get_providers", lambda: [providers[0][0]] if providers else ["NvTensorRTRTXExecutionProvider"]
        )
        return made

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return seen


def test_on_a_gpu_no_tf32_no_cached_engine_and_the_libraries_that_pip_installed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    seen = opened_with(monkeypatch, ["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    Segmenter.load(bundle, device="cuda:1")
    assert seen["providers"][0] == ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    Segmenter.load(bundle, provider="tensorrt")
    assert seen["providers"][0] == ("TensorrtExecutionProvider", {"device_id": "0", "trt_engine_cache_enable": "0"})
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert seen["preloaded"] == 2
    assert "banner" not in capsys.readouterr().out
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    Segmenter.load(bundle, device="cpu")
    assert seen["preloaded"] == 2


def test_the_rtx_provider_is_a_plugin(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = opened_with(monkeypatch, [])
    backend._plugged.cache_clear()
    with pytest.raises(
        DeviceError,
        match=r"asked for NvTensorRTRTXExecutionProvider, .* \(pip install onnxruntime-ep-nv-tensorrt-rtx\)",
    ):
        Segmenter.load(bundle, provider="tensorrt-rtx")
    name, registered = "NvTensorRTRTXExecutionProvider", []
    plugin = SimpleNamespace(get_ep_name=lambda: name, get_library_path=lambda: "/lib.so")
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda *words: registered.append(words), raising=False
    )
    devices = [
        SimpleNamespace(ep_name="CPUExecutionProvider"),
        SimpleNamespace(ep_name=name, number=0),
        SimpleNamespace(ep_name=name, number=1),
    ]
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices, raising=False)
    chosen: list[Any] = []
    real = onnxruntime.SessionOptions

    class Options(real):  # type: ignore[misc, valid-type]
        def add_provider_for_devices(self, devices: Any, options: Any) -> None:
            chosen.extend(one.number for one in devices)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    backend._plugged.cache_clear()
    try:
        for _ in range(2):
            assert Segmenter.load(bundle, provider="tensorrt-rtx", device="cuda:1").provider == name
        assert (registered, chosen, seen["providers"]) == ([(name, "/lib.so")], [1, 1], None)
        with pytest.raises(
            DeviceError, match=r"asked for cuda:2, NvTensorRTRTXExecutionProvider finds 2 GPU\(s\), cuda:0 to cuda:1"
        ):
            Segmenter.load(bundle, provider="tensorrt-rtx", device="cuda:2")
    finally:
        backend._plugged.cache_clear()


def test_package_missing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        MissingPackageError,
        match=r"needs the package 'onnxruntime', which isn't installed: pip install 'rdd-deploy\[cpu\]'",
    ):
        Segmenter.load(bundle)


def test_mixed_wheels_are_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend.mixed_distributions() is None
    monkeypatch.setattr(backend, "_installed", lambda name: name in ("onnxruntime", "onnxruntime-gpu"))
    sentence = backend.mixed_distributions()
    assert sentence is not None
    assert "fix it with: pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu" in sentence
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="Found onnxruntime and onnxruntime-gpu installed over each other"):
        Segmenter.load(bundle, device="cuda")


def rewritten(bundle: Path, edit: Any) -> Path:
    """The bundle with an edited graph and a hash that fits, so that only the tensors are wrong."""
    model = onnx.load(bundle / "model.onnx")
    edit(model)
    onnx.save(model, bundle / "model.onnx")
    manifest = bundle / "manifest.json"
    text = manifest.read_text()
    old = text.split('"model.onnx": "')[1][:64]
    manifest.write_text(text.replace(old, sha256(bundle / "model.onnx")))
    return bundle


def test_not_a_model(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"onnxruntime can't load .*model.onnx: .*; export the bundle again"):
        Segmenter.load(rewritten(bundle, lambda model: model.graph.node[0].input.__setitem__(0, "nothing")))


def test_tensors_must_be_the_manifests(bundle: Path, tmp_path: Path) -> None:
    def rename(model: Any) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = "picture"

    with pytest.raises(
        BundleError,
        match=r"has the tensor picture: uint8\[1, 48, 64, 3\], expected frame: uint8\[1, 48, 64, 3\]; export",
    ):
        Segmenter.load(rewritten(bundle, rename))
    wrong = toy_bundle(tmp_path / "wrong", manifest={"input": {"height": 40, "width": 64}})
    with pytest.raises(
        BundleError, match=r"has the tensor frame: uint8\[1, 48, 64, 3\], expected frame: uint8\[1, 40, 64, 3\]"
    ):
        Segmenter.load(wrong)


def test_precision_must_be_the_manifests(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    onnx.helper.set_model_props(model, {"precision": "fp32"})
    onnx.save(model, bundle / "model.onnx")
    manifest = read_manifest(bundle, verify=False)
    OnnxRuntimeBackend(bundle, manifest, device="cpu", provider=None, threads=1, verify=False).activate()
    relabelled = manifest.model_copy(update={"precision": "int8"})
    with pytest.raises(
        BundleError, match=r"model\.onnx computes in fp32, its manifest says int8; copy the whole bundle again"
    ):
        OnnxRuntimeBackend(bundle, relabelled, device="cpu", provider=None, threads=1, verify=False).activate()


def test_free_dimensions_are_accepted(bundle: Path) -> None:
    def free(model: Any) -> None:
        for tensor in (model.graph.input[0], model.graph.output[0]):
            tensor.type.tensor_type.shape.dim[0].dim_param = "N"

    with Segmenter.load(rewritten(bundle, free)) as segmenter:
        assert segmenter(np.zeros((5, 5, 3), np.uint8)).shape == (5, 5)


@pytest.mark.parametrize(("kernel", "group"), [(1, 1), (3, 1), (3, 32)])
def test_integer_convolutions_do_not_saturate(kernel: int, group: int) -> None:
    """Large U8 activations and S8 weights, whose sums leave 16 bits: the same on CPUs with VNNI and without."""
    rng = np.random.default_rng(0)
    x = rng.integers(200, 256, (1, 32, 8, 8)).astype(np.uint8)
    weight = rng.integers(90, 128, (32, 32 // group, kernel, kernel)).astype(np.int8)
    shape = [1, 32, 9 - kernel, 9 - kernel]
    scale = np.float32(255 * 127 * 32 // group * kernel**2 / 255)
    values = {"one": np.float32(1), "zero": np.uint8(0), "w": weight, "w_zero": np.int8(0), "scale": scale}
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["x", "one", "zero"], ["xf"]),
        onnx.helper.make_node("DequantizeLinear", ["w", "one", "w_zero"], ["wf"]),
        onnx.helper.make_node("Conv", ["xf", "wf"], ["yf"], group=group),
        onnx.helper.make_node("QuantizeLinear", ["yf", "scale", "zero"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(*end) for end in (("x", 2, x.shape), ("y", 2, shape))]
    initializers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)

    def run(optimised: bool) -> Any:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(*backend.EXACT_INT8)
        if not optimised:  # in float, as the graph says it
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0].astype(int)

    assert np.abs(run(True) - run(False)).max() <= 1


def test_a_session_is_told_to_be_exact(bundle: Path) -> None:
    session: Any = Segmenter.load(bundle, device="cpu")._backend
    assert session._session.get_session_options().get_session_config_entry(backend.EXACT_INT8[0]) == "1"
