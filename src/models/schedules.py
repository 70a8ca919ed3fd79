"""Learning-rate schedules of the benchmark, stepped once per epoch."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR


def poly(optimizer: Optimizer, *, max_epochs: int, power: float = 0.9) -> PolynomialLR:
    """lr0 * (1 - epoch / max_epochs) ** power (nnU-Net: power 0.9)."""
    return PolynomialLR(optimizer, total_iters=max_epochs, power=power)


def cosine(optimizer: Optimizer, *, max_epochs: int, min_lr: float = 1e-6) -> CosineAnnealingLR:
    """Half a cosine from lr0 to `min_lr` over all epochs."""
    return CosineAnnealingLR(optimizer, T_max=max_epochs, eta_min=min_lr)
