"""Hydra's launchers and sweepers, each with a sweep of its own."""

import re
import signal
from pathlib import Path

import optuna
import pytest
import torch
from commands import DIGITS, ROOT, TINY, run_python
from forked import run_script
from omegaconf import OmegaConf

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


# The command line, whose trainings return what is lowest at a rate of 3e-3 and a label dropout of 0.2; with
# DIE, killed in its twelfth.
PLANTED = """
import math, os, signal
import lit_diffusion.train.run
from lit_diffusion.common.cli import command
trials = []
def main(cfg):
    trials.append(cfg)
    if len(trials) == 12 and os.environ.get("DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
    rate, dropout = cfg.optimizer.lr, cfg.module.label_dropout
    return math.log10(rate / 3e-3) ** 2 + (5 * (dropout - 0.2)) ** 2
lit_diffusion.train.run.main = main
command("train")
"""
SPACE = ["optimizer.lr=tag(log,interval(1e-5,1e-1))", "module.label_dropout=interval(0.0,0.9)"]


def search(folder: Path, kind: str, seed: int, *options: str, **environment: str):
    (folder / "planted.py").write_text(PLANTED)
    sweeper = ["hydra/sweeper=optuna", f"hydra/sweeper/sampler={kind}", f"hydra.sweeper.sampler.seed={seed}"]
    trials = ["hydra.sweeper.n_trials=30", "hydra.sweeper.n_jobs=1", f"hydra.sweep.dir={kind}{seed}"]
    return run_script("planted.py", "-m", *sweeper, *trials, *SPACE, *options, cwd=folder, **environment)


def best_of(folder: Path, kind: str, seed: int) -> float:
    """The lowest value that 30 trials of a search found."""
    result = search(folder, kind, seed)
    assert result.returncode == 0, result.stderr
    return OmegaConf.load(folder / f"{kind}{seed}" / "optimization_results.yaml").best_value


def test_tpe_finds_a_planted_optimum_better_than_chance(tmp_path):
    tpe, random = ([best_of(tmp_path, kind, seed) for seed in range(5)] for kind in ("tpe", "random"))
    assert sum(tpe) < sum(random) / 2


def test_a_search_goes_on_from_its_file(tmp_path):
    """Killed in its twelfth trial: the next command's thirty begin with what eleven have shown."""
    storage = ["hydra.sweeper.storage=sqlite:///search.db", "hydra.sweeper.study_name=planted"]
    killed = search(tmp_path, "tpe", 0, *storage, DIE="1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = search(tmp_path, "tpe", 1, *storage)
    assert result.returncode == 0, result.stderr
    study = optuna.load_study(study_name="planted", storage=f"sqlite:///{tmp_path}/search.db")
    done = [trial for trial in study.trials if trial.state.is_finished()]
    assert len(done) == 41
    best = OmegaConf.load(tmp_path / "tpe1" / "optimization_results.yaml").best_value
    assert best == min(trial.value for trial in done)


def test_the_command_of_wandbs_agent(tmp_path):
    """As its server would have it: the file in docs/sweeps.md, with the first of its values."""
    page = (ROOT / "docs" / "sweeps.md").read_text()
    listing = re.search(r"```yaml\n# sweep.yaml\n(.*?)```", page, re.DOTALL)
    asked = OmegaConf.to_container(OmegaConf.create(listing[1]))
    values = {key: value.get("min") or value["values"][0] for key, value in asked["parameters"].items()}
    words = [word for word in asked["command"] if "=" in word] + [f"{k}={v}" for k, v in values.items()]
    assert asked["command"][1:3] == ["python", "${program}"]
    result = run_python(str(ROOT / asked["program"]), *words, *SMALL, "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["optimizer"]["lr"] == 1e-4
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as file:
        assert asked["metric"]["name"] in file.readline()


def test_processes_share_a_study_through_a_launcher(tmp_path):
    """Two workers, each run once, and the same table."""
    (tmp_path / "conf" / "study").mkdir(parents=True)
    few = ["n=12", "steps=2", "cas_images=0", "bits_n=0", "memorisation=false", "second=false", "logger=none"]
    choices = {"plain": None, "linear": {"train": ["schedule=linear"]}}
    small = [option.replace("digits.Digits", "digits.Mnist") for option in SMALL]
    study = {"train": small, "evaluate": few, "baseline": "plain", "scores": ["fid"], "choices": choices}
    OmegaConf.save(study, tmp_path / "conf" / "study" / "small.yaml")
    command = [
        "-m",
        "lit_diffusion.study",
        "small",
        "seeds=[0,1]",
        "-m",
        "worker=0,1",
        "hydra/launcher=joblib",
    ]
    folders = [f"hydra.searchpath=[file://{tmp_path}/conf]", f"out={tmp_path}/study", "hydra.sweep.dir=sweep"]
    result = run_python(*command, "hydra.launcher.n_jobs=2", *folders, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    said = (tmp_path / "study" / "study.log").read_text()
    assert (said.count(" parameters"), said.count("4 of 4: ")) == (4, 2)
