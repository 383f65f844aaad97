"""Distilling from teachers of every source, with every second opinion, from ensembles and through class maps."""

import hashlib
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from gloo import pair
from safetensors.torch import load_file
from toy_onnx import colours
from toys import CLASSES, picture, read_json, teacher_tree, tree, write_data, write_recipe

from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import DataError, RddError, RecipeError, WeightsError
from rdd_deploy.models.teachers.second import Fitted, Mirrored
from rdd_deploy.recipe import StudentRecipe, load_distillation, load_recipe, with_whole_paths
from rdd_deploy.training import fitted_second
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.distillation import distill_recipe, dry_run, fill_cache
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.supervised import train_recipe
from rdd_deploy.training.teacher import LiveTeacher, named_teachers, open_teacher
from rdd_deploy.training.teacher_loading import load_teacher
from rdd_deploy.training.teacher_measuring import warn_below_baseline


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_data(folder / "data")
    colours(folder / "colours.onnx")
    (folder / "free").mkdir()
    for number in range(5):
        cv2.imwrite(str(folder / f"free/{number}.png"), picture(500 + number)[0])
    for name, auxiliary in (("one", True), ("other", False)):
        content = teacher_tree(folder / "data", name=name)
        content["network"]["auxiliary"] = auxiliary
        train_recipe(load_recipe(write_recipe(folder / f"{name}.yaml", content)), folder / "runs")
    return folder


def student(place: Path, teacher: Any, *words: str, **changes: Any) -> StudentRecipe:
    content = tree(place / "data", teacher=teacher, **changes)
    content["train"] |= {"epochs": 1}
    return load_distillation(write_recipe(place / "student.yaml", content), words)


def distilled(place: Path, name: str, teacher: Any, **changes: Any) -> dict[str, Any]:
    folder = distill_recipe(student(place, teacher, **changes), place / "student.yaml", place / "runs", name=name)
    return dict(read_json(folder.summary)["teacher"])


def onnx(place: Path, **changes: Any) -> dict[str, Any]:
    return {"checkpoint": str(place / "colours.onnx"), "source": "onnx", "options": {"names": CLASSES}} | changes


def smp(place: Path) -> dict[str, Any]:
    from segmentation_models_pytorch import FPN

    torch.manual_seed(0)
    FPN("tu-test_efficientnet", encoder_weights=None, classes=3).save_pretrained(place / "fpn")
    return {"checkpoint": str(place / "fpn"), "source": "smp", "options": {"names": CLASSES}}


def torchvision(place: Path) -> dict[str, Any]:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    torch.save(
        lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).state_dict(), place / "lraspp.pth"
    )
    return {
        "checkpoint": str(place / "lraspp.pth"),
        "source": "torchvision",
        "options": {"arch": "lraspp_mobilenet_v3_large", "names": CLASSES},
    }


def hugging_face(place: Path) -> dict[str, Any]:
    import transformers as hf

    torch.manual_seed(0)
    ids = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: index for index, name in enumerate(CLASSES)}}
    config = hf.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=16, **ids
    )
    hf.SegformerForSemanticSegmentation(config).save_pretrained(place / "segformer")
    hf.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(place / "segformer")
    return {"checkpoint": str(place / "segformer"), "source": "hugging_face"}


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    ("make", "second"), [(onnx, "flip"), (torchvision, "scale"), (smp, "fitted"), (hugging_face, "fitted")]
)
def test_a_student_of_every_source(
    make: Any, second: str, cache: bool, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_second, "LEAST_STEPS", 4)
    told = distilled(place, f"{make.__name__}_{cache}", make(place) | {"second": second, "cache": cache})
    (network,) = told["networks"]
    assert network["classes"] == {name: name for name in CLASSES}
    assert told["miou_pct"] > 80 if make is onnx else told["miou_pct"] >= 0
    assert (place / "cache").is_dir() or not cache


def test_a_fitted_head_learns_from_frames_with_labels_only(place: Path) -> None:
    alone, joined = (
        TrainingData(student(place, onnx(place, second="flip"), *words))
        for words in ((), (f"data.unlabelled={place / 'free'}",))
    )
    assert len(joined.frames) > joined.frames.labelled == len(alone.frames)
    heads = []
    for data in (alone, joined):
        recipe = student(place, {"checkpoint": str(place / "runs/one/teacher.safetensors"), "second": "fitted"})
        model = load_teacher(recipe, place / "runs/one/teacher.safetensors", data).model
        heads.append(fitted_second.fit_head(model, data.frames, (64, 64), 3, torch.device("cpu"))[0])  # type: ignore[arg-type]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_another_view_is_asked_for_in_stage_1_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        Mirrored, "second", lambda self, frames, real=Mirrored.second: asked.append(1) or real(self, frames)
    )
    model = load_teacher(
        recipe := student(place, onnx(place, second="flip")), place / "colours.onnx", TrainingData(recipe)
    ).model
    teacher, frames = LiveTeacher(model), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    batch = Batch(frames, torch.zeros(2, 64, 64), torch.zeros(2, 5), torch.arange(2))
    first, then = teacher(batch, True), teacher(batch, False)
    assert (len(asked), first.auxiliary is None, then.auxiliary is None) == (1, False, True)
    assert torch.equal(first.primary, then.primary)


def test_class_maps_reach_the_student_and_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["red", "green", "blue"]
    given = onnx(
        place, options={"names": names}, classes={"left": "red", "middle": ["green"], "right": "blue"}, second="flip"
    )
    told = distilled(place, "mapped", given)
    out = capsys.readouterr().out
    assert told["miou_pct"] > 80
    assert told["networks"][0]["classes"] == {"left": "red", "middle": "green", "right": "blue"}
    assert all(f"{data} " in out and f" {own} " in out for data, own in zip(CLASSES, names, strict=True))
    wrong = {"left": "green", "middle": "red", "right": "blue"}
    assert distilled(place, "wrong", given | {"classes": wrong})["miou_pct"] < 50
    merged = distilled(
        place, "merged", given | {"classes": {"left": ["red", "green"], "middle": None, "right": "blue"}}
    )
    assert merged["networks"][0]["classes"]["middle"] == "–"
    assert "doesn't know middle" in capsys.readouterr().err


def test_an_ensemble_live_and_cached(place: Path) -> None:
    paths = [str(place / "runs" / name / "teacher.safetensors") for name in ("one", "other")]
    first = distilled(place, "ensemble", [{"checkpoint": paths[0], "second": "ensemble"}, paths[1]])
    cached = distilled(
        place, "ensemble_cached", [{"checkpoint": paths[0], "second": "ensemble", "cache": True}, onnx(place)]
    )
    assert len(first["networks"]) == len(cached["networks"]) == 2
    assert cached["miou_pct"] > 50, "the colours' own certainty rules the mean"
    assert "the networks after the first" in first["second"]
    recipe = load_recipe(place / "runs" / "ensemble" / "recipe.yaml")
    assert isinstance(recipe, StudentRecipe)
    assert [one.checkpoint for one in recipe.teacher.ensemble] == paths  # type: ignore[union-attr]


def test_what_changes_the_teacher_changes_its_hash(place: Path) -> None:
    data = TrainingData(student(place, onnx(place, second="flip")))
    named = onnx(place)["options"]
    path = place / "colours.onnx"
    variants: list[dict[str, Any]] = [
        {}, {"second": "scale"}, {"second": "scale", "second_scale": 0.75}, {"options": named | {"mean": [0.1, 0, 0]}},
        {"options": {"names": ["x", "y", "z"]}, "classes": {"left": "x", "middle": "y", "right": "z"}},
        {"options": {"names": ["x", "y", "z"]}, "classes": {"left": "y", "middle": "x", "right": "z"}},
    ]  # fmt: skip
    hashes = [load_teacher(student(place, onnx(place, second="flip") | one), path, data).sha256 for one in variants]
    assert len(set(hashes)) == len(hashes)
    plain = place / "runs" / "one" / "teacher.safetensors"
    loaded = load_teacher(student(place, {"checkpoint": str(plain)}), plain, data)
    assert loaded.sha256 == hashlib.sha256(plain.read_bytes()).hexdigest(), (
        "as before, so that its caches and students go on"
    )


def test_a_fitted_head_is_fitted_once_and_the_same_each_time(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_second, "LEAST_STEPS", 20)
    given = {"checkpoint": str(place / "runs" / "other" / "teacher.safetensors"), "second": "fitted"}
    distilled(place, "fitted", given)
    out = capsys.readouterr().out
    assert "fitting a second head on stage4 to the training frames, 20 steps" in out
    (kept,) = (place / "runs" / "other" / "cache").glob("fitted-*.safetensors")
    before = kept.read_bytes()
    distilled(place, "fitted_again", given)
    assert "fitted before" in capsys.readouterr().out
    a, b = (load_file(place / "runs" / name / "student.safetensors") for name in ("fitted", "fitted_again"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    kept.write_bytes(before[:100])
    distilled(place, "fitted_damaged", given)
    assert "can't be used" in capsys.readouterr().err
    assert kept.read_bytes() == before, "the same frames and teacher give the same head"


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ({"checkpoint": "{other}"}, "or give it another second opinion: teacher.second=flip"),
        (
            {"checkpoint": "{onnx}", "source": "onnx", "second": "fitted"},
            "teacher.second=fitted needs a map inside the teacher to fit a head on",
        ),
        (
            {"checkpoint": "{onnx}", "source": "onnx", "second": "flip", "options": {"names": ["a", "b", "c"]}},
            "has no class 'left', 'middle', 'right'",
        ),
        ({"checkpoint": "{other}", "source": "onnx", "second": "flip"}, "can't be read as ONNX"),
        (
            {"checkpoint": "{other}", "second": "fitted", "second_map": "stage1", "classes": {"up": "x"}},
            "teacher.classes names 'up', which is no class",
        ),
    ],
)
def test_what_a_teacher_lacks(teacher: dict[str, Any], sentence: str, place: Path) -> None:
    paths = {"other": place / "runs" / "other" / "teacher.safetensors", "onnx": place / "colours.onnx"}
    given = teacher | {"checkpoint": teacher["checkpoint"].format(**paths)}
    recipe = student(place, given)
    with pytest.raises(RddError) as raised:
        load_teacher(recipe, Path(given["checkpoint"]), TrainingData(recipe))
    assert sentence in str(raised.value)
    assert len(raised.value.lines) == 1


def test_a_teacher_below_the_students_own_baseline_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = student(place, onnx(place, second="flip"))
    train_recipe(recipe, place / "runs")
    alone = read_json(place / "runs" / "student_alone" / "summary.json")["best"]["miou_pct"]
    data, folder = TrainingData(recipe), RunFolder(place / "runs" / "student")
    capsys.readouterr()
    warn_below_baseline(recipe, {"miou_pct": alone - 1}, folder, data)
    assert f"below the {alone:.2f} % that the student reaches alone" in " ".join(capsys.readouterr().err.split())
    warn_below_baseline(recipe, {"miou_pct": alone + 1}, folder, data)
    other = recipe.model_copy(update={"data": recipe.data.model_copy(update={"size": (32, 32)})})
    warn_below_baseline(other, {"miou_pct": alone - 1}, folder, data)
    assert capsys.readouterr().err == "", "measured otherwise it isn't compared"


def test_a_dry_run_tells_what_it_would_take(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = onnx(place, options={"names": ["red", "green", "blue"]}, second="flip")
    source, folder = place / "student.yaml", RunFolder(place / "runs" / "dry")
    with pytest.raises(
        WeightsError,
        match=r"has no class 'left', 'middle', 'right'; say by teacher\.classes which of its classes means it",
    ):
        dry_run(student(place, given), source, folder, False)
    capsys.readouterr()
    dry_run(student(place, given, "teacher.classes={left: red, middle: green, right: blue}"), source, folder, False)
    out = capsys.readouterr().out
    for text in (
        "ONNX, logits of 'output0', NCHW, RGB",
        "second opinion: the mirrored frame",
        "middle",
        "green",
        "nothing was trained",
    ):
        assert text in out
    assert not folder.path.exists()


def test_lists_are_spelt_out_and_paths_found(place: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        shutil.copy(place / "colours.onnx", tmp_path / name)
    members = [{"checkpoint": name, "source": "onnx", "options": {"names": CLASSES}} for name in ("a.onnx", "b.onnx")]
    path = write_recipe(
        tmp_path / "s.yaml",
        tree(place / "data", teacher=[members[0] | {"cache": True}, members[1] | {"second": "ensemble"}]),
    )
    recipe = load_distillation(path, ["teacher.flip=true"])
    assert recipe.teacher is not None  # type: ignore[union-attr]
    assert (recipe.teacher.cache, recipe.teacher.flip, recipe.teacher.second) == (True, True, "ensemble")  # type: ignore[union-attr]
    assert [one.checkpoint for one in recipe.teacher.ensemble] == [
        str(tmp_path / name) for name in ("a.onnx", "b.onnx")
    ]  # type: ignore[union-attr]
    assert with_whole_paths(recipe).teacher == recipe.teacher  # type: ignore[union-attr]
    write_recipe(path, tree(place / "data", teacher=[members[0] | {"cache": True}, members[1] | {"cache": "dense"}]))
    with pytest.raises(RddError, match="it is the whole ensemble's, so say it once"):
        load_distillation(path)
    write_recipe(path, tree(place / "data", teacher=[members[0], "nowhere.safetensors"]))
    with pytest.raises(RddError, match=r"teacher\.ensemble\.1\.checkpoint: no teacher checkpoint"):
        load_distillation(path)


def test_a_teacher_is_measured_before_its_cache_is_filled(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong class map shows before days of work, also where only the cache is asked for."""
    wrong = {"left": "middle", "middle": "left", "right": "right"}
    recipe = student(place, onnx(place, second="flip", cache=True, classes=wrong))
    fill_cache(recipe, place / "student.yaml", place / "runs")
    said = capsys.readouterr().out
    assert 0 < said.index("teacher: mIoU") < said.index("compact cache over")


def test_a_teacher_of_one_size_is_not_shown_others(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"options": {"names": CLASSES, "size": [64, 96]}}
    data = TrainingData(student(place, onnx(place, second="flip")))

    def loaded(**changes: Any) -> Any:
        return load_teacher(student(place, onnx(place, **options, **changes)), place / "colours.onnx", data)

    for changes, sentence in (
        ({"second": "scale"}, "teacher.second=scale would compare it with itself; expected teacher.second=flip"),
        ({"second": "flip", "cache": True, "scales": [1.0, 1.5]}, r"teacher.scales [1.0, 1.5] average the same view"),
    ):
        with pytest.raises(RecipeError) as raised:
            loaded(**changes)
        assert sentence in str(raised.value)
    capsys.readouterr()
    loaded(second="flip")
    assert "crops are stretched to it" in " ".join(capsys.readouterr().err.split())
    loaded(second="flip", cache=True)
    assert not capsys.readouterr().err


def test_the_size_of_a_cached_teachers_frames(place: Path) -> None:
    told = distilled(place, "sized", onnx(place, second="flip", cache=True, size=[96, 128]))
    assert (told["views"]["height"], told["views"]["width"]) == (96, 128)
    with pytest.raises(RddError, match=r"teacher\.size is that of whole frames, and a live teacher sees"):
        student(place, onnx(place, second="flip", size=[96, 128]))


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("colours.onnx", r"is no network of this program: set teacher\.source=onnx"),
        ("lraspp.pth", r"set teacher\.source=torchvision or smp"),
        ("runs/one", r"it is a run's folder: name .*runs/one/teacher\.safetensors"),
        ("data", r"it is a folder: set teacher\.source=hugging_face or smp"),
    ],
)
def test_a_forgotten_source_is_named(name: str, way_out: str, place: Path) -> None:
    (place / "lraspp.pth").touch()
    with pytest.raises(RddError, match=way_out):  # a path alone is a teacher, too
        named_teachers(student(place, str(place / name)), place / "student.yaml", place / "runs")


def test_a_teacher_of_as_many_labels_as_its_recipe_says_is_the_recipes_own(place: Path) -> None:
    content = teacher_tree(place / "data", name="few")
    content["data"]["labelled"] = 0.5
    source = write_recipe(place / "few.yaml", content)
    names = []
    for share in ("0.5", "0.25", "1.0"):
        recipe = student(place, {"recipe": str(source)}, f"data.labelled={share}")
        (named,) = named_teachers(recipe, place / "student.yaml", place / "runs")
        names.append(named.checkpoint.parent.name)
    assert names == ["few", "few_0.25_labels", "few_1_labels"]


@pytest.mark.parametrize("what", ["training frames in", "frames of data.unlabelled"])
def test_processes_that_see_different_frames_are_told(what: str, place: Path) -> None:
    recipe = student(place, onnx(place, second="flip"), f"data.unlabelled={place / 'free'}")
    data = TrainingData(recipe)
    other = {"training frames in": data.digest, "frames of data.unlabelled": data.unlabelled.digest}[what]  # type: ignore[union-attr]
    fabric = SimpleNamespace(device=torch.device("cpu"), broadcast=lambda mine: "x" if mine == other else mine)
    named = named_teachers(recipe, place / "student.yaml", place / "runs")
    with pytest.raises(DataError, match=f"^the processes that train together read different {what}"):
        open_teacher(recipe, named, data, fabric, place / "runs")  # type: ignore[arg-type]


class WithMap(torch.nn.Module):
    classes, has_auxiliary = 3, False


def fitting(rank: int, folder: str) -> tuple[str, int]:
    """Fit a head, as one of two commands that want the same one at the same time and would each find another."""
    fits = []

    def new(fitted: Fitted, *_: Any) -> dict[str, torch.Tensor]:
        fits.append(os.getpid())
        time.sleep(1)
        return {name: torch.full_like(value, len(fits) + rank) for name, value in fitted.head.state_dict().items()}

    fitted_second._new = new  # type: ignore[assignment]
    fitted = Fitted(WithMap(), "stage4", 4)  # type: ignore[arg-type]
    digest = fitted_second.fit_second(
        fitted,
        "0" * 64,
        None,
        {},
        (8, 8),
        Path(folder),
        torch.device("cpu"),
        None,  # type: ignore[arg-type]
    )
    return digest, len(fits)


def test_commands_that_want_the_same_head_fit_it_once(tmp_path: Path) -> None:
    (first, one), (second, other) = pair(fitting, str(tmp_path))
    assert first == second
    assert one + other == 1
