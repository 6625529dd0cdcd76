"""What speed costs and gains: ``make bench``, or ``make bench DEVICE=cuda``.

The two sides of a row take turns in one process, so that a machine whose speed drifts slows both. Printed is
a table for docs/speed.md: both medians, and the median of the ratios, pair by pair, with their middle half.
"""

import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from bench_commands import first_steps, helps, memory
from bench_data import data_rows, memory_of_a_large_set
from bench_means import means, sampling_rates
from bench_pairs import BATCH, Step, bare_step, config, in_turn, row, seconds
from diffusers import UNet2DModel
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tutorial1 import Tutorial1UNet, same_weights, training_step

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common.images import grid, save_png
from lit_diffusion.common.log import silence_warnings
from lit_diffusion.common.precision import fastest_precision
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.generate import generate
from lit_diffusion.train.module import LitDiffusion
from lit_diffusion.train.run import build_loggers, build_module, build_trainer

NETWORKS = ("small_unet", "attn_unet", "convnext_unet", "fc_unet")


def main(device: torch.device) -> None:
    """Print the table."""
    silence_warnings()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.cpu.get_capabilities()["cpu_name"]
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}, {name}\n")
    print("| | ours | the other | ratio of medians, other / ours (middle half) |\n|---|---|---|---|")
    training_steps(device)
    means(device)
    if device.type == "cuda":
        sampling_rates(device)
        return
    data_rows()
    loop_against_a_bare_one("attn_unet", 12)
    loop_against_a_bare_one("small_unet", 41)
    digits_against_the_tutorials(load_denoiser(read_checkpoint("mnist")))
    row("`train.py --help` against importing torch", *helps(5), unit="s")
    row("from start to the first step, against importing torch and Lightning", *first_steps(5), unit="s")
    ours, tutorials = memory("ours"), memory("tutorial")
    print(f"\nPeak memory of three steps: attn_unet {ours} MiB, tutorial 1's {tutorials} MiB")
    print(
        f"Memory that 200,000 images of 64 x 64 x 3, mapped from the disk, add: {memory_of_a_large_set()} MiB"
    )


def training_steps(device: torch.device, rounds: int = 7) -> None:
    """Steps of our networks against tutorial 1's own, diffusers', and what the matrix units can do."""
    theirs = Tutorial1UNet().to(device)
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-4)
    alpha_bar = torch.linspace(0.99, 0.01, 1000, device=device)
    x = torch.rand(BATCH, 1, 28, 28, device=device) * 2 - 1
    tutorials = lambda: training_step(theirs, optimizer, x, alpha_bar)  # noqa: E731
    chain = ["schedule=linear", "prediction=eps", "optimizer=adam"]
    attn = Step(device, "model=attn_unet", *chain)
    same_weights(attn.module.denoiser.network, theirs)
    i = torch.arange(BATCH, device=device)
    difference = (attn.module.denoiser.network(x, i.float()) - theirs(x, i)).abs().max()
    row(
        f"step of attn_unet, tutorial 1's (outputs differ by {difference:.0e})",
        *in_turn(attn, tutorials, rounds),
    )
    fastest = fastest_precision(device)[0]
    for name in NETWORKS:
        if fastest != "32-true":
            step = Step(device, f"model={name}", *chain, precision=fastest)
            row(f"step of {name} in {fastest}, tutorial 1's in 32-true", *in_turn(step, tutorials, rounds))
        if name != "attn_unet":
            row(
                f"step of {name}, tutorial 1's",
                *in_turn(Step(device, f"model={name}", *chain), tutorials, rounds),
            )
    small = Step(device, *chain)
    row("step of small_unet, diffusers' UNet2DModel of its widths", *in_turn(small, unet2d(device), rounds))
    row(
        "step of small_unet, its products alone at the peak of a large one",
        *against_the_peak(small, device, rounds),
    )


def unet2d(device: torch.device) -> Callable[[], None]:
    """Return a step of diffusers' network with small_unet's widths, blocks and lowest attention."""
    network = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(64, 112),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    ).to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    x = torch.rand(BATCH, 1, 28, 28, device=device) * 2 - 1

    def step() -> None:
        eps, i = torch.randn_like(x), torch.randint(0, 1000, (BATCH,), device=device)
        optimizer.zero_grad()
        nn.functional.mse_loss(network(x + eps, i).sample, eps).backward()
        optimizer.step()

    return step


def against_the_peak(step: Step, device: torch.device, rounds: int) -> tuple[list, list]:
    """Return the seconds of steps, and those that their products would take at a large product's rate."""
    with FlopCounterMode(display=False) as counter:
        step()
    a = torch.randn(2048, 2048, device=device)
    times, products = in_turn(step, lambda: a @ a, rounds)
    return times, [counter.get_total_flops() / (2 * 2048**3 / s) for s in products]


class Pairs(L.Callback):
    """After each of Lightning's steps, all callbacks included, one bare step of a copy of the model."""

    def __init__(self, module: LitDiffusion):
        self.module = copy.deepcopy(module)
        self.optimizer = module.optimizer(self.module.parameters())
        self.bare, self.lightning = [], []

    def on_train_start(self, trainer, pl_module) -> None:
        self.batches = iter(trainer.datamodule.train_dataloader())
        self.mark = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.lightning.append(time.perf_counter() - self.mark)
        self.bare.append(seconds(lambda: self.step(trainer)))
        self.mark = time.perf_counter()

    def step(self, trainer) -> None:
        x, _ = trainer.datamodule.on_after_batch_transfer(next(self.batches), 0)
        bare_step(self.module, self.optimizer, x, trainer.global_step, clip=trainer.gradient_clip_val)


def loop_against_a_bare_one(model: str, steps: int) -> None:
    """Lightning with every default callback, logging five times as often as it does by default."""
    cfg = config(
        f"model={model}", f"trainer.limit_train_batches={steps}", "trainer.max_epochs=1", "logger=csv"
    )
    cfg.trainer.log_every_n_steps = 10
    module = build_module(cfg)
    cfg.callbacks.samples.n = 1  # sampling comes after the steps that are timed
    callbacks = [instantiate(c, _convert_="all") for c in cfg.callbacks.values()]
    pairs = Pairs(module)
    loggers = build_loggers(cfg, start=None)
    trainer = build_trainer(cfg, callbacks=[*callbacks, pairs], logger=loggers, limit_val_batches=0)
    trainer.fit(module, instantiate(cfg.data, _convert_="all"))
    row(f"a step of {model} in a bare loop, in Lightning's", pairs.bare, pairs.lightning)


def digits_against_the_tutorials(denoiser, rounds: int = 4, slice_of: int = 50) -> None:
    """100 digits of the model that ships; tutorial 1's loop takes 1,000 steps, and saves a PNG at each.

    Of the loop, every ``slice_of``-th step is taken, and its time multiplied.
    """
    y, folder = torch.arange(100) % 10, Path(tempfile.mkdtemp())

    def save(x_s: Tensor, s: Tensor, visit) -> Tensor:
        save_png(grid(x_s, 10), folder / "step.png")
        return x_s

    def digits(sampler, after_step=None) -> Callable[[], Tensor]:
        return lambda: generate(sampler, denoiser, range(100), (1, 28, 28), 0, y, after_step=after_step)

    loop = digits(Ancestral(1000 // slice_of, clip=True), save)
    for steps in (14, 5):
        times, slices = in_turn(digits(DPMpp2M(steps, clip=True, eta=1.0)), loop, rounds)
        claim = f"100 digits, dpmpp_2m_sde in {steps} steps, tutorial 1's loop of 1,000 with the same network"
        row(claim, times, [s * slice_of for s in slices], unit="s")


if __name__ == "__main__":
    main(torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu"))
