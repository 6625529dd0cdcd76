from contextlib import nullcontext

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from lit_diffusion import loading
from lit_diffusion.checkpoint import SHIPPED, read_checkpoint
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import sha256_of
from lit_diffusion.features.classifier import accuracy
from lit_diffusion.features.network import load_features
from lit_diffusion.loading import build_sampler, load
from lit_diffusion.sample.conditions import labels_in_turn
from lit_diffusion.sample.partial import partial_samples
from lit_diffusion.sample.run import columns_of, sample


@pytest.fixture
def sampled(config, tmp_path):
    """sampled(ckpt, *overrides): the files that the sampling command writes."""

    def made(ckpt, *overrides: str):
        options = [f"ckpt={ckpt}", "steps=4", "n=12", "rows=3"]
        return sample(config(*options, *overrides, config_name="sample"))

    return made


def test_files(trained, sampled):
    grid, npz, gif = sampled(trained(), "npz=true", "gif_frames=3")
    assert [p.name for p in (grid, npz, gif)] == ["grid.png", "samples.npz", "trajectory.gif"]
    assert Image.open(grid).size == (2 + 4 * 30, 2 + 3 * 30)
    with np.load(npz) as arrays:
        images, y = arrays["images"], arrays["labels"]
    assert (images.shape, images.dtype) == ((12, 1, 28, 28), np.uint8)
    assert y.dtype == np.int64
    assert y.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    first = np.asarray(Image.open(grid).convert("L"))[2:30, 2:30]
    assert np.array_equal(first, images[0, 0])
    film = Image.open(gif)
    assert film.n_frames == 2  # of four steps, every second
    film.seek(film.n_frames - 1)
    last = np.asarray(film.convert("L"))[2:30, 2:30]
    assert np.abs(last.astype(int) - images[0, 0]).max() <= 2  # a palette's rounding


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_images_are_the_same_whatever_the_batch_size(trained, sampled, sampler):
    ckpt = trained()
    results = []
    for options in (["batch_size=12"], ["batch_size=5"], ["batch_size=1"], ["n=7"]):
        path = sampled(ckpt, f"sampler={sampler}", "npz=true", "gif=false", "guidance.scale=2", *options)[1]
        with np.load(path) as arrays:
            results.append(arrays["images"].astype(int))
    assert results[0].std() > 10
    for other in results[1:]:
        assert np.abs(results[0][: len(other)] - other).max() <= 1


@pytest.fixture
def stopped(monkeypatch):
    """stopped(after, error): sampling that breaks off with an error after so many batches, the first time."""
    made = loading.generate

    def breaks(after, error):
        batches = []

        def generate(*args, **options):
            if len(batches) == after:
                monkeypatch.setattr(loading, "generate", made)
                raise error
            batches.append(args)
            return made(*args, **options)

        monkeypatch.setattr(loading, "generate", generate)
        return batches

    return breaks


def test_a_sampling_that_was_stopped_goes_on(trained, sampled, stopped, tmp_path, caplog):
    ckpt, options = trained(), ["npz=true", "batch_size=5", "guidance.scale=2", "sampler=ancestral"]
    files = ("grid.png", "samples.npz", "trajectory.gif")
    whole = sampled(ckpt, *options, f"out={tmp_path}/whole")
    expected = {path.name: path.read_bytes() for path in whole}
    assert tuple(expected) == files

    stopped(2, KeyboardInterrupt())
    again = [*options, f"out={tmp_path}/again"]
    with pytest.raises(KeyboardInterrupt):  # for the command line, which exits with 130
        sampled(ckpt, *again)
    assert f"stopped with 10 of 12 images; the same command with out={tmp_path}/again" in caplog.text
    left = sorted(path.name for path in (tmp_path / "again" / "partial").iterdir())
    assert left == ["000000000.npy", "000000005.npy", "lock", "settings.json", "trajectory.gif"]

    for change in (
        "seed=1",
        "guidance.scale=3",
        "y=7",
        "sampler.variance=large",
        "steps=3",
        "precision=bf16-mixed",
    ):
        with pytest.raises(
            ConfigError, match=f"a part of other images.*{change.split('=')[0].split('.')[-1]}"
        ):
            sampled(ckpt, *again, change)

    seen = stopped(100, None)
    paths = sampled(ckpt, *again, "batch_size=1")  # however large the batches are
    assert [list(args[2]) for args in seen] == [[10], [11]]
    assert [path.name for path in paths] == list(files)
    assert paths[2].read_bytes() == expected["trajectory.gif"]  # of the first batch, made the first time
    images = [
        np.load(folder / "samples.npz")["images"].astype(int) for folder in (whole[0].parent, paths[0].parent)
    ]
    assert np.abs(images[0] - images[1]).max() <= 1
    assert np.array_equal(images[0][:10], images[1][:10])
    assert not (tmp_path / "again" / "partial").exists()


def test_a_network_in_bfloat16_draws_nearly_the_same(trained, sampled):
    ckpt, images = trained(), []
    for precision in ("32-true", "bf16-mixed"):
        path = sampled(ckpt, f"precision={precision}", "sampler=ddim", "npz=true", "gif=false")[1]
        images.append(np.load(path)["images"].astype(float))
    difference = np.abs(images[0] - images[1])
    assert 0 < difference.mean() < 1  # of 255


def test_what_is_half_written_when_a_sampling_is_killed_is_made_again(trained, sampled, stopped, tmp_path):
    ckpt = trained()
    (whole,) = sampled(ckpt, "gif=false", f"out={tmp_path}/whole")
    stopped(1, MemoryError())
    options = ["gif=false", "batch_size=5", f"out={tmp_path}/again"]
    with pytest.raises(MemoryError):
        sampled(ckpt, *options)
    (tmp_path / "again" / "partial" / "000000005.npy.00000000.unfinished_by_lit_diffusion").write_bytes(
        b"half"
    )
    (again,) = sampled(ckpt, *options)
    assert again.read_bytes() == whole.read_bytes()


def test_what_failed_before_its_first_image_stands_in_nobodys_way(trained, sampled, tmp_path):
    ckpt, out = trained(), f"out={tmp_path}/here"
    with pytest.raises(ConfigError, match="learnt none"):
        sampled(ckpt, "sampler=ancestral_learned", out)
    assert sampled(ckpt, "sampler=ancestral", out)[0].is_file()


def test_what_is_left_of_a_sampling_is_not_trusted_blindly(trained, sampled, stopped, tmp_path):
    """A file that is missing is made again, and images of unknown settings are refused."""
    ckpt, out = trained(), ["gif=false", "npz=true", "batch_size=4", f"out={tmp_path}/here"]
    whole = sampled(ckpt, *out)[1].read_bytes()
    stopped(2, MemoryError())
    with pytest.raises(MemoryError):
        sampled(ckpt, *out)
    finished = tmp_path / "here" / "partial"
    (finished / "000000000.npy").unlink()
    assert sampled(ckpt, *out)[1].read_bytes() == whole
    stopped(2, MemoryError())
    with pytest.raises(MemoryError):
        sampled(ckpt, *out)
    (finished / "settings.json").unlink()
    with pytest.raises(ConfigError, match="a part of other images"):
        sampled(ckpt, *out)
    with pytest.raises(ConfigError), partial_samples(finished, {"seed": 1}):
        pass
    (finished / "000000000.npy").unlink()
    with partial_samples(finished, {"seed": 1}):  # what was refused has let go of the folder
        pass


def test_two_samplings_do_not_share_a_folder(tmp_path):
    with partial_samples(tmp_path / "partial", {}) as first:
        with (
            pytest.raises(ConfigError, match="another sampling is at work"),
            partial_samples(tmp_path / "partial", {}),
        ):
            pass
        first.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_of_an_earlier_sampling_do_not_stay_beside_the_new_ones(trained, sampled, tmp_path):
    ckpt = trained()
    assert len(sampled(ckpt)) == 2
    (grid,) = sampled(ckpt, "gif=false", "seed=1")
    assert {p.name for p in grid.parent.glob("*.*")} == {"grid.png"}


def test_the_arrays_of_an_earlier_sampling_are_not_lost(trained, sampled, tmp_path):
    ckpt = trained()
    *_, npz, _ = sampled(ckpt, "npz=true", "seed=1")
    before = npz.read_bytes()
    with pytest.raises(ConfigError, match=r"holds samples\.npz of another command: choose"):
        sampled(ckpt, "gif=false")
    assert npz.read_bytes() == before
    sampled(ckpt, "npz=true", "seed=2")
    assert npz.read_bytes() != before


def test_a_grid_of_some_of_many(trained, sampled):
    grid, npz = sampled(trained(), "gif=false", "npz=true", "n=30", "grid_n=6", "rows=2", "steps=1")
    assert Image.open(grid).size == (2 + 3 * 30, 2 + 2 * 30)
    with np.load(npz) as arrays:
        assert len(arrays["images"]) == 30
        assert arrays["labels"].tolist() == [*range(10)] * 3


def test_seed_and_guidance_matter(trained, sampled):
    ckpt = trained()
    images = [
        sampled(ckpt, "gif=false", *options)[0].read_bytes()
        for options in ([], [], ["seed=1"], ["guidance.scale=3"], ["guidance.scale=0"], ["y=7"])
    ]
    assert images[0] == images[1]
    assert len(set(images)) == 5


def test_a_model_without_labels_in_turn(trained, sampled):
    ckpt = trained("model.num_classes=0")
    (grid,) = sampled(ckpt, "gif=false")
    assert grid.is_file()
    _, npz = sampled(ckpt, "gif=false", "npz=true")
    with np.load(npz) as arrays:
        assert arrays.files == ["images"]
    with pytest.raises(ConfigError, match="this model has no labels"):
        sampled(ckpt, "guidance.scale=2")
    with pytest.raises(ConfigError, match="trained without labels"):
        sampled(ckpt, "y=3")


def test_labels():
    assert labels_in_turn("all", 3).tolist() == [0, 1, 2]
    assert labels_in_turn(2, 3).tolist() == [2]
    assert labels_in_turn(OmegaConf.create([1, 2]), 3).tolist() == [1, 2]
    assert labels_in_turn(None, 3).tolist() == [3]
    assert labels_in_turn("all", 0) is None
    for wrong in (3, -1, "five", OmegaConf.create([]), OmegaConf.create([0, 9])):
        with pytest.raises(ConfigError, match="y is"):
            labels_in_turn(wrong, 3)


def test_the_checkpoints_sampler_unless_another_is_asked_for(config):
    theirs = {"_target_": "lit_diffusion.samplers.ddim.DDIM", "steps": 7, "clip": True}
    trained = OmegaConf.create({"sampler": theirs, "schedule": {"steps": 100}})
    ours = build_sampler(config("ckpt=x", config_name="sample"), trained)
    assert (type(ours).__name__, ours.steps) == ("DDIM", 7)
    other = build_sampler(config("ckpt=x", "sampler=ancestral", "steps=5", config_name="sample"), trained)
    assert (type(other).__name__, other.steps) == ("Ancestral", 5)
    whole = build_sampler(config("ckpt=x", "sampler=ancestral", config_name="sample"), trained)
    assert whole.steps == 100  # the whole chain of the schedule it was trained with


@pytest.mark.parametrize(
    "override, says",
    [
        ("n=0", "n is 0"),
        ("batch_size=0", "batch_size is 0"),
        ("rows=0", "rows is 0"),
        ("seed=-1", "seed is -1"),
        ("steps=1001", "1001 steps"),
        ("device=cuda", "torch sees no GPU"),
        ("device=abacus", "device is abacus"),
        ("guidance.scale=high", r"guidance\.scale is high"),
        ("+guidance.sacle=2", "sacle.*: give its keys"),
        ("y=2.5", "y is 2.5"),
        ("precision=half", "precision is half: choose 32-true, auto, bf16-mixed or 16-mixed"),
    ],
)
def test_mistakes_are_refused(trained, sampled, override, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=says):
        sampled(trained(), override)


def test_guidance_options_reach_the_samples(trained, sampled):
    """Outside the interval there is no guidance; rescaling changes what there is."""
    ckpt = trained("trainer.max_epochs=3")

    def images(*options):
        with np.load(sampled(ckpt, "npz=true", "gif=false", *options)[1]) as arrays:
            return arrays["images"].astype(float)

    plain, guided = images(), images("guidance.scale=8")
    assert np.array_equal(
        images("guidance.scale=8", "guidance.interval=[0.3,0.4]"), plain
    )  # no step is there
    assert not np.array_equal(guided, plain)
    assert not np.array_equal(images("guidance.scale=8", "guidance.rescale=1"), guided)
    with pytest.raises(ConfigError, match=r"guidance\.interval is"):
        images("guidance.scale=8", "guidance.interval=[1,0]")


@pytest.mark.parametrize(
    "mistake, says",
    [
        ("guidance.scale=nan", r"guidance\.scale is nan"),
        ("steps=2.5", "steps is 2.5"),
        ("out=/proc/samples", "out is /proc/samples, which can't"),
    ],
)
def test_more_mistakes(trained, sampled, mistake, says):
    with pytest.raises(Exception, match=says) as error:
        sampled(trained(), mistake)
    assert isinstance(error.value, ConfigError) or isinstance(error.value.__cause__, ConfigError)


def test_guidance_of_any_kind_needs_labels_in_turn(trained, sampled):
    ckpt = trained("model.num_classes=0")
    for options in (["guidance.scale=2"], ["guidance.rescale=0.5"], ["guidance.interval=[0,0.5]"]):
        with pytest.raises(ConfigError, match="this model has no labels"):
            sampled(ckpt, *options)
    with pytest.raises(ConfigError, match=r"guidance\.interval is"):
        sampled(ckpt, "guidance.interval=[0,2]")


def test_a_denoiser_of_one_level_is_not_sampled(trained, sampled):
    ckpt = trained("schedule=single_step", "model.num_classes=0", "callbacks.samples=null")
    with pytest.raises(ConfigError, match="denoises, but can't sample"):
        sampled(ckpt)


def test_guidance_is_that_of_the_runs_own_samples(trained, sampled):
    """Unless another is asked for."""
    ckpt = trained()

    def images(*options):
        with np.load(sampled(ckpt, "npz=true", "gif=false", *options)[1]) as arrays:
            return arrays["images"]

    conditional, guided = images("guidance.scale=1"), images("guidance.scale=30")
    assert not np.array_equal(conditional, guided)
    assert np.array_equal(images(), conditional)  # this run's own scale is 1
    contents = torch.load(ckpt)
    contents["hyper_parameters"]["guidance"] = {"scale": 30, "interval": [0.0, 1.0], "rescale": 0.0}
    torch.save(contents, ckpt)
    assert np.array_equal(images(), guided)
    assert np.array_equal(images("guidance.scale=1"), conditional)
    assert np.array_equal(images("guidance.interval=[0.3,0.4]"), conditional)  # no step is there
    contents["hyper_parameters"]["guidance"]["interval"] = [0.3, 0.4]
    torch.save(contents, ckpt)
    assert np.array_equal(images(), conditional)
    assert np.array_equal(images("guidance.scale=30"), conditional)  # only the scale is given
    assert np.array_equal(images("guidance.scale=30", "guidance.interval=[0,1]"), guided)


@pytest.mark.parametrize(
    "options",
    [
        ["guidance=apg", "guidance.scale=3"],
        ["guidance=cfg_zero", "guidance.scale=3"],
        ["guidance=cfg_pp", "sampler=ddim", "sampler.clip=false"],
        ["guidance=autoguidance", "guidance.scale=3", "guidance.bad=BAD"],
    ],
    ids=lambda options: options[0],
)
def test_every_method_of_guidance_samples(trained, sampled, options):
    """Other images than unguided ones; a worse model's weights tell one sampling from another."""
    ckpt, bad = trained(), trained("seed=1")
    options = [option.replace("BAD", str(bad)) for option in options]
    plain, guided = (sampled(ckpt, "npz=true", "gif=false", *o)[1].read_bytes() for o in ([], options))
    assert plain != guided


@pytest.mark.parametrize("name, right", [("mnist", 0.9), ("emoji", 0.55)])
def test_the_models_that_ship(name, right, config):
    """What a newcomer gets who asks for little: they are small, and make what they are asked for."""
    assert SHIPPED[name].stat().st_size < 10_000_000
    _, npz = sample(config("n=30", f"ckpt={name}", "npz=true", "gif=false", config_name="sample"))
    with np.load(npz) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    assert labels.tolist() == [*range(10)] * 3
    assert accuracy(load_features(name).classifier, images, labels) > right


def test_the_model_that_is_sampled_by_default(config):
    assert load(config(config_name="sample")).identity == sha256_of(SHIPPED["mnist"])


@pytest.mark.parametrize(
    "y, n, columns",
    [(torch.arange(10), 100, 10), (torch.arange(3), 8, 3), (None, 8, 3), (torch.tensor([1]), 100, 10),
     (torch.arange(100), 100, 10), (torch.zeros(5, 1, 4, 4), 8, 3)],
)  # fmt: skip
def test_a_column_has_one_label_where_these_are_few(config, y, n, columns):
    assert columns_of(config(config_name="sample"), y, n) == columns
    assert columns_of(config("rows=4", config_name="sample"), y, 8) == 2


def test_a_picture_is_fitted_as_the_training_images_were(tmp_path, trained, config):
    """Padded in black, as data.source says; by default cropped."""
    Image.new("RGB", (60, 20), "white").save(tmp_path / "wide.png")
    path = trained()
    whole = load(config(f"ckpt={path}", config_name="sample")).picture(tmp_path / "wide.png", (1, 28, 28))
    assert (whole == 1).all()
    contents = torch.load(path)
    contents["hyper_parameters"]["data"]["source"] |= {"resize": "pad", "background": "black"}
    torch.save(contents, path)
    padded = load(config(f"ckpt={path}", config_name="sample")).picture(tmp_path / "wide.png", (1, 28, 28))
    assert padded[0, 0, 0, 0] == -1 and padded[0, 0, 14, 14] == 1


@pytest.mark.parametrize("module, refused", [({"label_dropout": 0}, True), ("none", False), (None, False)])
def test_a_null_label_that_was_never_learnt_guides_nothing(config, monkeypatch, module, refused):
    checkpoint = read_checkpoint("mnist")
    checkpoint["hyper_parameters"]["module"] = module
    monkeypatch.setattr(loading, "read_checkpoint", lambda path: checkpoint)
    for scale in (0, 2):
        cfg = config(f"guidance.scale={scale}", config_name="sample")
        with pytest.raises(ConfigError, match="has learnt the null label") if refused else nullcontext():
            loading.load(cfg)
