import subprocess
import sys

import pytest
from commands import ROOT
from mutants import MUTANTS

PARTS = 3  # processes: to import what the tests need takes longer than most of them


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_what_a_fault_replaces_stands_once_in_its_file(name):
    mutant = MUTANTS[name]
    text = (ROOT / "src" / "lit_diffusion" / mutant.file).read_text()
    assert text.count(mutant.right) == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_planted_faults_turn_the_tests_red_and_a_harmless_change_does_not(part):
    names = sorted(MUTANTS, key=lambda name: MUTANTS[name].found_by)[part::PARTS]
    command = [sys.executable, str(ROOT / "tests" / "tools" / "mutants.py"), *names]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("found by") == len(names)
