import subprocess
import sys

import pytest
from commands import ROOT
from mutants import MUTANTS

FILES = sorted({mutant.found_by.partition("::")[0] for mutant in MUTANTS.values()})


@pytest.mark.parametrize("file", FILES)
def test_planted_faults_turn_the_tests_red_and_a_harmless_change_does_not(file):
    names = [name for name, mutant in MUTANTS.items() if mutant.found_by.startswith(file)]
    command = [sys.executable, str(ROOT / "tests" / "tools" / "mutants.py"), *names]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("found by") == len(names)
