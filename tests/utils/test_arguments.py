"""Odd values for every option of every command: exit code 2 and one sentence, never a traceback, and no work begun."""

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdd_deploy import console
from rdd_deploy.bundle.__main__ import COMMANDS as OF_BUNDLES
from rdd_deploy.cli import COMMANDS as FIRST
from rdd_deploy.data.__main__ import COMMANDS as OF_DATA
from rdd_deploy.errors import DeviceError, RddError
from rdd_deploy.evaluation import evaluate_run
from rdd_deploy.live.options import parse_size
from rdd_deploy.models.predict import checked_device
from rdd_deploy.runtime.backends.base import parse_device
from rdd_deploy.utils.arguments import check_words, repeated
from rdd_deploy.utils.machine import MAX_THREADS

GROUPS = {"data": OF_DATA, "bundle": OF_BUNDLES}
COMMANDS = {name: entry for name, entry in FIRST.items() if name not in GROUPS}
COMMANDS |= {f"{group} {name}": entry for group, table in GROUPS.items() for name, entry in table.items()}
NO_NUMBERS = (
    "",
    "--",
    "-",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "99999999999999999999",
    "9" * 5000,
    "\0",
    "\udcff",
    "²",
    "0x10",
)
NO_TEXT = (
    "",
    "--",
    "-",
    "\0",
    "x\0y",
    "\\0",
    "\udcff",
    "\ud800",
    "a" * 7000,
    "[/b]",
    "\x1b[31m",
    "9" * 5000,
    "/dev/full/x",
)
NEEDED = {
    "distill": ["nowhere"], "train": ["nowhere"], "evaluate": ["nowhere"], "parity": ["nowhere"], "benchmark": ["nowhere"],
    "study": ["nowhere"], "export": ["nowhere", "--onnx"], "live": ["--headless", "--bundle", "nowhere"], "demo": [],
    "predict": ["nowhere", "frames", "out"], "data check": ["nowhere"], "data import": ["nowhere", "out"],
    "suggest": ["--only", "nowhere"], "bundle show": ["nowhere"], "bundle verify": ["nowhere"], "bundle pack": ["nowhere"],
    "bundle unpack": ["nowhere"],
}  # fmt: skip


class Reached(Exception):
    """The work would begin here: the command line was taken."""


def options(name: str) -> dict[str, Any]:
    """Flag -> type of the options that take a value."""
    module = import_module(COMMANDS[name][0])
    function = inspect.unwrap(module._run if name in ("live", "predict") else module.main)
    found = {}
    for key, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind, info = get_args(parameter.annotation)
        if type(info).__name__ == "OptionInfo" and kind is not bool:
            found[next(iter(info.param_decls or ()), "--" + key.replace("_", "-"))] = kind
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture
def no_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder each command ends at what isn't there; the demo, which needs nothing, before its training."""

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    monkeypatch.chdir(place)
    monkeypatch.setattr(import_module(COMMANDS["demo"][0]), "find_recipe", reached)
    yield
    assert list(place.iterdir()) == []


def ended(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """What a command said on standard error; it must have ended with code 2, unless the demo's work was reached."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    try:
        with pytest.raises(SystemExit) as caught:
            import_module(COMMANDS[name][0]).main()
    except Reached:
        return "error: reached"
    said = capfd.readouterr().err
    assert caught.value.code == 2, (words, said)
    return said


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", COMMANDS)
def test_odd_values_end_in_a_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    console_options = options(name)
    assert console_options or name.startswith("bundle ")
    for option, kind in console_options.items():
        number = bool({float, int} & {kind, *get_args(kind)})
        for value in NO_NUMBERS if number else NO_TEXT:
            words = [f"{option}={value}", *[value] * ("tuple" in str(kind))]
            said = ended(name, [*NEEDED[name], *words], monkeypatch, capfd)
            assert said.startswith("error: "), (words, said)
            assert "Traceback" not in said
            assert not number or option in said, (words, said)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("live", "demo")])
def test_odd_arguments_end_in_a_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for value in NO_TEXT:
        assert ended(name, [value, *NEEDED[name][1:]], monkeypatch, capfd).startswith("error: "), value


def test_numbers_within_words() -> None:
    for number in ("9" * 5000, "99999", "²", "-1", "nan", ""):
        with pytest.raises(DeviceError):
            parse_device(f"cuda:{number}")
        with pytest.raises(DeviceError):
            checked_device(f"cuda:{number}")
        with pytest.raises(RddError):
            parse_size(f"640x{number}")


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1, 99999999])
def test_a_run_takes_no_odd_number_of_threads(threads: int, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=f"asked for {threads} threads; expected"):
        evaluate_run(tmp_path, threads=threads)


@given(st.lists(st.text(), max_size=5))
def test_words_are_taken_or_refused(words: list[str]) -> None:
    odd = "" in words or "\0" in "".join(words) or any(word.startswith("--") and word.endswith("=") for word in words)
    if not odd:
        check_words(words)
    elif "" in words or "\0" in "".join(words):
        with pytest.raises(RddError):
            check_words(words)


def test_several_values_behind_one_flag() -> None:
    words = ["--bundle", "a", "b", "--split", "--data-void", "0", "-1", "--source", "x", "y", "--bundle=c"]
    assert repeated(words, ("--bundle", "--data-void")) == [
        "--bundle", "a", "--bundle", "b", "--split", "--data-void", "0", "--data-void", "-1", "--source", "x", "y", "--bundle=c",
    ]  # fmt: skip
    assert repeated(["--bundle", "--", "a"], ("--bundle",)) == ["--bundle", "--", "a"]


def test_a_mistake_names_no_secret(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    address = "rtsp://me:secret@10.0.0.7/x"
    for words in (
        [address],
        ["--camera", address],
        ["--bundle", address],
        [f"--size={address}"],
        ["--stats", address + "/"],
        ["--labels", address],
    ):
        said = ended("live", ["--headless", *words], monkeypatch, capfd)
        assert "secret" not in said
        assert said.startswith("error: ")


def test_the_console_knows_mistakes_of_every_click() -> None:
    assert console._ClickException.__name__ == "ClickException"


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("export", "live", "demo", "suggest")])
def test_no_word_at_all_is_told_with_what_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "missing argument" in ended(name, [], monkeypatch, capfd)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("address", ["rtsp://me:secret@h/x", "http:/h/x#secret", "me:secret@h"])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_address_is_refused_where_it_is_no_source(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in ([address], [f"--output={address}"], ["--record", address], ["--source", "x", address]):
        said = ended(name, words, monkeypatch, capfd)
        assert said.startswith("error: got the address ")
        assert "secret" not in said
