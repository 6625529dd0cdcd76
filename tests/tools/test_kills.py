"""Ten of the kills of ``make kill-test``."""

import random

import pytest
from kills import different, end, killed, undisturbed


@pytest.mark.parametrize("name", ["accumulated", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_killed_at_random_and_resumed_is_the_straight_run(tmp_path, name):
    """Five times, at moments of this seed; how far a run then is depends on the machine."""
    seconds, expected = undisturbed(tmp_path, name)
    draw = random.Random(1)
    for number in range(5):
        _, parts = killed(tmp_path, name, number, seconds, draw)
        assert different(expected, end(tmp_path, *parts)) is None, parts
