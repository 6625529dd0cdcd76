"""The digits in pairs: each with its inverse as the condition."""

from digits import Digits


class Inverted(Digits):
    def load(self, train: bool):
        images, _ = super().load(train)
        return images, 255 - images
