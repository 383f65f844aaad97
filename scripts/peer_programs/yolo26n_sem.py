"""YOLO26n-sem trained and exported by ultralytics. Runs in the environment that scripts/peers.py makes, imports nothing
of rdd_deploy.

    python yolo26n_sem.py train|export job.json

ultralytics loads checkpoints with pickle: a file of somebody else's can run any code, here, in this process.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

NAME = "yolo26n-sem"
"""The architecture's file is yolo26-sem.yaml; the n in the name chooses its scale."""


def quiet() -> None:
    """Nothing is reported to its maker, not even where weights may be downloaded."""
    from ultralytics import settings  # type: ignore[import-not-found]
    from ultralytics.utils.events import events  # type: ignore[import-not-found]

    settings.update({"sync": False})
    events.enabled = False


def train(job: dict[str, Any], out: Path) -> None:
    """Write last.pt: the weights at the end, none chosen by the validation frames, which this process never sees; and
    trained.json: how long it took on how many threads."""
    from ultralytics import YOLO  # type: ignore[import-not-found]

    if job["minutes"] == 0:
        model = YOLO(str(untrained(len(job["classes"]), out)))
        model.save(str(out / "last.pt"))
        return
    weights = {"none": f"{NAME}.yaml", "download": f"{NAME}.pt"}.get(job["weights"], job["weights"])
    model = YOLO(weights, task="semantic")
    used: list[int] = []
    model.add_callback("on_train_start", lambda trainer: used.append(threads(job["threads"])))
    began = time.monotonic()
    # imgsz is the frames' short side in training and their long side elsewhere.
    model.train(
        data=job["train_yaml"],
        time=job["minutes"] / 60,
        imgsz=-(-min(job["size"]) // 32) * 32,
        workers=1,
        device="cpu",
        val=False,
        plots=False,
        seed=job["seed"],
        project=str(out),
        name="run",
        exist_ok=True,
    )
    facts = {"seconds": round(time.monotonic() - began, 1), "threads": used[-1] if used else None}
    (out / "trained.json").write_text(json.dumps(facts))
    shutil.copyfile(out / "run/weights/last.pt", out / "last.pt")


def threads(count: int) -> int:
    """Train on so many threads: on a CPU ultralytics takes one less than there are cores, whatever OMP_NUM_THREADS
    says. How many torch has then."""
    import torch

    torch.set_num_threads(count)
    print(f"{torch.get_num_threads()} threads", flush=True)
    return torch.get_num_threads()


def untrained(classes: int, out: Path) -> Path:
    """The architecture's file with our number of classes."""
    from ultralytics.utils import ROOT, YAML  # type: ignore[import-not-found]

    tree = YAML.load(next((ROOT / "cfg/models").rglob("yolo26-sem.yaml")))
    YAML.save(out / f"{NAME}.yaml", tree | {"nc": classes})
    return out / f"{NAME}.yaml"


def export(job: dict[str, Any], out: Path) -> None:
    """Write ONNX and OpenVINO in float32 and INT8, calibrated on training frames, and artifacts.json, which names
    them."""
    from ultralytics import YOLO, __version__

    size = [-(-side // 32) * 32 for side in job["size"]]
    weights = Path(shutil.copyfile(job["trained"], out / "last.pt"))  # what it exports, it writes beside them
    artifacts = []
    for backend, form in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        for precision in ("fp32", "int8"):
            options = {"quantize": 8, "data": job["calibration_yaml"]} if precision == "int8" else {}
            made = Path(YOLO(weights).export(format=form, imgsz=size, device="cpu", batch=1, **options))
            place = out / f"{backend}-{precision}"
            place.mkdir()
            for file in made.iterdir() if made.is_dir() else [made]:
                shutil.move(file, place / f"model{file.suffix}" if file.suffix in (".onnx", ".xml", ".bin") else place)
            file = "model.onnx" if form == "onnx" else "model.xml"
            artifacts.append(
                {
                    "backend": backend,
                    "precision": precision,
                    "file": f"{place.name}/{file}",
                    "size": size,
                    "tool": f"ultralytics {__version__}",
                }
            )
    (out / "artifacts.json").write_text(json.dumps(artifacts))


if __name__ == "__main__":
    quiet()
    asked = json.loads(Path(sys.argv[2]).read_text())
    {"train": train, "export": export}[sys.argv[1]](asked, Path(asked["out"]))
