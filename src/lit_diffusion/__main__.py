"""``python -m lit_diffusion VERB ...``, which is ``lit-diffusion VERB ...``."""

from lit_diffusion.common.cli import main

if __name__ == "__main__":
    main()
