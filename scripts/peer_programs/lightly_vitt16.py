"""EoMT on a DINOv3 ViT-tiny, trained and exported by lightly-train. Runs in the environment that scripts/peers.py
makes, imports nothing of rdd_deploy.

    python lightly_vitt16.py train|export job.json
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ARCHITECTURE, PRETRAINED = "dinov3/vitt16-notpretrained-eomt", "dinov3/vitt16-eomt-coco"
WARMUP = (1 / 80, 1 / 40)
"""The tool's warm-up is 500 and 1000 of 40,000 steps; of a short training it would be all, so its shares are kept
instead."""


def side(job: dict[str, Any]) -> int:
    """Of the square that the network sees: the short side, in whole patches of 16 pixels."""
    return -(-min(job["size"]) // 16) * 16


def fit(job: dict[str, Any], out: Path, steps: int) -> float:
    """Train so many steps; the seconds that it took."""
    import lightly_train  # type: ignore[import-not-found]

    data = Path(job["data"])
    splits = {
        name: {"images": str(data / "images" / name), "masks": str(data / "masks" / name)} for name in ("train", "one")
    }
    began = time.monotonic()
    lightly_train.train_semantic_segmentation(
        out=out,
        overwrite=True,
        steps=steps,
        batch_size=8,
        gradient_accumulation_steps=1,
        num_workers=1,
        accelerator="cpu",
        devices=1,
        model={"none": ARCHITECTURE, "download": PRETRAINED}.get(job["weights"], job["weights"]),
        precision=job["precision"],
        seed=job["seed"],
        data={"train": splits["train"], "val": splits["one"], "classes": dict(enumerate(job["classes"]))},
        transform_args={"image_size": (side(job), side(job))},
        model_args={"lr_warmup_steps": tuple(max(1, round(share * steps)) for share in WARMUP)},
        logger_args={"tensorboard": None, "val_every_num_steps": steps},
        save_checkpoint_args={"save_every_num_steps": steps, "save_best": False},
    )
    return time.monotonic() - began


def train(job: dict[str, Any], out: Path) -> None:
    """Write last.pt, and trained.json: how long it took. The tool counts steps, not minutes: how many fit is measured
    on two short trainings first."""
    if job["minutes"] == 0:
        (out / "last.pt").write_bytes(b"")
        return
    fit(job, out / "probe", 1)  # the first one in a process also loads and warms up what the others find ready
    short, longer = fit(job, out / "probe", 1), fit(job, out / "probe", 4)
    if longer <= short:
        sys.exit(
            f"4 steps took {longer:.2f} s and one took {short:.2f} s; expected more for 4, so that a step can be told"
            " from the rest: try again with less other work on the machine"
        )
    step = (longer - short) / 3
    steps = max(1, math.floor(60 * job["minutes"] / step))
    print(f"{step:.2f} s a step: {steps} steps in {job['minutes']:g} min", flush=True)
    seconds = fit(job, out / "run", steps)
    (out / "trained.json").write_text(json.dumps({"seconds": round(seconds, 1), "threads": job["threads"]}))
    shutil.copyfile(out / "run/exported_models/exported_last.pt", out / "last.pt")


def export(job: dict[str, Any], out: Path) -> None:
    """Write ONNX for as many squares as cover a frame, and artifacts.json. The tool has no INT8 and no OpenVINO, which
    reads the ONNX."""
    import lightly_train

    square = side(job)
    if job["minutes"] == 0:
        from lightly_train._task_models.dinov3_eomt_semantic_segmentation.task_model import (  # type: ignore[import-not-found]
            DINOv3EoMTSemanticSegmentation,
        )

        normalize = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        model = DINOv3EoMTSemanticSegmentation(
            model_name=ARCHITECTURE,
            classes=dict(enumerate(job["classes"])),
            class_ignore_index=None,
            image_size=(square, square),
            image_normalize=normalize,
            num_queries=100,
            num_joint_blocks=3,
            load_weights=False,
        )
    else:
        model = lightly_train.load_model(job["trained"])
    height, width = job["frame"]
    tiles = math.ceil(max(height, width) / min(height, width))
    model.export_onnx(out / "model.onnx", batch_size=tiles, dynamic_batch_size=False, precision="fp32")
    tool = f"lightly-train {lightly_train.__version__}"
    facts = {
        "tool": tool,
        "precision": "fp32",
        "file": "model.onnx",
        "size": [square, square],
        "tiles": tiles,
        **model.image_normalize,
    }
    (out / "artifacts.json").write_text(
        json.dumps([{"backend": backend, **facts} for backend in ("onnxruntime", "openvino")])
    )


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[2]).read_text())
    {"train": train, "export": export}[sys.argv[1]](asked, Path(asked["out"]))
