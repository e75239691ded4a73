"""One look for every figure: legible on a phone, safe for colour-blind readers, plain."""

from __future__ import annotations

import matplotlib.pyplot as plt
from cycler import cycler

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # so that no curve is told apart by colour alone

plt.rcParams.update(
    {
        "axes.prop_cycle": cycler(color=COLOURS, marker=MARKERS),
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "figure.figsize": (7.0, 3.4),
        "font.size": 10,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "lines.markersize": 4,
    }
)
