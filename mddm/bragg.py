"""A denoiser of our own, which sees the order of the whole box beside each particle's neighbours.

A network that passes messages between neighbours cannot hold a crystal together at noise levels
where its order shows only in many particles at once.  That order is a handful of strong waves in
the density, the Bragg peaks of the structure factor; they are cheap to find and say where each
particle belongs.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from mddm.geometry import gather_particles, nearest_neighbors
from mddm.layers import ConditionEmbedding, Gaussians, Modulation
from mddm.noise import global_features

# Longer waves are kept however weak they are: they tell where there are too many particles and
# where too few.  Shorter ones are where structures have their peaks [1 / length].
_Q_LONG = 2.0
# A perfect crystal of 1000 particles has log(1 + S) = 7.
_LOG_S_MAX = 7.0


class StrongestWaves(nn.Module):
    """Where each particle lies in the strongest waves of the density.

    The structure factor S(q) = |sum_j exp(i q r_j)|^2 / n_particles is computed for every wave
    that fits into the box.  The waves with the largest are kept, and all long ones.  They attend to
    each other, as lengths and angles make a lattice together, and give each wave a weight in every
    field; how a wave lies to the box's axes is heard too, for a crystal has to fit the box.  A
    field's value at a particle is the sum of all weighted waves there, and its direction the sum
    of their weighted gradients.  Translations change nothing, and the order of the particles
    neither.

    Args:
        n_fields: fields.
        n_waves: waves that are kept for their strength.
        q_max: length of the longest wave vector [1 / length].
        n_lengths: Gaussians that a wave vector's length is spread over.
        channels: features per wave.
        n_layers: layers of attention.

    Source: this study.  Reciprocal space in message passing: Kosmala et al. 2023 (Ewald message
        passing), with a filter that knows nothing of S.
    """

    def __init__(
        self,
        n_fields: int,
        n_waves: int = 96,
        q_max: float = 9.5,
        n_lengths: int = 72,
        channels: int = 48,
        n_layers: int = 2,
    ):
        super().__init__()
        self.n_waves, self.q_max, self.n_out = n_waves, q_max, 4 * n_fields
        self.length = Gaussians(0.0, q_max, n_lengths)
        self.strength = Gaussians(0.0, 1.0, 12)
        self.condition = ConditionEmbedding()
        self.axes = Gaussians(0.0, 1.0, 10)
        n_told = len(self.strength.centers) + 3 * len(self.axes.centers)
        n_in = n_lengths + n_told + self.condition.n_out
        self.enter = nn.Sequential(nn.Linear(n_in, channels), nn.SiLU())
        self.layers = nn.ModuleList(_WaveAttention(channels) for _ in range(n_layers))
        self.weigh = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, n_fields)
        )

    def forward(self, positions: Tensor, globals_: Tensor, box_length: float | None) -> Tensor:
        """Compute the fields at every particle.

        Args:
            positions: (batch, n_particles, 3) [length].
            globals_: (batch, 4), as from `noise.global_features`.
            box_length: edge of the periodic cube [length]; None for free space, where nothing
                picks out waves and all fields are zero.

        Returns:
            (batch, n_particles, 4 n_fields): values, then directions.
        """
        if box_length is None:
            return positions.new_zeros(*positions.shape[:2], self.n_out)
        vectors, strength, phase = strongest_waves(
            positions, self.n_waves, _Q_LONG, self.q_max, box_length, long=True
        )
        length = vectors.norm(dim=-1, keepdim=True)
        unit = vectors / length
        common = self.condition(globals_)[:, None].expand(-1, vectors.shape[1], -1)
        seen = self.strength(strength.log1p()[..., None] / _LOG_S_MAX)
        # Which of the box's axes is which makes no difference.
        axes = self.axes(unit.abs().sort(dim=-1).values[..., None]).flatten(-2)
        waves = self.enter(torch.cat([self.length(length), seen, axes, common], dim=-1))
        cosine = (unit @ unit.transpose(1, 2)).abs()
        for layer in self.layers:
            waves = layer(waves, cosine)
        # The amplitude of a wave, at most 1, in a crystal of any size.
        weights = self.weigh(waves) * (strength / positions.shape[1]).sqrt()[..., None]
        along = (weights[..., None] * unit[..., None, :]).flatten(2)
        angle = _angles(positions, vectors, phase)
        return torch.cat([angle.cos() @ weights, angle.sin() @ along], dim=-1)


class _WaveAttention(nn.Module):
    """Attention among waves; the angle between two of them says how much they heed each other."""

    def __init__(self, channels: int, n_heads: int = 4, n_angles: int = 16):
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.project = nn.Linear(channels, 3 * channels)
        self.angles = Gaussians(0.0, 1.0, n_angles)
        self.bias = nn.Linear(n_angles, n_heads)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, waves: Tensor, cosine: Tensor) -> Tensor:
        projected = self.project(self.norms[0](waves)).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        bias = self.bias(self.angles(cosine[..., None])).permute(0, 3, 1, 2)
        heard = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        waves = waves + self.out(heard.transpose(1, 2).flatten(2))
        return waves + self.mlp(self.norms[1](waves))


@torch.no_grad()
def strongest_waves(
    positions: Tensor,
    n_waves: int,
    q_min: float,
    q_max: float,
    box_length: float,
    long: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the strongest waves in the density of a periodic box.

    Args:
        positions: (batch, n_particles, 3) [length].
        n_waves: how many.
        q_min, q_max: shortest and longest wave vector [1 / length].
        box_length: edge of the periodic cube [length].
        long: whether to add all waves with shorter vectors than `q_min`.

    Returns:
        vectors: (batch, n, 3) wave vectors, of each pair q and -q one [1 / length].
        strength: (batch, n), S(q), 1 on average without order, strongest first.
        phase: (batch, n) angle of sum_j exp(i q r_j) [rad].

        n is `n_waves` and the number of long ones, which come last.

    Raises:
        ValueError: fewer waves of these lengths fit into the box.
    """
    order, whole, length = _waves(q_max, box_length, positions.device)
    wanted = (length >= q_min) & (length <= q_max)
    n_fitting = int(wanted.sum())
    if n_fitting < n_waves:
        raise ValueError(
            f"only {n_fitting} waves with q between {q_min} and {q_max} fit into a box of edge "
            f"{box_length}, and {n_waves} are needed; take a larger box or fewer waves"
        )
    step = 2 * math.pi / box_length
    # exp(i q r) is a product over the three axes, and z needs no negative q.
    x, y, z = (step * positions).unbind(dim=-1)
    first, second = (_unit(place[..., None] * order) for place in (x, y))
    third = _unit(z[..., None] * order[len(order) // 2 :])
    plane = (first[..., :, None] * second[..., None, :]).flatten(2)
    waves = (plane.transpose(1, 2) @ third).flatten(1)
    strength = (waves.real.square() + waves.imag.square()) / positions.shape[1]
    index = (strength * wanted).topk(n_waves, dim=1).indices
    if long:
        longer = (length < q_min).nonzero().T.expand(len(index), -1)
        index = torch.cat([index, longer], dim=1)
    return step * whole[index], strength.gather(1, index), waves.gather(1, index).angle()


@lru_cache(maxsize=8)
def _waves(q_max: float, box_length: float, device: torch.device):
    """List the integers of one axis, the waves made of them, and the lengths of these.

    Of each pair q and -q one has its length; the other's is infinite, and so is that of q = 0.
    """
    n = int(q_max * box_length / (2 * math.pi))
    order = torch.arange(-n, n + 1, device=device, dtype=torch.float32)
    axes = torch.meshgrid(order, order, order[n:], indexing="ij")
    whole = torch.stack(axes, dim=-1).reshape(-1, 3)
    x, y, z = whole.unbind(dim=-1)
    half = (z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0))))
    length = 2 * math.pi / box_length * whole.norm(dim=-1)
    return order, whole, torch.where(half, length, torch.inf)


def _angles(positions: Tensor, vectors: Tensor, phase: Tensor) -> Tensor:
    # In half precision a phase of a hundred radians would be lost.
    with torch.autocast(positions.device.type, enabled=False):
        return positions @ vectors.transpose(1, 2) - phase[:, None]


def _unit(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


class BraggDenoiser(nn.Module):
    """Predict the noise from the neighbours of a particle and from the waves of the whole box.

    Each layer multiplies what a neighbour sends by a filter of the displacement to it, sums over
    the neighbours and completes the sum with an MLP, whose result is added to the features.
    Sums average over many particles, as the largest message cannot.  The fields of the strongest
    waves enter the features at the start and the last MLP again.

    Args:
        channels: features per particle in every layer.
        n_layers: convolutions.
        n_neighbors: edges per particle.
        n_radial: Gaussians that a distance is spread over, between 0 and `r_max`.
        r_max: centre of the last Gaussian [length].
        n_fields: fields of the strongest waves; 0 leaves the waves out.
        n_waves: waves that are kept for their strength.
        q_max: length of the longest wave vector [1 / length].
        sigma_min, sigma_max: noise levels [length] where the diffusion fraction is 0 and 1.

    Source: this study (benchmarks/crystal.py); the convolution is that of SchNet (Schütt et al.
        2017), with filters that depend on direction too.
    """

    def __init__(
        self,
        channels: int = 72,
        n_layers: int = 4,
        n_neighbors: int = 16,
        n_radial: int = 16,
        r_max: float = 2.2,
        n_fields: int = 16,
        n_waves: int = 96,
        q_max: float = 9.5,
        sigma_min: float = 0.005,
        sigma_max: float = 5.0,
    ):
        super().__init__()
        self.n_neighbors = n_neighbors
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.radial = Gaussians(0.0, r_max, n_radial)
        self.embedding = nn.Parameter(torch.randn(channels))
        self.waves = StrongestWaves(n_fields, n_waves, q_max) if n_fields else None
        n_waves_out = 4 * n_fields
        self.enter = nn.Linear(n_waves_out, channels) if n_fields else None
        self.layers = nn.ModuleList(
            _FilteredSum(channels, n_radial * _N_HARMONICS) for _ in range(n_layers)
        )
        self.modulation = Modulation(2 * channels, n_layers)
        self.head = nn.Sequential(
            nn.Linear(channels + n_waves_out, channels), nn.SiLU(), nn.Linear(channels, 3)
        )

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor,
        condition: Tensor | None,
        box_length: float | None,
    ) -> Tensor:
        """Predict the unit noise; see `PBCConvDenoiser.forward` for arguments and result."""
        neighbors, displacement = nearest_neighbors(x_t, self.n_neighbors, box_length)
        distance = displacement.norm(dim=-1, keepdim=True)
        directions = _harmonics(displacement / distance.clamp(min=1e-6))
        edges = (self.radial(distance)[..., :, None] * directions[..., None, :]).flatten(-2)
        globals_ = global_features(condition, sigma, self.sigma_min, self.sigma_max)
        features = self.embedding.expand(*x_t.shape[:2], -1)
        told = []
        if self.waves is not None:
            told = [self.waves(x_t, globals_, box_length)]
            features = features + self.enter(told[0])
        changes = self.modulation(globals_)
        for layer, scale, shift in zip(self.layers, *changes, strict=True):
            features = features + layer(features, neighbors, edges, scale, shift)
        return self.head(torch.cat([features, *told], dim=-1))


class _FilteredSum(nn.Module):
    """Sum over neighbours of (filter of the edge) x (linear map of their features), and an MLP."""

    def __init__(self, channels: int, edge_channels: int):
        super().__init__()
        self.filter = nn.Linear(edge_channels, channels)
        nn.init.normal_(self.filter.weight, std=0.3)
        self.send = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(2 * channels)
        self.mlp = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, channels)
        )

    def forward(self, features, neighbors, edges, scale, shift):
        sent = gather_particles(self.send(features), neighbors)
        collected = (self.filter(edges) * sent).sum(dim=2) / neighbors.shape[2] ** 0.5
        both = self.norm(torch.cat([collected, features], dim=-1))
        return self.mlp(both * scale + shift)


_N_HARMONICS = 9


def _harmonics(unit: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 2 of (..., 3) unit vectors: (..., 9)."""
    x, y, z = unit.unbind(dim=-1)
    root = math.sqrt(3)
    second = (root * x * y, root * y * z, root * x * z, root / 2 * (x * x - y * y))
    return torch.stack([torch.ones_like(x), x, y, z, *second, (3 * z * z - 1) / 2], dim=-1)
