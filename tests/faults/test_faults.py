"""Faults injected for real into running commands: full disks, lost folders, signals."""

from pathlib import Path

import pytest
import torch
from commands import DIGITS, TINY, TRUST
from forked import run_script
from omegaconf import OmegaConf

from lit_diffusion.common.files import UNFINISHED

TRAIN = [
    *DIGITS,
    *TINY["small_unet"],
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
    "data.batch_size=32",  # 8 batches an epoch
    "data.eval_batch_size=30",
    "callbacks.samples.n=4",
    "callbacks.last.every_n_train_steps=4",
    "sampler.steps=2",
    "logger=csv",
]

# A command line with a fault: argv[1] is PLACE:COUNT:FAULT, and the fault comes when the place is reached
# for the so manieth time.
FAULTY = """
import os, resource, shutil, signal, sys
place, count, fault = sys.argv.pop(1).split(":")
verb = sys.argv.pop(1)

def strike():
    if fault == "disk_full":  # no file may grow beyond so many bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    elif fault == "folder_lost":
        shutil.rmtree("run/checkpoints")
        open("run/checkpoints", "w").close()
    else:
        for name in fault.split("+"):
            os.kill(os.getpid(), int(getattr(signal, name)))

from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.common.loggers import MetricsWriter
from lit_diffusion.evaluate.evaluator import Evaluator
from lit_diffusion.train.callbacks.checkpointing import AtomicCheckpointIO
from lit_diffusion.train.callbacks.samples import Samples
from lit_diffusion.train.module import LitDiffusion
owner, name = {
    "step": (LitDiffusion, "training_step"),
    "validation": (LitDiffusion, "validation_step"),
    "save": (AtomicCheckpointIO, "save_checkpoint"),
    "row": (MetricsWriter, "save"),
    "grid": (Samples, "work"),
    "sampling": (DDIM, "step"),
    "scores": (Evaluator, "scores"),
}[place]
original, reached = getattr(owner, name), []

def struck(*arguments, **options):
    reached.append(1)
    if len(reached) == int(count):
        strike()
    return original(*arguments, **options)

setattr(owner, name, struck)
from lit_diffusion.common.cli import command
command(verb)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "faulty.py").write_text(FAULTY)
    return folder


@pytest.fixture
def train(folder):
    """train(name, *overrides, fault=...): a training in the folder of this name."""

    def trained(name: str, *overrides: str, fault: str = "step:0:none"):
        where = folder / name
        where.mkdir()
        command = ["../faulty.py", fault, "train", *TRAIN, *overrides, "hydra.run.dir=run"]
        return run_script(*command, cwd=where), where / "run" / "checkpoints" / "last.ckpt"

    return trained


def read(path: Path) -> dict:
    saved = torch.load(path, weights_only=True)
    keys = ("state_dict", "optimizer_states", "train_loss", "global_step")
    return {key: saved[key] for key in keys} | {"ema": saved["callbacks"]["ema"]}


@pytest.fixture(scope="module")
def straight(folder):
    """The end of the training that nothing disturbed."""
    result = run_script("faulty.py", "step:0:none", "train", *TRAIN, "hydra.run.dir=straight", cwd=folder)
    assert result.returncode == 0, result.stderr
    return read(folder / "straight" / "checkpoints" / "last.ckpt")


def goes_on(train, name: str, ckpt: Path, straight: dict) -> None:
    """The run, resumed, ends where the one that nothing disturbed does."""
    result, last = train(f"{name}-resumed", f"ckpt={ckpt}")
    assert result.returncode == 0, result.stderr
    torch.testing.assert_close(read(last), straight, atol=0, rtol=0)


FULL = "error: File too large"


@pytest.mark.parametrize(
    "fault, status, says, step",
    [
        ("save:3:disk_full", 1, FULL, 4),  # the second is best.ckpt's
        ("grid:1:disk_full", 1, FULL, 4),
        ("row:5:disk_full", 1, FULL, 4),
        ("save:3:folder_lost", 1, "error: ", None),
        ("step:7:SIGTERM", 143, "stopped; to go on", 7),
        ("step:7:SIGINT", 130, "stopped; to go on", 7),
        ("step:7:SIGINT+SIGINT", 130, "stopped; to go on", 4),
        ("step:7:SIGTERM+SIGINT", 130, "stopped; to go on", 4),
        ("validation:1:SIGTERM", 143, "stopped; to go on", 4),
        ("validation:3:SIGINT", 130, "stopped; to go on", 12),
        ("grid:1:SIGTERM", 143, "stopped; to go on", 4),
        ("grid:2:SIGINT", 130, "stopped; to go on", 12),
    ],
)
def test_a_training_says_what_stopped_it_and_goes_on(train, straight, fault, status, says, step):
    """In one sentence; the last good checkpoint stays whole, and nothing half-written beside it."""
    result, last = train(fault, fault=fault)
    assert result.returncode == status, result.stderr
    assert says in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert not list(last.parents[1].rglob(f"*{UNFINISHED}"))
    if step is None:
        assert not last.is_file()
        return
    assert read(last)["global_step"] == step
    goes_on(train, fault, last, straight)


@pytest.fixture
def faulty(folder):
    """faulty(verb, fault, *overrides): a command that meets a fault, what it left, and the same one again."""

    def made(verb: str, fault: str, *overrides: str):
        where = folder / f"{verb}-{fault}"
        where.mkdir()
        command = [verb, "out=out", f"hydra.run.dir={verb}", *overrides]
        first = run_script("../faulty.py", fault, *command, cwd=where)
        left = [path.name for path in (where / "out").rglob("*")]
        again = run_script("../faulty.py", "step:0:none", *command, cwd=where)
        assert "Traceback" not in first.stderr
        assert not [name for name in left if name.endswith(UNFINISHED)]
        assert again.returncode == 0, again.stderr
        return first, left, where / "out"

    return made


@pytest.mark.parametrize("fault, status", [("SIGTERM", 143), ("SIGINT", 130), ("disk_full", 1)])
def test_a_sampling_that_was_stopped_goes_on(faulty, trained, fault, status):
    options = [f"ckpt={trained()}", *TRUST, "n=6", "batch_size=2", "sampler=ddim", "steps=2", "gif=false"]
    first, left, out = faulty("sample", f"sampling:3:{fault}", *options)  # of the second batch of three
    assert first.returncode == status, first.stderr
    assert ("error: File too large" if status == 1 else "stopped with 2 of 6 images") in first.stderr
    assert "grid.png" not in left
    assert (out / "grid.png").is_file()


MNIST = "data.source._target_=digits.Mnist"  # which has feature networks
EVALUATION = [
    "n=12",
    "steps=2",
    "cas_images=0",
    "bits_n=0",
    "second=false",
    "memorisation=false",
    "logger=none",
]


@pytest.mark.parametrize("place", ["sampling:1", "scores:1"])
@pytest.mark.parametrize("fault, status", [("SIGTERM", 143), ("disk_full", 1)])
def test_an_evaluation_that_was_stopped_goes_on(faulty, trained, place, fault, status):
    options = [f"ckpt={trained(MNIST)}", *TRUST, *EVALUATION, "sampler=ddim"]
    first, left, out = faulty("evaluate", f"{place}:{fault}", *options)
    assert first.returncode == status, first.stderr
    assert "evaluation.json" not in left
    assert (out / "evaluation.json").is_file()


@pytest.mark.parametrize(
    "place",
    ["step:3", *(pytest.param(place, marks=pytest.mark.slow) for place in ("sampling:4", "scores:2"))],
)
def test_a_study_that_was_stopped_goes_on(faulty, tmp_path, place):
    """In a training, in its pictures, in the scores of the second run. Planning samples three steps."""
    own = {
        "train": [*TRAIN, MNIST, "debug=limit", "sampler=ddim", "model.num_classes=10"],
        "evaluate": EVALUATION,
        "baseline": "flow",
        "scores": ["fid"],
        "choices": {"flow": None, "cosine": {"train": ["schedule=cosine"]}},
    }
    (tmp_path / "study").mkdir()
    OmegaConf.save(own, tmp_path / "study" / "small.yaml")
    options = ["study=small", "seeds=[0]", f"--config-dir={tmp_path}"]
    first, left, out = faulty("study", f"{place}:SIGTERM", *options)
    assert first.returncode == 143, first.stderr
    assert "the same command with out=out goes on" in first.stderr
    assert "study.md" not in left
    assert (out / "study.md").is_file()
