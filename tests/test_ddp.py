"""Two gloo processes on one CPU, started for real."""

import csv

import pytest
import torch
from conftest import DIGITS, ROOT, TINY

SGD = ["optimizer._target_=torch.optim.SGD", "~optimizer.weight_decay", "optimizer.lr=0.1"]
OPTIONS = [*DIGITS, *TINY["small_unet"], *SGD, "model.num_classes=10", "trainer.limit_train_batches=3"]
# 61 images in batches of 30: the last one holds a single image, and one process gets none.
OPTIONS += ["data.val_size=61"]
OPTIONS += ["trainer.max_epochs=2", "trainer.log_every_n_steps=1", "sampler.steps=2", "callbacks.samples.n=4"]
OPTIONS += ["logger=csv", "callbacks.ema.decay=0.5"]


@pytest.fixture
def trained(run, tmp_path):
    """trained(name, *overrides): the last checkpoint of a run, and all that it logged."""

    def made(name: str, *overrides: str):
        result = run(str(ROOT / "train.py"), *OPTIONS, *overrides, f"hydra.run.dir={name}")
        assert result.returncode == 0, result.stderr
        saved = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        with (tmp_path / name / "csv" / "metrics.csv").open() as file:
            return saved, list(csv.DictReader(file))

    return made


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(trained, tmp_path):
    """Plain gradient descent, so that the weights are the gradients' sum."""
    one, logged_one = trained("one", "trainer=cpu", "data.batch_size=16", "data.eval_batch_size=30")
    two, logged_two = trained("two", "trainer=ddp_cpu", "data.batch_size=8", "data.eval_batch_size=15")
    assert one["global_step"] == two["global_step"] == 6
    close = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(two["state_dict"], one["state_dict"], **close)
    ours, theirs = (saved["callbacks"]["ema"]["average"] for saved in (two, one))
    torch.testing.assert_close(ours, theirs, **close)
    for name in ("train/loss", "val/loss", "train/grad_norm"):
        values = [[float(row[name]) for row in rows if row[name]] for rows in (logged_one, logged_two)]
        assert len(values[0]) >= 2
        assert values[1] == pytest.approx(values[0], rel=1e-4), name
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["one", "two"]
    assert len(list((tmp_path / "two" / "samples").glob("grid_*.png"))) == 2
