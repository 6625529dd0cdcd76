"""The runs of a study: a choice with a seed, as configs that have been checked."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lit_diffusion.checkpoint import PATH_GROUPS, build_denoiser
from lit_diffusion.common.build import TARGET, nodes
from lit_diffusion.common.compose import composed
from lit_diffusion.common.configs import plain
from lit_diffusion.common.device import choose_device
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import sha256_of
from lit_diffusion.common.precision import choose_precision
from lit_diffusion.data.measured import measured
from lit_diffusion.evaluate.conditions import with_all_labels
from lit_diffusion.evaluate.evaluators import MEASURED_BY
from lit_diffusion.evaluate.run import check_evaluation
from lit_diffusion.features.network import OURS, load_features
from lit_diffusion.guidance import AutoGuidance
from lit_diffusion.loading import build_sampler, choose_guidance, load, load_worse
from lit_diffusion.sample.conditions import conditions
from lit_diffusion.train.run import prepare

SWITCHES = {  # scores that an evaluation can leave out, and the key that does it
    "cas": "cas_images",
    "bits_per_dim": "bits_n",
    "nearest": "memorisation",
    "fid_second": "second",
    "class_accuracy_second": "second",
}

# Keys of evaluations that must be the same for their scores to be compared.
COMPARABLE = ("k", "cas_images", "bits_n", "bits_steps", "features", "second", "evaluator_seed", "data")


@dataclass(frozen=True)
class Run:
    """A choice with a seed.

    Attributes:
        choice: its name.
        seed: of training and of sampling.
        training: the config of its training, None for none; its ``out`` is a folder that runs may share.
        evaluation: the config of its evaluation.
    """

    choice: str
    seed: int
    training: DictConfig | None
    evaluation: DictConfig


def plan_run(cfg: DictConfig, choice: str, seed: int, out: Path) -> Run:
    """Return the configs of one run, made before any run starts, so that a mistake in them costs nothing.

    Args:
        cfg: of the study.
        choice: the choice's name.
        seed: the seed.
        out: folder of the study.

    Raises:
        ConfigError: a value that the run couldn't work with.
    """
    evaluation = plan_evaluation(cfg, choice, seed)
    if cfg.study.train is None:
        return plan_sampling(cfg, choice, seed, out, evaluation)
    return plan_training(cfg, choice, seed, out, evaluation)


def plan_sampling(cfg: DictConfig, choice: str, seed: int, out: Path, evaluation: DictConfig) -> Run:
    """Return a run that trains nothing, as ``plan_run``."""
    for key in ("ckpt", "samples", "pretrained"):
        if cfg.ckpt and evaluation.get(key):
            raise ConfigError(f"ckpt is {cfg.ckpt}, but {choice} has {key} {evaluation[key]}: leave one out")
    evaluation.ckpt = cfg.ckpt or evaluation.ckpt
    ours = evaluation.samples is None and evaluation.get("pretrained") is None
    weights = weights_sha256(evaluation) if ours else None
    overrides = [*own_overrides(cfg, choice, "evaluate"), f"seed={seed}"]
    name = folder_name(overrides, evaluation, weights, hashes(evaluation))
    evaluation.out = str(out / "evaluations" / name)
    return Run(choice, seed, None, evaluation)


def plan_training(cfg: DictConfig, choice: str, seed: int, out: Path, evaluation: DictConfig) -> Run:
    """Return a run that trains first, as ``plan_run``."""
    own = [*own_overrides(cfg, choice, "train"), f"seed={seed}"]
    training = measured(composed("train", [*cfg.study.train, *own]))
    evaluation.trust = [*evaluation.trust, *named_classes(training)]  # its own checkpoint's
    check_training(choice, training, evaluation)
    for score in ("class_accuracy", "class_accuracy_second", "cas"):
        if score in cfg.study.scores and not training.model.get("num_classes"):
            raise ConfigError(
                f"study.scores has {score}, but the model has no labels: add model.num_classes=10"
            )
    name = folder_name(
        [*own_overrides(cfg, choice, "evaluate"), *own], evaluation, training, hashes(evaluation)
    )
    evaluation.out = str(out / "evaluations" / name)
    training.out = str(out / "runs" / folder_name(own, training))
    if seed == cfg.seeds[0]:  # the others' differ in nothing that can't work
        prepare(training)
    evaluation.ckpt = f"{training.out}/checkpoints/last.ckpt"  # best.ckpt may have seen fewer images
    check_sampling_of(evaluation, training)
    return Run(choice, seed, training, evaluation)


def own_overrides(cfg: DictConfig, choice: str, of: str) -> list[str]:
    """Return a choice's own overrides of ``train`` or ``evaluate``."""
    return [*(cfg.study.choices[choice] or {}).get(of, [])]


def name_at_wandb(run: Run, study: str) -> None:
    """Have W&B group what it is told of this run under the study, and name it after choice and seed."""
    for cfg in filter(None, (run.training, run.evaluation)):
        if "wandb" in cfg.logger:
            cfg.logger.wandb.group = cfg.logger.wandb.group or study
            cfg.logger.wandb.name = cfg.logger.wandb.name or f"{run.choice}-s{run.seed}"


def plan_evaluation(cfg: DictConfig, choice: str, seed: int) -> DictConfig:
    """Return the config of a run's evaluation; what it evaluates is still open."""
    own = own_overrides(cfg, choice, "evaluate")
    evaluation = composed("evaluate", [*cfg.study.evaluate, *own, f"seed={seed}"])
    evaluation.trust = [*cfg.trust, *evaluation.trust]
    check_evaluation(evaluation)
    choose_precision(evaluation.precision, choose_device(evaluation.device))
    if evaluation.samples and len(cfg.seeds) > 1:
        raise ConfigError(f"{choice} has samples, which no seed changes: choose seeds=[0]")
    for score in cfg.study.scores:
        if score in SWITCHES and evaluation[SWITCHES[score]] in (0, False):
            raise ConfigError(
                f"study.scores has {score}, but study.evaluate has {SWITCHES[score]}="
                f"{evaluation[SWITCHES[score]]}: change one of them"
            )
    return evaluation


def named_classes(training: DictConfig) -> list[str]:
    """Return the full names of the classes that a training's checkpoint will name."""
    parts = (plain(training.get(part)) for part in (*PATH_GROUPS, "sampler", "data", "condition"))
    return [node[TARGET] for part in parts for _, node in nodes(part, "")]


def weights_sha256(evaluation: DictConfig) -> str:
    """Return the SHA-256 of the weights; ConfigError if they can't be sampled as the evaluation says."""
    loaded = load(evaluation)
    if loaded.condition is None:
        conditions(with_all_labels(evaluation), loaded.denoiser)
    return loaded.identity


def check_sampling_of(evaluation: DictConfig, training: DictConfig) -> None:
    """Raise ConfigError if the trained model couldn't be sampled as the evaluation says."""
    denoiser, guidance, worse = build_denoiser(training), choose_guidance(evaluation, training), None
    guidance.check_dropout(training.module.label_dropout)
    if isinstance(guidance, AutoGuidance) and guidance.bad is not None:
        worse = load_worse(guidance, denoiser, training, evaluation.trust)
    build_sampler(evaluation, training).check(guidance.applied(denoiser, worse))
    if evaluation.ema is not None and not training.callbacks.get("power_ema"):
        raise ConfigError(
            f"ema is {evaluation.ema}, but the training keeps no averages of other lengths: add "
            "callbacks=power_ema to study.train, or leave ema out"
        )
    if not denoiser.condition_channels:
        conditions(with_all_labels(evaluation), denoiser)


def check_training(choice: str, training: DictConfig, evaluation: DictConfig) -> None:
    """Raise ConfigError for a training that a study can't follow."""
    if training.ckpt:
        raise ConfigError(f"train has ckpt={training.ckpt}, but a study starts its trainings: leave it out")
    source = training.data.source
    name = source.get("name") or str(source.get(TARGET)).rpartition(".")[2]
    if not evaluation.get("data") and evaluation.features is None and name not in MEASURED_BY:
        raise ConfigError(
            f"features is missing, and {name} has none of its own: add features=NAME to study.evaluate"
        )
    if evaluation.ckpt or evaluation.samples or evaluation.get("pretrained"):
        raise ConfigError(
            f"{choice} trains a model, but evaluates another: leave out ckpt, samples and pretrained"
        )
    if training.trainer.devices != 1 or training.trainer.strategy not in ("auto", "single_device"):
        raise ConfigError(
            f"{choice} has trainer.devices {training.trainer.devices} and trainer.strategy "
            f"{training.trainer.strategy}, which would start the whole study on each process: choose "
            "trainer=cpu, or trainer=gpu"
        )
    if not {"best", "last"} <= {name for name, callback in training.callbacks.items() if callback}:
        raise ConfigError(f"{choice} leaves out callbacks.best or callbacks.last, which a study needs")


def hashes(evaluation: DictConfig) -> list[str]:
    """Return the hashes of the files that an evaluation reads: samples, a worse model, measuring networks."""
    given = [Path(str(evaluation[key])) for key in ("samples", "features", "second")]
    given.append(Path(str((evaluation.get("guidance") or {}).get("bad"))))
    return [sha256_of(path) for path in (*given, *sorted(OURS.values())) if path.is_file()]


def folder_name(overrides: Sequence[str], *settings: DictConfig | list[str] | str | None) -> str:
    """Return a folder's name: the readable part of the overrides, and a hash of all that they mean."""
    readable = re.sub(r"[^\w.=-]+", "_", ",".join(overrides))[:60].strip("_")
    values = [OmegaConf.to_container(s) if isinstance(s, DictConfig) else s for s in settings]
    return f"{readable}-{hashlib.sha256(json.dumps(values).encode()).hexdigest()[:10]}"


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise ConfigError, before anything is done, if the runs' scores couldn't be measured and compared."""
    first = runs[0]
    for key in ("features", "second"):
        if isinstance(first.evaluation[key], str):
            load_features(first.evaluation[key], key)
    for run in runs[1:]:
        known = () if first.evaluation.samples or run.evaluation.samples else ("n",)
        for key in (*known, *COMPARABLE):
            ours, theirs = compared(first.evaluation, key), compared(run.evaluation, key)
            if ours != theirs:
                raise ConfigError(
                    f"{run.choice} has {key} {theirs}, but {first.choice} has {ours}: their scores can't be "
                    "compared; give all choices the same"
                )


def check_different(runs: Sequence[Run]) -> None:
    """Raise ConfigError if two choices mean the same."""
    choices: dict[str, str] = {}
    for run in runs:
        if (other := choices.setdefault(run.evaluation.out, run.choice)) != run.choice:
            raise ConfigError(
                f"study.choices.{run.choice} means the same as {other}: give it other overrides, or leave "
                "it out"
            )


def compared(evaluation: DictConfig, key: str) -> Any:
    """Return a key of an evaluation, less what may differ between its seeds."""
    value = evaluation.get(key)
    if isinstance(value, DictConfig):
        value = {name: part for name, part in plain(value).items() if name != "seed"}
    return value
