"""What W&B was told, read back from an offline run's file by W&B's own reader."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

Records = list[dict[str, Any]]


def records(folder: Path) -> Records:
    """Every record of the one offline run in the folder."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    reader = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(reader, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def settings(records: Records) -> dict[str, Any]:
    """The run's name, group, tags, ..."""
    return next(r["run"] for r in records if r["type"] == "run")


def history(records: Records, prefix: str) -> list[dict[str, Any]]:
    """All values logged under names with the prefix, in order."""
    items = [r["history"]["item"] for r in records if r["type"] == "history"]
    return [{k: v for k, v in item.items() if k.startswith(prefix)} for item in items]
