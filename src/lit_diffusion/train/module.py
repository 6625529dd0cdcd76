"""One training step, one validation step, the optimizer."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.log import ensure_terminal
from lit_diffusion.common.tensors import per_image
from lit_diffusion.conditions import ImageCondition
from lit_diffusion.couplings import Coupling, Independent
from lit_diffusion.data.augment import Augment
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.times import Drawn, Times, Uniform
from lit_diffusion.train.binned_mean import BinnedMean
from lit_diffusion.weightings import Unweighted, Weighting

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) in [-1, 1], and labels (B,) or the images of pairs


class LitDiffusion(L.LightningModule):
    """Trains a denoiser's network by the weighted mean squared error of its output.

    All randomness of a step (times, noise, dropped labels, dropout) is a function of (seed, step),
    dropout's of the process too, so that a resumed run is the straight run. Times and noise are drawn
    for the global batch and each process takes its share: n processes take the steps of one with an
    n-fold batch, but for couplings, dropout and batch norm, which are of a process's own batch.

    Args:
        denoiser: network, schedule and prediction.
        optimizer: ``optimizer(parameters)``.
        lr_scheduler: Lightning's lr_scheduler_config, with ``scheduler(optimizer)`` under
            "scheduler"; one that takes ``total_steps`` is given the run's length, in steps or, if its
            "interval" is "epoch", in epochs. None: constant.
        condition: makes the images that condition the network; None: labels do, if it knows any.
        augment: changes the training images; None: they are as they are.
        weighting: how much an error counts at each noise level; None: as the prediction has it.
        times: how often each noise level is met; None: all times alike.
        coupling: which noise belongs to which image of a process's batch, in training; None: any.
        label_dropout: share of conditions replaced by the null label, or by an image of zeros, for guidance.
        fixed_noise: the same times and noise at every step, so that one batch can be learnt by heart.
        seed: of all randomness.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        lr_scheduler: dict[str, Any] | None = None,
        condition: ImageCondition | None = None,
        augment: Augment | None = None,
        weighting: Weighting | None = None,
        times: Times | None = None,
        coupling: Coupling | None = None,
        label_dropout: float = 0.1,
        fixed_noise: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if not 0 <= label_dropout <= 1:
            raise ConfigError(f"module.label_dropout is {label_dropout:g}: choose a share from 0 to 1")
        self.denoiser = denoiser
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.condition = condition
        self.augment = augment
        self.weighting = weighting or Unweighted()
        self.times = times or Uniform()
        self.coupling = coupling or Independent()
        self.label_dropout = label_dropout
        self.fixed_noise = fixed_noise
        self.seed = seed
        self._validated = 0  # images of this validation so far, of all processes
        self.train_loss = BinnedMean()
        self.val_loss = BinnedMean()

    def losses(
        self, x: Tensor, y: Tensor | None, t: Tensor, eps: Tensor, augment: Tensor | None = None
    ) -> Tensor:
        """Return the loss (B,) of images x with noise eps (B, C, H, W), conditions y and times t (B,).

        ``augment`` (B, augment_width) tells the network how the images were augmented; None: not at all.
        """
        schedule, prediction = self.denoiser.schedule, self.denoiser.prediction
        alpha, sigma = schedule.alpha_sigma(t, x)
        output = self.denoiser.output(alpha * x + sigma * eps, t, y, augment)
        target = prediction.target(x, eps, alpha, sigma)
        loss = (output - target).square().flatten(1).mean(1)
        return self.weighting(loss, schedule.log_snr(t), prediction.dx_weight(alpha, sigma).flatten())

    def setup(self, stage: str) -> None:
        ensure_terminal()
        if stage == "fit" and self.trainer.datamodule is not None:
            self.coupling.prepare(self.trainer.datamodule.train_set)

    def on_fit_start(self) -> None:  # a checkpoint's buffers are read between setup and this
        self.coupling.fit(self.seed)

    def on_train_start(self) -> None:
        self._logged_step = self.global_step
        steps = self.trainer.estimated_stepping_batches
        if 0 < steps < self.trainer.log_every_n_steps:  # a short run has one row, at its end
            self.trainer.log_every_n_steps = int(steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed what a network may draw itself, for dropout for example."""
        seed = rng.key_to_seed(self.seed, "network", *self._step_key(batch_idx), self.global_rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed does the same, 0.3 ms slower
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index].manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, other = batch
        (t, weight), eps, uniform = self._draw(x, *self._step_key(batch_idx))
        x, told = self._augmented(x, *self._step_key(batch_idx))
        with torch.autocast(x.device.type, enabled=False):  # half precision would pair others
            x, other, eps = self.coupling(x, other, eps)
        y = self.condition_of(x, other)
        if y is not None:
            y = torch.where(per_image(uniform < self.label_dropout, y), self.denoiser.null(y), y)
        loss = self.losses(x, y, t, eps, told)
        self.train_loss.update(loss.detach(), t)
        if self.times.learns and not self.fixed_noise:
            errors = loss.detach() - self.weighting.offset(self.denoiser.schedule.log_snr(t)).detach()
            all_t, all_losses = self.all_gather((t, errors))
            self.times.learn(self.denoiser.schedule, all_t.flatten(), all_losses.flatten())
        return (weight * loss).mean() * self._share_of_window(batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.global_step % self.trainer.log_every_n_steps == 0 and self.global_step > self._logged_step:
            self._logged_step = self.global_step
            self._log_losses("train", self.train_loss)

    def on_validation_epoch_start(self) -> None:
        self._validated = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, other = batch
        if len(x) == 0:  # the last batch can be too small for every process to get an image
            return
        t, eps = self._draw_fixed(x)
        self._validated += len(x) * self.trainer.world_size
        self.val_loss.update(self.losses(x, self.condition_of(x, other), t, eps), t)

    def on_validation_epoch_end(self) -> None:
        self._log_losses("val", self.val_loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the losses since the last row that was logged, all processes' together."""
        with self.train_loss.sync_context():
            checkpoint["train_loss"] = {k: v.clone() for k, v in self.train_loss.metric_state.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.global_rank == 0:
            for name, value in checkpoint["train_loss"].items():
                setattr(self.train_loss, name, value.to(self.device))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.parameters())
        # Has Lightning unscale and clip gradients before the step of a fused optimizer too.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        if not self.lr_scheduler:
            return optimizer
        interval = self.lr_scheduler.get("interval", "epoch")
        length = self._run_length(interval) if self._wants_length() else 0
        scheduler = self.build_scheduler(optimizer, length)
        own = getattr(scheduler, "total_steps", None)
        if own is not None and own < (run := length or self._run_length(interval)):
            raise ConfigError(
                f"lr_scheduler.scheduler.total_steps is {own}, less than the run's {run}: leave it out, so "
                "that it is the run's length"
            )
        return [optimizer], [{**self.lr_scheduler, "scheduler": scheduler}]

    def build_scheduler(self, optimizer: torch.optim.Optimizer, total_steps: int) -> Any:
        """Return the learning-rate schedule of an optimizer, of a run so long; None for none."""
        if not self.lr_scheduler:
            return None
        options = {"total_steps": total_steps} if self._wants_length() else {}
        return self.lr_scheduler["scheduler"](optimizer, **options)

    def _wants_length(self) -> bool:
        """Return whether the learning-rate schedule is to be told the run's length."""
        if not self.lr_scheduler:
            return False
        scheduler = self.lr_scheduler["scheduler"]
        return "total_steps" in inspect.signature(scheduler).parameters and (
            "total_steps" not in scheduler.keywords
        )

    def _run_length(self, interval: str) -> int:
        """Return the run's optimizer steps, or its epochs, the last one perhaps incomplete."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigError(
                "trainer.max_epochs and trainer.max_steps are both -1, but this lr_scheduler ends with the "
                "run: set one of them, or choose lr_scheduler=constant"
            )
        if interval == "step":
            return int(steps)
        self.trainer.fit_loop.setup_data()  # counts the batches
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return math.ceil(steps / per_epoch)

    def _step_key(self, batch_idx: int) -> tuple[int, int]:
        if self.fixed_noise:
            return 0, 0
        return self.global_step, batch_idx % self.trainer.accumulate_grad_batches

    def _share_of_window(self, batch_idx: int) -> float:
        """Return what a batch's gradient is multiplied by, so that a step has the mean over its batches.

        Lightning divides by the number of batches that are accumulated; an epoch's last step may have
        fewer.
        """
        accumulated, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        first = batch_idx - batch_idx % accumulated
        return accumulated / min(accumulated, batches - first)

    def _draw(self, x: Tensor, *key: int) -> tuple[Drawn, Tensor, Tensor]:
        """Draw times (B,), noise like x, and uniform numbers (B,): this process's share of the batch."""
        rank, world_size = self.global_rank, self.trainer.world_size
        n = len(x) * world_size
        generator = rng.generator(self.seed, "train", *key, device=self.device)
        like = {"generator": generator, "device": self.device, "dtype": torch.float32}
        t, weight = self.times.draw(self.denoiser.schedule, n, generator)
        eps, uniform = torch.randn(n, *x.shape[1:], **like), torch.rand(n, **like)
        mine = slice(rank, None, world_size)
        return Drawn(t[mine], weight[mine]), eps[mine], uniform[mine]

    def _draw_fixed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draw times (B,) and noise like x for validation: a function of each image's place in the data."""
        first, world_size = self._validated + self.global_rank, self.trainer.world_size
        places = range(first, first + len(x) * world_size, world_size)
        seed = rng.key_to_seed(self.seed, "validate")
        noise = rng.ImageNoise(seed, places, x.shape[1:], self.device)
        t = torch.cat([self.times.times(self.denoiser.schedule, 1, g) for g in noise.generators])
        return t.to(self.device), noise()

    def condition_of(self, x: Tensor, other: Tensor) -> Tensor | None:
        """Return the condition y of images x with labels, or the images of pairs; None for none."""
        if self.condition is not None:
            return self.condition(x, other)
        return other if self.denoiser.num_classes else None

    def _augmented(self, x: Tensor, *key: int) -> tuple[Tensor, Tensor | None]:
        """Return images, augmented in a way that is a function of the key, and what the network is told."""
        if self.augment is None:
            return x, None
        rank, world_size = self.global_rank, self.trainer.world_size
        generator = rng.generator(self.seed, "augment", *key, device=self.device)
        with torch.autocast(x.device.type, enabled=False):  # half precision would misplace the pixels
            return self.augment(x, self.augment.draw(len(x) * world_size, generator)[rank::world_size])

    def _learning_rate(self) -> float:
        return self.trainer.optimizers[0].param_groups[0]["lr"] if self.trainer.optimizers else 0.0

    def _log_losses(self, stage: str, metric: BinnedMean) -> None:
        means, broken = metric.compute(), metric.not_finite()
        metric.reset()
        if not means["mean"].isfinite():
            raise ConfigError(
                f"the {stage} loss isn't finite in epoch {self.current_epoch + 1}, by step {self.global_step}"
                f", at t of {', '.join(broken)}, with a learning rate of {self._learning_rate():g}: lower "
                "optimizer.lr, set trainer.gradient_clip_val, or look for wrong values in the images"
            )
        self.log(f"{stage}/loss", means.pop("mean"), prog_bar=True)
        self.log_dict({f"{stage}_t/{bin}": mean for bin, mean in means.items()})
