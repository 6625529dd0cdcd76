"""The small classifiers whose features measure images."""

import pytest
from digits import Digits

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.features import network as feature_networks
from lit_diffusion.features.classifier import accuracy
from lit_diffusion.features.network import load_features
from lit_diffusion.features.run import train_features


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
    assert accuracy(network.classifier, *digits.load(train=False)) == share == network.metadata["accuracy"]
    assert share > 0.5
    assert network.sha256 == sha256
    assert network.info.recipe["fit"]["epochs"] == 9
    _, _, same = train_features(config(*options, config_name="features"))
    assert same == sha256
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="truncated or no feature network"):
        load_features(str(path))


@pytest.mark.parametrize(
    "name, least",
    [("mnist", 0.994), ("mnist_second", 0.99), ("fashion_mnist", 0.92), ("fashion_mnist_second", 0.92)],
)
def test_the_networks_that_ship(name, least):
    path = feature_networks.OURS[f"features_{name}"]
    network = load_features(name)
    assert path.stat().st_size < 1_000_000
    assert network.metadata["accuracy"] >= least
    assert network.metadata["network"]["num_features"] == 64
    if name.startswith("mnist"):
        assert accuracy(network.classifier, *Digits().load(train=False)) >= 0.98
