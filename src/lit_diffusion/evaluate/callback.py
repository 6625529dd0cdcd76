"""Scores of samples, while the model learns."""

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_only

from lit_diffusion.common.errors import check_whole_number
from lit_diffusion.common.images import to_uint8
from lit_diffusion.common.log import log
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.evaluate.evaluator import build_judge
from lit_diffusion.guidance import guide, unconditional
from lit_diffusion.samplers.base import Sampler
from lit_diffusion.samplers.generate import generate
from lit_diffusion.train.callbacks.after_epochs import AfterEpochs

BATCH = 250  # images sampled at a time


class Evaluation(AfterEpochs):
    """Fidelity, coverage and class accuracy of samples, and their floor: ``eval/fid`` and so on.

    Cheap, and so rough: compare epochs of a run by it, and models by ``lit_diffusion.evaluate``.

    Args:
        sampler: how to sample.
        n: samples; labels, if the model knows any, have the shares of the training split's.
        epochs: as in ``AfterEpochs``.
        guidance, guidance_interval, guidance_rescale: as in ``Guided``.
        features, check: as ``build_judge`` takes them.
        k: as in ``Judge``.
        seed: of the noise; the same each time, so that progress shows.
    """

    def __init__(
        self,
        sampler: Sampler,
        n: int = 500,
        epochs: int | Sequence[int] = 1,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        features: str | None = None,
        check: str | bool | None = False,
        k: int = 5,
        seed: int = 0,
    ):
        super().__init__(epochs)
        check_whole_number("callbacks.evaluation.k", k, least=1)
        check_whole_number("callbacks.evaluation.n", n, least=k + 1)
        self.sampler = sampler
        self.n = n
        self.guidance = (guidance, guidance_interval, guidance_rescale)
        self.judged_by = {"features": features, "check": check, "k": k}
        self.seed = seed

    def check(self, denoiser: Denoiser) -> None:
        self.sampler.check(denoiser)
        guide(denoiser, *self.guidance)

    @rank_zero_only
    def setup(self, trainer, pl_module, stage: str) -> None:
        device = trainer.strategy.root_device
        self.judge = build_judge(trainer.datamodule.source, **self.judged_by, seed=self.seed, device=device)

    def work(self, trainer, pl_module) -> None:
        denoiser = guide(pl_module.denoiser, *self.guidance)
        y = self.judge.labels(self.n) if denoiser.num_classes else None
        asked_for = None if unconditional(*self.guidance[:2]) else y
        shape, device = trainer.datamodule.image_shape, pl_module.device
        batches = []
        for part in torch.arange(self.n).split(BATCH):
            labels = None if y is None else y[part]
            x = generate(self.sampler, denoiser, part.tolist(), shape, self.seed, labels, device)
            batches.append(to_uint8(x).cpu())
        scores = self.judge.scores(torch.cat(batches), asked_for)
        real = self.judge.floor(self.n, labelled=asked_for is not None)
        floor = {f"floor_{name}": score for name, score in real.items()}
        seen = trainer.global_step * trainer.accumulate_grad_batches * trainer.world_size
        found = {**scores, **floor, "images_seen": seen * trainer.datamodule.batch_size}
        said = (f"{key} {score:.4g} ({floor[f'floor_{key}']:.4g})" for key, score in scores.items())
        log.info(f"scores (floor): {', '.join(said)}")
        for logger in trainer.loggers:
            logger.log_metrics({f"eval/{k}": number for k, number in found.items()}, trainer.global_step)
