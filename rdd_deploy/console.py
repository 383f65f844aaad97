"""One way for every command to speak: rich on a terminal, plain lines elsewhere, errors as one sentence and an exit code."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from rdd_deploy import signals
from rdd_deploy.addresses import without_secrets, without_secrets_of
from rdd_deploy.arguments import check_words
from rdd_deploy.errors import RddError

_USERS_OWN = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EROFS}
"""What is wrong with a path that somebody named, wherever it is noticed."""

_UsageError: Any = typer.BadParameter.__bases__[0]
"""A mistake in the command line, as the library behind typer raises it: click, or a copy of it inside of newer versions."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def process_rank() -> int:
    """0 in a lone process and in the first of several that train together; from the launcher's variables."""
    return max(int(os.environ.get(name, "0") or 0) for name in ("LOCAL_RANK", "NODE_RANK"))


def say(text: str) -> None:
    """Print one plain line for the user; of several processes that train together only the first speaks."""
    if process_rank() == 0:
        out.print(escape(text))


def warn(text: str) -> None:
    """Print one warning on standard error."""
    err.print(f"[yellow]warning:[/] {escape(text)}")


def run(app: Callable[..., Any]) -> None:
    """Run a typer app: a user's mistake becomes one sentence on standard error and the exit code that ``errors`` documents."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks costs nobody the figures
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        check_words(sys.argv[1:])
        code = app(standalone_mode=False)
    except _UsageError as error:
        err.print(f"[red]error:[/] {escape(without_secrets_of(sys.argv[1:], error.format_message() + _got(error)))}")
        sys.exit(RddError.exit_code)
    except RddError as error:
        err.print(f"[red]error:[/] {escape(without_secrets_of(sys.argv[1:], str(error)))}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _USERS_OWN or error.filename is None:
            raise
        err.print(f"[red]error:[/] can't use {escape(os.fsdecode(error.filename))}: {error.strerror}; check its name and permissions")
        sys.exit(RddError.exit_code)
    if code:  # of --help and its kin
        sys.exit(code)


def _got(error: Any) -> str:
    """The refused value, where the library's sentence names the option alone."""
    names, words = getattr(getattr(error, "param", None), "opts", ()), sys.argv[1:]
    values = [
        word.partition("=")[2] if "=" in word else next_
        for word, next_ in zip(words, [*words[1:], ""], strict=True)
        if word.partition("=")[0] in names
    ]
    return f" (got '{without_secrets(values[-1])[:80]}')" if values and repr(values[-1]) not in error.format_message() else ""


def command(function: Callable[..., Any]) -> Callable[[], None]:
    """Make ``main()`` of a module from its one command function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

    @functools.wraps(function)
    def interruptible(*arguments: Any, **options: Any) -> Any:
        try:
            with signals.interrupting():
                return function(*arguments, **options)
        except KeyboardInterrupt as error:  # before the command line's library sees it: its versions differ in the exit code
            err.print("interrupted")
            sys.exit(signals.exit_code(error))

    app.command()(interruptible)

    @functools.wraps(function)
    def main() -> None:
        run(app)

    return main
