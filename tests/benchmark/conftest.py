import sys
from pathlib import Path

import pytest

# made_up, toy_images and toy_bundle.
sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parents[1] / "runtime"),
]

from toy_bundle import CLASSES, PALETTE  # noqa: E402
from toy_images import make_toy_data  # noqa: E402

from rdd_deploy.data.base import FileSplit  # noqa: E402
from rdd_deploy.data.open import open_split  # noqa: E402


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_data(tmp_path_factory.mktemp("toy_data"))


@pytest.fixture
def toy_split(toy_data: Path) -> FileSplit:
    return open_split("folder", toy_data, "val", classes=CLASSES, palette=PALETTE)


@pytest.fixture
def one_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdd_deploy.benchmark.cold_start.RUNS", 1)
