"""The errors a user can cause. Each says what was got, what was expected and what to do; commands print it without a
traceback.

Exit codes of every command:

====  =========================================================================================
code  meaning
====  =========================================================================================
0     done
1     a bug in rdd_deploy (the traceback is shown)
2     something the user can fix: recipe, data, weights, bundle, device, missing package; or what the
      machine refused: memory (also the GPU's and shared memory), a full disk or any other error of the
      operating system, too many open files, a killed loader process, a lost process of several
3     ``benchmark``: no bundle fits the latency budget
4     ``export``: the accuracy gate failed
5     training diverged (loss is NaN or infinite)
129   SIGHUP, the terminal was closed; what was reached is saved
130   interrupted with Ctrl-C; what was reached is saved
143   SIGTERM; what was reached is saved
====  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class RddError(Exception):
    """Base of all errors that are the user's to fix: a sentence, and perhaps details, which are told in a line each."""

    exit_code = 2

    @property
    def lines(self) -> list[str]:
        """The sentence and the details. A line break inside one of them comes from outside and doesn't make two."""
        return [str(one) for one in self.args] or [type(self).__name__]

    def __str__(self) -> str:
        return "\n  ".join(map(str, self.args))


class RecipeError(RddError):
    """A recipe, profile or override is not valid."""


class DataError(RddError):
    """Images or masks are missing, unreadable or inconsistent."""


class WeightsError(RddError):
    """Weights are missing or belong to another model."""


class DeviceError(RddError):
    """The device, precision or provider asked for is not what can be had."""


class BundleError(RddError):
    """A bundle is missing, incomplete, edited or of another version."""


class MissingPackageError(RddError):
    """An optional package is needed for what was asked; the message names the extra to install."""


class DiskError(RddError):
    """A file couldn't be written."""


class MachineError(RddError):
    """Memory, files, worker processes or peers failed; see ``rdd_deploy.utils.faults``."""


class LostProcessError(MachineError):
    """Another of the processes that train together was lost."""


class SourceError(RddError):
    """A camera, video, stream or folder of frames can't be read."""


class BudgetError(RddError):
    """No bundle fits the latency budget."""

    exit_code = 3


class GateError(RddError):
    """The exported artifact loses more accuracy than allowed."""

    exit_code = 4


class DivergedError(RddError):
    """The training loss became NaN or infinite."""

    exit_code = 5


class Problems:
    """Errors of independent checks, told together."""

    def __init__(self) -> None:
        self.errors: list[RddError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep an error of this block for ``raise_all``, and go on."""
        try:
            yield
        except RddError as error:
            if str(error) not in map(str, self.errors):
                self.errors.append(error)

    def raise_all(self) -> None:
        """Raise what was collected: a lone error as it is, several as one RddError of as many lines."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise RddError(f"{len(self.errors)} problems:", *details(self.errors))


def details(errors: Iterable[RddError]) -> Iterator[str]:
    """Errors as details of another one; their own details stay further in."""
    for error in errors:
        first, *more = error.lines
        yield first
        yield from (f"  {line}" for line in more)


def missing_package(package: str, extra: str, purpose: str) -> MissingPackageError:
    """The one sentence for an optional package that isn't installed."""
    if package == "cv2":
        return MissingPackageError(
            f"{purpose} needs OpenCV, which isn't installed: pip install opencv-python, or opencv-python-headless on a"
            " device without a display; never both"
        )
    if package == "PIL":
        return MissingPackageError(f"{purpose} needs the package 'pillow', which isn't installed: pip install pillow")
    return MissingPackageError(
        f"{purpose} needs the package '{package}', which isn't installed: pip install 'rdd-deploy[{extra}]' (from a"
        f" clone: pip install '.[{extra}]')"
    )
