"""The result of an evaluation as a table that a person reads."""

from collections.abc import Mapping

from rich.table import Table

from lit_diffusion.evaluate.result import Result, Scores

SCORES = {  # score -> what it is called, and which way is better
    "fid": ("FID", "low"),
    "fid_second": ("FID, second network", "low"),
    "kid": ("KID", "low"),
    "precision": ("precision", "high"),
    "recall": ("recall", "high"),
    "density": ("density", "high"),
    "coverage": ("coverage", "high"),
    "class_accuracy": ("class accuracy", "high"),
    "class_accuracy_second": ("class accuracy, second network", "high"),
    "cas": ("classification accuracy score", "high"),
    "nearest": ("distance to the nearest training image", "like the floor's"),
    "copies": ("nearer to one than 99 % of new images", "like the floor's"),
    "psnr": ("PSNR to the image wanted, dB", "high"),
    "feature_distance": ("distance of features to the image wanted", "low"),
    "bits_per_dim": ("bits per dimension", "low"),
}


def scores_table(result: Result) -> Table:
    """Return the scores beside their floor, and below them what they were made with."""
    table = Table(title=f"{result.n:,} samples", caption=scores_caption(result), caption_justify="left")
    table.add_column("score")
    table.add_column("samples", justify="right")
    table.add_column(f"floor: {result.floor_n:,} real test images", justify="right")
    if result.inputs:
        table.add_column("the inputs", justify="right")
    table.add_column("better")
    for key, (name, better) in SCORES.items():
        if key in result.scores:
            inputs = [number(result.inputs, key)] if result.inputs else []
            table.add_row(name, number(result.scores, key), number(result.floor, key), *inputs, better)
    return table


def number(scores: Scores, key: str) -> str:
    """Return a score as text, with its standard deviation where it has one."""
    if key not in scores:
        return ""
    std = scores.get(f"{key}_std")
    return f"{scores[key]:.4f}" + ("" if std is None else f" ± {std:.2g}")


def floor_in_shares(floor: Scores) -> str:
    """Return the sentence about the floor of FID at the training split's shares of classes."""
    return (
        f"the floor's classes have their shares by chance; {floor['n_in_shares']:,} real test images in the "
        f"training split's shares have FID {floor['fid_in_shares']:.4f}"
    )


def sampling_text(sampling: Mapping | None) -> str:
    """Return the sampler, the guidance and the conditions of samples, as far as they are known."""
    if sampling is None:
        return ""
    condition = sampling["prompt"] or ("no label" if sampling["y"] is None else sampling["y"])
    if "conditions" in sampling:
        condition = "test images"
    settings = dict(sampling["sampler"])
    name = settings.pop("name")
    sampler = f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})"
    guidance = sampling["guidance"]
    guided = f"{guidance['scale']:g} at t in {guidance['interval']}, rescale {guidance['rescale']:g}"
    if guidance.get("method", "cfg") != "cfg":
        guided = ", ".join(f"{key} {value}" for key, value in guidance.items())
    return f": {sampler}, guidance {guided}, condition: {condition}"


def scores_caption(result: Result) -> str:
    """Return what stands below the table: settings, seeds, networks, cost."""
    reference, evaluator = result.reference, result.evaluator
    seed = result.sampling["seed"] if result.sampling else "unknown"
    lines = [
        f"samples of {result.made_by}{sampling_text(result.sampling)}",
        f"reference: {reference.data}, {reference.split} split, {reference.n:,} images",
        f"seeds: samples {seed}, evaluator {evaluator.seed}; k = {evaluator.k}",
    ]
    if "fid_in_shares" in result.floor:
        lines.append(floor_in_shares(result.floor))
    if "fid_of_halves" in result.floor:
        lines.append(
            f"there are few real test images; halves of the training split, {result.floor['n_of_halves']:,} "
            f"images each, have FID {result.floor['fid_of_halves']:.4f} to each other"
        )
    if "twins" in result.floor:
        lines.append(
            f"as near to another training image as such copies: {result.floor['twins']:.2%} of the training "
            "images themselves"
        )
    for network, role in ((result.features, "features"), (result.second, "second network")):
        if network:
            accuracy = "" if network.accuracy is None else f", {network.accuracy:.2%} on real test images"
            lines.append(f"{role}: {network.name}, sha256 {network.sha256[:12]}{accuracy}")
    lines.append("KID: mean and standard deviation of its 100 subsets")
    if "cas" in result.floor:
        taught_by = min(result.n, reference.n)
        lines.append(f"floor of the classification accuracy score: taught by {taught_by:,} training images")
    if result.classes:
        lines.append("read as class 0, 1, ...: " + ", ".join(f"{share:.1%}" for share in result.classes))
    if bits := result.bits:
        lines.append(
            f"bits per dimension: an upper bound, the mean of {bits.n} {bits.split} images"
            f"{', given their labels' if bits.labelled else ''}, standard error "
            f"{bits.standard_error:.2g}, {bits.steps} steps"
        )
    if cost := result.cost:
        lines.append(
            f"cost: {cost.nfe:g} network evaluations per image; {cost.images_per_second:.1f} images/s, "
            f"{result.n / cost.images_per_second:.0f} s for all; {cost.peak_memory_mib:.0f} MiB at "
            f"most{'' if cost.peak_memory_of == 'batch' else ', by the whole process'}; "
            f"{cost.device}, batches of {cost.batch_size}"
        )
    return "\n".join(lines)
