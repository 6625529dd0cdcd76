"""How many anagrams our feature network reads as asked, both ways: ``python tests/tools/anagrams.py CKPT``.

100 of each pair, guidance 2, 34 ancestral steps, seed 0; beside them, how many plain samples of the first
label are read as the second under the same view.
"""

import sys

import torch

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.combinators import VIEWS, Anagram
from lit_diffusion.common.images import to_uint8
from lit_diffusion.denoiser import Labelled
from lit_diffusion.features.classifier import classify
from lit_diffusion.features.network import load_features
from lit_diffusion.guidance import Guidance, Guided
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.generate import generate

PAIRS = [(6, 9, "rotate_180"), (4, 7, "rotate_90"), (7, 2, "flip_vertical"), (5, 2, "flip_horizontal")]


if __name__ == "__main__":
    reader = load_features("mnist").classifier
    guided = Guided(load_denoiser(read_checkpoint(sys.argv[1])), Guidance(2.0))
    for first, second, view in PAIRS:
        upright, turned = (Labelled(guided, torch.tensor([label])) for label in (first, second))
        sampler, look = Ancestral(34, clip=True), VIEWS[view].forward
        x = generate(sampler, Anagram(upright, turned, view), range(100), (1, 28, 28))
        plain = generate(sampler, upright, range(100), (1, 28, 28))
        seen, turned_seen, plain_seen = (
            classify(reader, to_uint8(part)) for part in (x, look(x), look(plain))
        )
        both = (seen == first) & (turned_seen == second)
        alone = plain_seen == second
        print(
            f"{first} and {second} by {view}: {both.sum()} of 100 both ways; plain: {alone.sum()}", flush=True
        )
