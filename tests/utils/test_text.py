"""What comes from outside is text wherever it is shown: no markup, no emoji code, no control of a terminal."""

import ast
import os
import pty
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rdd_deploy import console
from rdd_deploy.errors import RddError
from rdd_deploy.utils import files
from rdd_deploy.utils.text import in_html, shown

PACKAGE = Path(console.__file__).parent
NASTY = [
    "[/b]",
    "[red]x[/]",
    ":car:",
    "\x1b[31mred\x1b]0;title\x07",
    "two\nlines",
    "a\rb",
    "\x9b31m",
    "\x7f",
    "\u202eabc",
    "\u2028",
    "\udcff",
    "a\\b",
    "x\ty",
]


@given(st.text(st.characters()))
def test_nothing_that_steers_a_terminal_is_shown(text: str) -> None:
    got = shown(text)
    assert shown(got) == got
    assert not re.search("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", got)
    assert got == text or any(not one.isprintable() for one in text)


def test_how_it_is_shown() -> None:
    assert shown("straße 道路 🚗 a b\\c") == "straße 道路 🚗 a b\\c"
    assert shown("\x1b[31m\n\t\x7f\x9b\u202e\udcff") == r"\x1b[31m\n\t\x7f\x9b\u202e\udcff"
    assert in_html("<b>\x1b'") == "&lt;b&gt;\\x1b&#x27;"


def printed(monkeypatch: pytest.MonkeyPatch, width: int = 200) -> StringIO:
    """What a terminal gets from here on."""
    file = StringIO()
    made = Console(
        file=file,
        force_terminal=True,
        color_system=None,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )
    for name in ("_out", "_err"):
        monkeypatch.setattr(console, name, made)
    return file


@pytest.mark.parametrize("name", NASTY)
def test_every_way_to_print_shows_a_name_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shown(name)
    for speak in (
        lambda: console.info(name),
        lambda: console.warn(name),
        lambda: console.report(name),
        lambda: console.mark(name, name, "red"),
        lambda: console.fail(name),
        lambda: console.fail(RddError(name, name)),
        lambda: console.show(name, console.table((name, "b"), [(name, "1"), None, ((name, "2"), name)])),
        lambda: console.heading(name),
    ):
        file = printed(monkeypatch)
        speak()
        assert seen in file.getvalue()
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\udcff]", file.getvalue())
        assert len(file.getvalue().splitlines()) == len(file.getvalue().rstrip("\n").split("\n"))


@pytest.mark.parametrize("name", NASTY)
def test_a_progress_bar_shows_a_name_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = printed(monkeypatch)
    with console.progress(name, 10) as bar:
        bar.advance(1, text=f"now {name}", note=f"and {name}")
        bar._bar.refresh()
    assert f"now {shown(name)}" in file.getvalue()
    assert f"and {shown(name)}" in file.getvalue()
    assert "\x1b[31m" not in file.getvalue()


def test_a_table_cuts_no_name_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a-class-of-" + "very-" * 40 + "long-name"
    console.show("title " + long, console.table(("class", "IoU %"), [(long, "1.00")]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "title " + long  # into a pipe: whole
    assert long in lines[4]
    file = printed(monkeypatch, width=40)
    console.show("t", console.table(("class", "IoU %"), [(long, "1.00")]))
    assert "".join(re.findall(r"│ (\S+) *│", file.getvalue())) == long


def test_details_of_an_error_are_lines_and_line_breaks_from_outside_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    error = RddError("2 problems:", "data\nset", "  deeper")
    console.fail(error)
    assert capsys.readouterr().err == "error: 2 problems:\n  data\\nset\n    deeper\n"
    assert str(error) == "2 problems:\n  data\nset\n    deeper"


def test_only_the_console_prints() -> None:
    """So that all of the above holds for what will be written, too."""
    allowed = {
        "console.py": {"rich", "sys.stdout", "sys.stderr"},
        "benchmark/cold_start.py": {"print"},  # between two processes
        "study/screen.py": {"rich"},  # what it draws again and again is a table of console's
    }
    for path in sorted(PACKAGE.rglob("*.py")):
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                found |= {"rich" for name in names if name.partition(".")[0] == "rich"}
            elif isinstance(node, ast.Name) and node.id == "print":
                found.add("print")
            elif isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stdout__", "echo", "secho"):
                found |= (
                    {f"{node.value.id}.{node.attr}"}
                    if isinstance(node.value, ast.Name) and node.value.id in ("sys", "typer", "click")
                    else set()
                )
        found.discard("sys.__stdout__")
        assert found <= allowed.get(str(path.relative_to(PACKAGE)), set()), f"{path} prints past rdd_deploy/console.py"


@given(st.text(st.characters()), st.text(st.characters()))
def test_written_files_steer_no_terminal_and_say_the_same(key: str, value: str) -> None:
    import json

    import yaml

    tree = {key: [value, 1, None]}
    for text, read in ((files.json_text(tree), json.loads), (files.yaml_text(tree), yaml.safe_load)):
        assert all(shown(line) == line for line in text.split("\n"))
        if not re.search("[\ud800-\udfff]", key + value):  # a half of a pair, which JSON joins with the other half
            assert read(text) == tree


PRINTING = """
import sys
from pathlib import Path
from rdd_deploy import console
from rdd_deploy.errors import GateError

@console.command
def main(fails: bool = False) -> None:
    for number in range(50):
        console.info(f"line {number} äöü")
    with console.progress("bar", 3) as bar:
        bar.advance()
    console.show("title", console.table(("a", "b"), [("straße", "道路")] * 50))
    Path(sys.argv[0] + ".done").write_text("done")
    if fails:
        raise GateError("worse")

main()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PRINTING, encoding="utf-8")
    return path


def ended(program: Path, *words: str, shell: str) -> tuple[int, str]:
    """Exit code (of all in a pipe) and standard error; the work must have been done."""
    done = Path(f"{program}.done")
    done.unlink(missing_ok=True)
    line = f'set -o pipefail; "{sys.executable}" "{program}" {" ".join(words)} {shell}'
    result = subprocess.run(
        ["bash", "-c", line], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False, timeout=60
    )
    assert done.read_text() == "done"
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    return result.returncode, result.stderr


def test_what_cannot_be_printed_costs_nobody_the_work(program: Path) -> None:
    assert ended(program, shell="| true") == (0, "")
    lost = (
        "error: can't print to standard output: No space left on device; the work itself was done, only what it would"
        " have said is lost\n"
    )
    assert ended(program, shell="> /dev/full") == (2, lost)
    assert ended(program, "--fails", shell="> /dev/full") == (4, "error: worse\n")
    assert ended(program, shell=">&-") == (0, "")
    assert ended(program, "--fails", shell="2>&-") == (4, "")


def test_an_encoding_that_lacks_a_letter(program: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        check=True,
    )
    assert rb"line 0 \xe4\xf6\xfc" in done.stdout
    assert rb"| stra\xdfe | \u9053\u8def |" in done.stdout


def test_a_terminal_that_goes_away(program: Path) -> None:
    """As when a window is closed: what was to be printed has nowhere to go, and the work goes on."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=theirs, stderr=subprocess.PIPE, start_new_session=True
    )
    os.close(theirs)
    os.close(ours)
    assert process.wait(60) in (0, 2)
    assert Path(f"{program}.done").read_text() == "done"
    assert b"Traceback" not in (process.stderr.read() if process.stderr else b"")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--no\x1b[31msuch"], r"no such option: --no\x1b[31msuch"),
        (["--fails=[/b]"], "option '--fails' does not take a value"),
        (["a\nb"], r"got unexpected extra argument (a\nb)"),
    ],
)
def test_usage_errors_are_one_sentence(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(fails: bool = False) -> None:
        raise AssertionError

    monkeypatch.setattr(sys, "argv", ["prog", *words])
    with pytest.raises(SystemExit) as ended:
        console.command(command)()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: " + sentence[:20])
    assert line.endswith("--help lists what there is")
    assert "\x1b" not in line
