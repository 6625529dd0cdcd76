"""Three claims of speed, each measured side by side in one run: ``make bench``.

Two sides take turns, step by step, so that a machine whose speed drifts slows both. Printed are the
medians and the median of the pairwise ratios.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from tutorial1 import Tutorial1UNet, same_weights, training_step

from lit_diffusion.common import rng
from lit_diffusion.common.cli import CONFIG_DIR
from lit_diffusion.train.run import build_loggers, build_module, build_trainer, silence_warnings

BATCH = 64


def config(*overrides: str):
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("train", [f"out={tempfile.mkdtemp()}", f"data.batch_size={BATCH}", *overrides])


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(claim: str, one: list[float], other: list[float], unit: float = 1e3) -> None:
    """``other`` over ``one``, pair by pair; the first pair warms up."""
    ratios = [b / a for a, b in zip(one[1:], other[1:], strict=True)]
    a, b = (statistics.median(times[1:]) * unit for times in (one, other))
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"{claim}: {a:.2f} ms against {b:.2f} ms, ratio {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)


def steps_against_the_tutorial(rounds: int = 8) -> None:
    """A training step of tutorial 1's network, the same weights and batch on both sides."""
    module = build_module(config("model=attn_unet", "schedule=linear", "prediction=eps", "optimizer=adam"))
    theirs = Tutorial1UNet()
    same_weights(module.denoiser.network, theirs)
    optimizer, their_optimizer = (
        module.optimizer(module.parameters()),
        torch.optim.Adam(theirs.parameters(), 1e-4),
    )
    alpha_bar = module.denoiser.schedule.alpha_bar[1:].float()
    x = torch.rand(BATCH, 1, 28, 28) * 2 - 1
    i = torch.arange(BATCH)
    difference = (module.denoiser.network(x, i.float()) - theirs(x, i)).abs().max()
    print(f"largest difference of the two networks' outputs: {difference:.1e}")

    ours, tutorials = [], []
    for k in range(rounds):
        ours.append(seconds(lambda: bare_step(module, optimizer, x, None, k)))  # noqa: B023
        tutorials.append(seconds(lambda: training_step(theirs, their_optimizer, x, alpha_bar)))
    report("attn_unet training step against the tutorial's", ours, tutorials)


def bare_step(module, optimizer, x, y, k: int, clip: float | None = None) -> None:
    """What a loop without Lightning does."""
    generator = rng.generator(0, k)
    t = module.denoiser.schedule.random_times(len(x), generator)
    loss = module.losses(x, y, t, torch.randn(x.shape, generator=generator)).mean()
    optimizer.zero_grad()
    loss.backward()
    if clip:
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()


def data_against_the_tutorial(batches: int = 100, rounds: int = 6) -> None:
    """So many batches through our data module and through the tutorial's DataLoader."""
    datamodule = instantiate(config().data, _convert_="all")
    datamodule.prepare_data()
    datamodule.setup("fit")
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    mnist = datasets.MNIST(str(datamodule.source.root), transform=to_tensor)
    their_loader = DataLoader(mnist, BATCH, shuffle=True)

    def our_batches() -> Iterator:
        for batch in datamodule.train_dataloader():
            yield datamodule.on_after_batch_transfer(batch, 0)

    def take(loader) -> None:
        for _, _ in zip(range(batches), loader, strict=False):
            pass

    ours, tutorials = [], []
    for _ in range(rounds):
        ours.append(seconds(lambda: take(our_batches())))
        tutorials.append(seconds(lambda: take(their_loader)))
    report("a batch of data against the tutorial's", ours, tutorials, unit=1e3 / batches)


class Pairs(L.Callback):
    """After each of Lightning's steps, all callbacks included, one bare step of a copy of the model."""

    def __init__(self, module):
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
        bare_step(self.module, self.optimizer, x, None, trainer.global_step, trainer.gradient_clip_val)


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
    report(f"a bare {model} step against Lightning's", pairs.bare, pairs.lightning)


if __name__ == "__main__":
    silence_warnings()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}, on the CPU")
    steps_against_the_tutorial()
    data_against_the_tutorial()
    loop_against_a_bare_one("attn_unet", 12)
    loop_against_a_bare_one("small_unet", 41)
