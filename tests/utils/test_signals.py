"""Ctrl-C, SIGTERM and a closed terminal: a request where something has to be finished, else an end that cleans up."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import toys

from rdd_deploy import demo
from rdd_deploy.live import bundles
from rdd_deploy.live.__main__ import main as live_main
from rdd_deploy.utils.signals import Stopped, StopRequest, exit_code, interrupting

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As a shell starts a program, though the tests may run under nohup; afterwards as before."""
    before = {number: signal.getsignal(number) for number, _ in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_first_signal_is_a_request_and_only_ctrl_c_does_more(number: int, code: int) -> None:
    with StopRequest() as stop:
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert (stop.number, stop.exit_code) == (number, code)
        for again in (signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), again)
        assert stop.number == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interrupting(), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_elsewhere_it_ends_what_goes_on_and_the_cleaning_up_is_left_alone(number: int, code: int) -> None:
    ends: list[BaseException | None] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            ends.append(sys.exc_info()[1])
            if number != signal.SIGINT:
                os.kill(os.getpid(), signal.SIGTERM)
            ends.append(None)

    with pytest.raises(KeyboardInterrupt) as caught, interrupting():
        work()
    assert ends == [caught.value, None]
    assert isinstance(caught.value, Stopped) == (number != signal.SIGINT)
    assert exit_code(caught.value) == code


AT_A_TERMINAL = """
import sys, time
sys.path.insert(0, {path!r})
from rdd_deploy import console
from rdd_deploy.utils.signals import StopRequest
with StopRequest() as stop:
    while stop.number is None:
        console.info("working")
        time.sleep(0.01)
    for _ in range(100):
        console.info("finishing")
    open("finished", "w").close()
sys.exit(stop.exit_code)
"""


def test_a_terminal_that_is_gone_takes_no_output_and_does_no_harm(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        program = AT_A_TERMINAL.format(path=str(Path(__file__).parents[2]))
        os.execv(sys.executable, [sys.executable, "-c", program])
    said = b""
    while b"working" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 129
    assert (tmp_path / "finished").exists()


CLEANS_UP = """
import sys, time
from rdd_deploy.console import command

@command
def main() -> None:
    try:
        print("begun", flush=True)
        while True:  # a signal that comes just before a sleep doesn't shorten it
            time.sleep(0.05)
    finally:
        print("cleaned up", flush=True)

main()
"""


@pytest.mark.parametrize(("number", "code"), SIGNALS[1:])
def test_every_command_cleans_up(number: int, code: int) -> None:
    command = [sys.executable, "-c", CLEANS_UP]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_as_a_shell
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "cleaned up\n", "interrupted\n")


def _as_a_shell() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_what_the_demo_started_ends_with_it(tmp_path: Path) -> None:
    program = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def end() -> None:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    with pytest.raises(Stopped), interrupting():
        demo._step("the nap", "-c", program)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_bundle_that_loads_is_left(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is begun that had to be finished."""
    monkeypatch.setattr(bundles.Segmenter, "load", lambda *_, **__: os.kill(os.getpid(), number))
    monkeypatch.setattr(
        sys, "argv", ["live", "--headless", "--bundle", "x", "--source", "streets", "--stats", str(tmp_path / "s.json")]
    )
    with pytest.raises(SystemExit) as caught:
        live_main()
    assert (caught.value.code, capsys.readouterr().err) == (code, "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_a_signal_to_a_training_and_its_loaders_saves_the_state(tmp_path: Path) -> None:
    """Clusters send SIGTERM, terminals SIGHUP to all processes of a group."""
    content = toys.tree(toys.write_data(tmp_path / "data"))
    content["data"]["workers"] = 1
    content["train"] |= {"epochs": 500, "save_minutes": 1000}
    toys.write_recipe(tmp_path / "toy.yaml", content)
    process = toys.Started("train", "toy.yaml", cwd=tmp_path)
    while not (tmp_path / "runs/toy_alone/metrics.csv").is_file():
        assert process.running, process.stderr
        time.sleep(0.02)
    process.signal_group(signal.SIGTERM)
    process.signal_group(signal.SIGHUP)
    done = process.wait()
    assert done.returncode in (129, 143), done.stderr  # whichever is seen first
    [line] = toys.errors_of(done)
    assert line.endswith("the state is saved, go on with the same command and --resume")
    assert (tmp_path / "runs/toy_alone/state.ckpt").is_file()
