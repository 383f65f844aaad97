"""One toy run that every export test starts from: a network that has really learned its stripes, so that accuracy means
something.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import toys
from toy_export import SIZE, mobilenet, taught, write_run

from rdd_deploy.export.onnx import export as onnx_export
from rdd_deploy.export.trained_run import TrainedRun, open_run
from rdd_deploy.models.segmenter import Segmenter


@pytest.fixture(scope="session", autouse=True)
def exported_once() -> Iterator[None]:
    """A network with the same weights is exported at one size once for all tests: the exporter takes
    seconds each time.
    """
    export, made = onnx_export.onnx_from_segmenter, {}

    def remembered(segmenter: Segmenter, size: tuple[int, int]) -> onnx.ModelProto:
        digest = hashlib.sha256()
        for name, tensor in segmenter.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        key = (digest.digest(), repr(segmenter), str(segmenter.network), size)
        if key not in made:
            made[key] = export(segmenter, size)
        copied = onnx.ModelProto()  # callers add their metadata
        copied.CopyFrom(made[key])
        return copied

    with pytest.MonkeyPatch.context() as patched:
        for module in ("onnx.export", "trained_run"):
            patched.setattr(f"rdd_deploy.export.{module}.onnx_from_segmenter", remembered)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_data(tmp_path_factory.mktemp("data"), train=6, val=3, height=SIZE[0], width=SIZE[1])


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return taught(mobilenet())


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path, segmenter: Segmenter) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "toy", data, segmenter, mobilenet())


@pytest.fixture(scope="session")
def source(run: Path) -> TrainedRun:
    return open_run(run)


@pytest.fixture(scope="session")
def light_segmenter() -> Segmenter:
    """Of few layers: for processes that export on their own, and where only the steps matter."""
    return taught(toys.network())


@pytest.fixture(scope="session")
def light_run(tmp_path_factory: pytest.TempPathFactory, data: Path, light_segmenter: Segmenter) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "light", data, light_segmenter, toys.network())


@pytest.fixture(scope="session")
def light_source(light_run: Path) -> TrainedRun:
    return open_run(light_run)


@pytest.fixture(scope="session")
def light_graph(light_segmenter: Segmenter) -> onnx.ModelProto:
    """Its plain float export. Tests must not change it."""
    return onnx_export.onnx_from_segmenter(light_segmenter, SIZE)


@pytest.fixture(scope="session")
def graph(segmenter: Segmenter) -> onnx.ModelProto:
    """The plain float export. Tests must not change it."""
    return onnx_export.onnx_from_segmenter(segmenter, SIZE)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where a test's bundles go; nothing half-written may be left there."""
    folder = tmp_path / "bundles"
    yield folder
    if folder.is_dir():
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
