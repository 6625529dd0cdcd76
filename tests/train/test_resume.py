"""A run killed at any moment and resumed ends, bit for bit, where the straight run ends."""

import signal
from pathlib import Path

import pytest
import torch
from commands import DIGITS, TINY
from forked import run_script

OPTIONS = [
    *DIGITS,
    *TINY["small_unet"],
    "model.num_classes=10",
    "trainer=cpu",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=2",
    "data.batch_size=32",  # 8 batches an epoch
    "data.eval_batch_size=30",
    "optimizer.lr=1e-2",
    "lr_scheduler=warmup_cosine",
    "times=importance",  # these learn too
    "times.bins=10",
    "weighting=learned",
    "callbacks.samples.n=4",
    "callbacks.last.every_n_train_steps=5",
    "sampler.steps=2",
    "logger=csv",
]
ACCUMULATED = ["trainer.accumulate_grad_batches=2", "trainer.max_epochs=2"]

# Runs the command line with a fault planted: argv[1] says where the process kills itself.
DYING = """
import os, signal, sys
place, at = sys.argv.pop(1).split(":")
import torch
from lit_diffusion.train.module import LitDiffusion
from lit_diffusion.train.callbacks import checkpointing
def die():
    signals = {"interrupt": signal.SIGINT, "sigterm": signal.SIGTERM}
    os.kill(os.getpid(), int(signals.get(place, signal.SIGKILL)))
if place in ("step", "sigterm"):
    forward = LitDiffusion.training_step
    def step(self, batch, batch_idx):
        if self.global_step == int(at): die()
        return forward(self, batch, batch_idx)
    LitDiffusion.training_step = step
if place == "interrupt":  # after the optimizer's step and before the average follows it
    from lit_diffusion.train.callbacks.ema import EMA
    follow = EMA.on_train_batch_end
    def step(self, trainer, *rest):
        if trainer.global_step == int(at): die()
        return follow(self, trainer, *rest)
    EMA.on_train_batch_end = step
if place == "validation":
    validate = LitDiffusion.validation_step
    def step(self, batch, batch_idx):
        if self.global_step == int(at): die()
        return validate(self, batch, batch_idx)
    LitDiffusion.validation_step = step
if place == "save":
    save, saves = torch.save, []
    def half(checkpoint, file):
        saves.append(1)
        if len(saves) < int(at): return save(checkpoint, file)
        file.write(b"PK" + bytes(5000))
        file.flush()
        die()
    checkpointing.torch.save = half
from lit_diffusion.common.cli import command
command("train")
"""


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """training(name, *overrides, die=place): a run in its own folder; its result and last checkpoint."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "dying.py").write_text(DYING)

    def trained(name: str, *overrides: str, die: str = "never:0"):
        result = run_script("dying.py", die, *OPTIONS, f"hydra.run.dir={name}", *overrides, cwd=folder)
        return result, folder / name / "checkpoints" / "last.ckpt"

    return trained


@pytest.fixture(scope="module")
def straight(training):
    """The end of a run that nothing disturbed."""
    result, last = training("straight")
    assert result.returncode == 0, result.stderr
    return ends(last)


def state(path: Path):
    """All that must be equal: weights, average, optimizer, learning rate."""
    saved = torch.load(path, weights_only=True)
    return {
        "weights": saved["state_dict"],
        "ema": saved["callbacks"]["ema"],
        "optimizer": saved["optimizer_states"][0]["state"],
        "scheduler": saved["lr_schedulers"][0]["last_epoch"],
        "step": saved["global_step"],
    }


def assert_same(one, other, where=""):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    else:
        assert one == other, where


def resume(training, name: str, ckpt: Path, *overrides: str):
    resumed, last = training(f"{name}-resumed", f"ckpt={ckpt}", *overrides)
    assert resumed.returncode == 0, resumed.stderr
    return ends(last)


def ends(last: Path):
    """What a run leaves: its last state and its best."""
    return {"last": state(last), "best": state(last.with_name("best.ckpt"))}


@pytest.mark.parametrize("place", ["step:6", "step:13", "step:8", "validation:16", "save:4"])
def test_killed_and_resumed_is_the_straight_run(training, straight, place):
    """In the first epoch, in the second, between two, in validation, and while a checkpoint is written."""
    died, ckpt = training(place, die=place)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert straight["last"]["step"] == 24
    assert 0 < state(ckpt)["step"] < 24
    if place.startswith("save"):
        assert list(ckpt.parent.glob("*.unfinished_by_lit_diffusion"))
    assert_same(resume(training, place, ckpt), straight)


@pytest.fixture(scope="module")
def accumulated(training):
    """The last checkpoint of a run that adds up the gradients of two batches, undisturbed."""
    result, last = training("accumulated", *ACCUMULATED)
    assert result.returncode == 0, result.stderr
    return last


@pytest.mark.parametrize("place", ["step:6", "save:3", "sigterm:6"])
def test_gradients_accumulated_over_batches(training, accumulated, place):
    died, ckpt = training(f"accumulated-{place}-died", *ACCUMULATED, die=place)
    assert died.returncode == (143 if "sigterm" in place else -signal.SIGKILL), died.stderr
    assert 0 < state(ckpt)["step"] < state(accumulated)["step"] == 8
    assert_same(resume(training, f"accumulated-{place}", ckpt, *ACCUMULATED), ends(accumulated))


def test_sigterm_saves_and_exits_with_143(training, straight):
    stopped, ckpt = training("stopped", die="sigterm:11")
    assert stopped.returncode == 143
    assert state(ckpt)["step"] == 12
    assert_same(resume(training, "stopped", ckpt), straight)


def test_an_interrupted_run_loses_no_step(training, straight):
    stopped, ckpt = training("interrupted", die="interrupt:13")
    assert stopped.returncode == 130
    assert state(ckpt)["step"] == 13
    assert_same(resume(training, "interrupted", ckpt), straight)


def test_the_best_checkpoint_resumes_too(training, straight):
    _, ckpt = training("short", die="step:19")
    assert_same(resume(training, "best", ckpt.with_name("best.ckpt")), straight)
