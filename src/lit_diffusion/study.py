"""A study: choices times seeds, trained and scored, in one table."""

from omegaconf import DictConfig

from lit_diffusion.cli import command


@command("study")
def main(cfg: DictConfig) -> None:
    from rich.console import Console

    from lit_diffusion.evaluation.comparison import table
    from lit_diffusion.studying import study

    result, path = study(cfg)
    Console().print(table(result))
    print(path)


if __name__ == "__main__":
    main()
