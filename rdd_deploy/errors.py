"""The errors a user can cause. Each says what was got, what was expected and what to do; commands print it without a traceback.

Exit codes of every command:

====  =========================================================================================
code  meaning
====  =========================================================================================
0     done
1     a bug in rdd_deploy (the traceback is shown)
2     something the user can mend: recipe, data, weights, bundle, device, missing package, full disk
3     ``benchmark``: no bundle fits the latency budget
4     ``export``: the accuracy gate failed
5     training diverged (loss is NaN or infinite)
129   SIGHUP, the terminal was closed; what was reached is saved
130   interrupted with Ctrl-C; what was reached is saved
143   SIGTERM; what was reached is saved
====  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RddError(Exception):
    """Base of all errors that are the user's to mend."""

    exit_code = 2


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
        """Keep an error of this block for ``tell``, and go on."""
        try:
            yield
        except RddError as error:
            if str(error) not in map(str, self.errors):
                self.errors.append(error)

    def tell(self) -> None:
        """Raise what was collected: a lone error as it is, several as one RddError of as many lines."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise RddError(f"{len(self.errors)} problems:\n" + "\n".join(f"  {error}" for error in self.errors))


def missing_package(package: str, extra: str, purpose: str) -> MissingPackageError:
    """The one sentence for an optional package that isn't installed."""
    return MissingPackageError(
        f"{purpose} needs the package '{package}', which isn't installed: pip install 'rdd-deploy[{extra}]' (from a clone: pip install '.[{extra}]')"
    )
