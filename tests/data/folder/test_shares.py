from collections import Counter

import numpy as np
import pytest

from rdd_deploy.data.folder.shares import digest_of, groups_of, sequence_of, share_out

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("drive_a_0001", "drive_a_0002", True),
        ("drive_a_0001", "drive_b_0001", False),
        ("a/0001", "b/0001", False),
        ("a/0001", "a/0900", True),
        ("aachen_000000_000019", "aachen_000000_000020", True),
        ("aachen_000000_000019", "aachen_000001_000019", False),
        ("cat", "dog", False),
        ("img7_jpg.rf.0123456789abcdef0123456789abcdef", "img8_png.rf.ffffffffffffffffffffffffffffffff", True),
        ("bus_jpg.rf.0123456789abcdef0123456789abcdef", "bus_jpg.rf.ffffffffffffffffffffffffffffffff", True),
        ("bus_jpg.rf.0123456789abcdef0123456789abcdef", "car_jpg.rf.ffffffffffffffffffffffffffffffff", False),
    ],
)
def test_sequences(one: str, other: str, together: bool) -> None:
    assert (sequence_of(one) == sequence_of(other)) is together


def test_shares_of_every_class_and_whole_groups() -> None:
    random = np.random.default_rng(0)
    groups = [f"g{random.integers(0, 120)}" for _ in range(1000)]
    classes = [[c for c, share in enumerate((1.0, 0.5, 0.1, 0.04)) if random.random() < share] for _ in groups]
    assigned = share_out(groups, classes, SHARES, seed=3)
    for group in set(groups):
        assert len({split for split, one in zip(assigned, groups, strict=True) if one == group}) == 1
    for split, share in SHARES.items():
        assert abs(Counter(assigned)[split] / 1000 - share) < 0.05
        for c in range(4):
            have = sum(c in inside for inside in classes)
            got = sum(c in inside for inside, one in zip(classes, assigned, strict=True) if one == split)
            assert abs(got / have - share) < 0.12, (split, c)


def test_the_same_whatever_the_order_and_another_with_another_seed() -> None:
    groups = [f"g{i}" for i in range(60)]
    classes = [[i % 3] for i in range(60)]
    first = dict(zip(groups, share_out(groups, classes, SHARES, 0), strict=True))
    order = np.random.default_rng(1).permutation(60)
    again = share_out([groups[i] for i in order], [classes[i] for i in order], SHARES, 0)
    assert dict(zip([groups[i] for i in order], again, strict=True)) == first
    assert share_out(groups, classes, SHARES, 1) != list(first.values())
    known = share_out(["a", "b", "c", "d", "e"], [[0]] * 5, {"train": 0.6, "val": 0.4}, 0)
    assert known == ["val", "train", "val", "train", "train"], "a split that changes would put training frames into val"


def test_names_that_are_not_utf8() -> None:
    names = ["b\udce4d", "b\udce5d"]
    assert sorted(share_out(names, [[0], [0]], {"train": 0.5, "val": 0.5}, 0)) == ["train", "val"]
    assert digest_of(names) != digest_of(names[:1])


def test_what_all_names_end_in_is_no_part_of_a_sequence() -> None:
    paths = [f"drive{drive}_{frame:04}_cam" for drive in range(3) for frame in range(5)]
    groups, notes = groups_of(paths, "sequence")
    assert len(set(groups)) == 3
    assert notes == []
    assert digest_of(paths) != digest_of([path.removesuffix("_cam") for path in paths])
    mixed = [path.replace("_cam", "_left" if i % 2 else "_right") for i, path in enumerate(paths)]
    groups, notes = groups_of(mixed, "sequence")
    assert len(set(groups)) == len(mixed)
    assert notes == [
        "all names hold a number and none ends in one, e.g. drive0_0000_right: each frame counts as a sequence of its own"
    ]


def test_a_hash_of_roboflows_is_no_ending() -> None:
    paths = [f"img{i}_jpg.rf.0123456789abcde{letter}" for i, letter in enumerate("abab")]
    assert groups_of(paths, "sequence")[1] == [
        "4 of 4 frames have one name up to their number, e.g. img0_jpg.rf.0123456789abcdea: cut into blocks of 1"
        " consecutive frames, of which each is in one split"
    ]


def test_few_groups_leave_no_split_empty() -> None:
    assert sorted(share_out(["a", "b"], [[0], [0]], {"train": 0.9, "val": 0.1}, 0)) == ["train", "val"]
    assert set(share_out(["a"] * 3, [[]] * 3, {"train": 0.9, "val": 0.1}, 0)) == {"train"}


def test_one_long_sequence_is_cut_into_blocks() -> None:
    paths = [f"drive_{i:04}" for i in range(100)]
    groups, notes = groups_of(paths, "sequence")
    assert len(set(groups)) == 20
    assert all(groups[i] == groups[i - i % 5] for i in range(100))
    assert "100 of 100 frames have one name up to their number, e.g. drive_0000: cut into blocks of 5" in notes[0]
    assert groups_of(paths, "frame") == (paths, [])
    assert groups_of(["a/1", "b/1"], "folder") == (["a", "b"], [])
