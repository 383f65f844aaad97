"""The steps of scripts/peers.py: each leaves what it made and a record of what it was asked; a step whose record is the
same is skipped."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rdd_deploy import console
from rdd_deploy.data.base import Split
from rdd_deploy.errors import MachineError, RddError
from rdd_deploy.study.children import end_with_parent, kill, last_error, open_log
from rdd_deploy.utils import files

LARGEST = 1 << 20
NETWORK = "the Python package index (or PIP_INDEX_URL, or PIP_NO_INDEX=1 and PIP_FIND_LINKS with a folder of wheels)"


class PeerError(RddError):
    """A peer couldn't be installed, trained or exported."""


@dataclass
class Step:
    """Something that is done once.

    Args:
        title: in the user's words. folder: what it makes. asked: what decides about the result, as JSON.
        work: makes it, in an empty folder. needs: said by ``--dry-run``.
        keeps_place: made in its final place, as an environment, whose files name it; else beside it, and renamed.
    """

    title: str
    folder: Path
    asked: dict[str, Any]
    work: Callable[[Path], None]
    needs: str = ""
    keeps_place: bool = False

    @property
    def record(self) -> Path:
        """What was asked of what lies there; written last."""
        return self.folder / "done.json"

    @property
    def done(self) -> bool:
        """Whether it was carried out, and asked for the same."""
        try:
            return bool(files.parse_json(files.read_file(self.record, LARGEST)) == self.asked)
        except (OSError, ValueError):
            return False

    def ensure(self) -> bool:
        """Carry it out unless that was done; whether it was carried out now. Raises RddError."""
        if self.done:
            console.info(f"{self.title}: done before -> {self.folder}")
            return False
        console.info(f"{self.title} ...")
        began = time.monotonic()
        place = self.folder if self.keeps_place else self.folder.with_name(f".{self.folder.name}.new")
        for old in (self.folder, place):
            shutil.rmtree(old, ignore_errors=True)
        try:
            place.mkdir(parents=True)
            self.work(place)
            if place != self.folder:
                place.rename(self.folder)
        except OSError as error:
            raise PeerError(
                f"{self.title}: can't write {place}: {error.strerror or error}; "
                "free some space or choose another --work"
            ) from error
        files.write_json(self.record, self.asked)
        console.info(f"{self.title}: {time.monotonic() - began:.0f} s -> {self.folder}")
        return True


def training_of_peer(folder: Path, minutes: float, weights: str) -> str:
    """How long a peer was trained and from what, by the trained.json that its program leaves; warns where that is far
    more than it was given."""
    start = {"none": "from scratch", "download": "from its maker's weights"}.get(weights, f"from {weights}")
    try:
        seconds = float(files.parse_json(files.read_file(folder / "trained.json", LARGEST))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{minutes:g} min, {start}"
    if seconds > 1.2 * 60 * minutes:
        console.warn(
            f"{folder.parent.name} was trained for {seconds / 60:.1f} min, expected about {minutes:g}; say so beside its"
            " figures, or train it again with less other work on the machine"
        )
    return f"{seconds / 60:.1f} min, {start}"


def training_of_ours(bundle: Path) -> str:
    """How long the run was trained that a bundle lies in, RUN/export/BUNDLE, and from what; nothing for one elsewhere.

    Of a run that went on from another's weights the file's own two names are told, and that its training isn't counted.
    """
    try:
        summary = files.parse_json(files.read_file(bundle.resolve().parents[1] / "summary.json", LARGEST))
        source = str(summary["encoder_weights"])
        went_on = " (sha256 " in source
        told = f"{float(summary['train_seconds']) / 60:.1f} min, encoder: "
        told += f"{'/'.join(source.split('/')[-2:])}; that file's training not counted" if went_on else source
        return f"{told}; its teacher's not counted" if summary["kind"] == "distill" else told
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return ""


def digest_of(split: Split) -> str:
    """Hash of the names and of a spread of the label maps: other data are other settings."""
    digest = hashlib.sha256("\n".join(split.names).encode("utf-8", "backslashreplace"))
    for index in {0, len(split) // 2, len(split) - 1}:
        digest.update(split.frame(index).tobytes() + split.labels(index).tobytes())
    return digest.hexdigest()[:16]


def write_data(split: Split, folder: Path) -> None:
    """The training frames as ultralytics and lightly-train read them: images/train/00000.png and masks/train/00000.png,
    void 255.

    ``one`` is a single training frame, for tools that insist on validating: nothing of the frames that are measured
    reaches them.
    """
    with console.progress("frames and masks", len(split)) as bar:
        for name, count in (("train", len(split)), ("one", 1)):
            for kind in ("images", "masks"):
                (folder / kind / name).mkdir(parents=True)
            for index in range(count):
                frame = cv2.cvtColor(split.frame(index), cv2.COLOR_RGB2BGR)
                write_png(folder / "images" / name / f"{index:05d}.png", np.asarray(frame, np.uint8))
                write_png(folder / "masks" / name / f"{index:05d}.png", split.labels(index))
                bar.advance(int(name == "train"))


def write_png(path: Path, image: np.ndarray) -> None:
    """A PNG, whatever the path's letters."""
    encoded = cv2.imencode(".png", image)[1]
    files.write_bytes(path, encoded.tobytes())


def write_yamls(data: Path, classes: Sequence[str], folder: Path) -> dict[str, str]:
    """ultralytics' two descriptions of the data: for training, and for calibration, which takes the frames of
    ``val``."""
    paths = {}
    for name, val in (("train", "one"), ("calibration", "train")):
        tree = {"path": str(data.resolve()), "train": "images/train", "val": f"images/{val}", "masks_dir": "masks"}
        path = folder / f"{name}.yaml"
        files.write_text(path, files.yaml_text(tree | {"names": dict(enumerate(classes))}))
        paths[f"{name}_yaml"] = str(path.resolve())
    return paths


def make_environment(place: Path, packages: Sequence[str], own_torch: bool) -> None:
    """A virtual environment of the peer's own. Unless ``own_torch``, it also sees this one's packages, which saves
    gigabytes.

    Raises:
        PeerError: the packages can't be had.
    """
    run_logged(
        [sys.executable, "-m", "venv", str(place)],
        place / "install.log",
        environment(place, download=True),
        "making an environment",
    )
    if not own_torch:
        paths = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")}
        site = next((place / "lib").glob("python3*")) / "site-packages"
        files.write_text(site / "shared.pth", "".join(f"{path}\n" for path in sorted(paths)))
    words = [
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--retries",
        "1",
        *packages,
    ]
    try:
        run_logged(
            [python_of(place), *words],
            place / "install.log",
            environment(place, download=True),
            f"pip install {' '.join(packages)}",
        )
    except PeerError as error:
        raise PeerError(f"can't install {' and '.join(packages)}, which needs {NETWORK}; {error}") from error


def python_of(place: Path) -> str:
    """The environment's interpreter."""
    return str(place.resolve() / "bin" / "python")


def environment(place: Path, download: bool, threads: int | None = None) -> dict[str, str]:
    """Of a peer's process: nothing of ours on its path, its files in the work folder, and nothing reported or fetched
    unasked."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    home = place.resolve().parent / "home"
    quiet = {
        "LIGHTLY_TRAIN_EVENTS_DISABLED": "1",
        "YOLO_AUTOINSTALL": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    places = {
        "YOLO_CONFIG_DIR": str(home),
        "LIGHTLY_TRAIN_CACHE_DIR": str(home / "lightly"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
    }
    offline = {} if download else {"YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}
    counts = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return kept | quiet | places | offline | counts


def run_logged(
    words: list[str],
    log: Path,
    variables: dict[str, str],
    what: str,
    seconds: float | None = None,
    cores: int | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a child to its end, its words in ``log``; it ends with us, and so does what it has started.

    Args:
        seconds: about how long it takes, for the bar. cores: it gets so many.

    Raises:
        PeerError: with the last thing it said.
    """
    with open_log(log) as file:
        begin = file.tell()
        try:
            child = subprocess.Popen(
                words,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                cwd=cwd,
                preexec_fn=(lambda: _limited(cores)) if sys.platform == "linux" else None,
            )
        except OSError as error:
            raise MachineError(f"can't start {words[0]}: {error.strerror or error}") from error
        try:
            with console.progress(what, None if seconds is None else int(seconds), on="stderr") as bar:
                while child.poll() is None:
                    time.sleep(0.2 if bar.silent else 1)
                    bar.advance(1)
        finally:
            if child.returncode is None:
                kill(child)
                child.wait()
    if child.returncode:
        raise PeerError(f"{what} failed: {last_error(log, begin, child.returncode)} (all of it: {log})")


def _limited(cores: int | None) -> None:
    """In a new process: as many cores as are asked for, and an end with its parent."""
    end_with_parent()
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
