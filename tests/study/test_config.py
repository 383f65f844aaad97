"""A study's file: every problem at once, what extends does, and that every shipped study resolves."""

from pathlib import Path
from typing import Any

import pytest
import toys
from toy_study import plan_of, write

from rdd_deploy.errors import RecipeError
from rdd_deploy.recipe_files import find_study
from rdd_deploy.study.config import file_name, load_study
from rdd_deploy.study.plan import make_plan

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").rglob("*.y*ml"))
LOSSES_OF_METHODS = {"at", "fitnet", "skd", "ifvd", "cwd_features", "dsd_pixel", "cirkd_memory", "dist", "pearson"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toys.write_story(tmp_path, {"teacher": {"recipe": "teacher.yaml", "cache": True}})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_problem_at_once(folder: Path) -> None:
    path = write(
        folder / "s.yaml", seed=[1], recipe="studnt.yaml", seeds=[0, -1], baseline="kd",
        variants={"KD": {"sett": []}, "RDD": {"alone": 3, "seeds": []}},
    )  # fmt: skip
    with pytest.raises(RecipeError) as error:
        load_study(path)
    told = error.value.lines
    assert told[0] == f"{path} has 6 problems:"
    assert told[1].startswith("recipe: no recipe 'studnt.yaml'")
    assert any(
        line.startswith("seed: unknown key; did you mean 'seeds'? allowed: name, extends, recipe, set, ")
        for line in told
    )
    assert "variants.KD.sett: unknown key; did you mean 'set'? allowed: alone, set, seeds" in told
    assert any(line.startswith("variants.RDD.alone: ") for line in told)
    assert any(line.startswith("variants.RDD.seeds: ") for line in told)
    assert any(line.startswith("seeds.1: got -1") for line in told)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"baseline": "kd"}, "baseline: got 'kd', expected one of KD, RDD"),
        ({"seeds": [3, 3]}, "seeds: 3 given twice"),
        (
            {"variants": {"KD": {}, "k d": {}, "K-D": {}}},
            "variants: 'K-D' and 'k d' would both be K-D on disk; rename one",
        ),
        ({"variants": {"KD": {}, "a\nb": {}}}, r"variants: the name 'a\nb' can't be one"),
        ({"variants": {}}, "variants: got {}, expected"),
        ({"recipe": "none"}, "recipe: missing; expected a value"),
        ({"seeds": [True]}, "seeds: got [True], expected a number"),
        ({"extends": "nowhere.yaml"}, "extends: no study 'nowhere.yaml'"),
        ({"extends": "s.yaml"}, "extends itself"),
    ],
)
def test_mistakes(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_study(write(folder / "s.yaml", **changes))
    assert sentence in str(error.value)


def test_problems_of_the_variants_recipes_are_told_together(folder: Path) -> None:
    variants = {
        "KD": {"set": {"distillation.method": "kdd"}},
        "RDD": {},
        "more": {"set": {"distillation.method": "kdd"}},
    }
    with pytest.raises(RecipeError) as error:
        plan_of(write(folder / "s.yaml", variants=variants), "train.ephocs=3", "train.seed=1")
    assert error.value.lines == [
        "s.yaml has 3 problems:".replace("s.yaml", str(folder / "s.yaml")),
        "train.seed can't be overridden in a study: seeds: lists the seeds, and each run has a name of its own",
        "variants.KD, more: distillation.method: got 'kdd', expected 'rdd' or 'kd'; did you mean 'kd'?",
        next(
            line
            for line in error.value.lines
            if line.startswith("every variant: train.ephocs: unknown key; did you mean 'epochs'?")
        ),
    ]


def test_overrides_are_a_mapping_or_the_command_lines_words(folder: Path) -> None:
    losses = [{"name": "cwd", "weight": 1e-05, "options": {"temperature": 2.5}}]
    variants = {
        "KD": {"set": {"distillation.losses": losses, "data.root": str(folder / "data")}},
        "RDD": {
            "set": [
                "distillation.losses=[{name: cwd, weight: 1e-05, options: {temperature: 2.5}}]",
                f"data.root={folder / 'data'}",
            ]
        },
    }
    plan = plan_of(write(folder / "s.yaml", variants=variants, set={"train.lr": 0.5}), "train.epochs=7")
    one, two = (run.recipe for run in plan.runs[:2])
    assert one.distillation.losses[0].model_dump() == losses[0]
    assert one.model_dump(exclude={"name"}) == two.model_dump(exclude={"name"})
    assert (one.train.lr, one.train.epochs) == (0.5, 7)


def test_a_part_that_is_set_as_a_mapping_keeps_its_other_keys(folder: Path) -> None:
    nested = {
        "train": {"epochs": 5},
        "distillation": {"tse": {"rule": "lead"}, "kd_weight": 2},
        "distillation.tse": {"min_kept": 9},
    }
    dotted = {
        "train.epochs": 5,
        "distillation.tse.rule": "lead",
        "distillation.kd_weight": 2,
        "distillation.tse.min_kept": 9,
    }
    plan = plan_of(write(folder / "s.yaml", variants={"KD": {"set": nested}, "RDD": {"set": dotted}}, seeds=[0]))
    one, two = (run.recipe.model_dump(exclude={"name"}) for run in plan.runs)
    assert one == two
    assert one["train"]["lr"] == toys.tree(folder)["train"]["lr"]
    other = {"data": {"name": "streets", "count": 4, "size": [64, 64]}}  # another data set is given as a whole
    plan = plan_of(write(folder / "t.yaml", variants={"KD": {"alone": True, "set": other}}, seeds=[0]))
    assert (plan.runs[0].recipe.data.name, plan.runs[0].recipe.data.size) == ("streets", (64, 64))


def test_runs_come_by_seed_each_with_its_own_folder_and_the_shared_teacher(folder: Path) -> None:
    variants = {"KD": {"set": {"distillation.method": "kd"}}, "KD + x | y": {"seeds": [1, 5]}, "alone": {"alone": True}}
    plan = plan_of(write(folder / "s.yaml", variants=variants))
    assert [str(run.folder.path) for run in plan.runs] == [
        "runs/s/KD_s0", "runs/s/alone_s0", "runs/s/KD_s1", "runs/s/KD-x-y_s1", "runs/s/alone_s1", "runs/s/KD-x-y_s5",
    ]  # fmt: skip
    assert [run.recipe.train.seed for run in plan.runs] == [0, 0, 1, 1, 1, 5]
    teacher = folder / "runs" / "teacher" / "teacher.safetensors"
    assert [run.teacher for run in plan.runs] == [teacher, None, teacher, teacher, None, teacher]
    assert list(plan.teachers) == [teacher]
    words = " ".join(plan.runs[1].words)
    assert words.startswith("-m rdd_deploy.train ")
    assert words.endswith("--output runs/s --name alone_s0")


def test_names_are_safe_on_disk() -> None:
    assert [file_name(name) for name in ("KD + RDD", "../x", "10 %", "é", "a/b")] == [
        "KD-RDD",
        "x",
        "10",
        "variant",
        "a-b",
    ]


def test_extends_takes_what_isnt_given(folder: Path) -> None:
    (folder / "inner").mkdir()
    toys.write_recipe(
        folder / "inner" / "other.yaml", toys.tree(folder / "data") | {"teacher": {"recipe": "../teacher.yaml"}}
    )
    write(folder / "inner" / "base.yaml", recipe="other.yaml", set={"train.lr": 0.5})
    path = folder / "s.yaml"
    path.write_text("extends: inner/base.yaml\nseeds: [4]\n", encoding="utf-8")
    study, _ = load_study(path)
    assert (study.name, study.seeds, list(study.variants), study.set) == ("s", [4], ["KD", "RDD"], ["train.lr=0.5"])
    assert Path(study.recipe).resolve() == folder / "inner" / "other.yaml"  # beside the file that names it
    path.write_text("extends: inner/base.yaml\nrecipe: student.yaml\nset: []\n", encoding="utf-8")
    study, _ = load_study(path)
    assert (study.seeds, study.set) == ([0, 1], [])
    assert Path(study.recipe).resolve() == folder / "student.yaml"


def test_variants_are_measured_on_the_same_frames(folder: Path) -> None:
    with pytest.raises(RecipeError, match="measured on different frames"):
        plan_of(write(folder / "s.yaml", variants={"KD": {}, "test": {"set": {"evaluation.split": "test"}}}))


def test_there_are_studies_at_half_and_full_size() -> None:
    names = {path.stem for path in STUDIES}
    assert {
        f"camvid_{size}_{kind}"
        for size in ("half", "full")
        for kind in ("main", "methods", "combined", "stages", "rule", "second", "threshold")
    } | {
        "streets_methods", "streets_combined", "camvid_paper_methods", "cityscapes_methods", "voc_methods", "ade_methods",
        "camvid_half_unlabelled", "camvid_half_unlabelled_quarter", "camvid_short", "camvid_short_batch", "camvid_short_labels", "camvid_short_parts",
        "camvid_short_students", "camvid_short_task",
    } == names  # fmt: skip
    assert find_study("camvid_half_main").name == "camvid_half_main.yaml"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_resolves(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # recipes are found from anywhere
    study, source = load_study(path)
    plan = make_plan(study, source, Path("runs"), [], None)
    assert len(plan.runs) == sum(len(one.seeds or study.seeds) for one in study.variants.values())
    teachers = 2 if path.stem == "camvid_short_labels" else 1
    assert len(plan.teachers) == (0 if all(one.alone for one in study.variants.values()) else teachers)
    text = path.read_text(encoding="utf-8")
    assert f"python -m rdd_deploy.study studies/{path.name}" in text
    assert "# Measured: " in text
    recipes = {
        run.variant: run.recipe.model_dump_json(exclude={"name": True, "train": {"seed"}}) + str(run.alone)
        for run in plan.runs
    }
    assert len(set(recipes.values())) == len(recipes)  # no two variants are the same experiment
    if path.stem == "camvid_full_methods":
        assert {loss.name for run in plan.runs for loss in run.recipe.distillation.losses} >= LOSSES_OF_METHODS
