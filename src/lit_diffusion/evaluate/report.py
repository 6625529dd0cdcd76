"""A result as a table that a person reads."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

ROWS = {  # score -> what it is called, and which way is better
    "fid": ("FID", "low"),
    "fid_check": ("FID, second network", "low"),
    "kid": ("KID", "low"),
    "precision": ("precision", "high"),
    "recall": ("recall", "high"),
    "density": ("density", "high"),
    "coverage": ("coverage", "high"),
    "class_accuracy": ("class accuracy", "high"),
    "class_accuracy_check": ("class accuracy, second network", "high"),
    "cas": ("classification accuracy score", "high"),
    "nearest": ("distance to the nearest training image", "like the floor's"),
    "copies": ("nearer to one than 99 % of new images", "like the floor's"),
    "bits_per_dim": ("bits per dimension", "low"),
}


def table(result: Mapping[str, Any]) -> Table:
    """The scores beside their floor, and below them what they were made with."""
    found = Table(title=f"{result['n']:,} samples", caption=caption(result), caption_justify="left")
    found.add_column("score")
    found.add_column("samples", justify="right")
    found.add_column(f"floor: {result['floor_n']:,} real test images", justify="right")
    found.add_column("better")
    for key, (name, better) in ROWS.items():
        if key in result["scores"]:
            found.add_row(name, number(result["scores"], key), number(result["floor"], key), better)
    return found


def number(scores: Mapping[str, float], key: str) -> str:
    """A score with its standard deviation, where it has one."""
    if key not in scores:
        return ""
    std = scores.get(f"{key}_std")
    return f"{scores[key]:.4f}" + ("" if std is None else f" ± {std:.2g}")


def in_shares(floor: Mapping[str, float]) -> str:
    """What the floor of FID is for those that get their classes' shares right."""
    return (
        f"the floor's classes have their shares by chance; {floor['n_in_shares']:,} real test images in the "
        f"training split's shares have FID {floor['fid_in_shares']:.4f}"
    )


def how(made: Mapping[str, Any]) -> str:
    """How they were made, as far as that is known."""
    if "sampler" not in made:
        return ""
    asked = made["prompt"] or ("no label" if made["y"] is None else made["y"])
    settings = dict(made["sampler"])
    name = settings.pop("name")
    sampler = f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})"
    guidance = (
        f"{made['guidance']:g} at t in {made['guidance_interval']}, rescale {made['guidance_rescale']:g}"
    )
    return f": {sampler}, guidance {guidance}, asked for: {asked}"


def caption(result: Mapping[str, Any]) -> str:
    """All that must stand beside the numbers."""
    reference, judge, made = result["reference"], result["judge"], result["made_with"]
    lines = [
        f"samples of {made['made_by']}{how(made)}",
        f"reference: {reference['data']}, {reference['split']} split, {reference['n']:,} images",
        f"seeds: samples {made.get('seed', 'unknown')}, judge {judge['seed']}; k = {judge['k']}",
    ]
    if "fid_in_shares" in result["floor"]:
        lines.append(in_shares(result["floor"]))
    for key, what in {"features": "features", "check": "second network"}.items():
        if network := result[key]:
            accuracy = f", {network['accuracy']:.2%} on real test images" if "accuracy" in network else ""
            lines.append(f"{what}: {network['name']}, sha256 {network['sha256'][:12]}{accuracy}")
    lines.append("KID: mean and standard deviation of its 100 subsets")
    if "cas" in result["floor"]:
        taught_by = min(result["n"], reference["n"])
        lines.append(f"floor of the classification accuracy score: taught by {taught_by:,} training images")
    if result["classes"]:
        lines.append("read as class 0, 1, ...: " + ", ".join(f"{share:.1%}" for share in result["classes"]))
    if bits := result.get("bits"):
        lines.append(
            f"bits per dimension: an upper bound, the mean of {bits['n']} {bits['split']} images"
            f"{', given their labels' if bits['labelled'] else ''}, standard error "
            f"{bits['standard_error']:.2g}, {bits['steps']} steps"
        )
    if cost := result.get("cost"):
        lines.append(
            f"cost: {cost['nfe']:g} network evaluations per image; {cost['images_per_second']:.1f} images/s, "
            f"{result['n'] / cost['images_per_second']:.0f} s for all; {cost['peak_memory_mib']:.0f} MiB at "
            f"most{'' if cost['peak_memory_of'] == 'batch' else ', by the whole process'}; "
            f"{cost['device']}, batches of {cost['batch_size']}"
        )
    return "\n".join(lines)
