"""Tutorial 2's part B network, written from its text and the diagrams of the course it answers.

An oracle: the weights in one list, the layers spelt out one after the other.
"""

from torch import cat, nn
from torch.nn import functional as F


class Tutorial2UNet(nn.Module):
    """D hidden channels. Modulation "none", "time" (h * t) or "class" (c * h + t)."""

    def __init__(self, d=64, modulation="time", classes=10):
        super().__init__()
        self.modulation = modulation
        plan = [  # kernel, from, to, stride, padding, transposed?
            (3, 1, d, 1, 1, False), (3, d, d, 1, 1, False),
            (3, d, d, 2, 1, False), (3, d, d, 1, 1, False), (3, d, d, 1, 1, False),
            (3, d, 2 * d, 2, 1, False), (3, 2 * d, 2 * d, 1, 1, False), (3, 2 * d, 2 * d, 1, 1, False),
            (7, 2 * d, 2 * d, 7, 0, True),
            (4, 4 * d, d, 2, 1, True), (3, d, d, 1, 1, False), (3, d, d, 1, 1, False),
            (4, 2 * d, d, 2, 1, True), (3, d, d, 1, 1, False), (3, d, d, 1, 1, False),
            (3, 2 * d, d, 1, 1, False), (3, d, d, 1, 1, False),
        ]  # fmt: skip
        self.layers = nn.ModuleList()
        for kernel, c_in, c_out, stride, padding, transposed in plan:
            conv = nn.ConvTranspose2d if transposed else nn.Conv2d
            layer = conv(c_in, c_out, kernel, stride, padding)
            self.layers.append(nn.ModuleList([layer, nn.BatchNorm2d(c_out)]))
        self.last = nn.Conv2d(d, 1, 3, 1, 1)
        inputs = {"none": [], "time": [1, 1], "class": [1, classes, 1, classes]}[modulation]
        widths = [2 * d] * (len(inputs) // 2) + [d] * (len(inputs) // 2)
        self.fc = nn.ModuleList(
            nn.ModuleList([nn.Linear(i, w), nn.Linear(w, w)]) for i, w in zip(inputs, widths, strict=True)
        )

    def forward(self, x, t=None, one_hot=None):
        def conv(h, *numbers):
            for k in numbers:
                layer, norm = self.layers[k]
                h = F.gelu(norm(layer(h)))
            return h

        def fc(k, signal):
            first, second = self.fc[k]
            return second(F.gelu(first(signal)))[:, :, None, None]

        def modulated(h, place):
            if self.modulation == "none":
                return h
            if self.modulation == "time":
                return h * fc(place, t)
            return fc(2 * place + 1, one_hot) * h + fc(2 * place, t)

        full = conv(x, 0, 1)
        half = conv(full, 2, 3, 4)
        quarter = conv(half, 5, 6, 7)
        point = F.gelu(F.avg_pool2d(quarter, 7))
        assert point.shape[2:] == (1, 1)
        unflatten = modulated(conv(point, 8), 0)
        up1 = modulated(conv(cat([unflatten, quarter], 1), 9, 10, 11), 1)
        up2 = conv(cat([up1, half], 1), 12, 13, 14)
        return self.last(conv(cat([up2, full], 1), 15, 16))
