import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY
from PIL import Image

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.guidance import Guidance
from lit_diffusion.train.callbacks.checkpointing import AtomicCheckpointIO
from lit_diffusion.train.callbacks.ema import EMA, averaged
from lit_diffusion.train.callbacks.progress import Perf
from lit_diffusion.train.module import LitDiffusion
from lit_diffusion.train.run import train


class Trainer:
    global_step = 0

    def __init__(self, *callbacks):
        self.callbacks = list(callbacks)


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.index = torch.nn.Parameter(torch.arange(2), requires_grad=False)
        self.register_buffer("running", torch.zeros(2))


def trained_ema(decay=0.9, steps=5):
    """An EMA that has seen weights 1, 2, ..., steps."""
    ema, module = EMA(decay), Module()
    trainer = Trainer(ema)
    ema.on_train_start(trainer, module)
    for step in range(1, steps + 1):
        trainer.global_step = step
        module.weight.data.fill_(step)
        module.running.fill_(10 * step)
        ema.on_train_batch_end(trainer, module, None, None, 0)
        ema.on_train_batch_end(trainer, module, None, None, 1)  # a batch without an optimizer step
    return trainer, ema, module


def test_ema_is_the_formula_with_its_warm_up():
    _, ema, _ = trained_ema(decay=0.3, steps=5)
    expected = 0.0
    for n in range(1, 6):
        d = min(0.3, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * n
    torch.testing.assert_close(ema.average["weight"], torch.full((2,), expected))
    assert list(ema.average) == ["weight", "running"]  # no integers
    torch.testing.assert_close(ema.average["running"], 10 * ema.average["weight"])


def test_ema_is_applied_and_taken_back_even_after_an_error():
    trainer, ema, module = trained_ema()
    average = ema.average["weight"].clone()
    module.train()
    with pytest.raises(RuntimeError), averaged(trainer, module):
        assert torch.equal(module.weight, average)
        assert not module.training
        raise RuntimeError
    assert module.weight.tolist() == [5, 5]
    assert torch.equal(ema.average["weight"], average)
    assert module.training


def test_ema_keeps_the_average_in_float32_through_validations_in_half_precision():
    ema, module = EMA(0.9), Module().to(torch.bfloat16)
    trainer = Trainer(ema)
    ema.on_train_start(trainer, module)
    ema.average["weight"].fill_(1.001)
    with averaged(trainer, module):
        pass
    assert ema.average["weight"].tolist() == torch.full((2,), 1.001).tolist()


def test_ema_swaps_tied_weights_once():
    trainer, ema, module = trained_ema(steps=0)
    module.twin = module.weight
    ema.average = {}
    ema.on_train_start(trainer, module)
    trainer.global_step = 1
    module.weight.data.fill_(7)
    ema.on_train_batch_end(trainer, module, None, None, 0)
    with ema.applied(module):
        assert 0 < module.weight[0] < 7
    assert module.weight.tolist() == [7, 7]


def test_ema_is_used_in_validation_and_left_by_an_exception():
    trainer, ema, module = trained_ema()
    ema.on_validation_start(trainer, module)
    with averaged(trainer, module):
        pass
    assert module.weight[0] != 5  # still validating
    ema.on_exception(trainer, module, RuntimeError())
    assert module.weight[0] == 5
    ema.on_validation_end(trainer, module)
    assert module.weight[0] == 5


def test_without_ema_the_weights_stay():
    module = Module()
    with averaged(Trainer(), module):
        assert module.weight.tolist() == [0, 0]


def test_validation_reports_the_average(config):
    """With decay 0 the average is the weights after each step, so both report the same; 0.9999 differs."""
    options = ["debug=limit", "optimizer.lr=1e-2", "callbacks.samples=null", *TINY["small_unet"]]
    raw = train(config(*options, "callbacks.ema=null"))[0]["val/loss"]
    assert train(config(*options, "callbacks.ema.decay=0"))[0]["val/loss"] == pytest.approx(raw, rel=1e-6)
    assert train(config(*options))[0]["val/loss"] != pytest.approx(raw, rel=1e-6)


def test_checkpoints_replace_each_other_whole(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "deep" / "last.ckpt"
    io.save_checkpoint({"n": 1, "state_dict": {}}, path)

    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("can't be saved")

    with pytest.raises(RuntimeError):
        io.save_checkpoint({"n": Unpicklable(), "state_dict": {}}, path)
    assert torch.load(path)["n"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]  # nothing of the failed one is left
    io.save_checkpoint({"n": 2, "state_dict": {}}, path)
    assert torch.load(path)["n"] == 2
    with pytest.raises(ConfigError, match="after step 7 w isn't finite"):
        io.save_checkpoint({"global_step": 7, "state_dict": {"w": torch.tensor([1, torch.nan])}}, path)
    assert torch.load(path)["n"] == 2
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_gradient_norm_is_that_of_the_whole_gradient_before_clipping(config):
    norms = []

    def step(self, trainer, pl_module, optimizer):
        original(self, trainer, pl_module, optimizer)
        squares = sum(float(p.grad.square().sum()) for p in pl_module.parameters() if p.grad is not None)
        norms.append((float(trainer.callback_metrics["train/grad_norm"]), squares**0.5))

    original = Perf.on_before_optimizer_step
    options = ["debug=limit", "trainer.gradient_clip_val=1e-3", "callbacks.samples=null"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Perf, "on_before_optimizer_step", step)
        train(config(*options, *TINY["attn_unet"], "model=attn_unet"))
    assert len(norms) == 3
    assert all(logged == pytest.approx(true, rel=1e-5) and true > 1e-3 for logged, true in norms)


def test_a_step_has_randomness_of_its_own_for_networks_that_draw(config):
    """Dropout's stream is a function of (seed, step): the same in two runs, different in two steps."""
    drawn = []

    def step(self, batch, batch_idx):
        drawn.append(float(torch.rand(())))
        return original(self, batch, batch_idx)

    original = LitDiffusion.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LitDiffusion, "training_step", step)
        for _ in range(2):
            train(config("debug=limit", "callbacks.samples=null", *TINY["small_unet"]))
            torch.rand(7)
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3


def test_pictures_come_after_the_epochs_asked_for_and_at_the_end(config, tmp_path):
    options = ["debug=limit", "trainer.max_epochs=4", "callbacks.samples.trajectory_n=0"]
    train(config(*options, "callbacks.samples.epochs=[1,3]", *TINY["small_unet"]))
    drawn = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert drawn == [f"grid_step_{step:06d}.png" for step in (3, 9, 12)]


def test_a_grid_stacks_its_seeds(config, tmp_path):
    def grid(seeds):
        options = ["debug=limit", "optimizer.lr=0", f"callbacks.samples.seeds={seeds}"]
        _, objects = train(config(*options, *TINY["small_unet"]))
        folder = Path(objects["trainer"].default_root_dir)
        return np.asarray(Image.open(folder / "samples" / "grid_step_000003.png"))

    both, first, second = grid("[7,8]"), grid("[7]"), grid("[8]")
    assert np.array_equal(both, np.concatenate([first[:-2], second]))  # two pixels of frame are shared
    assert not np.array_equal(first, second)


def test_denoised_shows_validation_images_their_noise_and_the_estimate(config, tmp_path):
    options = ["experiment=denoise_sigma05", "debug=limit", "callbacks.samples.n=3", "model.width=4"]
    _, objects = train(config(*options, "callbacks.samples.times=[0.5,1.0]"))
    shown = np.asarray(Image.open(tmp_path / "samples" / "denoised_step_000003.png").convert("L"))
    assert shown.shape == (2 + 5 * 30, 2 + 3 * 30)  # x; x_t and estimate at each time
    clean = objects["datamodule"].val_set[0][0]
    assert np.array_equal(shown[2:30, 2:30], clean[0])
    mild, strong = (np.abs(shown[row : row + 28, 2:30] - clean[0].numpy().astype(float)) for row in (32, 92))
    assert 0 < mild.mean() < strong.mean()


def test_the_best_checkpoint_is_of_the_lowest_validation_loss(config, tmp_path):
    """Of a run that gets worse, with a learning rate far too high, and then better or not."""
    options = ["debug=limit", "trainer.max_epochs=3", "callbacks.samples=null", "callbacks.ema=null"]
    train(config(*options, "optimizer.lr=0.3", *TINY["small_unet"]))
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert len({*losses}) == 3
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 3 * (losses.index(min(losses)) + 1)


def test_grids_and_scores_are_guided_alike(config, monkeypatch):
    """By the config's one node."""
    seen = {}
    for name in ("train.callbacks.samples", "evaluate.callback"):

        def generate(sampler, denoiser, indices, shape, *args, name=name, **options):
            seen[name] = (sampler, denoiser.guidance)
            return torch.zeros(len(indices), *shape)

        monkeypatch.setattr(f"lit_diffusion.{name}.generate", generate)
    options = ["experiment=quickstart", "callbacks=evaluation", "debug=limit", *TINY["small_unet"]]
    scored = ["callbacks.evaluation.n=8", "data.source._target_=digits.Mnist", "data.val_size=60"]
    train(config(*options, *scored, "guidance.scale=3"))
    (drawn_by, drawn), (scored_by, scored) = seen.values()
    assert drawn == scored == Guidance(3, (0.2, 0.8), 0.0)
    assert vars(drawn_by) == vars(scored_by)
