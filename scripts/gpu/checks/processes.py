"""Two processes on one GPU against one process with the whole batch: losses and weights of ``TrainState`` after a few
float32 steps.

They talk by gloo, since NCCL wants a GPU each. With dropout, OHEM's threshold over both halves, and void that only one
of them has.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import DEVICE, SMOKE, WORK, add, guarded, relative

from rdd_deploy.data.loader import Batch
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.state import TrainState
from rdd_deploy.training.supervised import SupervisedObjective

ENCODERS = (
    ("mobilenetv3_small_100",)
    if SMOKE
    else ("resnet18", "mobilenetv3_small_100", "tf_efficientnet_lite0", "hrnet_w18_small")
)
"""The last one has parameters that no feature map needs."""
CLASSES, STEPS, BATCH, SIDE = 5, 4, 8, 64 if SMOKE else 128


def train(encoder: str, nodes: int) -> dict[str, Any]:
    """Losses of each step and the weights after them; this process's share of the batch where there are several."""
    import lightning_fabric.strategies.ddp as ddp

    ddp._get_default_process_group_backend_for_device = lambda device: "gloo"
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    config = Train(
        device=DEVICE.type,
        devices=1,
        nodes=nodes,
        batch=BATCH,
        precision="32-true",
        lr=0.01,
        warmup=0.0,
        task_loss="ohem",
    )
    fabric = make_fabric(config)
    fabric.launch()
    torch.manual_seed(0)
    segmenter = Segmenter(Network(encoder=encoder, weights="none", dropout=0.2, channels=32), CLASSES)
    train_state = TrainState(segmenter, SupervisedObjective(config, torch.ones(CLASSES)), config, fabric)
    segmenter.train()
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, CLASSES, (BATCH, SIDE, SIDE), generator=generator)
        labels[: BATCH // 4, : SIDE // 2] = 255
        mine = slice(fabric.global_rank * BATCH // nodes, (fabric.global_rank + 1) * BATCH // nodes)
        index = torch.arange(BATCH)
        signs, _ = train_state.update(
            Batch(images[mine].to(DEVICE), labels[mine].to(DEVICE), index[mine], index[mine]), 0.0
        )
        losses.append(float(fabric.all_reduce(signs[0])))
    state = train_state.state()
    fabric.barrier()
    return {
        "losses": torch.tensor(losses),
        "model": {k: v.cpu() for k, v in state["model"].items()},
        "rng": len(state["rng"]),
    }


def pair(place: Path) -> None:
    """Start two processes as torchrun would on two machines, each with this GPU; they train one encoder after the
    other.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        more = {
            "RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": rank, "NODE_RANK": rank, "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "check", "OMP_NUM_THREADS": 2, "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        command = [sys.executable, __file__, "--save", str(place / str(rank))]
        started.append(subprocess.Popen(command, env=os.environ | {key: str(value) for key, value in more.items()}))
    until = time.monotonic() + (300 if SMOKE else 35)
    for process in started:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    print("the two processes ended with", [process.returncode for process in started])


def compare(encoder: str, place: Path) -> None:
    saved = place / f"0.{encoder}.pt"
    if not saved.is_file():
        raise RuntimeError("the two processes didn't get through it: see what they said in log.txt")
    together = torch.load(saved, weights_only=True)
    alone = train(encoder, 1)
    loss = relative(together["losses"], alone["losses"])
    names = [name for name, value in alone["model"].items() if value.is_floating_point()]
    weights = relative(
        torch.cat([together["model"][n].flatten() for n in names]),
        torch.cat([alone["model"][n].flatten() for n in names]),
    )
    print(encoder, together["losses"], alone["losses"])
    verdict = "ok" if loss < 1e-3 and weights < 1e-2 else "FAILED: another network or batch than one process trains"
    add(
        "processes",
        f"{encoder}: 2 processes against 1, losses / weights",
        f"{loss:.1e} / {weights:.1e}",
        verdict,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="of one of the two processes: where its results go")
    options = parser.parse_args()
    if options.save:
        for encoder in ENCODERS:
            torch.save(train(encoder, 2), options.save.with_name(f"{options.save.name}.{encoder}.pt"))
        return
    place = WORK / "processes"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    pair(place)
    for encoder in ENCODERS:
        with guarded("processes", encoder):
            compare(encoder, place)


if __name__ == "__main__":
    sys.exit(main())
