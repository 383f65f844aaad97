"""``Segmenter``: the one way from a bundle and a frame to a label map."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.errors import BundleError, DeviceError, SourceError
from rdd_deploy.preprocess import resize_frame, resize_labels
from rdd_deploy.runtime.backends import Backend, open_backend
from rdd_deploy.runtime.manifest import Manifest, read_manifest
from rdd_deploy.utils.machine import check_threads
from rdd_deploy.utils.places import followed

Array = NDArray[np.uint8]
UNIFORM_FRAMES = 100
"""So many frames in a row that are all one class are reported once: NaN inside a network looks just like that."""


class Segmenter:
    """A loaded bundle. Call it with a frame, or time ``prepare``, ``infer`` and ``restore`` one by one.

    One thread at a time may call it, or as many as like where ``parallel`` is above 1: so many frames are computed at a
    time, and more callers gain nothing. Different segmenters may run side by side. Use it in a ``with`` block, or
    ``close()`` it.

    A process that is forked off can't use it, since the backend's threads exist in the process that loaded it only; it
    loads its own.
    """

    def __init__(self, manifest: Manifest, backend: Backend, parallel: int = 1) -> None:
        self.manifest, self.parallel = manifest, parallel
        self.classes: tuple[str, ...] = tuple(manifest.classes)
        self.palette: Array = np.array(manifest.palette, np.uint8)
        self.palette.setflags(write=False)
        self.input_size: tuple[int, int] = (manifest.input.height, manifest.input.width)
        self._backend: Backend | None = backend
        self._gone: str | None = None
        self._inside: dict[object, int] = {}
        self._changed = threading.Condition()
        self._uniform = 0
        self._watching = threading.Lock()
        self.device: str = backend.device
        self.provider: str = backend.provider
        _loaded.add(self)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        provider: str | None = None,
        threads: int | None = None,
        parallel: int = 1,
        verify: bool = True,
    ) -> Segmenter:
        """Load a bundle, ready to run.

        Args:
            path: the bundle's folder.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. What is asked for is what is used: otherwise DeviceError.
            provider: an onnxruntime provider (cpu, cuda, tensorrt, tensorrt-rtx) or an OpenVINO device; None follows
                ``device``.
            threads: CPU threads; None lets the backend choose, or is one for each inference where several run at a
                time.
            parallel: so many frames are computed at a time, sharing the CPU threads. More frames per second, each of
                which takes longer; the labels are the same. Only on the CPU.
            verify: check the files' hashes.

        Raises:
            BundleError: the bundle is missing, incomplete, edited, or doesn't keep its manifest's promises.
            DeviceError: device, provider, precision or ``parallel`` isn't available.
            MissingPackageError: the backend's package isn't installed.
        """
        check_threads(threads)
        if parallel < 1 or parallel > (threads or parallel):
            most = "1 or more" if threads is None else f"1 to {threads}, at most one for each of the {threads} threads"
            raise DeviceError(f"asked for {parallel} inferences at a time; expected {most}")
        folder = followed(Path(path))
        asked: dict[str, Any] = {
            "device": device,
            "provider": provider,
            "threads": threads,
            "parallel": parallel,
            "verify": verify,
        }
        while True:
            before = _identity(folder)
            try:
                return cls._load(folder, asked)
            except BundleError:
                if _identity(folder) == before:
                    raise  # else an export replaced it just now, and this was half of each

    @classmethod
    def _load(cls, folder: Path, asked: dict[str, Any]) -> Segmenter:
        manifest = read_manifest(folder, verify=asked["verify"], but_model=True)
        backend = open_backend(folder, manifest, **asked)
        try:
            backend.activate()
        except BaseException:
            backend.deactivate()
            raise
        return cls(manifest, backend, asked["parallel"])

    @property
    def precision(self) -> str:
        """fp32, fp16, bf16 or int8."""
        return self.manifest.precision

    @property
    def backend(self) -> str:
        """onnxruntime, openvino, tensorrt or tensorrt-rtx."""
        return self.manifest.backend

    def __call__(self, frame: Array) -> Array:
        """Frame uint8 (H, W, 3) BGR of any size -> labels uint8 (H, W). Raises SourceError for another
        kind of frame.
        """
        return self.restore(self.infer(self.prepare(frame)), (frame.shape[0], frame.shape[1]))

    def prepare(self, frame: Array) -> Array:
        """Frame uint8 (H, W, 3) BGR -> contiguous uint8 (1, h, w, 3) at the network's size.

        Where the sizes agree, the result is a view of the frame: leave it unchanged until ``infer`` is done.
        """
        check_frame(frame)
        frame = resize_frame(frame, self.input_size, self.manifest.preprocessing.shrink_from)
        return np.ascontiguousarray(frame)[np.newaxis]

    def infer(self, network_input: Array) -> Array:
        """uint8 (1, h, w, 3) from ``prepare`` -> labels uint8 (1, h, w), class ids only.

        Raises:
            BundleError: the model misbehaves, was closed, or was loaded by the process that this one was forked from.
            SourceError: the input is of another shape or type.
        """
        if network_input.shape != (1, *self.input_size, 3) or network_input.dtype != np.uint8:
            raise SourceError(
                f"got {network_input.dtype}{list(network_input.shape)}, expected uint8{[1, *self.input_size, 3]}; let"
                " `prepare` make it of a frame"
            )
        labels = self._run(network_input)
        if labels.dtype != np.uint8 or labels.shape != (1, *self.input_size):
            raise BundleError(
                f"the model of '{self.manifest.name}' gave {labels.dtype}{list(labels.shape)}, expected"
                f" uint8{[1, *self.input_size]}; export the bundle again"
            )
        highest = int(labels.max())
        if highest >= len(self.classes):
            raise BundleError(
                f"the model of '{self.manifest.name}' gave the class id {highest}, its manifest names"
                f" {len(self.classes)} classes; export the bundle again"
            )
        self._watch(labels, highest)
        return labels

    def _run(self, network_input: Array) -> Array:
        """The backend's answer; the backend stays as long as somebody is in here."""
        ticket = object()
        try:
            with self._changed:
                if self._backend is None or self._gone is not None:
                    raise BundleError(f"the bundle '{self.manifest.name}' was {self._gone}")
                backend = self._backend
                self._inside[ticket] = threading.get_ident()
            return backend.infer(network_input)
        finally:
            with self._changed:
                self._inside.pop(ticket, None)
                self._changed.notify_all()
                if self._gone is not None and not self._inside:
                    self._deactivate()

    def restore(self, labels: Array, size: tuple[int, int]) -> Array:
        """Labels uint8 (1, h, w) -> uint8 (height, width), by the nearest pixel centre (no half-pixel shift against the
        frame).
        """
        return resize_labels(np.asarray(labels[0], np.uint8), size)

    def _watch(self, labels: Array, highest: int) -> None:
        uniform = int(labels.min()) == highest
        with self._watching:
            self._uniform = count = self._uniform + 1 if uniform else 0
        if count == UNIFORM_FRAMES:
            console.warn(
                f"'{self.manifest.name}' gave nothing but {self.classes[highest]} for {UNIFORM_FRAMES} frames in a row;"
                " if the frames aren't that plain, its numbers overflow: check it with `rdd-deploy parity`"
            )

    def close(self) -> None:
        """Give the model, its memory and its device back; may be called twice, and by any thread.

        Callers who are inside are waited for; later ones get a BundleError.
        """
        me = threading.get_ident()
        with self._changed:
            self._gone = self._gone or "closed; load it again before using it"
            # A signal's handler may close what its own thread is using: then that gives it back when it comes out.
            self._changed.wait_for(lambda: all(who == me for who in self._inside.values()))
            if not self._inside:
                self._deactivate()

    def _deactivate(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.deactivate()

    def _abandon(self) -> None:
        """In a process that was forked off: the backend's threads aren't here, and to end it would wait for them, so it
        is kept for ever.
        """
        self._changed, self._watching, self._inside = threading.Condition(), threading.Lock(), {}
        if self._backend is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._backend))
            self._backend, self._gone = (
                None,
                "loaded before this process was forked off; load it in the process that uses it",
            )

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


_loaded: weakref.WeakSet[Segmenter] = weakref.WeakSet()


def _abandon_all() -> None:
    """In a process that was forked off from one with backends. At its end, after Python's own, C++ libraries would
    destroy what is shared by all models and wait for those threads, too: that is left out."""
    segmenters = list(_loaded)
    for segmenter in segmenters:
        segmenter._abandon()
    libc = ctypes.CDLL(None)
    if segmenters and hasattr(libc, "on_exit"):  # not in musl and macOS
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


def check_frame(frame: object) -> None:
    """Raise SourceError unless ``frame`` is a non-empty uint8 (H, W, 3) array."""
    if not isinstance(frame, np.ndarray):
        raise SourceError(
            f"got a {type(frame).__name__} as a frame, expected a numpy array uint8 (height, width, 3) in BGR; check"
            " that reading it worked"
        )
    got = f"got a frame of shape {frame.shape} and type {frame.dtype}"
    if frame.ndim == 3 and frame.shape[2] == 3 and frame.size and frame.dtype == np.uint8:
        return
    if not frame.size:
        do = "skip it: the source delivered nothing"
    elif frame.dtype != np.uint8:
        do = "scale it to 0…255 and convert it with .astype(np.uint8)"
    elif frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 1):
        do = "it is grey: convert it with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
    elif frame.ndim == 3 and frame.shape[2] == 4:
        do = "it has an alpha channel: convert it with cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
    else:
        do = "give one colour frame at a time"
    raise SourceError(f"{got}, expected uint8 (height, width, 3) in BGR; {do}")
