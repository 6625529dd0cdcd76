"""All scores of a set of images, and those that real images would get."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.data.datamodule import Source
from lit_diffusion.evaluate.distances import fid, kid, manifolds, nearest, share
from lit_diffusion.features.classifier import Classifier, accuracy, fit, read
from lit_diffusion.features.network import FeatureNetwork, load_features

Scores = dict[str, float]
Images = tuple[Tensor, Tensor]  # uint8 (N, C, H, W), and labels (N,)
GOLDEN = (5**0.5 - 1) / 2
DRAWS = 10  # of test images, for the floor of FID
MEASURED_BY = {"Mnist": "mnist", "FashionMnist": "fashion_mnist"}  # data -> our feature network


@dataclass
class Judge:
    """Compares images with the real ones of a data set.

    The reference is the whole training split; for what compares neighbours it is a random part, as large as
    the set of images. As many real test images are the floor: of FID, which the shares of their classes make
    vary by half at n = 2,000, the mean of ten draws.

    Args:
        name: of the data.
        train, test: the two splits.
        features: the network that measures.
        check: another one, for a second opinion on the FID; None for none.
        k: neighbours.
        cas_images: images that the classifier which learns from them sees; 0: none.
        memorisation: whether to look for each image's nearest in the training split.
        seed: of the random parts, KID's subsets, and the classifier.
        device: where to compute.
    """

    name: str
    train: Images
    test: Images
    features: FeatureNetwork
    check: FeatureNetwork | None = None
    k: int = 5
    cas_images: int = 0
    memorisation: bool = False
    seed: int = 0
    device: torch.device | str = "cpu"
    _known: dict[tuple[str, bool], Tensor] = field(default_factory=dict)
    _floors: dict[tuple[int, bool], Scores] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image, (C, H, W)."""
        return tuple(self.train[0].shape[1:])

    @property
    def num_classes(self) -> int:
        return int(self.train[1].max()) + 1

    @property
    def networks(self) -> dict[str, FeatureNetwork]:
        """Those that measure, by what is added to the names of their scores."""
        return {"": self.features} | ({"_check": self.check} if self.check else {})

    def check_images(self, n: int, shape: tuple[int, ...]) -> None:
        """ConfigError unless n images (C, H, W) can be scored."""
        if n <= self.k:
            raise ConfigError(f"n is {n}, which must be more than k, {self.k}: choose a larger n")
        if tuple(shape) != self.shape:
            raise ConfigError(
                f"the images are {tuple(shape)}, but those of {self.name} are {self.shape}: choose the data "
                "that they were trained on"
            )

    def scores(self, images: Tensor, labels: Tensor | None) -> Scores:
        """Scores of images uint8 (N, C, H, W), asked to be labels (N,), None if none were asked for.

        Raises:
            ConfigError: too few images, another shape than the real ones', or labels that these don't have.
        """
        self.check_images(len(images), images.shape[1:])
        if labels is not None and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ConfigError(
                f"the labels run from {labels.min()} to {labels.max()}, but {self.name} has those from 0 to "
                f"{self.num_classes - 1}: leave out labels that say nothing"
            )
        fakes = {which: network(images, self.device) for which, network in self.networks.items()}
        found = {
            f"fid{which}": fid(self._features(network, train=True), fakes[which])
            for which, network in self.networks.items()
        }
        found |= self._likeness(fakes[""]) | self._read_as(images, labels)
        if self.memorisation:
            found |= self._memorisation(nearest(images, self.train[0], self.device))
        if self.cas_images and labels is not None:
            found["cas"] = self._taught_by(images, labels)
        return found

    def floor(self, n: int, labelled: bool = True) -> Scores:
        """The scores of n real test images, or of all if there are fewer, with their labels or without.

        With labels also ``fid_in_shares``, the FID of the ``n_in_shares`` images of ``in_shares``, where
        these are half as many or more: those at random have their classes' shares by chance, from which
        most of their FID comes where n is small.
        """
        if (n, labelled) not in self._floors:
            self._floors[n, labelled] = self._floor(n, labelled)
        return self._floors[n, labelled]

    def in_shares(self, n: int, draw: int) -> Tensor:
        """Places of test images, as many of each class as ``labels`` asks for, in one of many ways.

        Fewer of all, in the same shares, where the test split has too few of a class.
        """
        order = self._choose(self.test[0], len(self.test[0]), "shares", draw)
        labels = self.test[1][order]
        wanted = torch.bincount(self.labels(n), minlength=self.num_classes)
        there = torch.bincount(labels, minlength=self.num_classes)
        enough = min(1.0, float((there / wanted)[wanted > 0].min()))
        return torch.cat([order[labels == k][: int(enough * count)] for k, count in enumerate(wanted)])

    def labels(self, n: int) -> Tensor:
        """Labels (n,) to ask for, in the shares that the training split has, whatever n is.

        They weigh on FID: 8,920 of MNIST's test images have 0.13 with equal shares, 0.055 with their own.
        """
        spread = (torch.arange(n) + 0.5).double() * GOLDEN % 1  # evenly, however far it has come
        ordered = self.train[1].sort().values
        return ordered[(spread * len(ordered)).long()]

    def some_test_images(self, n: int) -> Images:
        """n of them at random."""
        chosen = self._choose(self.test[0], n, "some")
        return self.test[0][chosen], self.test[1][chosen]

    def histogram(self, images: Tensor) -> list[float]:
        """The share of images that is read as each class; empty if the feature network reads none."""
        classifier = self._reader(self.features)
        if classifier is None:
            return []
        counts = torch.bincount(read(classifier, images), minlength=classifier.head.out_features)
        return [count / len(images) for count in counts.tolist()]

    def _floor(self, n: int, labelled: bool) -> Scores:
        different = DRAWS if n < len(self.test[0]) else 1
        draws = [self._choose(self.test[0], n, "floor", draw) for draw in range(different)]
        chosen = draws[0]
        found = {f"fid{which}": self._mean_fid(network, draws) for which, network in self.networks.items()}
        found |= self._likeness(self._features(self.features, train=False)[chosen])
        found |= self._read_as(self.test[0][chosen], self.test[1][chosen] if labelled else None)
        if labelled:
            draws = [self.in_shares(n, draw) for draw in range(DRAWS)]
            if len(draws[0]) >= len(chosen) / 2:
                found |= {"fid_in_shares": self._mean_fid(self.features, draws), "n_in_shares": len(draws[0])}
        if self.memorisation:
            found |= self._memorisation(self._held_out[chosen])
        if self.cas_images and labelled:
            taught_by = self._choose(self.train[0], n, "taught")  # by others than it is tested on
            found["cas"] = self._taught_by(self.train[0][taught_by], self.train[1][taught_by])
        return found

    def _mean_fid(self, network: FeatureNetwork, draws: Sequence[Tensor]) -> float:
        """Of draws of test images, by their places."""
        real, test = self._features(network, train=True), self._features(network, train=False)
        return sum(fid(real, test[draw]) for draw in draws) / len(draws)

    def _likeness(self, fake: Tensor) -> Scores:
        """KID, and precision to coverage, of features."""
        real = self._features(self.features, train=True)
        near = real[self._choose(real, len(fake), "neighbours")]
        mean, std = kid(real, fake, self.seed)
        return {"kid": mean, "kid_std": std, **manifolds(near, fake, self.k)}

    def _read_as(self, images: Tensor, labels: Tensor | None) -> Scores:
        """The shares that are read as their labels."""
        if labels is None:
            return {}
        return {
            f"class_accuracy{which}": accuracy(classifier, images, labels)
            for which, network in self.networks.items()
            if (classifier := self._reader(network))
        }

    def _features(self, network: FeatureNetwork, train: bool) -> Tensor:
        """Features of a split."""
        key = network.sha256, train
        if key not in self._known:
            self._known[key] = network((self.train if train else self.test)[0], self.device)
        return self._known[key]

    def _reader(self, network: FeatureNetwork) -> Classifier | None:
        """The network's classifier, if it has learnt these data."""
        if network.classifier is None or network.about["recipe"]["data"] != self.name:
            return None
        return network.classifier.to(self.device)

    @cached_property
    def _held_out(self) -> Tensor:
        """Each test image's distance to the nearest training image."""
        return nearest(self.test[0], self.train[0], self.device)

    def _memorisation(self, distances: Tensor) -> Scores:
        """The mean distance, and the share below that which 1 % of real new images have."""
        copied = distances < self._held_out.quantile(0.01)
        return {"nearest": float(distances.mean()), "copies": share(copied)}

    def _taught_by(self, images: Tensor, labels: Tensor) -> float:
        """Classification accuracy score (Ravuri and Vinyals 2019): of a classifier taught by these images."""
        with torch.random.fork_rng():
            torch.manual_seed(rng.key_to_seed(self.seed, "cas"))
            classifier = Classifier(images.shape[1], self.num_classes)
        epochs = -(-self.cas_images // len(images))
        fit(classifier.to(self.device), images, labels, epochs, self.seed)
        return accuracy(classifier, *self.test)

    def _choose(self, images: Tensor, n: int, *what_for: str | int) -> Tensor:
        """Places of n images at random, or of all if there are fewer."""
        return torch.randperm(len(images), generator=rng.generator(self.seed, *what_for))[:n]


def build_judge(
    source: Source, features: str | None = None, check: str | bool | None = None, **options
) -> Judge:
    """The Judge of a data set.

    Args:
        source: of the real images, which it fetches if they are missing.
        features: as ``load_features`` takes it; None: the data's own.
        check: the same, for the second network; None: the data's own, if they have one; False: none.
        **options: as in ``Judge``.

    Raises:
        ConfigError: the data have no feature network of their own, and none is named; or one for other
            channels.
    """
    name = type(source).__name__
    own = MEASURED_BY.get(name)
    if features is None and own is None:
        raise ConfigError(f"features is missing, and {name} has none of its own: choose features=NAME")
    if check is True and own is None:
        raise ConfigError(f"check is true, but {name} has no network of its own: choose check=NAME, or false")
    if check is None or check is True:
        check = own and f"{own}_check"
    networks = [load_features(features or own), load_features(check, key="check") if check else None]
    source.prepare()
    judge = Judge(name, source.load(train=True), source.load(train=False), *networks, **options)
    for key, network in zip(("features", "check"), networks, strict=True):
        if network:
            network.check_channels(judge.shape[0], key)
    return judge
