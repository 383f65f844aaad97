"""What ``rdd-deploy export`` does, from the words of its command line to the bundles."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rdd_deploy import console
from rdd_deploy.errors import RddError, RecipeError, missing_package
from rdd_deploy.export.bundle import PROFILE
from rdd_deploy.export.options import Options
from rdd_deploy.export.profile import Profile, changed, load_profile
from rdd_deploy.export.targets import TARGETS
from rdd_deploy.runtime.manifest import MANIFEST, read_manifest
from rdd_deploy.utils.files import check_writable


class Changes(NamedTuple):
    """What the command line says otherwise than the profiles."""

    compute_capability: str | None
    size: tuple[int, int] | None
    max_drop: float | None
    weight_bits: int | None


def export_all(
    run: Path | None,
    flags: dict[str, bool],
    precisions: list[str],
    named: list[str],
    changes: Changes,
    options: Options,
    output: Path | None,
    data: Path | None,
) -> None:
    """Export a run to every target that is asked for, or build engines from a bundle.

    Args:
        run: a run's folder, or a bundle's; None: the newest run.
        flags, precisions: the targets by their short names. named: profiles.
        output: folder of bundles. data: root of the data set.
    """
    bundle = run if run is not None and (run / MANIFEST).is_file() else None
    if bundle is not None:
        profiles = _for_bundle(bundle, flags, precisions, named, changes, options.engine)
    else:
        profiles = [load_profile(name) for name in [*named, *_shipped(flags, precisions)]]
    if not profiles:
        raise RddError("no target named; expected --onnx, --openvino, --trt or --profile FILE")
    if options.plan is not None and len(profiles) > 1:
        raise RecipeError(f"--plan replays one profile's plan, got {len(profiles)} profiles; name one")
    if options.plan is not None and changes.weight_bits is not None:
        raise RecipeError(
            f"--plan replays {options.plan}, which holds placement.weight_bits; change it there, and leave --weight-bits"
            " out"
        )
    _check_packages(
        ("onnx",) if bundle is not None else ("torch", "timm", "onnx", "onnxscript"),
        "train" if bundle is None else "gpu",
    )
    capabilities = (
        [part.strip() for part in changes.compute_capability.split(",") if part.strip()]
        if changes.compute_capability is not None
        else None
    )
    if capabilities == []:
        raise RecipeError(f"--compute-capability is '{changes.compute_capability}'; expected one or more, e.g. 8.6,8.9")
    names = [one.name for one in profiles]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(
            f"the profile name {double[0]} is given more than once; each writes a folder of its name, so name them"
            " apart"
        )
    profiles = [_adjusted(one, capabilities, changes, options.engine) for one in profiles]
    if bundle is not None:
        _build(bundle, profiles, output, options, data)
    else:
        _export(run, profiles, output, options, data)


def _export(
    run: Path | None, profiles: list[Profile], output: Path | None, options: Options, data: Path | None
) -> None:
    """A run folder to bundles."""
    from rdd_deploy.export.pipeline import check_backend, export_profile  # takes seconds: torch, onnx
    from rdd_deploy.export.trained_run import open_run

    for one in profiles:
        check_backend(one, options.engine)
    source = open_run(run, data)
    check_writable(output or source.run.export)
    for one in profiles:
        target, comparison = export_profile(source, one, output or source.run.export, options)
        if options.evaluate:
            images, size = len(comparison.reference.labels), comparison.reference.size
            from rdd_deploy.evaluation import Evaluated, show
            from rdd_deploy.metrics import protocol

            facts = protocol(source.data.name, options.split, images, size, len(source.classes))
            graph_only = one.backend == "tensorrt-rtx" or (one.backend == "tensorrt" and not options.engine)
            what = (
                "the graph by onnxruntime; the engine itself can't be measured here"
                if graph_only
                else f"{one.backend} {one.precision}"
            )
            show(Evaluated(f"{target} ({what})", facts, comparison.confusion.summary()))
        console.info(f"done: {target}")
        if one.backend.startswith("tensorrt") and not options.engine:
            console.info(
                "it holds no engine yet; copy it to the machine that will run it, and there: rdd-deploy export"
                f" {target.name} --trt"
            )


def _build(bundle: Path, profiles: list[Profile], output: Path | None, options: Options, data: Path | None) -> None:
    """A bundle to engines."""
    from rdd_deploy.export.from_bundle import engine_from_bundle

    check_writable(output or bundle.absolute().parent)
    for one in profiles:
        target = engine_from_bundle(bundle, one, output, options, data)
        manifest = read_manifest(target, verify=False)
        if metrics := manifest.metrics:
            size = (manifest.input.height, manifest.input.width)
            from rdd_deploy.evaluation import Evaluated, show
            from rdd_deploy.metrics import protocol

            facts = protocol(metrics.data, metrics.split, metrics.images, size, len(manifest.classes))
            show(Evaluated(f"{target} ({one.backend} {one.precision})", facts, metrics.model_dump()))
        console.info(f"done: {target}")


def _for_bundle(
    bundle: Path, flags: dict[str, bool], precisions: list[str], named: list[str], asked: Changes, engine: bool
) -> list[Profile]:
    """The profiles of the engines that are asked for; a bundle that holds its own is built by that."""
    wrong = [f"--{name}" for name in ("onnx", "openvino") if flags[name]]
    wrong += ["--bf16"] * ("bf16" in precisions) + ["--size"] * (asked.size is not None)
    wrong += ["--weight-bits"] * (asked.weight_bits is not None) + ["--no-engine"] * (not engine)
    if wrong:
        raise RecipeError(f"{bundle} is a bundle, from which engines are built; {wrong[0]} needs the run folder")
    own = bundle / PROFILE
    if flags["trt"] and own.is_file():
        profile = load_profile(own)
        if precisions not in ([], [profile.precision]):
            raise RecipeError(
                f"{bundle} holds a graph in {profile.precision}; leave --{precisions[0]} out, or export the run with it"
            )
        return [load_profile(name) for name in named] or [profile]
    profiles = [load_profile(name) for name in [*named, *_shipped(flags, precisions)]]
    for one in profiles:
        if not one.backend.startswith("tensorrt"):
            raise RecipeError(
                f"{bundle} is a bundle, from which engines are built; profile '{one.name}' is for {one.backend}"
            )
    return profiles


def _shipped(flags: dict[str, bool], precisions: list[str]) -> list[str]:
    """The shipped profiles that the short flags mean."""
    if precisions and not any(flags.values()):
        raise RecipeError(f"--{precisions[0]} names a precision but no target; add --onnx, --openvino or --trt")
    names = []
    for backend, target in TARGETS.items():
        if flags.get(target.flag):
            for precision in precisions or [target.default]:
                if precision not in target.precisions:
                    raise RecipeError(f"--{target.flag} has no {precision}; expected {' or '.join(target.precisions)}")
                names.append(f"{backend}-{precision}")
    return names


def _adjusted(profile: Profile, capabilities: list[str] | None, asked: Changes, engine: bool) -> Profile:
    """The profile with what the command line says otherwise."""
    if asked.size is not None:
        profile = changed(profile, size=asked.size)
    if asked.max_drop is not None:
        profile = changed(profile, gate=profile.gate.model_dump(exclude_unset=True) | {"max_drop": asked.max_drop})
    if asked.weight_bits is not None:
        if profile.precision != "int8":
            raise RecipeError(
                f"--weight-bits belongs to INT8; profile '{profile.name}' is {profile.precision}, so leave it out"
            )
        placement = profile.placement.model_dump(exclude_unset=True) | {"weight_bits": asked.weight_bits}
        profile = changed(profile, placement=placement)
    if capabilities and not engine:
        raise RecipeError("--compute-capability belongs where the engine is built; leave it out with --no-engine")
    if profile.backend.startswith("tensorrt"):
        if not engine:
            return profile
        from rdd_deploy.export.tensorrt import retargeted

        return retargeted(profile, capabilities)
    if capabilities:
        raise RecipeError(
            f"--compute-capability names GPUs for TensorRT; profile '{profile.name}' is for {profile.backend}"
        )
    return profile


def _check_packages(packages: tuple[str, ...], extra: str) -> None:
    """MissingPackageError for a package that is missing, before anything is imported."""
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise missing_package(package, extra, "exporting")
