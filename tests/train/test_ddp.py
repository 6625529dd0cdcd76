"""Two gloo processes on one CPU, started for real."""

import csv

import pytest
import torch
from commands import DIGITS, ROOT, TINY, run_python

SGD = [
    "optimizer._target_=torch.optim.SGD",
    "~optimizer.weight_decay",
    "~optimizer.betas",
    "optimizer.lr=0.1",
]
OPTIONS = [*DIGITS, *TINY["small_unet"], *SGD, "model.num_classes=10", "trainer.limit_train_batches=3"]
# 61 images in batches of 30: the last one holds a single image, and one process gets none.
OPTIONS += ["data.val_size=61"]
OPTIONS += ["trainer.max_epochs=2", "trainer.log_every_n_steps=1", "sampler.steps=2", "callbacks.samples.n=4"]
OPTIONS += ["logger=csv", "callbacks.ema.decay=0.5"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(name, command, *overrides): the last checkpoint of a run, and all that it logged."""
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "lit-diffusion").write_text("from lit_diffusion.common.cli import main\nmain()\n")

    def made(name: str, command: list[str], *overrides: str):
        result = run_python(*command, *OPTIONS, *overrides, f"hydra.run.dir={name}", cwd=folder)
        assert result.returncode == 0, result.stderr
        saved = torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True)
        with (folder / name / "csv" / "metrics.csv").open() as file:
            return saved, list(csv.DictReader(file)), folder / name

    return made


@pytest.fixture(scope="module")
def alone(trained):
    """One process, with twice the batch."""
    batch = ["data.batch_size=16", "data.eval_batch_size=30"]
    return trained("one", [str(ROOT / "train.py")], "trainer=cpu", *batch)


@pytest.mark.parametrize(
    "command",
    [[str(ROOT / "train.py")], pytest.param(["lit-diffusion", "train"], marks=pytest.mark.slow)],
)
def test_two_processes_take_the_steps_of_one_with_twice_the_batch(trained, alone, command):
    """Plain gradient descent, so that the weights are the gradients' sum; each command starts itself anew,
    lit-diffusion as python -m."""
    one, logged_one, _ = alone
    name = "-".join(["two", *command]).replace("/", "_")
    batch = ["data.batch_size=8", "data.eval_batch_size=15"]
    two, logged_two, folder = trained(name, command, "trainer=ddp_cpu", *batch)
    assert one["global_step"] == two["global_step"] == 6
    close = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(two["state_dict"], one["state_dict"], **close)
    ours, theirs = (saved["callbacks"]["ema"]["average"] for saved in (two, one))
    torch.testing.assert_close(ours, theirs, **close)
    for metric in ("train/loss", "val/loss", "train/grad_norm"):
        values = [[float(row[metric]) for row in rows if row[metric]] for rows in (logged_one, logged_two)]
        assert len(values[0]) >= 2
        assert values[1] == pytest.approx(values[0], rel=1e-4), metric
    assert not (folder.parent / "outputs").exists()  # both processes write into the one folder
    assert len(list((folder / "samples").glob("grid_*.png"))) == 2


@pytest.mark.slow
def test_two_processes_by_torchrun_are_those_of_lightnings_own_launch(trained):
    batch = ["trainer=ddp_cpu", "data.batch_size=8", "data.eval_batch_size=15"]
    ours, logged_ours, _ = trained("launched", [str(ROOT / "train.py")], *batch)
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(ROOT / "train.py"),
    ]
    theirs, logged_theirs, folder = trained("torchrun", torchrun, *batch)
    torch.testing.assert_close(theirs["state_dict"], ours["state_dict"], atol=0, rtol=0)
    losses = [[row["val/loss"] for row in rows if row["val/loss"]] for rows in (logged_ours, logged_theirs)]
    assert losses[0] == losses[1]
    assert len(list((folder / "samples").glob("grid_*.png"))) == 2
