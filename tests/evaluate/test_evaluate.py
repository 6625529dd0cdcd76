"""The evaluation command."""

import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.evaluate.evaluator import Evaluator
from lit_diffusion.evaluate.report import scores_caption, scores_table
from lit_diffusion.evaluate.result import Bits, Result
from lit_diffusion.evaluate.run import evaluate
from lit_diffusion.sample.partial import PartialSamples

QUICK = ["n=12", "steps=2", "cas_images=0", "bits_n=0", "evaluator_seed=0"]


@pytest.fixture
def evaluated(config, trained, tmp_path):
    """evaluated(*overrides): the result for a small checkpoint that knows labels, as the file holds it."""

    def made(*overrides: str, ckpt=None):
        ckpt = ckpt or trained("data.source._target_=digits.Mnist")
        options = [f"ckpt={ckpt}", "second=false", "logger=none", *QUICK]
        _, path = evaluate(config(*options, *overrides, config_name="evaluate"))
        return Result.read(path)

    return made


def test_the_whole_result(evaluated, tmp_path):
    result = evaluated("guidance.scale=2", "cas_images=24", "bits_n=2", "bits_steps=3")
    assert result.n == result.floor_n == 12
    assert set(result.floor) == {*result.scores, "fid_in_shares", "n_in_shares", "twins"} - {"bits_per_dim"}
    expected = (
        "fid kid kid_std precision recall density coverage class_accuracy nearest copies cas bits_per_dim"
    )
    assert set(result.scores) == set(expected.split())
    assert all(math.isfinite(score) for score in [*result.scores.values(), *result.floor.values()])
    assert result.cost.nfe == 4  # 2 steps of DDIM, each guided by a second evaluation
    assert result.cost.batch_size == 12
    assert result.sampling["guidance"]["scale"] == 2
    assert result.features.accuracy >= 0.994
    assert sum(result.classes) == pytest.approx(1)
    assert (tmp_path / "grid.png").is_file()
    assert not (tmp_path / "partial").exists()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(scores_table(result))
    text = console.export_text()
    sha256 = result.features.sha256[:12]
    for part in ("12 samples", "12 real test images", "Mnist, train split, 320", "seeds: samples 0", sha256):
        assert part in text
    assert f"{result.scores['kid']:.4f} ± {result.scores['kid_std']:.2g}" in text
    made = "last.ckpt: DDIM(steps=2, clip=True, grid=uniform, eta=0.0), guidance 2 at t in [0.0, 1.0], "
    assert made in scores_caption(result)


@pytest.mark.parametrize(
    "overrides, labelled",
    [
        (["y=null"], False),
        (["guidance.scale=0"], False),
        (["guidance.scale=0", "guidance.interval=[0.3,0.7]"], True),
        (["y=[1,2]"], True),
        (["y=7", "n=90"], True),  # more than the test images
    ],
)
def test_labels_are_scored_if_they_were_asked_for(evaluated, overrides, labelled, tmp_path):
    result = evaluated(*overrides, "cas_images=12", "npz=true")
    for scores in (result.scores, result.floor):
        assert ("class_accuracy" in scores) == ("cas" in scores) == labelled
    assert result.floor_n == min(result.n, 80)
    arrays = np.load(tmp_path / "samples.npz")
    assert ("labels" in arrays) == ("y=null" not in overrides)


def test_samples_are_asked_for_in_these_shares(evaluated, trained, evaluator, tmp_path):
    evaluated("npz=true", "n=30")
    assert np.load(tmp_path / "samples.npz")["labels"].tolist() == evaluator.labels(30).tolist()
    few = trained("model.num_classes=8", "data.num_classes=8", "data.source._target_=digits.Few")
    other = ["data=mnist", "data.source._target_=digits.Mnist"]
    for overrides in ([], ["y=all"], ["y=null", "bits_n=2"]):
        with pytest.raises(ConfigError, match="the data are Mnist, but the model was trained on Few"):
            evaluated(*other, *overrides, ckpt=few)
    assert "class_accuracy" not in evaluated(*other, "y=null", ckpt=few).scores


def test_a_model_without_labels(evaluated, trained):
    ckpt = trained("data.source._target_=digits.Mnist", "model.num_classes=0")
    result = evaluated("cas_images=12", "bits_n=2", "bits_steps=2", ckpt=ckpt)
    assert {"cas", "class_accuracy"}.isdisjoint(result.scores | result.floor)
    assert math.isfinite(result.scores["bits_per_dim"])
    assert result.bits.standard_error > 0
    assert result.bits == Bits(2, result.bits.standard_error, 2, "test", labelled=False)


def test_two_evaluations_in_a_process(evaluated, trained):
    """The evaluator of the first isn't that of the second."""
    ckpt = trained("data.source._target_=digits.Mnist")
    first, again, other = evaluated(ckpt=ckpt), evaluated(ckpt=ckpt), evaluated("k=3", ckpt=ckpt)
    assert first.scores == again.scores
    assert first.floor["density"] != other.floor["density"]


def test_samples_of_any_model_can_be_scored(evaluated, config, tmp_path, trained):
    ckpt = trained("data.source._target_=digits.Mnist")
    made = evaluated("npz=true", ckpt=ckpt)
    options = ["features=mnist", "second=false", "logger=none", *QUICK, f"samples={tmp_path}/samples.npz"]
    data = ["data=mnist", "data.source._target_=digits.Mnist"]
    given, _ = evaluate(config(*options, *data, config_name="evaluate"))
    assert given.scores == made.scores
    with pytest.raises(ConfigError, match="data is missing"):
        evaluate(config(*options, config_name="evaluate"))


def test_a_model_of_other_images_costs_no_sampling(evaluated, trained, monkeypatch):
    """A colour model, and digits to compare with."""
    monkeypatch.setattr("lit_diffusion.loading.generate", None)
    ckpt = trained("data.source._target_=digits.Mnist")
    contents = torch.load(ckpt)
    contents["hyper_parameters"]["data"]["channels"] = 3
    torch.save(contents, ckpt)
    with pytest.raises(
        ConfigError, match=r"the images are \(3, 28, 28\), but those of Mnist are \(1, 28, 28\)"
    ):
        evaluated(ckpt=ckpt)


def test_a_judgement_that_was_stopped_keeps_its_samples(evaluated, monkeypatch, trained):
    ckpt = trained("data.source._target_=digits.Mnist")

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Evaluator, "scores", stop)
        evaluated(ckpt=ckpt)
    batches = []
    monkeypatch.setattr("lit_diffusion.loading.generate", lambda *args: batches.append(args))
    assert evaluated(ckpt=ckpt).n == 12
    assert len(batches) == 1  # nothing is sampled again, but for the cost


OTHER = ["data=mnist", "data.source._target_=digits.Digits"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["n=5"], "n is 5 and k is 5"),
        (["k=0"], "k is 0"),
        (["bits_steps=1"], "bits_steps is 1"),
        (["bits_n=81"], "bits_n is 81, and Mnist has 80 test images: choose a number from 2 to 80, or 0"),
        (["memorisation=maybe"], "memorisation is maybe: choose true or false"),
        (["npz=maybe"], "npz is maybe"),
        (["guidance.scale=lots"], r"guidance\.scale is lots"),
        (["features=vgg"], "features is vgg: choose one of .*mnist.* inception"),
        (OTHER, "Digits has none of its own"),
        (
            [*OTHER, "features=mnist", "second=true"],
            "second is true",
        ),
        (["features=inception"], "features=inception needs torch_fidelity"),
        (["second=nowhere"], "second is nowhere"),
        (["samples=samples.npz"], "leave one out"),
    ],
)
def test_mistakes_cost_no_sampling(evaluated, overrides, message, monkeypatch):
    monkeypatch.setattr("lit_diffusion.loading.generate", None)
    with pytest.raises(ConfigError, match=message):
        evaluated(*overrides)


def test_scores_are_on_the_disk_before_the_samples_are_removed(evaluated, monkeypatch, trained, tmp_path):
    ckpt = trained("data.source._target_=digits.Mnist")
    seen = []
    remove = PartialSamples.remove

    def spy(self):
        seen.append((tmp_path / "evaluation.json").is_file())
        remove(self)

    monkeypatch.setattr(PartialSamples, "remove", spy)
    evaluated(ckpt=ckpt)
    assert seen == [True]


def test_a_result_of_another_version_is_refused(tmp_path):
    path = tmp_path / "evaluation.json"
    for content in ("{", "{}", '{"n": 3}'):
        path.write_text(content)
        with pytest.raises(ConfigError, match="truncated, or was written by another version"):
            Result.read(path)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"labels": np.zeros(3)}, "can't be read"),
        ({"images": np.zeros((12, 28), np.uint8)}, "give images uint8"),
        ({"images": np.zeros((12, 1, 28, 28), np.float32)}, "give images uint8"),
        ({"images": np.zeros((12, 1, 28, 28), np.uint8), "labels": np.zeros(3)}, "labels float64"),
        ({"images": np.zeros((12, 1, 8, 8), np.uint8)}, "but those of Mnist"),
    ],
)
def test_samples_that_are_none(config, tmp_path, arrays, message):
    np.savez(tmp_path / "samples.npz", **arrays)
    options = ["features=mnist", "second=false", "logger=none", *QUICK, f"samples={tmp_path}/samples.npz"]
    with pytest.raises(ConfigError, match=message):
        evaluate(config(*options, "data=mnist", "data.source._target_=digits.Mnist", config_name="evaluate"))


def test_an_empty_file_of_samples(config, tmp_path):
    (tmp_path / "samples.npz").touch()
    with pytest.raises(ConfigError, match="can't be read"):
        evaluate(config(f"samples={tmp_path}/samples.npz", config_name="evaluate"))
