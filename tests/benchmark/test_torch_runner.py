from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from rdd_deploy.benchmark.cold_start import cold_start  # noqa: E402
from rdd_deploy.benchmark.runners import Candidate  # noqa: E402
from rdd_deploy.errors import DeviceError  # noqa: E402
from rdd_deploy.models.config import Network  # noqa: E402
from rdd_deploy.models.segmenter import Segmenter  # noqa: E402
from rdd_deploy.models.weights import save_segmenter  # noqa: E402

CLASSES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "student.safetensors"
    segmenter = Segmenter(Network(encoder="mobilenetv3_small_050", head="lraspp", weights="none"), len(CLASSES)).eval()
    save_segmenter(path, segmenter, {"classes": CLASSES, "palette": [[0, 0, 255]] * 3, "size": [48, 64]})
    return path


@pytest.mark.parametrize(
    "kind", ["torch-eager", "torch-channels-last", pytest.param("torch-compile", marks=pytest.mark.slow)]
)
def test_it_keeps_a_bundles_contract(weights: Path, kind: str) -> None:
    from rdd_deploy.models.weights import load_segmenter

    runner = Candidate(kind, kind, weights, "cpu", 1, (64, 96)).open()  # type: ignore[arg-type]
    assert (runner.classes, runner.input_size, runner.device, runner.provider) == (
        tuple(CLASSES),
        (64, 96),
        "cpu",
        kind,
    )
    frame = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    network_input = runner.prepare(frame)
    assert network_input.shape == (1, 64, 96, 3)
    labels = runner.infer(network_input)
    rgb = torch.from_numpy(np.ascontiguousarray(network_input[..., ::-1])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = load_segmenter(weights)[0](rgb).primary.argmax(1).numpy()
    assert (labels.shape, labels.dtype) == ((1, 64, 96), np.uint8)
    assert (labels == expected).mean() > 0.999  # ties may fall otherwise in another memory layout
    assert runner.restore(labels, (128, 192)).shape == (128, 192)
    runner.close()


def test_the_size_it_was_trained_for_is_the_default(weights: Path) -> None:
    assert Candidate("torch-eager", "torch-eager", weights, "cpu", 1).open().input_size == (48, 64)


def test_a_gpu_that_is_not_there(weights: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"the device is 'cuda:99' but torch .* finds \d+ CUDA devices; use one of them, or the cpu"
    ):
        Candidate("torch-eager", "torch-eager", weights, "cuda:99", 1).open()


@pytest.mark.slow
def test_a_cold_start_counts_the_import(weights: Path) -> None:
    cold = cold_start(Candidate("torch-eager", "torch-eager", weights, "cpu", 1, (48, 64)))
    assert cold.memory_before_load_mib < cold.peak_memory_mib
