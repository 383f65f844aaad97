"""Run what a plan names, several at once; tell how it goes; pass on a signal, so that every run saves its state."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rdd_deploy import console
from rdd_deploy.errors import RddError
from rdd_deploy.recipe import with_whole_paths
from rdd_deploy.study import children
from rdd_deploy.study.plan import Plan, Run, TeacherRun
from rdd_deploy.study.screen import Now, Screen
from rdd_deploy.study.standing import Found, Standing, look
from rdd_deploy.training.loop import Interrupted
from rdd_deploy.utils import files
from rdd_deploy.utils.locks import InUseError, check_unlocked, holder
from rdd_deploy.utils.signals import StopRequest

POLL_S = 0.2
FOREIGN_POLL_S = 2.0
"""Between two looks at a run that another process trains."""


@dataclass
class Active:
    """A run that goes on: this study's, or, without a child, one that another process (of a killed
    study, say) trains.
    """

    run: Run | TeacherRun
    place: int
    child: children.Child | None
    log: Path
    begin: int
    """Where in the log it begins."""
    looked: float = 0.0
    """When it was last looked at, of another process's run."""


class Execution:
    """The runs of a plan, from the first to the last.

    Args:
        found: where each run stood at first, by its folder. places: the environment of each place for a run.
        on_finished: called after each run that came to its end.
    """

    def __init__(
        self,
        plan: Plan,
        found: dict[Path, Found],
        places: list[dict[str, str]],
        on_finished: Callable[[], None],
        screen: Screen,
    ) -> None:
        self.plan, self.places, self.on_finished, self.screen = plan, places, on_finished, screen
        self.set_aside = {path for path, one in found.items() if one.standing is Standing.OTHER}
        self.active: list[Active] = []
        self.failed: dict[Path, str] = {}
        waiting = [run for run in plan.runs if found[run.folder.path].standing is not Standing.DONE]
        needed = {run.teacher for run in waiting}
        teachers = [
            one
            for path, one in plan.teachers.items()
            if path in needed and found[one.folder.path].standing is not Standing.DONE
        ]
        self.waiting: list[Run | TeacherRun] = [*teachers, *waiting]

    def run(self) -> None:
        """Run all.

        Raises:
            RddError: some failed; each was told when it did. Interrupted: a signal; the states of the runs are saved.
        """
        with self.screen, StopRequest() as stop:
            try:
                while (self.waiting or self.active) and stop.number is None:
                    finished = self._look_after()
                    self._start()
                    if finished:  # only now: the table and the plot take a moment
                        self.on_finished()
                    self.screen.draw(self._now)
                    time.sleep(POLL_S)
            finally:
                self._end_all()
            if stop.number is not None:
                raise Interrupted(
                    "interrupted; what was reached is saved, and the same command goes on from there", stop.number
                )
        if self.failed:
            one = len(self.failed) == 1
            raise RddError(
                f"{len(self.failed)} {'run' if one else 'runs'} failed and {'isn' if one else 'aren'}'t in the table;"
                " fix what is wrong and give the same command again, the others are kept:",
                *(f"{self.title(path)}: {why}" for path, why in self.failed.items()),
            )

    def _now(self) -> Now:
        return Now(
            self.waiting,
            {one.run.folder.path: one.child is not None for one in self.active},
            self.failed,
            len(self.places),
        )

    def title(self, path: Path) -> str:
        """Of the run with this folder."""
        return next(one.title for one in self.plan.everything if one.folder.path == path)

    def _start(self) -> None:
        for run in list(self.waiting):
            if len(self.active) >= len(self.places):
                return
            if self._is_ready(run):
                self.waiting.remove(run)
                self._begin(run)

    def _is_ready(self, run: Run | TeacherRun) -> bool:
        if isinstance(run, TeacherRun) or run.teacher is None:
            return True
        first = self.plan.teachers.get(run.teacher)
        if first is not None and (first in self.waiting or any(one.run is first for one in self.active)):
            return False
        # A cache that isn't there is filled by the first of its runs, before it locks its folder; the next ones find
        # it.
        config = run.recipe.teacher
        cached = config is not None and config.cache
        return not (
            cached
            and any(
                _is_preparing(one) and isinstance(one.run, Run) and one.run.teacher == run.teacher
                for one in self.active
            )
        )

    def _begin(self, run: Run | TeacherRun) -> None:
        taken = {one.place for one in self.active}
        place = next(number for number in range(len(self.places)) if number not in taken)
        log = self.plan.logs / f"{run.folder.path.name}.log"
        try:
            check_unlocked(run.folder.path)
        except InUseError as error:
            self.screen.event(f"{run.title}: {str(error).partition(';')[0]}; waiting for it")
            self.active.append(Active(run, place, None, log, 0))
            return
        again = run.folder.path in self.set_aside
        if isinstance(run, TeacherRun):
            _write_resolved(run)
        with children.open_log(log) as file:
            begin = file.tell()
            environment = os.environ | self.places[place]
            child = children.start([*run.words, *([] if again else ["--resume"])], environment, file)
        self.set_aside.discard(run.folder.path)
        self.active.append(Active(run, place, child, log, begin))
        self.screen.event(f"start  {run.title} -> {run.folder.path}  (log: {log})")

    def _look_after(self) -> bool:
        """Whether a run was finished meanwhile."""
        finished = [self._look_at(one) for one in list(self.active)]  # each of them is looked at
        return any(finished)

    def _look_at(self, one: Active) -> bool:
        if one.child is None:
            return self._look_at_foreign(one)
        if (code := one.child.poll()) is None:
            return False
        self.active.remove(one)
        if code == 0 and one.run.folder.finished:
            self.screen.finished(one.run)
            return True
        self._fail(one.run, children.last_error(one.log, one.begin, code) + f"  (log: {one.log})")
        return False

    def _look_at_foreign(self, one: Active) -> bool:
        now = time.monotonic()
        if now - one.looked < FOREIGN_POLL_S:
            return False
        one.looked = now
        try:
            check_unlocked(one.run.folder.path)
        except InUseError:
            return False
        self.active.remove(one)
        found = look(one.run)
        if found.standing is Standing.DONE:
            self.screen.finished(one.run)
            return True
        if found.standing is Standing.OTHER:
            self._fail(one.run, f"another process trained it by another recipe: {found.why}")
        else:
            self.waiting.insert(0, one.run)
        return False

    def _fail(self, run: Run | TeacherRun, why: str) -> None:
        self.failed[run.folder.path] = why
        self.screen.failed(run, why)
        if isinstance(run, TeacherRun):
            for student in [one for one in self.waiting if isinstance(one, Run) and one.teacher == run.folder.teacher]:
                self.waiting.remove(student)
                self.failed[student.folder.path] = f"not begun, since its {run.title} failed"

    def _end_all(self) -> None:
        """Have every child save its state and end; a second Ctrl-C doesn't wait for that."""
        going_on = [one.child for one in self.active if one.child is not None and one.child.poll() is None]
        for child in going_on:
            children.ask_to_end(child)
        if not going_on:
            return
        console.info(
            f"stopping {'1 run' if len(going_on) == 1 else f'{len(going_on)} runs'}; their states are being saved"
        )
        try:
            for child in going_on:
                child.wait()
        except KeyboardInterrupt:
            for child in going_on:
                children.kill(child)
                child.wait()
            raise


def _is_preparing(one: Active) -> bool:
    """Whether a run's process hasn't come to its training yet: it locks its folder when its teacher and the cache are
    there.
    """
    return one.child is not None and holder(one.run.folder.path) != str(one.child.pid)


def _write_resolved(run: TeacherRun) -> None:
    """The teacher's recipe with the study's data and device, for its process."""
    files.write_text(
        run.resolved, files.yaml_text(with_whole_paths(run.recipe).model_dump(mode="json", exclude_none=True))
    )
