"""``rdd-deploy COMMAND``: all commands behind one name. Each is imported only when it is called: the
edge has no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn, TypeAlias

import __main__
from rdd_deploy import __version__, console
from rdd_deploy.errors import RddError
from rdd_deploy.utils import faults

Commands: TypeAlias = Mapping[str, tuple[str, str]]
"""Command -> (module with ``main``, one line of help)."""

COMMANDS: Commands = {
    "distill": ("rdd_deploy.distill", "distil a student from a teacher by a recipe"),
    "train": ("rdd_deploy.train", "train without a teacher: a teacher itself, or a student's baseline"),
    "study": ("rdd_deploy.study.__main__", "variants of a recipe with several seeds, and the table that they make"),
    "evaluate": ("rdd_deploy.evaluate", "mIoU per class of a run or a bundle"),
    "export": ("rdd_deploy.export.__main__", "make a bundle from a run: ONNX, OpenVINO, TensorRT; FP32, FP16, INT8"),
    "bundle": ("rdd_deploy.bundle.__main__", "a bundle as a thing: shown, verified, packed into one file and unpacked"),
    "parity": ("rdd_deploy.parity", "torch against ONNX against Q/DQ against the backend: where labels change"),
    "predict": ("rdd_deploy.predict", "masks of a folder or video that nobody labelled, for annotation tools"),
    "benchmark": ("rdd_deploy.benchmark.__main__", "mIoU against latency of bundles, side by side"),
    "suggest": (
        "rdd_deploy.suggest.__main__",
        "untrained candidates timed on this machine: which students are worth training",
    ),
    "live": (
        "rdd_deploy.live.__main__",
        "bundles on a camera, video, stream or folder, with overlay, split view and recording",
    ),
    "data": (
        "rdd_deploy.data.__main__",
        "an annotation tool's export as a data set; a recipe's data, checked and shown",
    ),
    "demo": ("rdd_deploy.demo", "the whole way on procedural street scenes"),
}


def main() -> None:
    """Run the command that the first argument names."""
    choose("rdd-deploy", COMMANDS)


@console.heard()
def choose(program: str, commands: Commands) -> None:
    """Run the command of a table that the first argument names.

    Args:
        program: how it is called, e.g. ``rdd-deploy data``.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        console.info(*usage(program, commands).splitlines())
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name in {"-V", "--version"}:
        console.info(f"rdd-deploy {__version__}")
        return
    if name not in commands:
        import difflib

        near = difflib.get_close_matches(name, commands, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        _fail(RddError(f"unknown command '{name}'; {hint}allowed: {', '.join(commands)}"))
    sys.argv = [f"{program} {name}", *arguments[1:]]
    start(commands[name][0])


def start(module: str) -> NoReturn:
    """Import a command's module and run it on ``sys.argv``."""
    try:
        # Whoever starts this program again for another device (Fabric) takes the module from here, and the arguments
        # from sys.argv.
        __main__.__spec__ = find_spec(module)
        command = import_module(module).main
    except KeyboardInterrupt:
        console.report("interrupted")
        sys.exit(130)
    except Exception as error:
        if (failure := faults.as_error(error)) is None:
            raise
        _fail(failure)
    command()
    sys.exit(0)


def usage(program: str = "rdd-deploy", commands: Commands = COMMANDS) -> str:
    """The list of commands."""
    lines = [f"  {name:<10} {help_}" for name, (_, help_) in commands.items()]
    return "\n".join([f"usage: {program} COMMAND [ARGUMENTS]", "", *lines, "", f"{program} COMMAND --help says more."])


def _fail(error: RddError) -> NoReturn:
    console.fail(error)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
