"""ONNX graph -> TensorRT engine, through polygraphy: ``tensorrt`` for this machine's GPU, ``tensorrt-rtx`` ahead of
time for named GPUs.

Precision lives in the graph (explicit Q/DQ, or half-precision tensors) and the network is strongly typed, which is the
only way since TensorRT 11 and works from 10.12. Older versions get precision flags with the same graph.
"""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from rdd_deploy import console
from rdd_deploy.errors import DeviceError, MissingPackageError, RddError, RecipeError, missing_package
from rdd_deploy.export.profile import Profile, changed
from rdd_deploy.export.targets import TARGETS
from rdd_deploy.runtime import EngineInfo

STRONGLY_TYPED_SINCE = (10, 12)


class Built(NamedTuple):
    """A serialised engine and what it runs on."""

    engine: bytes
    info: EngineInfo

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the engine into a bundle's folder; returns its fields of the manifest."""
        name = "model.engine"
        (folder / name).write_bytes(self.engine)
        console.info(
            f"engine: {len(self.engine) / 1e6:.1f} MB for {self.info.gpu or ', '.join(self.info.compute_capabilities)}"
        )
        return {"model": name, "engine": self.info}


def retargeted(profile: Profile, capabilities: list[str] | None) -> Profile:
    """Choose the package that builds: named capabilities mean tensorrt-rtx, which builds for GPUs that aren't here.

    Raises:
        MissingPackageError: the package isn't installed; says which extra has it.
        DeviceError: a capability that this tensorrt-rtx doesn't know, or none named.
    """
    wanted = capabilities or (profile.engine.compute_capabilities if profile.engine else [])
    if capabilities:
        capabilities = list(dict.fromkeys(capabilities))
        engine = (profile.engine.model_dump(exclude_unset=True) if profile.engine else {}) | {
            "compute_capabilities": capabilities
        }
        name = re.sub(r"^tensorrt\b(?!-rtx)", "tensorrt-rtx", profile.name)
        if profile.backend == "tensorrt" and name == profile.name:
            raise RecipeError(
                f"--compute-capability builds with tensorrt-rtx, but '{profile.name}' is a profile for tensorrt on its"
                " own GPU; take --trt, or a profile with backend: tensorrt-rtx"
            )
        profile = changed(profile, backend="tensorrt-rtx", name=name, engine=engine)
    check_builder(profile)
    if profile.backend == "tensorrt-rtx":
        _known(wanted)
    return profile


def check_builder(profile: Profile) -> None:
    """Raise MissingPackageError unless package and polygraphy for this profile are installed."""
    module, extra = TARGETS[profile.backend].module, TARGETS[profile.backend].extra
    if find_spec(module) is None:
        error = missing_package(profile.backend, extra, f"building '{profile.name}'")
        if (
            profile.name.startswith("tensorrt")
            and profile.backend == "tensorrt"
            and find_spec("tensorrt_rtx") is not None
        ):
            raise MissingPackageError(
                f"{error}; or build ahead of time with the tensorrt-rtx that is here: --compute-capability 8.6"
            )
        raise error
    if find_spec("polygraphy") is None:
        raise missing_package("polygraphy", extra, f"building '{profile.name}'")


def _known(capabilities: list[str]) -> None:
    trt: Any = importlib.import_module("tensorrt_rtx")
    allowed = {
        f"{name[2:-1]}.{name[-1]}": name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d{2,3}", name)
    }
    for one in capabilities:
        if one not in allowed:
            raise DeviceError(
                f"tensorrt-rtx {trt.__version__} can't build for compute capability {one}; expected one of "
                f"{', '.join(sorted(allowed, key=lambda text: tuple(map(int, text.split('.')))))}"
                + (
                    " (a Jetson builds its own: --profile jetson-orin-int8, on the Jetson)"
                    if one in {"8.7", "7.2", "5.3", "6.2"}
                    else ""
                )
            )


def engine_from_onnx(model: onnx.ModelProto, profile: Profile) -> Built:
    """Parse and build.

    Raises:
        MissingPackageError, DeviceError: package or GPU missing.
        RddError: the parser or the builder refuses the graph; says why.
    """
    check_builder(profile)
    rtx = profile.backend == "tensorrt-rtx"
    trt: Any = importlib.import_module(TARGETS[profile.backend].module)
    polygraphy = importlib.import_module("polygraphy")
    polygraphy.config.USE_TENSORRT_RTX = rtx  # read when its TensorRT modules are first used
    backend: Any = importlib.import_module("polygraphy.backend.trt")
    logger: Any = importlib.import_module("polygraphy.logger").G_LOGGER
    gpu = None if rtx else _gpu()
    try:
        with logger.verbosity(logger.ERROR):
            network = backend.NetworkFromOnnxBytes(
                model.SerializeToString(), strongly_typed=_strongly_typed(trt, rtx) or None
            )
            engine = bytes(backend.EngineBytesFromNetwork(network, config=_config(trt, backend, profile))())
    except Exception as error:  # polygraphy's own and TensorRT's
        raise RddError(
            f"{profile.backend} {trt.__version__} can't build '{profile.name}': {_reason(error)}; "
            "its messages above say where. A float engine may still build: --trt --fp16"
        ) from error
    capabilities = list(profile.engine.compute_capabilities) if rtx and profile.engine else []
    package: Any = profile.backend
    return Built(
        engine, EngineInfo(package=package, version=trt.__version__, gpu=gpu, compute_capabilities=capabilities)
    )


def _strongly_typed(trt: Any, rtx: bool) -> bool:
    version = tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2])
    return rtx or version >= STRONGLY_TYPED_SINCE


def _config(trt: Any, backend: Any, profile: Profile) -> Any:
    limits = {}
    if profile.engine and profile.engine.workspace_mib:
        limits = {"memory_pool_limits": {trt.MemoryPoolType.WORKSPACE: profile.engine.workspace_mib << 20}}
    if profile.backend == "tensorrt-rtx":
        assert profile.engine is not None
        capabilities = [tuple(int(part) for part in one.split(".")) for one in profile.engine.compute_capabilities]
        return importlib.import_module("polygraphy.backend.tensorrt_rtx").CreateConfigRTX(
            compute_capabilities=capabilities, **limits
        )
    if _strongly_typed(trt, rtx=False):
        return backend.CreateConfig(**limits)
    quantised = profile.precision == "int8"
    return backend.CreateConfig(int8=quantised, fp16=quantised or profile.precision == "fp16", **limits)


def _gpu() -> str:
    """Name of GPU 0, which ``tensorrt`` builds for."""
    try:
        cuda: Any = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise missing_package("cuda-python", "gpu", "building a TensorRT engine") from error
    status, count = cuda.cudaGetDeviceCount()
    if int(status) or not count:
        raise DeviceError(
            "tensorrt builds on the GPU that the engine will run on, and this machine has none; run the export there, "
            "or build ahead of time with tensorrt-rtx: --compute-capability 8.6"
        )
    _, properties = cuda.cudaGetDeviceProperties(0)
    return bytes(properties.name).split(b"\0")[0].decode()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
