import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import toy_bundle, truth

from rdd_deploy.errors import BundleError, DeviceError, MissingPackageError
from rdd_deploy.runtime import Segmenter
from rdd_deploy.runtime.backends import openvino as backend
from rdd_deploy.runtime.backends.openvino import OpenVinoBackend, Requests, shared_core
from rdd_deploy.utils.files import sha256
from rdd_deploy.utils.machine import available_cores

FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def openvino_bundle(folder: Path, precision: str = "fp32") -> Path:
    return toy_bundle(
        folder, manifest={"backend": "openvino", "precision": precision, "profile": f"openvino-{precision}"}
    )


def test_package_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        MissingPackageError, match=r"'openvino', which isn't installed: pip install 'rdd-deploy\[openvino\]'"
    ):
        Segmenter.load(openvino_bundle(tmp_path / "toy"))


def test_labels_and_precision(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with Segmenter.load(openvino_bundle(tmp_path / "fp32", "fp32"), threads=1) as segmenter:
        first = segmenter(FRAME)
        kept = first.copy()
        segmenter(255 - FRAME)
        assert np.array_equal(first, kept), "the request's own memory was handed out"
        assert np.array_equal(first, truth(FRAME))
        assert (segmenter.backend, segmenter.device, segmenter.provider) == ("openvino", "cpu", "CPU")
        compiled = segmenter._backend._requests.take().get_compiled_model()  # type: ignore[union-attr]
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    with pytest.raises(
        BundleError, match=r"model\.onnx computes in float, its manifest says int8; copy the whole bundle again"
    ):
        Segmenter.load(openvino_bundle(tmp_path / "int8", "int8"))


def test_bf16_is_refused_where_the_cpu_lacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the CPU itself: OpenVINO emulates it on any CPU with AVX512, slower than float32."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(backend, "has_native_bf16", lambda: False)
    monkeypatch.setattr(OpenVinoBackend, "_compiled", lambda *_: pytest.fail("refused before anything is compiled"))
    with pytest.raises(
        DeviceError, match=r"asked OpenVINO for bf16, which this CPU lacks .*; take a bundle of another precision"
    ):
        Segmenter.load(openvino_bundle(tmp_path / "toy", "bf16"))


def test_bf16_is_asked_for_where_the_cpu_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(backend, "has_native_bf16", lambda: True)
    asked: list[str] = []

    def compiled(self: Any, core: Any, model: Any, hint: str, options: dict[str, Any]) -> Any:
        asked.append(hint)
        return core.compile_model(model, "CPU", options | {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(OpenVinoBackend, "_compiled", compiled)
    Segmenter.load(openvino_bundle(tmp_path / "toy", "bf16")).close()
    assert asked == ["bf16"]


def test_precision_that_this_cpu_replaces(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    if "FP16" in shared_core(openvino).get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has float16")
    with pytest.raises(
        DeviceError, match=r"asked OpenVINO for f16, this CPU gives .*; take a bundle of another precision"
    ):
        Segmenter.load(openvino_bundle(tmp_path / "toy", "fp16"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"device": "cuda"}, "OpenVINO, which has no CUDA; pass --device cpu"),
        ({"provider": "npu9"}, "asked OpenVINO for NPU9, it has "),
    ],
)
def test_devices_it_lacks(tmp_path: Path, arguments: dict[str, str], sentence: str) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(DeviceError) as caught:
        Segmenter.load(openvino_bundle(tmp_path / "toy"), **arguments)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


@pytest.mark.skipif(available_cores() < 2, reason="no more at a time than there are cores")
@pytest.mark.parametrize(("threads", "each"), [(None, 1), (2, 1), (5, 2)])
def test_several_at_a_time_share_the_threads(tmp_path: Path, threads: int | None, each: int) -> None:
    pytest.importorskip("openvino")
    with Segmenter.load(openvino_bundle(tmp_path / "toy"), threads=threads, parallel=2) as segmenter:
        requests = segmenter._backend._requests  # type: ignore[union-attr]
        models = [requests.take().get_compiled_model() for _ in range(2)]
    assert [model.get_property("INFERENCE_NUM_THREADS") for model in models] == [each, each]
    assert not any(model.get_property("ENABLE_CPU_PINNING") for model in models), "all of them on one core"


def test_a_thread_gets_the_request_that_it_had() -> None:
    """In whichever order they were given back; one that is taken is waited for, not shared."""
    requests = Requests()
    for name in ("one", "two"):
        requests.add(name)
    with ThreadPoolExecutor(1) as other, ThreadPoolExecutor(1) as third:
        mine, theirs = requests.take(), other.submit(requests.take).result()
        assert {mine, theirs} == {"one", "two"}
        waiting = third.submit(requests.take)
        requests.give_back(theirs)
        assert waiting.result(10) == theirs
        requests.give_back(mine)
        assert other.submit(requests.take).result(10) == mine, "its own isn't free"
        for name in (mine, theirs):
            requests.give_back(name)
        assert third.submit(requests.take).result(10) == theirs
        assert requests.take() == mine


def test_more_callers_than_requests_share_none() -> None:
    requests, taken, lock = Requests(), set[str](), threading.Lock()
    for name in ("one", "two"):
        requests.add(name)

    def call(_: int) -> None:
        request = requests.take()
        with lock:
            assert request not in taken
            taken.add(request)
        time.sleep(0.0005)
        with lock:
            taken.remove(request)
        requests.give_back(request)

    with ThreadPoolExecutor(5) as pool:
        assert len(list(pool.map(call, range(200), timeout=30))) == 200


def test_more_at_a_time_than_it_gives(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(
        DeviceError, match=r"asked OpenVINO for 4096 inferences at a time, cores for this process: \d+; ask for no more"
    ):
        Segmenter.load(openvino_bundle(tmp_path / "toy"), parallel=4096)
    with pytest.raises(DeviceError, match=r"asked for 2 inferences at a time of .* on gpu, which takes one"):
        Segmenter.load(openvino_bundle(tmp_path / "other"), provider="gpu", parallel=2)


def test_damaged_model(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    bundle = openvino_bundle(tmp_path / "toy")
    old = sha256(bundle / "model.onnx")
    (bundle / "model.onnx").write_bytes(b"no model")
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, sha256(bundle / "model.onnx")))
    with pytest.raises(BundleError, match=r"OpenVINO can't read .*model.onnx: .*; export the bundle again"):
        Segmenter.load(bundle)


def test_tensors_must_be_the_manifests(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    bundle = toy_bundle(tmp_path / "toy", manifest={"backend": "openvino", "input": {"height": 8, "width": 64}})
    with pytest.raises(
        BundleError, match=r"has the tensor frame: uint8\[1, 48, 64, 3\], expected frame: uint8\[1, 8, 64, 3\]"
    ):
        Segmenter.load(bundle)
