"""The cells of a study: a choice with a seed, as configs that have been checked."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from lit_diffusion import checkpoint
from lit_diffusion.common.cli import composed
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.evaluate.run import check as check_evaluation
from lit_diffusion.evaluate.run import without_data
from lit_diffusion.features.network import OURS, load_features
from lit_diffusion.guidance import guide
from lit_diffusion.loading import build_sampler, guidance_of, identity, load
from lit_diffusion.sample.run import conditions

NEEDS = {  # scores that an evaluation can do without, and the key that leaves them out
    "cas": "cas_images",
    "bits_per_dim": "bits_n",
    "nearest": "memorisation",
    "fid_check": "check",
    "class_accuracy_check": "check",
}

ASKED_ALIKE = ("k", "cas_images", "bits_n", "bits_steps", "features", "check", "judge_seed", "data")


class Cell(NamedTuple):
    """A choice with a seed.

    Attributes:
        choice: its name.
        seed: of training and of sampling.
        run: the config of its training, None for none; its ``out`` is a folder that cells may share.
        evaluation: the config of its evaluation.
    """

    choice: str
    seed: int
    run: DictConfig | None
    evaluation: DictConfig


def cell(cfg: DictConfig, choice: str, seed: int, out: Path) -> Cell:
    """The configs of one cell, made before any cell starts, so that a mistake in them costs nothing."""
    study = cfg.study
    own = study.choices[choice] or {}
    own_evaluation, own_training = own.get("evaluate", []), own.get("train", [])
    evaluating = [*study.evaluate, *own_evaluation, f"seed={seed}"]
    evaluation = composed("evaluate", evaluating)
    check_evaluation(evaluation)
    if evaluation.samples and len(cfg.seeds) > 1:
        raise ConfigError(f"{choice} has samples, which no seed changes: choose seeds=[0]")
    for score in study.scores:
        if score in NEEDS and evaluation[NEEDS[score]] in (0, False):
            raise ConfigError(
                f"study.scores has {score}, but study.evaluate has {NEEDS[score]}="
                f"{evaluation[NEEDS[score]]}: change one of them"
            )
    if study.train is None:
        for key in ("ckpt", "samples", "model"):
            if cfg.ckpt and evaluation.get(key):
                raise ConfigError(
                    f"ckpt is {cfg.ckpt}, but {choice} has {key} {evaluation[key]}: leave one out"
                )
        evaluation.ckpt = cfg.ckpt or evaluation.ckpt
        ours = evaluation.samples is None and evaluation.get("model") is None
        weights = identity_of(evaluation) if ours else None
        name = name_of([*own_evaluation, f"seed={seed}"], evaluation, weights, files_of(evaluation))
        evaluation.out = str(out / "evaluations" / name)
        return Cell(choice, seed, None, evaluation)
    training = [*study.train, *own_training, f"seed={seed}"]
    run = composed("train", training)
    check_training(choice, run, evaluation)
    overrides = [*own_evaluation, *own_training, f"seed={seed}"]
    name = name_of(overrides, evaluation, run, files_of(evaluation))
    evaluation.out = str(out / "evaluations" / name)
    run.out = str(out / "runs" / name_of([*own_training, f"seed={seed}"], run))
    evaluation.ckpt = f"{run.out}/checkpoints/last.ckpt"  # all have then seen what they were to see
    check_sampling(evaluation, run)
    return Cell(choice, seed, run, evaluation)


def identity_of(evaluation: DictConfig) -> str:
    """Of the weights, once they can be sampled as it says."""
    loaded = load(evaluation)
    conditions(without_data(evaluation), loaded.denoiser)
    return loaded.identity


def check_sampling(evaluation: DictConfig, run: DictConfig) -> None:
    """Refuse what the trained model couldn't be sampled with."""
    denoiser = checkpoint.build_denoiser(run)
    build_sampler(evaluation, run).check(denoiser)
    guide(denoiser, *guidance_of(evaluation, run, denoiser.conditional).values())
    conditions(without_data(evaluation), denoiser)


def check_training(choice: str, run: DictConfig, evaluation: DictConfig) -> None:
    """Refuse a training that a study can't follow."""
    if evaluation.ckpt or evaluation.samples or evaluation.get("model"):
        raise ConfigError(
            f"{choice} trains a model, but evaluates another: leave out ckpt, samples and model"
        )
    if run.trainer.devices != 1 or run.trainer.strategy not in ("auto", "single_device"):
        raise ConfigError(
            f"{choice} has trainer.devices {run.trainer.devices} and trainer.strategy "
            f"{run.trainer.strategy}, which would start the whole study on each process: choose trainer=cpu, "
            "or trainer=gpu"
        )
    if not {"best", "last"} <= {name for name, callback in run.callbacks.items() if callback}:
        raise ConfigError(f"{choice} leaves out callbacks.best or callbacks.last, which a study needs")


def files_of(evaluation: DictConfig) -> list[str]:
    """Tells one evaluation's files from another's of the same names: samples, and networks that measure."""
    given = [str(evaluation[key]) for key in ("samples", "features", "check")]
    return [identity(path) for path in (*given, *sorted(OURS.values())) if Path(path).is_file()]


def name_of(overrides: Sequence[str], *settings: DictConfig | list[str] | str | None) -> str:
    """A folder's name: as much of the overrides as can be read, and a hash of all that they mean."""
    readable = re.sub(r"[^\w.=-]+", "_", ",".join(overrides))[:60].strip("_")
    plain = [OmegaConf.to_container(s) if isinstance(s, DictConfig) else s for s in settings]
    return f"{readable}-{hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:10]}"


def check_alike(cells: Sequence[Cell]) -> None:
    """ConfigError, before anything is done, if the cells' scores couldn't be measured and compared."""
    first = cells[0]
    for key in ("features", "check"):
        if isinstance(first.evaluation[key], str):
            load_features(first.evaluation[key], key)
    for each in cells[1:]:
        known = () if first.evaluation.samples or each.evaluation.samples else ("n",)
        for key in (*known, *ASKED_ALIKE):
            ours, theirs = first.evaluation.get(key), each.evaluation.get(key)
            if ours != theirs:
                raise ConfigError(
                    f"{each.choice} has {key} {theirs}, but {first.choice} has {ours}: their scores can't be "
                    "compared; give all choices the same"
                )
