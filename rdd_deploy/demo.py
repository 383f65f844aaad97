"""The whole way in minutes on a CPU: teacher, student alone, distilled student, ONNX, and a run without torch, on
procedural streets.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdd_deploy import console
from rdd_deploy.console import command
from rdd_deploy.errors import RddError, RecipeError
from rdd_deploy.recipe_files import find_recipe
from rdd_deploy.utils import files
from rdd_deploy.utils.places import RUNS
from rdd_deploy.utils.tables import Entry

if TYPE_CHECKING:
    from rdd_deploy.training.run_folder import RunFolder

RECIPE = "streets_demo"
_TIDY_S = 5.0
"""For a step that is asked to end to remove what it wrote half."""


@partial(command, hint=Entry("rdd_deploy.recipe:option_hint"), extra="train")
def main(
    output: Annotated[Path, typer.Option(help="folder of runs")] = RUNS,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="of the recipe streets_demo")
    ] = None,
) -> None:
    """Distil, export and run a segmenter of procedural street scenes: no data, no GPU, a few minutes.

    Example: `python -m rdd_deploy.demo`
    """
    from rdd_deploy.recipe import load_distillation, load_recipe  # a tenth of a second: the schema

    started = time.perf_counter()
    source = find_recipe(RECIPE)
    recipe = load_distillation(source, overrides or ())
    if recipe.teacher is None or recipe.teacher.recipe is None:
        raise RecipeError("the demo trains its teacher, so teacher.recipe must name one; leave that override out")
    teacher_source = find_recipe(recipe.teacher.recipe, beside=source)
    # The same overrides where they mean the same: the scenes and the schedule's length; the teacher's network is its
    # own.
    teacher = load_recipe(
        teacher_source, [text for text in overrides or () if text.startswith(("data.", "train.epochs"))]
    )
    import torch  # takes seconds

    from rdd_deploy.training.data import TrainingData
    from rdd_deploy.training.distillation import distill_recipe
    from rdd_deploy.training.forecast import in_words, seconds_to_come
    from rdd_deploy.training.loop import Interrupted
    from rdd_deploy.training.supervised import train_recipe

    # Steps on crops this small gain little from a second thread, and with one the demo's figures don't depend on the
    # number of cores.
    torch.set_num_threads(1)
    data = TrainingData(recipe)
    to_come = in_words(seconds_to_come(recipe, teacher, len(data.frames), len(data.validation.label_space)))
    console.info(f"to come on this machine: about {to_come}, from measured steps of each network")

    try:
        console.heading("1/5  a big teacher")
        taught = train_recipe(teacher, output, data=data)
        console.heading("2/5  a small student alone, the baseline")
        alone = train_recipe(recipe, output, data=data)
        console.heading("3/5  the same student, distilled")
        distilled = distill_recipe(recipe, source, output, data=data)
    except Interrupted as error:
        raise Interrupted(
            "interrupted; the demo has no --resume, it begins again when it is run again", error.number
        ) from error
    console.heading("4/5  to ONNX")
    bundle = export(distilled)
    console.heading("5/5  the bundle without torch")
    measured = evaluate_without_torch(bundle)
    report([("teacher", taught), ("student alone", alone), ("student distilled", distilled)], bundle, measured)
    console.info(f"pictures: {distilled.pictures}   bundle: {bundle}   {time.perf_counter() - started:.0f} s in all")
    console.info("next: python apps/live_segment.py --source streets")


def export(run: RunFolder) -> Path:
    """Export a run to ONNX; returns the bundle's folder."""
    _step("the export", "-m", "rdd_deploy.export", str(run.path), "--onnx")
    return run.export / "onnxruntime-fp32"


def evaluate_without_torch(bundle: Path) -> dict[str, Any]:
    """Evaluate a bundle in a process in which torch can't be imported, as on the edge; returns what it measured."""
    target = files.temporary_beside(bundle)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from rdd_deploy.evaluate import main\n"
        f"sys.argv = ['evaluate', {str(bundle)!r}, '--json', {str(target)!r}]\n"
        "main()"
    )
    try:
        _step("the evaluation without torch", "-c", program)
        return dict(json.loads(target.read_text(encoding="utf-8")))
    finally:
        target.unlink(missing_ok=True)


def _step(what: str, *words: str) -> None:
    """Run Python with these words in a process of its own; RddError with its exit code where it fails."""
    with subprocess.Popen([sys.executable, *words]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # any signal that ends this process, which may not have reached that one
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TIDY_S)
            process.kill()
            raise
    if code:
        error = RddError(f"{what} ended with code {code}, for the reason given above; fix it and run the demo again")
        error.exit_code = code if code > 0 else 128 - code  # as a shell tells of a signal
        raise error


def report(runs: list[tuple[str, RunFolder]], bundle: Path, measured: dict[str, Any]) -> None:
    """A table of what each step reached."""
    rows = []
    for name, run in runs:
        summary = json.loads(run.summary.read_text(encoding="utf-8"))
        rows.append(
            (
                name,
                f"{summary['best']['miou_pct']:.2f}",
                f"{summary['parameters'] / 1e6:.2f}",
                f"{summary['train_seconds']:.0f}",
            )
        )
    rows.append((f"its bundle {bundle.name}", f"{measured['summary']['miou_pct']:.2f}", "", ""))
    console.show(
        "procedural streets, validation split", console.table(("network", "mIoU %", "parameters M", "training s"), rows)
    )


if __name__ == "__main__":
    main()
