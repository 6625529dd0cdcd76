"""What reaches W&B, read back from an offline run's file by W&B's own reader."""

import json

import numpy as np
import pytest
from commands import DIGITS, ROOT, TINY
from digits import Digits
from forked import run_script
from offline import history, records, settings
from PIL import Image

from lit_diffusion.common.workspace import workspace

OPTIONS = [*DIGITS, *TINY["small_unet"], "debug=limit", "sampler=ddim", "logger=wandb"]


@pytest.fixture
def trained(tmp_path):
    def made(*overrides: str, **environment: str):
        result = run_script(str(ROOT / "train.py"), *overrides, *OPTIONS, cwd=tmp_path, **environment)
        assert result.returncode == 0, result.stderr
        return result

    return made


def test_an_offline_run_holds_config_losses_by_bin_and_pictures(trained, tmp_path):
    result = trained("hydra.run.dir=run", "trainer.max_epochs=2")
    assert result.stdout.count("W&B logs offline") == 1
    found = records(tmp_path / "run")

    config = next(
        r["config"]["update"] for r in found if r["type"] == "config" and "model" in r["config"]["update"]
    )
    assert config["model"]["widths"] == [8, 8]
    assert config["schedule"]["_target_"] == "lit_diffusion.schedules.Cosine"
    assert config["parameters"] > 10_000
    assert "git_commit" in config

    for stage in ("train", "val"):
        losses = [item for item in history(found, f"{stage}/loss") if item]
        bins = {name for item in history(found, f"{stage}_t/") for name in item}
        assert losses
        assert bins <= {f"{stage}_t/{k / 10:.1f}-{(k + 1) / 10:.1f}" for k in range(10)}
        assert len(bins) >= 7
    names = {name for item in history(found, "") for name in item}
    assert {"train/lr", "train/grad_norm", "perf/images_per_second"} <= names

    axes = {r["metric"]["glob_name"]: r["metric"] for r in found if "glob_name" in r.get("metric", {})}
    assert axes["val/*"]["step_metric"] == "trainer/global_step"
    assert axes["val/*"]["summary"] == {"min": True}

    (folder,) = tmp_path.glob("run/wandb/offline-run-*")
    for key in ("samples/grid", "samples/trajectory"):
        logged = [item[f"{key}.filenames"] for item in history(found, key) if item]
        assert len(logged) == 2
        name = key.split("/")[1]
        ours = tmp_path / "run" / "samples" / f"{name}_step_000006.png"
        theirs = folder / "files" / logged[-1][0]
        assert Image.open(theirs).convert("RGB").tobytes() == Image.open(ours).convert("RGB").tobytes()


def test_a_run_is_named_by_its_choices(trained, tmp_path):
    trained("hydra.run.dir=run", "schedule=flow", "prediction=velocity", "seed=3", "logger.wandb.tags=[mine]")
    told = settings(records(tmp_path / "run"))
    assert told["display_name"] == "small_unet-flow-velocity-s3"
    assert (told["job_type"], told.get("run_group", "")) == ("train", "")
    assert {"mine", "schedule=flow", "optimizer=adamw"} < {*told["tags"]}


def test_the_workspace_shows_what_runs_log(trained, tmp_path):
    trained("hydra.run.dir=run", "module.label_dropout=0.1")
    logged = {name for item in history(records(tmp_path / "run"), "") for name in item}
    shown = [panel for section in workspace("me").sections for panel in section.panels]
    names = {name for panel in shown for name in getattr(panel, "y", None) or panel.media_keys}
    unlogged = {name for name in names if name not in logged and f"{name}._type" not in logged}
    assert {"val/loss", "samples/grid", "train_t/0.0-0.1"} < names
    assert {name.partition("/")[0] for name in unlogged} <= {"eval", "val_t", "train_t"}  # scores, empty bins


def test_pictures_have_captions_and_the_denoising_moves(trained, tmp_path):
    trained("hydra.run.dir=run", "model.num_classes=10", "callbacks.samples.columns=4")
    found = records(tmp_path / "run")
    (grid,) = [item for item in history(found, "samples/grid") if item]
    assert grid["samples/grid.captions"] == ["labels of the first row: 0, 1, 2, 3"]
    (video,) = [item for item in history(found, "samples/denoising") if item]
    assert any("gif" in str(value) for value in video.values())


def test_a_checkpoint_is_an_artifact_by_config(trained, tmp_path):
    trained("hydra.run.dir=run", "logger.wandb.log_model=true")
    artifacts = [r["artifact"] for r in records(tmp_path / "run") if r["type"] == "artifact"]
    assert [artifact["type"] for artifact in artifacts] == ["model"]


def run_ids(folder):
    return {path.name.split("-")[-1] for path in folder.glob("**/offline-run-*") if path.is_dir()}


@pytest.mark.slow
def test_a_multirun_is_one_run_folder_and_one_wandb_run_each(trained, tmp_path):
    trained(
        "-m", "hydra.sweep.dir=sweep", "schedule=linear,cosine", "optimizer.lr=1e-3,1e-4"
    )  # in this order
    assert len(run_ids(tmp_path)) == 4
    configs, names = [], []
    for job in range(4):
        folder = tmp_path / "sweep" / str(job)
        assert (folder / "checkpoints" / "last.ckpt").is_file()
        assert len(run_ids(folder)) == 1
        told = settings(records(folder))
        assert (told["run_group"], told["job_type"]) == ("sweep", "train")
        assert {"model=small_unet", "prediction=v", "data=Digits"} < {*told["tags"]}
        names.append(told["display_name"])
        updates = [r["config"]["update"] for r in records(folder) if r["type"] == "config"]
        config = {k: v for update in updates for k, v in update.items()}
        configs.append((config["schedule"]["_target_"].split(".")[-1], config["optimizer"]["lr"]))
    schedules, rates = ("linear", "cosine"), ("0.001", "0.0001")
    assert names == [f"schedule={a},optimizer.lr={b}" for a in schedules for b in rates]
    assert configs == [("Linear", 1e-3), ("Linear", 1e-4), ("Cosine", 1e-3), ("Cosine", 1e-4)]


def test_a_resumed_run_goes_on_in_its_wandb_run(trained, tmp_path):
    trained("hydra.run.dir=first")
    trained("hydra.run.dir=second", "trainer.max_epochs=2", "ckpt=first/checkpoints/last.ckpt")
    assert run_ids(tmp_path / "first") == run_ids(tmp_path / "second")
    trained("hydra.run.dir=third")
    assert run_ids(tmp_path / "third") != run_ids(tmp_path / "first")


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(
            {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, marks=pytest.mark.slow
        ),
        {"WANDB_MODE": "online"},
    ],
)
def test_a_server_that_cannot_be_used_goes_offline(trained, tmp_path, environment):
    """No network, no key."""
    result = trained("hydra.run.dir=run", "logger.wandb.init_timeout=2", **environment)
    assert "W&B can't be used" in result.stdout
    assert result.stdout.count("W&B logs offline") == 1
    assert any(history(records(tmp_path / "run"), "val/loss"))


def test_a_mode_that_wandb_does_not_have_is_refused(run, tmp_path):
    result = run(str(ROOT / "train.py"), *OPTIONS, "hydra.run.dir=run", WANDB_MODE="bogus")
    assert result.returncode == 1
    assert "error: WANDB_MODE is bogus: choose one of online, offline, " in result.stderr
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_an_evaluation_reaches_wandb_and_the_terminal(run, tmp_path):
    images, labels = Digits().load(train=False)
    np.savez(tmp_path / "samples.npz", images=images.numpy(), labels=labels.numpy())
    command = [
        "-m",
        "lit_diffusion.evaluate",
        "samples=samples.npz",
        "data=mnist",
        "features=mnist",
        "out=scored",
    ]
    quick = ["data.source._target_=digits.Mnist", "second=false", "cas_images=0", "memorisation=false"]
    result = run(*command, *quick, WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scored" / "evaluation.json").read_text())["scores"]
    (logged,) = [item for item in history(records(tmp_path / "scored"), "eval/") if item]
    assert logged["eval/fid"] == pytest.approx(scores["fid"])
    assert logged["eval/floor_fid"] == pytest.approx(scores["fid"])  # the samples are the test images
    assert "class accuracy" in result.stdout
    assert "80 real test images" in " ".join(result.stdout.split())


LOSING = """
import os, signal, subprocess, time
from lit_diffusion.train.module import LitDiffusion
step = LitDiffusion.training_step
def losing(self, batch, batch_idx):
    if self.global_step == 2:
        children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout
        for child in children.split():
            os.kill(int(child), signal.SIGKILL)
    return step(self, batch, batch_idx)
LitDiffusion.training_step = losing
from lit_diffusion.common.cli import command
command("train")
"""


def test_a_run_goes_on_without_a_service_that_was_killed(tmp_path):
    (tmp_path / "losing.py").write_text(LOSING)
    result = run_script("losing.py", *OPTIONS, "hydra.run.dir=run", "trainer.max_epochs=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("W&B stopped working") == 1
    assert "Traceback" not in result.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
