"""What is there: GPU, driver, versions, the rates of copies and matrix products, whether every module of the project
imports.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import subprocess
import sys
import time
from importlib import metadata

import torch
from common import DEVICE, SMOKE, add, guarded, median_ms, relative, tf32

PACKAGES = (
    "torch", "torchvision", "timm", "segmentation-models-pytorch", "lightning-fabric", "pytorch-lightning", "torchmetrics", "pydantic", "numpy",
    "opencv-python-headless", "opencv-python", "pillow", "simplejpeg", "pyyaml", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorboard", "matplotlib", "rich", "typer",
    "safetensors", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "triton", "cuda-bindings", "tensorrt", "tensorrt-rtx", "openvino", "polygraphy",
)  # fmt: skip


def main() -> None:
    if DEVICE.type == "cuda":
        with guarded("environment", "nvidia-smi"):
            query = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,temperature.gpu,utilization.gpu"
            command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv"]
            print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        facts = torch.cuda.get_device_properties(0)
        add("environment", "GPU", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {facts.major}.{facts.minor}")
    add(
        "environment",
        "Python, torch, CUDA, cuDNN",
        f"{platform.python_version()}, {torch.__version__}, {torch.version.cuda}, {torch.backends.cudnn.version()}",
    )
    add("environment", "cores (affinity)", f"{os.cpu_count()} ({len(os.sched_getaffinity(0))})")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "-"
    print("\n".join(f"{name} {version}" for name, version in versions.items()))
    add(
        "environment",
        "packages missing",
        ", ".join(name for name, version in versions.items() if version == "-") or "none",
    )
    modules()
    ceilings()
    float32()


def modules() -> None:
    """Import every module but the one that runs the command line."""
    import rdd_deploy

    lost = {}
    for module in pkgutil.walk_packages(rdd_deploy.__path__, "rdd_deploy."):
        if module.name == "rdd_deploy.__main__":
            continue
        try:
            importlib.import_module(module.name)
        except Exception as error:
            lost[module.name] = f"{type(error).__name__}: {error}"
    print(lost)
    add("environment", "modules that don't import", ", ".join(lost) or "none", "FAILED" if lost else "ok")


def ceilings() -> None:
    """Device copy (bytes read and written) and bf16 / float32 matrix products on random data."""
    with guarded("environment", "ceilings"):
        n = 1 << (20 if SMOKE else 30)
        source, target = torch.randn(n // 4, device=DEVICE), torch.empty(n // 4, device=DEVICE)
        add("environment", "device copy, TB/s", 2 * n / median_ms(lambda: target.copy_(source)) / 1e9)
        side = 256 if SMOKE else 8192
        a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
        add("environment", "bf16 matrix product, TFLOP/s", 2 * side**3 / median_ms(lambda: a @ b) / 1e9)
    with guarded("environment", "host"):
        since = time.perf_counter()
        sum(range(10_000_000))
        add("environment", "host: summing 10 M numbers in Python, s", time.perf_counter() - since)
        pinned = torch.empty(1 << 24, dtype=torch.uint8, pin_memory=DEVICE.type == "cuda")
        paged, there = torch.zeros(1 << 24, dtype=torch.uint8), torch.empty(1 << 24, dtype=torch.uint8, device=DEVICE)
        for name, host in (("pinned", pinned), ("pageable", paged)):
            add(
                "environment",
                f"16 MiB to the device, {name}, GB/s",
                (1 << 24) / median_ms(lambda host=host: there.copy_(host, non_blocking=True)) / 1e6,
            )
    with guarded("environment", "launches"):
        x = torch.zeros(8, device=DEVICE)
        since = time.perf_counter()
        for _ in range(2000):
            x.add_(1)
        add("environment", "microseconds to launch one small kernel (host)", (time.perf_counter() - since) / 2000 * 1e6)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()


def float32() -> None:
    """Whether a float32 convolution is one: by torch's default it multiplies in TF32 on a GPU."""
    with guarded("environment", "float32 convolution"):
        torch.manual_seed(0)
        x, w = torch.randn(4, 64, 32, 32), torch.randn(64, 64, 3, 3)
        exact = torch.nn.functional.conv2d(x.double(), w.double())
        default = relative(torch.nn.functional.conv2d(x.to(DEVICE), w.to(DEVICE)), exact)
        with tf32(False):
            full = relative(torch.nn.functional.conv2d(x.to(DEVICE), w.to(DEVICE)), exact)
        add(
            "environment",
            "error of a float32 convolution, torch's default",
            default,
            "TF32: not what 32-true says" if default > 1e-5 else "float32",
        )
        add("environment", "error of a float32 convolution, TF32 off", full)


if __name__ == "__main__":
    sys.exit(main())
