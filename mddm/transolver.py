"""The paper's baseline: Transolver, attention among a few learned slices, as a denoiser."""

import torch
from torch import Tensor, nn

from mddm import arguments
from mddm.condition import Conditioning, take_conditioning
from mddm.geometry import wrap

# The slice softmax blows up when its learned temperature approaches zero.
_MIN_TEMPERATURE = 0.01


class PhysicsAttention(nn.Module):
    """Attention among slices: particles are pooled into a few tokens, which attend and return.

    Args:
        channels: features per particle; a multiple of `n_heads`.
        n_heads: attention heads.
        n_slices: tokens per head.

    Raises:
        ValueError: `channels` is no multiple of `n_heads`.

    Source: Transolver (Wu et al. 2024), section 3.2.
    """

    def __init__(self, channels: int, n_heads: int, n_slices: int):
        super().__init__()
        if channels % n_heads:
            raise ValueError(
                f"channels must be a multiple of n_heads, got {channels} and {n_heads}"
            )
        self.n_heads = n_heads
        per_head = channels // n_heads
        self.temperature = nn.Parameter(torch.full((1, n_heads, 1, 1), 0.5))
        self.project_x = nn.Linear(channels, channels)
        self.project_fx = nn.Linear(channels, channels)
        self.project_slice = nn.Linear(per_head, n_slices)
        nn.init.orthogonal_(self.project_slice.weight)
        self.query = nn.Linear(per_head, per_head, bias=False)
        self.key = nn.Linear(per_head, per_head, bias=False)
        self.value = nn.Linear(per_head, per_head, bias=False)
        self.project_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix features over all particles: (batch, n_particles, channels) in and out."""
        logits = self.project_slice(self._split_heads(self.project_x(x)))
        slice_weights = (logits / self.temperature.clamp(min=_MIN_TEMPERATURE)).softmax(dim=-1)
        mass = slice_weights.sum(dim=2)[..., None]
        pooled = slice_weights.transpose(2, 3) @ self._split_heads(self.project_fx(x))
        slice_token = pooled / (mass + 1e-5)
        slice_token = nn.functional.scaled_dot_product_attention(
            self.query(slice_token), self.key(slice_token), self.value(slice_token)
        )
        out = slice_weights @ slice_token
        return self.project_out(out.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class TransolverBlock(nn.Module):
    """One pre-normalised block: x += attention(LN x); x += MLP(LN x).

    Args:
        channels, n_heads, n_slices: see `PhysicsAttention`.
        mlp_ratio: width of the MLP's hidden layer in units of `channels`.

    Source: Transolver (Wu et al. 2024), eq. 6.
    """

    def __init__(self, channels: int, n_heads: int, n_slices: int, mlp_ratio: int):
        super().__init__()
        self.norm_attention = nn.LayerNorm(channels)
        self.attention = PhysicsAttention(channels, n_heads, n_slices)
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = _mlp(channels, mlp_ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Update the features: (batch, n_particles, channels) in and out."""
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


class TransolverDenoiser(nn.Module):
    """Predict the noise from absolute positions, with attention over the whole box.

    The defaults are the paper preset: 128,867 parameters. In the box, positions enter scaled
    to [-1, 1); in free space they enter divided by sqrt(1 + sigma^2), the spread of a noised
    shape of unit size.

    Args:
        channels: features per particle.
        n_layers: blocks.
        n_heads: attention heads.
        n_slices: slices per head.
        mlp_ratio: width of the MLPs in units of `channels`.
        conditioning: what it is told, and how; by default the study's conditions.

    Raises:
        TypeError, ValueError: sizes that are no whole numbers above 0, or heads that do not
            divide the channels.

    Source: MDDM section 4.1; Transolver (Wu et al. 2024).
    """

    def __init__(
        self,
        channels: int = 64,
        n_layers: int = 4,
        n_heads: int = 8,
        n_slices: int = 32,
        mlp_ratio: int = 2,
        conditioning: Conditioning | None = None,
    ):
        super().__init__()
        channels, n_layers, n_heads, n_slices, mlp_ratio = arguments.sizes(
            channels=channels,
            n_layers=n_layers,
            n_heads=n_heads,
            n_slices=n_slices,
            mlp_ratio=mlp_ratio,
        )
        if channels % n_heads:
            raise ValueError(f"n_heads must divide channels ({channels}), got {n_heads}")
        self.conditioning = take_conditioning(conditioning)
        self.preprocess = _mlp(3 + self.conditioning.n_globals, 2 * channels, channels)
        self.placeholder = nn.Parameter(torch.rand(channels) / channels)
        self.blocks = nn.ModuleList(
            TransolverBlock(channels, n_heads, n_slices, mlp_ratio) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 3)

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor,
        condition: Tensor | None,
        box_length: float | None,
    ) -> Tensor:
        """Predict the unit noise.

        Args:
            x_t: (batch, n_particles, 3) noised positions [length]; any image of a particle will
                do, though to the network either end of the box is far from the other.
            sigma: (batch,) noise scales [length].
            condition: of each system, as the network's conditioning takes it: (batch, 3), k, phi
                and temperature, by default.
            box_length: edge of the periodic cube [length], or None for free space.

        Returns:
            (batch, n_particles, 3), the estimate of eps.

        Raises:
            TypeError, ValueError: an argument of another kind or shape, or out of its range.
        """
        x_t, sigma, box_length = arguments.network(x_t, sigma, box_length, self.placeholder)
        if box_length is None:
            scaled = x_t / (1 + sigma.square()).sqrt()[:, None, None]
        else:
            scaled = 2 * wrap(x_t, box_length) / box_length - 1
        globals_ = self.conditioning(condition, sigma)
        common = globals_[:, None].expand(-1, x_t.shape[1], -1)
        x = self.preprocess(torch.cat([scaled, common], dim=-1)) + self.placeholder
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def _mlp(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, hidden), nn.GELU(), nn.Linear(hidden, out_channels))
