"""Scores of real digits, and of digits made worse on purpose."""

import pytest
import torch
from digits import Digits
from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
from torchvision.transforms.functional import gaussian_blur

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import to_float, to_uint8
from lit_diffusion.evaluate.distances import fid
from lit_diffusion.evaluate.evaluator import Evaluator
from lit_diffusion.evaluate.evaluators import build_evaluator
from lit_diffusion.features.network import load_features


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noised(images, strength):
    eps = torch.randn(images.shape, generator=generator())
    return to_uint8(to_float(images) + strength * eps)


def test_real_against_real_is_the_floor(evaluator, network):
    """Twenty splits of the digits in reference, samples and test images: in the mean both score alike."""
    images, labels = (torch.cat(parts) for parts in zip(evaluator.train, evaluator.test, strict=True))
    found = []
    for seed in range(20):
        order = torch.randperm(400, generator=generator(seed)).split([200, 100, 100])
        train, samples, test = ((images[part], labels[part]) for part in order)
        split = Evaluator("Mnist", train, test, network)
        worse = noised(samples[0], 0.1)
        fids = [split.scores(*samples), split.floor(100), split.scores(worse, samples[1])]
        found.append([scores["fid"] for scores in fids])
    samples, floor, worse = torch.tensor(found).mean(0).tolist()
    assert samples == pytest.approx(floor, rel=0.1)
    assert worse > 1.3 * samples


def test_worse_digits_score_worse(evaluator):
    images, labels = evaluator.test
    real = evaluator.scores(images, labels)
    blurred = [evaluator.scores(gaussian_blur(images, [9, 9], [s, s]), labels) for s in (0.5, 1.0, 2.0)]
    noisy = [evaluator.scores(noised(images, s), labels) for s in (0.1, 0.2, 0.4)]
    fewer = [evaluator.scores(images[labels >= k], labels[labels >= k]) for k in (1, 2, 4)]
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


def test_the_floor_is_the_score_of_real_test_images(evaluator):
    images, labels = evaluator.test
    floor = evaluator.floor(200)
    scores = evaluator.scores(images, labels)
    assert {key: floor[key] for key in scores} == pytest.approx(scores, rel=1e-6)
    assert floor["n_in_shares"] > 70
    draws = [torch.randperm(80, generator=rng.generator(0, "floor", draw))[:40] for draw in range(10)]
    fids = [evaluator.scores(images[draw], labels[draw])["fid"] for draw in draws]
    assert evaluator.floor(40)["fid"] == pytest.approx(sum(fids) / 10)
    assert max(fids) > 1.2 * min(fids)


def test_halves_of_the_training_split_where_test_images_are_few(evaluator):
    """80 test images are enough for 80 samples, and too few for 81."""
    assert "fid_of_halves" not in evaluator.floor(80)
    floor = evaluator.floor(81)
    assert floor["n_of_halves"] == 160
    features = evaluator.features(evaluator.train[0])
    orders = [torch.randperm(320, generator=rng.generator(0, "halves", draw)) for draw in range(10)]
    fids = [fid(features[order[:160]], features[order[160:]]) for order in orders]
    assert floor["fid_of_halves"] == pytest.approx(sum(fids) / 10)


def test_twins_in_the_training_split_are_counted(evaluator, network):
    """A quarter of these training images have a twin, and count as copies would."""
    images, labels = evaluator.train
    doubled = torch.cat([images, images[:40]]), torch.cat([labels, labels[:40]])
    floors = [
        Evaluator("Mnist", train, evaluator.test, network, memorisation=True).floor(40)
        for train in ((images, labels), doubled)
    ]
    assert floors[0]["twins"] < 0.05
    assert floors[1]["twins"] == pytest.approx(80 / 360, abs=0.05)


def test_fidelity_is_psnr_and_distance_of_features(evaluator):
    images, _ = evaluator.test
    brighter = images // 2 + 64
    found = evaluator.fidelity(brighter, images)
    expected = [psnr(a.float(), b.float(), data_range=255.0) for a, b in zip(brighter, images, strict=True)]
    assert found["psnr"] == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)
    same = evaluator.fidelity(images, images)
    assert same["feature_distance"] == 0 < found["feature_distance"]


def test_classes_that_are_missing_show(evaluator):
    images, labels = evaluator.test
    assert evaluator.histogram(images) == pytest.approx([0.1] * 10)
    shares = evaluator.histogram(images[labels != 7])
    assert shares[7] == 0
    assert sum(shares) == pytest.approx(1)


def test_what_learns_from_samples_reads_real_digits(network):
    """By their labels, and not by others; from the digits themselves, for the floor."""
    digits = Digits()
    train, test = digits.load(train=True), digits.load(train=False)
    evaluator = Evaluator("Mnist", train, test, network, cas_images=3840)
    right = evaluator.scores(*train)["cas"]
    wrong = evaluator.scores(train[0], (train[1] + 1) % 10)["cas"]
    assert wrong < 0.1 < 0.8 < right
    assert evaluator.floor(320)["cas"] == pytest.approx(right, abs=0.051)  # four of the 80 test images
    assert "cas" not in evaluator.scores(train[0], None)


def test_the_floor_learns_from_training_images_and_is_tested_on_others(network, monkeypatch):
    digits = Digits()
    evaluator = Evaluator("Mnist", digits.load(train=True), digits.load(train=False), network, cas_images=1)
    taught_by = []

    def fit(classifier, images, labels, *rest):
        taught_by.extend(zip(images, labels.tolist(), strict=True))
        return classifier.eval()

    monkeypatch.setattr("lit_diffusion.evaluate.evaluator.fit", fit)
    evaluator.floor(50)
    assert len(taught_by) == 50
    known = [(image.numpy().tobytes(), int(label)) for image, label in zip(*evaluator.train, strict=True)]
    assert all((image.numpy().tobytes(), label) in known for image, label in taught_by)


def test_memorised_digits_are_nearer_than_new_ones(network):
    digits = Digits()
    evaluator = Evaluator(
        "Mnist", digits.load(train=True), digits.load(train=False), network, memorisation=True
    )
    floor = evaluator.floor(80)
    copies = evaluator.scores(*evaluator.train)
    some = evaluator.scores(torch.cat([evaluator.train[0][:20], evaluator.test[0][:60]]), None)
    assert copies["nearest"] < 1e-3 < 0.1 < floor["nearest"]
    assert (floor["copies"], some["copies"], copies["copies"]) == (1 / 80, pytest.approx(0.25, abs=0.02), 1)


def test_a_network_reads_its_own_data_only(evaluator, network):
    """Digits have an FID by any network; only one that has learnt digits tells whether they are as asked."""
    clothes = load_features("fashion_mnist")
    other = Evaluator("Mnist", evaluator.train, evaluator.test, clothes, second=network)
    scores = other.scores(*evaluator.test)
    assert scores["fid"] > 0
    assert "class_accuracy" not in scores
    assert scores["class_accuracy_second"] == 1
    assert other.histogram(evaluator.test[0]) == []


@pytest.mark.parametrize("labels", [[10], [-1]])
def test_labels_that_the_data_lack(evaluator, labels):
    images = evaluator.test[0][:8]
    with pytest.raises(ConfigError, match="leave out labels that say nothing"):
        evaluator.scores(images, torch.tensor(labels * 8))


def test_labels_have_the_shares_of_the_training_split(evaluator, network):
    images, labels = evaluator.train
    kept = (labels != 7) | (torch.arange(320) % 4 == 0)  # few sevens
    evaluator = Evaluator("Mnist", (images[kept], labels[kept]), evaluator.test, network)
    shares = torch.bincount(labels[kept]) / kept.sum()
    assert shares[7] < 0.04
    for n in (10, 100, 1000):
        asked = evaluator.labels(n)
        assert (torch.bincount(asked, minlength=10) - n * shares).abs().max() < 2
        assert torch.equal(asked, evaluator.labels(1000)[:n])


def test_the_floor_in_shares(evaluator, network):
    """A quarter of the test sevens, and so a quarter of all."""
    images, labels = evaluator.test
    few = (labels != 7).logical_or((labels == 7).cumsum(0) <= 2)
    short = Evaluator("Mnist", evaluator.train, (images[few], labels[few]), network)
    draws = [short.in_shares(80, draw) for draw in range(2)]
    for chosen in draws:
        counts = torch.bincount(short.test[1][chosen], minlength=10)
        assert counts[7] == 2
        assert (counts - 2).abs().max() <= 1
        assert len(set(chosen.tolist())) == len(chosen)
    assert not torch.equal(*draws)
    floor = evaluator.floor(40)
    assert floor["fid_in_shares"] < floor["fid"]
    assert 30 <= floor["n_in_shares"] <= 40
    for left in (0, 1):  # of the sevens: too few for any shares
        fewer = (labels != 7).logical_or((labels == 7).cumsum(0) <= left)
        floor = Evaluator("Mnist", evaluator.train, (images[fewer], labels[fewer]), network).floor(40)
        assert {"fid_in_shares", "n_in_shares"}.isdisjoint(floor)


def test_every_data_set_has_two_networks():
    class Mnist(Digits):
        pass

    evaluator = build_evaluator(Mnist())
    assert evaluator.features.name == "mnist"
    assert evaluator.second.name == "mnist_second"
    assert evaluator.features.sha256 != evaluator.second.sha256
    scores = evaluator.scores(*evaluator.test)
    assert scores["fid"] != scores["fid_second"]
    assert build_evaluator(Mnist(), second=False).second is None
