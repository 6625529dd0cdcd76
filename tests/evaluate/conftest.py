import pytest
from digits import Digits

from lit_diffusion.evaluate.evaluator import Evaluator
from lit_diffusion.features.network import load_features


@pytest.fixture(scope="module")
def network():
    return load_features("mnist")


@pytest.fixture(scope="module")
def evaluator(network):
    """Of the fixture's 320 training digits and 80 others."""
    digits = Digits()
    return Evaluator("Mnist", digits.load(train=True), digits.load(train=False), network)
