"""The commands as a person types them, each in a process of its own."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import DIGITS, ROOT, TINY, run_python
from forked import run_script

from lit_diffusion.common.cli import VERBS
from lit_diffusion.common.compose import composed
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.overrides import parted
from lit_diffusion.train.run import train

TRAIN = str(ROOT / "train.py")
DEBUG = [*DIGITS, *TINY["small_unet"], "debug=limit", "sampler=ddim"]


def test_help_is_quick_and_reads_well(run, tmp_path):
    """Quick because nothing heavy is imported; asserted as that, since time can't be."""
    result = run(TRAIN, "--help")
    assert result.returncode == 0
    for line in (
        "model: attn_unet, convnext_unet, dit, fc_unet, small_unet",
        "experiment=quickstart",
        "usage: python train.py",
    ):
        assert line in result.stdout
    heavy = "import sys\nfrom lit_diffusion.train import __main__\nprint('torch' in sys.modules)"
    assert run_python("-c", heavy, cwd=tmp_path).stdout.strip() == "False"


@pytest.mark.parametrize("verb", sorted({*VERBS} - {"train"}))
def test_help_of_the_other_commands(tmp_path, verb):
    result = run_script("-m", f"lit_diffusion.{verb}", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"usage: python -m lit_diffusion.{verb}" in result.stdout


def test_every_verb_has_a_room_and_a_config():
    """The one table of verbs is all of them."""
    rooms = {path.parent.name for path in (ROOT / "src" / "lit_diffusion").glob("*/__main__.py")}
    assert {*VERBS} == rooms == {path.stem for path in (ROOT / "conf").glob("*.yaml")}


def test_the_console_script(tmp_path):
    """``lit-diffusion`` lists its verbs, refuses others, and is the same command as python -m."""
    script = str(tmp_path / "lit-diffusion")
    Path(script).write_text("from lit_diffusion.common.cli import main\nmain()\n")
    listed = run_script(script, cwd=tmp_path)
    assert [line.split()[0] for line in listed.stdout.splitlines()[2:-2]] == [*VERBS]
    wrong = run_script(script, "paint", cwd=tmp_path)
    assert wrong.returncode == 1 and "there is no command paint: choose one of train, sample" in wrong.stderr
    sampled = run_script(script, "sample", "n=1", "steps=1", "gif=false", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr
    (picture,) = (tmp_path / "outputs" / "sample").glob("*/grid.png")
    assert sampled.stdout.strip() == str(picture)
    assert picture.with_name("sample.log").read_text().strip() == sampled.stdout.strip()


def test_sample_help(run):
    result = run("-m", "lit_diffusion.sample", "--help")
    assert "pretrained: deepfloyd, deepfloyd_256, diffusers" in result.stdout
    assert (
        "sampler: ancestral, ancestral_learned, ddim, dpmpp_2m, dpmpp_2m_sde, heun, sde, unipc"
        in result.stdout
    )


def test_train_then_sample_from_the_checkpoint_alone(run, tmp_path):
    trained = run(TRAIN, *DEBUG, "model.num_classes=10", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    assert "samples: " in trained.stdout
    assert (tmp_path / "run" / ".hydra" / "overrides.yaml").is_file()
    ckpt = "ckpt=run/checkpoints/last.ckpt"
    sampled = run(
        "-m", "lit_diffusion.sample", ckpt, "steps=3", "n=12", "rows=2", "out=here", "guidance.scale=2"
    )
    assert sampled.returncode == 0, sampled.stderr
    assert sampled.stdout.split() == ["here/grid.png", "here/trajectory.gif"]
    few = ["steps=3", "edit.n=1", "dpi=40"]
    edited = run("-m", "lit_diffusion.edit", "hybrid", ckpt, *few, "out=there")
    assert edited.returncode == 0, edited.stderr
    assert edited.stdout.split() == ["there/hybrid.png", "there/result.png"]


@pytest.mark.parametrize(
    "command, says",
    [
        ([TRAIN, "schedule=cosin"], "error: schedule is cosin: did you mean cosine? choose one of cosine, "),
        ([TRAIN, "optimizer.learning_rate=1"], "optimizer has no learning_rate: it has betas, fused, lr"),
        (
            ["-m", "lit_diffusion.figures"],
            "choose figure=NAME, NAME being one of ema_length, guidance, images_seen, loss, nfe",
        ),
        ([TRAIN, "experiment=emoji", "model=convnext_unet"], "leave them out, ~model.widths ~model.blocks"),
        ([TRAIN, *DEBUG, "sampler.steps=1001"], "error: the sampler wants 1001 steps"),
        ([TRAIN, *DEBUG, "model.heads=3"], "error: model.heads is 3"),
        ([TRAIN, *DEBUG, "sampler.eta=2"], "error: sampler.eta is 2"),
        ([TRAIN, *DEBUG, "ckpt=nowhere"], "error: ckpt nowhere does not exist"),
        ([TRAIN, *DEBUG, "data.batch_size=400"], "error: data.batch_size 400"),
        (["-m", "lit_diffusion.sample", "ckpt=nowhere"], "error: ckpt nowhere does not exist"),
        (
            [TRAIN, *DEBUG, "trainer.precision=17"],
            "error: trainer.precision is 17: choose one of 64, 32, 16, ",
        ),
        (["-m", "lit_diffusion.export"], "error: ckpt is missing"),
        (["-m", "lit_diffusion.sample", "ckpt=x", "n=many"], "error: n is many"),
    ],
)
def test_a_mistake_is_one_sentence(command, says, tmp_path):
    result = run_script(*command, cwd=tmp_path)
    assert result.returncode != 0
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_the_traceback_is_there_for_those_who_ask(tmp_path):
    result = run_script(TRAIN, *DEBUG, "sampler.steps=1001", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_a_mistake_in_one_job_of_a_multirun_leaves_the_others(tmp_path):
    jobs = ["-m", *DEBUG, "hydra.sweep.dir=sweep", "sampler.steps=1001,4"]
    result = run_script(TRAIN, *jobs, cwd=tmp_path)
    assert result.returncode == 1
    assert "error: the sampler wants 1001 steps" in result.stderr
    ending = result.stderr[result.stderr.index("1 of 2 jobs failed:") :].splitlines()
    assert "sampler.steps=1001: the sampler wants 1001 steps" in ending[1]
    assert ending[1].endswith("(sweep/0)")
    assert "Traceback" not in result.stderr
    assert (tmp_path / "sweep" / "1" / "checkpoints" / "last.ckpt").is_file()


def test_a_fault_in_one_job_of_a_multirun_leaves_the_others(tmp_path):
    """Of a part that a user added, for example."""
    (tmp_path / "own.py").write_text(
        "import torch\nclass Own(torch.optim.AdamW):\n    def step(self, *_, **__):\n        1 / 0\n"
    )
    jobs = ["-m", *DEBUG, "hydra.sweep.dir=sweep", "optimizer._target_=own.Own,torch.optim.AdamW"]
    result = run_script(TRAIN, *jobs, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT / 'tests' / 'helpers'}")
    assert result.returncode == 1
    assert "1 of 2 jobs failed:" in result.stderr
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert (tmp_path / "sweep" / "1" / "checkpoints" / "last.ckpt").is_file()


def test_jobs_of_a_multirun_do_not_write_over_each_other(tmp_path):
    sampling = ["-m", "lit_diffusion.sample", "-m", "n=1", "steps=1", "gif=false", "seed=0,1", "out=same"]
    result = run_script(*sampling, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert result.returncode == 1
    assert "error: out is same, where another job of this multirun has written (sweep/0)" in result.stderr
    assert (tmp_path / "same" / "grid.png").is_file()


def test_options_may_stand_anywhere(tmp_path):
    assert parted(["seed=1", "--config-dir", "/a b/c", "-m", "x=2"]) == (
        ["--config-dir", "/a b/c", "-m"],
        ["seed=1", "x=2"],
    )
    printed = run_script(TRAIN, "seed=1", "--cfg", "job", "optimizer.lr=5e-5", cwd=tmp_path)
    assert "seed: 1" in printed.stdout and "lr: 5.0e-05" in printed.stdout


def test_outside_of_a_command_a_folder_is_to_be_named():
    with pytest.raises(ConfigError, match="this is none: give out=DIR"):
        train(composed("train", ["debug=limit"]))


def test_ranks_that_another_launcher_left_in_the_environment(tmp_path):
    """A run of one process writes all its files."""
    left = {"LOCAL_RANK": "1", "RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "2"}
    result = run_python(TRAIN, *DEBUG, "logger=csv", "hydra.run.dir=run", cwd=tmp_path, **left)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "csv" / "metrics.csv").is_file()
    assert list((tmp_path / "run" / "samples").glob("grid_*.png"))


def test_a_terminal_without_utf8(tmp_path):
    data = ["data=mnist", "data.source._target_=digits.Mnist", "n=6", "k=2", "steps=1", "logger=none"]
    less = ["second=false", "cas_images=0", "bits_n=0", "memorisation=false"]
    plain = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    result = run_python("-m", "lit_diffusion.evaluate", *data, *less, cwd=tmp_path, **plain)
    assert result.returncode == 0, result.stderr
    assert "class accuracy" in result.stdout


def test_multirun_with_ddp_is_refused(tmp_path):
    jobs = ["-m", *DEBUG, "schedule=cosine,flow", "trainer=ddp_cpu"]
    result = run_script(TRAIN, *jobs, cwd=tmp_path)
    assert result.returncode != 0
    assert "ddp_spawn" in result.stderr


def test_the_installed_wheel_is_the_same_command(tmp_path):
    """Unpacked where nothing else is, it trains in an empty folder, and has the model that ships."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(ROOT)]
    subprocess.run([*build, "-w", str(tmp_path)], check=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    (scripts,) = site.glob("*.dist-info/entry_points.txt")
    assert "lit-diffusion = lit_diffusion.common.cli:main" in scripts.read_text()
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [sys.executable, "-m", "lit_diffusion.train", *DEBUG, "hydra.run.dir=run"]
    where = [sys.executable, "-c", "import lit_diffusion; print(lit_diffusion.__file__)"]
    digits = ROOT / "tests" / "helpers"
    environment = {"PYTHONPATH": f"{site}:{digits}", "PATH": "", "HOME": str(empty)}
    found = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True)
    assert str(site) in found.stdout
    script = "from lit_diffusion.common.cli import main; main()"
    sampling = [sys.executable, "-c", script, "sample", "n=1", "steps=1", "gif=false", "out=drawn"]
    for each in (command, sampling):
        subprocess.run(each, cwd=empty, env=environment, check=True, capture_output=True)
    assert (empty / "run" / "checkpoints" / "best.ckpt").is_file()
    assert (empty / "drawn" / "grid.png").is_file()
    assert {path.name for path in (site / "lit_diffusion" / "trained").iterdir()} == {
        path.name for path in (ROOT / "src" / "lit_diffusion" / "trained").iterdir()
    }


@pytest.fixture
def extended(tmp_path):
    """A copy of the project with the listings of docs/extend.md: one file, one yaml and one test each."""
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    page = (ROOT / "docs" / "extend.md").read_text()
    listings = re.findall(r"```\w+\n# ((?:src|conf|tests)/\S+)\n(.*?)```", page, re.DOTALL)
    assert {name.partition("/")[0] for name, _ in listings} == {"src", "conf", "tests"}
    assert len(listings) == 15
    for name, text in listings:
        path = tmp_path / name
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ":".join(map(str, [tmp_path / "src", ROOT / "tests" / "oracles", ROOT / "tests" / "helpers"]))


def test_what_the_docs_add_trains_and_passes_its_tests(tmp_path, extended):
    parts = ["schedule=quadratic", "weighting=truncated_snr", "model=plain", "model.num_classes=10"]
    parts.append("sampler=dpmpp_2s")
    result = run_python(
        "-m", "lit_diffusion.train", *DIGITS, *parts, "debug=limit", cwd=tmp_path, PYTHONPATH=extended
    )
    assert result.returncode == 0, result.stderr
    assert "Plain / Quadratic / V" in result.stdout
    result = run_python(
        "-m", "lit_diffusion.train", "data=shapes", "debug=limit", cwd=tmp_path, PYTHONPATH=extended
    )
    assert result.returncode == 0, result.stderr
    tested = run_python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path, PYTHONPATH=extended
    )
    assert tested.returncode == 0, tested.stdout
