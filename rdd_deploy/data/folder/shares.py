"""Share frames out to splits: by classes, sequences together, the same on every machine."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

HOLDS_TOO_MUCH, BLOCKS = 0.5, 20
"""A sequence of more than this share of all frames can't be in one split: it is cut into so many parts a whole data set."""
_NUMBER = re.compile(r"(.*?)(\d+)", re.DOTALL | re.ASCII)
_TAIL = re.compile(r"\d(\D+)$", re.ASCII)
_ROBOFLOW = re.compile(r"(.+?)(?:_(?:jpe?g|png|bmp|webp))?\.rf\.[0-9a-zA-Z]{8,}", re.IGNORECASE)
"""One image that was exported several times, augmented in other ways."""


def sequence_of(path: str) -> str:
    """What the frames of one sequence have in common: folder and name up to the trailing number. A frame without a
    number is one of its own.
    """
    if copies := _ROBOFLOW.fullmatch(path):
        path = copies[1]
    folder, _, name = path.rpartition("/")
    match = _NUMBER.fullmatch(name)
    return f"{folder}/{match[1]}#" if match else f"{folder}/{name}"


def common_ending(paths: Sequence[str]) -> str:
    """What all names have after their last number, such as ``_leftImg8bit``; empty where they differ or it is cut off
    already.
    """
    endings = {_ending(path) for path in paths}
    return endings.pop() if len(endings) == 1 else ""


def _ending(path: str) -> str:
    """Of one name; Roboflow's copies end in a hash."""
    match = None if _ROBOFLOW.fullmatch(path) else _TAIL.search(path.rpartition("/")[2])
    return match[1] if match else ""


def number_of(path: str) -> int:
    """A frame's number within its sequence."""
    match = _NUMBER.fullmatch(path.rpartition("/")[2])
    return int(match[2][-18:]) if match else 0


def groups_of(paths: Sequence[str], by: str) -> tuple[list[str], list[str]]:
    """The group of each frame, none of which is torn apart.

    Args:
        paths: of the frames below the data set's folder, without ending.
        by: ``sequence``, ``folder`` or ``frame``.

    Returns:
        Names of the groups, and sentences about sequences that are too long to be kept together.
    """
    if by == "frame":
        return list(paths), []
    if by == "folder":
        return [os.path.dirname(path) for path in paths], []
    ending = common_ending(paths)
    paths = [path.removesuffix(ending) for path in paths]
    groups = [sequence_of(path) for path in paths]
    notes = []
    if len(paths) > 1 and not ending and all(map(_ending, paths)):
        notes.append(
            f"all names hold a number and none ends in one, e.g. {paths[0]}: each frame counts as a sequence of its own"
        )
    for group, count in sorted(Counter(groups).items()):
        if count > 1 and count > HOLDS_TOO_MUCH * len(paths):
            members = sorted(
                (i for i, one in enumerate(groups) if one == group), key=lambda i: (number_of(paths[i]), paths[i])
            )
            length = max(1, round(len(paths) / BLOCKS))
            for place, i in enumerate(members):
                groups[i] = f"{group}{place // length}"
            notes.append(
                f"{count} of {len(paths)} frames have one name up to their number, e.g. {paths[members[0]]}: cut into"
                f" blocks of {length} consecutive frames, of which each is in one split"
            )
    return groups, notes


def share_out(
    groups: Sequence[str], classes: Sequence[Iterable[int]], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each frame: each class's frames in about the shares that are asked for, rare classes first.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML 2011) over whole groups. Ties are broken by SHA-256 of
    seed and group.

    Args:
        groups: the group of each frame.
        classes: the classes that are in each frame.
        shares: split -> its share; they sum to 1.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    luck = {
        group: hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogateescape")).hexdigest() for group in members
    }
    holds = {group: Counter(one for i in inside for one in classes[i]) for group, inside in members.items()}
    totals: Counter[int] = Counter()
    for counted in holds.values():
        totals.update(counted)
    wanted = {split: {one: share * count for one, count in totals.items()} for split, share in shares.items()}
    room = {split: share * len(groups) for split, share in shares.items()}
    left, chosen = set(members), {}
    while left:
        remaining: Counter[int] = Counter()
        for group in left:
            remaining.update(holds[group])
        rarest = min(remaining, key=lambda one: (remaining[one], one), default=None)
        these = [group for group in left if rarest is None or holds[group][rarest]]
        for group in sorted(these, key=lambda group: (-len(members[group]), luck[group])):
            split = max(
                shares,
                key=lambda split: (
                    wanted[split].get(rarest, 0.0) if rarest is not None else 0.0,
                    room[split],
                    luck[group] + split,
                ),
            )
            chosen[group] = split
            left.discard(group)
            room[split] -= len(members[group])
            for one, count in holds[group].items():
                wanted[split][one] -= count
    for split, share in shares.items():  # of few groups a small share may have got none
        taken = Counter(chosen.values())
        if share > 0 and not taken[split] and (most := max(shares, key=lambda one: taken[one])) and taken[most] > 1:
            chosen[min((g for g in chosen if chosen[g] == most), key=lambda g: (len(members[g]), luck[g]))] = split
    return [chosen[group] for group in groups]


def digest_of(paths: Sequence[str]) -> str:
    """Of the names of all frames that are shared out: with others among them, all could come into other splits."""
    about = [*sorted(paths), *filter(None, [common_ending(paths)])]  # it was part of a sequence's name once
    return hashlib.sha256("\0".join(about).encode("utf-8", "surrogateescape")).hexdigest()[:16]
