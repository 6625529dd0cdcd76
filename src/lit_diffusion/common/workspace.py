"""A workspace at W&B for this project's runs: what is worth looking at, in its order."""

from typing import Any

import wandb_workspaces.reports.v2 as reports
from wandb_workspaces.workspaces import (
    Ordering,
    RunsetSettings,
    Section,
    Summary,
    Workspace,
    WorkspaceSettings,
)

STEP = "trainer/global_step"
BINS = [f"{k / 10:.1f}-{(k + 1) / 10:.1f}" for k in range(10)]  # of t


def workspace(entity: str, project: str = "lit_diffusion") -> Workspace:
    """Return a workspace; its ``save()`` puts it on W&B's server, and returns its address.

    Runs stand in the order of their lowest validation loss.

    Args:
        entity: the user or the team at W&B.
        project: W&B's project.
    """
    sections: dict[str, list[Any]] = {
        "Samples": [pictures("samples/grid"), pictures("samples/denoising"), pictures("samples/trajectory")],
        "Losses": [lines("val/loss"), lines("train/loss")],
        "Where on the path the loss is": [
            lines(*(f"{stage}_t/{bin}" for bin in BINS), title=f"{stage}, in bins of t")
            for stage in ("val", "train")
        ],
        "Scores": [lines("eval/fid", "eval/floor_fid", title="FID and its floor"), lines("eval/coverage")],
        "Training": [lines("train/lr"), lines("train/grad_norm"), lines("perf/images_per_second")],
    }
    return Workspace(
        entity=entity,
        project=project,
        name="lit_diffusion",
        sections=[Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=WorkspaceSettings(x_axis=STEP),
        runset_settings=RunsetSettings(order=[Ordering(Summary("val/loss"), ascending=True)]),
    )


def lines(*metrics: str, title: str | None = None) -> reports.LinePlot:
    """Return a panel of metrics over the steps; losses on a logarithmic axis."""
    return reports.LinePlot(
        title=title or metrics[0], x=STEP, y=[*metrics], log_y="loss" in metrics[0], max_runs_to_show=20
    )


def pictures(key: str) -> reports.MediaBrowser:
    """Return a panel of pictures, side by side for the runs."""
    return reports.MediaBrowser(title=key, media_keys=[key], num_columns=2)
