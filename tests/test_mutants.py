import pytest
from mutants import HARMLESS, MUTANTS, found


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_turns_the_tests_red(name):
    assert found(MUTANTS[name])


def test_a_harmless_change_leaves_them_green():
    assert not found(HARMLESS)
