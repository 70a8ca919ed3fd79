"""One colour for each class, the same in every picture: overlays, curves, contact sheets; and one for each network."""

from __future__ import annotations

import numpy as np

# The first seven are Okabe and Ito's (jfly.uni-koeln.de/color, 2008). The others were chosen one after the other, each
# as far as possible in OKLab from those before it and away from grey, the eighth also as protanopes, deuteranopes and
# tritanopes see them (Machado et al. 2009).
PALETTE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#872D0F",
    "#9600FF", "#78FFFF", "#0000FF", "#FF0FFF", "#00E100", "#B40087", "#FFB4FF", "#5A2DA5",
    "#006900", "#87D296", "#7878FF", "#FF0069", "#877800", "#875AA5", "#C34BD2", "#78B40F",
    "#78FF87", "#C31E3C", "#782D69", "#FF78F0", "#FF8778", "#B496FF",
)  # fmt: skip
OPACITY = 0.55  # of a class over an image

# Tol's vibrant and muted hues (personal.sron.nl/~pault) that can be told apart on white and on black.
NETWORKS = ("#3b82d0", "#e8702a", "#2f9e6e", "#b5539c", "#c2a000", "#6b7fd7", "#c0392b", "#7f8c8d")


def class_colour(value: int) -> tuple[float, float, float]:
    """Red, green and blue (0 to 1) of the class with this label value, 1 or more; beyond 30 they come again."""
    text = PALETTE[(value - 1) % len(PALETTE)]
    red, green, blue = (int(text[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def network_colour(index: int) -> str:
    """Colour of the network that is number `index`, from 0 on, in a report's order; beyond 8 they come again."""
    return NETWORKS[index % len(NETWORKS)]


def paint(label: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """Label map (Y, X) of classes -> layer (Y, X, 4) to lay over its image, 8 bit; nothing over the background."""
    values, index = np.unique(label, return_inverse=True)
    shown = [(*class_colour(int(value)), opacity) if value > 0 else (0.0, 0.0, 0.0, 0.0) for value in values]
    return (255 * np.array(shown)).astype(np.uint8)[index.reshape(label.shape)]
