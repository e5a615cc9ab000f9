"""A U-Net that labels each pixel of an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._bench.workload import Sizes, Training


def model(lib: Any, s: Sizes) -> Any:
    """Double convolutions on the way down and up, with the channels of the way down joined."""
    nn = lib.nn

    def double(n: int, m: int) -> Any:
        return nn.Sequential(
            nn.Conv2d(n, m, 3, 1, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU(),
            nn.Conv2d(m, m, 3, 1, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU())

    class UNet(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pairs = list(zip(s.widths, s.widths[1:], strict=False))
            self.first = double(s.channels, s.widths[0])
            self.pool = nn.MaxPool2d(2)
            self.down = nn.ModuleList([double(n, m) for n, m in pairs])
            self.wider = nn.ModuleList([nn.ConvTranspose2d(m, n, 2, 2) for n, m in pairs])
            self.up = nn.ModuleList([double(2 * n, n) for n, _ in pairs])
            self.last = nn.Conv2d(s.widths[0], 2, 1)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            skips = []
            for down in self.down:
                skips.append(x)
                x = down(self.pool(x))
            for i in reversed(range(len(skips))):
                x = self.up[i](lib.concat([skips[i], self.wider[i](x)], 1))
            return self.last(x)

    return UNet()


def squares(rng: np.random.Generator, s: Sizes) -> list:
    """Noisy images with a square, whose pixels have the label 1."""
    found = []
    for _ in range(2):
        x = rng.normal(0, 0.3, (s.batch, s.channels, s.pixels, s.pixels)).astype("float32")
        y = np.zeros((s.batch, s.pixels, s.pixels), "int64")
        half = s.pixels // 2
        for image, labels in zip(x, y, strict=True):
            row, column = rng.integers(0, half, 2)
            image[:, row:row + half, column:column + half] += 1
            labels[row:row + half, column:column + half] = 1
        found.append((x, y))
    return found


WORKLOADS = {
    "unet": Training(
        what="U-Net of 32 to 256 channels on 64x64, batch 8, Adam",
        model=model, data=squares, steps=5,
        sizes={"widths": (32, 64, 128, 256), "channels": 3, "pixels": 64, "batch": 8},
        quick={"widths": (4, 8), "pixels": 8, "batch": 2}),
}
