import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.data.similar import BITS, DISTANCE, Seen, distance, fingerprint, first_of_each, near_duplicates


def scene(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """Smooth random shapes, as of a photograph."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def test_the_same_scene_is_near_and_others_are_far() -> None:
    frame = scene(0)
    own = fingerprint(frame)
    assert 0 <= own < 2**BITS
    for changed in (
        cv2.imdecode(cv2.imencode(".jpg", frame, [1, 60])[1], cv2.IMREAD_COLOR),
        cv2.resize(frame, (60, 45), interpolation=cv2.INTER_AREA),
        np.clip(frame.astype(int) + 6, 0, 255).astype(np.uint8),
    ):
        assert distance(own, fingerprint(changed)) <= DISTANCE
    others = [distance(own, fingerprint(scene(seed))) for seed in range(1, 30)]
    assert min(others) > 2 * DISTANCE
    assert fingerprint(np.zeros((40, 50, 3), np.uint8)) == fingerprint(np.full((70, 30, 3), 200, np.uint8)) == 0
    assert fingerprint(frame[..., 0]) < 2**BITS


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9))
def test_what_is_near_is_what_comparing_all_finds(seed: int, within: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, 4)
    hashes = [
        int(centres[rng.integers(4)]) ^ sum(1 << int(bit) for bit in set(rng.integers(0, 64, rng.integers(0, 8))))
        for _ in range(40)
    ]
    known, asked = hashes[:25], hashes[25:]
    expected = []
    for position, one in enumerate(asked):
        nearest = min((distance(one, other), at) for at, other in enumerate(known))
        if nearest[0] <= within:
            expected.append((nearest[1], position))
    assert near_duplicates(known, asked, within) == expected
    kept: list[int] = []
    for position, one in enumerate(hashes):
        if all(distance(one, hashes[at]) > within for at in kept):
            kept.append(position)
    assert first_of_each(hashes, within) == kept


def test_a_distance_that_is_none() -> None:
    for within in (-1, 64):
        with pytest.raises(ValueError, match=r"the distance is -?\d+; expected 0 to 63"):
            Seen(within)
