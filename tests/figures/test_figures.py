"""Every figure, on real digits and small models: what it shows, not just that it is there."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import DIGITS, ROOT, TINY
from hydra.utils import instantiate
from PIL import Image

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.multirun import Command, Job
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.evaluate.result import EvaluatorSettings, Reference
from lit_diffusion.features.network import NetworkInfo
from lit_diffusion.figures import curves, tutorials
from lit_diffusion.figures.run import draw
from lit_diffusion.figures.sweep import sweep
from lit_diffusion.predictions import X
from lit_diffusion.schedules import Flow, Linear, SingleStep
from lit_diffusion.study.comparison import Comparison, Summary
from lit_diffusion.train.run import train

FIGURES = sorted(p.stem for p in (ROOT / "conf" / "figure").glob("*.yaml"))


OF_OTHER_RUNS = ("pure_noise", "images_seen", "nfe", "ema_length", "guidance", "sweep")


@pytest.fixture
def drawn(config):
    """drawn(name, *overrides): the file and the sentence that the command gives."""
    return lambda name, *overrides: draw(config(f"figure={name}", *DIGITS, *overrides, config_name="figures"))


@pytest.fixture
def trained_run(config, tmp_path):
    """The folder of a small run of an experiment."""

    def trained(experiment, *overrides):
        options = [f"experiment={experiment}", "debug=limit", "trainer.max_epochs=2", *TINY["fc_unet"]]
        train(config(*options, *overrides))
        return tmp_path

    return trained


@pytest.mark.parametrize(
    "experiment, names",
    [
        ("denoise_sigma05", [name for name in FIGURES if name not in OF_OTHER_RUNS]),
        ("denoise_pure_noise", ["pure_noise"]),
    ],
)
def test_each_figure_is_drawn(drawn, trained_run, tmp_path, experiment, names):
    trained_run(experiment)
    inputs = [f"ckpt={tmp_path}/checkpoints/last.ckpt", f"run={tmp_path}", f"out={tmp_path}/figures"]
    for name in names:
        few = ["figure.n_mean=60"] if name == "out_of_distribution" else []
        path, source = drawn(name, *inputs, *few, "dpi=50")
        assert path == tmp_path / "figures" / f"{name}.png"
        picture = Image.open(path).convert("L")
        assert len(picture.getcolors()) > 10
        assert source.startswith("from ")


def study_of(**parts) -> Comparison:
    """Return the result of a small study of one score, with these parts."""
    return Comparison(
        **{
            "name": "small",
            "seeds": [0],
            "scores": ["fid"],
            "baseline": "a",
            "choices": {},
            "nfe": {},
            "runs": {},
            "overrides": {},
            "floor": {"fid": 1.5},
            "floor_n": 100,
            "n": 100,
            "reference": Reference("Mnist", "train", 320),
            "features": NetworkInfo("mnist", "0"),
            "second": None,
            "evaluator": EvaluatorSettings(k=5, cas_images=0, seed=0),
            **parts,
        }
    )


def images_of(figure):
    """The pictures in a figure, row by row."""
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


@pytest.fixture
def data(config):
    return instantiate(config().data, _convert_="all")


def test_noising_starts_at_the_image_and_keeps_one_noise(data):
    figure, _ = tutorials.noising(data, {"linear": Linear(), "flow": Flow()}, times=[0.0, 0.5, 1.0], seed=0)
    linear, flow = images_of(figure)[:3], images_of(figure)[3:]
    assert (linear[0] == flow[0]).all()
    assert (linear[0] == data.val_set[0][0][0].numpy()).all()
    assert (abs(linear[2].astype(int) - flow[2]) <= 2).all()  # the linear schedule ends at alpha 0.006
    assert (linear[1] != flow[1]).any()


def test_noise_levels_are_for_images_between_0_and_1(data):
    """On a black edge noise of 0.1 shows as a half-normal of 25.5 grey levels, 10.2 on average."""
    figure, _ = tutorials.noise_levels(data, sigmas=[0.0, 0.1], n=20, seed=0)
    edges = torch.tensor(np.stack(images_of(figure)))[:, :2].double()
    assert edges[::2].mean() == 0
    assert abs(edges[1::2].mean() - 10.2) < 2


def test_out_of_distribution_tells_the_error_at_each_level(data, monkeypatch):
    """A network that returns what it is given errs by the noise itself: sigma squared."""

    class Identity(torch.nn.Module):
        num_classes = 0

        def forward(self, x_t, time_input, y=None):
            return x_t

    denoiser = NetworkDenoiser(Identity(), SingleStep(alpha_end=1.0, sigma_end=1.0), X())
    monkeypatch.setattr(tutorials, "load_single_step", lambda *given, pure_noise: (denoiser, data))
    figure, _ = tutorials.out_of_distribution("a.ckpt", [], "data", sigmas=[0.0, 0.5], n=1, n_mean=60, seed=0)
    titles = [axes.get_title() for axes in figure.axes[:2]]
    assert titles[0] == "sigma = 0\nMSE 0.000"
    assert float(titles[1].split()[-1]) == pytest.approx(0.25, abs=0.006)  # 47,000 pixels


def test_pure_noise_tells_the_distance_to_the_mean_image(data, monkeypatch):
    """A network that puts out the mean image is at distance 0; the images themselves aren't."""
    data.setup("fit")
    mean = tutorials.to_float(data.train_set.images).mean(0, keepdim=True)

    class Constant(torch.nn.Module):
        num_classes = 0

        def forward(self, x_t, time_input, y=None):
            return mean.expand_as(x_t)

    denoiser = NetworkDenoiser(Constant(), SingleStep(alpha_end=0.0, sigma_end=1.0), X())
    monkeypatch.setattr(tutorials, "load_single_step", lambda *given, pure_noise: (denoiser, data))
    figure, source = tutorials.pure_noise("a.ckpt", [], "data", n=2, n_mean=10, seed=0)
    assert "training image: 0.0000 on average over 10 outputs" in source
    shown = images_of(figure)
    assert len(shown) == 2 + 3
    assert (shown[2] == shown[4]).all()  # an output, and the mean image


def test_loss_plots_what_the_run_logged(trained_run):
    folder = trained_run("flow_time")
    figure, _ = curves.loss(str(folder))
    lines = {line.get_label().split()[-1]: line for line in figure.axes[0].lines}
    assert lines["train/loss"].get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
    assert len(lines["val/loss"].get_xdata()) == 2
    assert figure.axes[0].get_yscale() == "log"


def test_a_loss_below_0_is_drawn_too(tmp_path):
    """As that of weighting=learned is, once it is small."""
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "metrics.csv").write_text("step,train/loss\n0,0.7\n1,-0.4\n")
    figure, _ = curves.loss(str(tmp_path))
    low, high = figure.axes[0].get_ylim()
    assert figure.axes[0].get_yscale() == "linear" and low < -0.4 < 0.7 < high


def test_fid_over_images_seen(trained_run, drawn):
    scored = ["callbacks=evaluation", "callbacks.evaluation.n=8", "callbacks.evaluation.features=mnist"]
    made = ["sampler.steps=2", "data.batch_size=16", "model.num_classes=10"]
    folder = str(trained_run("flow_time", *scored, *made))
    figure, _ = curves.images_seen([folder, folder])
    first, second, floor, in_shares = figure.axes[0].lines
    assert first.get_xdata().tolist() == second.get_xdata().tolist() == [48, 96]
    assert min(first.get_ydata()) > floor.get_ydata()[0] > in_shares.get_ydata()[0] > 0
    study = Path(folder, "study.json")
    Path(folder, "runs").mkdir()
    Path(folder, "runs", "a").symlink_to(folder)
    study_of(seeds=[0, 1], runs={"flow_time": ["a", "a"]}).write(Path(folder))
    again, _ = curves.images_seen(folder)
    assert again.axes[0].lines[1].get_label() == "flow_time, seed 1"
    assert again.axes[0].lines[1].get_ydata().tolist() == first.get_ydata().tolist()
    resumed = Path(folder, "csv", "metrics.csv").read_text().splitlines()
    Path(folder, "csv", "metrics_0.csv").write_text("\n".join(resumed[:-1]))
    Path(folder, "csv", "metrics.csv").write_text("\n".join([resumed[0], *resumed[-2:]]))
    assert curves.images_seen(folder)[0].axes[0].lines[0].get_ydata().tolist() == first.get_ydata().tolist()
    study_of(seeds=[0]).write(Path(folder))
    with pytest.raises(ConfigError, match="where nothing was trained"):
        curves.images_seen(folder)
    study.unlink()
    path, _ = drawn("images_seen", f"run={folder}", f"out={folder}", "dpi=50")
    assert len(Image.open(path).convert("L").getcolors()) > 10


def test_fid_over_evaluations(tmp_path, drawn):
    fids = {"ddim_5": 9.0, "heun_3": 7.0, "ddim_20": 4.0}
    study_of(
        choices={choice: {"fid": Summary([fid], fid, None)} for choice, fid in fids.items()},
        nfe={"ddim_5": 5, "heun_3": 5, "ddim_20": 20},
        floor={"fid": 1.5, "fid_in_shares": 0.25},
    ).write(tmp_path)
    figure, source = curves.nfe(str(tmp_path))
    axes = figure.axes[0]
    ddim, heun, floor, in_shares = axes.lines
    assert in_shares.get_ydata()[0] == 0.25
    assert (ddim.get_xdata().tolist(), ddim.get_ydata().tolist()) == ([5, 20], [9.0, 4.0])
    assert (heun.get_label(), heun.get_xdata().tolist()) == ("heun", [5])
    assert floor.get_ydata()[0] == 1.5
    assert "n = 100" in source
    assert {text.get_text() for text in figure.axes[0].get_xticklabels(minor=True)} & {"6", "20"}
    assert [line.get_label() for line in axes.lines][-2:] == ["floor", "floor, classes in exact shares"]
    path, _ = drawn("nfe", f"run={tmp_path}", f"out={tmp_path}", "dpi=50")
    assert len(Image.open(path).convert("L").getcolors()) > 10


@pytest.mark.parametrize("changes", [{"scores": ["kid"]}, {"nfe": {"a": None}}])
def test_a_study_that_says_nothing_of_fid_over_evaluations(tmp_path, changes):
    study_of(**{"nfe": {"a": 5}, **changes}).write(tmp_path)
    with pytest.raises(ConfigError, match="conf/study/nfe"):
        curves.nfe(str(tmp_path))


def test_fid_over_the_length_of_an_average(tmp_path, drawn):
    fids = {"own_average": 3.0, "ema_0.1": 2.0, "ema_0.02": 4.0}
    choices = {choice: {"fid": Summary([fid], fid, None)} for choice, fid in fids.items()}
    study_of(choices=choices, floor={"fid": 1.5}).write(tmp_path)
    figure, _ = curves.ema_length(str(tmp_path))
    ema, floor = figure.axes[0].lines
    assert (ema.get_xdata().tolist(), ema.get_ydata().tolist()) == ([0.02, 0.1], [4.0, 2.0])
    assert floor.get_ydata()[0] == 1.5
    path, _ = drawn("ema_length", f"run={tmp_path}", f"out={tmp_path}", "dpi=50")
    assert len(Image.open(path).convert("L").getcolors()) > 10
    study_of(choices={"own_average": choices["own_average"]}).write(tmp_path)
    with pytest.raises(ConfigError, match="conf/study/ema_length"):
        curves.ema_length(str(tmp_path))


def test_fid_over_accuracy_along_the_scale(tmp_path, drawn):
    points = {"unguided": (0.9, 1.0), "cfg_2": (1.0, 3.0), "cfg_1.5": (0.95, 2.0), "apg_2": (0.97, 1.5)}
    choices = {
        choice: {"fid": Summary([fid], fid, None), "class_accuracy": Summary([share], share, None)}
        for choice, (share, fid) in points.items()
    }
    study_of(choices=choices, scores=["fid", "class_accuracy"], floor={"fid": 0.5}).write(tmp_path)
    axes = curves.guidance(str(tmp_path))[0].axes[0]
    assert [line.get_label() for line in axes.lines] == ["unguided", "cfg", "apg", "floor"]
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[0.05, 2.0], [0.5 / 100, 3.0]])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["none", "1 %", "10 %", "100 %"]
    assert [text.get_text() for text in axes.texts] == ["1.5", "2", "2"]
    path, _ = drawn("guidance", f"run={tmp_path}", f"out={tmp_path}", "dpi=50")
    assert len(Image.open(path).convert("L").getcolors()) > 10
    study_of(scores=["kid"]).write(tmp_path)
    with pytest.raises(ConfigError, match="conf/study/methods"):
        curves.guidance(str(tmp_path))


@pytest.fixture
def swept(tmp_path):
    """swept({key: values}): the folder of a multirun; the score of job k is k."""

    def made(keys):
        overrides = ["data=mnist", *(f"{key}={','.join(values)}" for key, values in keys.items())]
        Command(overrides, "val/loss").write(tmp_path)
        for k, values in enumerate(product(*keys.values())):
            own = ["data=mnist", *(f"{key}={value}" for key, value in zip(keys, values, strict=True))]
            folder = tmp_path / str(k)
            folder.mkdir()
            Job(own, str(folder), 60.0, float(k), None).write(folder)
        (tmp_path / "99").mkdir()
        Job(["data=mnist"], "99", 60.0, None, "it failed").write(tmp_path / "99")
        return str(tmp_path)

    return made


RATES, SCHEDULES = {"optimizer.lr": ["0.01", "0.0001", "0.001"]}, {"schedule": ["linear", "flow"]}


def test_a_sweep_of_one_key_is_a_curve(swept):
    figure, source = sweep(swept(RATES))
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[1e-4, 1], [1e-3, 2], [1e-2, 0]]
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "optimizer.lr", "val/loss")
    assert source.startswith("3 of 4 jobs of ")


def test_a_sweep_of_two_keys_is_a_map(swept):
    figure, _ = sweep(swept({**SCHEDULES, **RATES}))
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[1, 2, 0], [4, 5, 3]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["linear", "flow"]


def test_a_sweep_of_more_keys_is_lines_from_key_to_key(swept):
    figure, _ = sweep(swept({**RATES, **SCHEDULES, "seed": ["0", "1"]}))
    axes = figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert sorted(line.get_ydata()[-1] for line in lines) == pytest.approx(np.arange(12) / 11)
    assert [label.get_text() for label in axes.get_xticklabels()] == [*RATES, *SCHEDULES, "seed", "val/loss"]


@pytest.mark.parametrize(
    "keys, says", [({}, "whose jobs don't differ"), ({"seed": []}, "where no job has returned a number")]
)
def test_a_sweep_without_anything_to_show(swept, keys, says):
    with pytest.raises(ConfigError, match=says):
        sweep(swept(keys))


def test_progress_names_the_epochs(trained_run):
    figure, _ = tutorials.progress(str(trained_run("flow_time", "callbacks.samples.epochs=1")))
    assert [axes.get_title() for axes in figure.axes] == ["epoch 1", "epoch 2"]


@pytest.mark.parametrize(
    "name, overrides, says",
    [
        ("pure_noise", [], "give ckpt=PATH"),
        ("out_of_distribution", ["ckpt=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        ("loss", [], "give run=DIR"),
        ("images_seen", [], "give run=DIR"),
        ("nfe", [], "the folder of a finished study"),
        ("sweep", ["run=nowhere"], "run is nowhere: give run=DIR, the folder of a multirun"),
        ("schedules", ["dpi=0"], "dpi is 0"),
        ("schedules", ["out=/proc/figures"], "out is /proc/figures, which can't"),
        ("loss", ["run=nowhere"], "metrics.csv does not exist"),
        ("progress", ["run=nowhere"], "nowhere/samples has no pictures"),
        ("progress", ["run=[a,b]"], "this figure shows one run"),
        ("noise_levels", ["figure.n=61"], "61 validation images are asked for, but there are 60"),
        ("noise_levels", ["figure.n=0"], "0 validation images are asked for"),
        ("schedules", ["seed=-1"], "seed is -1"),
    ],
)
def test_mistakes_are_refused(drawn, name, overrides, says):
    with pytest.raises(ConfigError, match=says):
        drawn(name, *overrides)


def test_a_figure_of_a_denoiser_wants_a_denoiser(drawn, trained_run):
    ckpt = trained_run("flow_time") / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match=r"was trained with schedule .*Flow"):
        drawn("pure_noise", f"ckpt={ckpt}")


def test_the_command_takes_a_name(run):
    result = run("-m", "lit_diffusion.figures", "schedules", "out=here", "dpi=40")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "here/schedules.png"
    wrong = run("-m", "lit_diffusion.figures", "nothing")
    assert wrong.returncode == 1
    assert "error: figure is nothing: did you mean noising?" in wrong.stderr
