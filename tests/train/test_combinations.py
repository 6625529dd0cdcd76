"""Every pair of choices of any two groups, trained and sampled at least once."""

from itertools import combinations, product

import pytest
from commands import TINY

from lit_diffusion.common.compose import config_files
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.train.run import train

GROUPS = {  # without those that only some others go with: they are refused below
    "model": [*TINY],
    "schedule": ["linear", "cosine", "sigmoid", "flow", "ve"],
    "prediction": ["eps", "x", "v", "velocity", "edm"],
    "weighting": ["none", "min_snr", "soft_min_snr", "p2", "sigmoid", "edm", "learned", "velocity"],
    "times": ["uniform", "logit_normal", "log_normal", "importance"],
    "coupling": ["independent", "minibatch_ot", "class_ot", "semidiscrete"],
    "sampler": ["ddim", "ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "sde"],
    "guidance": ["cfg", "apg", "cfg_zero"],
    "optimizer": ["adamw", "adam", "muon", "nadamw"],
    "lr_scheduler": ["constant", "exponential", "exponential_decay", "warmup_cosine"],
    "augment": ["null", "flip"],
    "condition": ["null", "low_resolution"],
    "callbacks": ["default", "power_ema"],
}
LEFT_OUT = {
    "schedule": {"single_step"},
    "sampler": {"ancestral_learned"},
    "guidance": {"cfg_pp", "autoguidance", "as_trained"},
    "augment": {"edm"},
    "condition": {"paired"},
    "callbacks": {"common", "denoiser", "evaluation"},
}
Choice = tuple[str, str]  # group, name
REFUSED = {  # in a sentence
    frozenset({("coupling", "semidiscrete"), ("augment", "flip")}): "leave one of them out",
    frozenset({("coupling", "minibatch_ot"), ("condition", "low_resolution")}): "coupling=independent",
    frozenset({("coupling", "class_ot"), ("condition", "low_resolution")}): "coupling=independent",
    frozenset({("coupling", "semidiscrete"), ("condition", "low_resolution")}): "coupling=independent",
    frozenset({("model", "fc_unet"), ("condition", "low_resolution")}): "condition is LowResolution",
}


def covering_array() -> list[dict[str, str]]:
    """Rows of choices in which every pair stands that isn't refused.

    Each row takes, group by group, the choice that adds most pairs.
    """
    choices = {group: [(group, name) for name in names] for group, names in GROUPS.items()}
    missing = {
        frozenset(pair) for one, other in combinations(choices.values(), 2) for pair in product(one, other)
    } - {*REFUSED}
    rows = []
    while missing:
        row: list[Choice] = list(min(missing, key=sorted))
        for group in choices:
            if group in dict(row):
                continue
            able = [c for c in choices[group] if not any(frozenset((c, r)) in REFUSED for r in row)]
            row.append(max(able, key=lambda c: sum(frozenset((c, r)) in missing for r in row)))
        missing -= {frozenset(pair) for pair in combinations(row, 2)}
        rows.append({group: dict(row)[group] for group in GROUPS})
    return rows


def test_every_choice_of_these_groups_is_known():
    for group, names in GROUPS.items():
        files = {path.stem for path in config_files(group)}
        assert {*names} - {"null"} == files - LEFT_OUT.get(group, set())


@pytest.mark.parametrize("row", covering_array(), ids=lambda row: "-".join(row.values()))
def test_every_pair_of_choices_trains_and_samples(config, tmp_path, row):
    choices = [f"{group}={name}" for group, name in row.items() if name != "null"]
    sampling = ["guidance.scale=2", "sampler.steps=2", "callbacks.samples.n=2"]
    labels = row["condition"] == "null"
    sampling.append("model.num_classes=10" if labels else "model.condition_channels=1")
    if row["coupling"] == "semidiscrete":
        sampling.append("coupling.iterations=3")
    if row["model"] == "attn_unet":
        sampling.append("model.attention_at=[7]")  # elsewhere it takes most of the time
    metrics, objects = train(config("debug=limit", *choices, *TINY[row["model"]], *sampling))
    assert abs(metrics["val/loss"]) < float("inf")
    assert objects["trainer"].global_step == 3
    assert (tmp_path / "samples" / "grid_step_000003.png").is_file()


def test_all_that_is_new_at_once(config):
    """The command that the documentation promises, on its real network."""
    choices = "model=dit schedule=ve prediction=edm weighting=learned times=log_normal coupling=minibatch_ot"
    metrics, _ = train(config("debug=limit", *choices.split(), "sampler.steps=2"))
    assert abs(metrics["val/loss"]) < float("inf")


@pytest.mark.parametrize(
    "pair, says",
    {
        "coupling=class_ot": "the network is told no labels",
        "guidance=cfg_pp model.num_classes=10 sampler=heun": "which this guidance doesn't give",
        "guidance=autoguidance": "needs a worse model",
        "sampler=ancestral_learned": "this model learnt none",
        "schedule=single_step": "can't sample from noise",
        "schedule=single_step schedule.alpha_end=0 weighting=p2": "weighting P2 weighs the ends",
        "schedule=single_step schedule.alpha_end=0 prediction=eps": "would divide by 0",
        "augment=edm": "tells the network 9 numbers",
        "model=fc_unet augment=edm": "tells the network 9 numbers",
        "condition=paired model.condition_channels=1": "no images like them",
        "condition=low_resolution": "condition is LowResolution",
        "times=log_normal schedule=single_step schedule.alpha_end=0": "has one noise level",
        "guidance=autoguidance guidance.bad_step=500": "give guidance.bad_ema=0.1",
        "times=importance schedule.steps=20": "times.bins is 50",
        "guidance=cfg_zero guidance.still=0.04 model.num_classes=10 schedule=flow": "is to hold",
    }.items(),
)
def test_pairs_that_cannot_work_are_refused_in_a_sentence(config, pair, says):
    with pytest.raises(ConfigError, match=says):
        train(config("debug=limit", *pair.split()))


@pytest.mark.parametrize("pair, says", REFUSED.items())
def test_what_the_rows_leave_out_is_refused(config, pair, says):
    choices = [f"{group}={name}" for group, name in pair]
    if ("condition", "low_resolution") in pair and ("model", "fc_unet") not in pair:
        choices.append("model.condition_channels=1")
    with pytest.raises(ConfigError, match=says):
        train(config("debug=limit", *choices))
