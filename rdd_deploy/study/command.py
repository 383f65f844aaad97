"""What ``rdd-deploy study`` does, from the words of its command line to the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdd_deploy import console
from rdd_deploy.errors import RddError, RecipeError
from rdd_deploy.recipe_files import check_name
from rdd_deploy.study.config import load_study
from rdd_deploy.study.plan import Plan, Run, TeacherRun, check_folder, make_plan
from rdd_deploy.study.standing import Found, Standing, look
from rdd_deploy.utils import files
from rdd_deploy.utils.locks import InUseError, check_unlocked, locked


def run_study(
    study: str,
    overrides: Sequence[str],
    only: Sequence[str],
    jobs: int | None,
    output: Path,
    name: str | None,
    set_aside: bool,
    dry: bool,
) -> None:
    """Check a study, run what is to come of it, write its table; the arguments are those of the command."""
    loaded, source = load_study(study)
    check_name(name)
    if unknown := [one for one in only if one not in loaded.variants]:
        raise RecipeError(f"--only {unknown[0]}: no variant of {source}; expected {', '.join(loaded.variants)}")
    plan = make_plan(loaded, source, output, overrides, name)
    check_folder(plan)
    if dry:
        _check_not_running(plan)
        _work(plan, only, jobs, set_aside, dry=True)
        return
    files.check_writable(plan.folder)
    _check_not_running(plan)
    with locked(plan.folder):
        _work(plan, only, jobs, set_aside, dry=False)


def _check_not_running(plan: Plan) -> None:
    try:
        check_unlocked(plan.folder)
    except InUseError as error:
        who = str(error).partition(" is training")[0]
        raise InUseError(
            f"{who} runs the study in {plan.folder}; wait until it ends, or give this one another folder with --name"
        ) from error


def _work(plan: Plan, only: Sequence[str] | None, jobs: int | None, set_aside: bool, dry: bool) -> None:
    chosen = [run for run in plan.runs if not only or run.variant in only]
    chosen_plan = Plan(plan.study, plan.folder, chosen, plan.teachers)
    found = {one.folder.path: look(one) for one in chosen_plan.everything}
    _spread(plan, chosen, found)
    from rdd_deploy.study import results

    if (others := results.others(found)) and not set_aside:
        raise RddError(
            f"{'1 folder' if len(others) == 1 else f'{len(others)} folders'} of this study"
            f" {'holds' if len(others) == 1 else 'hold'} runs of another recipe or teacher; use the same study and"
            " overrides, give this one another folder with --name, or train those again with --set-aside:",
            *others,
        )
    to_come = [run for run in chosen if found[run.folder.path].standing is not Standing.DONE]
    needed = {run.teacher for run in to_come}
    teachers = [
        one
        for path, one in plan.teachers.items()
        if path in needed and found[one.folder.path].standing is not Standing.DONE
    ]
    places: list[dict[str, str]] = [{}]
    if to_come:
        from rdd_deploy.study import check, devices  # takes seconds: torch
        from rdd_deploy.training.forecast import in_words

        checked = check.check(plan, to_come, teachers)
        places = devices.places(jobs, checked.on_gpu, max(run.recipe.train.devices for run in to_come))
    if dry:
        _tell(plan, chosen, found, teachers, len(to_come))
        if to_come:
            seconds = check.seconds_to_come(plan, to_come, teachers, checked, devices.threads_of(places[0])) / len(
                places
            )
            console.info(
                f"about {in_words(seconds)} to come, {len(places)} at once, from a measured step of each network;"
                " losses not counted"
            )
        console.info("dry run: recipes, data, weights and teachers are fine; nothing was trained")
        return
    from rdd_deploy.study.execute import Execution
    from rdd_deploy.study.screen import Screen

    if to_come:
        del checked  # its networks and data
        _tell(plan, chosen, found, teachers, len(to_come))
    try:
        Execution(chosen_plan, found, places, lambda: _write(plan), Screen(chosen_plan)).run()
    finally:
        done = results.finished(plan)
        if done:
            results.show(plan, done)
            written = results.write_results(plan, done)
            console.info(
                f"{len(done)} of {len(plan.runs)} runs -> {plan.folder / written[0]}, {', '.join(written[1:])}"
            )
            if "plot.png" not in written:
                console.info(results.NO_PLOT)


def _write(plan: Plan) -> None:
    from rdd_deploy.study import results

    results.write_results(plan, results.finished(plan))


def _spread(plan: Plan, runs: Sequence[Run], found: dict[Path, Found]) -> None:
    """Students of a teacher that has to be trained again aren't this study's either."""
    for run in runs:
        teacher = plan.teachers.get(run.teacher) if run.teacher else None
        if (
            teacher
            and found[teacher.folder.path].standing is Standing.OTHER
            and found[run.folder.path].standing is not Standing.NEW
        ):
            found[run.folder.path] = Found(Standing.OTHER, f"its {teacher.title} is of another recipe")


def _tell(
    plan: Plan, runs: Sequence[Run], found: dict[Path, Found], teachers: Sequence[TeacherRun], to_come: int
) -> None:
    """The grid in words: how many runs, how many of them are finished."""
    words = {Standing.DONE: "finished", Standing.BEGUN: "begun", Standing.NEW: "to come", Standing.OTHER: "again"}
    rows = [
        (variant, *(next((words[found[run.folder.path].standing] for run in runs if (run.variant, run.seed) == (variant, seed)), "") for seed in plan.seeds))
        for variant in dict.fromkeys(run.variant for run in runs)
    ]  # fmt: skip
    console.show(f"study {plan.folder}", console.table(("variant", *(f"seed {seed}" for seed in plan.seeds)), rows))
    first = f", after {', '.join(one.title for one in teachers)}" if teachers else ""
    console.info(f"{len(runs)} runs, {len(runs) - to_come} of them finished, {to_come} to come{first}")
