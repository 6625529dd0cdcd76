"""A folder of pictures: the layout of torchvision's ImageFolder, with what real folders hold."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_text
from lit_diffusion.common.images import Resize, open_picture
from lit_diffusion.common.log import log
from lit_diffusion.common.shapes import Size
from lit_diffusion.data.cache import Split, check_held_out, held_out
from lit_diffusion.data.pictures import Pictures

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
HELD_OUT = {"test", "val", "valid", "validation"}  # folders that may be the test split, beside train
NAMED = 5  # files that an error names
BATCH = 256  # files that are read ahead


class Folder(Pictures):
    """The pictures in a folder: a folder for each class, or all in one, without labels.

        root/cat/1.png           or    root/train/cat/1.png     or    root/1.png
        root/dog/2.jpg                 root/test/dog/2.jpg            root/2.jpg

    Labels are the classes' places in the order of their names. Where there is no folder train with one of
    ``HELD_OUT`` beside it, a share of each class is the test split, chosen by the seed. Pictures are read
    once, in RGB or grey of 8 bits: turned as their EXIF data say, laid on the background, scaled and cropped.
    The result is kept under ``cache`` until a file of the folder changes: its name, its size, or when it was
    written.

    Args:
        root: the folder.
        image_size, channels, resize, background, cache: as in ``Pictures``.
        test_share: of the pictures, where the folder has no split of its own.
        seed: of that choice.
        bad_files: refuse or skip those that can't be read; either way they are named.
    """

    stored: ClassVar = ("image_size", "channels", "resize", "background", "test_share", "seed", "bad_files")

    def __init__(
        self,
        root: str,
        image_size: Size,
        channels: int = 3,
        resize: Resize = "crop",
        background: str = "white",
        test_share: float = 0.1,
        seed: int = 0,
        bad_files: Literal["refuse", "skip"] = "refuse",
        cache: str = "data/cache",
    ):
        check_text("data.source.root", root)
        check_held_out(test_share, seed)
        self.root = Path(root)
        rules = [str(self.root.absolute()), test_share, seed, bad_files]
        super().__init__(rules, cache, image_size, channels, resize, background)
        self.test_share = test_share
        self.seed = seed
        self.skips = bad_files == "skip"

    @property
    def name(self) -> str:
        """The data set's name, beside its scores."""
        return f"Folder {self.root.absolute().name}"

    def class_names(self) -> list[str]:
        """Return the classes' names, by label; none for a folder without labels."""
        return classes_of(self._files()[0])

    def prepare(self) -> None:
        """Read the pictures, unless that was done since the folder last changed.

        Raises:
            ConfigError: there is no such folder, it has no pictures or is laid out in another way, or files
                can't be read.
        """
        files, others = self._files()
        if others:
            log.warning(f"{self.root}: left out {len(others)} that are no pictures by name: {listed(others)}")
        self.cache.prepare(content_of(self.root, files), partial(self._splits, files))
        if classes := classes_of(files):
            log.info(f"labels: {', '.join(f'{label} = {name}' for label, name in enumerate(classes))}")

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Return the pictures, and the other files, relative to the folder, in the order of their names."""
        if not self.root.is_dir():
            problem = "is no folder" if self.root.exists() else "does not exist"
            raise ConfigError(f"data.source.root is {self.root}, which {problem}: give a folder of pictures")
        files = visible_files(self.root)
        pictures = [path for path in files if path.suffix.lower() in PICTURES]
        if not pictures:
            raise ConfigError(
                f"data.source.root is {self.root}, which has no pictures ({', '.join(sorted(PICTURES))}): "
                "give a folder that has some"
            )
        check_layout(self.root, pictures)
        return pictures, [path for path in files if path.suffix.lower() not in PICTURES]

    def _splits(self, files: Sequence[Path]) -> Iterator[Split]:
        """Yield both splits of the pictures that can be read; at the end name the others.

        Raises:
            ConfigError: there are such others, and they aren't skipped.
        """
        labels = torch.tensor(labels_of(files))
        if split_folder(files):
            test = torch.tensor([path.parts[0] != "train" for path in files])
        else:
            test = held_out(labels, self.test_share, self.seed)
        bad: list[str] = []
        for name, chosen in (("train", ~test), ("test", test)):
            places = chosen.nonzero()[:, 0].tolist()
            yield Split(name, len(places), self._images([(files[k], int(labels[k])) for k in places], bad))
        if bad and self.skips:
            log.warning(f"{self.root}: skipped {len(bad)} of {len(files)} pictures: {listed(bad)}")
        elif bad:
            raise ConfigError(
                f"data.source.root is {self.root}, where {len(bad)} of {len(files)} pictures can't be read: "
                f"{listed(bad)}; mend or remove them, or give data.source.bad_files=skip"
            )

    def _images(self, files: Sequence[tuple[Path, int]], bad: list[str]) -> Iterator[tuple[Tensor, int]]:
        """Yield the pictures that can be read, with their labels; add the others to ``bad``."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(files), BATCH):
                some = files[first : first + BATCH]
                images = pool.map(self._read, [path for path, _ in some])
                for (path, label), image in zip(some, images, strict=True):
                    if isinstance(image, Tensor):
                        yield image, label
                    else:
                        bad.append(f"{path} ({image})")

    def _read(self, path: Path) -> Tensor | str:
        """Return a picture as uint8 (C, H, W), or why it can't be read."""
        try:
            return self._fitted(open_picture(self.root / path))
        except ConfigError as error:
            return str(error).partition(":")[0].replace(f"{self.root / path} ", "")


def check_layout(root: Path, files: Sequence[Path]) -> None:
    """Raise ConfigError for pictures both in folders and beside them, or splits that can't be told apart."""
    others = sorted(top_folders(files) - {"train"})
    if "train" in top_folders(files) and not split_folder(files):
        raise ConfigError(
            f"data.source.root is {root}, which has {listed(others) or 'nothing'} beside its folder train: "
            f"leave one of {', '.join(sorted(HELD_OUT))} there, or give {root / 'train'} itself"
        )
    depths = {min(len(path.parts), 2 + bool(split_folder(files))) for path in files}
    if len(depths) > 1:
        beside = [path for path in files if len(path.parts) == min(depths)]
        raise ConfigError(
            f"data.source.root is {root}, which has pictures beside folders of pictures: {listed(beside)}; "
            "give each class a folder, or put all pictures into one"
        )
    trained = {name for path, name in zip(files, class_names(files), strict=True) if path.parts[0] == "train"}
    if split_folder(files) and (unknown := {*class_names(files)} - trained):
        raise ConfigError(
            f"data.source.root is {root}, whose class {min(map(str, unknown))} isn't in train: add pictures "
            "of it there, or leave it out"
        )


def top_folders(files: Sequence[Path]) -> set[str]:
    """Return the names of the folders that the pictures are in, the outermost ones."""
    return {path.parts[0] for path in files if len(path.parts) > 1}


def split_folder(files: Sequence[Path]) -> str | None:
    """Return the name of the folder beside train that is the test split; None if there is none."""
    others = top_folders(files) - {"train"}
    return min(others) if len(others) == 1 and others <= HELD_OUT and "train" in top_folders(files) else None


def class_names(files: Sequence[Path]) -> list[str | None]:
    """Return the name of each picture's class; None for a folder without labels."""
    place = 1 if split_folder(files) else 0
    return [path.parts[place] if len(path.parts) > place + 1 else None for path in files]


def classes_of(files: Sequence[Path]) -> list[str]:
    """Return the names of the classes, in order; none for a folder without labels."""
    return sorted({name for name in class_names(files) if name is not None})


def labels_of(files: Sequence[Path]) -> list[int]:
    """Return each picture's label, 0 where there are no classes."""
    label = {name: k for k, name in enumerate(classes_of(files))}
    return [0 if name is None else label[name] for name in class_names(files)]


def visible_files(root: Path) -> list[Path]:
    """Return all files in a folder and its folders, linked ones too, but for hidden ones, in their order."""
    files, seen = [], set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:  # a link to a folder that it is in
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(folder, name).relative_to(root) for name in names if not name.startswith(".")]
    return sorted(files)


def refuse(error: OSError) -> None:
    """Raise ConfigError for a folder that can't be read."""
    raise ConfigError(f"{error.filename} can't be read ({error.strerror}): give a folder that can be read")


def content_of(root: Path, files: Sequence[Path]) -> str:
    """Return a digest of all files' names, sizes and times of writing."""
    digest = hashlib.sha256()
    for path in files:
        stat = (root / path).stat() if (root / path).exists() else None  # a link may lead nowhere
        written = stat and (stat.st_size, stat.st_mtime_ns)
        digest.update(f"{path}\0{written}\0".encode())
    return digest.hexdigest()


def listed(names: Sequence[object]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(map(str, names[:NAMED]))}{more}"
