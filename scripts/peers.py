"""Our bundles against what else a user can pick, in one run: YOLO26n-sem (ultralytics) and lightly-train's smallest
EoMT, on the same frames.

    python scripts/peers.py runs/*/export/openvino-int8 --data data/camvid --minutes 20 --threads 2
    python scripts/peers.py --minutes 0 BUNDLE ...       # untrained peers: latencies only
    python scripts/peers.py --dry-run                    # what would be done, and what it needs

Each peer gets an environment of its own below --work, is trained there for so many minutes on so many cores (from its
architecture, unless --weights says otherwise), is exported by its own tool, and is then timed in turns with our
bundles, from the very inferences that are counted for the mIoU. What was done is kept; a second call goes on where the
first ended. Training frames only reach the peers; --split is measured.

ultralytics is AGPL-3.0: you install it for yourself, nothing of ours imports it. Both peers load checkpoints with
pickle, so a file given with --weights can run any code when it is loaded: that happens in a process of the peer's
environment, but with your rights. Take files that you trust.

Exit codes: 0 all were measured; 2 something failed, which is named; what could be measured stands in the table.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peer_steps
import peer_table
from peer_runners import PeerCandidate
from peer_steps import Step

from rdd_deploy import console
from rdd_deploy.benchmark.images import Images, open_images
from rdd_deploy.benchmark.options import LatencyMetric, Settings
from rdd_deploy.benchmark.records import Benchmark, Row
from rdd_deploy.benchmark.report.write import prepare_folder
from rdd_deploy.benchmark.runners import bundle_candidates
from rdd_deploy.benchmark.session import measure_with_progress
from rdd_deploy.data.base import Split
from rdd_deploy.data.config import options_of
from rdd_deploy.data.open import open_data
from rdd_deploy.errors import RddError
from rdd_deploy.utils import files
from rdd_deploy.utils.machine import available_cores, has_native_bf16

PROGRAMS = Path(__file__).parent / "peer_programs"


@dataclass(frozen=True)
class Peer:
    """A peer's program in peer_programs/, and what its environment holds beside torch. ``version`` is raised when the
    program trains otherwise than before, so that what it made is made again."""

    program: str
    packages: tuple[str, ...]
    version: int = 1


PEERS = {
    "yolo26n-sem": Peer(
        "yolo26n_sem.py", ("ultralytics>=8.4", "nncf>=2.14", "openvino", "onnx", "onnxslim", "onnxruntime"), version=2
    ),
    "lightly-vitt16": Peer(
        "lightly_vitt16.py", ("lightly-train>=0.18", "onnx", "onnxscript", "onnxslim", "onnxruntime"), version=2
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE", help="of ours, to be measured beside them")
    parser.add_argument("--data", type=Path, default=Path("data/camvid"), help="the data set's folder")
    parser.add_argument("--data-name", default="camvid", help="of which kind it is")
    parser.add_argument("--split", default="val", help="the frames to measure on; peers are trained on train")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="training of each peer; 0: untrained, latencies only"
    )
    parser.add_argument(
        "--threads", type=int, default=available_cores(), help="cores of each training, and threads of every runtime"
    )
    parser.add_argument(
        "--size",
        type=_size,
        default=(240, 320),
        help="HEIGHTxWIDTH that a frame is scaled into, as our students' input",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", action="append", choices=list(PEERS), help="this peer (may be repeated); default: all"
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="PEER=FILE",
        help="start from a checkpoint that you trust (pickle!), or "
        "PEER=download: from what its maker publishes, for which the network is used",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/peers"), help="environments, trainings, exports and results"
    )
    parser.add_argument(
        "--own-torch", action="store_true", help="don't share this environment's packages: several GB for each peer"
    )
    parser.add_argument("--limit", type=int, help="measure so many frames, spread evenly")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of the measuring")
    parser.add_argument(
        "--by",
        type=LatencyMetric,
        choices=list(LatencyMetric),
        default=LatencyMetric.MODEL_P50,
        help="latency of plot and front",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    console.run(lambda: compare(parser.parse_args()))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", text)
    if not found or min(int(found[1]), int(found[2])) < 32:
        raise argparse.ArgumentTypeError(f"got {text}, expected HEIGHTxWIDTH of at least 32 each, such as 240x320")
    return int(found[1]), int(found[2])


def compare(asked: argparse.Namespace) -> None:
    """The whole run. Raises RddError for what can't be begun, and at the end for peers that failed."""
    weights = checked(asked)
    train = open_data(options_of(asked.data_name).for_bundle(str(asked.data), None), "train", fetch=False)
    plans = {name: plan(name, asked, weights.get(name, "none"), train) for name in asked.only or PEERS}
    if asked.dry_run:
        for step in {step.folder: step for steps in plans.values() for step in steps}.values():
            console.info(
                f"{step.title}: {'done before' if step.done else f'to do; needs {step.needs}'} -> {step.folder}"
            )
        console.info(f"measure {len(asked.bundles)} bundles and the exports -> {asked.work / 'results'}")
        return
    prepare_folder(asked.work)
    failed = []
    for name, steps in plans.items():
        try:
            for step in steps:
                step.ensure()
        except RddError as error:
            failed.append(f"{name}: {error.lines[0]}")
            console.warn(f"{failed[-1]}; going on without it")
    ready = {name: steps[-1].folder for name, steps in plans.items() if steps[-1].done}
    if not ready and not asked.bundles:
        raise RddError("nothing to measure:", *failed)
    failed += measured(asked, ready, weights)
    if failed:
        raise RddError(f"{len(failed)} could not be measured:", *failed)


def checked(asked: argparse.Namespace) -> dict[str, str]:
    """Options that argparse lets through; the weights by peer. Raises RddError."""
    if not 0 <= asked.minutes <= 10_000 or math.isnan(asked.minutes):
        raise RddError(f"--minutes {asked.minutes:g}: expected 0 (untrained) to 10000")
    if not 1 <= asked.threads <= available_cores():
        raise RddError(f"--threads {asked.threads}: expected 1 to {available_cores()}, the cores of this process")
    if not 1 <= asked.rounds <= 50 or (asked.limit is not None and asked.limit < 1):
        raise RddError("--rounds takes 1 to 50, --limit at least 1")
    weights = {}
    for text in asked.weights:
        name, _, value = text.partition("=")
        if name not in PEERS or not value:
            raise RddError(f"--weights {text}: expected PEER=FILE or PEER=download; the peers are {', '.join(PEERS)}")
        if value != "download" and not Path(value).is_file():
            raise RddError(f"--weights {text}: there is no file {value}; get it from its maker, or say {name}=download")
        if asked.minutes == 0:
            raise RddError("--weights and --minutes 0 exclude each other: untrained networks have none")
        weights[name] = value if value == "download" else str(Path(value).resolve())
    return weights


def plan(name: str, asked: argparse.Namespace, weights: str, train: Split) -> list[Step]:
    """What is to be done for a peer, in order. A step's record holds those of the steps that it builds on."""
    peer, work, classes = PEERS[name], asked.work / name, list(train.label_space.classes)
    frame = train.frame(0).shape[:2]
    data = Step(
        "frames and masks of train",
        asked.work / "data",
        {"digest": peer_steps.digest_of(train)},
        lambda place: peer_steps.write_data(train, place),
        "some disk",
    )
    room = Step(
        f"{name}: environment",
        work / "env",
        {"packages": list(peer.packages), "own_torch": asked.own_torch},
        lambda place: peer_steps.make_environment(place, peer.packages, asked.own_torch),
        peer_steps.NETWORK,
        keeps_place=True,
    )
    start = weights if weights in ("none", "download") else files.sha256(Path(weights))
    facts = {
        "version": peer.version,
        "size": list(asked.size),
        "classes": classes,
        "minutes": asked.minutes,
        "seed": asked.seed,
        "threads": asked.threads,
        "weights": start,
        "data": data.asked,
        "env": room.asked,
        "frame": list(frame),
    }
    precision = "bf16-mixed" if has_native_bf16() else "32-true"

    def job(verb: str) -> Callable[[Path], None]:
        def work_on(place: Path) -> None:
            tree: dict[str, Any] = facts | {
                "weights": weights,
                "data": str(data.folder.resolve()),
                "out": str(place.resolve()),
                "precision": precision,
                "trained": str((work / "train/last.pt").resolve()),
                **peer_steps.write_yamls(data.folder, classes, place),
            }
            files.write_json(place / "job.json", tree)
            words = [
                peer_steps.python_of(room.folder),
                str(PROGRAMS / peer.program),
                verb,
                str((place / "job.json").resolve()),
            ]
            variables = peer_steps.environment(room.folder, weights == "download" and verb == "train", asked.threads)
            seconds = 60 * asked.minutes if verb == "train" else None
            what = "training" if verb == "train" else verb
            peer_steps.run_logged(words, place / f"{verb}.log", variables, what, seconds, asked.threads, place)

        return work_on

    needs = f"{asked.minutes:g} min of {asked.threads} cores" + (
        ", the network for its maker's weights" if weights == "download" else ""
    )
    return [
        data,
        room,
        Step(f"{name}: training", work / "train", facts, job("train"), needs),
        Step(f"{name}: export", work / "export", facts, job("export"), "minutes"),
    ]


def measured(asked: argparse.Namespace, ready: dict[str, Path], weights: dict[str, str]) -> list[str]:
    """Time and judge all there is in turns, write table and plot; sentences about rows that failed."""
    ours = bundle_candidates(asked.bundles, "cpu", asked.threads)
    name, images = open_images(
        [one.manifest for one in ours if one.manifest], asked.data, asked.data_name, asked.split, asked.limit
    )
    trained = {one.name: peer_steps.training_of_ours(one.path) for one in ours}
    theirs: list[PeerCandidate] = []
    for peer, folder in ready.items():
        made = candidates(peer, folder, images, asked.threads)
        if asked.minutes:
            start = weights.get(peer, "none")
            said = peer_steps.training_of_peer(folder.with_name("train"), asked.minutes, start)
            trained |= dict.fromkeys((one.name for one in made), said)
        theirs += made
    settings = Settings(name, asked.split, "cpu", asked.threads, asked.rounds, asked.by, cold=False, seed=asked.seed)
    benchmark, _ = measure_with_progress([*ours, *theirs], images, settings)
    benchmark = benchmark.model_copy(update={"rows": completed(benchmark.rows, theirs)})
    names = frozenset(one.name for one in theirs)
    found = peer_table.points(benchmark.rows, names, names if asked.minutes == 0 else frozenset(), asked.by, trained)
    text = peer_table.markdown(found, facts_of(benchmark, asked, theirs))
    folder = asked.work / "results"
    prepare_folder(folder)
    contents = {
        "peers.md": text,
        "peers.csv": peer_table.comma_separated(found),
        "benchmark.json": files.json_text(benchmark.model_dump(mode="json")),
    }
    picture = peer_table.plot(found, asked.by)
    whole = {folder / file: files.encoded(content) for file, content in contents.items()}
    files.write_together(whole | ({folder / "peers.png": picture} if picture else {}))
    console.info(*text.splitlines())
    for warning in benchmark.warnings:
        console.warn(warning)
    console.info(
        f"{benchmark.seconds:.0f} s -> {folder}: {', '.join([*contents, *(['peers.png'] if picture else [])])}"
    )
    return [f"{row.name}: {row.failure}" for row in benchmark.rows if row.failure]


def candidates(peer: str, folder: Path, images: Images, threads: int) -> list[PeerCandidate]:
    """A row for each of a peer's exports."""
    listed = files.parse_json(files.read_file(folder / "artifacts.json", peer_steps.LARGEST))
    return [
        PeerCandidate(
            f"{peer}/{one['backend']}-{one['precision']}",
            "bundle",
            folder / one["file"],
            "cpu",
            threads,
            artifact=one,
            classes=tuple(images.label_space.classes),
        )
        for one in listed
    ]


def completed(rows: list[Row], theirs: list[PeerCandidate]) -> list[Row]:
    """Rows with what the benchmark can't know of a file that is no bundle."""
    known = {one.name: one for one in theirs}
    return [
        row.model_copy(
            update={
                "backend": one.artifact["backend"],
                "precision": one.artifact["precision"],
                "file_size_bytes": one.file_bytes,
            }
        )
        if (one := known.get(row.name))
        else row
        for row in rows
    ]


def facts_of(benchmark: Benchmark, asked: argparse.Namespace, theirs: list[PeerCandidate]) -> str:
    """Where and how it was measured."""
    machine, protocol = benchmark.machine, benchmark.protocol
    trained = "untrained" if asked.minutes == 0 else f"trained for {asked.minutes:g} min on {asked.threads} cores"
    tools = ", ".join(sorted({one.artifact["tool"] for one in theirs}))
    return (
        f"{protocol.data} {protocol.split}, {protocol.images} frames in {protocol.rounds} interleaved rounds; "
        f"{machine.cpu_model}, {protocol.threads} threads; peers ({tools}) {trained}, {asked.size[0]}x{asked.size[1]}; "
        f"load {machine.load_average_before} before, {machine.load_average_after} after; "
        f"{benchmark.created_utc[:10]}. Each frame's labels are the timed inferences', at the annotation's size."
    )


if __name__ == "__main__":
    main()
