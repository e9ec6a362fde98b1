"""A denoiser of our own, which sees the order of the whole box beside each particle's neighbours.

A network that passes messages between neighbours cannot hold a crystal together at noise levels
where its order shows only in many particles at once.  That order is a handful of strong waves in
the density (`mddm.waves`), which are cheap to find and say where each particle belongs.
"""

from functools import partial

import torch
from torch import Tensor, nn

from mddm import arguments
from mddm.condition import Conditioning, take_conditioning
from mddm.edges import N_HARMONICS, sort_edges
from mddm.geometry import nearest_neighbors
from mddm.layers import Gaussians, Modulation
from mddm.wave_fields import WaveFields
from mddm.waves import Q_LONG, Q_MAX, STRAY, assign, find_sites, strongest_waves

# In training, sites are withheld from this part of all systems: samples have none for long.
_WITHHELD = 0.3


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

    # What is seen of positions are their displacements.
    relative = True

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
        n_features, n_edge = self.conditioning.n_features, self.conditioning.n_edge
        self.radial = Gaussians(0.0, r_max, n_radial)
        self.embedding = nn.Parameter(torch.randn(channels))
        n_wave = self.conditioning.n_wave
        self.fields = WaveFields(n_fields, n_features, n_wave, q_max) if n_fields else None
        self.n_told = 4 * n_fields + _N_SITE * self.sites
        self.enter = nn.Linear(self.n_told, channels) if n_fields else None
        self.layers = nn.ModuleList(
            _FilteredSum(channels, (n_radial + n_edge) * N_HARMONICS) for _ in range(n_layers)
        )
        self.modulation = Modulation(n_features, 2 * channels, n_layers)
        # Three components, and how far to trust the way to the site.
        self.head = nn.Sequential(
            nn.Linear(channels + self.n_told, channels), nn.SiLU(), nn.Linear(channels, 4)
        )

    @torch.no_grad()
    def adopt(self, other: "BraggDenoiser") -> None:
        """Take the weights of a network that is alike in all but what its condition is.

        Those that take a condition in are zero at first: what it says is still to be learned.

        Args:
            other: of the same sizes and noise levels.

        Raises:
            TypeError, ValueError: no such network, or one of other sizes.
        """
        arguments.instance("other", other, BraggDenoiser)
        own, known = self.state_dict(), other.state_dict()
        if own.keys() != known.keys():
            raise ValueError("other must have the same parts; give it the same architecture")
        taken = {}
        for name, weight in own.items():
            columns, others = self._unconditional(name), other._unconditional(name)
            kept, adopted = weight[..., columns], known[name][..., others].to(weight)
            if kept.shape != adopted.shape:
                raise ValueError(f"other must be of the same sizes; its {name} is of another")
            taken[name] = torch.zeros_like(weight)
            taken[name][..., columns] = adopted
        self.load_state_dict(taken)

    def _unconditional(self, name: str) -> slice | list[int]:
        """Which columns of a weight take in what is no condition."""
        told, n_levels = self.conditioning, self.conditioning.n_levels
        if name == "modulation.embed.0.weight":
            return slice(-n_levels, None)
        if name == "fields.enter.0.weight":
            before = self.fields.enter[0].in_features - told.n_features - told.n_wave
            levels = before + told.n_features - n_levels
            return [*range(before), *range(levels, levels + n_levels)]
        if name.endswith("filter.weight"):
            return slice(len(self.radial.centers) * N_HARMONICS)
        return slice(None)

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor,
        condition: Tensor | None,
        box_length: float | None,
    ) -> Tensor:
        """Predict the unit noise; see `PBCConvDenoiser.forward` for arguments and result."""
        x_t, sigma, box_length = arguments.network(x_t, sigma, box_length, self.embedding)
        order = _by_place(x_t) if x_t.shape[1] > _BLOCK else None
        if order is not None:
            x_t = x_t.gather(1, order)
        blocks = self._blocks(x_t, sigma, condition, box_length)
        heard = self.conditioning.spread(self.conditioning(condition, sigma))
        features = self.embedding.expand(*x_t.shape[:2], -1)
        told, pull = self._look_around(x_t, sigma, condition, heard, box_length)
        if self.enter is not None:
            features = features + self.enter(told)
        changes = self.modulation(heard)
        for layer, scale, shift in zip(self.layers, *changes, strict=True):
            sent = layer.send(features)
            parts = zip(features.split(_BLOCK, dim=1), blocks, strict=True)
            features = _joined(
                [each + layer(each, sent, edges, scale, shift) for each, edges in parts]
            )
        parts = zip(*(each.split(_BLOCK, dim=1) for each in (features, told, pull)), strict=True)
        noise = _joined([self._answer(*each) for each in parts])
        return noise if order is None else torch.empty_like(noise).scatter(1, order, noise)

    def _blocks(self, x_t, sigma, condition, box_length):
        """Give the edges block by block of particles, anew each time where they are very many."""
        graph = nearest_neighbors(x_t, self.n_neighbors, box_length)
        of_edges = None
        if self.conditioning.n_edge:
            of_edges = partial(self.conditioning.of_edges, condition, sigma)
        blocks = _Blocks(*graph, self.radial, of_edges)
        return list(blocks) if x_t.shape[1] <= _KEPT else blocks

    def _answer(self, features, told, pull):
        noise, trust = self.head(torch.cat([features, told], dim=-1)).split([3, 1], dim=-1)
        return noise - trust * pull

    def _look_around(self, x_t, sigma, condition, heard, box_length):
        """Tell each particle of waves and sites, and the noise that its site would explain.

        Free space has neither: nothing there picks out waves.
        """
        if box_length is None or self.fields is None:
            return x_t.new_zeros(*x_t.shape[:2], self.n_told), torch.zeros_like(x_t)
        waves = strongest_waves(x_t, self.n_waves, Q_LONG, self.q_max, box_length, long=True)
        of_waves = None
        if self.conditioning.n_wave:
            of_waves = self.conditioning.of_waves(condition, waves.vectors.norm(dim=-1))
        fields = self.fields(x_t, waves, heard, box_length, of_waves)
        if not self.sites:
            return fields, torch.zeros_like(x_t)
        sites, is_site = find_sites(waves, sigma, x_t.shape[1], box_length)
        if self.training:
            # The noise of the first particle is a coin that has been tossed already.
            is_site = is_site & ((x_t[:, :1, 0] / sigma[:, None]) % 1 >= _WITHHELD)
        displacement, certainty = assign(x_t, sites, is_site, sigma, box_length)
        level = sigma[:, None, None]
        spread = level.square() + STRAY**2
        pull = displacement * level / spread
        misfit = displacement.square().mean(dim=(1, 2), keepdim=True) / spread
        found = is_site.any(dim=1)[:, None, None].to(certainty)
        whole = [value.expand_as(certainty) for value in (misfit, found)]
        return torch.cat([fields, pull, displacement, certainty, *whole], dim=-1), pull


# Particles whose edges are held at once, and how many keep theirs from layer to layer.
_BLOCK, _KEPT = 8192, 2**17
# Particles are put in order by cells of this edge, so that neighbours lie close in memory [length].
_CELL = 2.5


def _by_place(positions: Tensor) -> Tensor:
    """Order particles by cells: (batch, n_particles, 3), the same index three times."""
    x, y, z = (positions / _CELL).floor().long().unbind(dim=-1)
    x, y, z = (axis - axis.amin(dim=1, keepdim=True) for axis in (x, y, z))
    key = (x * (y.max() + 1) + y) * (z.max() + 1) + z
    return key.argsort(dim=1)[..., None].expand(-1, -1, 3)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


# What is told of sites: pull, displacement, certainty, misfit and whether there are any.
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

    def forward(self, features, sent, edges, scale, shift):
        collected = edges.collect(sent, self.filter)
        both = self.norm(torch.cat([collected, features], dim=-1))
        return self.mlp(both * scale + shift)


class _Blocks:
    """The edges of a graph, a block of particles at a time; arguments are those of `Edges`."""

    def __init__(self, neighbors, displacement, radial, of_edges):
        self.graph, self.told = (neighbors, displacement), (radial, of_edges, neighbors.shape[1])

    def __iter__(self):
        for block in zip(*(each.split(_BLOCK, dim=1) for each in self.graph), strict=True):
            yield sort_edges(*block, *self.told)
