"""A folder of pictures, as people have them."""

import logging
import os

import numpy as np
import pytest
import torch
from commands import TINY
from PIL import Image

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import load_picture, open_picture, to_uint8
from lit_diffusion.data.folder import Folder
from lit_diffusion.edit.run import edit
from lit_diffusion.evaluate.run import evaluate
from lit_diffusion.export.run import export
from lit_diffusion.features.run import train_features
from lit_diffusion.sample.run import sample
from lit_diffusion.train.run import prepare, train

RED, GREEN, BLUE = (200, 30, 40), (20, 180, 60), (30, 60, 220)
FOLDER = (
    "data.source._target_=lit_diffusion.data.folder.Folder"  # the tests' own configs have the digits there
)


def filled(path, colour=RED, size=(20, 20), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


@pytest.fixture
def source(tmp_path):
    """source(**options): a Folder of tmp_path/photos at 8 x 12 pixels."""

    def made(**options):
        return Folder(str(tmp_path / "photos"), image_size=(8, 12), cache=str(tmp_path / "cache"), **options)

    return made


def loaded(source):
    """The images and labels of both splits."""
    source.prepare()
    parts = [source.load(train) for train in (True, False)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_pictures_of_every_kind_read_as_they_look(tmp_path, source):
    """Grey, palette, 16 bits, transparent, turned by EXIF, of other shapes and formats."""
    photos = tmp_path / "photos"
    filled(photos / "train" / "a" / "0.png", 90, mode="L")
    palette = Image.new("RGB", (20, 20), GREEN).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(photos / "train" / "a" / "1.png")
    Image.fromarray(np.full((20, 20), 90 * 257, dtype=np.uint16)).save(photos / "train" / "a" / "2.png")
    filled(photos / "train" / "a" / "3.png", (*BLUE, 0), mode="RGBA")
    turned = Image.new("RGB", (40, 20), RED)
    turned.paste(BLUE, (0, 0, 20, 20))  # left half; turned by 90 degrees clockwise, the upper one
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(photos / "train" / "a" / "4.png", exif=exif)
    filled(photos / "train" / "a" / "5.jpg", RED, size=(300, 200), quality=95)
    filled(photos / "train" / "a" / "6.webp", RED, size=(7, 90), lossless=True)
    filled(photos / "train" / "a" / "7.tif", (0, 255, 255, 0), mode="CMYK")
    filled(photos / "test" / "a" / "0.png")
    made = source(background="#204060")
    made.prepare()
    images, labels = made.load(train=True)
    assert images.shape == (8, 3, 8, 12) and images.dtype == torch.uint8 and not labels.any()

    def colour(k):
        return images[k].float().mean((1, 2)).round().int().tolist()

    assert colour(0) == colour(2) == [90, 90, 90]
    assert colour(1) == list(GREEN)
    assert colour(3) == [0x20, 0x40, 0x60]
    assert images[4, :, 0].float().mean(1).round().tolist() == list(BLUE)
    assert images[4, :, -1].float().mean(1).round().tolist() == list(RED)
    assert all(abs(a - b) < 4 for a, b in zip(colour(5), RED, strict=True))
    assert colour(6) == list(RED)
    assert colour(7) == [255, 0, 0]
    mine = load_picture(photos / "train" / "a" / "5.jpg", (3, 8, 12))
    assert torch.equal(to_uint8(mine[0]), images[5])  # an edit's input is read in the same way


@pytest.mark.parametrize("resize, corner", [("crop", RED), ("pad", (255, 255, 255)), ("stretch", BLUE)])
def test_other_shapes_are_cropped_padded_or_stretched(tmp_path, source, resize, corner):
    """A picture four times as wide as high: red in the middle, blue at its ends."""
    picture = Image.new("RGB", (160, 40), BLUE)
    picture.paste(RED, (40, 0, 120, 40))
    for name in ("train/0.png", "test/0.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        picture.save(tmp_path / "photos" / name)
    image = loaded(source(resize=resize))[0][0].permute(1, 2, 0)
    assert image[4, 6].tolist() == list(RED)
    assert image[0, 0].tolist() == list(corner)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_folders_are_classes_and_splits(tmp_path, source, held_out):
    for split, n in {"train": 3, held_out: 2}.items():
        for name, colour in {"dog": RED, "cat": BLUE}.items():
            for k in range(n):
                filled(tmp_path / "photos" / split / name / "more" / f"{k}.png", colour)
    made = source()
    assert len(made.class_names()) == 2
    made.prepare()
    for is_train, n in {True: 3, False: 2}.items():
        images, labels = made.load(is_train)
        assert labels.tolist() == [0] * n + [1] * n
        assert images[0, :, 0, 0].tolist() == list(BLUE)
        assert images[-1, :, 0, 0].tolist() == list(RED)


def test_folders_that_are_links(tmp_path, source):
    """A class may lie elsewhere; a link to a folder that it is in is followed once."""
    for k in range(10):
        filled(tmp_path / "photos" / "cat" / f"{k}.png", (k, 0, 0))
        filled(tmp_path / "elsewhere" / f"{k}.png", (100 + k, 0, 0))
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "cat" / "again").symlink_to(tmp_path / "photos")
    made = source()
    images, labels = loaded(made)
    assert len(made.class_names()) == 2 and labels.bincount().tolist() == [10, 10]
    assert sorted(images[:, 0, 0, 0].tolist()) == [*range(10), *range(100, 110)]


def test_a_share_of_each_class_is_held_out_by_the_seed(tmp_path, source):
    for k in range(20):
        filled(tmp_path / "photos" / "many" / f"{k:02}.png", (k, 0, 0))
    for k in range(10):
        filled(tmp_path / "photos" / "few" / f"{k:02}.png", (100 + k, 0, 0))
    splits = []
    for seed in (0, 0, 1):
        made = source(test_share=0.2, seed=seed)
        made.prepare()
        (train, _), (test, labels) = made.load(True), made.load(False)
        assert labels.bincount().tolist() == [2, 4]
        both = torch.cat([train, test])[:, 0, 0, 0]
        assert sorted(both.tolist()) == [*range(20), *range(100, 110)]
        splits.append(test[:, 0, 0, 0].tolist())
    assert splits[0] == splits[1] != splits[2]


def test_one_folder_has_no_labels(tmp_path, source):
    for k in range(10):
        filled(tmp_path / "photos" / f"{k}.png", (k, 0, 0))
    made = source()
    images, labels = loaded(made)
    assert made.class_names() == []
    assert len(images) == 10 and not labels.any()


def test_bad_files_are_counted_and_named_or_skipped(tmp_path, source, caplog):
    photos = tmp_path / "photos"
    for k in range(20):
        filled(photos / f"{k:02}.png", (k, 0, 0))
    (photos / "04.png").write_bytes((photos / "04.png").read_bytes()[:40])
    (photos / "11.png").write_text("no picture")
    exif = Image.Exif()
    exif[0x0112] = 6
    filled(photos / "20.webp", exif=exif.tobytes()[:12])
    (photos / "21.png").symlink_to(photos / "nowhere.png")
    (photos / "notes.txt").write_text("mine")
    (photos / ".hidden.png").write_text("not looked at")
    with pytest.raises(ConfigError, match=r"4 of 22 pictures can't be read: .*bad_files=skip") as error:
        source().prepare()
    assert all(name in str(error.value) for name in ("04.png", "11.png", "20.webp", "21.png"))
    assert "hidden" not in str(error.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    with caplog.at_level(logging.WARNING, "lit_diffusion"):
        images, _ = loaded(source(bad_files="skip"))
    assert sorted(images[:, 0, 0, 0].tolist()) == [k for k in range(20) if k not in (4, 11)]
    assert "skipped 4 of 22 pictures" in caplog.text and "04.png" in caplog.text
    assert "left out 1 that are no pictures by name: notes.txt" in caplog.text


def test_the_cache_follows_the_folder(tmp_path, source, monkeypatch):
    photos = tmp_path / "photos"
    for k in range(10):
        filled(photos / f"{k}.png", (k, 0, 0))
    read = []

    def opened(path):
        read.append(path.name)
        return open_picture(path)

    monkeypatch.setattr("lit_diffusion.data.folder.open_picture", opened)
    before = loaded(source())[0]
    assert len(read) == 10
    assert torch.equal(loaded(source())[0], before)
    assert len(read) == 10  # nothing was read again
    filled(photos / "3.png", (99, 0, 0))
    os.utime(photos / "3.png", ns=(0, 12345))
    assert 99 in loaded(source())[0][:, 0, 0, 0].tolist()
    (photos / "4.png").unlink()
    assert len(loaded(source())[0]) == 9
    assert before[:, 0, 0, 0].sort().values.tolist() == list(range(10))  # an earlier view stays as it was
    cache = next(path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    (cache / "train.u8").write_bytes(b"short")
    assert len(loaded(source())[0]) == 9


@pytest.mark.parametrize(
    "files, says",
    [
        ([], "has no pictures"),
        (["a.png", "b/c.png"], "pictures beside folders of pictures: a.png"),
        (["train/a/b.png", "test/a.png"], "pictures beside folders"),
        (["train/a.png", "val/a.png", "test/a.png"], "has test, val beside its folder train: leave one"),
        (["train/a/a.png", "test/a/a.png", "extra/a/a.png"], "has extra, test beside its folder train"),
        (["train/a/a.png", "train/b/a.png"], "has nothing beside its folder train: leave one of test, val"),
        (["train/a/a.png", "test/b/a.png"], "whose class b isn't in train"),
        (["a.png"], "leaves no image of 1 on one side"),
    ],
)
def test_folders_laid_out_otherwise_are_refused(tmp_path, source, files, says):
    (tmp_path / "photos").mkdir()
    for name in files:
        filled(tmp_path / "photos" / name)
    with pytest.raises(ConfigError, match=says):
        source().prepare()


@pytest.mark.parametrize(
    "options, says",
    [
        ({"background": "whiteish"}, "background is 'whiteish'"),
        ({"channels": 4}, "data.channels is 4"),
        ({"test_share": 1.0}, "test_share is 1.0"),
    ],
)
def test_options_that_cannot_work_are_refused(source, options, says):
    with pytest.raises(ConfigError, match=says):
        source(**options)


def test_a_folder_that_is_not_given_is_asked_for(config):
    with pytest.raises(ConfigError, match=r"data.source.root is missing: give data.source.root=VALUE"):
        train(config("data=folder", FOLDER))


def test_a_folder_that_is_missing_is_refused(source):
    with pytest.raises(ConfigError, match="does not exist: give a folder of pictures"):
        source().prepare()


def test_a_folder_from_training_to_scores(tmp_path, config):
    """Two classes of pictures of many sizes: train, sample, edit, evaluate, export."""
    photos, generator = tmp_path / "photos", np.random.default_rng(0)
    for k in range(48):
        height, width = generator.integers(20, 60, 2)
        noise = generator.integers(0, 80, (height, width, 3)) + (0 if k % 2 else [120, 60, 20])
        path = photos / ("plain" if k % 2 else "warm") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.astype(np.uint8)).save(path)
    data = [
        "data=folder", f"data.source.root={photos}", f"data.source.cache={tmp_path}/cache",
        "data.image_size=[16,24]", "data.source.test_share=0.25",
    ]  # fmt: skip
    small = ["data.val_size=8", "data.batch_size=8", "debug=limit", *TINY["small_unet"]]
    cfg = config(*data, FOLDER, *small, "model.num_classes=${data.num_classes}", f"out={tmp_path}/run")
    train(cfg)
    ckpt, here = f"ckpt={tmp_path}/run/checkpoints/last.ckpt", f"data_root={photos}"
    out = config(ckpt, "n=4", "steps=2", "rows=2", f"out={tmp_path}/samples", config_name="sample")
    assert Image.open(sample(out)[0]).mode == "RGB"

    trained = config(
        *data, "fit.epochs=4", "fit.batch_size=8", f"out={tmp_path}/features", config_name="features"
    )
    path, share, _ = train_features(trained)
    assert share > 0.9
    scores = [
        ckpt, f"features={path}", "second=false", "n=12", "steps=2", "k=2", "bits_n=2", "bits_steps=3",
        "cas_images=0", "logger=none", here, f"out={tmp_path}/scores",
    ]  # fmt: skip
    result, _ = evaluate(config(*scores, config_name="evaluate"))
    assert result.reference.data == "Folder photos" and result.reference.n == 36
    assert np.isfinite([result.scores[name] for name in ("fid", "class_accuracy", "bits_per_dim")]).all()

    wanted = ["edit=sdedit", "edit.starts=[1]", "sampler.steps=3", ckpt, here, f"out={tmp_path}/edit"]
    assert Image.open(edit(config(*wanted, config_name="edit"))[1]).size == (24, 16)
    with pytest.raises(ConfigError, match="trained on Folder, whose images may be anywhere: give data_root"):
        edit(config(*wanted[:-2], f"out={tmp_path}/edit2", config_name="edit"))
    for name in ("safetensors", "onnx", "diffusers"):
        files = export(config(ckpt, f"format={name}", f"out={tmp_path}/{name}", config_name="export"))
        assert all(file.is_file() for file in files)

    for name, changed in (("plain", "zebra"), ("warm", "warmer")):
        (photos / name).rename(photos / changed)
        with pytest.raises(
            ConfigError, match="but the model was trained on plain, warm: choose its own data"
        ):
            evaluate(config(*scores, config_name="evaluate"))
        (photos / changed).rename(photos / name)
    filled(photos / "another" / "1.png", (0, 0, 0))
    filled(photos / "another" / "2.png", (0, 0, 0))
    with pytest.raises(ConfigError, match="the data have the classes another, plain, warm, but the model"):
        evaluate(config(*scores, config_name="evaluate"))


def test_a_run_does_not_go_on_with_other_pictures(tmp_path, config):
    for k in range(40):
        filled(tmp_path / "photos" / f"{k:02}.png", (k, 0, 0))
    options = [
        "data=folder", FOLDER, f"data.source.root={tmp_path}/photos", f"data.source.cache={tmp_path}/cache",
        "data.val_size=8", "data.batch_size=8", "debug=limit", "callbacks.samples=null", *TINY["small_unet"],
    ]  # fmt: skip
    train(config(*options, f"out={tmp_path}/run"))
    more = ["trainer.max_epochs=2", f"ckpt={tmp_path}/run/checkpoints/last.ckpt"]
    train(config(*options, *more, f"out={tmp_path}/on"))
    filled(tmp_path / "photos" / "00.png", (99, 0, 0))
    with pytest.raises(ConfigError, match="training images of Folder photos aren't those that the run began"):
        train(config(*options, *more, f"out={tmp_path}/other"))


@pytest.mark.parametrize("labelled", [True, False])
def test_the_template_takes_folders_with_and_without_labels(tmp_path, config, labelled):
    for k in range(40):
        filled(tmp_path / "photos" / ("a" if labelled and k % 2 else "b" if labelled else "") / f"{k}.png")
    options = ["experiment=own_images", FOLDER, f"data.source.root={tmp_path}/photos", "data.val_size=8"]
    cfg = config(*options, f"data.source.cache={tmp_path}/cache", "trainer.precision=32-true")
    assert prepare(cfg).module.denoiser.num_classes == (2 if labelled else 0)
