"""What the study command does."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, ListConfig, OmegaConf

from lit_diffusion import checkpoint
from lit_diffusion.common.errors import ConfigError, check_chosen, check_whole_number
from lit_diffusion.common.files import whole
from lit_diffusion.common.images import make_folder
from lit_diffusion.common.log import log, log_table, logged_to
from lit_diffusion.evaluate.report import ROWS
from lit_diffusion.evaluate.run import RESULT, evaluate
from lit_diffusion.study.comparison import STUDY, compare, markdown, table
from lit_diffusion.study.runs import Cell, cell, check_alike
from lit_diffusion.train.run import TERMINATED, train

TRAINED = "trained"  # in the folder of a run that is finished

PARTS = {  # of a study
    "train": (ListConfig, NoneType),
    "evaluate": ListConfig,
    "baseline": str,
    "scores": ListConfig,
    "choices": DictConfig,
}

SAME = ("n", "reference", "features", "check", "judge")  # in results that are to be compared


def main(cfg: DictConfig) -> None:
    """Run the study, and log its table."""
    result, path = study(cfg)
    log_table(table(result))
    log.info(path)


def study(cfg: DictConfig) -> tuple[dict[str, Any], Path]:
    """Train and score every choice with every seed, and compare them.

    What is finished in ``cfg.out`` isn't done again: the same command with the same ``out`` goes on where
    one that was stopped has been. A training's folder is named after its config, so that choices
    which train alike share it, and a change of the config is another training.

    Returns:
        The comparison, as study.json in ``cfg.out`` holds it, and study.md, the table.

    Raises:
        ConfigError: anything that a study, a training or an evaluation can't work with.
    """
    check(cfg)
    out = make_folder(cfg.out)
    cells = [cell(cfg, choice, seed, out) for choice in cfg.study.choices for seed in cfg.seeds]
    check_alike(cells)
    results = []
    with locked(out), logged_to(out / "study.log"):
        for done, each in enumerate(cells, start=1):
            try:
                results.append(finished(each))
            except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes the second of the first
                log.warning(f"stopped; the same command with out={out} goes on")
                if getattr(stop, "code", None) == TERMINATED:
                    raise
                raise KeyboardInterrupt from None
            check_result(cfg, each, results)
            say(f"{done} of {len(cells)}: {each.choice}, seed {each.seed}", results[-1], cfg.study.scores)
    result = comparison(cfg, cells, results)
    with whole(out / STUDY) as file:
        file.write(json.dumps(result, indent=2).encode())
    with whole(out / "study.md") as file:
        file.write(markdown(result).encode())
    return result, out / "study.md"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other studies out of the folder."""
    lock = FileLock(folder / "lock")
    try:
        with lock.acquire(blocking=False):
            yield
    except Timeout:
        raise ConfigError(f"another study is at work in {folder}: choose another out") from None


def check(cfg: DictConfig) -> None:
    """Refuse a study that can't end in a table."""
    check_chosen(cfg, "study")
    for key, kind in PARTS.items():
        if key not in cfg.study or not isinstance(cfg.study[key], kind):
            raise ConfigError(
                f"study.{key} is {cfg.study.get(key)}: see conf/study/ for what a study is made of"
            )
    if not isinstance(cfg.seeds, ListConfig) or not cfg.seeds or len({*cfg.seeds}) < len(cfg.seeds):
        raise ConfigError(f"seeds is {cfg.seeds}: choose a list of different ones, such as [0, 1, 2]")
    for seed in cfg.seeds:
        check_whole_number("seeds", seed, least=0)
    if cfg.ckpt and cfg.study.train is not None:
        raise ConfigError(f"ckpt is {cfg.ckpt}, but this study trains its models: leave ckpt out")
    if cfg.study.baseline not in cfg.study.choices:
        raise ConfigError(
            f"study.baseline is {cfg.study.baseline}: choose one of {', '.join(cfg.study.choices)}"
        )
    for choice, own in cfg.study.choices.items():
        for key in own or {}:
            if key not in ("train", "evaluate"):
                raise ConfigError(f"study.choices.{choice} has {key}: it can have train and evaluate")
            if not isinstance(own[key], ListConfig):
                raise ConfigError(f"study.choices.{choice}.{key} is {own[key]}: give a list of overrides")
        if cfg.study.train is None and (own or {}).get("train"):
            raise ConfigError(
                f"study.choices.{choice} has train, but study.train is null, which trains nothing: choose "
                "study.train=[]"
            )
    for score in cfg.study.scores:
        if score not in ROWS:
            raise ConfigError(f"study.scores has {score}: choose some of {', '.join(ROWS)}")


def finished(cell: Cell) -> dict[str, Any]:
    """The cell's result; what isn't there yet is trained and scored."""
    path = Path(cell.evaluation.out, RESULT)
    if path.is_file():
        return json.loads(path.read_text())
    if cell.run and not Path(cell.run.out, TRAINED).is_file():
        train_on(cell.run)
    result, _ = evaluate(cell.evaluation)
    return result


def train_on(cfg: DictConfig) -> None:
    """Train, from the latest checkpoint if a training was stopped here."""
    last = Path(cfg.out, "checkpoints", "last.ckpt")
    if last.is_file():
        start = checkpoint.read(last)
        if not checkpoint.has_ended(cfg, start):
            cfg.ckpt = str(last)
            train(cfg)
    else:
        train(cfg)
    with whole(Path(cfg.out, TRAINED)) as file:
        file.write(b"")


def check_result(cfg: DictConfig, cell: Cell, results: Sequence[dict[str, Any]]) -> None:
    """ConfigError, before more time is spent, if the last result can't be compared with the others."""
    first, last = results[0], results[-1]
    for score in cfg.study.scores:
        if score not in last["scores"]:
            raise ConfigError(f"study.scores has {score}, but {cell.choice} has none: leave it out")
    for key in SAME:
        if last[key] != first[key]:
            raise ConfigError(
                f"{cell.choice}, seed {cell.seed} has {key} {last[key]}, but the first {first[key]}: their "
                "scores can't be compared; give all choices the same"
            )


def comparison(cfg: DictConfig, cells: Sequence[Cell], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What ``study`` returns."""
    values = {choice: {score: [] for score in cfg.study.scores} for choice in cfg.study.choices}
    for each, result in zip(cells, results, strict=True):
        for score in cfg.study.scores:
            values[each.choice][score].append(result["scores"][score])
    runs: dict[str, list[str]] = {}
    for each in cells:
        if each.run:
            runs.setdefault(each.choice, []).append(Path(each.run.out).name)
    same = {key: results[0][key] for key in ("floor_n", *SAME)}
    floor: dict[str, float] = {}
    for result in results:  # without labels it has fewer scores
        floor |= result["floor"]
    return {
        "name": cfg.name,
        "seeds": list(cfg.seeds),
        "scores": list(cfg.study.scores),
        "baseline": cfg.study.baseline,
        "choices": compare(values, cfg.study.baseline),
        "nfe": {c.choice: r.get("cost", {}).get("nfe") for c, r in zip(cells, results, strict=True)},
        "runs": runs,
        "overrides": OmegaConf.to_container(cfg.study, resolve=True),
        "floor": floor,
        **same,
    }


def say(what: str, result: dict[str, Any], scores: Sequence[str]) -> None:
    numbers = [f"{score} {result['scores'][score]:.4g}" for score in scores if score in result["scores"]]
    log.info(f"{what}: {', '.join(numbers)}")
