"""Hydra's launchers and sweepers, each with a sweep of its own."""

from pathlib import Path

import pytest
import torch
from commands import DIGITS, ROOT, TINY, run_python

pytestmark = pytest.mark.slow  # each starts processes of its own

SMALL = [*DIGITS, *TINY["small_unet"], "debug=limit", "callbacks.samples=null", "logger=csv"]
GRID = ["schedule=linear,flow", "seed=0,1"]


def sweep(folder: Path, *options: str) -> list[dict[str, torch.Tensor]]:
    """Return the weights that each job of a multirun ended with."""
    command = [str(ROOT / "train.py"), "-m", *SMALL, *options, f"hydra.sweep.dir={folder.name}"]
    result = run_python(*command, cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    ends = sorted(folder.glob("*/checkpoints/last.ckpt"))
    return [torch.load(path, weights_only=True)["state_dict"] for path in ends]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The four jobs one after the other, and the last one of them alone."""
    folder = tmp_path_factory.mktemp("sweeps")
    jobs = sweep(folder / "plain", *GRID)
    (alone,) = sweep(folder / "alone", "schedule=flow", "seed=1")
    torch.testing.assert_close(jobs[3], alone, atol=0, rtol=0)
    return jobs


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
    ],
)
def test_a_launcher_gives_the_bits_of_the_plain_multirun(tmp_path, plain, launcher):
    jobs = sweep(tmp_path / "sweep", *launcher, *GRID)
    torch.testing.assert_close(jobs, plain, atol=0, rtol=0)


def test_optuna_gives_the_bits_of_the_plain_multirun(tmp_path, plain):
    """Its grid, whatever its order."""
    grid = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=4"]
    jobs = sweep(
        tmp_path / "sweep", *grid, "hydra.sweeper.n_jobs=1", "schedule=choice(linear,flow)", "seed=0,1"
    )
    assert len(jobs) == 4
    for job in jobs:
        assert any(all(torch.equal(job[name], other[name]) for name in job) for other in plain)
