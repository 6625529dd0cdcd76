"""The training command, on real digits at debug size."""

from functools import reduce
from pathlib import Path

import pytest
import torch
from commands import ROOT, TINY
from filelock import FileLock
from omegaconf import OmegaConf
from PIL import Image

from lit_diffusion.checkpoint import build_denoiser, load_denoiser, read_checkpoint
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.couplings import Semidiscrete
from lit_diffusion.figures.curves import read_metrics
from lit_diffusion.train.callbacks.checkpointing import AtomicCheckpointIO
from lit_diffusion.train.callbacks.ema import EMA
from lit_diffusion.train.run import build_module, build_trainer, main, prepare, train

EXPERIMENTS = sorted(p.stem for p in (ROOT / "conf" / "experiment").glob("*.yaml"))


def tiny(cfg):
    return TINY[OmegaConf.select(cfg, "model._target_").split(".")[-2]]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains(config, tmp_path, experiment):
    choices = [f"experiment={experiment}", "debug=limit"]
    if experiment in ("record_gpu", "cifar10"):
        assert config(*choices).trainer.accelerator == "gpu"
        choices.append("trainer=cpu")
    if experiment == "emoji_style":
        choices.append("data.source._target_=pairs.Inverted")
    if experiment == "own_images":
        choices.append("data.source.root=")
    metrics, objects = train(config(*choices, *tiny(config(*choices))))
    assert objects["trainer"].global_step == 3
    assert 0 < metrics["val/loss"] < float("inf")
    drawn = sorted(p.name for p in (tmp_path / "samples").iterdir())
    sampled = ["grid_step_000003.png", "trajectory_step_000003.png"]
    assert drawn == (["denoised_step_000003.png"] if experiment.startswith("denoise") else sampled)


def test_tutorial1_is_the_tutorials(config):
    cfg = config("experiment=tutorial1")
    assert cfg.data.batch_size == 64
    assert cfg.trainer.max_epochs == 40
    assert (cfg.optimizer._target_, cfg.optimizer.lr) == ("torch.optim.Adam", 1e-4)
    assert (cfg.schedule.steps, cfg.schedule.beta_start, cfg.schedule.beta_end) == (1000, 1e-4, 0.02)
    assert (cfg.callbacks.samples.n, cfg.callbacks.samples.columns, cfg.sampler.steps) == (100, 10, 1000)
    assert sum(p.numel() for p in build_denoiser(cfg).parameters()) == 6_067_857


def test_tutorial2_is_the_tutorials(config):
    denoise, noise, time, by_class, constant = (
        config(f"experiment={name}")
        for name in (
            "denoise_sigma05",
            "denoise_pure_noise",
            "flow_time",
            "flow_class",
            "flow_class_constant_lr",
        )
    )
    for cfg in (denoise, noise):
        assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.model.width) == (256, 5, 128)
        assert (cfg.optimizer._target_, cfg.optimizer.lr) == ("torch.optim.Adam", 1e-4)
        assert (cfg.model.time, cfg.model.num_classes, cfg.lr_scheduler) == (False, 0, {})
    # x + 0.5 eps for images in [0, 1] is x + 1.0 eps for ours in [-1, 1].
    assert (denoise.schedule.alpha_end, denoise.schedule.sigma_end) == (1.0, 2 * 0.5)
    assert (noise.schedule.alpha_end, noise.schedule.sigma_end) == (0.0, 1.0)
    for cfg in (time, by_class, constant):
        assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.model.width) == (64, 10, 64)
        assert (cfg.times._target_, cfg.callbacks.ema) == ("lit_diffusion.times.Uniform", None)
        assert cfg.sampler._target_.endswith("DDIM")
        assert (cfg.sampler.eta, cfg.sampler.clip) == (0, False)
        samples = cfg.callbacks.samples
        assert (samples.epochs, samples.seeds, samples.columns) == ([1, 5, 10], [100, 101, 102], 10)
    assert (time.optimizer._target_, time.optimizer.lr) == ("torch.optim.Adam", 1e-2)
    assert time.lr_scheduler.scheduler.final == 0.1
    for cfg in (by_class, constant):
        assert (cfg.model.num_classes, cfg.module.label_dropout) == (10, 0.1)
        assert cfg.guidance.scale == 5
    assert (constant.optimizer._target_, constant.lr_scheduler) == ("torch.optim.AdamW", {})
    assert (constant.optimizer.lr, constant.optimizer.weight_decay) == (1e-4, 1e-4)


def resolved(cfg) -> dict:
    return OmegaConf.to_container(cfg, resolve=True)


def test_a_sweep_over_schedules_compares_schedules_alone(config):
    configs = [resolved(config(f"schedule={name}", "debug=limit")) for name in ("cosine", "linear", "flow")]
    schedules = [cfg.pop("schedule") for cfg in configs]
    assert configs[0] == configs[1] == configs[2]
    assert len({str(schedule) for schedule in schedules}) == 3


GROUPS = {
    "schedule": ["schedule"],
    "prediction": ["prediction"],
    "sampler": ["sampler", "callbacks.samples.sampler"],
    "model": ["model"],
    "optimizer": ["optimizer"],
    "lr_scheduler": ["lr_scheduler"],
    "trainer": ["trainer.accelerator", "trainer.devices", "trainer.strategy"],
    "callbacks": ["callbacks"],
    "data": ["data", "model.channels", "model.image_size"],
    "logger": ["logger"],
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_choice_of_a_group_changes_that_group_alone(config, group):
    def others(choice):
        cfg = resolved(config(f"{group}={choice}"))
        for key in GROUPS[group]:
            *parents, name = key.split(".")
            reduce(lambda node, parent: node.get(parent, {}), parents, cfg).pop(name, None)
        return cfg

    choices = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    assert len(choices) > 1
    for choice in choices:
        assert others(choice) == others(choices[0])


@pytest.mark.parametrize("debug", ["limit", "overfit"])
@pytest.mark.parametrize("trainer", sorted(path.stem for path in (ROOT / "conf" / "trainer").glob("*.yaml")))
def test_debugging_works_with_every_trainer(config, debug, trainer):
    cfg, plain = config(f"debug={debug}", f"trainer={trainer}"), config(f"trainer={trainer}")
    for key in ("accelerator", "devices", "strategy"):
        assert cfg.trainer[key] == plain.trainer[key]
    assert cfg.trainer.limit_train_batches == {"limit": 3, "overfit": 1}[debug]
    assert list(cfg.logger) == ["csv"]


def test_train_returns_the_metric_that_a_sweeper_optimises(config, tmp_path):
    value = main(config("debug=limit", "callbacks.samples=null", *TINY["small_unet"]))
    assert isinstance(value, float) and value > 0
    worse = ["optimizer.lr=0.3", "trainer.max_epochs=3", "logger=csv", "callbacks.ema=null"]  # than it began
    out = tmp_path / "worse"
    value = main(config("debug=limit", "callbacks.samples=null", *worse, *TINY["small_unet"], f"out={out}"))
    losses = [float(row["val/loss"]) for row in read_metrics(str(out)) if row["val/loss"]]
    assert value == pytest.approx(min(losses))
    assert min(losses) < losses[-1]
    options = ["debug=limit", "callbacks.samples=null", "optimized_metric=train_t/nothing"]
    assert main(config(*options, *TINY["small_unet"])) is None


def test_a_run_that_goes_on_in_its_folder_keeps_its_earlier_metrics(config, tmp_path):
    ckpt = []
    for epochs in (1, 2, 3):
        options = ["debug=limit", "callbacks.samples=null", f"trainer.max_epochs={epochs}", *ckpt]
        train(config(*options, *TINY["small_unet"]))
        ckpt = [f"ckpt={tmp_path}/checkpoints/last.ckpt"]
    files = sorted((tmp_path / "csv").glob("metrics*"))
    assert [f.name for f in files] == ["metrics.csv", "metrics_0.csv", "metrics_1.csv"]
    assert files[0].read_text().splitlines()[0] == files[1].read_text().splitlines()[0]


def test_overfit_learns_a_batch_by_heart(config):
    metrics, _ = train(
        config("debug=overfit", "callbacks.samples=null", "data.batch_size=4", "model.widths=[32,48]")
    )
    assert metrics["train/loss"] < 0.005


@pytest.mark.parametrize("debug", ["limit", "overfit"])
def test_recipes_that_are_guided_can_be_debugged(config, debug):
    prepare(config("experiment=quickstart", f"debug={debug}"))


def test_a_run_leaves_checkpoints_pictures_and_metrics(config, tmp_path):
    train(config("debug=limit", "trainer.max_epochs=2", *TINY["small_unet"]))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    pictures = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert pictures == [f"{k}_step_{s:06d}.png" for k in ("grid", "trajectory") for s in (3, 6)]
    header = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    wanted = {"train/loss", "train/lr", "train/grad_norm", "val/loss", "perf/images_per_second"}
    assert wanted <= set(header)
    assert any(name.startswith("train_t/0.") for name in header)
    assert any(name.startswith("val_t/0.") for name in header)


def test_grids_show_the_same_noise_getting_better(config, tmp_path):
    """With a learning rate of 0 two grids are the same picture; two seeds are not."""
    options = ["debug=limit", "optimizer.lr=0", "sampler=ddim", *TINY["small_unet"]]
    train(config(*options, "trainer.max_epochs=2"))
    first, second = (tmp_path / "samples" / f"grid_step_{s:06d}.png" for s in (3, 6))
    assert first.read_bytes() == second.read_bytes()
    train(config(*options, "callbacks.samples.seeds=[1]", f"out={tmp_path}/other"))
    other = tmp_path / "other" / "samples" / first.name
    assert first.read_bytes() != other.read_bytes()


def test_trajectory_shows_noise_first_and_the_sample_last(config, tmp_path):
    """Per sample two rows, x_t above the estimate of x, one column for each time asked for."""
    train(config("debug=limit", "sampler.steps=10", "callbacks.samples.trajectory_n=2", *TINY["small_unet"]))
    trajectory = Image.open(tmp_path / "samples" / "trajectory_step_000003.png")
    assert trajectory.size == (2 + 6 * 30, 2 + 4 * 30)
    final = trajectory.crop((2 + 5 * 30, 2, 30 + 5 * 30, 30))
    assert final.tobytes() == trajectory.crop((2 + 5 * 30, 32, 30 + 5 * 30, 60)).tobytes()
    grid = Image.open(tmp_path / "samples" / "grid_step_000003.png")
    assert final.tobytes() == grid.crop((2, 2, 30, 30)).tobytes()


@pytest.mark.parametrize(
    "override",
    [
        "trainer.precision=bf16-mixed",
        "trainer.precision=bf16-true",
        "trainer.accumulate_grad_batches=2",
        "trainer.gradient_clip_val=null",
        "callbacks.ema=null",
        "logger=none",
        "logger=[csv,tensorboard]",
        "+trainer.fast_dev_run=true",
        "trainer.max_steps=2",
    ],
)
def test_options_of_a_run(config, tmp_path, override):
    _, objects = train(config("debug=limit", override, *TINY["small_unet"]))
    assert all(p.isfinite().all() for p in objects["module"].parameters())
    if "fast_dev_run" not in override:
        assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
        assert list((tmp_path / "samples").glob("grid_*.png"))


def test_compile_changes_no_name_and_no_number(config):
    """Compiling in earnest takes a minute; here the compiled network falls back to eager inside."""
    options = ["debug=limit", "callbacks.samples=null", *TINY["small_unet"]]
    with torch.compiler.set_stance("force_eager"):
        compiled, objects = train(config(*options, "compile=true"))
    network = objects["module"].denoiser.network
    assert network._compiled_call_impl is not None
    plain, objects = train(config(*options))
    assert compiled["val/loss"] == plain["val/loss"]
    assert objects["module"].state_dict().keys() == {f"denoiser.network.{k}" for k in network.state_dict()}


def test_every_checkpoint_is_plain_data_and_holds_the_whole_config(config, tmp_path):
    cfg = config("debug=limit", "model.num_classes=10", *TINY["small_unet"])
    train(cfg)
    for path in (tmp_path / "checkpoints").iterdir():
        saved = torch.load(path, weights_only=True)["hyper_parameters"]
        resolved = OmegaConf.to_container(cfg, resolve=True)
        assert {k: saved[k] for k in resolved} == resolved
        assert saved["parameters"] > 0
        assert "git_commit" in saved


def test_a_saved_checkpoint_evaluates_to_the_loss_that_training_reported(config, tmp_path):
    cfg = config("debug=limit", "trainer.max_epochs=2", "optimizer.lr=1e-2", *TINY["small_unet"])
    reported, objects = train(cfg)
    ckpt = str(tmp_path / "checkpoints" / "last.ckpt")
    fresh = build_module(cfg)
    trainer = build_trainer(cfg, callbacks=[EMA()], logger=False)
    (evaluated,) = trainer.validate(fresh, objects["datamodule"], ckpt_path=ckpt, verbose=False)
    for name in (k for k in reported if k.startswith("val")):
        assert evaluated[name] == pytest.approx(reported[name], rel=1e-6, nan_ok=True)


def test_a_loaded_denoiser_has_the_averaged_weights(config, tmp_path):
    cfg = config("debug=limit", "optimizer.lr=1e-2", *TINY["small_unet"])
    _, objects = train(cfg)
    saved = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    loaded = load_denoiser(saved)
    average = saved["callbacks"]["ema"]["average"]
    raw = dict(objects["module"].named_parameters())
    for name, p in loaded.named_parameters():
        assert torch.equal(p, average[f"denoiser.{name}"])
    assert any(not torch.equal(average[name], raw[name]) for name in average)
    assert not loaded.training


@pytest.mark.parametrize(
    "overrides, says",
    [
        (["sampler.steps=1001"], "1001 steps, but this schedule has 1000"),
        (["sampler=ancestral_learned"], "this model learnt none"),
        (["guidance.scale=2"], "has no labels"),
        (["ckpt=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["callbacks.samples.epochs=[-1]"], r"epochs is \[-1\]"),
        (["callbacks.samples.seeds=[1,2]", "callbacks.samples.n=7"], "n is 7"),
        (["model.num_classes=10", "guidance.interval=[1,0]"], "guidance.interval"),
        (["guidance.rescale=0.5"], "this model has no labels"),
        (["callbacks.samples.seeds=3"], "seeds is 3"),
        (["callbacks.samples=null", "guidance.scale=2"], "has no labels"),
        (["model.num_classes=5"], "num_classes is 5, but the data have 10"),
        (["sampler.steps=2.5"], "steps is 2.5"),
        (["out=/proc/run"], "out is /proc/run, which can't"),
        (["callbacks.samples.seeds=[]"], r"seeds is \[\]"),
        (["schedule=single_step"], "single_step ends at alpha_end 1"),
        (["schedule=single_step", "schedule.alpha_end=0"], "4 steps, but single_step"),
        (["schedule=single_step", "schedule.alpha_end=0", "prediction=eps"], "Eps can't work"),
        (
            ["schedule=single_step", "schedule.alpha_end=0", "weighting=min_snr"],
            "weighting MinSNR weighs the ends of schedule SingleStep 0 and 0",
        ),
        (["times=logit_normal", "times.std=0"], "times.std is 0"),
        (["model=fc_unet", "model.image_size=32"], "model.image_size is 32, but data.image_size is 28"),
        (["trainer.log_every_n_steps=0"], "log_every_n_steps is 0"),
        (["trainer.accelerator=gpu"], "torch sees none"),
    ],
)
def test_mistakes_are_found_before_training(config, tmp_path, overrides, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=says):
        train(config("debug=limit", *TINY["small_unet"] * ("model=fc_unet" not in overrides), *overrides))
    assert not (tmp_path / "checkpoints").exists()


def test_unfit_checkpoints_are_refused(config, tmp_path):
    options = ["debug=limit", "callbacks.samples=null", *TINY["small_unet"]]
    train(config(*options))
    ckpt = tmp_path / "checkpoints" / "last.ckpt"
    whole = ckpt.read_bytes()
    for name, content in {
        "half.ckpt": whole[: len(whole) // 2],
        "empty.ckpt": b"",
        "text.ckpt": b"hello",
    }.items():
        Path(tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name} is damaged, or not a checkpoint"):
            train(config(*options, f"ckpt={tmp_path / name}"))
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match="not a checkpoint of lit_diffusion"):
        train(config(*options, f"ckpt={tmp_path / 'other.ckpt'}"))
    for change, says in {
        "model.widths=[8,16]": r"model.widths was \[8, 8\] and is \[8, 16\]",
        "prediction=eps": "prediction._target_ was lit_diffusion.predictions.V",
        "schedule=linear": "schedule.beta_end was None and is 0.02",
        "data.batch_size=4": "data.batch_size was 8 and is 4",
        "trainer.limit_train_batches=2": "trainer.limit_train_batches was 3 and is 2",
        "trainer.max_epochs=1": "has trained 1 epochs already",
    }.items():
        with pytest.raises(ConfigError, match=says):
            train(config(*options, "trainer.max_epochs=2", change, f"ckpt={ckpt}"))


def test_numbers_that_stop_being_finite_end_the_run(config, tmp_path):
    """And no checkpoint has them."""
    options = ["debug=limit", "callbacks.samples=null", "trainer.max_epochs=4", *TINY["small_unet"]]
    with pytest.raises(ConfigError, match="isn't finite"):
        train(config(*options, "optimizer.lr=1e30", "trainer.gradient_clip_val=null"))
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"].values()
        assert all(weight.isfinite().all() for weight in weights)


def test_an_average_that_is_not_finite_is_never_saved(tmp_path):
    contents = {"state_dict": {"w": torch.ones(2)}, "global_step": 3}
    broken = {"ema": {"average": {"w": torch.tensor([1.0, float("inf")])}}}
    with pytest.raises(ConfigError, match="after step 3 w isn't finite"):
        AtomicCheckpointIO().save_checkpoint({**contents, "callbacks": broken}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_one_folder_is_one_run(config, tmp_path):
    options = ["debug=limit", "callbacks.samples=null", *TINY["small_unet"], f"out={tmp_path}/run"]
    train(config(*options))
    best = (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes()
    with pytest.raises(ConfigError, match="holds the checkpoints of another run"):
        train(config(*options))
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes() == best
    with (
        FileLock(tmp_path / "other" / "lock"),
        pytest.raises(ConfigError, match="another training is at work"),
    ):
        train(config(*options[:-1], f"out={tmp_path}/other"))


@pytest.mark.parametrize(
    "change",
    [
        "optimizer.lr=1e-4",
        "optimizer=adam",
        "lr_scheduler=warmup_cosine",
        "data.source._target_=digits.Mnist",
    ],
)
def test_a_run_goes_on_with_what_made_its_state(config, tmp_path, change):
    options = ["debug=limit", "callbacks.samples=null", "optimizer=adamw", *TINY["small_unet"]]
    train(config(*options))
    ckpt = f"ckpt={tmp_path}/checkpoints/last.ckpt"
    with pytest.raises(ConfigError, match="can't go on with this config"):
        train(config(*options, change, ckpt, "trainer.max_epochs=2"))


def test_a_resumed_run_does_not_search_for_its_coupling_again(straight_and_resumed, monkeypatch):
    searches, search = [], Semidiscrete._search
    monkeypatch.setattr(Semidiscrete, "_search", lambda self, g: searches.append(search(self, g)))
    options = ["coupling=semidiscrete", "coupling.iterations=3", *TINY["small_unet"]]
    straight, resumed = straight_and_resumed(*options)
    assert len(searches) == 2  # the straight run's, and that of the run that was gone on with
    assert straight["coupling.potentials"].any()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_run_that_was_cut_off_by_max_steps_goes_on_with_its_epoch(config, tmp_path):
    options = ["debug=limit", "callbacks.samples=null", "trainer.max_epochs=2", *TINY["small_unet"]]
    _, straight = train(config(*options, f"out={tmp_path}/straight"))
    train(config(*options, "trainer.max_steps=2"))
    ckpt = f"ckpt={tmp_path}/checkpoints/last.ckpt"
    _, resumed = train(config(*options, ckpt, f"out={tmp_path}/resumed"))
    weights = [objects["module"].state_dict() for objects in (straight, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
