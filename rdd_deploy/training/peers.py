"""The processes that train together end together: where one is lost, the others say which and end, whatever they wait
for.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.launchers import subprocess_script
from torch import distributed
from torch._C._distributed_c10d import PrefixStore, TCPStore

from rdd_deploy import console
from rdd_deploy.errors import LostProcessError, RddError
from rdd_deploy.training.loop import Interrupted
from rdd_deploy.utils import faults, launchers, signals

BEAT_S = 1.0
"""Between two signs of life."""
SILENT_S = 30.0
"""Without a sign of life a process is lost; sooner, ``SURE_S``, where something failed already."""
SURE_S = 5.0
GRACE_S = 8.0
"""How long a process may take to end by itself once it knows of another's loss; one that waits inside a collective can't."""
_PARENT = "RDD_DEPLOY_STARTED_BY"
"""Variable by which a process that Fabric started knows that its parent is its fellow."""

_watch: _Watch | None = None
_depth = 0
_watches = 0


def launch(fabric: Fabric) -> None:
    """Start the other processes where nobody else did, meet them, and watch over them from then on."""
    global _watch, _watches
    if _watch is not None or fabric.world_size == 1:
        fabric.launch()
        return
    _watch, _watches = _Watch(fabric), _watches + 1
    _watch.start()
    if os.environ.get(_PARENT) != str(os.getppid()) and (why := _nobody_starts()):
        address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("MASTER_PORT")
        where = f" at {address}:{port}" if port else ""
        console.info(
            f"{why[0]}, so this command starts no further process; waiting for all {fabric.world_size}{where}; {why[1]}"
        )
    os.environ[_PARENT] = str(os.getpid())
    # Fabric's own observer kills this process without a word.
    observer, subprocess_script._launch_process_observer = (
        subprocess_script._launch_process_observer,
        _watch.children.extend,
    )
    try:
        fabric.launch()
    finally:
        subprocess_script._launch_process_observer = observer
    _watch.meet(_watches)


def _nobody_starts() -> tuple[str, str] | None:
    """Why Fabric takes the other processes to be started by someone else though they may not be, and what to do."""
    found = launchers.launched()
    if found is None and "LOCAL_RANK" in os.environ:
        return "LOCAL_RANK is set", "unset LOCAL_RANK to have them started here"
    if found is not None and found.launcher == "srun" and "SLURM_STEP_ID" not in os.environ:
        return f"SLURM gave this job {found.size} tasks", "put srun before this command in the job's script"
    return None


def _leave() -> None:
    """End what connects the processes while Python still runs: Fabric does so for GPUs only."""
    if distributed.is_initialized():
        with suppress(ValueError):  # outside the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        distributed.destroy_process_group()


@contextmanager
def ending_together() -> Iterator[None]:
    """Around all that is trained together: what ends one process here, the others are told; a lost one is named.

    Raises:
        LostProcessError: in place of what a library says of a lost connection.
    """
    global _watch, _depth
    _depth += 1
    try:
        yield
    except BaseException as error:
        if _depth > 1 or _watch is None:
            raise
        if isinstance(error, Interrupted):  # all do, after the same step
            atexit.register(_leave)
        with suppress(ValueError):  # outside the main thread, which alone gets signals
            # torchrun ends all that are left over, and gives them 30 s for it.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if (told := _watch.explained(error)) is not None:
            raise told from error
        raise
    else:
        if _depth == 1 and _watch is not None:
            _watch.done()
            atexit.register(_leave)
    finally:
        _depth -= 1
        if not _depth and _watch is not None:
            ended, _watch = _watch, None
            ended.end()


class _Watch(threading.Thread):
    """Gives signs of life by way of the store at which the processes met. The first process looks at all others, they
    look at the first.
    """

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(daemon=True, name="peers")
        self._fabric = fabric
        self.children: list[subprocess.Popen[bytes]] = []
        self.ended = threading.Event()
        self.known = threading.Event()
        self.sentence = ""
        self._parent = os.getppid() if os.environ.get(_PARENT) == str(os.getppid()) else None
        self._store: Any = None
        self._troubled = False
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._own = b"0"
        self._one_at_a_time = threading.Lock()

    def meet(self, number: int) -> None:
        """Begin to give signs of life; all processes are there. ``number``: of the watch among this program's."""
        self._rank, self._size = self._fabric.global_rank, self._fabric.world_size
        address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if not address or not port or not distributed.is_initialized():
            return
        store = TCPStore(address, int(port), is_master=False, timeout=timedelta(seconds=SURE_S), wait_for_workers=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"rdd_deploy/{attempt}/{number}", store)

    def end(self) -> None:
        """Watch no longer. A thread that still asks the store while Python ends could keep the process from ending."""
        self.ended.set()
        if self.is_alive():
            self.join(SURE_S + BEAT_S)

    def run(self) -> None:
        while not self.ended.wait(BEAT_S if not self._troubled else BEAT_S / 4):
            sentence = self._family()
            if not sentence and self._store is not None:
                try:
                    sentence = self._look()
                except RuntimeError:  # the store's, which is the first process's own or torchrun's
                    sentence = f"process 0 of {self._size}, at which the others meet, can't be reached any more"
            if sentence:
                self._end(sentence)
                return

    def _end(self, sentence: str) -> None:
        self.sentence = sentence
        if self._store is not None and not self._rank:
            self._set("lost", sentence.encode())
        self.known.set()
        if not self.ended.wait(GRACE_S):
            console.fail(faults.lost(sentence))
            os._exit(RddError.exit_code)

    def _family(self) -> str:
        """Who is lost of those that Fabric started, or of whom it did; they are seen at once, and before
        all have met.
        """
        for number, child in enumerate(self.children, 1):
            if code := child.poll():
                rank = self._fabric.node_rank * (len(self.children) + 1) + number
                return self._fate(rank) or f"process {rank} of {self._fabric.world_size} {_ending(code)}"
        if self._parent is not None and os.getppid() != self._parent:
            return (
                f"process {self._fabric.global_rank - self._fabric.local_rank} of {self._fabric.world_size} was killed"
            )
        return ""

    def _look(self) -> str:
        """Give a sign of life; who is lost of those that this process looks at."""
        with self._one_at_a_time:  # once it ended, nothing may write over why
            if self._own.isdigit():
                self._own = str(int(self._own) + 1).encode()
            self._store.set(f"{self._rank}", self._own)
        if self._rank and self._store.check(["lost"]):
            return str(self._store.get("lost").decode())
        now = time.monotonic()
        for rank in range(1, self._size) if not self._rank else (0,):
            value = self._store.get(f"{rank}") if self._store.check([f"{rank}"]) else b""
            if value == b"done":
                continue
            if value.startswith(b"failed "):
                return self._fate(rank)
            if self._seen.get(rank, (b"?", 0.0))[0] != value:
                self._seen[rank] = value, now
            elif now - self._seen[rank][1] > (SURE_S if self._troubled else SILENT_S):
                return (
                    f"process {rank} of {self._size} is lost: it gave no sign of life for"
                    f" {now - self._seen[rank][1]:.0f} s"
                )
        return ""

    def _fate(self, rank: int) -> str:
        """What a process said when it failed; empty where it said nothing."""
        with suppress(RuntimeError):
            if (
                self._store is not None
                and self._store.check([f"{rank}"])
                and (value := self._store.get(f"{rank}")).startswith(b"failed ")
            ):
                return f"process {rank} of {self._size} ended: {value[7:].decode()}"
        return ""

    def _set(self, key: str, value: bytes) -> None:
        with suppress(RuntimeError):
            self._store.set(key, value)

    def explained(self, error: BaseException) -> RddError | None:
        """What to raise in place of an error that ends this process; None for the error itself, which the others are
        told.
        """
        self._troubled = True
        told = faults.as_error(error) if isinstance(error, Exception) else None
        found = launchers.launched()
        # As it ends those that are left over.
        by_launcher = isinstance(error, signals.Stopped) and found is not None and found.together
        if isinstance(told, LostProcessError) or by_launcher:
            self._wait_for_who()
            with suppress(KeyboardInterrupt):
                self._say(f"it lost another one: {self.sentence}")
            return faults.lost(self.sentence) if self.sentence else told
        if self._store is not None:
            said = (
                str(told or error or type(error).__name__).splitlines()[0]
                if not isinstance(error, KeyboardInterrupt)
                else "interrupted"
            )
            with suppress(KeyboardInterrupt):
                self._say(said)
        return None

    def _wait_for_who(self) -> None:
        with suppress(KeyboardInterrupt):
            self.known.wait(SURE_S + 7 * BEAT_S)

    def _say(self, why: str) -> None:
        """Tell the others that this process failed, and why."""
        with self._one_at_a_time:
            self._own = f"failed {why[:500]}".encode()
            self._set(f"{self._rank}", self._own)
        self._let_know()

    def _let_know(self) -> None:
        """The store ends with the first process: the others get time to read in it why."""
        until = time.monotonic() + 3 * BEAT_S
        if self._store is None or self._rank:
            return
        others = {f"{rank}" for rank in range(1, self._size)}
        with suppress(RuntimeError):
            while time.monotonic() < until and (others := {one for one in others if not self._has_ended(one)}):
                time.sleep(BEAT_S / 10)

    def _has_ended(self, rank: str) -> bool:
        """Whether a process was told, or needs not be."""
        child = self.children[int(rank) - 1] if int(rank) <= len(self.children) else None
        if child is not None and child.poll() is not None:
            return True
        return bool(self._store.check([rank])) and not self._store.get(rank).isdigit()

    def done(self) -> None:
        """Nothing is trained together any more. The first process waits for the others, which may still measure, or
        notices their loss.
        """
        if self._store is None:
            return
        with self._one_at_a_time:
            self._own = b"done"
            self._set(f"{self._rank}", self._own)
        others = [f"{rank}" for rank in range(1, self._size)] if not self._rank else []
        while others and not self.known.wait(BEAT_S / 10):
            with suppress(RuntimeError):
                others = [one for one in others if not (self._store.check([one]) and self._store.get(one) == b"done")]


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (
            ", most often because the machine's memory was full" if name == "SIGKILL" else ""
        )
    return f"was killed by signal {-code}"
