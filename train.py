"""python train.py [GROUP=CHOICE] [KEY=VALUE] ...; the same as python -m lit_diffusion.train."""

from lit_diffusion.train.__main__ import main

if __name__ == "__main__":
    main()
