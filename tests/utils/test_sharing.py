"""Parts of work are done once, by whoever comes first, and again where that one was killed."""

import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from rdd_deploy.utils import files, sharing


def _worker(folder: str, name: str, parts: int, slow: bool) -> None:
    place = Path(folder)

    def work(part: str) -> bool:
        with sharing.claimed(place, part) as mine:
            if mine and not (place / part).exists():
                half = files.temporary_beside(place / part)
                half.write_text(name)
                if slow:
                    time.sleep(60)
                time.sleep(0.01)
                os.link(half, place / part)  # fails where it is there: nobody does it twice
                half.unlink()
        return (place / part).exists()

    sharing.share([str(number) for number in range(parts)], work, lambda part: (place / part).exists(), lambda _: None)


def start(*arguments: object) -> object:
    process = get_context("fork").Process(target=_worker, args=arguments)
    process.start()
    return process


def test_every_part_once_though_one_is_killed(tmp_path: Path) -> None:
    lost = start(str(tmp_path), "lost", 20, True)
    while not list(tmp_path.glob(".0.*.part")):
        time.sleep(0.01)
    workers = [start(str(tmp_path), f"worker{number}", 20, False) for number in range(3)]
    time.sleep(0.5)
    assert not (tmp_path / "0").exists(), "it is still worked on"
    os.kill(lost.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    for worker in workers:
        worker.join(30)  # type: ignore[attr-defined]
        assert worker.exitcode == 0  # type: ignore[attr-defined]
    done = [path.read_text() for path in tmp_path.iterdir() if path.name != sharing.CLAIMS]
    assert len(done) == 20
    assert len(set(done)) > 1
    assert "lost" not in done
    lost.join()  # type: ignore[attr-defined]


def test_an_error_is_raised_and_the_claim_ends(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), sharing.claimed(tmp_path, "one"):
        raise ValueError("x")
    with sharing.claimed(tmp_path, "one") as mine:
        assert mine


def test_a_claims_file_that_is_a_link_isnt_followed(tmp_path: Path) -> None:
    (tmp_path / "claims").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"symbolic links"), sharing.claimed(tmp_path, "one"):
        pass
    assert not (tmp_path / "target").exists()


def test_without_locks_everybody_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".one.1-aa.part").write_text("of a process on another machine")
    monkeypatch.setattr(sharing, "fcntl", None)
    with sharing.claimed(tmp_path, "one") as mine:
        assert mine
    assert (tmp_path / ".one.1-aa.part").exists()
