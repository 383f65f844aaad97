"""One way for every command to speak: rich on a terminal, plain lines elsewhere, errors as one sentence and an exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from rdd_deploy import faults, launchers, places

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def process_rank() -> int:
    """0 in a lone process and in the first of several that train together; from the launcher's variables."""
    return launchers.process_rank()


def say(text: str) -> None:
    """Print one plain line for the user; of several processes that train together only the first speaks."""
    if process_rank() == 0:
        out.print(escape(text))


def warn(text: str) -> None:
    """Print one warning on standard error."""
    err.print(f"[yellow]warning:[/] {escape(text)}")


def run(app: Callable[..., Any]) -> None:
    """Run a typer app: what a user or the machine did becomes one sentence on standard error and the exit code that ``errors`` documents.

    Words are read as a shell would have, where it couldn't: see ``places.words_of``.
    """
    sys.argv[1:] = [more for word in sys.argv[1:] for more in places.words_of(word)]
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks costs nobody the figures
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except Exception as error:
        if (told := faults.told(error)) is None:
            raise
        err.print(f"[red]error:[/] {escape(str(told))}")
        sys.exit(told.exit_code)


def command(function: Callable[..., Any]) -> Callable[[], None]:
    """Make ``main()`` of a module from its one command function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

    @functools.wraps(function)
    def interruptible(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except KeyboardInterrupt:  # before the command line's library sees it: its versions differ in the exit code
            err.print("interrupted")
            sys.exit(130)

    app.command()(interruptible)

    def main() -> None:
        run(app)

    return main
