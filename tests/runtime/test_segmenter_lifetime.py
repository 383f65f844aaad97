"""A segmenter that is closed while others use it, and one that was loaded before a fork."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from toy_bundle import toy_bundle, truth

from rdd_deploy.errors import BundleError
from rdd_deploy.runtime import Segmenter

FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
BACKENDS = ("onnxruntime", "openvino")


def bundle(folder: Path, backend: str, work: int = 0) -> Path:
    pytest.importorskip(backend)
    return toy_bundle(folder / "toy", manifest={"backend": backend, "profile": f"{backend}-fp32"}, work=work)


@pytest.mark.parametrize("backend", BACKENDS)
def test_callers_inside_finish_and_later_ones_are_told(tmp_path: Path, backend: str) -> None:
    """More callers than are computed at a time, so that some wait for their turn as it is closed."""
    folder = bundle(tmp_path, backend, work=4)
    for _ in range(6):
        segmenter = Segmenter.load(folder, parallel=min(2, os.cpu_count() or 1))
        ended: list[str] = []

        def call(segmenter: Segmenter = segmenter, ended: list[str] = ended) -> None:
            try:
                while True:
                    assert np.array_equal(segmenter(FRAME), truth(FRAME))
            except BundleError as error:
                ended.append(str(error))

        threads = [threading.Thread(target=call, daemon=True) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        closers = [threading.Thread(target=segmenter.close, daemon=True) for _ in range(2)]
        for thread in closers:
            thread.start()
        for thread in (*closers, *threads):
            thread.join(20)
            assert not thread.is_alive(), "somebody hangs"
        assert ended == ["the bundle 'toy' was closed; load it again before using it"] * 5
        assert segmenter._backend is None


class Slow:
    """A backend that takes its time, and says when it was given back."""

    device = provider = "cpu"

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.inside = self.deactivated = 0
        self.during = lambda: None

    def activate(self) -> None: ...

    def infer(self, network_input: np.ndarray) -> np.ndarray:
        self.inside += 1
        self.entered.set()
        self.during()
        assert self.go_on.wait(20)
        assert not self.deactivated
        self.inside -= 1
        return truth(network_input[0])[np.newaxis]

    def deactivate(self) -> None:
        assert not self.inside
        self.deactivated += 1


def test_close_gives_nothing_back_before_the_last_caller_is_out(tmp_path: Path) -> None:
    """Every backend, TensorRT's buffers too: it is the segmenter that counts who is inside."""
    with Segmenter.load(toy_bundle(tmp_path / "toy")) as loaded:
        backend = Slow()
        segmenter = Segmenter(loaded.manifest, backend)
    caller, closer = threading.Thread(target=segmenter, args=(FRAME,)), threading.Thread(target=segmenter.close)
    caller.start()
    assert backend.entered.wait(20)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    assert not backend.deactivated
    with pytest.raises(BundleError, match="was closed"):
        segmenter(FRAME)
    backend.go_on.set()
    for thread in (caller, closer):
        thread.join(20)
        assert not thread.is_alive()
    assert backend.deactivated == 1


def test_a_signals_handler_may_close_what_it_interrupts(tmp_path: Path) -> None:
    with Segmenter.load(toy_bundle(tmp_path / "toy")) as loaded:
        backend = Slow()
        segmenter = Segmenter(loaded.manifest, backend)
    backend.go_on.set()
    backend.during = segmenter.close
    assert np.array_equal(segmenter(FRAME), truth(FRAME))
    assert backend.deactivated == 1
    with pytest.raises(BundleError, match="was closed"):
        segmenter(FRAME)


FORKING = """
import os, sys, threading, time
import numpy as np
from rdd_deploy.errors import RddError
from rdd_deploy.runtime import Segmenter

frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
segmenter = Segmenter.load(sys.argv[1], threads=2, parallel=int(sys.argv[2]))
ended = threading.Event()

def work():
    while not ended.is_set():
        segmenter(frame)

threads = [threading.Thread(target=work) for _ in range(int(sys.argv[2]))]
segmenter(frame)
for busy in (False, True):
    for thread in threads if busy else ():
        thread.start()
    for way in ("end", "close", "use", "load"):
        child = os.fork()
        if child == 0:
            if way == "close":
                segmenter.close()
            try:
                if way == "use":
                    segmenter(frame)
                if way == "load":
                    with Segmenter.load(sys.argv[1], threads=2) as another:
                        another(frame)
            except RddError as error:
                print(way, error, flush=True)
            sys.exit(0)
        deadline = time.monotonic() + 20
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, 9)
                print(way, "hangs", flush=True)
            time.sleep(0.01)
        if done[1]:
            print(way, "ended with", done[1], flush=True)
ended.set()
for thread in threads:
    thread.join()
segmenter.close()
print("parent done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("backend", BACKENDS)
def test_loaded_before_a_fork(tmp_path: Path, backend: str) -> None:
    """The child ends, closes, is told, and loads again or is told; the parent's threads may be computing just then."""
    words = [sys.executable, "-c", FORKING, str(bundle(tmp_path, backend)), str(min(2, os.cpu_count() or 1))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    used = "use the bundle 'toy' was loaded before this process was forked off; load it in the process that uses it"
    loaded = [] if backend == "onnxruntime" else ["load can't load"]
    said = [line if line.startswith("use") else line[:15] for line in done.stdout.splitlines()]
    assert (done.returncode, said) == (0, [used, *loaded, used, *loaded, "parent done"]), done.stderr
    assert backend == "onnxruntime" or "OpenVINO was in use already when this process was forked off" in done.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_threads_may_be_the_first(tmp_path: Path, backend: str) -> None:
    """OpenVINO's binding prepared itself at the first look at a tensor, and two threads that took it together waited
    for ever.
    """
    script = (
        "import sys, threading, numpy as np\nfrom rdd_deploy.runtime import Segmenter\nsegmenter, frame ="
        " Segmenter.load(sys.argv[1], parallel=int(sys.argv[2])), np.eye(48, 192, dtype=np.uint8).reshape(48, 64,"
        " 3)\nboth = threading.Barrier(2)\nthreads = [threading.Thread(target=lambda: (both.wait(), segmenter(frame)))"
        " for _ in range(2)]\n[thread.start() for thread in threads], [thread.join() for thread in threads],"
        " segmenter.close()"
    )
    words = [sys.executable, "-c", script, str(bundle(tmp_path, backend)), str(min(2, os.cpu_count() or 1))]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.wait(60) == 0, process.communicate()[1]
        finally:
            process.send_signal(signal.SIGKILL)


SIGNALLED = """
import os, signal, sys, threading
from rdd_deploy.runtime import Segmenter

heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
first, second = Segmenter.load(sys.argv[1]), Segmenter.load(sys.argv[1])
first.close(), second.close()
del first, second
last = [Segmenter.load(sys.argv[1])]
thread = threading.Thread(target=lambda: last.pop().close())
thread.start(), thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
print(len(heard))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_signal_after_models_have_gone(tmp_path: Path, backend: str) -> None:
    """In the order in which they came, and in another thread: OpenVINO left the main thread without a stack for
    signals.
    """
    words = [sys.executable, "-c", SIGNALLED, str(bundle(tmp_path, backend))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
