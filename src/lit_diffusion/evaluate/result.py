"""The result of an evaluation: scores, their floor, and what they depend on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import write_json
from lit_diffusion.features.network import NetworkInfo

Record = TypeVar("Record")

RESULT = "evaluation.json"  # in the folder of an evaluation
Scores = dict[str, float]


@dataclass(frozen=True)
class Reference:
    """The real images.

    Attributes:
        data: name of the data set.
        split: of it.
        n: images in it.
    """

    data: str
    split: str
    n: int


@dataclass(frozen=True)
class EvaluatorSettings:
    """What the scores depend on besides the images.

    Attributes:
        k: neighbours, for precision, recall, density and coverage.
        cas_images: images seen by the classifier that learns from samples.
        seed: of everything random.
    """

    k: int
    cas_images: int
    seed: int


@dataclass(frozen=True)
class Cost:
    """What sampling a batch costs.

    Attributes:
        nfe: network evaluations per image.
        images_per_second: measured on one batch.
        batch_size: images in it.
        device: where.
        peak_memory_of: "batch" on a GPU; on a CPU "process", all that it has done so far.
        peak_memory_mib: in MiB.
    """

    nfe: float
    images_per_second: float
    batch_size: int
    device: str
    peak_memory_of: str
    peak_memory_mib: float


@dataclass(frozen=True)
class Bits:
    """What the bits per dimension were estimated from.

    Attributes:
        n: images.
        standard_error: of their mean.
        steps: of the flow.
        split: of the data.
        labelled: whether the model was given the images' labels.
    """

    n: int
    standard_error: float
    steps: int
    split: str
    labelled: bool


MEASURED: dict[str, type] = {  # parts of a result that are dataclasses themselves
    "reference": Reference,
    "evaluator": EvaluatorSettings,
    "features": NetworkInfo,
    "second": NetworkInfo,
}


def read_record(kind: type[Record], path: Path, parts: dict[str, Any]) -> Record:
    """Read a dataclass from JSON.

    Args:
        kind: the dataclass.
        path: of the file.
        parts: the types of its fields that are dataclasses themselves.

    Raises:
        ConfigError: the file is truncated, or was written by another version.
    """
    try:
        content = json.loads(path.read_text())
        return kind(**content | {key: part(**content[key]) for key, part in parts.items() if content[key]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path} is truncated, or was written by another version ({error}): remove it and run again"
        ) from None


@dataclass(frozen=True)
class Result:
    """Scores of a set of images, their floor, and what they were made and measured with.

    Attributes:
        n: images scored.
        scores: by name, see ``report.SCORES``.
        floor: the scores of as many real test images.
        floor_n: real test images in the floor.
        classes: share of the images that is read as each class; empty if no classifier reads them.
        made_by: the model, or the file of samples.
        sampling: what the samples depend on; None for a file of samples.
        reference: the real images.
        evaluator: neighbours, seeds.
        features: the network that measures.
        second: another one, for a second opinion; None for none.
        cost: of sampling; None for a file of samples.
        bits: beside bits per dimension; None where there are none.
        inputs: scores of the images that condition the model, if any do.
    """

    n: int
    scores: Scores
    floor: Scores
    floor_n: int
    classes: list[float]
    made_by: str
    sampling: dict[str, Any] | None
    reference: Reference
    evaluator: EvaluatorSettings
    features: NetworkInfo
    second: NetworkInfo | None = None
    cost: Cost | None = None
    bits: Bits | None = None
    inputs: Scores | None = None

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote."""
        return read_record(cls, path, MEASURED | {"cost": Cost, "bits": Bits})
