"""The newest bundle of a folder, shown until a newer one comes: loaded beside the one that runs, and put in its place
between two frames.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from rdd_deploy.errors import BundleError, DeviceError, RddError
from rdd_deploy.live.bundles import by_age, loaded, shared_threads, warm_up
from rdd_deploy.live.types import Array
from rdd_deploy.runtime import Segmenter

POLL_S = 2.0
"""How often the folder is looked at. A bundle that changed since the look before is being copied, and is left until it rests."""

Version: TypeAlias = tuple[str, tuple[tuple[str, int, int], ...]]
"""A bundle's real folder, and of each file in it name, size and time."""


class Swappable(Segmenter):
    """A Segmenter that another one can take the place of, in any thread, while frames are labelled."""

    def __init__(self, first: Segmenter) -> None:  # not super's: it has no backend of its own
        self._take(first)

    def _take(self, one: Segmenter) -> None:
        self._current = one
        self.manifest, self.parallel, self.classes, self.palette = one.manifest, one.parallel, one.classes, one.palette
        self.input_size, self.device, self.provider = one.input_size, one.device, one.provider

    def swap(self, other: Segmenter) -> None:
        """Frames go to ``other`` from now on; what runs is waited for and closed."""
        before = self._current
        self._take(other)
        before.close()

    def prepare(self, frame: Array) -> Array:
        return self._current.prepare(frame)

    def infer(self, network_input: Array) -> Array:
        while True:
            current = self._current
            # Prepared for the one before.
            if network_input.ndim == 4 and network_input.shape[1:3] != current.input_size:
                network_input = current.prepare(network_input[0])
            try:
                return current.infer(network_input)
            except BundleError:
                if current is self._current:
                    raise  # else it was closed just now

    def close(self) -> None:
        self._current.close()


class Watcher:
    """Looks at a folder in a thread of its own and swaps in what is newest there; a bundle that can't be used changes
    nothing.

    Args:
        shown: what runs, and its version.
        refused: what was of no use already.
        load: makes a warm Segmenter of a bundle's folder.
        info, warn: called with a sentence about what was done, and about a bundle that is of no use.
    """

    def __init__(
        self,
        folder: Path,
        shown: tuple[Swappable, Version | None],
        load: Callable[[Path], Segmenter],
        *,
        refused: Version | None = None,
        info: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._folder, self._load, self._info, self._warn = folder, load, info, warn
        self._segmenter, self._version = shown
        self._refused = refused
        self._seen: Version | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="newest bundle", daemon=True)

    def start(self) -> None:
        """Start the thread; call it once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a bundle that is being loaded is waited for."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_S):
            self.look()

    def look(self) -> None:
        """Once: swap if the newest bundle is another one, was there at the look before, and is of use."""
        found = by_age(self._folder)
        version = version_of(found[0]) if found else None
        if version is None or version in (self._version, self._refused):
            return
        if version != self._seen:
            self._seen = version
            return
        name = found[0].name
        try:
            other = self._load(found[0])
        except Exception as error:  # whatever is wrong with a bundle, the stream goes on
            self._refused = version
            why = str(error).strip() or type(error).__name__
            self._warn(
                f"{why if isinstance(error, RddError) else why.splitlines()[0]}; {self._segmenter.manifest.name} stays"
            )
            return
        if (other.classes, other.palette.tolist()) != (self._segmenter.classes, self._segmenter.palette.tolist()):
            other.close()
            self._refused = version
            self._warn(
                f"the bundle {name} has other classes or colours than {self._segmenter.manifest.name}, which stays;"
                " start again to show it"
            )
            return
        before = self._segmenter.manifest.name
        self._segmenter.swap(other)
        self._version = version
        self._info(
            f"{name} takes the place of {before}"
            if name != before
            else f"{name} was written again: it is shown from now on"
        )


def version_of(bundle: Path) -> Version | None:
    """What tells whether a bundle changed, without reading it; None where it is gone."""
    try:
        with os.scandir(bundle) as entries:
            files = tuple(sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries))
    except OSError:
        return None
    return os.path.realpath(bundle), files


@contextmanager
def following(
    folder: Path,
    *,
    device: str,
    provider: str | None,
    threads: int | None,
    parallel: int,
    info: Callable[[str], None],
    warn: Callable[[str], None],
) -> Iterator[list[Segmenter]]:
    """The newest bundle of a folder that is of use, as the one Segmenter of a list, swapped as newer ones come; closed
    at the end.

    Raises:
        BundleError: there is none, or the only one is of no use.
    """
    found = by_age(folder)
    if not found:
        raise BundleError(
            f"there is no bundle in {folder}; copy one there (a folder with a manifest.json), or name another folder"
        )
    with ExitStack() as stack:
        first, version = None, None
        for path in found:
            version = version_of(path)
            try:
                (first,) = stack.enter_context(
                    loaded([path], device=device, provider=provider, threads=threads, parallel=parallel)
                )
                break
            except (BundleError, DeviceError) as error:
                if path == found[-1]:
                    raise
                warn(f"{error}; the next older one is taken")
        assert first is not None, "the last one raised"
        shown = Swappable(first)
        stack.callback(shown.close)

        def load(path: Path) -> Segmenter:
            shared = shared_threads(threads, shown.parallel)
            made = Segmenter.load(path, device=device, provider=provider, threads=shared, parallel=shown.parallel)
            try:
                warm_up(made)
            except BaseException:
                made.close()
                raise
            return made

        refused = version_of(found[0]) if path != found[0] else None
        watcher = Watcher(folder, (shown, version), load, refused=refused, info=info, warn=warn)
        stack.callback(watcher.stop)
        watcher.start()
        yield [shown]
