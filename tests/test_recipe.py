import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys import network, teacher_tree, tree, write_data, write_recipe

from rdd_deploy.errors import RecipeError
from rdd_deploy.losses import LOSSES
from rdd_deploy.losses.config import ExtraLoss
from rdd_deploy.recipe import StudentRecipe, kind_of, load_distillation, load_recipe, with_whole_paths
from rdd_deploy.recipe_files import check_name, find_recipe
from rdd_deploy.schema import validated
from rdd_deploy.training.run_folder import RunFolder


def problems(content: dict[str, Any]) -> list[str]:
    with pytest.raises(RecipeError) as raised:
        validated(kind_of(content), content, "toy.yaml")
    return str(raised.value).splitlines()[1:]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"network": network()}, "a recipe has either a student (to distil) or a network (to be trained as a teacher), not both and not neither"),
        ({"student": None}, "a recipe has either a student (to distil) or a network (to be trained as a teacher), not both and not neither"),
        ({"student": None, "network": network(), "teacher": {"recipe": "x"}}, "a teacher recipe (network) can't name a teacher; a student recipe does"),
        ({"teacher": {}}, "  teacher names neither a recipe nor a checkpoint; give teacher.recipe or teacher.checkpoint"),
        ({"augment": {"scale": [2.0, 1.0]}}, "  augment.scale is [2.0, 1.0]; expected [least, largest]"),
        ({"augment": {"scale": [1e-6, 1.0]}}, "  augment.scale.0: got 1e-06, expected: input should be greater than or equal to 0.1"),
        ({"augment": {"scale": [1.0, 300]}}, "  augment.scale.1: got 300, expected: input should be less than or equal to 10"),
        ({"teacher": {"recipe": "x", "cache": "full"}}, "  teacher.cache: got 'full', expected true, false or dense"),
        ({"teacher": {"recipe": "x", "cache": True, "scales": [0.5, 300]}}, "  teacher.scales.1: got 300, expected: input should be less than or equal to 10"),
        ({"teacher": {"recipe": "x", "cache": True, "scales": [0.01]}}, "  teacher.scales.0: got 0.01, expected: input should be greater than or equal to 0.1"),
        ({"distillation": {"losses": [{"name": "kd", "options": {"ignore_index": 0}}]}}, "distillation.losses.0.options.ignore_index: unknown option of the loss 'kd'; allowed: temperature, standardize"),
        ({"data": {"name": "folder", "classes": ["a", "b", "c"], "void_ids": [0, 255]}}, "  data.void_ids is [0, 255], of which [0] are ids of classes; expected ids from 3 on"),
        ({"data": {"name": "folder", "classes": ["a", "b", "c"], "void_ids": [0]}}, "data.ids says which value is which class, e.g. data.ids=[1, 2, 3]"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": [3]}}, "  data.ids has 1 entries for 2 classes; give one value, or list of values, a class"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": [3, [4, 3]]}}, "  data.ids gives [3] to more than one class, or twice to one; expected each mask value once"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": [0, 255]}}, "  data.ids and data.void_ids both hold [255]; where these values are classes, set data.void_ids=[]"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": [0, -1]}}, "  data.ids.1.0: got -1, expected: input should be greater than or equal to 0"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": [0, 65536]}}, "  data.ids.1.0: got 65536, expected: input should be less than or equal to 65535"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": [0, []]}}, "  data.ids.1: got [], expected: list should have at least 1 item after validation, not 0"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": [0, "b"]}}, "  data.ids.1: got 'b', expected a list in brackets"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": [0, True]}}, "  data.ids: got [0, True], expected a number, not true or false"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "ids": {"a": 0}}}, "  data.classes names b, which nothing in data.ids means; name it there"),
        ({"data": {"name": "camvid", "ids": [[0]]}}, "data.ids belongs to the 'folder' data set, not to 'camvid'; leave it out"),
        ({"data": {"name": "streets", "others_void": True}}, "data.others_void belongs to the 'folder' data set, not to 'streets'; leave it out"),
        ({"evaluation": {"split": "train"}}, "  evaluation.split: got 'train', expected 'val' or 'test'"),
        ({"augment": {"crop": [16, 64]}}, "  augment.crop: got [16, 64], expected at least [32, 32]"),
        ({"data": {"name": "folder"}}, "  data.classes is missing; a 'folder' data set needs its class names in the order of their ids"),
        ({"data": {"name": "streets", "classes": ["a"]}}, "  data.classes belongs to the 'folder' data set, not to 'streets'; leave it out"),
        ({"distillation": {"tse": {"min_kept": 1.5}}}, "min_kept is 1.5; expected a share from 0 to 1, or a whole number of pixels"),
        (
            {"teacher": {"checkpoint": "t", "options": {"sharpness": 1}}},
            "  teacher.options.sharpness: unknown option of the teacher source 'segmenter'; allowed: none",
        ),
        ({"teacher": {"checkpoint": "t", "source": "onxx"}}, "  teacher.source: got 'onxx', expected 'segmenter', 'torchvision', 'smp', 'hugging_face' or 'onnx'; did you mean 'onnx'?"),
        ({"name": "latest"}, "name is 'latest', which links to the newest run; choose another"),
        ({"augment": {"crop": [4_000_000, 64]}}, "augment.crop: got [4000000, 64], expected at most [8192, 8192]"),
        ({"train": {"seed": -1}}, "train.seed: got -1, expected: input should be greater than or equal to 0"),
        ({"train": {"seed": 2**63}}, "train.seed: got 9223372036854775808, expected: input should be less than 9223372036854775808"),
        ({"data": {"name": "streets", "seed": -1}}, "data.seed: got -1, expected: input should be greater than or equal to 0"),
        ({"data": {"name": "streets", "void_ids": [3]}}, "data.void_ids belongs to the 'folder' data set, not to 'streets'; leave it out"),
        ({"data": {"name": "camvid", "count": 8}}, "data.count belongs to the 'streets' data set, not to 'camvid'; leave it out"),
        ({"data": {"name": "camvid", "seed": 8}}, "data.seed belongs to the 'streets' data set, not to 'camvid'; leave it out"),
        ({"data": {"name": "folder", "classes": ["a", "a"]}}, "data.classes is ['a', 'a']; expected names that differ from each other, none of them empty"),
        ({"data": {"name": "folder", "classes": ["a", " "]}}, "data.classes is ['a', ' ']; expected names that differ from each other, none of them empty"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "palette": [[1, 2, 3]]}}, "data.palette has 1 colours for 2 classes; give one colour a class"),
        ({"data": {"name": "folder", "classes": ["a", "b"], "palette": [[300, 0, 0], [0, 5, 0]]}}, "data.palette.0.0: got 300, expected: input should be"),
        ({"data": {"name": "streets", "count": True}}, "data.count: got True, expected a number, not true or false"),
        ({"train": {"epochs": True}}, "train.epochs: got True, expected a number, not true or false"),
        ({"data": {"name": "streets", "size": [True, 64]}}, "data.size: got [True, 64], expected a number, not true or false"),
        ({"name": "a b"}, "name: got 'a b', expected: string should match pattern"),
        ({"train": {"ema": 1.0}}, "train.ema: got 1.0, expected: input should be less than 1"),
        ({"train": {"lr": float("nan")}}, "train.lr: got nan, expected: "),
        ({"data": {"size": [64]}}, "data.size: got [64], expected [height, width], e.g. [360, 480]"),
        ({"augment": {"scale": [1.0]}}, "augment.scale.1: missing; expected a value"),
        ({"data": {"name": "camvit"}}, "data.name: got 'camvit', expected 'camvid', 'cityscapes', 'voc', 'ade20k', 'folder' or 'streets'; did you mean 'camvid'?"),
        ({"distillation": {"losses": [{"name": "kd", "wait": 1}]}}, "distillation.losses.0.wait: unknown key; did you mean 'weight'? allowed: name, weight, options"),
    ],
)  # fmt: skip
def test_one_problem(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    content = {key: value for key, value in (tree(tmp_path) | change).items() if value is not None}
    got = problems(content)
    assert len(got) == 1, got
    assert problem in got[0]


def test_min_kept_keeps_its_kind(tmp_path: Path) -> None:
    """1.0 is every pixel, 1 is one pixel; also after the run folder wrote and read the recipe."""
    for value in (1, 1.0, 0.05, 100_000, 0):
        content = tree(tmp_path) | {"distillation": {"tse": {"min_kept": value}}}
        recipe = validated(kind_of(content), content, "toy.yaml")
        folder = RunFolder(tmp_path / "run")
        folder.write_recipe(recipe.model_copy(update={"name": "run"}))
        for one in (recipe, folder.load_recipe()):
            kept = one.distillation.tse.min_kept
            assert (kept, type(kept)) == (value, type(value))


def test_a_written_recipe_reads_the_same(tmp_path: Path) -> None:
    content = tree(tmp_path) | {
        "teacher": {"recipe": "teacher.yaml", "cache": True, "scales": [1.0, 1.5]},
        "distillation": {"losses": [{"name": "cwd", "weight": 2, "options": {"temperature": 3.0}}]},
    }
    recipe = validated(kind_of(content), content | {"name": "run"}, "toy.yaml")
    RunFolder(tmp_path / "run").write_recipe(recipe)
    assert RunFolder(tmp_path / "run").load_recipe() == with_whole_paths(recipe)


def test_ids_are_a_value_or_several_a_class(tmp_path: Path) -> None:
    content = tree(tmp_path)
    content["data"] |= {"ids": [7, [11, 12], 26], "void_ids": [], "others_void": True}
    recipe = validated(kind_of(content), content | {"name": "run"}, "toy.yaml")
    assert recipe.data.ids == [[7], [11, 12], [26]]
    RunFolder(tmp_path / "run").write_recipe(recipe)
    assert RunFolder(tmp_path / "run").load_recipe() == recipe


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "toy.yaml", tree(tmp_path))
    recipe = load_recipe(path, ["train.seed=7", "train.lr=1e-3", "augment.crop=[96, 64]"])
    assert (recipe.name, recipe.train.seed, recipe.train.lr, recipe.augment.crop) == ("toy", 7, 1e-3, (96, 64))
    with pytest.raises(RecipeError, match="2 problems") as raised:
        load_recipe(path, ["train.sead=7", "augment.crop=[96]"])
    assert "train.sead: unknown key; did you mean 'seed'?" in str(raised.value)


def test_every_problem_is_told_at_once_before_torch_is_imported(tmp_path: Path) -> None:
    """Keys, values, names, rules between keys, encoders, losses' options, devices and the teacher, in one message."""
    (tmp_path / "wrong.yaml").write_text(
        "data: {name: folder, size: [10, 64], void_ids: [70000], wrong: 1}\n"
        "augment: {scale: [2.0, 0.5], crop: [8, 8]}\n"
        "student: {encoder: mobilenetv3_smal_100, head: lrasp}\n"
        "teacher: {recipe: techer.yaml, flip: true}\n"
        "distillation: {losses: [{name: cdw}, {name: cwd, options: {heat: 4, temperature: hot}}]}\n"
        "train: {batch: 3, devices: 2, device: gpux, optimizer: adam}\n"
    )
    write_recipe(tmp_path / "recipes" / "teacher.yaml", {})
    program = (
        "import sys\n"
        "from rdd_deploy.errors import RecipeError\n"
        "from rdd_deploy.recipe import load_distillation\n"
        "try:\n    load_distillation('wrong.yaml', ['train.lr=fast', 'train.seed'])\n"
        "except RecipeError as error:\n    print(error)\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    names = [repr(name) for name in LOSSES]
    assert told.splitlines() == [
        "wrong.yaml has 18 problems:",
        "  override 'train.seed' isn't of the form key.sub=value, e.g. train.seed=1",
        (
            "  teacher.recipe: no recipe 'techer.yaml'; did you mean 'teacher'? expected a YAML file, or one of teacher"
            " in recipes/"
        ),
        "  data.size: got [10, 64], expected at least [32, 32]",
        "  data.void_ids.0: got 70000, expected: input should be less than or equal to 65535",
        (
            "  data.wrong: unknown key; allowed: name, root, size, workers, in_memory, device, labelled, unlabelled,"
            " thin, scratch, images, masks, lists, split, classes, palette, ids, colours, merge, background, void_ids,"
            " others_void"
        ),
        "  data.classes is missing; a 'folder' data set needs its class names in the order of their ids",
        "  augment.crop: got [8, 8], expected at least [32, 32]",
        "  augment.scale is [2.0, 0.5]; expected [least, largest]",
        (
            "  student.encoder: unknown encoder 'mobilenetv3_smal_100'; did you mean mobilenetv3_small_100 or"
            " mobilenetv3_small_050 or tf_mobilenetv3_small_100?"
        ),
        (
            "  student.head: got 'lrasp', expected 'lraspp', 'lraspp_detail', 'lraspp_refine', 'lraspp_fpn',"
            " 'deeplabv3', 'deeplabv3plus' or 'pspnet'; did you mean 'lraspp'?"
        ),
        (
            "  teacher.flip and teacher.scales average over several views, which a live teacher doesn't; set"
            " teacher.cache=true, or drop them"
        ),
        (
            f"  distillation.losses.0.name: got 'cdw', expected {', '.join(names[:-1])} or {names[-1]}; did you mean"
            " 'cwd'?"
        ),
        "  distillation.losses.1.options.heat: unknown option of the loss 'cwd'; allowed: temperature, void",
        "  distillation.losses.1.options.temperature: got 'hot', expected: input should be a valid number",
        "  train.optimizer: got 'adam', expected 'sgd' or 'adamw'; did you mean 'adamw'?",
        "  train.lr: got 'fast', expected: input should be a valid number, unable to parse string as a number",
        "  train.device: got 'gpux', expected auto, cpu, cuda, gpu, mps or tpu; did you mean 'gpu'?",
        "  train.batch is 3, which 2 devices can't share evenly; expected a multiple",
    ]


def test_a_rule_is_silent_where_its_own_fields_are_wrong(tmp_path: Path) -> None:
    content = tree(tmp_path)
    content["train"] |= {"batch": "many", "devices": 2}
    content["student"] |= {"head": "x"}
    assert problems(content) == [
        (
            "  student.head: got 'x', expected 'lraspp', 'lraspp_detail', 'lraspp_refine', 'lraspp_fpn', 'deeplabv3',"
            " 'deeplabv3plus' or 'pspnet'"
        ),
        "  train.batch: got 'many', expected: input should be a valid integer, unable to parse string as an integer",
    ]


def test_which_parts_a_recipe_has_is_told_whatever_is_wrong_inside_them(tmp_path: Path) -> None:
    neither = (
        "  a recipe has either a student (to distil) or a network (to be trained as a teacher), not both and not"
        " neither"
    )
    wrong = tree(tmp_path) | {"student": network(head="x"), "network": network(channels=0)}
    assert problems(wrong)[-1] == neither
    assert len(problems(wrong)) == 3
    assert neither not in problems(tree(tmp_path) | {"student": network(head="x")})
    teacher = teacher_tree(tmp_path) | {"network": network(head="x"), "teacher": {}, "train": {"lr": -1}}
    assert problems(teacher)[1:] == [
        "  teacher names neither a recipe nor a checkpoint; give teacher.recipe or teacher.checkpoint",
        "  train.lr: got -1, expected: input should be greater than 0",
        "  a teacher recipe (network) can't name a teacher; a student recipe does",
    ]
    assert problems(teacher_tree(tmp_path) | {"network": None}) == [neither]


def test_loss_options_are_those_of_the_losses() -> None:
    for name, loss in LOSSES.items():
        parameters = inspect.signature(loss.load()).parameters
        # The others are the networks' own, which a training gives.
        assert set(loss.options) == set(parameters) - {"student_channels", "teacher_channels", "classes", "device"}
        defaults = {option: parameters[option].default for option in loss.options}
        ExtraLoss(name=name, options={option: value for option, value in defaults.items() if value is not None})
        for option, annotation in loss.options.items():
            for value in (True, "much", [1], None):
                if value is not True or annotation is not bool:
                    with pytest.raises(ValueError, match=rf"{option}: got"):
                        ExtraLoss(name=name, options={option: value})
    for name, options in (
        ("kd", {"temperature": 2}),
        ("kd", {"temperature": 2.5, "standardize": True}),
        ("dist", {"beta": 0}),
        ("skd", {"window": 4}),
    ):
        ExtraLoss(name=name, options=options)
    for name, options in (
        ("kd", {"standardize": 1}),
        ("kd", {"edge_weight": 0}),
        ("dist", {"beta": -1}),
        ("skd", {"window": 2.0}),
    ):
        with pytest.raises(ValueError, match=r"got .*, expected: input should be"):
            ExtraLoss(name=name, options=options)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"student": None}, "student: missing; distil needs a student and a teacher"),
        ({"teacher": None}, "teacher: missing; distil needs a student and a teacher"),
        (
            {"teacher": {"checkpoint": "lost.safetensors"}},
            "teacher.checkpoint: no teacher checkpoint lost.safetensors; put it there, or name",
        ),
        ({"teacher": {"recipe": "wrong.yaml"}}, "wrong.yaml has 2 problems:"),
        (
            {"teacher": {"recipe": "plain.yaml"}},
            "plain.yaml has no auxiliary head, which stage 1 of RDD compares with; set network.auxiliary",
        ),
        ({"teacher": {"recipe": "student.yaml"}}, "student.yaml is not a teacher recipe: it has no 'network' part"),
    ],
)
def test_what_distillation_needs(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    write_recipe(tmp_path / "wrong.yaml", teacher_tree(tmp_path, train={"epochs": 0, "batsch": 1}))
    write_recipe(tmp_path / "plain.yaml", teacher_tree(tmp_path, network=network()))
    write_recipe(tmp_path / "student.yaml", tree(tmp_path))
    path = write_recipe(tmp_path / "toy.yaml", tree(tmp_path) | {"teacher": {"recipe": "plain.yaml"}} | change)
    with pytest.raises(RecipeError) as raised:
        load_distillation(path)
    assert problem in str(raised.value)
    if change.get("teacher") != {"recipe": "plain.yaml"}:
        return
    load_recipe(path)  # training the student alone needs no teacher
    for harmless in ("distillation.tfe_fraction=0", "distillation.method=kd"):
        load_distillation(path, [harmless])


def test_every_wrong_override_is_told_with_the_files_problems(tmp_path: Path) -> None:
    content = tree(tmp_path)
    content["train"] |= {"lr": -1}
    with pytest.raises(RecipeError) as raised:
        load_recipe(write_recipe(tmp_path / "toy.yaml", content), ["train.seed", "train..x=2", "train.y=3"])
    assert [line.split(";")[0] for line in str(raised.value).splitlines()] == [
        f"{tmp_path}/toy.yaml has 4 problems:",
        "  override 'train.seed' isn't of the form key.sub=value, e.g. train.seed=1",
        "  override 'train..x=2' isn't of the form key.sub=value, e.g. train.seed=1",
        "  train.lr: got -1, expected: input should be greater than 0",
        "  train.y: unknown key",
    ]


@pytest.mark.parametrize("name", ["a b", "", "../x", ".x", "latest", "a\n"])
def test_names_that_no_run_can_have(name: str) -> None:
    with pytest.raises(
        RecipeError,
        match=(
            r"(?s)^--name is '.*'; expected letters, digits, '\.', '_' and '-', beginning with a letter or digit, and"
        ),
    ):
        check_name(name)


def test_names_that_a_run_can_have() -> None:
    for name in (None, "a", "lite0_rdd_1", "a.1-b"):
        check_name(name)


@pytest.mark.parametrize("stem", ["my recipe", "_x", "latest"])
def test_a_file_whose_name_no_run_can_have(tmp_path: Path, stem: str) -> None:
    """The sentence is about the file: the key 'name' was never given."""
    path = write_recipe(tmp_path / f"{stem}.yaml", tree(tmp_path))
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, ["train.lr=-1"])
    assert str(raised.value).splitlines()[1:] == [
        (
            f"  name: not given, and the file's name '{stem}' can't be a run's; expected letters, digits, '.', '_' and"
            " '-', beginning with a letter or digit, and not 'latest': rename the file, give name: in it, or --name"
        ),
        "  train.lr: got -1, expected: input should be greater than 0",
    ]
    assert load_recipe(path, name="mine").name == "mine"
    assert load_recipe(path, ["name=own"], name="mine").name == "own"
    assert load_recipe(write_recipe(tmp_path / "toy.yaml", tree(tmp_path)), name="mine").name == "toy"


def test_recipes_are_frozen(tmp_path: Path) -> None:
    recipe = validated(StudentRecipe, tree(tmp_path) | {"name": "x"}, "toy.yaml")
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.seed = 3  # type: ignore[misc]


def test_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "recipes" / "known.yaml", {})
    write_recipe(tmp_path / "other" / "near.yaml", {})
    assert find_recipe("known") == Path("recipes/known.yaml")
    assert find_recipe("recipes/known.yaml") == Path("recipes/known.yaml")
    assert find_recipe("near.yaml", beside=tmp_path / "other" / "x.yaml") == tmp_path / "other" / "near.yaml"
    with pytest.raises(RecipeError, match=r"^no recipe 'lost'; expected a YAML file, or one of known in recipes/$"):
        find_recipe("lost")
    for nothing in ("", "."):
        with pytest.raises(RecipeError, match=r"names no recipe; expected a YAML file, or the name of one in recipes/"):
            find_recipe(nothing)


def test_dumped_recipe_is_plain_yaml(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_recipe(validated(StudentRecipe, tree(tmp_path) | {"name": "x"}, "toy.yaml"))
    assert "!!" not in (tmp_path / "recipe.yaml").read_text()
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["data"]["size"] == [64, 64]


@pytest.mark.parametrize("content", [tree, teacher_tree])
def test_a_batch_of_one_crop_has_nothing_to_copy(content: Any, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", content(write_data(tmp_path / "data")))
    with pytest.raises(RecipeError, match=r"copy_paste copies from another crop of the batch, and train\.batch is 1"):
        load_recipe(path, ["augment.copy_paste=0.5", "train.batch=1"])
