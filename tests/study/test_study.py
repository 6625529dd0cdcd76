"""Studies: choices times seeds, each run once, intervals against scipy."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import numpy as np
import offline
import pytest
import torch
from commands import TINY
from filelock import FileLock
from forked import run_script
from omegaconf import OmegaConf
from scipy import stats

from lit_diffusion.common.compose import CONFIG_DIR, composed
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.figures import curves
from lit_diffusion.study import run as studying
from lit_diffusion.study.comparison import (
    Comparison,
    markdown,
    mean_and_interval,
    summaries,
    t_quantile,
    two_digits,
)
from lit_diffusion.study.run import study
from lit_diffusion.study.runs import Run, check_comparable
from lit_diffusion.study.sharing import MARKER

STUDY = {
    "train": [
        "data.source._target_=digits.Mnist",
        "data.val_size=60",
        "data.batch_size=32",
        "trainer=cpu",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=3",
        "logger=csv",
        "callbacks.samples=null",
        "model.num_classes=10",
        *TINY["small_unet"],
    ],
    "evaluate": [
        "n=12",
        "steps=2",
        "cas_images=0",
        "bits_n=0",
        "memorisation=false",
        "second=false",
        "logger=none",
    ],
    "baseline": "plain",
    "scores": ["fid", "class_accuracy"],
    "choices": {
        "plain": None,
        "guided": {"evaluate": ["guidance.scale=30"]},
        "linear": {"train": ["schedule=linear"]},
    },
}


def settings(out, seeds=(0, 1), **changes) -> dict:
    small = {**STUDY, **changes}
    return {
        "ckpt": None,
        "trust": [],
        "seeds": list(seeds),
        "name": "small",
        "out": str(out),
        "logger": {},
        "worker": 0,
        "study": small,
    }


def folders(folder: Path) -> list[Path]:
    """The folders of a study's trainings, or of its evaluations."""
    return [path for path in folder.iterdir() if path.is_dir()]


@pytest.fixture
def studied(tmp_path):
    """studied(seeds, folder, **changes of the study): what a small study finds."""

    def made(seeds=(0, 1), folder="study", **changes):
        result, _ = study(OmegaConf.create(settings(tmp_path / folder, seeds, **changes)))
        return result

    return made


@pytest.fixture
def calls(monkeypatch):
    """What was trained and scored, in order; stop_at = k: Ctrl-C instead of the k-th."""

    class Calls(list):
        stop_at = None

    seen = Calls()
    for name in ("train", "evaluate"):
        work = getattr(studying, name)

        def counted(cfg, *rest, name=name, work=work):
            if len(seen) == seen.stop_at:
                seen.stop_at = None
                raise KeyboardInterrupt
            seen.append((name, cfg.out))
            return work(cfg, *rest)

        monkeypatch.setattr(studying, name, counted)
    return seen


def test_a_study_ends_in_one_table(studied, calls, tmp_path):
    result = studied()
    assert [name for name, _ in calls].count("train") == 4  # plain and guided share a training for each seed
    assert [name for name, _ in calls].count("evaluate") == 6
    first, second = result.choices["plain"]["fid"].values
    assert first != second
    assert Comparison.read(tmp_path / "study") == result
    for label, run in curves.runs_of(str(tmp_path / "study")):
        seed = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=False)["hyper_parameters"]["seed"]
        assert label.endswith(f"seed {seed}")
    assert result.runs["plain"] == result.runs["guided"] != result.runs["linear"]
    text = (tmp_path / "study" / "study.md").read_text()
    assert text == markdown(result)
    lines = text.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| plain", "| guided", "| linear", "| floor"]
    assert "n = 12" in text and "Seeds 0, 1" in text and result.features.sha256[:12] in text


TOLD = """
import json, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from lit_diffusion.common.compose import CONFIG_DIR
from lit_diffusion.study.run import study
cfg = OmegaConf.create(json.loads(sys.argv[1]))
with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
    cfg.logger = compose("evaluate", ["logger=wandb", f"out={cfg.out}"]).logger
study(cfg)
"""


@pytest.mark.slow
def test_what_wandb_is_told_of_a_study(tmp_path):
    """Its trainings and evaluations in one group, named by choice and seed; the table, with pictures."""
    (tmp_path / "told.py").write_text(TOLD)
    training = [o.replace("logger=csv", "logger=wandb") for o in STUDY["train"]]
    evaluation = [o.replace("logger=none", "logger=wandb") for o in STUDY["evaluate"]]
    choices = {"plain": None, "linear": STUDY["choices"]["linear"]}
    cfg = settings(tmp_path / "study", (5,), train=training, evaluate=evaluation, choices=choices)
    result = run_script("told.py", json.dumps(cfg), cwd=tmp_path, WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    for part, job_type in {"runs": "train", "evaluations": "evaluate"}.items():
        told = [offline.settings(offline.records(f)) for f in folders(tmp_path / "study" / part)]
        assert {run["display_name"] for run in told} == {"plain-s5", "linear-s5"}
        assert {(run["run_group"], run["job_type"]) for run in told} == {("small", job_type)}
    found = offline.records(tmp_path / "study")
    assert offline.settings(found)["display_name"] == "small"
    (row,) = [item for item in offline.history(found, "study/") if item]
    assert row["study/linear/fid"] == Comparison.read(tmp_path / "study").choices["linear"]["fid"].mean
    (path,) = (tmp_path / "study").glob("wandb/offline-run-*/files/media/table/*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["choice", "NFE", "FID ↓", "class accuracy ↑", "samples"]
    assert [cells[0] for cells in table["data"]] == ["plain", "linear", "floor"]
    assert [bool(cells[-1]) for cells in table["data"]] == [True, True, False]


def test_what_is_finished_is_not_done_again(studied, calls):
    straight = studied(folder="straight")
    expected = [name for name, _ in calls]
    calls.clear()
    for done in (1, 3, 8):  # after a training, between two runs, in the middle of one
        calls.stop_at = done
        with pytest.raises(KeyboardInterrupt):
            studied()
        assert len(calls) == done
    assert studied() == straight
    assert [name for name, _ in calls] == expected
    assert len({out for _, out in calls}) == len(expected)
    calls.clear()
    assert studied() == straight
    assert calls == []
    studied(seeds=(0, 1, 2))  # only the new seed's
    assert len(calls) == 5


DYING = """
import json, os, signal, sys
from omegaconf import OmegaConf
from lit_diffusion.train.module import LitDiffusion
from lit_diffusion.study.run import study
from lit_diffusion.study.runs import Run, check_comparable
forward, steps, stop = LitDiffusion.training_step, [], int(sys.argv[1])
def step(self, batch, batch_idx):
    steps.append(1)
    if len(steps) == stop: os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, batch, batch_idx)
LitDiffusion.training_step = step
study(OmegaConf.create(json.loads(sys.argv[2])))
print(len(steps))
"""
TYPED = """
from lit_diffusion.common.cli import command
sys.argv[1:] = sys.argv[2:]
command("study")
"""


def test_killed_in_the_middle_of_a_training(tmp_path, studied):
    (tmp_path / "dying.py").write_text(DYING)
    asked = json.dumps(settings(tmp_path / "study", seeds=[0]))
    killed = run_script("dying.py", "11", asked, cwd=tmp_path)  # in the second training's second epoch
    assert killed.returncode == -signal.SIGKILL
    again = run_script("dying.py", "0", asked, cwd=tmp_path)
    assert again.stdout.splitlines()[-1] == "3"  # of 12 steps: 6 of a finished run, 3 of a saved epoch
    found = Comparison.read(tmp_path / "study")
    torch.set_num_threads(1)
    assert found == studied(seeds=[0], folder="straight")


def test_interrupted_in_the_middle_of_a_training(tmp_path):
    """As typed: the choices of a study are a file of its own."""
    (tmp_path / "conf" / "study").mkdir(parents=True)
    OmegaConf.save(STUDY, tmp_path / "conf" / "study" / "small.yaml")
    (tmp_path / "dying.py").write_text(DYING.replace("SIGKILL", "SIGINT").partition("study(Omega")[0] + TYPED)
    command = ["small", "seeds=[0]", f"hydra.searchpath=[file://{tmp_path}/conf]"]
    stopped = run_script("dying.py", "3", *command, cwd=tmp_path)
    assert stopped.returncode == 130
    assert "the same command with out=outputs/study/small goes on" in stopped.stderr
    assert run_script("dying.py", "0", *command[1:], cwd=tmp_path).returncode == 1  # no study chosen
    assert [path.name for path in (tmp_path / "outputs" / "study").iterdir()] == ["small"]
    again = run_script("dying.py", "0", *command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "small, seeds 0" in again.stdout
    finished = tmp_path / "outputs" / "study" / "small"
    assert (finished / "study.md").is_file()
    assert "2 of 3: guided, seed 0: fid " in (finished / "study.log").read_text()


@pytest.mark.parametrize("status", [130, 143])
def test_a_signal_keeps_its_status(studied, monkeypatch, caplog, status):
    def end(cfg):
        raise SystemExit(status)

    monkeypatch.setattr(studying, "train", end)
    with pytest.raises(SystemExit) as stopped:
        studied(seeds=[0])
    assert stopped.value.code == status
    assert "goes on" in caplog.text


@pytest.mark.slow
def test_two_processes_share_a_study(studied, tmp_path):
    """Each training and each evaluation is done by one of them, and both have the whole table."""
    (tmp_path / "conf" / "study").mkdir(parents=True)
    OmegaConf.save(STUDY, tmp_path / "conf" / "study" / "small.yaml")
    command = ["small", "seeds=[0,1]", f"hydra.searchpath=[file://{tmp_path}/conf]", f"out={tmp_path}/study"]

    def worker(name):
        (tmp_path / name).mkdir()
        return run_script("-m", "lit_diffusion.study", *command, cwd=tmp_path / name)

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(worker, ["one", "other"]))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    said = (tmp_path / "study" / "study.log").read_text()
    assert (said.count(" parameters"), said.count("6 of 6: ")) == (4, 2)
    torch.set_num_threads(1)
    assert Comparison.read(tmp_path / "study").choices == studied(folder="alone").choices


def test_a_run_that_another_process_has_is_waited_for(studied, tmp_path, monkeypatch):
    """Until the other two are done, and this process waits."""
    cfg = OmegaConf.create(settings(tmp_path / "study", [0]))
    place = Path(studying.plan_run(cfg, "plain", 0, tmp_path / "study").evaluation.out)
    place.parent.mkdir(parents=True)
    held, released, evaluated, evaluate = Event(), Event(), [], studying.evaluate

    def hold():
        with FileLock(place.with_name(f"{place.name}.lock")):
            held.set()
            released.wait()

    def counted(cfg, *rest):
        evaluated.append(cfg.out)
        if len(evaluated) == 2:
            released.set()
        return evaluate(cfg, *rest)

    monkeypatch.setattr(studying, "evaluate", counted)
    other = Thread(target=hold)
    other.start()
    held.wait()
    studied([0])
    other.join()
    assert evaluated[2:] == [str(place)]


def test_a_run_that_fails_leaves_the_others(studied, tmp_path):
    choices = {**STUDY["choices"], "broken": {"train": ["optimizer.lr=1e30"]}}
    result = studied(choices=choices)
    assert {*result.choices} == {"plain", "guided", "linear"}
    assert {*result.failures} == {"broken, seed 0", "broken, seed 1"}
    assert Comparison.read(tmp_path / "study") == result
    text = (tmp_path / "study" / "study.md").read_text()
    assert "- broken, seed 0 failed: " in text and "isn't finite" in text
    with pytest.raises(ConfigError, match=r"2 runs failed: see .*study\.md"):
        studying.main(OmegaConf.create(settings(tmp_path / "study", choices=choices)))
    with pytest.raises(ConfigError, match=r"all 1 runs of the study failed; the first: .*finite"):
        studied([0], "other", choices={"broken": choices["broken"]}, baseline="broken")


def test_differences_are_of_the_seeds_that_both_have():
    values = {"a": {"fid": [1.0, None, 21.0]}, "b": {"fid": [2.0, 12.0, 23.0]}, "c": {"fid": [None] * 3}}
    found = summaries(values, "a")
    assert {*found} == {"a", "b"}
    assert found["b"]["fid"].difference == 1.5
    assert found["a"]["fid"].values == [1.0, None, 21.0]


def test_data_that_differ_in_the_seed_alone_can_be_compared():
    evaluations = [composed("evaluate", ["data=mnist", f"seed={seed}"]) for seed in (0, 1)]
    runs = [Run("plain", seed, None, evaluation) for seed, evaluation in enumerate(evaluations)]
    check_comparable(runs)
    evaluations[1].data.val_size = 60
    with pytest.raises(ConfigError, match=r"plain has data .* but plain has"):
        check_comparable(runs)


def test_what_cannot_be_compared_is_not(studied, calls, tmp_path):
    """Where that shows in the results alone: a file of samples may hold any number."""
    for n in (14, 12):
        np.savez(tmp_path / f"{n}.npz", images=np.zeros((n, 1, 28, 28), np.uint8))
    choices = {str(n): {"evaluate": [f"samples={tmp_path}/{n}.npz"]} for n in (14, 12)}
    evaluate = [*STUDY["evaluate"], "data=mnist", "data.source._target_=digits.Mnist"]
    with pytest.raises(ConfigError, match="12, seed 0 has n 12, but the first 14"):
        studied([0], train=None, evaluate=evaluate, choices=choices, baseline="14", scores=["fid"])
    assert len(calls) == 2


def test_a_training_that_ended_is_not_resumed(studied, calls, monkeypatch):
    """Killed between its last checkpoint and the note that it is finished."""
    straight = studied(seeds=[0])
    (_, run), *_ = calls
    Path(run, MARKER).unlink()
    for scored in folders(Path(run).parents[1] / "evaluations"):
        (scored / "evaluation.json").unlink()
    calls.clear()
    assert studied(seeds=[0]) == straight
    assert [name for name, _ in calls] == ["evaluate"] * 3


def test_nothing_is_trained_for_a_model_that_is_there(studied, trained, tmp_path, calls):
    ckpt = trained("data.source._target_=digits.Mnist")
    choices = {"plain": {}, "guided": {"evaluate": ["guidance.scale=30"]}}
    given = {"ckpt": str(ckpt), "trust": ["digits.Mnist"]}
    options = settings(tmp_path / "study", train=None, choices=choices) | given
    result, _ = study(OmegaConf.create(options))
    assert [name for name, _ in calls] == ["evaluate"] * 4
    assert result.choices["guided"]["fid"].difference != 0
    contents = torch.load(ckpt)
    contents["callbacks"] = {}
    torch.save(contents, ckpt)  # another model of the same name
    study(OmegaConf.create(options))
    assert len(calls) == 8
    mistakes = {
        "y=11": "y is 11",
        "ckpt=b.ckpt": "plain has ckpt",
        "+pretrained.path=here": "plain has pretrained",
    }
    for override, message in mistakes.items():
        options["study"]["choices"]["plain"] = {"evaluate": [override]}
        with pytest.raises(ConfigError, match=message):
            study(OmegaConf.create(options))
    assert len(calls) == 8


def test_samples_of_the_same_name_are_looked_at(tmp_path, calls):
    """A file that was written anew is another; and no seed changes it."""
    evaluate = [*STUDY["evaluate"], "data=mnist", "data.source._target_=digits.Mnist"]
    choices = {"file": {"evaluate": [f"samples={tmp_path}/samples.npz"]}}
    options = {"train": None, "choices": choices, "evaluate": evaluate, "baseline": "file", "scores": ["fid"]}
    for grey in (0, 0, 255):
        np.savez(tmp_path / "samples.npz", images=np.full((12, 1, 28, 28), grey, np.uint8))
        study(OmegaConf.create(settings(tmp_path / "study", [0], **options)))
    assert len(calls) == 2
    with pytest.raises(ConfigError, match="file has samples, which no seed changes"):
        study(OmegaConf.create(settings(tmp_path / "study", [0, 1], **options)))


STUDIES = sorted(path.stem for path in Path(CONFIG_DIR, "study").glob("*.yaml"))
SHORT = ("guidance", "record", "recipes")  # to compose, a third of a second for each choice


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.slow]) for name in STUDIES]
)
def test_the_studies_that_ship(config, name, tmp_path):
    """All their choices mean something, each something else."""
    cfg = config(f"study={name}", f"name={name}", "seeds=[0]", config_name="study")
    first_trained = "outputs/train/worse/checkpoints/last.ckpt"  # for the study methods
    cfg = OmegaConf.create(OmegaConf.to_yaml(cfg).replace(first_trained, "mnist"))
    studying.check_study(cfg)
    runs = [studying.plan_run(cfg, choice, 0, tmp_path) for choice in cfg.study.choices]
    studying.check_comparable(runs)
    assert len({run.evaluation.out for run in runs}) == len(runs) > 1


@pytest.mark.parametrize(
    "x, text", [(0.03912, "+0.039"), (-44.6, "-45"), (212.4, "+212"), (-99.4, "-99"), (99.6, "+100")]
)
def test_differences_are_two_digits(x, text):
    assert two_digits(x, "+") == text
    assert two_digits(abs(x)) == text[1:]


def test_intervals():
    for degrees in (1, 2, 4, 30):
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)
    values = [1.0, 2.0, 4.0]
    low, high = stats.t.interval(0.95, 2, loc=stats.tmean(values), scale=stats.sem(values))
    assert mean_and_interval(values) == pytest.approx(((low + high) / 2, (high - low) / 2), rel=1e-3)
    assert mean_and_interval([3.0]) == (3.0, None)


def test_differences_are_paired():
    """What a seed adds to both cancels."""
    values = {"a": {"fid": [1.0, 11.0, 21.0]}, "b": {"fid": [2.0, 12.1, 21.9]}}
    found = summaries(values, "a")
    assert found["a"]["fid"].difference is None
    other = found["b"]["fid"]
    assert other.difference == pytest.approx(1.0)
    assert other.difference_interval < 0.3 < 20 < other.interval


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"baseline": "none"}, "study.baseline is none: choose one of plain, guided, linear"),
        ({"scores": ["beauty"]}, "study.scores has beauty"),
        ({"scores": ["cas"]}, "study.scores has cas, but"),
        ({"scores": "fid"}, "study.scores is fid: give a list"),
        ({"choices": None}, "study.choices is None: give a group of keys"),
        ({"choices": {"plain": {"training": []}}}, "choices.plain has training"),
        ({"choices": {"plain": {"train": "seed=1"}}}, "choices.plain.train is seed=1: give a list"),
        ({"choices": {"plain": None, "more": {"evaluate": ["n=14"]}}}, "more has n 14, but plain has 12"),
        ({"choices": {"plain": {"evaluate": ["guidance.scale=lots"]}}}, "guidance.scale is lots"),
        ({"choices": {"plain": {"evaluate": ["sampler=heun", "steps=0"]}}}, "sampler.steps is 0"),
        ({"choices": {"plain": None, "b": {}}}, "study.choices.b means the same as plain"),
        ({"choices": {"plain": None, 10: None}}, "study.choices has 10, which is no text"),
        ({"train": None}, "choices.linear has train, but study.train is null"),
        ({"train": ["modle=small_unet"]}, "modle"),
        ({"train": [*STUDY["train"], "trainer=ddp_cpu"]}, "trainer.devices 2"),
        ({"train": [*STUDY["train"], "trainer.devices=auto"]}, "trainer.devices auto"),
        ({"train": [*STUDY["train"], "callbacks.best=null"]}, "callbacks.best or callbacks.last"),
        ({"evaluate": ["ckpt=model.ckpt"]}, "plain trains a model, but evaluates another"),
        ({"evaluate": ["n=5"]}, "n is 5"),
        ({"evaluate": [*STUDY["evaluate"], "features=vgg"]}, "features is vgg"),
        ({"evaluate": [*STUDY["evaluate"], "y=11"]}, "y is 11: choose all, null, or labels from 0 to 9"),
        ({"evaluate": [*STUDY["evaluate"], "sampler=ancestral", "steps=3000"]}, "wants 3000 steps"),
        (
            {"evaluate": [*STUDY["evaluate"], "guidance=cfg_pp", "sampler=ddim", "sampler.clip=true"]},
            "needs estimates of x and eps that meet in x_t",
        ),
        ({"evaluate": [*STUDY["evaluate"], "guidance=autoguidance"]}, "give guidance.bad=PATH"),
        (
            {"evaluate": [*STUDY["evaluate"], "guidance=autoguidance", "guidance.bad=no.ckpt"]},
            "no.ckpt does not",
        ),
        ({"evaluate": [*STUDY["evaluate"], "ema=0.1"]}, "ema is 0.1, but the training keeps no averages"),
        ({"train": [*STUDY["train"], "module.label_dropout=0"]}, "module.label_dropout is 0"),
        ({"evaluate": ["n=many,=", "steps"]}, "overrides of evaluate: n=many,= steps"),
        ({"seeds": []}, "seeds is"),
        ({"seeds": [0, 0]}, "seeds is"),
        ({"seeds": [-1]}, "seeds is -1"),
    ],
)
def test_mistakes_cost_nothing(studied, calls, changes, message):
    with pytest.raises(ConfigError, match=message):
        studied(**changes)
    assert calls == []
