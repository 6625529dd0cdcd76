"""All scores of a set of images, and those that real images would get."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.data.image_set import is_images
from lit_diffusion.evaluate.distances import fid, kid, manifolds, nearest, share
from lit_diffusion.evaluate.label_shares import images_in_shares, labels_in_shares
from lit_diffusion.evaluate.result import EvaluatorSettings, Reference, Scores
from lit_diffusion.features.classifier import Classifier, accuracy, classify, fit
from lit_diffusion.features.network import FeatureNetwork

Images = tuple[Tensor, Tensor]  # uint8 (N, C, H, W), and labels (N,)
DRAWS = 10  # of test images, for the floor of FID
MOST_TWINS = 20_000  # training images that are compared with each other


@dataclass
class Evaluator:
    """Compares images with the real ones of a data set.

    The reference is the whole training split; for what compares neighbours it is a random part, as large as
    the set of images. The scores of as many real test images are the floor: for FID, which varies by
    half at n = 2,000 with the shares of their classes, the mean of ten draws. Where there are fewer test
    images than that, one half of the training split is compared with the other one too.

    Args:
        name: of the data.
        train, test: the two splits.
        features: the network that measures.
        second: another one, for a second opinion on the FID; None for none.
        k: neighbours.
        cas_images: images that the classifier which learns from them sees; 0: none.
        memorisation: whether to look for each image's nearest in the training split.
        seed: of the random parts, KID's subsets, and the classifier.
        device: where to compute.
        class_names: returns the names of the labels, None for unknown ones.
    """

    name: str
    train: Images = field(repr=False)
    test: Images = field(repr=False)
    features: FeatureNetwork
    second: FeatureNetwork | None = None
    k: int = 5
    cas_images: int = 0
    memorisation: bool = False
    seed: int = 0
    device: torch.device | str = "cpu"
    class_names: Callable[[], Sequence[str] | None] = lambda: None
    _known: dict[tuple[str, bool], Tensor] = field(init=False, repr=False, default_factory=dict)
    _floors: dict[tuple[int, bool], Scores] = field(init=False, repr=False, default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image, (C, H, W)."""
        return tuple(self.train[0].shape[1:])

    @property
    def num_classes(self) -> int:
        """Labels that the real images have; 0 for images of pairs."""
        return 0 if is_images(self.train[1]) else int(self.train[1].max()) + 1

    @property
    def networks(self) -> dict[str, FeatureNetwork]:
        """The feature networks, by what is added to the names of their scores."""
        return {"": self.features} | ({"_second": self.second} if self.second else {})

    @property
    def reference(self) -> Reference:
        return Reference(self.name, "train", len(self.train[0]))

    @property
    def settings(self) -> EvaluatorSettings:
        return EvaluatorSettings(self.k, self.cas_images, self.seed)

    def check_images(self, n: int, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless n images (C, H, W) can be scored."""
        if n <= self.k:
            raise ConfigError(f"n is {n}, which must be more than k, {self.k}: choose a larger n")
        if tuple(shape) != self.shape:
            raise ConfigError(
                f"the images are {tuple(shape)}, but those of {self.name} are {self.shape}: choose the data "
                "that they were trained on"
            )

    def scores(self, images: Tensor, labels: Tensor | None) -> Scores:
        """Score images.

        Args:
            images: uint8 (N, C, H, W).
            labels: that the images were sampled with, (N,); None for none.

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
        scores = {
            f"fid{which}": fid(self._features(network, train=True), fakes[which])
            for which, network in self.networks.items()
        }
        scores |= self._likeness(fakes[""]) | self._class_accuracies(images, labels)
        if self.memorisation:
            scores |= self._memorisation(nearest(images, self.train[0], self.device))
        if self.cas_images and labels is not None:
            scores["cas"] = self._classification_accuracy_score(images, labels)
        return scores

    def floor(self, n: int, labelled: bool = True) -> Scores:
        """Return the scores of n real test images, or of all if there are fewer.

        If there are fewer, also ``fid_of_halves``, the mean FID of a random half of the training split
        against the other, ``n_of_halves`` images each. In a training split of ``MOST_TWINS`` or fewer images
        also ``twins``, the share of them that are as near to another one as what ``copies`` counts.

        With their labels also ``fid_in_shares``, the FID of the ``n_in_shares`` test images whose classes
        have exactly the training split's shares, where these are half as many or more: those at random have
        their classes' shares by chance, from which most of their FID comes where n is small.

        Args:
            n: images.
            labelled: whether their labels are scored.
        """
        if (n, labelled) not in self._floors:
            self._floors[n, labelled] = self._floor(n, labelled)
        return self._floors[n, labelled]

    def fidelity(self, images: Tensor, truth: Tensor) -> Scores:
        """Return how near images are to those that were wanted, uint8 (N, C, H, W) both.

        That is the mean of the peak signal-to-noise ratios in dB, and of the distances between features.
        """
        errors = (images.float() - truth.float()).square().flatten(1).mean(1)
        distances = self.features(images, self.device) - self.features(truth, self.device)
        return {
            "psnr": float((20 * math.log10(255) - 10 * errors.clamp(min=1e-4).log10()).mean()),
            "feature_distance": float(distances.norm(dim=1).mean()),
        }

    def input_scores(self, inputs: Tensor, truth: Tensor, labels: Tensor | None) -> Scores:
        """Return the scores of the images that condition a model, as if it had made them."""
        if inputs.shape != truth.shape:
            return {}
        return {**self.scores(inputs, labels), **self.fidelity(inputs, truth)}

    def in_shares(self, n: int, draw: int) -> Tensor:
        """Return indices of test images whose classes have the training split's shares, n or fewer.

        Args:
            n: images.
            draw: the number of the random choice.
        """
        order = self._choose(self.test[0], len(self.test[0]), "shares", draw)
        return order[images_in_shares(self.test[1][order], self.labels(n))]

    def labels(self, n: int) -> Tensor:
        """Return labels (n,) for samples, in the shares that the training split has."""
        return labels_in_shares(self.train[1], n)

    def check_test_images(self, n: int) -> None:
        """Raise ConfigError unless there are n test images, of which samples can be made."""
        if n > len(self.test[0]):
            raise ConfigError(
                f"n is {n}, but test images condition the samples, and {self.name} has {len(self.test[0])}: "
                "choose fewer"
            )

    def some_test_images(self, n: int) -> Images:
        """Return n test images at random, with their labels."""
        chosen = self._choose(self.test[0], n, "some")
        return self.test[0][chosen], self.test[1][chosen]

    def histogram(self, images: Tensor) -> list[float]:
        """Return the share of images that is read as each class; empty if the feature network reads none."""
        classifier = self._classifier(self.features)
        if classifier is None:
            return []
        counts = torch.bincount(classify(classifier, images), minlength=classifier.head.out_features)
        return [count / len(images) for count in counts.tolist()]

    def _floor(self, n: int, labelled: bool) -> Scores:
        different = DRAWS if n < len(self.test[0]) else 1
        draws = [self._choose(self.test[0], n, "floor", draw) for draw in range(different)]
        chosen = draws[0]
        floor = {f"fid{which}": self._mean_fid(network, draws) for which, network in self.networks.items()}
        floor |= self._likeness(self._features(self.features, train=False)[chosen])
        floor |= self._class_accuracies(self.test[0][chosen], self.test[1][chosen] if labelled else None)
        if labelled:
            draws = [self.in_shares(n, draw) for draw in range(DRAWS)]
            if len(draws[0]) >= len(chosen) / 2:
                floor |= {"fid_in_shares": self._mean_fid(self.features, draws), "n_in_shares": len(draws[0])}
        if n > len(self.test[0]):
            floor |= self._halves()
        if self.memorisation:
            floor |= self._memorisation(self._held_out[chosen])
            if len(self.train[0]) <= MOST_TWINS:
                floor["twins"] = share(self._among_each_other < self._held_out.quantile(0.01))
        if self.cas_images and labelled:
            taught_by = self._choose(self.train[0], n, "taught")  # by others than it is tested on
            floor["cas"] = self._classification_accuracy_score(
                self.train[0][taught_by], self.train[1][taught_by]
            )
        return floor

    def _halves(self) -> Scores:
        """Return the mean FID between random halves of the training split, and their size."""
        features = self._features(self.features, train=True)
        half = len(features) // 2
        draws = [self._choose(features, 2 * half, "halves", draw) for draw in range(DRAWS)]
        fids = [fid(features[draw[:half]], features[draw[half:]]) for draw in draws]
        return {"fid_of_halves": sum(fids) / DRAWS, "n_of_halves": half}

    def _mean_fid(self, network: FeatureNetwork, draws: Sequence[Tensor]) -> float:
        """Return the mean FID over draws of test images, given by their indices."""
        real, test = self._features(network, train=True), self._features(network, train=False)
        return sum(fid(real, test[draw]) for draw in draws) / len(draws)

    def _likeness(self, fake: Tensor) -> Scores:
        """Return KID, and precision to coverage, of features."""
        real = self._features(self.features, train=True)
        near = real[self._choose(real, len(fake), "neighbours")]
        mean, std = kid(real, fake, self.seed)
        return {"kid": mean, "kid_std": std, **manifolds(near, fake, self.k)}

    def _class_accuracies(self, images: Tensor, labels: Tensor | None) -> Scores:
        """Return the shares of images that the networks' classifiers read as their labels."""
        if labels is None:
            return {}
        return {
            f"class_accuracy{which}": accuracy(classifier, images, labels)
            for which, network in self.networks.items()
            if (classifier := self._classifier(network))
        }

    def _features(self, network: FeatureNetwork, train: bool) -> Tensor:
        """Return the features of a split, computed once."""
        key = network.sha256, train
        if key not in self._known:
            self._known[key] = network((self.train if train else self.test)[0], self.device)
        return self._known[key]

    def _classifier(self, network: FeatureNetwork) -> Classifier | None:
        """Return the network's classifier, if it has learnt these data."""
        classifier = network.classifier
        if classifier is None or network.metadata["recipe"]["data"] != self.name:
            return None
        if classifier.head.out_features < self.num_classes:
            return None
        return classifier.to(self.device)

    @cached_property
    def _held_out(self) -> Tensor:
        """Each test image's distance to the nearest training image."""
        return nearest(self.test[0], self.train[0], self.device)

    @cached_property
    def _among_each_other(self) -> Tensor:
        """Each training image's distance to the nearest other one."""
        return nearest(self.train[0], self.train[0], self.device, rank=2)

    def _memorisation(self, distances: Tensor) -> Scores:
        """Return the mean distance, and the share of distances below the smallest 1 % of real new images'."""
        copied = distances < self._held_out.quantile(0.01)
        return {"nearest": float(distances.mean()), "copies": share(copied)}

    def _classification_accuracy_score(self, images: Tensor, labels: Tensor) -> float:
        """Return the test accuracy of a classifier taught by these images (Ravuri and Vinyals 2019)."""
        with torch.random.fork_rng():
            torch.manual_seed(rng.key_to_seed(self.seed, "cas"))
            classifier = Classifier(images.shape[1], self.num_classes)
        epochs = math.ceil(self.cas_images / len(images))
        fit(classifier.to(self.device), images, labels, epochs, self.seed)
        return accuracy(classifier, *self.test)

    def _choose(self, images: Tensor, n: int, *use: str | int) -> Tensor:
        """Return the indices of n images at random, or of all if there are fewer."""
        return torch.randperm(len(images), generator=rng.generator(self.seed, *use))[:n]
