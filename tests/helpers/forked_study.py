"""``rdd_deploy.study`` as a program whose runs are forked from it, torch imported already; all else is as in processes
that a user starts.
"""

import os
import signal
import sys
import traceback
from importlib import import_module
from typing import IO

from rdd_deploy.study import children


class Forked:
    """What ``children.start`` returns."""

    def __init__(self, pid: int) -> None:
        self.pid, self._code = pid, None

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        code = self._wait(0)
        assert code is not None
        return code

    def _wait(self, how: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code


def start(words: list[str], environment: dict[str, str], log: IO[bytes]) -> Forked:
    assert words[0] == "-m"
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return Forked(pid)
    code = 1
    try:
        os.setsid()
        children.end_with_parent()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = words[1:]
        import_module(words[1]).main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    import torch

    # A process that has computed with several can't be forked: the child would wait for the others.
    torch.set_num_threads(1)
    children.start = start  # type: ignore[assignment]
    from rdd_deploy.study.__main__ import main

    main()
