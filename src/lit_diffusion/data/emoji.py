"""Emoji: small colour pictures that anyone can fetch, by two vendors, in ten categories."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError, check_text, check_whole_number
from lit_diffusion.common.files import make_folder
from lit_diffusion.common.images import open_picture
from lit_diffusion.common.shapes import Size
from lit_diffusion.data import npm
from lit_diffusion.data.cache import Split
from lit_diffusion.data.pictures import Pictures

Vendor = Literal["google", "twitter"]
CATEGORIES = (  # Unicode's, in its order
    "Smileys & Emotion",
    "People & Body",
    "Component",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
LIST = "emoji.json"  # what is known of the emoji, beside their pictures
VENDORS: tuple[Vendor, ...] = ("google", "twitter")
TEST_SHARE = 0.1  # of all emoji


class Picture(NamedTuple):
    """What is known of an emoji's picture, whoever drew it.

    Attributes:
        file: its name.
        emoji: place of the emoji, whatever its tone of skin, in the list of all.
        category: place of its category in ``CATEGORIES``.
        tone: whether it is in another tone of skin than the emoji's first picture.
    """

    file: str
    emoji: int
    category: int
    tone: bool


class Emoji(Pictures):
    """Google's Noto and Twitter's Twemoji: about 1,870 emoji each, and as many in other tones of skin.

    The pictures of 64 x 64 pixels are laid on the background and scaled. They are those of npm's packages
    emoji-datasource-google and -twitter 16.0.0, fetched if they aren't there: Noto, under the Apache
    licence 2.0, and Twemoji, under CC-BY 4.0.

    All pictures of an emoji are in the same split. Emoji that Unicode replaced by others are left out, and a
    picture that a vendor uses for several, of a flag for example, is taken once.

    Args:
        root: folder of the files; they lie in ``root``/Emoji/VENDOR.
        image_size, channels, background: as in ``Pictures``.
        vendors: whose pictures.
        labels: category, the place in ``CATEGORIES``; or vendor, the place in ``vendors``.
        split: emoji, a tenth of all emoji at random is the test split; or vendor, the last one's are.
        skin_tones: whether the pictures in other tones of skin are taken too.
        seed: of the split.
    """

    stored: ClassVar = (
        "image_size", "channels", "vendors", "labels", "split", "skin_tones", "background", "seed",
    )  # fmt: skip
    digests: ClassVar = {  # of all pictures of a vendor
        "google": "d4fa1aa84bde79f7771e12c098f878aca4d0fc726991b320900b9fe84b4f1e93",
        "twitter": "fd059372ce98d60a81fc69e2d195e793bfda1352395fd0639fbf92e802bbeadc",
    }

    def __init__(
        self,
        root: str,
        image_size: Size = 32,
        channels: int = 3,
        vendors: Sequence[Vendor] = VENDORS,
        labels: Literal["category", "vendor"] = "category",
        split: Literal["emoji", "vendor"] = "emoji",
        skin_tones: bool = True,
        background: str = "white",
        seed: int = 0,
    ):
        check_text("data.source.root", root)
        check_whole_number("data.source.seed", seed, 0, 2**63 - 1)
        if not vendors or len(set(vendors)) < len(vendors) or (split == "vendor" and len(vendors) < 2):
            raise ConfigError(
                f"data.source.vendors is {list(vendors)}: choose one of {', '.join(VENDORS)}, or both, which "
                "split=vendor needs"
            )
        if labels == split == "vendor":
            raise ConfigError(
                "data.source.labels and data.source.split are vendor, so that each split would have one "
                "label: choose split=emoji, or labels=category"
            )
        self.root = Path(root)
        self.vendors = tuple(vendors)
        self.labels = labels
        self.split = split
        self.skin_tones = skin_tones
        self.seed = seed
        super().__init__(["Emoji"], self.root / "cache", image_size, channels, "crop", background, VENDORS)

    @property
    def name(self) -> str:
        """The data set's name, beside its scores."""
        return type(self).__name__ + (" by vendor" if self.labels == "vendor" else "")

    def class_names(self) -> Sequence[str]:
        """Return the classes' names, by label."""
        return CATEGORIES if self.labels == "category" else self.vendors

    def prepare(self) -> None:
        """Fetch the pictures if any is missing, check them, and scale them once.

        Raises:
            ConfigError: they can't be fetched, or are others than those of version 16.0.0.
        """
        for vendor in VENDORS:
            self._fetch(vendor)
        self.cache.prepare(" ".join(self.digests.values()), self._pictures)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8 and labels (N,) int64 of a split."""
        pictures = self._list()
        images, labels = [], []
        for k, vendor in enumerate(self.vendors):
            mine, _ = self.cache.load(vendor)
            chosen = self._chosen(mine, pictures, vendor, train)
            images.append(mine[chosen])
            labels += [pictures[i].category if self.labels == "category" else k for i in chosen]
        return torch.cat(images), torch.tensor(labels)

    def _chosen(self, images: Tensor, pictures: Sequence[Picture], vendor: str, train: bool) -> list[int]:
        """Return the places of a vendor's pictures in a split."""
        if self.split == "vendor" and train == (vendor == self.vendors[-1]):
            return []
        test = self._test_emoji(pictures)
        seen: set[bytes] = set()
        chosen = []
        for place, picture in enumerate(pictures):
            pixels = images[place].numpy().tobytes()
            if (picture.tone and not self.skin_tones) or pixels in seen:
                continue
            seen.add(pixels)  # so that a picture's twin is never in the other split
            if self.split == "vendor" or train != (picture.emoji in test):
                chosen.append(place)
        return chosen

    def _test_emoji(self, pictures: Sequence[Picture]) -> set[int]:
        """Return the emoji that are held out of the training split."""
        n = pictures[-1].emoji + 1
        order = torch.randperm(n, generator=rng.generator(self.seed, "test"))
        return set(order[: round(TEST_SHARE * n)].tolist())

    def _list(self) -> list[Picture]:
        """Return what is known of the pictures, in the order in which they are kept."""
        emoji = json.loads((self._folder(VENDORS[0]) / LIST).read_text())
        kept = [e for e in emoji if "obsoleted_by" not in e]
        pictures = []
        for k, e in enumerate(kept):
            category = CATEGORIES.index(e["category"])
            pictures.append(Picture(e["image"], k, category, tone=False))
            for variation in e.get("skin_variations", {}).values():
                pictures.append(Picture(variation["image"], k, category, tone=True))
        return pictures

    def _folder(self, vendor: str) -> Path:
        return self.root / "Emoji" / vendor

    def _pictures(self) -> Iterator[Split]:
        """Yield the pictures of each vendor, in the order of the list."""
        pictures = self._list()
        for vendor in VENDORS:
            folder = self._folder(vendor)
            check_pictures(folder, self.digests[vendor])
            images = ((self._fitted(open_picture(folder / p.file)), p.category) for p in pictures)
            yield Split(vendor, len(pictures), images)

    def _fetch(self, vendor: str) -> None:
        """Fetch a vendor's pictures unless they are there."""
        folder, package = self._folder(vendor), f"emoji-datasource-{vendor}@16.0.0"
        if (folder / LIST).is_file():
            return
        make_folder(folder.parent, "data.source.root")
        with FileLock(f"{folder}.lock"):
            if (folder / LIST).is_file():
                return
            try:
                with npm.scratch(folder.parent, vendor) as temporary:
                    files = npm.unpack(package, temporary)
                    pictures = files / "img" / vendor / "64"
                    (files / LIST).rename(pictures / LIST)
                    pictures.rename(folder)
            except (RuntimeError, OSError) as error:
                raise ConfigError(
                    f"the emoji of {vendor} can't be fetched ({error}): put {LIST} and the pictures in "
                    f"img/{vendor}/64 of the npm package {package} into {folder.absolute()}"
                ) from None


class EmojiPairs(Emoji):
    """Pairs of pictures of the same emoji: the last vendor's, and, as its condition, the first one's.

    Args:
        **options: as in ``Emoji``, with both vendors, and emoji in one of the splits.
    """

    def __init__(self, root: str, **options: Any):
        super().__init__(root, **options)
        if len(self.vendors) < 2 or self.split == "vendor":
            raise ConfigError(
                f"data.source has vendors {list(self.vendors)} and split {self.split}, but a pair has a "
                "picture by each vendor: choose both vendors, and split=emoji"
            )

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8 and their conditions, (N, C, H, W) uint8, of a split."""
        first, last = (self.cache.load(vendor)[0] for vendor in (self.vendors[0], self.vendors[-1]))
        chosen = self._chosen(last, self._list(), self.vendors[-1], train)
        return last[chosen], first[chosen]

    def class_names(self) -> Sequence[str]:
        """Return none: there are no labels."""
        return ()


def check_pictures(folder: Path, expected: str) -> None:
    """Raise ConfigError unless a folder's files have this digest."""
    found = digest_of(folder)
    if found != expected:
        raise ConfigError(
            f"{folder} holds other files than the emoji of version 16.0.0 (sha256 {found[:12]}, expected "
            f"{expected[:12]}): delete it and run again to fetch them anew"
        )


def digest_of(folder: Path) -> str:
    """Return a SHA-256 of the names and the contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
