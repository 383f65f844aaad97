"""The closed schema of a recipe: every problem is reported at once, before anything heavy loads.

A recipe is one experiment in one YAML file. ``load_recipe`` reads it, applies ``key.sub=value`` overrides and checks everything.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from rdd_deploy.data import DATASETS
from rdd_deploy.data.ids import LARGEST_ID
from rdd_deploy.errors import RecipeError
from rdd_deploy.models.names import check_encoder
from rdd_deploy.places import at_home, beside
from rdd_deploy.schema import RuledModel, load_yaml, meant, override_all, validated

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LARGEST, MOST = 8192, 8192 * 4320
"""Pixels of a side and in all at most: a size typed wrong must not end in memory that can't be had."""


def _not_latest(name: str) -> str:
    if name == "latest":
        raise ValueError("name is 'latest', which links to the newest run; choose another")
    return name


def _known_encoder(name: str) -> str:
    try:
        check_encoder(name)
    except RecipeError as error:
        raise ValueError(str(error)) from error
    return name


DEVICES = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")
"""Fabric's accelerators."""


def _kind_of_device(device: str) -> str:
    kind = device.partition(":")[0]
    if device in DEVICES:
        return device
    if kind in DEVICES:
        raise ValueError(
            f"train.device is '{device}', expected a kind of device; set train.device={kind}, train.devices to how many, and "
            "CUDA_VISIBLE_DEVICES to which"
        )
    near = difflib.get_close_matches(device, DEVICES, 1, 0.5)
    raise ValueError(
        f"got '{device}', expected {', '.join(DEVICES[:-1])} or {DEVICES[-1]}" + (f"; did you mean '{near[0]}'?" if near else "")
    )


SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
"""Of a clone; an installed package has none."""

Place = Annotated[str, AfterValidator(at_home)]
"""A path, ``~`` expanded."""
Name = Annotated[str, Field(pattern=NAME), AfterValidator(_not_latest)]
Encoder = Annotated[str, AfterValidator(_known_encoder)]
Device = Annotated[str, AfterValidator(_kind_of_device)]
Byte = Annotated[int, Field(ge=0, le=255)]
MaskValue = Annotated[int, Field(ge=0, le=LARGEST_ID)]
"""Of a mask of 8 or 16 bits."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Nodes = Annotated[int, Field(ge=1, le=1024)]
"""Bounded far above what anybody means, so that a number typed wrong ends in a sentence."""
Scale = Annotated[float, Field(ge=0.1, le=10.0)]
"""Bounded like sizes, which it multiplies: a scale typed wrong must not end in memory that can't be had."""


class Part(RuledModel):
    """Base of all parts: unknown keys are errors, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic reads true as 1."""
        if info.field_name and _numeric(cls.model_fields[info.field_name].annotation) and _holds_truth(value):
            raise ValueError(f"got {value!r}, expected a number, not true or false")
        return value


def _numeric(annotation: Any) -> bool:
    return annotation in (int, float) or any(_numeric(arm) for arm in get_args(annotation))


def _holds_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(_holds_truth(item) for item in value))


def _two_numbers(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"got {value!r:.60}, expected [height, width], e.g. [360, 480]")
    return value


def _usable_size(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 32:
        raise ValueError(f"got {list(size)}, expected at least [32, 32]")
    if max(size) > LARGEST:
        raise ValueError(f"got {list(size)}, expected at most [{LARGEST}, {LARGEST}]")
    if size[0] * size[1] > MOST:
        raise ValueError(f"got {list(size)}, expected at most {MOST} pixels in all (8K)")
    return size


Size = Annotated[tuple[int, int], AfterValidator(_usable_size), BeforeValidator(_two_numbers)]


def _several(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


ClassIds = Annotated[list[MaskValue], Field(min_length=1), BeforeValidator(_several)]


class Data(Part):
    """Which frames, at which size. Frames of other sizes are resized to ``size`` for evaluation and export."""

    name: Literal[DATASETS] = "camvid"  # type: ignore[valid-type]
    root: Place = Field(
        "data/camvid",
        description="folder of the data set, beside the recipe's file or in the current directory; a missing CamVid is downloaded there",
    )
    size: Size = Field((360, 480), description="[height, width] that the deployed network sees")
    classes: list[str] | None = Field(None, max_length=255, description="folder: class names in the order of their ids")
    palette: list[tuple[Byte, Byte, Byte]] | None = Field(None, description="folder: one RGB colour a class")
    ids: list[ClassIds] | None = Field(
        None, max_length=255, description="folder: per class the mask value that means it, or a list of several; default: 0, 1, 2, …"
    )
    void_ids: list[MaskValue] = Field([255], max_length=LARGEST_ID + 1, description="folder: mask values that mean void")
    others_void: bool = Field(False, description="folder: every other mask value means void, too; else it is an error")
    count: Count | None = Field(None, description="streets: number of training scenes")
    seed: Seed = Field(0, description="streets: seed of the scenes")
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        None, description="loader processes; default: 0 on up to 2 cores, else up to 8"
    )
    memory: bool = Field(True, description="keep decoded frames in memory (uint8)")

    def rules(self) -> Iterator[tuple[str, str]]:
        """Folders alone are described by the recipe, streets alone are counted and seeded."""
        if self.name == "folder" and not self.classes:
            yield "name classes", "data.classes is missing; a 'folder' data set needs its class names in the order of their ids"
        if self.name != "folder" and (self.classes or self.palette):
            yield "name classes palette", f"data.classes and data.palette belong to the 'folder' data set, not to '{self.name}'"
        # A run's recipe.yaml spells every default out, so only another value than that was meant to have an effect.
        for key, default in (("void_ids", [255]), ("ids", None), ("others_void", False)):
            if self.name != "folder" and getattr(self, key) != default:
                yield f"name {key}", f"data.{key} belongs to the 'folder' data set, '{self.name}' has its own; leave it out"
        yield from self._id_rules()
        if self.name != "streets" and (self.count is not None or self.seed):
            yield "name count seed", f"data.count and data.seed belong to the 'streets' data set, not to '{self.name}'; leave them out"
        if self.classes and (not all(name.strip() for name in self.classes) or len(set(self.classes)) < len(self.classes)):
            yield "classes", f"data.classes is {self.classes}; expected names that differ from each other, none of them empty"
        if self.classes and self.palette and len(self.palette) != len(self.classes):
            yield (
                "classes palette",
                f"data.palette has {len(self.palette)} colours for {len(self.classes)} classes; give one colour a class",
            )

    def _id_rules(self) -> Iterator[tuple[str, str]]:
        """Each mask value means one thing."""
        if self.classes and self.ids is None and (taken := sorted({i for i in self.void_ids if i < len(self.classes)})):
            yield (
                "classes ids void_ids",
                f"data.void_ids is {self.void_ids}, of which {taken} are ids of classes; expected ids from {len(self.classes)} on, or drop the "
                f"class; where the masks' own values differ, data.ids says which value is which class, e.g. data.ids={self._example()}",
            )
        if self.ids is None:
            return
        if self.classes and len(self.ids) != len(self.classes):
            yield (
                "classes ids",
                f"data.ids has {len(self.ids)} entries for {len(self.classes)} classes; give one value, or list of values, a class",
            )
        values = [value for entry in self.ids for value in entry]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            yield "ids", f"data.ids gives {twice} to more than one class, or twice to one; expected each mask value once"
        if both := sorted(set(values) & set(self.void_ids)):
            void = sorted(set(self.void_ids) - set(values))
            yield "ids void_ids", f"data.ids and data.void_ids both hold {both}; where these values are classes, set data.void_ids={void}"

    def _example(self) -> list[int]:
        """Ids for the classes that leave the void ones alone."""
        free = (value for value in range(LARGEST_ID) if value not in self.void_ids)
        return [next(free) for _ in self.classes or ()]


class Augment(Part):
    """Random scale, crop, flip and colour jitter, on uint8 tensors."""

    crop: Size = Field((360, 360), description="[height, width] of the training crops")
    scale: tuple[Scale, Scale] = Field((0.5, 2.0), description="least and largest scale relative to data.size")
    flip: Share = 0.5
    jitter: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="strength of brightness, contrast and saturation; hue a tenth of it"
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """Scales in their order."""
        if self.scale[0] > self.scale[1]:
            yield "scale", f"augment.scale is {list(self.scale)}; expected [least, largest]"


class Network(Part):
    """A segmenter: timm encoder, decode head, optional auxiliary FCN head on the last but one feature map."""

    encoder: Encoder = Field(..., description="any timm encoder with feature maps")
    head: Literal["lraspp", "deeplabv3", "deeplabv3plus", "pspnet"] = "lraspp"
    weights: Place = Field("imagenet", description="'imagenet', 'none', or the path of a local file with the encoder's weights")
    output_stride: Literal["auto", 8, 16, 32] = Field(
        "auto", description="of the last features, by dilation; auto: 16, or 32 for an encoder that can't be dilated"
    )
    channels: Annotated[int, Field(ge=8, le=4096)] = Field(128, description="width of the decode head")
    auxiliary: bool = Field(False, description="FCN head on stage-4 features; a teacher needs it for stage 1 of RDD")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    activation: Literal["keep", "relu6"] = Field("keep", description="relu6 swaps hard-swish and swish, which quantise badly")
    squeeze_excite: bool = Field(True, description="false drops squeeze-and-excitation, which quantises badly")


class Teacher(Part):
    """The teacher: by recipe (trained first if its checkpoint isn't there), by checkpoint, or both."""

    recipe: Place | None = Field(None, description="a teacher recipe, relative to this file or by name")
    checkpoint: Place | None = Field(None, description="teacher.safetensors; default: that of the teacher recipe's run folder")
    cache: bool = Field(
        False, description="run the teacher once per training frame, whole and averaged, and crop its logits with the frame"
    )
    flip: bool = Field(False, description="average the teacher over mirrored frames")
    scales: list[Scale] = Field(
        [1.0], description="average the teacher over these scales of its own frame size", min_length=1, max_length=32
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """It is named, and only a cached one is averaged."""
        if not self.recipe and not self.checkpoint:
            yield "recipe checkpoint", "teacher names neither a recipe nor a checkpoint; give teacher.recipe or teacher.checkpoint"
        if not self.cache and (self.flip or len(self.scales) > 1):
            yield (
                "cache flip scales",
                "teacher.flip and teacher.scales average over several views, which a live teacher doesn't; set teacher.cache=true, or drop them",
            )


class TeacherFull(Part):
    """Stage 1 of RDD (TFE): the teacher's two classifiers weigh each pixel; easy ones count most (paper, Eq. 6-8)."""

    divergence: Literal["main_aux", "aux_main"] = Field("main_aux", description="KL(main‖aux), the paper's, or KL(aux‖main)")


class TeacherStudent(Part):
    """Stage 2 of RDD (TSE): pixels that exactly one of the two networks finds hard (paper, Eq. 9)."""

    rule: Literal["xor", "and", "or", "student"] = "xor"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    min_kept: Annotated[float | int, Field(ge=0, le=2**40)] = Field(
        0.05, description="share of the batch's pixels (0 to 1) or a count (integer)"
    )
    reduction: Literal["kept", "all"] = Field("kept", description="mean over the kept pixels, or their sum over all valid pixels")

    def rules(self) -> Iterator[tuple[str, str]]:
        """A share is one."""
        if isinstance(self.min_kept, float) and self.min_kept > 1:
            yield "min_kept", f"min_kept is {self.min_kept}; expected a share from 0 to 1, or a whole number of pixels"


LOSS_OPTIONS: dict[str, dict[str, Any]] = {"kd": {"temperature": Positive}, "cwd": {"temperature": Positive}}
"""Options of the losses in ``rdd_deploy.losses.EXTRA``, repeated here because a recipe is checked before torch is imported.

The void label is none of them: every data set maps its own void ids to the one inside, so another one would only take void for a class.
"""


class ExtraLoss(Part):
    """A further distillation loss beside the plain KD term."""

    name: Literal["kd", "cwd"]
    weight: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)

    def rules(self) -> Iterator[tuple[str, str]]:
        """The options are the loss's own."""
        known = LOSS_OPTIONS[self.name]
        for key, value in self.options.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.5)
                hint = f"did you mean '{near[0]}'? " if near else ""
                yield "name options", f".options.{key}: unknown option of the loss '{self.name}'; {hint}allowed: {', '.join(known)}"
                continue
            try:
                TypeAdapter(known[key]).validate_python(value, strict=not isinstance(value, int) or isinstance(value, bool))
            except ValidationError as error:
                expected = error.errors()[0]["msg"]
                yield "name options", f".options.{key}: got {value!r}, expected: {expected[0].lower()}{expected[1:]}"


class Distillation(Part):
    """Two-stage Relative Difficulty Distillation and the distillation losses beside it."""

    method: Literal["rdd", "kd"] = Field("rdd", description="rdd weights the task loss; kd leaves it plain")
    stage_share: Share = Field(0.1, description="share of the iterations in stage 1; 0: TSE only, 1: TFE only")
    hand_over: Literal["switch", "linear"] = Field("switch", description="linear fades stage 1 into stage 2 over the whole run")
    teacher_full: TeacherFull = TeacherFull()
    teacher_student: TeacherStudent = TeacherStudent()
    task_weight: Annotated[float, Field(ge=0)] = Field(
        0.0, description="plain cross-entropy added beside the weighted one (0: the paper's)"
    )
    kd_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="λ of the pixel-wise KD term")
    temperature: Positive = 1.0
    losses: list[ExtraLoss] = Field(default_factory=list, max_length=16)


class Train(Part):
    """Schedule and optimiser: poly learning rate with warm-up, as in the paper."""

    epochs: Count = 60
    batch: Batch = Field(16, description="over all devices together")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.02
    head_lr_factor: Positive = Field(1.0, description="learning rate of the heads relative to the encoder's")
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Share = Field(0.02, description="share of the iterations with a linear warm-up")
    power: Positive = 0.9
    clip: Annotated[float, Field(ge=0)] = Field(10.0, description="largest gradient norm; 0 switches clipping off")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of the weight average that is evaluated and saved; 0: none")
    task_loss: Literal["ce", "ohem", "balanced"] = Field(
        "ce", description="of supervised training: plain, hard pixels only, or class-balanced"
    )
    auxiliary_weight: Annotated[float, Field(ge=0)] = 0.4
    seed: Seed = 0
    device: Device = Field("auto", description=f"{', '.join(DEVICES)}; an unavailable one is an error")
    devices: Nodes = Field(1, description="number of GPUs (or processes on a CPU)")
    nodes: Nodes = 1
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    compile: bool = False
    save_every: Count = Field(1, description="epochs between resumable states")
    pictures_every: Annotated[int, Field(ge=0, le=1_000_000)] = Field(10, description="epochs between pictures; 0: none")

    def rules(self) -> Iterator[tuple[str, str]]:
        """Each device takes an equal share of the batch."""
        if self.batch % (self.devices * self.nodes):
            yield (
                "batch devices nodes",
                f"train.batch is {self.batch}, which {self.devices * self.nodes} devices can't share evenly; expected a multiple",
            )


class Evaluation(Part):
    """How mIoU is measured: labels at the size of the annotation, one confusion matrix over the split."""

    split: Literal["val", "test"] = Field("val", description="never train: mIoU on frames that were learned would mean nothing")
    every: Count = Field(5, description="epochs between evaluations")
    batch: Batch = 8


class Recipe(Part):
    """One experiment. ``distil`` needs student and teacher; ``train`` trains the student alone, or the network of a teacher recipe."""

    name: Name = Field("", description="run name; default: the file's name")
    data: Data = Data()
    augment: Augment = Augment()
    network: Network | None = Field(None, description="a teacher recipe's network")
    student: Network | None = None
    teacher: Teacher | None = None
    distillation: Distillation = Distillation()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    @classmethod
    def presence(cls, given: set[str]) -> Iterator[str]:
        """A student or a teacher."""
        if len({"network", "student"} & given) != 1:
            yield "a recipe has either a student (to distil) or a network (to be trained as a teacher), not both and not neither"
        if {"network", "teacher"} <= given:
            yield "a teacher recipe (network) can't name a teacher; a student recipe does"


def load_recipe(path: str | Path, overrides: Sequence[str] = (), distil: bool = False, name: str | None = None) -> Recipe:
    """Read a recipe with its overrides.

    Args:
        path: a YAML file, or the name of one in ``recipes/``.
        overrides: ``key.sub=value`` strings; values are YAML.
        distil: also check what distillation needs: a student, and a teacher that is there or can be made.
        name: of the run, where the recipe gives none and its file's name can't be one.

    Raises:
        RecipeError: file missing or not YAML, or one or more problems, all listed with their dotted paths.
    """
    path = find_recipe(path)
    tree = load_yaml(path)
    written = _places(tree)
    problems = override_all(tree, overrides)
    _find_places(tree, path, written)
    if "name" not in tree:
        usable = _can_name_a_run(path.stem)
        tree["name"] = path.stem if usable else name or "unnamed"
        if not usable and not name:
            problems.append(
                RecipeError(
                    f"name: not given, and the file's name '{path.stem}' can't be a run's; expected letters, digits, '.', '_' and '-', beginning "
                    "with a letter or digit, and not 'latest': rename the file, give name: in it, or --name"
                )
            )
    if distil:
        problems += _distillation_problems(tree, path)
    return validated(Recipe, tree, path, problems)


_PLACES = ("data.root", "network.weights", "student.weights", "teacher.recipe", "teacher.checkpoint")
"""Keys whose values are paths."""


def _places(tree: dict[str, Any]) -> dict[str, str]:
    """The paths of an unchecked tree, by key; those that are words with a meaning of their own aside."""
    places = {}
    for key in _PLACES:
        part, name = key.split(".")
        value = tree[part].get(name) if isinstance(tree.get(part), dict) else None
        if isinstance(value, str) and value and not (name == "weights" and value in ("imagenet", "none")):
            places[key] = value
    return places


def _find_places(tree: dict[str, Any], source: Path, written: dict[str, str]) -> None:
    """Change a tree's relative paths in place to what they mean from here.

    Args:
        written: the paths as they were before the overrides, which are typed and so relative to the current directory first.
    """
    for key, value in _places(tree).items():
        part, name = key.split(".")
        if (expanded := os.path.expanduser(value)).startswith("~") or (name == "root" and tree[part].get("name") == "streets"):
            continue
        typed = written.get(key) != value
        try:
            if key == "teacher.recipe":
                found = str(find_recipe(expanded) if typed and _is_recipe(expanded) else find_recipe(expanded, source))
            else:
                found = beside(expanded, source, here_first=typed)
        except (OSError, ValueError, RecipeError):  # it is told where it is used
            continue
        if found != value:
            tree[part] = {**tree[part], name: found}


def with_whole_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths: it means the same from any folder."""
    tree = recipe.model_dump(mode="json")
    changes: dict[str, dict[str, str]] = {}
    for key, value in _places(tree).items():
        part, name = key.split(".")
        if name == "root" and recipe.data.name == "streets":
            continue
        path = find_recipe(value) if key == "teacher.recipe" and _is_recipe(value) else Path(value)
        changes.setdefault(part, {})[name] = os.path.abspath(path)
    return recipe.model_copy(update={part: getattr(recipe, part).model_copy(update=values) for part, values in changes.items()})


def _is_recipe(name: str) -> bool:
    try:
        find_recipe(name)
    except RecipeError:
        return False
    return True


def _distillation_problems(tree: dict[str, Any], source: Path) -> Iterator[RecipeError]:
    """What stops a distillation before it begins; of the unchecked tree, so that it is told together with what the schema finds."""
    for part in ("student", "teacher"):
        if not tree.get(part):
            yield RecipeError(f"{part}: missing; distil needs a student and a teacher (train a lone network with rdd_deploy.train)")
    teacher = tree.get("teacher")
    if not isinstance(teacher, dict):
        return
    recipe, checkpoint = (os.path.expanduser(v) if isinstance(v := teacher.get(key), str) else v for key in ("recipe", "checkpoint"))
    if isinstance(recipe, str):
        yield from _teacher_problems(tree, recipe, source, isinstance(checkpoint, str) and Path(checkpoint).is_file())
    elif isinstance(checkpoint, str) and not Path(checkpoint).is_file():
        yield RecipeError(
            f"teacher.checkpoint: no teacher checkpoint {checkpoint}; put it there, or name teacher.recipe so that the teacher is trained first"
        )


def _teacher_problems(tree: dict[str, Any], name: str, source: Path, trained: bool) -> Iterator[RecipeError]:
    try:
        path = find_recipe(name, beside=source)
        teacher = load_recipe(path)
    except RecipeError as error:
        first, *more = error.lines
        yield RecipeError(f"teacher.recipe: {first}", *more)
        return
    if teacher.network is None:
        yield RecipeError(f"teacher.recipe: {path} is not a teacher recipe: it has no 'network' part")
        return
    method = tree.get("distillation")
    method = method if isinstance(method, dict) else {}
    if not trained and not teacher.network.auxiliary and method.get("method", "rdd") == "rdd" and method.get("stage_share") != 0:
        yield RecipeError(
            f"teacher.recipe: {path} has no auxiliary head, which stage 1 of RDD compares with; set network.auxiliary: true there, or "
            "distillation.stage_share=0 here"
        )


def option_hint(option: str) -> str:
    """What an option that no command has may have been meant for: a key of the recipe."""
    near = " or ".join(f"{path}=VALUE" for path in meant(Recipe, option.lstrip("-").replace("-", "_")))
    return f"did you mean {near}, without dashes?" if near else ""


def check_name(name: str | None) -> None:
    """Raise RecipeError where ``--name`` can't be a run's: the rule of the recipe's own name."""
    if name is not None and not _can_name_a_run(name):
        raise RecipeError(
            f"--name is '{name}'; expected letters, digits, '.', '_' and '-', beginning with a letter or digit, and not 'latest', "
            "which links to the newest run"
        )


def _can_name_a_run(name: str) -> bool:
    return bool(re.fullmatch(NAME, name)) and name != "latest"


def find_recipe(path: str | Path, beside: Path | None = None) -> Path:
    """The file that a recipe name or path means: beside another recipe, as given, in ``recipes/`` here, or in the clone's own."""
    given = Path(os.path.expanduser(path))
    if not given.name:
        raise RecipeError(f"'{path}' names no recipe; expected a YAML file, or the name of one in recipes/")
    names = [given] if given.suffix else [given, given.with_suffix(".yaml")]
    folders = [*([beside.parent] if beside else []), Path(), Path("recipes"), SHIPPED]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    known = sorted(p.stem for p in Path("recipes").glob("*.yaml")) or sorted(p.stem for p in SHIPPED.glob("*.yaml"))
    near = difflib.get_close_matches(given.stem, known, 1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise RecipeError(f"no recipe '{path}'; {hint}expected a YAML file" + (f", or one of {', '.join(known)} in recipes/" if known else ""))
