"""What a GPU does as the CPU does, or nearly so: ``make test-gpu``. Skipped where there is none."""

import lightning as L
import pytest
import torch
from commands import DIGITS, ROOT, TINY, run_python
from hydra.utils import instantiate

from lit_diffusion import DDIM, generate
from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.train.callbacks.ema import EMA
from lit_diffusion.train.run import build_module, build_trainer, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]
SMALL = ["debug=limit", "trainer=gpu", "model.num_classes=10", *TINY["small_unet"]]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_every_precision_trains(config, precision):
    metrics, objects = train(config(*SMALL, f"trainer.precision={precision}"))
    weights = list(objects["module"].parameters())
    assert 0 < metrics["val/loss"] < 2
    assert all(p.isfinite().all() for p in weights)


def test_auto_is_bfloat16_where_the_card_has_it(config):
    _, objects = train(config(*SMALL, "trainer.precision=auto"))
    expected = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    assert objects["trainer"].precision == expected


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_the_straight_one_within_rounding(straight_and_resumed, optimizer):
    """Sums on a GPU depend on the order in which its threads come."""
    ours, theirs = straight_and_resumed(*SMALL, f"optimizer={optimizer}")
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_an_image_of_a_seed_is_that_of_the_cpu():
    """Without TensorFloat-32; the noise is drawn on the CPU for every device."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    denoiser = load_denoiser(read_checkpoint("mnist"))
    y = torch.arange(4)
    sampler = DDIM(steps=10, clip=True, eta=0.0)
    there = generate(sampler, denoiser.cuda(), range(4), (1, 28, 28), 0, y, "cuda").cpu()
    here = generate(sampler, denoiser.cpu(), range(4), (1, 28, 28), 0, y)
    assert (there - here).abs().max() < 0.02


def test_images_and_average_are_on_the_device(config):
    _, objects = train(config(*SMALL))
    ema = next(c for c in objects["trainer"].callbacks if isinstance(c, EMA))
    assert objects["datamodule"].train_set.images.device.type == "cuda"
    assert all(average.device.type == "cuda" for average in ema.average.values())


@pytest.mark.parametrize("mode", ["true", "reduce-overhead"])
def test_a_compiled_network_learns_the_same(config, mode):
    """reduce-overhead replays CUDA graphs; guided grids are drawn through them too."""
    options = [*SMALL, "guidance.scale=2", "tf32=false"]
    plain, _ = train(config(*options))
    compiled, _ = train(config(*options, f"compile={mode}"))
    assert compiled["val/loss"] == pytest.approx(plain["val/loss"], rel=1e-3)


class NoWaiting(L.Callback):
    """Raises if the host waits for the device within a step, once the first steps are over."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if batch_idx >= 2 else "default")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("default")


def test_the_host_does_not_wait_between_logs(config):
    cfg = config(*SMALL, "trainer.limit_train_batches=6", "logger=none", "callbacks.samples=null")
    module = build_module(cfg)
    trainer = build_trainer(cfg, callbacks=[EMA(), NoWaiting()], logger=False)
    trainer.fit(module, instantiate(cfg.data, _convert_="all"))
    assert trainer.global_step == 6


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
def test_two_devices(tmp_path):
    options = [*DIGITS, "debug=limit", "trainer=ddp", "trainer.devices=2", *TINY["small_unet"]]
    result = run_python(str(ROOT / "train.py"), *options, "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
