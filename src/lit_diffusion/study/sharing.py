"""The runs of a study, each done once, by one process or by several that share the study's folder."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from lit_diffusion.common.errors import explain
from lit_diffusion.common.files import make_folder, remove_unfinished
from lit_diffusion.common.log import log
from lit_diffusion.evaluate.result import Result
from lit_diffusion.study.runs import Run

MARKER = "trained"  # a file in the folder of a training that is finished

Ended = Result | str  # a run's result, or the reason why there is none


def work_through(runs: Sequence[Run], work: Callable[[Run], Result], scores: Sequence[str]) -> list[Ended]:
    """Return how each run ended: those that no other process is at work on first, then the others.

    Args:
        runs: of the study.
        work: does a run, or reads what was done.
        scores: that are logged.
    """
    ended: dict[int, Ended] = {}
    for waits in (False, True):
        for number, run in enumerate(runs):
            if number in ended or (claim := claimed(run, waits)) is None:
                continue
            with claim:
                ended[number] = attempt(run, work)
            how = in_words(ended[number], scores)
            log.info(f"{len(ended)} of {len(runs)}: {run.choice}, seed {run.seed}: {how}")
    return [ended[number] for number in range(len(runs))]


def claimed(run: Run, waits: bool) -> ExitStack | None:
    """Return a context that keeps other processes from a run's folders, None if one is at work there.

    A lock ends with the process that has it, so that a run of one that was killed is anyone's again.

    Args:
        run: the run.
        waits: whether to wait for the other process.
    """
    folders = [Path(run.evaluation.out)]
    if run.training and not Path(run.training.out, MARKER).is_file():
        folders.insert(0, Path(run.training.out))  # other choices may share it
    with ExitStack() as stack:
        for folder in folders:
            lock = FileLock(make_folder(folder.parent) / f"{folder.name}.lock")
            try:
                stack.enter_context(lock.acquire(blocking=waits))
            except Timeout:
                return None
            remove_unfinished(folder)
        return stack.pop_all()


def attempt(run: Run, work: Callable[[Run], Result]) -> Ended:
    """Return a run's result, or the reason why it failed; the other runs go on."""
    try:
        return work(run)
    except Exception as error:
        if (reason := explain(error)) is None:
            log.exception("a fault of the program, or of a part that was added to it")
            reason = f"{type(error).__name__}: {error}"
        return reason


def in_words(ended: Ended, scores: Sequence[str]) -> str:
    """Return a run's scores, or why it failed."""
    if isinstance(ended, str):
        return f"failed: {ended}"
    return ", ".join(f"{score} {ended.scores[score]:.4g}" for score in scores if score in ended.scores)
