"""Evaluation: a checkpoint in, scores with their floor out."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from lit_diffusion.common.build import build
from lit_diffusion.common.configs import check_out, plain
from lit_diffusion.common.device import choose_device
from lit_diffusion.common.errors import ConfigError, check_switch, check_text, check_whole_number
from lit_diffusion.common.files import make_folder
from lit_diffusion.common.images import to_uint8
from lit_diffusion.common.log import log, log_table
from lit_diffusion.common.loggers import finish_wandb
from lit_diffusion.common.run_names import named
from lit_diffusion.common.stored import stored_source
from lit_diffusion.data.image_set import converted
from lit_diffusion.data.measured import measured
from lit_diffusion.evaluate.conditions import check_own_data, evaluated_by
from lit_diffusion.evaluate.cost import measure_cost
from lit_diffusion.evaluate.evaluator import Evaluator
from lit_diffusion.evaluate.evaluators import EvaluatorCache
from lit_diffusion.evaluate.images import read_samples
from lit_diffusion.evaluate.likelihood import bits_per_dim, flow_times
from lit_diffusion.evaluate.report import scores_table
from lit_diffusion.evaluate.result import RESULT, Bits, Result
from lit_diffusion.loading import Loaded, load
from lit_diffusion.sample.partial import partial_samples
from lit_diffusion.sample.run import (
    PARTIAL,
    check_room,
    check_sampling,
    sample_missing,
    sampling_settings,
    write_samples,
)

EVALUATORS = EvaluatorCache()  # for all jobs of a multirun


def main(cfg: DictConfig) -> None:
    """Evaluate, and log the scores as a table."""
    result, path = evaluate(cfg, EVALUATORS)
    log_table(scores_table(result))
    log.info(path)


def evaluate(cfg: DictConfig, evaluators: EvaluatorCache | None = None) -> tuple[Result, Path]:
    """Sample as the config says, or take the images in ``cfg.samples``, and score them.

    A sampling that was stopped goes on when the same ``out`` is given.

    Args:
        cfg: the config.
        evaluators: of earlier evaluations, to be used again.

    Returns:
        The result, as evaluation.json in ``cfg.out`` holds it, and that file.

    Raises:
        ConfigError: a checkpoint, a data set, a feature network or a number that can't work.
    """
    evaluators = evaluators or EvaluatorCache()
    check_evaluation(cfg)
    check_out(cfg)
    result = evaluate_model(cfg, evaluators) if cfg.samples is None else evaluate_file(cfg, evaluators)
    return result, Path(cfg.out) / RESULT


def evaluate_file(cfg: DictConfig, evaluators: EvaluatorCache) -> Result:
    """Score the images in ``cfg.samples``."""
    images, labels = read_samples(cfg.samples)
    evaluator = evaluator_of(cfg, None, evaluators)
    make_folder(cfg.out)
    result = scored(evaluator, images, labels, made_by=str(cfg.samples), sampling=None)
    record(cfg, result)
    return result


def evaluate_model(cfg: DictConfig, evaluators: EvaluatorCache) -> Result:
    """Sample from the config's model, and score the samples; write them to ``cfg.out``."""
    loaded = load(cfg)
    evaluator = evaluator_of(cfg, loaded.config, evaluators)
    evaluator.check_images(cfg.n, loaded.shape)
    given, labels = evaluated_by(cfg, loaded, evaluator)
    if cfg.bits_n:
        check_bits(cfg, loaded, evaluator)
    make_folder(cfg.out)
    check_room(cfg, loaded)
    settings = {**sampling_settings(cfg, loaded, given), "data": evaluator.name}
    with partial_samples(Path(cfg.out) / PARTIAL, settings) as samples:
        sample_missing(cfg, loaded, given.y, samples)
        batch = range(min(cfg.batch_size, cfg.n))
        cost = measure_cost(
            [d for d in (loaded.unguided, loaded.worse) if d is not None],
            loaded.device,
            len(batch),
            lambda: loaded.sample(batch, cfg.seed, given.y),
        )
        labels = None if loaded.guidance.unconditional else labels
        sampling = {**samples.settings, **({} if loaded.denoiser.num_classes else {"y": None})}
        parts: dict[str, Any] = {"made_by": model_name(cfg), "sampling": sampling, "cost": cost}
        images, more = samples.images()[: cfg.n], {}
        if cfg.bits_n:
            more["bits_per_dim"], parts["bits"] = mean_bits(cfg, loaded, evaluator)
        if given.y is not None and given.truth is not None:
            more |= evaluator.fidelity(images, to_uint8(given.truth))
            parts["inputs"] = evaluator.input_scores(to_uint8(given.y), to_uint8(given.truth), labels)
        result = scored(evaluator, images, labels, more, **parts)
        write_samples(cfg, samples, given)
        record(cfg, result)
        samples.remove()
    return result


def scored(
    evaluator: Evaluator,
    images: Tensor,
    labels: Tensor | None,
    more: dict[str, float] | None = None,
    **parts: Any,
) -> Result:
    """Return the result for images uint8 (N, C, H, W).

    Args:
        evaluator: what scores them.
        images: the images.
        labels: that they were sampled with, (N,), or None.
        more: scores besides the evaluator's.
        **parts: of the ``Result``.
    """
    return Result(
        n=len(images),
        scores={**evaluator.scores(images, labels), **(more or {})},
        floor=evaluator.floor(len(images), labels is not None),
        floor_n=min(len(images), len(evaluator.test[0])),
        classes=evaluator.histogram(images),
        reference=evaluator.reference,
        evaluator=evaluator.settings,
        features=evaluator.features.info,
        second=evaluator.second.info if evaluator.second else None,
        **parts,
    )


def model_name(cfg: DictConfig) -> str:
    """Return the model's name, as the config has it."""
    if cfg.get("pretrained") is not None:
        return cfg.pretrained.path
    return cfg.ckpt or "mnist"


def evaluation_name(cfg: DictConfig) -> str:
    """Return an evaluation's name: the folder or the file that was evaluated, and the seed."""
    path = Path(cfg.samples or model_name(cfg))
    return f"{path.parent.parent.name if path.suffix == '.ckpt' else path.stem}-s{cfg.seed}"


def check_evaluation(cfg: DictConfig) -> None:
    """Raise ConfigError for a value that can't work, whatever the model and the data."""
    check_sampling(cfg)
    if cfg.input is not None:
        raise ConfigError(f"input is {cfg.input}, but what is scored is made of test images: leave it out")
    for key in ("features", "second"):
        if not (key == "second" and isinstance(cfg[key], bool)):
            check_text(key, cfg[key], or_null=True)
    for key, least in {"k": 1, "cas_images": 0, "bits_n": 0, "bits_steps": 2, "evaluator_seed": 0}.items():
        check_whole_number(key, cfg[key], least)
    check_switch("memorisation", cfg.memorisation)
    if isinstance(cfg.y, str) and cfg.y not in ("data", "all"):
        raise ConfigError(f"y is {cfg.y}: choose data, all, null, one label, or a list of labels")
    if cfg.samples is None:
        check_whole_number("n", cfg.n, least=1)
        if cfg.n <= cfg.k:
            raise ConfigError(
                f"n is {cfg.n} and k is {cfg.k}, the neighbours looked for: choose n larger, or k smaller"
            )
    elif cfg.ckpt is not None or cfg.get("pretrained") is not None:
        raise ConfigError(f"samples {cfg.samples} and a model to sample from are given: leave one out")
    if cfg.second is not None and cfg.second == cfg.features:
        raise ConfigError(f"second is {cfg.second}, which features is too: choose another, or second=false")


def check_bits(cfg: DictConfig, loaded: Loaded, evaluator: Evaluator) -> None:
    """Raise ConfigError if the model has no likelihood that we can compute, or there are too few images."""
    if not 2 <= cfg.bits_n <= (most := len(evaluator.test[0])):
        raise ConfigError(
            f"bits_n is {cfg.bits_n}, and {evaluator.name} has {most} test images: choose a number from 2 to "
            f"{most}, or 0 for no bits per dimension"
        )
    if loaded.denoiser.num_classes:
        check_own_data(cfg, loaded, evaluator, "bits_n=0")
    elif loaded.denoiser.conditional and loaded.condition is None:
        raise ConfigError("bits per dimension are of images and labels, not of prompts: choose bits_n=0")
    flow_times(loaded.denoiser, cfg.bits_steps)


def mean_bits(cfg: DictConfig, loaded: Loaded, evaluator: Evaluator) -> tuple[float, Bits]:
    """Return the mean bits per dimension of some test images, and what they were estimated from."""
    images, labels = evaluator.some_test_images(cfg.bits_n)
    y = labels if loaded.denoiser.num_classes else None
    if loaded.condition is not None:
        y = loaded.condition(*converted(images, labels))
    bits = bits_per_dim(loaded.unguided, images, y, evaluator.seed, cfg.bits_steps, loaded.device)
    standard_error = float(bits.std() / len(bits) ** 0.5)
    labelled = loaded.denoiser.num_classes > 0
    return float(bits.mean()), Bits(len(images), standard_error, cfg.bits_steps, "test", labelled)


def evaluator_of(cfg: DictConfig, trained: DictConfig | None, evaluators: EvaluatorCache) -> Evaluator:
    """Return the evaluator of the config's data, or of those that a model was trained on."""
    if cfg.get("data"):
        if cfg.data_root is not None:
            raise ConfigError(
                f"data_root is {cfg.data_root}, but data are chosen, which have a place of their own: give "
                f"data.source.root={cfg.data_root} instead"
            )
        cfg = measured(cfg)
        source = plain(cfg.data.source)
    elif trained:
        source = stored_source(trained, cfg.data_root, cfg.trust)
    else:
        raise ConfigError("data is missing: choose the real images to compare with, for example data=mnist")
    options = {key: cfg[key] for key in ("features", "second", "k", "cas_images", "memorisation")}
    data = build(cfg.data, "data") if cfg.get("data") else None
    evaluator = evaluators.get(source, seed=cfg.evaluator_seed, device=choose_device(cfg.device), **options)
    if data:
        data.check(*evaluator.test)
    return evaluator


def record(cfg: DictConfig, result: Result) -> None:
    """Write the result, and give the scores, their floor and the cost to the loggers."""
    result.write(Path(cfg.out) / RESULT)
    numbers = {**result.scores, **{f"floor_{name}": score for name, score in result.floor.items()}}
    if result.cost:
        numbers |= {k: v for k, v in vars(result.cost).items() if not isinstance(v, str)}
    for name, logger in cfg.logger.items():
        if name == "wandb":
            logger = named(logger, "evaluate", evaluation_name(cfg), [])
        logger = build(logger, f"logger.{name}")
        logger.log_hyperparams(plain(cfg))
        logger.log_metrics({f"eval/{name}": value for name, value in numbers.items()})
        logger.finalize("success")
    finish_wandb()
