"""Where things lie: another current directory, ``~``, file systems without symbolic links."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from toys import call, errors_of, network, teacher_tree, tree, write_data, write_recipe

from rdd_deploy.data.open import open_data
from rdd_deploy.errors import DataError, RddError, RecipeError
from rdd_deploy.export.profile import load_profile
from rdd_deploy.live.bundles import newest_bundle
from rdd_deploy.models.config import Network
from rdd_deploy.recipe import Recipe, StudentRecipe, load_distillation, load_recipe
from rdd_deploy.recipe_files import find_recipe
from rdd_deploy.training.run_folder import RunFolder, find_run
from rdd_deploy.training.session import check_early, open_run
from rdd_deploy.utils.places import followed, words_of

RECIPE = StudentRecipe(name="toy", student=Network(encoder="mobilenetv3_small_050", weights="none"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A recipe whose every path is relative to its own file."""
    root = tmp_path / "project"
    write_data(root / "data", train=2, val=1)
    (root / "w.safetensors").write_bytes(b"")
    (root / "t.safetensors").write_bytes(b"")
    write_recipe(root / "teacher.yaml", teacher_tree(Path("data")))
    content = tree(Path("data"), student=network(weights="w.safetensors"))
    write_recipe(root / "student.yaml", content | {"teacher": {"recipe": "teacher", "checkpoint": "t.safetensors"}})
    return root


def paths(recipe: Recipe) -> list[Path]:
    assert isinstance(recipe, StudentRecipe)
    assert recipe.teacher is not None
    return [
        Path(str(p))
        for p in (recipe.data.root, recipe.student.weights, recipe.teacher.recipe, recipe.teacher.checkpoint)
    ]


def test_a_recipes_paths_are_found_beside_it_from_any_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [project / name for name in ("data", "w.safetensors", "teacher.yaml", "t.safetensors")]
    for here, named in (
        (project, "student.yaml"),
        (tmp_path, "project/student.yaml"),
        (Path("/"), str(project / "student.yaml")),
    ):
        monkeypatch.chdir(here)
        recipe = load_recipe(named)
        assert [path.resolve() for path in paths(recipe)] == expected
        run = RunFolder(tmp_path / "runs" / "x")
        run.write_recipe(recipe)
        assert recipe.data.provenance()["data_root"] == str(project / "data")
        monkeypatch.chdir("/")
        assert paths(run.load_recipe()) == expected, "a run's recipe means the same from everywhere"
        assert len(open_data(run.load_recipe().data, "train")) == 2


def test_what_was_typed_is_relative_to_here_first(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data", train=1, val=1)
    write_data(project / "more", train=1, val=1)
    assert load_recipe("project/student.yaml").data.root == "project/data"
    assert load_recipe("project/student.yaml", ["data.root=./data"]).data.root == "./data"
    assert load_recipe("project/student.yaml", ["data.root=more"]).data.root == "project/more"
    with pytest.raises(
        DataError, match=rf"no train split in lost: .*\(lost is taken relative to {tmp_path}; give another .* --data\)$"
    ):
        open_data(load_recipe("project/student.yaml", ["data.root=lost"]).data, "train")


def test_home_in_every_path(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.chdir(tmp_path)
    words = [
        "data.root=~/data",
        "student.weights=~/w.safetensors",
        "teacher.recipe=~/teacher",
        "teacher.checkpoint=~/t.safetensors",
    ]
    expected = [project / name for name in ("data", "w.safetensors", "teacher.yaml", "t.safetensors")]
    assert paths(load_distillation("~/student", words)) == expected
    (tmp_path / "p.yaml").write_text("{backend: onnxruntime, precision: int8, calibration: {folder: ~/data/train}}")
    calibration = load_profile(tmp_path / "p.yaml").calibration
    assert calibration is not None
    assert calibration.folder == str(project / "data" / "train")
    assert words_of("--data=~/x") == [f"--data={project}/x"]
    assert words_of("~/x") == [f"{project}/x"]
    assert words_of("--name=a~b") == ["--name=a~b"]
    for word in ("--stats=~nobody-here/x.json", "~nobody-here"):
        with pytest.raises(RddError, match="no home folder is known for '~nobody-here'"):
            words_of(word)
    with pytest.raises(
        RecipeError,
        match=r"data\.root: got '~nobody-here/x', but no home folder is known for '~nobody-here' .* write the whole",
    ):
        load_recipe("~/student", ["data.root=~nobody-here/x"])


def test_a_profiles_folder_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "p.yaml").write_text("{backend: onnxruntime, precision: int8, calibration: {folder: images}}")
    monkeypatch.chdir("/")
    calibration = load_profile(tmp_path / "p.yaml").calibration
    assert calibration is not None
    assert calibration.folder == str(tmp_path / "images")


def test_a_shipped_recipe_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = find_recipe("streets_demo")
    teacher = load_recipe(source).teacher
    assert teacher is not None
    assert Path(str(teacher.recipe)) == source.parent / "streets_teacher.yaml"


ERRNOS = [
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EACCES,
    errno.EIO,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EPROTO,
]


@pytest.mark.parametrize("number", ERRNOS)
def test_without_symbolic_links_latest_is_a_text_file(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Any, target: Any, *rest: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), source, None, target)

    os.symlink("b", tmp_path / "latest")  # of another file system, from which the folder was copied
    monkeypatch.setattr(os, "symlink", refuse)
    for name in ("a", "b", "a"):
        check_early(RECIPE, RunFolder(tmp_path / name), resume=False)
        with open_run(RECIPE, name, tmp_path, resume=False) as run:
            run.student.write_bytes(b"")
            run.finish({})
        assert (tmp_path / "latest").read_text() == f"{name}\n"
        assert find_run(tmp_path / "latest").path == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.1", "b", "latest"]
    with open_run(RECIPE, "a", tmp_path, resume=False):
        assert find_run(tmp_path / "latest").path == tmp_path / "a.2", (
            "moved aside, it is still the newest finished one"
        )
    for bundle in ("x", "y"):
        (tmp_path / "a.2" / "export" / bundle).mkdir(parents=True)
        (tmp_path / "a.2" / "export" / bundle / "manifest.json").write_text("{}")
    assert newest_bundle(tmp_path / "latest" / "export").parent == tmp_path / "a.2" / "export"
    assert words_of(f"{tmp_path}/latest/export/*") == [f"{tmp_path}/a.2/export/x", f"{tmp_path}/a.2/export/y"]
    assert words_of(f"--bundle={tmp_path}/latest/export/x") == [f"--bundle={tmp_path}/a.2/export/x"]


@pytest.mark.parametrize("content", ["", "../elsewhere", "/etc", "my notes\nof today", "latest", "x" * 300, "\udcff"])
def test_a_file_of_the_users_own_is_no_link(tmp_path: Path, content: str) -> None:
    (tmp_path / "latest").write_bytes(content.encode(errors="surrogateescape"))
    assert followed(tmp_path / "latest" / "export") == tmp_path / "latest" / "export"
    with pytest.raises(Exception, match="is a file, expected a link to the newest run; move it away"):
        check_early(RECIPE, RunFolder(tmp_path / "a"), resume=False)


def test_a_run_is_evaluated_from_another_folder(tmp_path: Path) -> None:
    write_data(tmp_path / "data", train=2, val=1)
    write_recipe(tmp_path / "toy.yaml", tree(Path("data")))
    (tmp_path / "elsewhere").mkdir()
    assert call("train", "toy.yaml", "train.epochs=1", cwd=tmp_path).returncode == 0
    run = tmp_path / "runs" / "toy_alone"
    done = call("evaluate", run, cwd=tmp_path / "elsewhere")
    assert (done.returncode, errors_of(done)) == (0, [])
    resumed = call(
        "train", "../toy.yaml", "train.epochs=1", "--resume", "--output", "../runs", cwd=tmp_path / "elsewhere"
    )
    assert (resumed.returncode, errors_of(resumed)) == (0, [])
