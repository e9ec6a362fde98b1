"""Parts that the networks share."""

import torch
from torch import Tensor, nn


class Gaussians(nn.Module):
    """Spread a number over evenly spaced Gaussians, one width apart.

    Args:
        start, stop: centres of the first and of the last one.
        n: how many, at least 2.
    """

    def __init__(self, start: float, stop: float, n: int):
        super().__init__()
        self.width = (stop - start) / (n - 1)
        self.register_buffer("centers", torch.linspace(start, stop, n), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """Turn (..., 1) numbers into (..., n) of them."""
        squared = ((value - self.centers) / self.width).square()
        # Numbers too small for single precision take a processor ten times as long.
        return squared.clamp(max=80).neg().exp()


class Modulation(nn.Module):
    """Make of condition and noise level a scale and a shift for every channel of every layer.

    Args:
        n_features: numbers that tell of both, as `condition.Conditioning.spread` gives them.
        channels: features per particle.
        n_layers: layers that are modulated.
        hidden: width of the network that does it.

    Source: FiLM (Perez et al. 2018).
    """

    def __init__(self, n_features: int, channels: int, n_layers: int, hidden: int = 32):
        super().__init__()
        self.shape = (n_layers, 2, channels)
        self.embed = nn.Sequential(
            nn.Linear(n_features, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
        )
        self.change = nn.Linear(hidden, n_layers * 2 * channels)
        # At first hardly anything is changed.
        nn.init.normal_(self.change.weight, std=0.01)
        nn.init.zeros_(self.change.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn (batch, n_features) into scale and shift, both (n_layers, batch, 1, channels)."""
        changes = self.change(self.embed(features)).unflatten(-1, self.shape)
        scale, shift = changes.transpose(0, 1)[:, :, :, None].unbind(dim=2)
        return 1 + scale, shift
