"""A study: choices times seeds, trained and scored, in one table."""

from omegaconf import DictConfig

from lit_diffusion.common.cli import command


@command("study")
def main(cfg: DictConfig) -> None:
    from rich.console import Console

    from lit_diffusion.study.comparison import table
    from lit_diffusion.study.run import study

    result, path = study(cfg)
    Console().print(table(result))
    print(path)


if __name__ == "__main__":
    main()
