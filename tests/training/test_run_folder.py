"""The run folder: the newest finished run is found, and an earlier run of the same name is never lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdd_deploy.errors import RddError, RecipeError
from rdd_deploy.models.config import Network
from rdd_deploy.recipe import StudentRecipe
from rdd_deploy.training.run_folder import RunFolder, find_run
from rdd_deploy.training.session import check_early, open_run

RECIPE = StudentRecipe(name="toy", student=Network(encoder="mobilenetv3_small_050", weights="none"))


def finished(runs: Path, name: str) -> RunFolder:
    with open_run(RECIPE, name, runs, resume=False) as folder:
        folder.student.write_bytes(name.encode())
        folder.finish({"name": name})
    return folder


def test_latest_is_the_newest_finished_run(tmp_path: Path) -> None:
    finished(tmp_path, "a")
    b = finished(tmp_path, "b")
    assert find_run(tmp_path / "latest").path.resolve() == b.path.resolve()
    finished(tmp_path, "a")
    assert (tmp_path / "latest").resolve().name == "a"


def test_a_new_run_moves_an_earlier_one_of_its_name_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = finished(tmp_path, "a")
    (first.path / "cache").mkdir()
    with open_run(RECIPE, "a", tmp_path, resume=False) as again:
        pass
    assert (tmp_path / "a.1" / "student.safetensors").read_bytes() == b"a"
    assert json.loads((tmp_path / "a.1" / "summary.json").read_text()) == {"name": "a"}
    assert not again.student.exists()
    assert again.recipe.is_file()
    assert (again.path / "cache").is_dir(), "a teacher's cache is found by content and serves the new run"
    assert (tmp_path / "latest").resolve().name == "a.1", (
        "until the new run is finished, the newest finished one is the old"
    )
    assert "an earlier run was in" in capsys.readouterr().out
    again.student.write_bytes(b"new")
    with open_run(RECIPE, "a", tmp_path, resume=False):
        pass
    assert (tmp_path / "a.2" / "student.safetensors").read_bytes() == b"new"


def test_resuming_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    folder = finished(tmp_path, "a")
    folder.state.write_bytes(b"state")
    with open_run(RECIPE, "a", tmp_path, resume=True) as again:
        assert again.student.read_bytes() == b"a"
    assert not (tmp_path / "a.1").exists()


def test_a_folder_named_latest_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(RddError, match="is a folder, expected a link to the newest run; move it away"):
        check_early(RECIPE, RunFolder(tmp_path / "a"), resume=False)
    assert finished(tmp_path, "a").finished, "a run that ends as that folder appears isn't lost"
    assert "is finished, but" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["a", "latest"])
def test_a_run_does_not_move_its_own_first_weights_aside(tmp_path: Path, by: str) -> None:
    weights = tmp_path / by / "student.safetensors"
    finished(tmp_path, "a")
    on = RECIPE.model_copy(update={"student": Network(encoder="mobilenetv3_small_050", weights=str(weights))})
    with pytest.raises(RecipeError, match="give it another name with --name"):
        check_early(on, RunFolder(tmp_path / "a"), resume=False)
    check_early(on, RunFolder(tmp_path / "b"), resume=False)
    assert weights.is_file()


def test_no_run_says_which_command_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RddError, match=r"no run folder .*nowhere; train one first: python -m rdd_deploy\.distill"):
        find_run(tmp_path / "nowhere")
