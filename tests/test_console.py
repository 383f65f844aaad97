import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import tree, write_data, write_recipe

from rdd_deploy import errors

PROGRAM = """
from rdd_deploy.console import command
from rdd_deploy import errors

@command
def main() -> None:
    raise {what}

main()
"""


def ended(what: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(what=what)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("errors.DataError('no [bold]data[/] in /x/[y]')", 2, "error: no [bold]data[/] in /x/[y]\n"),
        ("errors.BudgetError('slow')", 3, "error: slow\n"),
        ("errors.GateError('worse')", 4, "error: worse\n"),
        ("errors.DivergedError('nan')", 5, "error: nan\n"),
        ("KeyboardInterrupt", 130, "interrupted\n"),
        (
            "BrokenPipeError(32, 'Broken pipe')",
            2,
            "error: the system refused something: Broken pipe; see what is wrong with it, and run the command again\n",
        ),
        (
            "PermissionError(13, 'Permission denied', '/x/y')",
            2,
            "error: can't use /x/y: Permission denied; check its name and permissions\n",
        ),
        (
            "OSError(36, 'File name too long', b'/x')",
            2,
            "error: can't use /x: File name too long; check its name and permissions\n",
        ),
    ],
)
def test_a_users_mistake_is_one_sentence_and_its_code(what: str, code: int, text: str) -> None:
    assert ended(what) == (code, text)


def test_help_that_nobody_reads_is_no_failure_and_one_that_is_lost_is() -> None:
    def helped(*words: str, stdout: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, *words, "--help"], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(stdout)
        return done.returncode, done.stderr

    for words in (("-c", PROGRAM.format(what="KeyboardInterrupt")), ("-m", "rdd_deploy.cli")):
        reader, writer = os.pipe()
        os.close(reader)
        assert helped(*words, stdout=writer) == (0, "")
        code, said = helped(*words, stdout=os.open("/dev/full", os.O_WRONLY))
        assert code == 2
        assert "No space left on device" in said


def test_our_own_mistake_shows_its_traceback() -> None:
    code, text = ended("ZeroDivisionError('ours: [/b] \\x1b[31m')")
    assert code == 1
    assert "Traceback" in text
    assert text.endswith("ZeroDivisionError: ours: [/b] \\x1b[31m\n")
    assert "\x1b" not in text


def test_every_error_has_a_documented_code() -> None:
    codes = {
        one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RddError)
    }
    assert codes == {2, 3, 4, 5}
    assert all(f"\n{code}     " in (errors.__doc__ or "") for code in codes)


def test_ctrl_c_while_the_imports_go_on(tmp_path: Path) -> None:
    write_recipe(tmp_path / "toy.yaml", tree(write_data(tmp_path / "data")))
    words = [sys.executable, "-m", "rdd_deploy.train", "toy.yaml"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():  # seconds before the last import
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_the_documented_command(tmp_path: Path) -> None:
    """As the README has it, with nothing of this test process: ``python -m``."""
    write_recipe(tmp_path / "toy.yaml", tree(write_data(tmp_path / "data", train=2, val=1)))
    words = [sys.executable, "-m", "rdd_deploy.train", "toy.yaml", "train.epochs=1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "done: runs/toy_alone"
