from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from commands import DIGITS, TINY, TRUST
from forked import run_script
from hydra import compose, initialize_config_dir

from lit_diffusion.common.compose import CONFIG_DIR
from lit_diffusion.train.run import train


@pytest.fixture(autouse=True)
def one_thread():
    """Two test processes may share two cores, and sums then don't depend on how threads split them."""
    torch.set_num_threads(1)


OWN = {"train": DIGITS, "features": []}  # overrides of every config of this name


@cache  # Hydra takes a fifth of a second
def composed_once(config_name: str, overrides: tuple[str, ...]):
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose(config_name, [*OWN.get(config_name, TRUST), *overrides])


@pytest.fixture
def config(tmp_path):
    """config(*overrides): the training config as the command line would compose it, on real digits.

    Its folder is tmp_path, that of a second run below it.
    """

    def composed(*overrides: str, config_name: str = "train"):
        cfg = deepcopy(composed_once(config_name, overrides))
        if not any(override.startswith("out=") for override in overrides):
            taken = config_name == "train" and cfg.ckpt is None and (tmp_path / "checkpoints").exists()
            cfg.out = mkdtemp(prefix="run-", dir=tmp_path) if taken else str(tmp_path)
        return cfg

    return composed


@pytest.fixture
def trained(config):
    """trained(*overrides): the path of a small checkpoint, by default one that knows labels."""

    def made(*overrides: str):
        options = ["debug=limit", "model.num_classes=10", "optimizer.lr=1e-2", "callbacks.samples=null"]
        cfg = config(*options, *TINY["small_unet"], *overrides)
        train(cfg)
        return Path(cfg.out, "checkpoints", "last.ckpt")

    return made


@pytest.fixture
def straight_and_resumed(config, tmp_path):
    """straight_and_resumed(*overrides): the weights after two epochs at once, and after one and one more."""

    def made(*overrides: str):
        options = [*overrides, "debug=limit", "callbacks.samples=null", "trainer.max_epochs=2"]
        _, straight = train(config(*options, f"out={tmp_path}/straight"))
        train(config(*options, "trainer.max_epochs=1", f"out={tmp_path}/half"))
        ckpt = f"ckpt={tmp_path}/half/checkpoints/last.ckpt"
        _, resumed = train(config(*options, ckpt, f"out={tmp_path}/resumed"))
        return [objects["module"].state_dict() for objects in (straight, resumed)]

    return made


@pytest.fixture
def run(tmp_path):
    """run(*command): a python command in an empty folder of its own."""
    return partial(run_script, cwd=tmp_path)
