"""What a user can get wrong, through real processes: one clear sentence, the documented exit code, no traceback,
nothing half-written.
"""

import contextlib
import io
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from toys import (
    call,
    errors_of,
    leftovers,
    network,
    picture,
    teacher_tree,
    tree,
    write_pair,
    write_recipe,
    write_story,
)

from rdd_deploy.losses import LOSSES


@pytest.fixture
def place(tmp_path: Path, trained: Path) -> Path:
    """Data, recipes and a trained teacher, to be spoilt."""
    shutil.copytree(trained, tmp_path / "place", symlinks=True)
    return tmp_path / "place"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write_story(folder)
    done = call("train", "teacher.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def refused(
    place: Path, *words: object, module: str = "distill", code: int = 2, env: dict[str, str] | None = None
) -> str:
    """The sentence of a command that must fail, its recipe and the folders' contents otherwise untouched."""
    before = sorted(path for path in place.rglob("*") if "runs" in path.parts)
    done = call(module, *(words or ("student.yaml",)), cwd=place, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    lines = errors_of(done)
    assert lines, "no error was printed"
    assert lines[0].startswith("error: "), lines
    assert leftovers(place) == []
    after = sorted(path for path in place.rglob("*") if "runs" in path.parts)
    assert not [path for path in after if path not in before and path.suffix in (".safetensors", ".ckpt", ".json")]
    return "\n".join([lines[0].removeprefix("error: "), *lines[1:]])


def test_wrong_recipe_names_every_problem(place: Path) -> None:
    recipe = tree(place / "data")
    recipe["student"] |= {"encoder": "mobilenetv3_small_050", "head": "lrasp", "chanels": 8}
    recipe["train"] |= {"epochs": 0, "lr": "fast", "optimiser": "sgd"}
    recipe["distilation"] = {}
    recipe["distillation"] = {"tse": {"rule": "nor", "threshold": 1.5}}
    write_recipe(place / "wrong.yaml", recipe)
    assert refused(place, "wrong.yaml").splitlines() == [
        "wrong.yaml has 9 problems:",
        "  teacher: missing; distil needs a student and a teacher (train a lone network with rdd_deploy.train)",
        (
            "  student.head: got 'lrasp', expected 'lraspp', 'lraspp_detail', 'lraspp_refine', 'lraspp_fpn',"
            " 'deeplabv3', 'deeplabv3plus' or 'pspnet'; did you mean 'lraspp'?"
        ),
        (
            "  student.chanels: unknown key; did you mean 'channels'? allowed: encoder, head, weights, output_stride,"
            " channels, auxiliary, dropout, activation, squeeze_excite"
        ),
        "  distillation.tse.rule: got 'nor', expected 'xor', 'and', 'or', 'lead' or 'student'; did you mean 'or'?",
        "  distillation.tse.threshold: got 1.5, expected: input should be less than 1",
        "  train.epochs: got 0, expected: input should be greater than or equal to 1",
        "  train.lr: got 'fast', expected: input should be a valid number, unable to parse string as a number",
        (
            "  train.optimiser: unknown key; did you mean 'optimizer'? allowed: epochs, budget, progressive, batch,"
            " optimizer, lr, head_lr_factor, layer_decay, momentum, weight_decay, warmup, power, clip, ema, task_loss,"
            " region_loss, region_weight, min_kept_per_class, auxiliary_weight, class_bias, seed, device, devices, nodes,"
            " precision, tf32, deterministic, compile, save_minutes, pictures_every, loggers"
        ),
        (
            "  distilation: unknown key; did you mean 'distillation'? allowed: name, data, augment, student, teacher,"
            " distillation, train, evaluation"
        ),
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["student.yaml", "train.seed"], "override 'train.seed' isn't of the form key.sub=value, e.g. train.seed=1"),
        (["student.yaml", "train.seed=1", "train.seed.x=1"], "override 'train.seed.x=1': train.seed is a value, not a group of keys"),
        (["student.yaml", "student.encoder=mobilenetv3_smal_050"], "unknown encoder 'mobilenetv3_smal_050'; did you mean mobilenetv3_small_050"),
        (["nowhere.yaml"], "no recipe 'nowhere.yaml'; expected a YAML file"),
        (["student.yaml", "teacher.recipe=lost.yaml"], "no recipe 'lost.yaml'; expected a YAML file"),
        (["student.yaml", "teacher.recipe=student.yaml"], "teacher.recipe: student.yaml is not a teacher recipe: it has no 'network' part"),
        (["teacher.yaml"], "student: missing; distil needs a student and a teacher (train a lone network with rdd_deploy.train)"),
        (
            ["student.yaml", "teacher.recipe=null", "teacher.checkpoint=lost.safetensors"],
            "no teacher checkpoint lost.safetensors; put it there, or name teacher.recipe so that the teacher is trained first",
        ),
        (["student.yaml", "distillation.losses=[{name: cdw}]"], f"distillation.losses.0.name: got 'cdw', expected {', '.join(map(repr, list(LOSSES)[:-1]))} or {list(LOSSES)[-1]!r}; did you mean 'cwd'?"),
        (
            ["student.yaml", "distillation.losses=[{name: cwd, options: {heat: 4}}]"],
            "distillation.losses.0.options.heat: unknown option of the loss 'cwd'; allowed: temperature, void",
        ),
        (
            ["student.yaml", "teacher.flip=true"],
            "teacher.flip and teacher.scales average over several views, which a live teacher doesn't; set teacher.cache=true, or drop them",
        ),
        (
            ["student.yaml", "student.weights=lost.pth"],
            "no weights file lost.pth; put it there, or set weights to imagenet, none or another file",
        ),
        (
            ["student.yaml", "student.weights=imagenet"],
            "no ImageNet weights for 'test_efficientnet': neither weights/test_efficientnet.safetensors nor .pth exists, and timm's hub "
            "doesn't help (it can't be reached: ",
        ),
        (["student.yaml", "data.root=elsewhere"], "no train split in elsewhere: expected the folders train/ (frames) and trainannot/ (PNG index"),
        (["student.yaml", "data.classes=[one, two]"], "data/trainannot/train0000.png holds unknown class ids [2]; expected 0 to 1 or a void id (255)"),
        (["student.yaml", "data.void_ids=[7]"], "holds unknown class ids [255]; expected 0 to 2 or a void id (7)"),
        (["student.yaml", "data.size=[16, 16]"], "data.size: got [16, 16], expected at least [32, 32]"),
        (["student.yaml", "train.batch=3", "train.devices=2"], "train.batch is 3, which 2 devices can't share evenly; expected a multiple"),
        (
            ["student.yaml", "train.batch=1", "student.head=deeplabv3"],
            "a batch of 1 crop of 64x64 leaves BatchNorm a single value per channel; set train.batch to 2 or more",
        ),
        (["student.yaml", "student.output_stride=8", "student.encoder=lcnet_050"], None),
    ],
)  # fmt: skip
def test_one_sentence(place: Path, words: list[str], sentence: str | None) -> None:
    if sentence is None:  # not wrong at all
        assert call("distill", *words, "train.epochs=1", cwd=place).returncode == 0
        return
    assert sentence in refused(place, *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(place: Path) -> None:
    assert "finds no CUDA device; install a driver, or set train.device=cpu" in refused(
        place, "student.yaml", "train.device=cuda"
    )


def spoil_truncated(root: Path) -> str:
    path = root / "train" / "train0002.png"
    path.write_bytes(path.read_bytes()[:200])
    return f"can't read the image {path}: the file is cut short; copy it again, or remove it"


def spoil_jpeg(root: Path) -> str:
    path = root / "train" / "train0002.jpg"
    cv2.imwrite(str(path), picture(2)[0])
    path.write_bytes(path.read_bytes()[:-30])
    (root / "train" / "train0002.png").unlink()
    return f"can't read the image {path}: the file is cut short; copy it again, or remove it"


def spoil_empty(root: Path) -> str:
    path = root / "valannot" / "val1001.png"
    path.write_bytes(b"")
    return f"can't read the mask {path}: the file is empty"


def spoil_size(root: Path) -> str:
    frame, labels = picture(3)
    write_pair(root, "train", "train0003", frame, labels[:50])
    return (
        f"train0003: the frame is 64x64, its mask 50x64; fix {root}/train/train0003.png or"
        f" {root}/trainannot/train0003.png"
    )


def spoil_colours(root: Path) -> str:
    path = root / "trainannot" / "train0001.png"
    cv2.imwrite(str(path), picture(1)[0])
    return (
        f"{path} is a mask of shape (64, 64, 3) and type uint8; expected one 8-bit channel of class ids (not colours):"
        " export it as greyscale or with a palette, or say what its colours mean (data.colours, where data.name is"
        " folder)"
    )


def spoil_leak(root: Path) -> str:
    write_pair(root, "val", "same", *picture(4))
    return (
        "1 images are in both train and val, e.g. train0004 and same; remove them from one, or the measured mIoU means"
        " nothing"
    )


def spoil_lost(root: Path) -> str:
    (root / "trainannot" / "train0001.png").unlink()
    return f"1 of 6 frames in {root}/train have no mask in {root}/trainannot, e.g. train0001.png needs train0001.png"


def spoil_void(root: Path) -> str:
    for path in (root / "valannot").iterdir():
        cv2.imwrite(str(path), np.full((64, 64), 255, np.uint8))
    return "every pixel of the split is void; expected class ids, see data.void_ids"


@pytest.mark.parametrize(
    "spoil", [spoil_truncated, spoil_jpeg, spoil_empty, spoil_size, spoil_colours, spoil_leak, spoil_lost, spoil_void]
)
def test_bad_data(place: Path, spoil: Any) -> None:
    expected = spoil(place / "data")
    recipe = yaml.safe_load((place / "student.yaml").read_text())
    recipe["data"]["root"] = str(place / "data")
    write_recipe(place / "student.yaml", recipe)
    got = refused(place)
    assert got.replace(str(place), "") == expected.replace(str(place), "")


def test_checkpoint_of_other_classes(place: Path) -> None:
    got = refused(place, "student.yaml", "data.classes=[left, middle, right, above]")
    assert (
        got
        == "runs/teacher/teacher.safetensors was trained on 3 classes (left, middle, right); this data set has 4 (left,"
        " middle, right, above); train on data of these classes in this order, or, for a teacher, say by teacher.classes which of"
        " its classes means which"
    )


@pytest.mark.parametrize("cut", [0, 5, 1000, -10])
def test_damaged_checkpoint(place: Path, cut: int) -> None:
    path = place / "runs" / "teacher" / "teacher.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    got = refused(place)
    assert got.startswith("runs/teacher/teacher.safetensors can't be read: ")
    assert got.endswith("the file is damaged, train or copy it again")


def test_a_file_that_is_no_checkpoint(place: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"x": torch.zeros(3)}, place / "other.safetensors")
    got = refused(place, "student.yaml", "teacher.recipe=null", "teacher.checkpoint=other.safetensors")
    assert (
        got
        == "other.safetensors isn't a checkpoint of rdd_deploy (its metadata names no format); expected one written by"
        " distill or train"
    )


def test_checkpoint_of_another_model(place: Path) -> None:
    import safetensors
    import safetensors.torch

    path = place / "runs" / "teacher" / "teacher.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    tensors.pop("head.classify_low.bias")
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    got = refused(place)
    assert got.startswith("runs/teacher/teacher.safetensors doesn't fit the network in its own metadata: ")
    assert got.endswith("; the file was edited")


def test_teacher_without_the_auxiliary_head_that_stage_1_needs(place: Path) -> None:
    write_recipe(place / "plain.yaml", teacher_tree(place / "data", network=network()))
    assert call("train", "plain.yaml", cwd=place).returncode == 0
    got = refused(place, "student.yaml", "teacher.recipe=null", "teacher.checkpoint=runs/plain/teacher.safetensors")
    assert got.startswith(
        "runs/plain/teacher.safetensors has no auxiliary head, which stage 1 of RDD compares with; train a teacher with"
        " auxiliary: true, set distillation.tfe_fraction=0, or give it another second opinion: teacher.second=flip"
    )


@pytest.mark.parametrize("words", [("student.yaml",), ("student.yaml", "--dry-run")])
def test_a_folder_in_the_place_of_the_link_to_the_newest_run(place: Path, words: tuple[str, ...]) -> None:
    """Told before anything is trained, not after."""
    (place / "runs" / "latest").unlink()
    (place / "runs" / "latest").mkdir()
    assert refused(place, *words) == "runs/latest is a folder, expected a link to the newest run; move it away"
    assert not (place / "runs" / "student").exists()


def test_damaged_state(place: Path) -> None:
    done = call("distill", "student.yaml", "train.epochs=1", cwd=place)
    assert done.returncode == 0, done.stderr
    state = place / "runs" / "student" / "state.ckpt"
    whole = state.read_bytes()
    damaged = (
        "the file is damaged, or wasn't written by distill or train; put a whole one there, or start again without"
        " --resume"
    )
    other = "it holds another network's state, or one of another version; start again without --resume"
    for content, problem in (
        (whole[:5000], damaged),
        (b"", damaged),
        (pickle.dumps(Path), damaged),
        (saved(Path()), damaged),
        (saved({"model": {}}), other),
    ):
        state.write_bytes(content)
        assert (
            refused(place, "student.yaml", "train.epochs=1", "--resume")
            == f"can't resume from runs/student/state.ckpt: {problem}"
        )


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_output_that_is_a_file(place: Path) -> None:
    (place / "taken").write_text("mine")
    got = refused(place, "student.yaml", "--output", "taken")
    assert "can't write" in got
    assert (place / "taken").read_text() == "mine"


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 300 KB: the run's first files fit, its weights don't."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_while_saving(place: Path, small_disk: Path) -> None:
    done = call("train", "student.yaml", "--output", small_disk, cwd=place)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = errors_of(done)
    run = small_disk / "student_alone"
    assert (
        line
        == f"error: can't write {run}/student.safetensors: No space left on device; free some space or choose another"
        " folder. Nothing was changed there"
    )
    assert leftovers(small_disk) == []
    assert not (run / "student.safetensors").exists()


def test_full_disk_from_the_start(place: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 280_000)
    with contextlib.suppress(OSError):
        (small_disk / "filler2").write_bytes(b"x" * 100_000)
    done = call("train", "student.yaml", "--output", small_disk, cwd=place)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = errors_of(done)
    assert "No space left on device" in line


def test_full_disk_under_the_teachers_cache(place: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 290_000)
    (place / "runs" / "teacher" / "cache").symlink_to(small_disk)
    got = refused(place, "student.yaml", "teacher.cache=true", "data.size=[128, 128]")
    assert got.startswith("the teacher cache needs ")
    assert got.endswith("free some space or set teacher.cache=false")
    left = {path.name for path in small_disk.iterdir() if not path.name.startswith("measured-")}
    assert left == {"filler"}, "and the teacher's mIoU, which was measured before"
