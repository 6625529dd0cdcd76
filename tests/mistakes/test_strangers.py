"""A stranger's file runs nothing, reads nothing and writes nothing outside, whatever it says."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common import compose, stored
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.stored import stored_source
from lit_diffusion.edit.run import edit
from lit_diffusion.evaluate.run import evaluate
from lit_diffusion.export.run import export
from lit_diffusion.sample.run import sample
from lit_diffusion.train.run import train

SMALL = ["debug=limit", "model.num_classes=10", "callbacks.samples=null", *TINY["small_unet"]]
QUICK = {
    "sample": [sample, ["n=2", "steps=2"]],
    "evaluate": [evaluate, ["n=8", "steps=2", "data=mnist", "data.source._target_=digits.Mnist", "bits_n=0"]],
    "edit": [edit, ["edit=sdedit", "edit.starts=[1]", "steps=2"]],
    "export": [export, []],
}


def put(config: dict, place: str, value) -> None:
    """Set a nested key of plain dicts."""
    *path, last = place.split(".")
    for name in path:
        config = config[name]
    config[last] = value


@pytest.fixture
def opens(tmp_path):
    """A node that opens a file for writing when it is built; the test fails if it ever is."""
    canary = tmp_path / "canary"
    yield {"_target_": "builtins.open", "file": str(canary), "mode": "w"}
    assert not canary.exists()


@pytest.fixture
def stranger(config, tmp_path, monkeypatch):
    """stranger(change, command): the command, given a checkpoint whose contents ``change`` has changed."""
    train(config(*SMALL))
    monkeypatch.setenv("SECRET", "1234567")
    honest = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)

    def given(change, command="sample"):
        change(honest["hyper_parameters"], honest)
        torch.save(honest, tmp_path / "stranger.ckpt")
        run, options = QUICK[command]
        out = tmp_path / "out"
        run(config(f"ckpt={tmp_path}/stranger.ckpt", *options, f"out={out}", config_name=command))

    return given


def test_the_payload_is_live(tmp_path):
    """Hydra alone would build it."""
    instantiate({"_target_": "builtins.open", "file": str(tmp_path / "live"), "mode": "w"})
    assert (tmp_path / "live").exists()


@pytest.mark.parametrize("command", QUICK)
@pytest.mark.parametrize(
    "place",
    [
        "model",
        "model.widths",
        "model.num_classes",
        "schedule",
        "schedule.steps",
        "prediction",
        "prediction.anything",
    ],
)
def test_nothing_is_built_but_parts(stranger, opens, place, command):
    with pytest.raises(ConfigError, match="the checkpoint's"):
        stranger(lambda config, _: put(config, place, opens), command)


@pytest.mark.parametrize("place", ["sampler", "sampler.clip", "sampler.grid"])
def test_no_sampler_of_a_strangers(stranger, opens, place):
    with pytest.raises(ConfigError, match="the checkpoint's"):
        stranger(lambda config, _: put(config, place, opens))


@pytest.mark.parametrize("place", ["data", "data.source", "data.val_size"])
def test_no_data_of_a_strangers(stranger, opens, place):
    with pytest.raises(ConfigError, match=r"the checkpoint's|not a checkpoint"):
        stranger(lambda config, _: put(config, place, opens), "edit")


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_recursive_", "_convert_"])
def test_hydras_own_keys_are_refused(stranger, key):
    with pytest.raises(ConfigError, match="which no run writes"):
        stranger(lambda config, _: config["model"].update({key: True}))


@pytest.mark.parametrize(
    "text", ["${oc.env:SECRET}", "${hydra:runtime.cwd}", "${oc.decode:${oc.env:SECRET}}"]
)
@pytest.mark.parametrize("place", ["guidance.scale", "seed", "data.source.root", "model.heads"])
def test_nothing_of_this_machine_is_looked_up(stranger, text, place):
    with pytest.raises(ConfigError, match="would be looked up"):
        stranger(lambda config, _: put(config, place, text))


@pytest.mark.parametrize(
    "name",
    ["os.system", "subprocess.run", "builtins.exec", "lit_diffusion.checkpoint.torch.load", "torch.load"],
)
def test_names_are_looked_up_exactly(stranger, name):
    with pytest.raises(ConfigError, match="doesn't name"):
        stranger(lambda config, _: config["model"].update(_target_=name))


def test_the_users_word_is_enough(stranger, tmp_path, monkeypatch):
    """A network from elsewhere is built once it is trusted by name."""
    own = "from lit_diffusion.models.small_unet import SmallUNet\nclass Own(SmallUNet): pass\n"
    (tmp_path / "strange.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    contents = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    contents["hyper_parameters"]["model"]["_target_"] = "strange.Own"
    with pytest.raises(ConfigError, match=r"give trust=\[strange.Own\]"):
        load_denoiser(contents)
    assert type(load_denoiser(contents, trust=["strange.Own"]).network).__name__ == "Own"


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda w: w.update({next(iter(w)): torch.zeros(3)}), "of another network"),
        (lambda w: w.pop(next(iter(w))), "of another network"),
        (lambda w: next(iter(w.values())).fill_(torch.nan), "isn't finite"),
        (lambda w: w.update({next(iter(w)): "text"}), "damaged, or not a checkpoint"),
    ],
)
def test_weights_are_checked(stranger, change, says):
    def changed(_, contents):
        contents["callbacks"].pop("ema")
        change(contents["state_dict"])

    with pytest.raises(ConfigError, match=says):
        stranger(changed)


@pytest.mark.parametrize("size", [10**8, 2**40])
def test_sizes_cost_no_memory(stranger, size):
    with pytest.raises(ConfigError, match=r"of another network|can't work"):
        stranger(lambda config, _: config["model"].update(widths=[8, size]))


def test_a_flipped_byte_is_seen(stranger, tmp_path):
    whole = bytearray((tmp_path / "checkpoints" / "last.ckpt").read_bytes())
    with zipfile.ZipFile(tmp_path / "checkpoints" / "last.ckpt") as file:
        largest = max(file.infolist(), key=lambda record: record.file_size)
    whole[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(whole)
    with pytest.raises(ConfigError, match="damaged"):
        read_checkpoint(tmp_path / "flipped.ckpt")


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**8))
    with pytest.raises(ConfigError, match="damaged"):
        read_checkpoint(tmp_path / "bomb.ckpt")


class Runs:
    def __reduce__(self):
        return open, (str(Path.cwd() / "canary"), "w")


def test_pickles_run_nothing(stranger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="damaged"):
        stranger(lambda config, _: config.update(anything=Runs()))
    np.savez(tmp_path / "objects.npz", images=np.array([Runs()], dtype=object))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["grid.png", "samples.npz", "trajectory.gif", "partial"])
def test_writing_follows_no_links(stranger, tmp_path, name):
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(target)
    with pytest.raises(ConfigError, match=f"{name} is a link"):
        stranger(lambda config, contents: None)
    assert target.read_text() == "precious"


def test_a_path_in_a_checkpoint_is_never_copied(config, tmp_path):
    """best.ckpt lies beside the checkpoint that is given, or there is none."""
    train(config(*SMALL))
    contents = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    (state,) = (s for key, s in contents["callbacks"].items() if key.startswith("BestCheckpoint"))
    state["best_model_path"] = "/etc/passwd"
    contents["callbacks"]["wandb"] = {"id": "../../../etc"}
    (tmp_path / "theirs").mkdir()
    torch.save(contents, tmp_path / "theirs" / "last.ckpt")
    train(config(*SMALL, "trainer.max_epochs=2", f"ckpt={tmp_path}/theirs/last.ckpt", f"out={tmp_path}/mine"))
    best = tmp_path / "mine" / "checkpoints" / "best.ckpt"
    assert not best.is_file() or b"root:" not in best.read_bytes()


FOLDER = {"_target_": "lit_diffusion.data.folder.Folder", "root": "/etc", "cache": "/etc", "image_size": 64}
TORCHVISION = "lit_diffusion.data.torchvision_sets.TorchvisionImages"


@pytest.mark.parametrize(
    "source, root, expected",
    [
        (FOLDER, "mine", {"root": "mine", "cache": "data/cache", "image_size": 64}),
        ({"_target_": "lit_diffusion.data.npz.Npz", "path": "/etc/x.npz"}, "mine.npz", {"path": "mine.npz"}),
        ({"_target_": "lit_diffusion.data.emoji.Emoji", "root": "/etc"}, None, {"root": "data"}),
        ({"_target_": "lit_diffusion.data.idx.Mnist", "root": "../.."}, None, {"root": "data"}),
        ({"_target_": TORCHVISION, "name": "KMNIST", "root": "/etc"}, None, {"root": "data"}),
    ],
)
def test_where_images_lie_is_said_by_the_command(source, root, expected):
    found = stored_source({"data": {"source": source}}, root)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    "source, says",
    [
        (FOLDER, "whose images may be anywhere: give data_root"),
        (
            {"_target_": "lit_diffusion.data.huggingface.HuggingFace", "path": "owner/name"},
            "whose images may be anywhere: give data_root",
        ),
        ({"_target_": TORCHVISION, "name": "Places365", "root": "data"}, "would be fetched: if you trust"),
    ],
)
def test_images_that_only_a_file_names_are_not_looked_for(source, says):
    with pytest.raises(ConfigError, match=says):
        stored_source({"data": {"source": source}})


def test_a_file_sets_no_argument_that_a_source_does_not_list(tmp_path, monkeypatch):
    """A source of the user's own, which reads a file: which one, its yaml says."""
    own = tmp_path / "own.yaml"
    own.write_text("source:\n  _target_: digits.Digits\n  file: mine.npz\n  image_size: 28\n")
    listed = compose.config_files
    monkeypatch.setattr(
        compose, "config_files", lambda group: [*listed(group), own] if group == "data" else []
    )
    monkeypatch.setattr(stored, "config_files", compose.config_files)
    node = {"data": {"source": OmegaConf.load(own).source}}
    monkeypatch.setattr(stored, "composed", lambda *_: OmegaConf.create(node))
    theirs = {"_target_": "digits.Digits", "file": "/etc/passwd", "image_size": 64}
    assert stored_source({"data": {"source": theirs}})["file"] == "mine.npz"


def test_two_files_about_one_class_say_nothing_of_where_its_images_lie(monkeypatch, tmp_path):
    """Not that the first of them is meant."""
    for name in ("cats", "dogs"):
        text = f"source:\n  _target_: lit_diffusion.data.folder.Folder\n  root: {name}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(compose, "config_files", lambda group: sorted(tmp_path.glob("*.yaml")))
    monkeypatch.setattr(stored, "config_files", compose.config_files)
    with pytest.raises(ConfigError, match="give data_root"):
        stored_source({"data": {"source": FOLDER}})
    assert stored_source({"data": {"source": FOLDER}}, "mine")["root"] == "mine"
