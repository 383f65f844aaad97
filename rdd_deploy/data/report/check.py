"""Check a recipe's data: both splits read whole, everything that is wrong told at once, ``data_check.html`` and
``data_check.json``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from rdd_deploy import console
from rdd_deploy.data.base import FileSplit, Split, frame_paths
from rdd_deploy.data.config import DataOptions
from rdd_deploy.data.listing import plural
from rdd_deploy.data.open import open_data, warn_once
from rdd_deploy.data.report.page import Card, Found, check_template, render
from rdd_deploy.data.report.scan import Scan, problems_between, scan
from rdd_deploy.data.report.suspicious import KINDS, Duplicate, Suspicion, duplicates, in_turn, suspicions
from rdd_deploy.data.report.thumbnails import ALL_BYTES, picture
from rdd_deploy.errors import DataError
from rdd_deploy.utils import files

PAGE, FIGURES = "data_check.html", "data_check.json"
TOLD = 20
"""Problems that the terminal shows; the page shows more, the JSON file all."""
LISTED = 10_000
"""Suspicious samples that the JSON file lists."""


def check_data(name: str, data: DataOptions, evaluated: str, output: Path, frames: int) -> None:
    """Check the train split and the one that accuracy is measured on, and write what was found into a folder.

    Args:
        name: the recipe's. evaluated: val or test. frames: pictures on the page at most.

    Raises:
        DataError: training would refuse the data; what was found is written all the same. DiskError: nothing can be
            written.
    """
    check_template()
    files.check_writable(output)
    files.remove_parts(output)
    problems: list[str] = []
    splits = {split: opened for split in ("train", evaluated) if (opened := _opened(data, split, problems)) is not None}
    with console.progress("data check", sum(map(len, splits.values()))) as bar:
        scans = [scan(split, opened, bar.advance) for split, opened in splits.items()]
    problems += [problem for one in scans for problem in one.problems]
    twins: list[Duplicate] = []
    if len(scans) == 2:
        problems += problems_between(*scans) + _palette_problems(*splits.values())
        twins = duplicates(*scans)
    notes = [note for one in scans for note in (*one.notes, *_left_out(one.split, data), *_repeated(one))]
    found: list[Suspicion] = []
    for one in scans:
        suspicious, usual = suspicions(one, data.size)
        found += suspicious
        notes += usual
    told = Found(name, data, scans, problems, notes, _counts(found), twins)
    page = render(told, _cards(scans, found, twins, frames))
    files.write_together({
        output / PAGE: files.encoded(page),
        output / FIGURES: files.encoded(files.json_text(_figures(told, found))),
    })  # fmt: skip
    _tell(told, output)
    if problems:
        more = [f"and {len(problems) - TOLD} more, in {output / FIGURES}"] if len(problems) > TOLD else []
        raise DataError(
            f"training would refuse this data for {len(problems)} {'reason' if len(problems) == 1 else 'reasons'}; fix"
            " them, and check again:",
            *problems[:TOLD],
            *more,
        )


def _opened(data: DataOptions, split: str, problems: list[str]) -> Split | None:
    try:
        return open_data(data, split, fetch=False)  # a check asks no network
    except DataError as error:
        problems += [line for line in error.lines if line not in problems]
        return None


def _palette_problems(train: Split, other: Split) -> list[str]:
    if isinstance(train, FileSplit) and isinstance(other, FileSplit):
        try:
            train.ids.check_palettes(other.ids)
        except DataError as error:
            return error.lines
    return []


def _left_out(split: Split, data: DataOptions) -> list[str]:
    return split.notes(data.size) if isinstance(split, FileSplit) else []


def _repeated(one: Scan) -> list[str]:
    times = Counter(facts.digest for _, facts in one.usable)
    again = sum(count - 1 for count in times.values())
    if not again:
        return []
    digest = next(digest for digest, count in times.items() if count > 1)
    names = [one.split.names[index] for index, facts in one.usable if facts.digest == digest]
    return [f"{again} images of {one.name} are there more than once, e.g. {names[0]} and {names[1]}"]


def _counts(found: Sequence[Suspicion]) -> dict[str, int]:
    return {kind: len({(one.split, one.index) for one in found if one.kind == kind}) for kind in KINDS}


def _cards(
    scans: Sequence[Scan], found: Sequence[Suspicion], twins: Sequence[Duplicate], frames: int
) -> dict[str, list[Card]]:
    """The pictures: pairs that look alike, suspicious samples first, then some that aren't, evenly over the splits."""
    by_name = {one.name: one for one in scans}
    pairs = _apart(twins, min(len(twins), frames // 8))
    suspicious = in_turn(list(found))[: max(0, (frames - 2 * len(pairs)) * 3 // 4)]
    known = {(split, index) for split, index, _ in suspicious}
    left = frames - 2 * len(pairs) - len(suspicious)
    usable = {one.name: [index for index, _ in one.usable if (one.name, index) not in known] for one in scans}
    ordinary: list[tuple[str, int]] = []
    for number, (name, indices) in enumerate(sorted(usable.items(), key=lambda item: len(item[1]))):
        count = min(len(indices), (left - len(ordinary)) // (len(usable) - number))
        ordinary += (
            [(name, indices[place]) for place in np.linspace(0, len(indices) - 1, count).round().astype(int)]
            if count
            else []
        )
    total = 2 * len(pairs) + len(suspicious) + len(ordinary)
    with console.progress("pictures", total) as bar:

        def card(split: str, index: int, reasons: Sequence[str] = ()) -> Card:
            one = by_name[split]
            drawn = picture(one.split, index, ALL_BYTES // max(1, total))
            bar.advance()
            facts = one.facts[index]
            return Card(
                split, one.split.names[index], "x".join(map(str, facts.size)) if facts else "", list(reasons), drawn
            )

        alike = []
        for pair in pairs:
            reason = f"their hashes differ in {pair.distance} of 64 bits"
            alike += [card(scans[0].name, pair.first, [reason]), card(scans[1].name, pair.second, [reason])]
        return {
            "alike": alike,
            "suspicious": [card(split, index, reasons) for split, index, reasons in suspicious],
            "ordinary": [card(split, index) for split, index in ordinary],
        }


def _apart(twins: Sequence[Duplicate], count: int) -> list[Duplicate]:
    """The nearest pairs, each frame of train once: in a video many frames look like one."""
    seen: set[int] = set()
    chosen: list[Duplicate] = []
    for pair in twins:
        if pair.first not in seen and len(chosen) < count:
            seen.add(pair.first)
            chosen.append(pair)
    return chosen


def _figures(told: Found, found: Sequence[Suspicion]) -> dict[str, Any]:
    splits = {}
    for one in told.scans:
        pixels, frames, void = one.totals()
        sizes = Counter("x".join(map(str, facts.size)) for _, facts in one.usable)
        splits[one.name] = {
            "frames": len(one.split),
            "unusable": len(one.split) - sum(1 for _ in one.usable),
            "pixels": dict(zip(one.split.label_space.classes, map(int, pixels), strict=True)),
            "frames_with": dict(zip(one.split.label_space.classes, map(int, frames), strict=True)),
            "void_pixels": void,
            "sizes": dict(sizes.most_common()),
        }
    paths = {one.name: frame_paths(one.split) for one in told.scans}
    samples = in_turn(list(found))
    return {
        "schema_version": 1,
        "recipe": told.name,
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": told.data.name,
        "root": str(told.data.root) if told.data.in_folder else None,
        "fine": not told.problems,
        "problems": told.problems,
        "notes": told.notes,
        "splits": splits,
        "suspicious_counts": {KINDS[kind]: count for kind, count in told.counts.items()},
        "suspicious": [
            {"split": split, "frame": _name(told, split, index), "file": str(paths[split][index]) if paths[split] else None, "reasons": reasons}
            for split, index, reasons in samples[:LISTED]
        ],
        "near_duplicates": [
            {
                told.scans[0].name: told.scans[0].split.names[pair.first],
                told.scans[1].name: told.scans[1].split.names[pair.second],
                "distance": pair.distance,
            }
            for pair in told.twins[:LISTED]
        ],
    }  # fmt: skip


def _name(told: Found, split: str, index: int) -> str:
    return next(one for one in told.scans if one.name == split).split.names[index]


def _tell(told: Found, output: Path) -> None:
    warn_once(told.notes)
    for one in told.scans:
        pixels, _, void = one.totals()
        share = void / max(1, void + int(pixels.sum()))
        console.info(
            f"{one.name}: {len(one.split)} frames, {len(one.split.label_space)} classes, {100 * share:.1f} % void"
        )
    if not told.scans:
        console.info(f"-> {output / PAGE}, {FIGURES}")
        return
    kinds = [f"{count} {KINDS[kind]}" for kind, count in told.counts.items() if count]
    if told.twins:
        kinds.append(f"{plural(len(told.twins), 'near-duplicate')} across the splits")
    console.info(f"to look at: {', '.join(kinds) or 'nothing'} -> {output / PAGE}, {FIGURES}")
