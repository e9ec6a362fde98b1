"""A denoiser of our own, which sees the order of the whole box beside each particle's neighbours.

A network that passes messages between neighbours cannot hold a crystal together at noise levels
where its order shows only in many particles at once.  That order is a handful of strong waves in
the density (`mddm.waves`), which are cheap to find and say where each particle belongs.
"""

import math

import torch
from torch import Tensor, nn

from mddm import arguments
from mddm.condition import Conditioning, take_conditioning
from mddm.geometry import gather_particles, nearest_neighbors
from mddm.layers import Gaussians, Modulation
from mddm.waves import Q_LONG, Q_MAX, STRAY, Waves, assign, find_sites, strongest_waves

# In training, sites are withheld from this part of all systems: samples have none for long.
_WITHHELD = 0.3
# A perfect crystal of 1000 particles has log(1 + S) = 7.
_LOG_S_MAX = 7.0


class WaveFields(nn.Module):
    """Where each particle lies in the strongest waves of the density.

    The waves attend to each other, as lengths and angles make a lattice together, and give each
    wave a weight in every field; how a wave lies to the box's axes is heard too, for a crystal has
    to fit the box.  A field's value at a particle is the sum of all weighted waves there, and its
    direction the sum of their weighted gradients.  Translations change nothing, and the order of
    the particles neither.

    Args:
        n_fields: fields.
        n_features: numbers that tell of condition and noise level, as
            `condition.Conditioning.spread` gives them.
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
        n_features: int,
        q_max: float = Q_MAX,
        n_lengths: int = 240,
        channels: int = 48,
        n_layers: int = 2,
    ):
        super().__init__()
        self.n_out = 4 * n_fields
        self.length = Gaussians(0.0, q_max, n_lengths)
        self.strength = Gaussians(0.0, 1.0, 12)
        self.axes = Gaussians(0.0, 1.0, 10)
        n_told = len(self.strength.centers) + 3 * len(self.axes.centers)
        n_in = n_lengths + n_told + n_features
        self.enter = nn.Sequential(nn.Linear(n_in, channels), nn.SiLU())
        self.angles = Gaussians(0.0, 1.0, 16)
        self.layers = nn.ModuleList(
            _WaveAttention(channels, len(self.angles.centers)) for _ in range(n_layers)
        )
        self.weigh = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, n_fields)
        )

    def forward(self, positions: Tensor, waves: Waves, features: Tensor) -> Tensor:
        """Compute the fields at every particle.

        Args:
            positions: (batch, n_particles, 3) [length].
            waves: of their density, as from `strongest_waves`.
            features: (batch, n_features) of condition and noise level.

        Returns:
            (batch, n_particles, 4 n_fields): values, then directions.
        """
        vectors, strength, phase, _ = waves
        length = vectors.norm(dim=-1, keepdim=True)
        unit = vectors / length
        common = features[:, None].expand(-1, vectors.shape[1], -1)
        seen = self.strength(strength.log1p()[..., None] / _LOG_S_MAX)
        # Invariant to permuting the axes.
        axes = self.axes(unit.abs().sort(dim=-1).values[..., None]).flatten(-2)
        features = self.enter(torch.cat([self.length(length), seen, axes, common], dim=-1))
        angles = self.angles((unit @ unit.transpose(1, 2)).abs()[..., None])
        for layer in self.layers:
            features = layer(features, angles)
        # The amplitude of a wave, at most 1, in a crystal of any size.
        weights = self.weigh(features) * (strength / positions.shape[1]).sqrt()[..., None]
        along = (weights[..., None] * unit[..., None, :]).flatten(2)
        angle = _angles(positions, vectors, phase)
        return torch.cat([angle.cos() @ weights, angle.sin() @ along], dim=-1)


class _WaveAttention(nn.Module):
    """Attention among waves; the angle between two of them says how much they heed each other."""

    def __init__(self, channels: int, n_angles: int, n_heads: int = 4):
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.project = nn.Linear(channels, 3 * channels)
        self.bias = nn.Linear(n_angles, n_heads)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, waves: Tensor, angles: Tensor) -> Tensor:
        projected = self.project(self.norms[0](waves)).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        bias = self.bias(angles).permute(0, 3, 1, 2)
        heard = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        waves = waves + self.out(heard.transpose(1, 2).flatten(2))
        return waves + self.mlp(self.norms[1](waves))


def _angles(positions: Tensor, vectors: Tensor, phase: Tensor) -> Tensor:
    # In half precision a phase of a hundred radians would be lost.
    with torch.autocast(positions.device.type, enabled=False):
        return positions @ vectors.transpose(1, 2) - phase[:, None]


class BraggDenoiser(nn.Module):
    """Predict the noise from the neighbours of a particle and from the waves of the whole box.

    Each layer multiplies what a neighbour sends by a filter of the displacement to it, sums over
    the neighbours and completes the sum with an MLP, whose result is added to the features.
    Sums average over many particles, as the largest message cannot.  The fields of the strongest
    waves, and the way to the site that a particle is assigned in a crystal, enter the features
    at the start and the last MLP again.

    Args:
        channels: features per particle in every layer.
        n_layers: convolutions.
        n_neighbors: edges per particle.
        n_radial: Gaussians that a distance is spread over, between 0 and `r_max`.
        r_max: centre of the last Gaussian [length].
        n_fields: fields of the strongest waves; 0 leaves the waves out, and the sites with them.
        n_waves: waves that are kept for their strength; all long ones come on top.
        q_max: length of the longest wave vector [1 / length].
        sites: whether sites are looked for.
        conditioning: what it is told, and how; by default the study's conditions.

    Raises:
        TypeError, ValueError: sizes that are no whole numbers above 0, or lengths that are not
            positive.

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
        n_waves: int = 256,
        q_max: float = Q_MAX,
        sites: bool = True,
        conditioning: Conditioning | None = None,
    ):
        super().__init__()
        channels, n_layers, self.n_neighbors, n_radial, self.n_waves = arguments.sizes(
            channels=channels,
            n_layers=n_layers,
            n_neighbors=n_neighbors,
            n_radial=n_radial,
            n_waves=n_waves,
        )
        n_fields = arguments.whole("n_fields", n_fields, at_least=0)
        r_max = arguments.number("r_max", r_max, above=0)
        self.q_max = arguments.number("q_max", q_max, above=0)
        self.sites = sites and n_fields > 0
        self.conditioning = take_conditioning(conditioning)
        n_features = self.conditioning.n_features
        self.radial = Gaussians(0.0, r_max, n_radial)
        self.embedding = nn.Parameter(torch.randn(channels))
        self.fields = WaveFields(n_fields, n_features, q_max) if n_fields else None
        self.n_told = 4 * n_fields + _N_SITE * self.sites
        self.enter = nn.Linear(self.n_told, channels) if n_fields else None
        self.layers = nn.ModuleList(
            _FilteredSum(channels, n_radial * _N_HARMONICS) for _ in range(n_layers)
        )
        self.modulation = Modulation(n_features, 2 * channels, n_layers)
        # Three components, and how far to trust the way to the site.
        self.head = nn.Sequential(
            nn.Linear(channels + self.n_told, channels), nn.SiLU(), nn.Linear(channels, 4)
        )

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor,
        condition: Tensor | None,
        box_length: float | None,
    ) -> Tensor:
        """Predict the unit noise; see `PBCConvDenoiser.forward` for arguments and result."""
        x_t, sigma, box_length = arguments.network(x_t, sigma, box_length, self.embedding)
        neighbors, displacement = nearest_neighbors(x_t, self.n_neighbors, box_length)
        distance = displacement.norm(dim=-1, keepdim=True)
        directions = _harmonics(displacement / distance.clamp(min=1e-6))
        edges = (self.radial(distance)[..., :, None] * directions[..., None, :]).flatten(-2)
        heard = self.conditioning.spread(self.conditioning(condition, sigma))
        features = self.embedding.expand(*x_t.shape[:2], -1)
        told, pull = self._look_around(x_t, sigma, heard, box_length)
        if self.enter is not None:
            features = features + self.enter(told)
        changes = self.modulation(heard)
        for layer, scale, shift in zip(self.layers, *changes, strict=True):
            features = features + layer(features, neighbors, edges, scale, shift)
        noise, trust = self.head(torch.cat([features, told], dim=-1)).split([3, 1], dim=-1)
        return noise - trust * pull

    def _look_around(self, x_t, sigma, heard, box_length):
        """Tell each particle of waves and sites, and the noise that its site would explain.

        Free space has neither: nothing there picks out waves.
        """
        if box_length is None or self.fields is None:
            return x_t.new_zeros(*x_t.shape[:2], self.n_told), torch.zeros_like(x_t)
        waves = strongest_waves(x_t, self.n_waves, Q_LONG, self.q_max, box_length, long=True)
        fields = self.fields(x_t, waves, heard)
        if not self.sites:
            return fields, torch.zeros_like(x_t)
        places, there = find_sites(waves, sigma, x_t.shape[1], box_length)
        if self.training:
            # The noise of the first particle is a coin that has been tossed already.
            there = there & ((x_t[:, :1, 0] / sigma[:, None]) % 1 >= _WITHHELD)
        way, certainty = assign(x_t, places, there, sigma, box_length)
        level = sigma[:, None, None]
        spread = level.square() + STRAY**2
        pull = way * level / spread
        misfit = (way.square().mean(dim=(1, 2), keepdim=True) / spread).expand_as(certainty)
        found = there.any(dim=1)[:, None, None].expand_as(certainty).to(certainty)
        return torch.cat([fields, pull, way, certainty, misfit, found], dim=-1), pull


# What is told of sites: pull, way, certainty, misfit and whether there are any.
_N_SITE = 9


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
