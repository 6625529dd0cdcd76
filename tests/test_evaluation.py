"""Scores against formulas and packages that nobody here wrote, and on real digits made worse on purpose."""

import io
import json
import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import TINY
from digits import Digits
from gaussian import Correlated, Gaussian, Images, exact_denoiser
from hydra.errors import InstantiationException
from prdc import compute_prdc
from rich.console import Console
from torchvision.transforms.functional import gaussian_blur

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import to_float, to_uint8
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.evaluate import run as evaluating
from lit_diffusion.evaluate.distances import fid, kid, manifolds, nearest
from lit_diffusion.evaluate.evaluator import Judge, build_judge
from lit_diffusion.evaluate.likelihood import bits_per_dim, flow_times
from lit_diffusion.evaluate.report import caption, table
from lit_diffusion.evaluate.run import evaluate
from lit_diffusion.features import network as feature_networks
from lit_diffusion.features.classifier import accuracy
from lit_diffusion.features.network import load_features
from lit_diffusion.features.run import train_features
from lit_diffusion.predictions import Eps, V, Velocity, X
from lit_diffusion.schedules import Cosine, Flow, Linear, SingleStep
from lit_diffusion.train.run import train

QUICK = ["n=12", "steps=2", "cas_images=0", "bits_n=0", "judge_seed=0"]


@pytest.fixture(scope="module")
def network():
    return load_features("mnist")


@pytest.fixture(scope="module")
def judge(network):
    """Of the fixture's 320 training digits and 80 others."""
    digits = Digits()
    return Judge("Mnist", digits.load(train=True), digits.load(train=False), network)


@pytest.fixture
def evaluated(config, trained, tmp_path):
    """evaluated(*overrides): the result for a small checkpoint that knows labels, as the file holds it."""

    def made(*overrides: str, ckpt=None):
        ckpt = ckpt or trained("data.source._target_=digits.Mnist")
        options = [f"ckpt={ckpt}", "check=false", "logger=none", *QUICK]
        _, path = evaluate(config(*options, *overrides, config_name="evaluate"))
        return json.loads(path.read_text())

    return made


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits_denoiser():
    """Exact for data that are the fixture's training digits and no others."""
    images, labels = Digits().load(train=True)
    network = Images(Flow(), Velocity(), to_float(images), labels)
    return Denoiser(network, Flow(), Velocity())


def noised(images, strength):
    eps = torch.randn(images.shape, generator=generator())
    return to_uint8(to_float(images) + strength * eps)


def two_sets(seed=0):
    """Features of two sets that differ, (300, 16) and (200, 16)."""
    source = generator(seed)
    real, fake = (torch.randn(n, 16, generator=source) for n in (300, 200))
    return real, 1.2 * fake.cumsum(1) / 2 + 0.3


def test_fid_is_the_published_formula(judge, network):
    real, fake = (network(images).numpy().astype(np.float64) for images, _ in (judge.train, judge.test))
    for a, b in [(real, fake), [part.numpy().astype(np.float64) for part in two_sets()]]:
        cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * root
        assert fid(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-3)


def test_kid_is_the_published_formula(monkeypatch):
    real, fake = (part[:200].double() for part in two_sets())
    kernel = {
        (i, j): (a @ b.T / 16 + 1) ** 3
        for i, a in enumerate((real, fake))
        for j, b in enumerate((real, fake))
    }
    within = [(kernel[i, i].sum() - kernel[i, i].trace()) / (200 * 199) for i in (0, 1)]
    expected = sum(within) - 2 * kernel[0, 1].mean()
    # every subset is the whole set, in another order
    assert kid(real, fake, seed=0) == pytest.approx((float(expected), 0), rel=1e-9, abs=1e-12)
    monkeypatch.setattr("lit_diffusion.evaluate.distances.MOST", 100)
    mean, std = kid(real, fake, seed=0)
    assert std > 0
    assert (mean, std) == kid(real, fake, seed=0) != kid(real, fake, seed=1)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("rows", [37, 1000])
def test_manifolds_are_those_of_prdc(monkeypatch, k, rows):
    monkeypatch.setattr("lit_diffusion.evaluate.distances.ROWS", rows)
    real, fake = two_sets()
    expected = compute_prdc(real.numpy(), fake.numpy(), k)
    assert 0 < expected["precision"] < 1 and 0 < expected["coverage"] < 1
    assert manifolds(real, fake, k) == pytest.approx(expected, abs=1e-6)


def test_the_nearest_training_image():
    images = torch.randint(
        0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    others = torch.cat([images[3:], 255 - images[:3]])
    pixels, there = images.double().flatten(1) / 255, others.double().flatten(1) / 255
    expected = (pixels[:, None] - there).square().mean(2).sqrt().amin(1)
    torch.testing.assert_close(nearest(images, others).double(), expected, atol=1e-4, rtol=1e-4)
    assert (nearest(images, others)[3:] < 1e-3).all()


def test_real_against_real_is_the_floor(judge, network):
    """Twenty splits of the digits in reference, samples and test images: in the mean both score alike."""
    images, labels = (torch.cat(parts) for parts in zip(judge.train, judge.test, strict=True))
    found = []
    for seed in range(20):
        order = torch.randperm(400, generator=generator(seed)).split([200, 100, 100])
        train, samples, test = ((images[part], labels[part]) for part in order)
        split = Judge("Mnist", train, test, network)
        worse = noised(samples[0], 0.1)
        fids = [split.scores(*samples), split.floor(100), split.scores(worse, samples[1])]
        found.append([scores["fid"] for scores in fids])
    samples, floor, worse = torch.tensor(found).mean(0).tolist()
    assert samples == pytest.approx(floor, rel=0.1)
    assert worse > 1.3 * samples


def test_worse_digits_score_worse(judge):
    images, labels = judge.test
    real = judge.scores(images, labels)
    blurred = [judge.scores(gaussian_blur(images, [9, 9], [s, s]), labels) for s in (0.5, 1.0, 2.0)]
    noisy = [judge.scores(noised(images, s), labels) for s in (0.1, 0.2, 0.4)]
    fewer = [judge.scores(images[labels >= k], labels[labels >= k]) for k in (1, 2, 4)]
    for worse in (blurred, noisy, fewer):
        fids, kids = ([scores[key] for scores in [real, *worse]] for key in ("fid", "kid"))
        assert fids == sorted(fids)
        assert kids[0] < min(kids[1:])
        assert kids[-1] == max(kids)
    precision = [scores["precision"] for scores in [real, *noisy]]
    assert precision == sorted(precision, reverse=True)
    assert precision[-1] < 0.7 < 0.9 < precision[0]
    coverage = [scores["coverage"] for scores in [real, *fewer]]
    assert coverage == sorted(coverage, reverse=True)
    assert coverage[-1] < 0.8 < 0.9 < coverage[0]
    assert real["class_accuracy"] == 1 > noisy[-1]["class_accuracy"]


def test_the_floor_is_the_score_of_real_test_images(judge):
    images, labels = judge.test
    floor = judge.floor(200)
    scores = judge.scores(images, labels)
    assert {key: floor[key] for key in scores} == pytest.approx(scores, rel=1e-6)
    assert floor["n_in_shares"] > 70
    draws = [torch.randperm(80, generator=rng.generator(0, "floor", draw))[:40] for draw in range(10)]
    fids = [judge.scores(images[draw], labels[draw])["fid"] for draw in draws]
    assert judge.floor(40)["fid"] == pytest.approx(sum(fids) / 10)
    assert max(fids) > 1.2 * min(fids)


def test_classes_that_are_missing_show(judge):
    images, labels = judge.test
    assert judge.histogram(images) == pytest.approx([0.1] * 10)
    shares = judge.histogram(images[labels != 7])
    assert shares[7] == 0
    assert sum(shares) == pytest.approx(1)


def test_what_learns_from_samples_reads_real_digits(network):
    """By their labels, and not by others; from the digits themselves, for the floor."""
    digits = Digits()
    train, test = digits.load(train=True), digits.load(train=False)
    judge = Judge("Mnist", train, test, network, cas_images=3840)
    right = judge.scores(*train)["cas"]
    wrong = judge.scores(train[0], (train[1] + 1) % 10)["cas"]
    assert wrong < 0.1 < 0.8 < right
    assert judge.floor(320)["cas"] > 0.8
    assert "cas" not in judge.scores(train[0], None)


def test_the_floor_learns_from_training_images_and_is_tested_on_others(network, monkeypatch):
    digits = Digits()
    judge = Judge("Mnist", digits.load(train=True), digits.load(train=False), network, cas_images=1)
    taught_by = []

    def fit(classifier, images, labels, *rest):
        taught_by.extend(zip(images, labels.tolist(), strict=True))
        return classifier.eval()

    monkeypatch.setattr("lit_diffusion.evaluate.evaluator.fit", fit)
    judge.floor(50)
    assert len(taught_by) == 50
    known = [(image.numpy().tobytes(), int(label)) for image, label in zip(*judge.train, strict=True)]
    assert all((image.numpy().tobytes(), label) in known for image, label in taught_by)


def test_memorised_digits_are_nearer_than_new_ones(network):
    digits = Digits()
    judge = Judge("Mnist", digits.load(train=True), digits.load(train=False), network, memorisation=True)
    floor = judge.floor(80)
    copies = judge.scores(*judge.train)
    some = judge.scores(torch.cat([judge.train[0][:20], judge.test[0][:60]]), None)
    assert copies["nearest"] < 1e-3 < 0.1 < floor["nearest"]
    assert (floor["copies"], some["copies"], copies["copies"]) == (1 / 80, pytest.approx(0.25, abs=0.02), 1)


def test_a_network_reads_its_own_data_only(judge, network):
    """Digits have an FID by any network; only one that has learnt digits tells whether they are as asked."""
    clothes = load_features("fashion_mnist")
    other = Judge("Mnist", judge.train, judge.test, clothes, check=network)
    scores = other.scores(*judge.test)
    assert scores["fid"] > 0
    assert "class_accuracy" not in scores
    assert scores["class_accuracy_check"] == 1
    assert other.histogram(judge.test[0]) == []


@pytest.mark.parametrize("labels", [[10], [-1]])
def test_labels_that_the_data_lack(judge, labels):
    images = judge.test[0][:8]
    with pytest.raises(ConfigError, match="leave out labels that say nothing"):
        judge.scores(images, torch.tensor(labels * 8))


def true_bits(images, mean, std):
    """Bits per pixel of grey levels that are N(mean, std^2), rounded."""
    edges = (torch.arange(257, dtype=torch.float64) - 0.5) / 127.5 - 1
    below = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), std).cdf(edges)
    return -(below[1:] - below[:-1])[images.long()].log2().flatten(1).mean(1)


@pytest.mark.parametrize("std", [0.02, 0.1])
@pytest.mark.parametrize(
    "schedule, prediction", [(Flow(), Velocity()), (Flow(), X()), (Cosine(), V()), (Linear(), Eps())]
)
def test_bits_per_dim_of_gaussian_data(monkeypatch, schedule, prediction, std):
    monkeypatch.setattr(Gaussian, "std", std)
    denoiser = exact_denoiser(Gaussian, schedule, prediction)
    images = to_uint8(Gaussian.mu + std * torch.randn(120, 1, 6, 6, generator=generator()))
    expected = true_bits(images, Gaussian.mu, std).mean()
    found = {steps: bits_per_dim(denoiser, images, None, 0, steps) for steps in (49, 50, 51)}
    assert found[50].mean() == pytest.approx(float(expected), rel=0.02 if std > 0.05 else 0.06)
    assert found[50].mean() > expected
    for steps in (49, 51):
        assert found[steps].mean() == pytest.approx(float(found[50].mean()), rel=0.001)
    torch.testing.assert_close(bits_per_dim(denoiser, images[:3], None, 0), found[50][:3])


def test_bits_per_dim_of_pixels_that_belong_together():
    """Strongly correlated pixels: only the Jacobian's trace will do, not its sum."""
    mix = torch.full((9, 9), 0.5) + 0.5 * torch.eye(9)
    covariance = (0.1**2 * mix).double()
    denoiser = exact_denoiser(partial(Correlated, covariance=covariance), Flow(), Velocity())
    normal = torch.distributions.MultivariateNormal(torch.zeros(9, dtype=torch.float64), covariance)
    flat = torch.randn(150, 9, generator=generator(), dtype=torch.float64) @ normal.scale_tril.T
    images = to_uint8(flat.reshape(150, 1, 3, 3))
    density = normal.log_prob(images.double().flatten(1) / 127.5 - 1) + 9 * math.log(2 / 255)
    expected = -density.mean() / 9 / math.log(2)
    assert bits_per_dim(denoiser, images, None, 0).mean() == pytest.approx(float(expected), rel=0.02)


def test_bits_per_dim_ask_for_the_images_own_label(digits_denoiser):
    """A model of ten classes finds a digit far likelier as what it is than as the next."""
    images, labels = Digits().load(train=True)
    right = bits_per_dim(digits_denoiser, images[::40], labels[::40], 0, steps=20)
    wrong = bits_per_dim(digits_denoiser, images[::40], (labels[::40] + 1) % 10, 0, steps=20)
    assert (right < wrong - 0.5).all()


def test_one_noise_level_has_no_bits():
    denoiser = exact_denoiser(Gaussian, SingleStep(alpha_end=0.0, sigma_end=1.0), X())
    with pytest.raises(ConfigError, match="bits_n=0"):
        flow_times(denoiser, 1)


def test_the_whole_result(evaluated, tmp_path):
    result = evaluated("guidance=2", "cas_images=24", "bits_n=2", "bits_steps=3")
    assert result["n"] == result["floor_n"] == 12
    assert set(result["floor"]) == {*result["scores"], "fid_in_shares", "n_in_shares"} - {"bits_per_dim"}
    expected = (
        "fid kid kid_std precision recall density coverage class_accuracy nearest copies cas bits_per_dim"
    )
    assert set(result["scores"]) == set(expected.split())
    assert all(math.isfinite(score) for score in [*result["scores"].values(), *result["floor"].values()])
    assert result["cost"]["nfe"] == 4  # 2 steps of DDIM, each guided by a second evaluation
    assert result["cost"]["batch_size"] == 12
    assert result["made_with"]["guidance"] == 2
    assert result["features"]["accuracy"] >= 0.994
    assert sum(result["classes"]) == pytest.approx(1)
    assert (tmp_path / "grid.png").is_file()
    assert not (tmp_path / "finished").exists()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(result))
    text = console.export_text()
    sha256 = result["features"]["sha256"][:12]
    for part in ("12 samples", "12 real test images", "Mnist, train split, 320", "seeds: samples 0", sha256):
        assert part in text
    assert f"{result['scores']['kid']:.4f} ± {result['scores']['kid_std']:.2g}" in text
    made = "last.ckpt: DDIM(steps=2, clip=True, grid=uniform, eta=0.0), guidance 2 at t in [0.0, 1.0], "
    assert made in caption(result)


@pytest.mark.parametrize(
    "overrides, labelled",
    [
        (["y=null"], False),
        (["guidance=0"], False),
        (["guidance=0", "guidance_interval=[0.3,0.7]"], True),
        (["y=[1,2]"], True),
        (["y=7", "n=90"], True),  # more than the test images
    ],
)
def test_labels_are_scored_if_they_were_asked_for(evaluated, overrides, labelled, tmp_path):
    result = evaluated(*overrides, "cas_images=12", "npz=true")
    for scores in (result["scores"], result["floor"]):
        assert ("class_accuracy" in scores) == ("cas" in scores) == labelled
    assert result["floor_n"] == min(result["n"], 80)
    arrays = np.load(tmp_path / "samples.npz")
    assert ("labels" in arrays) == ("y=null" not in overrides)


def test_labels_have_the_shares_of_the_training_split(judge, network):
    images, labels = judge.train
    kept = (labels != 7) | (torch.arange(320) % 4 == 0)  # few sevens
    judge = Judge("Mnist", (images[kept], labels[kept]), judge.test, network)
    shares = torch.bincount(labels[kept]) / kept.sum()
    assert shares[7] < 0.04
    for n in (10, 100, 1000):
        asked = judge.labels(n)
        assert (torch.bincount(asked, minlength=10) - n * shares).abs().max() < 2
        assert torch.equal(asked, judge.labels(1000)[:n])


def test_samples_are_asked_for_in_these_shares(evaluated, trained, judge, tmp_path):
    evaluated("npz=true", "n=30")
    assert np.load(tmp_path / "samples.npz")["labels"].tolist() == judge.labels(30).tolist()
    few = trained("model.num_classes=8", "data.num_classes=8", "data.source._target_=digits.Few")
    other = ["data=mnist", "data.source._target_=digits.Mnist"]
    for overrides in ([], ["y=all"], ["y=null", "bits_n=2"]):
        with pytest.raises(ConfigError, match="the data are Mnist, but the model was trained on Few"):
            evaluated(*other, *overrides, ckpt=few)
    assert "class_accuracy" not in evaluated(*other, "y=null", ckpt=few)["scores"]


def test_the_floor_in_shares(judge, network):
    """A quarter of the test sevens, and so a quarter of all."""
    images, labels = judge.test
    few = (labels != 7).logical_or((labels == 7).cumsum(0) <= 2)
    short = Judge("Mnist", judge.train, (images[few], labels[few]), network)
    draws = [short.in_shares(80, draw) for draw in range(2)]
    for chosen in draws:
        counts = torch.bincount(short.test[1][chosen], minlength=10)
        assert counts[7] == 2
        assert (counts - 2).abs().max() <= 1
        assert len(set(chosen.tolist())) == len(chosen)
    assert not torch.equal(*draws)
    floor = judge.floor(40)
    assert floor["fid_in_shares"] < floor["fid"]
    assert 30 <= floor["n_in_shares"] <= 40
    for left in (0, 1):  # of the sevens: too few for any shares
        fewer = (labels != 7).logical_or((labels == 7).cumsum(0) <= left)
        floor = Judge("Mnist", judge.train, (images[fewer], labels[fewer]), network).floor(40)
        assert {"fid_in_shares", "n_in_shares"}.isdisjoint(floor)


def test_a_model_without_labels(evaluated, trained):
    ckpt = trained("data.source._target_=digits.Mnist", "model.num_classes=0")
    result = evaluated("cas_images=12", "bits_n=2", "bits_steps=2", ckpt=ckpt)
    assert {"cas", "class_accuracy"}.isdisjoint(result["scores"] | result["floor"])
    assert math.isfinite(result["scores"]["bits_per_dim"])
    error = result["bits"].pop("standard_error")
    assert result["bits"] == {"n": 2, "steps": 2, "split": "test", "labelled": False}
    assert error > 0


def test_two_evaluations_in_a_process(evaluated, trained):
    """The judge of the first isn't that of the second."""
    ckpt = trained("data.source._target_=digits.Mnist")
    first, again, other = evaluated(ckpt=ckpt), evaluated(ckpt=ckpt), evaluated("k=3", ckpt=ckpt)
    assert first["scores"] == again["scores"]
    assert first["floor"]["density"] != other["floor"]["density"]


def test_samples_of_any_model_can_be_scored(evaluated, config, tmp_path, trained):
    ckpt = trained("data.source._target_=digits.Mnist")
    made = evaluated("npz=true", ckpt=ckpt)
    options = ["features=mnist", "check=false", "logger=none", *QUICK, f"samples={tmp_path}/samples.npz"]
    data = ["data=mnist", "data.source._target_=digits.Mnist"]
    given, _ = evaluate(config(*options, *data, config_name="evaluate"))
    assert given["scores"] == made["scores"]
    with pytest.raises(ConfigError, match="data is missing"):
        evaluate(config(*options, config_name="evaluate"))


def test_a_model_of_other_images_costs_no_sampling(evaluated, trained, monkeypatch):
    """A colour model, and digits to compare with."""
    monkeypatch.setattr("lit_diffusion.sample.run.generate", None)
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
        patched.setattr(Judge, "scores", stop)
        evaluated(ckpt=ckpt)
    made = []
    monkeypatch.setattr(evaluating, "make_batch", lambda *args: made.append(args))
    monkeypatch.setattr("lit_diffusion.sample.run.generate", None)  # nothing is sampled again
    assert evaluated(ckpt=ckpt)["n"] == 12
    assert len(made) == 1  # to measure the cost


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["n=5"], "n is 5: choose a whole number of at least 6"),
        (["k=0"], "k is 0"),
        (["bits_steps=1"], "bits_steps is 1"),
        (["bits_n=81"], "bits_n is 81: choose a whole number from 2 to 80"),
        (["memorisation=maybe"], "memorisation is maybe: choose true or false"),
        (["npz=maybe"], "npz is maybe"),
        (["guidance=lots"], "guidance is lots"),
        (["features=vgg"], "features is vgg: choose one of .*mnist.* inception"),
        (["+data.source._target_=digits.Digits"], "Digits has none of its own"),
        (["+data.source._target_=digits.Digits", "features=mnist", "check=true"], "check is true"),
        (["features=inception"], "features=inception needs torch_fidelity"),
        (["check=nowhere"], "check is nowhere"),
        (["samples=samples.npz"], "leave one out"),
    ],
)
def test_mistakes_cost_no_sampling(evaluated, overrides, message, monkeypatch):
    monkeypatch.setattr("lit_diffusion.sample.run.generate", None)
    with pytest.raises(ConfigError, match=message):
        evaluated(*overrides)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"labels": np.zeros(3)}, "can't be read"),
        ({"images": np.zeros((12, 28, 28), np.uint8)}, "give images uint8"),
        ({"images": np.zeros((12, 1, 28, 28), np.float32)}, "give images uint8"),
        ({"images": np.zeros((12, 1, 28, 28), np.uint8), "labels": np.zeros(3)}, "labels float64"),
        ({"images": np.zeros((12, 1, 8, 8), np.uint8)}, "but those of Mnist"),
    ],
)
def test_samples_that_are_none(config, tmp_path, arrays, message):
    np.savez(tmp_path / "samples.npz", **arrays)
    options = ["features=mnist", "check=false", "logger=none", *QUICK, f"samples={tmp_path}/samples.npz"]
    with pytest.raises(ConfigError, match=message):
        evaluate(config(*options, "data=mnist", "data.source._target_=digits.Mnist", config_name="evaluate"))


def test_an_empty_file_of_samples(config, tmp_path):
    (tmp_path / "samples.npz").touch()
    with pytest.raises(ConfigError, match="can't be read"):
        evaluate(config(f"samples={tmp_path}/samples.npz", config_name="evaluate"))


def test_the_callback_scores_epochs(config, tmp_path, caplog):
    options = [
        "trainer=debug",
        "trainer.max_epochs=2",
        "callbacks=evaluation",
        "logger=csv",
        "model.num_classes=10",
    ]
    caplog.set_level(logging.INFO)
    scores = ["callbacks.evaluation.n=8", "data.source._target_=digits.Mnist", "callbacks.samples=null"]
    _, objects = train(config(*options, *scores, *TINY["small_unet"]))
    rows = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("eval/fid")
    assert len([row for row in rows[1:] if row.split(",")[column]]) == 2
    assert caplog.text.count("scores (floor): fid ") == 2
    assert {"eval/coverage", "eval/floor_fid", "eval/class_accuracy"} <= set(rows[0].split(","))
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(saved["state_dict"]) == len(objects["module"].state_dict())
    assert not [name for name in saved["state_dict"] if "judge" in name or "classifier" in name]


def test_the_callback_without_labels(config, tmp_path):
    """Neither the samples' labels are read nor those of the floor."""
    options = ["trainer=debug", "callbacks=evaluation", "callbacks.samples=null", *TINY["small_unet"]]
    train(config(*options, "callbacks.evaluation.n=8", "data.source._target_=digits.Mnist"))
    columns = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"eval/fid", "eval/floor_fid"} <= set(columns)
    assert not [name for name in columns if "class_accuracy" in name or "in_shares" in name]


def test_the_callback_asks_for_the_datas_shares(config, monkeypatch):
    """Of a source with few sevens."""
    asked = []

    def generate(sampler, denoiser, images, shape, seed, y, device):
        asked.extend(y.tolist())
        return torch.zeros(len(images), *shape)

    monkeypatch.setattr("lit_diffusion.evaluate.callback.generate", generate)
    options = ["trainer=debug", "callbacks=evaluation", "model.num_classes=10", "callbacks.samples=null"]
    scores = ["callbacks.evaluation.n=100", "callbacks.evaluation.features=mnist"]
    few = "data.source._target_=digits.FewSevens"
    train(config(*options, *scores, few, *TINY["small_unet"]))
    counts = torch.bincount(torch.tensor(asked))
    assert counts[7] <= 4
    assert counts[counts > 4].min() >= 9


def test_the_callback_fails_before_training(config):
    options = ["trainer=debug", "callbacks=evaluation", *TINY["small_unet"]]
    with pytest.raises(ConfigError, match="Digits has none of its own"):
        train(config(*options))
    with pytest.raises(InstantiationException, match=r"evaluation\.n is 5"):
        train(config(*options, "callbacks.evaluation.n=5"))


@pytest.mark.parametrize(
    "override, message",
    [
        ("fit.batch_size=0", "fit.batch_size is 0"),
        ("fit.lr=abc", "fit.lr is abc"),
        ("fit.dropout=2", "fit.dropout is 2: choose a number from 0 to 0.9"),
        ("fit.flip=maybe", "fit.flip is maybe"),
        ("network.num_features=0", "network.num_features is 0"),
    ],
)
def test_mistakes_cost_no_fit(config, override, message, tmp_path):
    options = ["data.source._target_=digits.Digits", f"out={tmp_path}/out", override]
    with pytest.raises(ConfigError, match=message):
        train_features(config(*options, config_name="features"))
    assert not (tmp_path / "out").exists()


def test_a_feature_network_of_ones_own(config, tmp_path):
    options = ["data.source._target_=digits.Digits", "network.num_features=8", "network.widths=[8,8,8,8]"]
    options += ["fit.epochs=9", "fit.batch_size=16", "fit.lr=1e-2", "fit.dropout=0.1"]
    path, share, sha256 = train_features(config(*options, config_name="features"))
    network = load_features(str(path))
    digits = Digits()
    assert network(digits.load(train=False)[0]).shape == (80, 8)
    assert accuracy(network.classifier, *digits.load(train=False)) == share == network.about["accuracy"]
    assert share > 0.5
    assert network.sha256 == sha256
    assert network.described()["recipe"]["fit"]["epochs"] == 9
    _, _, same = train_features(config(*options, config_name="features"))
    assert same == sha256
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="truncated or no feature network"):
        load_features(str(path))


@pytest.mark.parametrize(
    "name, least",
    [("mnist", 0.994), ("mnist_check", 0.99), ("fashion_mnist", 0.92), ("fashion_mnist_check", 0.92)],
)
def test_the_networks_that_ship(name, least):
    path = feature_networks.OURS[f"features_{name}"]
    network = load_features(name)
    assert path.stat().st_size < 1_000_000
    assert network.about["accuracy"] >= least
    assert network.about["network"]["num_features"] == 64
    if name.startswith("mnist"):
        assert accuracy(network.classifier, *Digits().load(train=False)) >= 0.98


def test_every_data_set_has_two_networks():
    class Mnist(Digits):
        pass

    judge = build_judge(Mnist())
    assert judge.features.name == "mnist"
    assert judge.check.name == "mnist_check"
    assert judge.features.sha256 != judge.check.sha256
    scores = judge.scores(*judge.test)
    assert scores["fid"] != scores["fid_check"]
    assert build_judge(Mnist(), check=False).check is None
