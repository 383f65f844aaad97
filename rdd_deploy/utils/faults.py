"""What the machine does to a command (memory, files, worker processes, peers) as one sentence. No torch here: by names
and words alone.

A library tells a full memory or a lost peer by exceptions of its own, mostly a RuntimeError with a known text.
``as_error`` knows these texts; whatever it doesn't know is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import shutil

from rdd_deploy.errors import LostProcessError, MachineError, RddError

_CHECK = "check its name and permissions"
_SPACE = "free some space or choose another folder"
_FILES = "raise the limit (ulimit -n 4096), or use fewer processes (data.workers)"
_ADVICE = {
    errno.EACCES: _CHECK, errno.EPERM: _CHECK, errno.ENAMETOOLONG: _CHECK, errno.ELOOP: _CHECK, errno.ENOTDIR: _CHECK, errno.EROFS: _CHECK,
    errno.EISDIR: _CHECK, errno.ENOENT: "it isn't there, or was removed meanwhile: put it back, or name another one",
    errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE, errno.EFBIG: _SPACE, errno.EMFILE: _FILES, errno.ENFILE: _FILES,
    errno.EIO: "the disk or its connection fails: save what is on it, and choose another folder",
    errno.ESTALE: "the network folder was changed or mounted again: run the command again",
    errno.EAGAIN: "the limit of processes or threads is reached: raise it (ulimit -u), or use fewer (data.workers, --threads)",
}  # fmt: skip
"""What to do about an error of the operating system; others get the last words of ``_of_system``."""

_LESS = (
    "end other programs, or use less of it: a smaller train.batch, augment.crop or data.size, fewer data.workers,"
    " data.in_memory=false"
)
_GPU = "end what else uses the GPU, or make train.batch, augment.crop or data.size smaller"
_SHARED = (
    "give more of it (docker run --shm-size=2g), or use less: fewer data.workers (0 needs none), a smaller augment.crop"
    " or train.batch"
)
_KEPT = "What was saved until then is kept: go on with the same command and --resume"
_LOST = f"another of the processes that train together was lost ({{first}}); see what it says itself. {_KEPT}"

_KILLED = (
    "a process of the data loader was killed, most often because the machine's memory was full; use fewer data.workers"
    " (0 needs none), data.in_memory=false or a smaller augment.crop"
)

_WORDS = {
    r"(?:CUDA|HIP|XPU|MPS backend) out of memory|CUDA error: out of memory|CU(?:BLAS|DNN|SOLVER)_STATUS_ALLOC_FAILED": (
        f"the GPU's memory is full; {_GPU}"
    ),
    r"[Tt]oo many open files|items of ancdata": f"too many open files; {_FILES}",
    r"</torch_\w+>|shared memory (?:object|limit)|shared memory\(shm\)|out of shared memory|Bus error|/dev/shm": (
        f"shared memory (/dev/shm{{size}}) is too small for what the loader's processes hand over; {_SHARED}"
    ),
    r"[Cc]an.?t allocate memory|[Cc]annot allocate memory|bad_alloc|bad allocation|[Ff]ailed to"
    r" allocate|[Ii]nsufficient memory"
    r"|not enough memory|failed to map segment": f"the machine's memory is full; {_LESS}",
    r"DataLoader worker \(pid": _KILLED,
    r"can't start new thread|pthread_create": (
        f"no further thread can be started: memory is full, or {_ADVICE[errno.EAGAIN]}"
    ),
    r"EADDRINUSE|[Aa]ddress already in use": (
        "the port at which the processes meet is taken; set the variable MASTER_PORT to a free one"
    ),
    r"gloo[/:]|\bNCCL\b|\bnccl[A-Z]|TCPStore|Connection (?:closed|reset|refused)|Broken pipe|Socket Timeout|Timed out waiting": (
        _LOST
    ),
}
"""Texts of libraries' RuntimeErrors, and what each means; the first that is found counts."""

_NO_TEMPORARY = "there is no temporary folder that can be written; name one in the variable TMPDIR"


def as_error(error: BaseException) -> RddError | None:
    """An exception as an error with one sentence; None for a bug, whose traceback must be seen."""
    if isinstance(error, RddError):
        return error
    if isinstance(error, MemoryError):
        return MachineError(f"the machine's memory is full; {_LESS}")
    text, names = str(error), {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OSError):
        return MachineError(_NO_TEMPORARY) if "No usable temporary directory" in text else _of_system(error)
    if "OutOfMemoryError" in names:
        return MachineError(f"the GPU's memory is full; {_GPU}")
    if names & {"RuntimeError", "ImportError", "SystemError"} or type(error).__module__.startswith(
        ("cv2", "onnxruntime")
    ):
        for pattern, sentence in _WORDS.items():
            if re.search(pattern, text):
                kind = LostProcessError if sentence is _LOST else MachineError
                return kind(sentence.format(size=_shared_size(), first=_first_line(text)))
    if any(name.startswith("Dist") and name.endswith("Error") for name in names):  # torch.distributed's
        return LostProcessError(_LOST.format(first=_first_line(text)))
    return None


def killed_worker() -> MachineError:
    """The error of a loader whose process was killed."""
    return MachineError(_KILLED)


def lost(what: str) -> LostProcessError:
    """The error of a process whose fellow was lost, by a sentence without its end that says which and how."""
    return LostProcessError(f"{what}; what trains together ends together. {_KEPT}")


def _of_system(error: OSError) -> MachineError:
    names = " and ".join(
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
    )
    what = error.strerror or _first_line(str(error)) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, "see what is wrong with it, and run the command again")
    return MachineError(
        f"can't use {names}: {what}; {advice}" if names else f"the system refused something: {what}; {advice}"
    )


def _first_line(text: str) -> str:
    """The first line, without the place in a library's source that it may begin with; of a loader's process the last,
    behind its traceback.
    """
    lines = text.strip().splitlines() or [""]
    line = lines[-1] if "in DataLoader worker process" in lines[0] else lines[0]
    return re.sub(r"^\[[^\]]*\.(?:cc|cpp|h)[^\]]*\]\s*", "", line)[:200].rstrip(". ")


def _shared_size() -> str:
    try:
        return f", {shutil.disk_usage('/dev/shm').total / 1e6:.0f} MB in all"
    except OSError:
        return ""
