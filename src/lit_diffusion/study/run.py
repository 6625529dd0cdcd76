"""Studies: choices times seeds, trained and scored, in one table."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import NoneType

import wandb
from omegaconf import DictConfig, ListConfig

from lit_diffusion.checkpoint import read_checkpoint
from lit_diffusion.common.build import build
from lit_diffusion.common.compose import check_chosen
from lit_diffusion.common.configs import check_out, plain
from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.files import atomic_write, make_folder
from lit_diffusion.common.log import log, log_table, logged_to, silence_warnings
from lit_diffusion.common.loggers import finish_wandb
from lit_diffusion.common.run_names import named
from lit_diffusion.evaluate.evaluators import EvaluatorCache
from lit_diffusion.evaluate.report import SCORES
from lit_diffusion.evaluate.result import RESULT, Result
from lit_diffusion.evaluate.run import evaluate
from lit_diffusion.study.comparison import Comparison, comparison_table, headings, markdown, rows, summaries
from lit_diffusion.study.runs import Run, check_comparable, check_different, name_at_wandb, plan_run
from lit_diffusion.study.sharing import MARKER, Ended, work_through
from lit_diffusion.train.resume import has_ended
from lit_diffusion.train.run import train

TABLE = "study.md"
LOG = "study.log"

PARTS: dict[str, tuple[type | tuple[type, ...], str]] = {  # of a study's file: their types, in words too
    "train": ((ListConfig, NoneType), "a list"),
    "evaluate": (ListConfig, "a list"),
    "baseline": (str, "a text"),
    "scores": (ListConfig, "a list"),
    "choices": (DictConfig, "a group of keys"),
}

SAME = ("n", "reference", "features", "second", "evaluator")  # in results that are to be compared


def main(cfg: DictConfig) -> None:
    """Run the study, and log its table.

    Raises:
        ConfigError: some runs failed.
    """
    result, path = study(cfg)
    log.info(path)
    if result.failures:
        raise ConfigError(
            f"{len(result.failures)} runs failed: see {path}; the same command tries them again"
        )


def study(cfg: DictConfig) -> tuple[Comparison, Path]:
    """Train and score every choice with every seed, and compare them.

    What is finished in ``cfg.out`` isn't done again: the same command with the same ``out`` goes on where
    one that was stopped left off. Several processes, on several machines too, can share the folder: each
    run is done by one of them, and all end with the whole table. A run that fails is listed in it, and
    the others go on. A training's folder is named after its config, so that choices which train alike
    share it, and a change of the config is another training.

    Returns:
        The comparison, as study.json in ``cfg.out`` holds it, and study.md, the table.

    Raises:
        ConfigError: anything that a study, a training or an evaluation can't work with.
    """
    check_out(cfg, shared=True)
    check_study(cfg)
    out = Path(cfg.out)
    silence_warnings()
    runs = [planned(cfg, choice, seed, out) for choice in cfg.study.choices for seed in cfg.seeds]
    check_comparable(runs)
    check_different(runs)
    for run in runs:
        name_at_wandb(run, cfg.name)
    make_folder(out)
    evaluators = EvaluatorCache()
    with logged_to(out / LOG):
        try:
            ended = work_through(runs, partial(result_of, evaluators=evaluators), cfg.study.scores)
        except (KeyboardInterrupt, SystemExit):  # the second from a training
            log.warning(f"stopped; the same command with out={out} goes on")
            raise
        result = compare(cfg, runs, ended)
        result.write(out)
        with atomic_write(out / TABLE) as file:
            file.write(markdown(result).encode())
        log_table(comparison_table(result))
        if cfg.worker == 0:
            log_comparison(cfg, result, runs)
    return result, out / TABLE


def planned(cfg: DictConfig, choice: str, seed: int, out: Path) -> Run:
    """Return a run, or raise ConfigError that names its choice."""
    try:
        return plan_run(cfg, choice, seed, out)
    except ConfigError as error:
        raise ConfigError(f"study.choices.{choice}: {error}") from None


def check_study(cfg: DictConfig) -> None:
    """Raise ConfigError for a study that can't end in a table."""
    check_chosen(cfg, "study")
    for key, (kind, words) in PARTS.items():
        if key not in cfg.study or not isinstance(cfg.study[key], kind):
            raise ConfigError(f"study.{key} is {cfg.study.get(key)}: give {words}, as in conf/study/")
    if not isinstance(cfg.seeds, ListConfig) or not cfg.seeds or len({*cfg.seeds}) < len(cfg.seeds):
        raise ConfigError(f"seeds is {cfg.seeds}: choose a list of different ones, such as [0, 1, 2]")
    for seed in cfg.seeds:
        check_whole_number("seeds", seed, least=0)
    check_whole_number("worker", cfg.worker, least=0)
    if cfg.ckpt and cfg.study.train is not None:
        raise ConfigError(f"ckpt is {cfg.ckpt}, but this study trains its models: leave ckpt out")
    for key in ("choices", "scores"):
        if not cfg.study[key]:
            raise ConfigError(f"study.{key} is {cfg.study[key]}: give at least one")
    if unknown := [key for key in cfg.study if key not in PARTS]:
        raise ConfigError(
            f"study.{unknown[0]} is set, but a study has no {unknown[0]}: it has {', '.join(PARTS)}"
        )
    if cfg.study.baseline not in cfg.study.choices:
        raise ConfigError(
            f"study.baseline is {cfg.study.baseline}: choose one of {', '.join(cfg.study.choices)}"
        )
    for part in ("train", "evaluate"):
        check_overrides(f"study.{part}", cfg.study[part] or [])
    for choice, own in plain(cfg.study)["choices"].items():
        if not isinstance(choice, str):
            raise ConfigError(f"study.choices has {choice!r}, which is no text: put it in quotes")
        if not isinstance(own, (dict, NoneType)):
            raise ConfigError(f"study.choices.{choice} is {own}: it can have train and evaluate")
        for key, overrides in (own or {}).items():
            if key not in ("train", "evaluate"):
                raise ConfigError(f"study.choices.{choice} has {key}: it can have train and evaluate")
            if not isinstance(overrides, list):
                raise ConfigError(f"study.choices.{choice}.{key} is {overrides}: give a list of overrides")
            check_overrides(f"study.choices.{choice}.{key}", overrides)
        if cfg.study.train is None and (own or {}).get("train"):
            raise ConfigError(
                f"study.choices.{choice} has train, but study.train is null, which trains nothing: choose "
                "study.train=[]"
            )
    for score in cfg.study.scores:
        if score not in SCORES:
            raise ConfigError(f"study.scores has {score}: choose some of {', '.join(SCORES)}")


def check_overrides(name: str, overrides: Sequence[object]) -> None:
    """Raise ConfigError unless these are overrides of keys that aren't the study's own."""
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigError(f"{name} has {override}: give overrides, such as steps=10")
        if override.partition("=")[0] in ("out", "seed", "hydra.run.dir"):
            raise ConfigError(f"{name} has {override}, which the study sets itself: leave it out")


def result_of(run: Run, evaluators: EvaluatorCache) -> Result:
    """Return the run's result; train and score it where that isn't done yet."""
    path = Path(run.evaluation.out, RESULT)
    if path.is_file():
        return Result.read(path)
    if run.training and not Path(run.training.out, MARKER).is_file():
        train_to_the_end(run.training)
    result, _ = evaluate(run.evaluation, evaluators)
    return result


def train_to_the_end(cfg: DictConfig) -> None:
    """Train, from the latest checkpoint if a training was stopped here."""
    last = Path(cfg.out, "checkpoints", "last.ckpt")
    if last.is_file():
        start = read_checkpoint(last)
        if not has_ended(cfg, start):
            cfg.ckpt = str(last)
            train(cfg)
    else:
        train(cfg)
    with atomic_write(Path(cfg.out, MARKER)) as file:
        file.write(b"")


def log_comparison(cfg: DictConfig, result: Comparison, runs: Sequence[Run]) -> None:
    """Give W&B the study's table, with samples of each choice, if the config has its logger."""
    if "wandb" not in cfg.logger:
        return
    own = cfg.logger.wandb.copy()
    own.name, own.group = own.name or cfg.name, own.group or cfg.name
    logger = build(named(own, "study", cfg.name, []), "logger.wandb")
    folders = {run.choice: Path(run.evaluation.out) for run in reversed(runs)}  # the first seed's
    pictures = [picture_of(folders[choice]) for choice in result.nfe]
    cells = [[*cells, picture] for cells, picture in zip(rows(result), [*pictures, None], strict=True)]
    logger.log_table("study", columns=[*headings(result), "samples"], data=cells)
    means = {
        f"study/{choice}/{score}": summary.mean
        for choice, scores in result.choices.items()
        for score, summary in scores.items()
    }
    logger.log_metrics(means)
    logger.finalize("success")
    finish_wandb()


def picture_of(folder: Path) -> wandb.Image | None:
    """Return the grid of samples in an evaluation's folder, None where there is none."""
    path = folder / "grid.png"
    return wandb.Image(str(path)) if path.is_file() else None


def compare(cfg: DictConfig, runs: Sequence[Run], ended: Sequence[Ended]) -> Comparison:
    """Return the comparison of the runs that didn't fail.

    Raises:
        ConfigError: all failed, or their results can't be compared.
    """
    done = [(run, result) for run, result in zip(runs, ended, strict=True) if isinstance(result, Result)]
    if not done:
        raise ConfigError(f"all {len(runs)} runs of the study failed; the first: {ended[0]}")
    first = done[0][1]
    values: dict[str, dict[str, list[float | None]]] = {
        choice: {score: [] for score in cfg.study.scores} for choice in cfg.study.choices
    }
    trainings: dict[str, list[str]] = {}
    floor: dict[str, float] = {}
    for run, result in zip(runs, ended, strict=True):
        if isinstance(result, Result):
            check_result(cfg, run, result, first)
            floor |= result.floor  # without labels it has fewer scores
        for score in cfg.study.scores:
            values[run.choice][score].append(result.scores[score] if isinstance(result, Result) else None)
        if run.training:
            trainings.setdefault(run.choice, []).append(Path(run.training.out).name)
    return Comparison(
        name=cfg.name,
        seeds=list(cfg.seeds),
        scores=list(cfg.study.scores),
        baseline=cfg.study.baseline,
        choices=summaries(values, cfg.study.baseline),
        nfe={run.choice: result.cost.nfe if result.cost else None for run, result in done},
        runs=trainings,
        overrides=plain(cfg.study),
        floor=floor,
        floor_n=first.floor_n,
        failures={
            f"{run.choice}, seed {run.seed}": reason
            for run, reason in zip(runs, ended, strict=True)
            if isinstance(reason, str)
        },
        **{key: getattr(first, key) for key in SAME},
    )


def check_result(cfg: DictConfig, run: Run, result: Result, first: Result) -> None:
    """Raise ConfigError if a result can't be compared with the study's first."""
    for score in cfg.study.scores:
        if score not in result.scores:
            raise ConfigError(f"study.scores has {score}, but {run.choice} has none: leave it out")
    for key in SAME:
        if getattr(result, key) != getattr(first, key):
            raise ConfigError(
                f"{run.choice}, seed {run.seed} has {key} {getattr(result, key)}, but the first "
                f"{getattr(first, key)}: their scores can't be compared; give all choices the same"
            )
