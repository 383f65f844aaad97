import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Toy networks: threads cost more than they give, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a model hub

import hypothesis
import pytest

import rdd_deploy  # noqa: F401  # before any test imports a backend: it keeps them from phoning home

# A shell's background jobs ignore it, and so would what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("untimed", deadline=None)  # no verdict depends on how busy the machine is
hypothesis.settings.load_profile("untimed")

CAMVID = (os.environ.get("RDD_CAMVID"), "data/camvid", "../shared/data/camvid")


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The real CamVid; tests that need it carry the marker ``camvid``."""
    found = [Path(place) for place in CAMVID if place and (Path(place) / "train").is_dir()]
    if not found:
        pytest.skip("no CamVid: set RDD_CAMVID or put it into data/camvid")
    return found[0].resolve()


LAUNCHED = {
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
} - os.environ.keys()


@pytest.fixture(autouse=True)
def _nothing_of_launchers_stays() -> Iterator[None]:
    """Else a later test's training waits for processes that nobody starts."""
    yield
    left = LAUNCHED & os.environ.keys()
    for name in left:
        del os.environ[name]
    assert not left
