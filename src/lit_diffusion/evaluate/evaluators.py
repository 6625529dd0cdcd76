"""From the config of a data set to its evaluator."""

from functools import partial
from typing import Any

from lit_diffusion.common.build import build
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.data.datamodule import Source
from lit_diffusion.data.image_set import source_name
from lit_diffusion.data.measured import class_names
from lit_diffusion.evaluate.evaluator import Evaluator
from lit_diffusion.features.network import load_features

MEASURED_BY = {  # data -> our feature network
    "Mnist": "mnist",
    "FashionMnist": "fashion_mnist",
    "Emoji": "emoji",
    "Emoji by vendor": "emoji",
    "EmojiPairs": "emoji",
}


class EvaluatorCache:
    """Keeps the last evaluator, with its features and floors, for evaluations with the same settings."""

    def __init__(self) -> None:
        self._settings: tuple[dict[str, Any], dict[str, Any]] | None = None

    def get(self, source: dict[str, Any], **options: Any) -> Evaluator:
        """Return the evaluator of a source, given by its config, with options of ``build_evaluator``."""
        if self._settings != (source, options):
            self._evaluator = build_evaluator(build(source, "data.source"), **options)
            self._settings = source, options
        return self._evaluator


def build_evaluator(
    source: Source, features: str | None = None, second: str | bool | None = None, **options: Any
) -> Evaluator:
    """Return the Evaluator of a data set.

    Args:
        source: of the real images, which it fetches if they are missing.
        features: as ``load_features`` takes it; None: the data's own.
        second: the same, for the second network; None: the data's own, if they have one; False: none.
        **options: as in ``Evaluator``.

    Raises:
        ConfigError: the data have no feature network of their own, and none is named; or one for other
            channels.
    """
    name = source_name(source)
    own = MEASURED_BY.get(name)
    features = features or own
    if features is None:
        raise ConfigError(
            f"features is missing, and {name} has none of its own: choose features=inception, or train one "
            "with lit-diffusion features"
        )
    if second is True and own is None:
        raise ConfigError(
            f"second is true, but {name} has no network of its own: choose second=NAME, or false"
        )
    if second is None or second is True:
        second = own and f"{own}_second"
    first = load_features(features)
    other = load_features(second, key="second") if second else None
    source.prepare()
    train, test = source.load(train=True), source.load(train=False)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ConfigError(
            f"{name} has training images {tuple(train[0].shape[1:])} and test images "
            f"{tuple(test[0].shape[1:])}: give both the same shape"
        )
    first.check_shape(train[0].shape[1:], "features")
    if other:
        other.check_shape(train[0].shape[1:], "second")
    k, fewest = options.get("k", Evaluator.k), min(len(train[0]), len(test[0]))
    if fewest <= k:
        raise ConfigError(
            f"k is {k}, the neighbours looked for, but {name} has a split of {fewest} images: choose a "
            "smaller k, or a larger test split"
        )
    return Evaluator(name, train, test, first, other, class_names=partial(class_names, source), **options)
