"""What the study command does."""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from omegaconf import DictConfig, ListConfig, OmegaConf

from lit_diffusion import checkpoint
from lit_diffusion.cli import composed
from lit_diffusion.errors import ConfigError, check_chosen, check_whole_number
from lit_diffusion.evaluating import RESULT, evaluate
from lit_diffusion.evaluating import check as check_evaluation
from lit_diffusion.evaluation.comparison import STUDY, compare, markdown
from lit_diffusion.evaluation.features import OURS, load_features
from lit_diffusion.evaluation.report import ROWS
from lit_diffusion.files import whole
from lit_diffusion.guidance import guide
from lit_diffusion.images import make_folder
from lit_diffusion.loading import build_sampler, guidance_of, identity, load
from lit_diffusion.sampling import conditions
from lit_diffusion.training import train

TRAINED = "trained"  # in the folder of a run that is finished

PARTS = {  # of a study
    "train": (ListConfig, NoneType),
    "evaluate": ListConfig,
    "baseline": str,
    "scores": ListConfig,
    "choices": DictConfig,
}

NEEDS = {  # scores that an evaluation can do without, and the key that leaves them out
    "cas": "cas_images",
    "bits_per_dim": "bits_n",
    "nearest": "memorisation",
    "fid_check": "check",
    "class_accuracy_check": "check",
}

ASKED_ALIKE = ("k", "cas_images", "bits_n", "bits_steps", "features", "check", "judge_seed", "data")
SAME = ("n", "reference", "features", "check", "judge")  # the same, in their results


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
    with locked(out):
        for done, each in enumerate(cells, start=1):
            try:
                results.append(finished(each))
            except (KeyboardInterrupt, SystemExit):  # Lightning makes the second of the first
                print(f"stopped; the same command with out={out} goes on", file=sys.stderr)
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


def cell(cfg: DictConfig, choice: str, seed: int, out: Path) -> Cell:
    """The configs of one cell, made before any cell starts, so that a mistake in them costs nothing."""
    study = cfg.study
    own = study.choices[choice] or {}
    own_evaluation, own_training = own.get("evaluate", []), own.get("train", [])
    evaluating = [*study.evaluate, *own_evaluation, f"seed={seed}"]
    evaluation = composed("evaluate", evaluating)
    check_evaluation(evaluation)
    for key in ("features", "check"):
        if isinstance(evaluation[key], str):
            load_features(evaluation[key], key)
    if evaluation.samples and len(cfg.seeds) > 1:
        raise ConfigError(f"{choice} has samples, which no seed changes: choose seeds=[0]")
    for score in study.scores:
        if score in NEEDS and evaluation[NEEDS[score]] in (0, False):
            raise ConfigError(
                f"study.scores has {score}, but study.evaluate has {NEEDS[score]}="
                f"{evaluation[NEEDS[score]]}: change one of them"
            )
    if study.train is None:
        if cfg.ckpt and evaluation.ckpt:
            raise ConfigError(f"ckpt is {cfg.ckpt}, but {choice} has ckpt={evaluation.ckpt}: leave one out")
        evaluation.ckpt = cfg.ckpt or evaluation.ckpt
        ours = evaluation.samples is None and evaluation.get("model") is None
        weights = load(evaluation).identity if ours else None
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


def check_sampling(evaluation: DictConfig, run: DictConfig) -> None:
    """Refuse what the trained model couldn't be sampled with."""
    denoiser = checkpoint.build_denoiser(run)
    build_sampler(evaluation, run).check(denoiser)
    guide(denoiser, *guidance_of(evaluation, run, denoiser.conditional).values())
    conditions(OmegaConf.merge(evaluation, {"y": "all"}) if evaluation.y == "data" else evaluation, denoiser)


def check_training(choice: str, run: DictConfig, evaluation: DictConfig) -> None:
    """Refuse a training that a study can't follow."""
    if evaluation.ckpt or evaluation.samples or evaluation.get("model"):
        raise ConfigError(
            f"{choice} trains a model, but evaluates another: leave out ckpt, samples and model"
        )
    if run.trainer.devices not in (1, "auto") or run.trainer.strategy not in ("auto", "single_device"):
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


def check_alike(cells: Sequence[Cell]) -> None:
    """ConfigError, before anything is done, if the cells' scores couldn't be compared."""
    first = cells[0]
    for each in cells[1:]:
        known = () if first.evaluation.samples or each.evaluation.samples else ("n",)
        for key in (*known, *ASKED_ALIKE):
            ours, theirs = first.evaluation.get(key), each.evaluation.get(key)
            if ours != theirs:
                raise ConfigError(
                    f"{each.choice} has {key} {theirs}, but {first.choice} has {ours}: their scores can't be "
                    "compared; give all choices the same"
                )


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
    last = results[-1]
    same = {key: last[key] for key in ("floor", "floor_n", *SAME)}
    return {
        "name": cfg.name,
        "seeds": list(cfg.seeds),
        "scores": list(cfg.study.scores),
        "baseline": cfg.study.baseline,
        "choices": compare(values, cfg.study.baseline),
        "nfe": {c.choice: r.get("cost", {}).get("nfe") for c, r in zip(cells, results, strict=True)},
        "runs": runs,
        "overrides": OmegaConf.to_container(cfg.study, resolve=True),
        **same,
    }


def say(what: str, result: dict[str, Any], scores: Sequence[str]) -> None:
    numbers = [f"{score} {result['scores'][score]:.4g}" for score in scores if score in result["scores"]]
    print(f"{what}: {', '.join(numbers)}", flush=True)
