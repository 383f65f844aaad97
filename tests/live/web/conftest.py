"""Apps that serve, one for all tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_bundle import toy_bundle
from web_app import Running, running


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return toy_bundle(folder / "brightest", 48, 64), toy_bundle(folder / "darkest", 48, 64, flip=True)


@pytest.fixture(scope="module")
def served(pair: tuple[Path, Path]) -> Iterator[Running]:
    """On loopback, without a token."""
    patch = pytest.MonkeyPatch()
    with running(patch, pair) as one:
        yield one


@pytest.fixture(scope="module")
def guarded(pair: tuple[Path, Path]) -> Iterator[Running]:
    """For everybody, behind a token that was made here."""
    patch = pytest.MonkeyPatch()
    with running(patch, pair, serve="0.0.0.0:0") as one:
        yield one


@pytest.fixture(autouse=True)
def no_thread_left() -> None:
    """In place of that of tests/live: an app plays for a whole module here; ``running`` looks after its threads."""
