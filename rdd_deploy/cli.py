"""``rdd-deploy COMMAND``: all commands behind one name. Each is imported only when it is called: the edge has no torch."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn

from rdd_deploy import __version__, console, faults
from rdd_deploy.errors import RddError, missing_package

COMMANDS = {
    "distill": ("rdd_deploy.distill", "train", "distil a student from a teacher by a recipe"),
    "train": ("rdd_deploy.train", "train", "train without a teacher: a teacher itself, or a student's baseline"),
    "evaluate": ("rdd_deploy.evaluate", "", "mIoU per class of a run or a bundle"),
    "export": ("rdd_deploy.export.__main__", "train", "make a bundle from a run: ONNX, OpenVINO, TensorRT; FP32, FP16, INT8"),
    "parity": ("rdd_deploy.export.parity", "train", "torch against ONNX against Q/DQ against the backend: where labels change"),
    "benchmark": ("rdd_deploy.benchmark", "", "mIoU against latency of bundles, side by side"),
    "live": ("rdd_deploy.live.__main__", "", "bundles on a camera, video, stream or folder, with overlay, split view and recording"),
    "demo": ("rdd_deploy.demo", "train", "the whole way on procedural street scenes"),
}
"""Command -> (module with ``main``, extra that it needs, one line of help)."""


@console.heard()
def main() -> None:
    """Run the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        console.say(*usage().splitlines())
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name in {"-V", "--version"}:
        console.say(f"rdd-deploy {__version__}")
        return
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        _fail(RddError(f"unknown command '{name}'; {hint}allowed: {', '.join(COMMANDS)}"))
    sys.argv = [f"rdd-deploy {name}", *arguments[1:]]
    start(name)


def start(name: str) -> NoReturn:
    """Import a command and run it on ``sys.argv``. Its imports may take seconds: Ctrl-C ends them too, and a wrong recipe needs none."""
    module, extra, _ = COMMANDS[name]
    try:
        if name in ("distill", "train") and find_spec("torch"):  # without it no recipe would help
            _check_recipe(name, sys.argv[1:])
        command = import_module(module).main
    except KeyboardInterrupt:
        console.tell("interrupted")
        sys.exit(130)
    except RddError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "rdd_deploy":
            raise
        _fail(missing_package(error.name.partition(".")[0], extra or "dev", f"rdd-deploy {name}"))
    except Exception as error:
        if (told := faults.told(error)) is None:
            raise
        _fail(told)
    command()
    sys.exit(0)


_OPTIONS = {"--resume", "--output", "--name", "--dry-run"}
"""Of the commands that take a recipe; any other is told by the command itself."""


def _check_recipe(command: str, words: list[str]) -> None:
    """Load the recipe that the words name, with its overrides, for its errors alone; the command itself parses the words."""
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    if "--help" in words or not {*options} <= _OPTIONS:
        return
    from rdd_deploy.recipe import load_recipe

    values = {i + 1 for i, word in enumerate(words) if word in ("--output", "--name")}
    plain = [word for i, word in enumerate(words) if i not in values and not word.startswith("-")]
    if plain:
        load_recipe(plain[0], plain[1:], distil=command == "distill")


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:<10} {help_}" for name, (_, _, help_) in COMMANDS.items()]
    return "\n".join(["usage: rdd-deploy COMMAND [ARGUMENTS]", "", *lines, "", "rdd-deploy COMMAND --help says more."])


def _fail(error: RddError) -> NoReturn:
    console.fail(error)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
