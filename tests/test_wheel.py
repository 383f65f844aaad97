"""The wheel holds what a clone holds: recipes, profiles and every command, used from any folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the clone and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    for name in ("rdd_deploy", "recipes", "studies", "export"):
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "dist", clone], check=True, timeout=200
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=200)
    shutil.rmtree(clone)
    return folder / "site"


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {
        "PYTHONPATH": str(installed),
        "COLUMNS": "400",
    }
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=200, check=False
    )


def test_every_recipe_and_profile_is_in_it(installed: Path) -> None:
    for folder in ("recipes", "studies", "export"):
        own = sorted(path.name for path in (ROOT / folder).glob("*.yaml"))
        assert own
        assert sorted(path.name for path in (installed / "rdd_deploy" / "shipped" / folder).iterdir()) == own


def test_the_web_view_is_in_it(installed: Path) -> None:
    own = sorted(path.name for path in (ROOT / "rdd_deploy" / "live" / "web" / "page").iterdir())
    assert "index.html" in own
    assert sorted(path.name for path in (installed / "rdd_deploy" / "live" / "web" / "page").iterdir()) == own


@pytest.mark.parametrize(
    "module",
    [
        "rdd_deploy",
        "rdd_deploy.live",
        "rdd_deploy.parity",
        "rdd_deploy.benchmark",
        "rdd_deploy.demo",
        "rdd_deploy.study",
    ],
)
def test_help(installed: Path, tmp_path: Path, module: str) -> None:
    done = run(installed, tmp_path, "-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_commands_find_recipes_and_profiles(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-m", "rdd_deploy.distill", "camvid_mbv3", "--dry-run", "data.rot=data")
    assert done.returncode == 2
    assert f"{installed / 'rdd_deploy' / 'shipped' / 'recipes' / 'camvid_mbv3.yaml'} has 1 problem" in done.stderr
    done = run(installed, tmp_path, "-m", "rdd_deploy.study", "camvid_half_main", "--dry-run", "data.rot=data")
    assert done.returncode == 2
    assert "data.rot: unknown key" in done.stderr  # of the study's recipe, which was found
    done = run(installed, tmp_path, "-m", "rdd_deploy.export", "--onnx")
    assert done.returncode == 2
    assert "runs/latest" in done.stderr  # what is missing is the run
    assert "no profile" not in done.stderr


def test_the_demo_finds_its_recipe(installed: Path, tmp_path: Path) -> None:
    code = (
        "from rdd_deploy.demo import RECIPE; from rdd_deploy.recipe import find_recipe, load_recipe;"
        " load_recipe(RECIPE); print(find_recipe(RECIPE))"
    )
    done = run(installed, tmp_path, "-c", code)
    assert done.stdout.strip() == str(installed / "rdd_deploy" / "shipped" / "recipes" / "streets_demo.yaml"), (
        done.stderr
    )
