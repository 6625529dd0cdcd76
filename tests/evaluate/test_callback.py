"""Scores while a model is trained."""

import logging

import pytest
import torch
from commands import TINY

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.train.run import train


def test_the_callback_scores_epochs(config, tmp_path, caplog):
    options = [
        "debug=limit",
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
    assert not [name for name in saved["state_dict"] if "evaluator" in name or "classifier" in name]


def test_the_callback_without_labels(config, tmp_path):
    """Neither the samples' labels are read nor those of the floor."""
    options = ["debug=limit", "callbacks=evaluation", "callbacks.samples=null", *TINY["small_unet"]]
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
    options = ["debug=limit", "callbacks=evaluation", "model.num_classes=10", "callbacks.samples=null"]
    scores = ["callbacks.evaluation.n=100", "callbacks.evaluation.features=mnist"]
    few = "data.source._target_=digits.FewSevens"
    train(config(*options, *scores, few, *TINY["small_unet"]))
    counts = torch.bincount(torch.tensor(asked))
    assert counts[7] <= 4
    assert counts[counts > 4].min() >= 9


def test_the_callback_fails_before_training(config):
    options = ["debug=limit", "callbacks=evaluation", *TINY["small_unet"]]
    with pytest.raises(ConfigError, match="Digits has none of its own"):
        train(config(*options))
    with pytest.raises(ConfigError, match=r"evaluation\.n is 5"):
        train(config(*options, "callbacks.evaluation.n=5"))
