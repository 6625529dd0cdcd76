"""Evaluation: a checkpoint in, scores with their floor out."""

from omegaconf import DictConfig

from lit_diffusion.common.cli import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    from rich.console import Console

    from lit_diffusion.evaluate.report import table
    from lit_diffusion.evaluate.run import evaluate

    result, path = evaluate(cfg)
    Console().print(table(result))
    print(path)


if __name__ == "__main__":
    main()
