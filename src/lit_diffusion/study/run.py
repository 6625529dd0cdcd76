"""Studies: choices times seeds, trained and scored, in one table."""

from collections.abc import Sequence
from pathlib import Path
from types import NoneType

import wandb
from omegaconf import DictConfig, ListConfig

from lit_diffusion.checkpoint import read_checkpoint
from lit_diffusion.common.build import build
from lit_diffusion.common.compose import check_chosen
from lit_diffusion.common.configs import check_out, plain
from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.files import atomic_write, locked, make_folder
from lit_diffusion.common.log import log, log_table, logged_to
from lit_diffusion.common.loggers import finish_wandb
from lit_diffusion.common.run_names import named
from lit_diffusion.evaluate.report import SCORES
from lit_diffusion.evaluate.result import RESULT, Result
from lit_diffusion.evaluate.run import EvaluatorCache, evaluate
from lit_diffusion.study.comparison import Comparison, comparison_table, headings, markdown, rows, summaries
from lit_diffusion.study.runs import Run, check_comparable, name_at_wandb, plan_run
from lit_diffusion.train.resume import has_ended
from lit_diffusion.train.run import train

MARKER = "trained"  # a file in the folder of a training that is finished
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
    """Run the study, and log its table."""
    _, path = study(cfg)
    log.info(path)


def study(cfg: DictConfig) -> tuple[Comparison, Path]:
    """Train and score every choice with every seed, and compare them.

    What is finished in ``cfg.out`` isn't done again: the same command with the same ``out`` goes on where
    one that was stopped left off. A training's folder is named after its config, so that choices
    which train alike share it, and a change of the config is another training.

    Returns:
        The comparison, as study.json in ``cfg.out`` holds it, and study.md, the table.

    Raises:
        ConfigError: anything that a study, a training or an evaluation can't work with.
    """
    check_out(cfg)
    check_study(cfg)
    out = Path(cfg.out)
    runs = [plan_run(cfg, choice, seed, out) for choice in cfg.study.choices for seed in cfg.seeds]
    check_comparable(runs)
    for run in runs:
        name_at_wandb(run, cfg.name)
    make_folder(out)
    evaluators = EvaluatorCache()
    results: list[Result] = []
    with locked(out, "study"), logged_to(out / LOG):
        for number, run in enumerate(runs, start=1):
            try:
                results.append(result_of(run, evaluators))
            except (KeyboardInterrupt, SystemExit):  # the second from a training
                log.warning(f"stopped; the same command with out={out} goes on")
                raise
            check_result(cfg, run, results)
            scores = ", ".join(f"{score} {results[-1].scores[score]:.4g}" for score in cfg.study.scores)
            log.info(f"{number} of {len(runs)}: {run.choice}, seed {run.seed}: {scores}")
        result = compare(cfg, runs, results)
        result.write(out)
        with atomic_write(out / TABLE) as file:
            file.write(markdown(result).encode())
        log_table(comparison_table(result))
        log_comparison(cfg, result, runs)
    return result, out / TABLE


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
    for choice, own in plain(cfg.study)["choices"].items():
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


def check_result(cfg: DictConfig, run: Run, results: Sequence[Result]) -> None:
    """Raise ConfigError, before more time is spent, if the last result can't be compared with the others."""
    first, last = results[0], results[-1]
    for score in cfg.study.scores:
        if score not in last.scores:
            raise ConfigError(f"study.scores has {score}, but {run.choice} has none: leave it out")
    for key in SAME:
        if getattr(last, key) != getattr(first, key):
            raise ConfigError(
                f"{run.choice}, seed {run.seed} has {key} {getattr(last, key)}, but the first "
                f"{getattr(first, key)}: their scores can't be compared; give all choices the same"
            )


def log_comparison(cfg: DictConfig, result: Comparison, runs: Sequence[Run]) -> None:
    """Give W&B the study's table, with samples of each choice, if the config has its logger."""
    if "wandb" not in cfg.logger:
        return
    logger = build(named(cfg.logger.wandb, "study", cfg.name, []), "logger.wandb")
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


def compare(cfg: DictConfig, runs: Sequence[Run], results: Sequence[Result]) -> Comparison:
    """Return the comparison of the runs' results."""
    values: dict[str, dict[str, list[float]]] = {
        choice: {score: [] for score in cfg.study.scores} for choice in cfg.study.choices
    }
    trainings: dict[str, list[str]] = {}
    floor: dict[str, float] = {}
    for run, result in zip(runs, results, strict=True):
        for score in cfg.study.scores:
            values[run.choice][score].append(result.scores[score])
        if run.training:
            trainings.setdefault(run.choice, []).append(Path(run.training.out).name)
        floor |= result.floor  # without labels it has fewer scores
    return Comparison(
        name=cfg.name,
        seeds=list(cfg.seeds),
        scores=list(cfg.study.scores),
        baseline=cfg.study.baseline,
        choices=summaries(values, cfg.study.baseline),
        nfe={run.choice: r.cost.nfe if r.cost else None for run, r in zip(runs, results, strict=True)},
        runs=trainings,
        overrides=plain(cfg.study),
        floor=floor,
        floor_n=results[0].floor_n,
        **{key: getattr(results[0], key) for key in SAME},
    )
