"""Scores of samples, while the model is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.images import to_uint8
from lit_diffusion.common.log import log
from lit_diffusion.data.datamodule import ImageDataModule
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.evaluate.conditions import test_conditions
from lit_diffusion.evaluate.evaluators import build_evaluator
from lit_diffusion.guidance import Guidance
from lit_diffusion.samplers.base import Sampler
from lit_diffusion.samplers.generate import generate
from lit_diffusion.train.callbacks.after_epochs import AfterEpochs
from lit_diffusion.train.checks import check_sampler
from lit_diffusion.train.module import LitDiffusion

BATCH_SIZE = 250  # images sampled at a time


class Evaluation(AfterEpochs):
    """Logs fidelity, coverage and class accuracy of samples, and their floor: ``eval/fid`` and so on.

    Cheap, and so rough: compare epochs of a run by it, and models by ``lit_diffusion.evaluate``.

    Args:
        sampler: how to sample.
        guidance: as ``Guidance.from_config`` takes it.
        n: samples; labels, if the model knows any, have the shares of the training split's, and images
            that condition it are of test images.
        epochs: as in ``AfterEpochs``.
        features, second: as ``build_evaluator`` takes them.
        k: as in ``Evaluator``.
        seed: of the noise; the same each time, so that progress shows.
    """

    def __init__(
        self,
        sampler: Sampler,
        guidance: Mapping[str, Any],
        n: int = 500,
        epochs: int | Sequence[int] = 1,
        features: str | None = None,
        second: str | bool | None = False,
        k: int = 5,
        seed: int = 0,
    ):
        super().__init__(epochs)
        check_whole_number("callbacks.evaluation.k", k, least=1)
        check_whole_number("callbacks.evaluation.n", n, least=k + 1)
        self.sampler = sampler
        self.guidance = Guidance.from_config(guidance)
        self.n = n
        self.options: dict[str, Any] = {"features": features, "second": second, "k": k}
        self.seed = seed

    def check(self, denoiser: NetworkDenoiser, data: ImageDataModule) -> None:
        self.sampler.check(self.guidance.applied(denoiser))
        check_sampler(self.sampler, denoiser, data.image_shape)

    @rank_zero_only
    def setup(self, trainer: L.Trainer, pl_module: LitDiffusion, stage: str) -> None:
        source, device = trainer.datamodule.source, trainer.strategy.root_device
        try:
            self.evaluator = build_evaluator(source, **self.options, seed=self.seed, device=device)
            if pl_module.condition is not None:
                self.evaluator.check_test_images(self.n)
        except ConfigError as error:
            raise ConfigError(f"callbacks.evaluation: {error}") from None

    def work(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        denoiser = self.guidance.applied(pl_module.denoiser)
        if pl_module.condition is None:
            labels = self.evaluator.labels(self.n) if denoiser.num_classes else None
            y, truth = labels, None
        else:
            (y, truth), labels = test_conditions(pl_module.condition, self.evaluator, self.n)
        shape, device = trainer.datamodule.image_shape, pl_module.device
        batches = []
        for indices in torch.arange(self.n).split(BATCH_SIZE):
            given = None if y is None else y[indices]
            x = generate(self.sampler, denoiser, indices.tolist(), shape, self.seed, given, device)
            batches.append(to_uint8(x).cpu())
        labels = None if self.guidance.unconditional else labels
        scores = self.evaluator.scores(torch.cat(batches), labels)
        floor = self.evaluator.floor(self.n, labelled=labels is not None)
        texts = (f"{name} {score:.4g} ({floor[name]:.4g})" for name, score in scores.items())
        log.info(f"scores (floor): {', '.join(texts)}")
        if truth is not None:
            scores |= self.evaluator.fidelity(torch.cat(batches), to_uint8(truth))
        seen = trainer.global_step * trainer.accumulate_grad_batches * trainer.world_size
        metrics = {
            **scores,
            **{f"floor_{name}": score for name, score in floor.items()},
            "images_seen": seen * trainer.datamodule.batch_size,
        }
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"eval/{name}": value for name, value in metrics.items()}, trainer.global_step
            )
