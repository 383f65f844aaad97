import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_bundle import CLASSES, PALETTE, toy_bundle, truth

from rdd_deploy.errors import BundleError, DeviceError, RddError, SourceError
from rdd_deploy.runtime import Segmenter, segmenter
from rdd_deploy.runtime.manifest import Manifest
from rdd_deploy.runtime.table import BACKENDS


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.load(toy_bundle(tmp_path_factory.mktemp("b") / "toy"), threads=1)


def random_frame(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_properties(toy: Segmenter) -> None:
    assert toy.classes == CLASSES
    assert toy.palette.dtype == np.uint8
    assert [tuple(row) for row in toy.palette.tolist()] == list(PALETTE)
    assert toy.input_size == (48, 64)
    assert (toy.precision, toy.backend, toy.device, toy.provider) == (
        "fp32",
        "onnxruntime",
        "cpu",
        "CPUExecutionProvider",
    )


def test_labels_at_the_networks_size_are_exact(toy: Segmenter) -> None:
    frame = random_frame(48, 64)
    assert np.array_equal(toy(frame), truth(frame))


def test_stages_make_up_the_call(toy: Segmenter) -> None:
    frame = random_frame(31, 100)
    network_input = toy.prepare(frame)
    assert (network_input.shape, network_input.dtype, network_input.flags.c_contiguous) == (
        (1, 48, 64, 3),
        np.dtype(np.uint8),
        True,
    )
    labels = toy.infer(network_input)
    assert (labels.shape, labels.dtype) == ((1, 48, 64), np.dtype(np.uint8))
    assert np.array_equal(toy.restore(labels, (31, 100)), toy(frame))


@settings(max_examples=60)
@given(height=st.integers(1, 700), width=st.integers(1, 700))
def test_any_frame_size(toy: Segmenter, height: int, width: int) -> None:
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = (10, 200, 30)
    labels = toy(frame)
    assert (labels.shape, labels.dtype) == ((height, width), np.dtype(np.uint8))
    assert (labels == 1).all()


def nearest(count: int, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest source pixel, and where that is unambiguous (a centre on a border may go either way)."""
    centres = (np.arange(count) + 0.5) * source / count
    return np.minimum(centres.astype(int), source - 1), np.abs(centres - centres.round()) > 1e-6


@pytest.mark.parametrize("size", [(96, 128), (72, 96), (31, 40), (360, 480)])
def test_restored_labels_lie_where_the_frame_has_them(toy: Segmenter, size: tuple[int, int]) -> None:
    """The nearest pixel centre: no half-pixel shift, which cv2.INTER_NEAREST has."""
    labels = np.random.default_rng(1).integers(0, 3, (1, 48, 64), np.uint8)
    (rows, row_clear), (columns, column_clear) = nearest(size[0], 48), nearest(size[1], 64)
    expected = labels[0][rows][:, columns]
    assert np.array_equal(toy.restore(labels, size)[row_clear][:, column_clear], expected[row_clear][:, column_clear])


def test_views_and_flipped_frames(toy: Segmenter) -> None:
    frame = random_frame(48, 128)
    assert np.array_equal(toy(frame[:, ::2]), truth(frame[:, ::2]))
    assert np.array_equal(toy(frame[::-1, 64:]), truth(frame[::-1, 64:]))


def test_labels_belong_to_the_caller(toy: Segmenter) -> None:
    frame = random_frame(48, 64)
    first = toy(frame)
    kept = first.copy()
    toy(255 - frame)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (
            np.zeros((4, 5), np.uint8),
            "got a frame of shape (4, 5) and type uint8, expected uint8 (height, width, 3) in BGR; it is grey: convert",
        ),
        (np.zeros((4, 5, 1), np.uint8), "it is grey: convert it with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"),
        (
            np.zeros((4, 5, 4), np.uint8),
            "it has an alpha channel: convert it with cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)",
        ),
        (np.zeros((0, 5, 3), np.uint8), "got a frame of shape (0, 5, 3) and type uint8, expected"),
        (np.zeros((4, 0, 3), np.uint8), "skip it: the source delivered nothing"),
        (np.zeros((4, 5, 3), np.float32), "type float32, expected uint8 (height, width, 3) in BGR; scale it to 0…255"),
        (np.zeros((2, 4, 5, 3), np.uint8), "give one colour frame at a time"),
        (None, "got a NoneType as a frame, expected a numpy array"),
        ([[1, 2, 3]], "got a list as a frame"),
    ],
)
def test_frames_that_are_refused(toy: Segmenter, frame: object, sentence: str) -> None:
    with pytest.raises(SourceError) as caught:
        toy(frame)  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert isinstance(caught.value, RddError)


def test_class_id_out_of_range(tmp_path: Path) -> None:
    with (
        Segmenter.load(toy_bundle(tmp_path / "toy", offset=5)) as broken,
        pytest.raises(BundleError, match="gave the class id"),
    ):
        broken(random_frame(48, 64))


def test_nothing_but_one_class_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(segmenter, "UNIFORM_FRAMES", 3)
    said: list[str] = []
    monkeypatch.setattr(segmenter.console, "warn", said.append)
    with Segmenter.load(toy_bundle(tmp_path / "toy", scale=float("nan"))) as broken:
        for _ in range(5):
            broken(random_frame(48, 64))
    assert len(said) == 1
    assert "gave nothing but blue for 3 frames in a row" in said[0]


def test_closed(tmp_path: Path) -> None:
    bundle = Segmenter.load(toy_bundle(tmp_path / "toy"))
    bundle.close()
    bundle.close()
    with pytest.raises(BundleError, match="'toy' was closed; load it again"):
        bundle(random_frame(4, 4))


@pytest.mark.parametrize(("threads", "expected"), [(0, "1 or more"), (5000, "1024 at most")])
def test_nonsensical_numbers_of_threads_are_refused(tmp_path: Path, threads: int, expected: str) -> None:
    with pytest.raises(RddError, match=f"asked for {threads} threads; expected {expected}"):
        Segmenter.load(toy_bundle(tmp_path / "toy"), threads=threads)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 1, 1, 3), np.uint8), ((48, 64, 3), np.uint8), ((1, 48, 64, 3), np.float32)]
)
def test_only_what_prepare_makes_is_taken(tmp_path: Path, backend: str, shape: tuple[int, ...], dtype: type) -> None:
    """Nothing is stretched or converted on the way into the network."""
    pytest.importorskip(backend)
    bundle = toy_bundle(tmp_path / "toy", manifest={"backend": backend, "profile": f"{backend}-fp32"})
    sentence = r"expected uint8\[1, 48, 64, 3\]; let `prepare` make it"
    with Segmenter.load(bundle) as segmenter, pytest.raises(SourceError, match=sentence):
        segmenter.infer(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("parallel", "threads", "sentence"),
    [
        (0, None, "asked for 0 inferences at a time; expected 1 or more"),
        (-2, None, "asked for -2 inferences at a time; expected 1 or more"),
        (3, 2, "asked for 3 inferences at a time; expected 1 to 2, at most one for each of the 2 threads"),
    ],
)
def test_parallel_must_be_positive_and_has_a_thread_each(
    tmp_path: Path, parallel: int, threads: int | None, sentence: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        Segmenter.load(toy_bundle(tmp_path / "toy"), threads=threads, parallel=parallel)
    assert str(caught.value) == sentence


@pytest.fixture(params=["onnxruntime", "openvino"])
def parallel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Segmenter]:
    """Two at a time, with a network that is long enough for them to overlap."""
    pytest.importorskip(request.param)
    if (os.cpu_count() or 1) < 2:
        pytest.skip("OpenVINO gives no more inferences at a time than there are cores")
    bundle = toy_bundle(
        tmp_path / "toy", manifest={"backend": request.param, "profile": f"{request.param}-fp32"}, work=6
    )
    with Segmenter.load(bundle, parallel=2) as segmenter:
        yield segmenter


def test_threads_at_a_time_give_the_same_labels(parallel: Segmenter) -> None:
    frames = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8) for seed in range(40)]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(parallel, frames))
    assert parallel.parallel == 2
    for frame, labels in zip(frames, answers, strict=True):
        assert np.array_equal(labels, truth(frame))


def test_more_callers_than_that_wait(parallel: Segmenter) -> None:
    frames = [np.full((48, 64, 3), (10, 200, 30), np.uint8), np.full((48, 64, 3), (10, 20, 230), np.uint8)] * 10
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(parallel, frames))
    assert [int(labels.max()) for labels in answers] == [1, 2] * 10


def test_registry_and_manifest_name_the_same_backends() -> None:
    assert Manifest.model_fields["backend"].annotation.__args__ == tuple(BACKENDS)  # type: ignore[union-attr]
