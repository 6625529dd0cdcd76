"""All scores of a set of images, and those that real images would get."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_diffusion import rng
from lit_diffusion.data.datamodule import Source
from lit_diffusion.errors import ConfigError
from lit_diffusion.evaluation.classifier import Classifier, accuracy, fit, read
from lit_diffusion.evaluation.distances import fid, kid, manifolds, nearest
from lit_diffusion.evaluation.features import FeatureNetwork, load_features

Scores = dict[str, float]
MEASURED_BY = {"Mnist": "mnist", "FashionMnist": "fashion_mnist"}  # data -> our feature network


@dataclass
class Judge:
    """Compares images with the real ones of a data set.

    The reference is the whole training split; for what compares neighbours it is a random part, as large as
    the set of images. The same numbers of real test images are the floor.

    Args:
        name: of the data.
        train, test: images uint8 (N, C, H, W) and labels (N,) of the two splits.
        features: the network that measures.
        check: another one, for a second opinion on the FID; None for none.
        k: neighbours.
        cas_images: images that the classifier which learns from them sees; 0: none.
        memorisation: whether to look for each image's nearest in the training split.
        seed: of the random parts, KID's subsets, and the classifier.
        device: where to compute.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    features: FeatureNetwork
    check: FeatureNetwork | None = None
    k: int = 5
    cas_images: int = 0
    memorisation: bool = False
    seed: int = 0
    device: torch.device | str = "cpu"
    _reference: dict[str, Tensor] = field(default_factory=dict)
    _floors: dict[int, Scores] = field(default_factory=dict)

    def scores(self, images: Tensor, labels: Tensor | None) -> Scores:
        """Scores of images uint8 (N, C, H, W), asked to be labels (N,), None if none were asked for.

        Raises:
            ConfigError: too few images for k neighbours, or of another shape than the real ones.
        """
        if images.shape[1:] != self.train[0].shape[1:]:
            raise ConfigError(
                f"the images are {tuple(images.shape[1:])}, but the data's {tuple(self.train[0].shape[1:])}: "
                "choose the data they were trained on"
            )
        self.check_n(len(images))
        return self._all(images, labels, taught_by=(images, labels))

    def check_n(self, n: int) -> None:
        """ConfigError if so few images can't be scored."""
        if n <= self.k:
            raise ConfigError(f"n is {n}, which must be more than k, {self.k}: choose a larger n")

    def floor(self, n: int) -> Scores:
        """The scores of n real test images, or of all if there are fewer."""
        if n not in self._floors:
            chosen = self._choose(self.test[0], n, "floor")
            taught_by = self._choose(self.train[0], n, "taught")
            self._floors[n] = self._all(
                self.test[0][chosen],
                self.test[1][chosen],
                taught_by=(self.train[0][taught_by], self.train[1][taught_by]),
            )
        return self._floors[n]

    def histogram(self, images: Tensor) -> list[float]:
        """The share of images that is read as each class; empty if the feature network reads none."""
        if self.features.classifier is None:
            return []
        seen = read(self.features.classifier.to(self.device), images)
        classes = self.features.classifier.head.out_features
        return (torch.bincount(seen, minlength=classes) / len(seen)).tolist()

    def _all(self, images: Tensor, labels: Tensor | None, taught_by: tuple[Tensor, Tensor | None]) -> Scores:
        found = self._fidelity(images, labels)
        if self.memorisation:
            found["nearest"] = float(nearest(images, self.train[0], self.device).mean())
        if self.cas_images and labels is not None:
            found["cas"] = self._taught_by(*taught_by)
        return found

    def _fidelity(self, images: Tensor, labels: Tensor | None) -> Scores:
        real, fake = self._real(self.features), self.features(images, self.device)
        near = real[self._choose(real, len(fake), "neighbours")]
        found = {"fid": fid(real, fake)}
        if self.check:
            found["fid_check"] = fid(self._real(self.check), self.check(images, self.device))
        found["kid"] = kid(real, fake, self.seed)
        found.update(manifolds(near, fake, self.k))
        for name, network in {"class_accuracy": self.features, "class_accuracy_check": self.check}.items():
            if labels is not None and network and network.classifier:
                found[name] = accuracy(network.classifier.to(self.device), images, labels)
        return found

    def _real(self, network: FeatureNetwork) -> Tensor:
        """Features of the training split."""
        if network.sha256 not in self._reference:
            self._reference[network.sha256] = network(self.train[0], self.device)
        return self._reference[network.sha256]

    def _taught_by(self, images: Tensor, labels: Tensor) -> float:
        """Classification accuracy score (Ravuri and Vinyals 2019): of a classifier taught by these images."""
        with torch.random.fork_rng():
            torch.manual_seed(rng.key_to_seed(self.seed, "cas"))
            classifier = Classifier(images.shape[1], int(self.test[1].max()) + 1)
        epochs = -(-self.cas_images // len(images))
        fit(classifier.to(self.device), images, labels, epochs, self.seed)
        return accuracy(classifier, *self.test)

    def _choose(self, images: Tensor, n: int, what_for: str) -> Tensor:
        """Places of n images at random, or of all if there are fewer."""
        return torch.randperm(len(images), generator=rng.generator(self.seed, what_for))[:n]


def build_judge(
    source: Source, features: str | None = None, check: str | bool | None = None, **options
) -> Judge:
    """The Judge of a data set.

    Args:
        source: of the real images, which it fetches if they are missing.
        features: as ``load_features`` takes it; None: the data's own.
        check: the same, for the second network; False for none.
        **options: as in ``Judge``.

    Raises:
        ConfigError: the data have no feature network of their own, and none is named.
    """
    name = type(source).__name__
    own = MEASURED_BY.get(name)
    if features is None and own is None:
        raise ConfigError(f"features is missing, and {name} has none of its own: choose features=NAME")
    if check is None and own is not None:
        check = f"{own}_check"
    networks = [network and load_features(network) for network in (features or own, check or None)]
    source.prepare()
    return Judge(name, source.load(train=True), source.load(train=False), *networks, **options)
