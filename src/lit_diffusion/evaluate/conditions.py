"""What samples that are to be scored are asked to be."""

from typing import cast

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lit_diffusion.common.build import TARGET
from lit_diffusion.common.configs import plain
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.conditions import ImageCondition
from lit_diffusion.data.image_set import converted, is_images
from lit_diffusion.evaluate.evaluator import Evaluator
from lit_diffusion.loading import Loaded
from lit_diffusion.sample.conditions import Conditions, conditions, labels_of_images

LABELLED_BY = ("name", "options", "labels", "vendors")  # arguments of a source on which its labels depend


def evaluated_by(cfg: DictConfig, loaded: Loaded, evaluator: Evaluator) -> tuple[Conditions, Tensor | None]:
    """Return the conditions of the samples, and the label of each, (n,), None for no labels.

    They are what ``conditions`` returns; labels in the shares of the real images' for y=data; and for a model
    that images condition, those of test images.

    Raises:
        ConfigError: conditions that the model doesn't know, or the real images haven't.
    """
    if loaded.condition is not None:
        return test_conditions(loaded.condition, evaluator, cfg.n)
    labelled = cfg.prompt is None and loaded.denoiser.num_classes > 0
    if labelled and cfg.y is not None:
        check_own_data(cfg, loaded, evaluator, "y=null")
    if labelled and cfg.y == "data":
        y: Tensor | None = evaluator.labels(cfg.n)
    else:
        y = conditions(with_all_labels(cfg), loaded.denoiser)
    return Conditions(y), labels_of_images(cfg, y)


def test_conditions(
    condition: ImageCondition, evaluator: Evaluator, n: int
) -> tuple[Conditions, Tensor | None]:
    """Return conditions that are made of n test images, and these images' labels, None for images of pairs.

    Raises:
        ConfigError: there are fewer test images.
    """
    evaluator.check_test_images(n)
    images, others = evaluator.some_test_images(n)
    x, other = converted(images, others)
    return Conditions(condition(x, other), x), None if is_images(others) else others


def with_all_labels(cfg: DictConfig) -> DictConfig:
    """Return the config with y=all for y=data, which only the real images give a meaning."""
    return cast(DictConfig, OmegaConf.merge(cfg, {"y": "all"})) if cfg.y == "data" else cfg


def check_own_data(cfg: DictConfig, loaded: Loaded, evaluator: Evaluator, alternative: str) -> None:
    """Raise ConfigError if the real images aren't of the data that the model's labels are of."""
    if loaded.config is None:
        return
    if cfg.get("data"):
        check_same_source(loaded.config.data.source, cfg.data.source, alternative)
    known = plain(loaded.config).get("class_names")
    names = evaluator.class_names() if isinstance(known, list) else None
    if names is not None and known != [*names]:
        raise ConfigError(
            f"the data have the classes {', '.join(names)}, but the model was trained on "
            f"{', '.join(map(str, known))}: choose its own data, or {alternative}"
        )
    if evaluator.num_classes > loaded.denoiser.num_classes:
        raise ConfigError(
            f"the data have {evaluator.num_classes} classes, but the model was trained on "
            f"{loaded.denoiser.num_classes}: choose its own data, or {alternative}"
        )


def check_same_source(own: DictConfig, given: DictConfig, alternative: str) -> None:
    """Raise ConfigError if two sources' labels mean different things."""
    kinds = [node[TARGET].rpartition(".")[2] for node in (given, own)]
    if kinds[0] != kinds[1] or any(own.get(key) != given.get(key) for key in LABELLED_BY):
        names = (node.get("name") or kind for node, kind in zip((given, own), kinds, strict=True))
        raise ConfigError(
            "the data are {}, but the model was trained on {}, whose labels are others: ".format(*names)
            + f"choose its own data, or {alternative}"
        )
