"""One way for every command to speak: rich on a terminal, plain lines elsewhere, errors as one sentence and an exit
code.

All that is printed goes through here, as text: nothing in it is markup, an emoji code or a terminal's control sequence.
What can't be printed (a closed pipe, a full disk, an encoding that lacks a letter) never stops the work; see ``run``
for how it ends.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

import typer
from rich import progress as rich_progress
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from typing_extensions import Self

from rdd_deploy.errors import RddError, missing_package
from rdd_deploy.utils import faults, launchers, places, signals
from rdd_deploy.utils.addresses import without_secrets, without_secrets_of
from rdd_deploy.utils.arguments import check_words
from rdd_deploy.utils.streams import StandardStream
from rdd_deploy.utils.tables import Entry
from rdd_deploy.utils.text import shown

_ClickException = cast(
    type[Exception], next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
)
"""Typer's versions differ in where it comes from."""


_stdout, _stderr = StandardStream("stdout"), StandardStream("stderr")
_out = Console(file=cast(Any, _stdout), markup=False, emoji=False, highlight=False, soft_wrap=True)
_wide = Console(file=cast(Any, _stdout), markup=False, emoji=False, highlight=False, width=1000)  # into files and pipes
_err = Console(file=cast(Any, _stderr), markup=False, emoji=False, highlight=False, soft_wrap=True)


def process_rank() -> int:
    """0 in a lone process and in the first of several that train together; from the launcher's variables."""
    return launchers.process_rank()


def info(*lines: str) -> None:
    """Print plain lines for the user; of several processes that train together only the first speaks."""
    if process_rank() == 0:
        for line in lines:
            _out.print(Text(shown(line)))


def mark(mark: str, text: str, style: str) -> None:
    """Print one line that begins with a coloured word."""
    _out.print(_marked(mark, text, style))


def warn(text: str) -> None:
    """Print one warning on standard error."""
    _err.print(_marked("warning:", text, "yellow"))


def report(text: str) -> None:
    """Print one plain line on standard error."""
    _err.print(Text(shown(text)))


def fail(error: RddError | str) -> None:
    """Print an error on standard error: one line, and one more for each of its details."""
    first, *details = [
        without_secrets_of(sys.argv[1:], line) for line in (error.lines if isinstance(error, RddError) else [error])
    ]
    _err.print(_marked("error:", first, "red"))
    for line in details:
        report(f"  {line}")


def _marked(mark: str, text: str, style: str) -> Text:
    return Text.assemble((shown(mark), style), " ", shown(text))


def heading(text: str) -> None:
    """Print a line across the terminal that says what begins."""
    _out.rule(Text(shown(text), "bold"), align="left")


Cell = str | tuple[str, ...]
"""Of a table: one line of text, or several."""


def table(
    headings: Sequence[Cell],
    rows: Sequence[Sequence[Cell] | None],
    left: Collection[int] = (0,),
    styles: Sequence[str | None] = (),
    framed: bool = True,
) -> Table:
    """A table for ``show``.

    Args:
        rows: cells in the order of the headings; None draws a line. left: columns that aren't flush right.
        styles: one a row; default: none. framed: with a frame around.
    """
    built = Table(header_style="bold", **({} if framed else {"box": SIMPLE_HEAD}))  # type: ignore[arg-type]
    for number, one in enumerate(headings):
        # The first column holds names, which are folded where nothing else fits: cut off they would read alike.
        justify: Literal["left", "right"] = "left" if number in left else "right"
        built.add_column(_cell(one), justify=justify, no_wrap=number > 0 and number not in left, overflow="fold")
    for number, row in enumerate(rows):
        if row is None:
            built.add_section()
        else:
            built.add_row(*map(_cell, row), style=styles[number] if styles else None)
    return built


def _cell(cell: Cell) -> Text:
    return Text("\n".join(map(shown, [cell] if isinstance(cell, str) else cell)))


def show(title: str, *tables: Table) -> None:
    """Print a title and the first of the tables that is no wider than the terminal, else the last; into a file or pipe
    the first, whole.
    """
    if process_rank() != 0:
        return
    _out.print(Text(shown(title), "bold"))
    fitting = (one for one in tables if Measurement.get(_wide, _wide.options, one).maximum <= _out.width)
    if terminal():
        _out.print(next(fitting, tables[-1]), soft_wrap=False)
    else:
        _wide.print(tables[0])


def terminal() -> Console | None:
    """Standard output's console, for what is drawn again and again; None where it is no terminal."""
    return _out if _out.is_terminal else None


class progress:  # reads as a function: with progress("…", n) as bar
    """A progress bar on a terminal, silence elsewhere.

    Args:
        total: steps or bytes; None where that isn't known. start: those that are done already.
        on: the stream. enabled: False for none at all, e.g. of several processes in all but the first.
    """

    def __init__(
        self, text: str, total: int | None, *, start: int = 0, unit: Literal["steps", "bytes"] = "steps",
        on: Literal["stdout", "stderr"] = "stdout", enabled: bool = True,
    ) -> None:  # fmt: skip
        console = _out if on == "stdout" else _err
        name, note = (
            rich_progress.TextColumn(f"{{task.{one}}}", markup=False) for one in ("description", "fields[note]")
        )
        size = rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()
        count = size if unit == "bytes" else (rich_progress.MofNCompleteColumn(),)
        columns = (
            rich_progress.SpinnerColumn(),
            name,
            rich_progress.BarColumn(),
            *count,
            note,
            rich_progress.TimeRemainingColumn(),
        )
        self.silent = not (enabled and console.is_terminal)
        self._bar = rich_progress.Progress(*columns, console=console, transient=True, disable=self.silent)
        self._task = self._bar.add_task(shown(text), total=total, completed=start, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(
        self, count: int = 1, text: str | None = None, note: str | None = None, total: int | None = None
    ) -> None:
        """Count steps as done; a text replaces the one before the bar, a note the one behind it."""
        told: dict[str, Any] = {} if note is None else {"note": shown(note)}
        self._bar.update(
            self._task, advance=count, description=None if text is None else shown(text), total=total, **told
        )


@contextmanager
def heard() -> Iterator[None]:
    """Where standard output couldn't be written, a success ends with exit code 2; a reader that went away (``| head``)
    meant to.
    """
    # Where one was closed (``>&-``), the next file to be opened would get what libraries print.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    try:
        yield
    except SystemExit as ended:
        if ended.code in (0, None):
            _check_heard()
        raise
    except Exception:
        sys.excepthook = _traceback  # only now: typer puts its own there
        raise
    _check_heard()


def _traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A bug's traceback, in which names from outside are text as well."""
    for text in traceback.format_exception(kind, error, trace):
        for line in text.rstrip("\n").split("\n"):
            report(line)


def _check_heard() -> None:
    _stdout.flush()
    trouble, _stdout.trouble = _stdout.trouble, None
    if trouble is not None and getattr(trouble, "errno", None) != errno.EPIPE:
        reason = getattr(trouble, "strerror", None) or trouble
        fail(
            f"can't print to standard output: {reason}; the work itself was done, only what it would have said is lost"
        )
        sys.exit(RddError.exit_code)


@heard()
def run(app: Callable[..., Any]) -> None:
    """Run an app: what a user or the machine did becomes one sentence on standard error and the exit code that
    ``errors`` documents.

    Words are read as a shell would have, where it couldn't: see ``places.words_of``.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks costs nobody the figures
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.argv[1:] = [more for word in sys.argv[1:] for more in places.words_of(word)]
        check_words(sys.argv[1:])
        app()
    except Exception as error:
        if (told := faults.as_error(error)) is None:
            raise
        fail(told)
        sys.exit(told.exit_code)


def _got(error: Any) -> str:
    """The refused value, where the library's sentence names the option alone."""
    names, words = getattr(getattr(error, "param", None), "opts", ()), sys.argv[1:]
    values = [
        word.partition("=")[2] if "=" in word else next_
        for word, next_ in zip(words, [*words[1:], ""], strict=False)  # there may be no word at all
        if word.partition("=")[0] in names
    ]
    return (
        f" (got '{without_secrets(values[-1])[:80]}')"
        if values and repr(values[-1]) not in error.format_message()
        else ""
    )


def command(function: Callable[..., Any], hint: Entry | None = None, extra: str = "dev") -> Callable[[], None]:
    """Make ``main()`` of a module from its one command function.

    Args:
        hint: a function of an unknown option that asks what may have been meant, or is empty. extra: whose packages the
            command needs.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

    @functools.wraps(function)
    def interruptible(*arguments: Any, **options: Any) -> Any:
        try:
            with signals.interrupting():
                return function(*arguments, **options)
        except (
            KeyboardInterrupt
        ) as error:  # before the command line's library sees it: its versions differ in the exit code
            report("interrupted")
            sys.exit(signals.exit_code(error))
        except ModuleNotFoundError as error:
            package = (error.name or "rdd_deploy").partition(".")[0]
            if package == "rdd_deploy":
                raise
            raise missing_package(package, extra, _name_of_command()) from error
        # Before the next as well: a broken pipe, of whatever process, it takes for its own and ends with 1 in silence.
        except OSError as error:
            raise faults.as_error(error) or error from error

    app.command()(interruptible)

    def parsed() -> None:
        try:
            # Started as `python -m rdd_deploy export`, the library would put the program's name together from both.
            code = app(prog_name=sys.argv[0] if sys.argv[0].startswith("rdd-deploy ") else None, standalone_mode=False)
        except _ClickException as error:
            raise RddError(_sentence(error, hint)) from error
        except SystemExit as ended:
            if not isinstance(ended.__context__, BrokenPipeError):
                raise
            _stdout.fall_silent(ended.__context__)  # the help's reader went away
            code = 0
        sys.exit(code or 0)

    @functools.wraps(function)
    def main() -> None:
        run(parsed)

    return main


def _name_of_command() -> str:
    """E.g. ``rdd-deploy export``, however it was started."""
    first = Path(sys.argv[0])
    name = first.parent.name if first.stem == "__main__" else first.stem
    return name if name.startswith("rdd-deploy") else f"rdd-deploy {name}"


def _sentence(error: Any, hint: Entry | None) -> str:
    """What is wrong with the words of a command line."""
    message = error.format_message().rstrip(". ") + _got(error)
    near = hint.load()(error.option_name) if hint is not None and hasattr(error, "option_name") else ""
    return f"{message[:1].lower()}{message[1:]}; {near + ' ' if near else ''}--help lists what there is"
