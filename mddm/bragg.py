"""A denoiser of our own, which sees the order of the whole box beside each particle's neighbours.

A network that passes messages between neighbours cannot hold a crystal together at noise levels
where its order shows only in many particles at once.  That order is a handful of strong waves in
the density (`mddm.waves`), which are cheap to find and say where each particle belongs.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mddm import arguments, fourier
from mddm.condition import Conditioning, take_conditioning
from mddm.geometry import nearest_neighbors
from mddm.layers import Gaussians, Modulation
from mddm.waves import Q_LONG, Q_MAX, STRAY, Waves, assign, find_sites, strongest_waves

# In training, sites are withheld from this part of all systems: samples have none for long.
_WITHHELD = 0.3
# A perfect crystal of 1000 particles has log(1 + S) = 7.
LOG_S_MAX = 7.0


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
        n_wave: numbers that the condition tells of each wave.
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
        n_wave: int = 0,
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
        n_in = n_lengths + n_told + n_features + n_wave
        self.enter = nn.Sequential(nn.Linear(n_in, channels), nn.SiLU())
        self.angles = Gaussians(0.0, 1.0, 16)
        self.layers = nn.ModuleList(
            _WaveAttention(channels, len(self.angles.centers)) for _ in range(n_layers)
        )
        self.weigh = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, n_fields)
        )

    def forward(
        self,
        positions: Tensor,
        waves: Waves,
        features: Tensor,
        box_length: float,
        of_waves: Tensor | None = None,
    ) -> Tensor:
        """Compute the fields at every particle.

        Args:
            positions: (batch, n_particles, 3) [length].
            waves: of their density, as from `strongest_waves`.
            features: (batch, n_features) of condition and noise level.
            box_length: edge of the periodic cube [length].
            of_waves: (batch, n_waves, n_wave) of each wave, where the condition tells of it.

        Returns:
            (batch, n_particles, 4 n_fields): values, then directions.
        """
        vectors, strength, phase, _ = waves
        n_particles, length = positions.shape[1], vectors.norm(dim=-1, keepdim=True)
        unit = vectors / length
        common = features[:, None].expand(-1, vectors.shape[1], -1)
        # A crystal's peaks grow with the number of particles, and those of chance do not.
        known = 1 + (strength - 1) * min(1.0, _N_KNOWN / n_particles)
        seen = self.strength(known.log1p()[..., None] / LOG_S_MAX)
        # Invariant to permuting the axes.
        axes = self.axes(unit.abs().sort(dim=-1).values[..., None]).flatten(-2)
        told = [] if of_waves is None else [of_waves]
        features = self.enter(torch.cat([self.length(length), seen, axes, common, *told], dim=-1))
        # The amplitude of a wave, at most 1, in a crystal of any size.
        n_short = vectors.shape[1]
        if n_particles > _N_KNOWN:
            n_short = int((length[0] >= Q_LONG).sum())
        weights = self.weigh(self._attend(features, unit, n_short))
        weights = weights * (strength / n_particles).sqrt()[..., None]
        along = (weights[..., None] * unit[..., None, :]).flatten(2)
        amounts = (vectors, phase, weights, along)
        # Long waves, which come last, are many in a large box, and their vectors close together.
        if n_particles < fourier.N_PARTICLES or not 0 < n_short < vectors.shape[1]:
            return fourier.of_waves(positions, *amounts, box_length)
        short, long = (
            fourier.of_waves(positions, *(each[:, part] for each in amounts), box_length)
            for part in (slice(n_short), slice(n_short, None))
        )
        return short + long

    def _attend(self, features: Tensor, unit: Tensor, n_short: int) -> Tensor:
        """Let the waves attend to each other; of the long ones to as many as a known box has."""
        n_waves = features.shape[1]
        if n_waves - n_short <= _N_LONG:
            biases = self._biases((unit @ unit.transpose(1, 2)).abs())
            for layer, bias in zip(self.layers, biases, strict=True):
                features = layer(features, bias)
            return features
        # Evenly from their list, which is in the order of their vectors.
        long = torch.linspace(n_short, n_waves - 1, _N_LONG, device=unit.device).long()
        heeded = torch.cat([torch.arange(n_short, device=unit.device), long])
        known, towards = [features[:, heeded]], unit[:, heeded].transpose(1, 2)
        for layer, bias in zip(
            self.layers, self._biases((unit[:, heeded] @ towards).abs()), strict=True
        ):
            known.append(layer(known[-1], bias))
        found = []
        for some, along in zip(
            features.split(_N_AT_ONCE, 1), unit.split(_N_AT_ONCE, 1), strict=True
        ):
            biases = self._biases((along @ towards).abs())
            for layer, bias, heard in zip(self.layers, biases, known[:-1], strict=True):
                some = layer(some, bias, heard)
            found.append(some)
        return torch.cat(found, dim=1)

    def _biases(self, cosines: Tensor) -> list[Tensor]:
        """How much waves heed each other in each layer: (batch, n_heads, n_waves, n_heeded)."""

        def heed(angles):
            weight, bias = zip(
                *((layer.bias.weight, layer.bias.bias) for layer in self.layers), strict=True
            )
            # The long side last: twice as fast as the other way round.
            return torch.cat(weight) @ angles.flatten(0, -2).T + torch.cat(bias)[:, None]

        if torch.is_grad_enabled() or cosines.is_cuda:
            found = heed(self.angles(cosines[..., None]))
        else:
            # There are more pairs than a table needs entries.
            at = cosines.clamp(max=1).flatten() * (_N_ENTRIES - 2)
            below = at.int()
            entries = torch.arange(_N_ENTRIES).to(at) / (_N_ENTRIES - 2)
            table = heed(self.angles(entries[:, None]))
            found = table.index_select(1, below)
            found.addcmul_(table.diff(dim=1).index_select(1, below), at - below)
        return found.unflatten(1, cosines.shape).transpose(0, 1).chunk(len(self.layers), dim=1)


# A table of so many cosines is as exact as single precision.
_N_ENTRIES = 4097
# Networks have learned from so many particles, in whose box there are so many long waves.
_N_KNOWN, _N_LONG = 1000, 73
# So many of very many waves attend to others at once.
_N_AT_ONCE = 1024


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

    def forward(self, waves: Tensor, biases: Tensor, heeded: Tensor | None = None) -> Tensor:
        query, key, value = self._projected(waves)
        if heeded is not None:
            _, key, value = self._projected(heeded)
        heard = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=biases)
        waves = waves + self.out(heard.transpose(1, 2).flatten(2))
        return waves + self.mlp(self.norms[1](waves))

    def _projected(self, waves: Tensor) -> Tensor:
        projected = self.project(self.norms[0](waves)).unflatten(-1, (3, self.n_heads, -1))
        return projected.permute(2, 0, 3, 1, 4)


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
            kept, adopted = weight[..., columns], known[name][..., others]
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


class _Edges:
    """The edges of a graph, in an order in which filters of them are cheap.

    A filter is a linear map of all products of a Gaussian of the distance and a harmonic of the
    direction.  Within a narrow range of distances a few powers of the distance do for all
    Gaussians.  So edges are sorted by range, and each range has a smaller map of its own.  Where
    small products are dear, on a GPU, there is one range, and its powers are the Gaussians.

    Args:
        neighbors, displacement: as from `nearest_neighbors`.
        radial: the Gaussians.
        n_senders: particles that the indices of neighbours are of.
        of_edges: what the condition tells of distances r (n, m) of the systems (n,), (n, m, n_edge)
            numbers that go with the Gaussians; None where it tells nothing.
    """

    def __init__(
        self,
        neighbors: Tensor,
        displacement: Tensor,
        radial: Gaussians,
        of_edges: Callable[[Tensor, Tensor], Tensor] | None = None,
        n_senders: int | None = None,
    ):
        batch, n_particles, self.n_neighbors = neighbors.shape
        displacement = displacement.flatten(0, 2)
        distance = displacement.norm(dim=-1)
        ranges = _narrow_ranges if displacement.device.type == "cpu" else _one_range
        order, counts, powers, self.functions = ranges(distance, radial, batch, of_edges)
        first = (n_senders or n_particles) * torch.arange(batch, device=neighbors.device)
        self.senders = (neighbors + first[:, None, None]).flatten()[order]
        self.receivers = order // self.n_neighbors
        self.of_receiver = (
            torch.empty_like(order)
            .scatter_(0, order, torch.arange(len(order), device=order.device))
            .view(-1, self.n_neighbors)
        )
        unit = displacement[order] / distance[order, None].clamp(min=1e-6)
        self.terms = (powers[:, :, None] * _harmonics(unit)[:, None]).flatten(1)
        at_once = len(order) if ranges is _one_range else _EDGES_AT_ONCE
        ends = [0, *accumulate(counts)]
        self.parts = [
            (slice(start, min(start + at_once, end)), range_)
            for range_, (first, end) in enumerate(pairwise(ends))
            for start in range(first, end, at_once)
        ]

    @torch.compiler.disable
    def collect(self, sent: Tensor, filter_: nn.Linear) -> Tensor:
        """Sum what the neighbours send, each multiplied by a filter of the edge."""
        # So small products in half precision would take longer than in single.
        with torch.autocast(sent.device.type, enabled=False):
            return self._collect(sent, filter_)

    def _collect(self, sent, filter_):
        channels, sent = len(filter_.weight), sent.to(filter_.weight)
        weight = filter_.weight.view(channels, -1, N_HARMONICS).permute(1, 2, 0).flatten(1)
        maps = (self.functions @ weight).unflatten(-1, (-1, channels)).flatten(1, 2)
        # One harmonic and one power are 1: the bias belongs to them.
        maps = torch.cat([maps[:, :1] + filter_.bias, maps[:, 1:]], dim=1)
        total = _Collected.apply(sent.flatten(0, 1), maps, self.terms, self)
        return total.view(len(sent), -1, channels) / self.n_neighbors**0.5


# The number of ranges depends on the positions, which is not for a compiler.
_sort_edges = torch.compiler.disable(_Edges)


class _Blocks:
    """The edges of a graph, a block of particles at a time; arguments are those of `_Edges`."""

    def __init__(self, neighbors, displacement, radial, of_edges):
        self.graph, self.told = (neighbors, displacement), (radial, of_edges, neighbors.shape[1])

    def __iter__(self):
        for block in zip(*(each.split(_BLOCK, dim=1) for each in self.graph), strict=True):
            yield _sort_edges(*block, *self.told)


class _Collected(torch.autograd.Function):
    """Sums of filtered features; filters are computed twice, and only of a few edges at once."""

    @staticmethod
    def forward(ctx, sent, maps, terms, edges):
        ctx.save_for_backward(sent, maps, terms)
        ctx.edges = edges
        messages = sent.new_empty(len(edges.senders), sent.shape[1])
        for part, range_ in edges.parts:
            torch.mm(terms[part], maps[range_], out=messages[part])
        # What is written has to be still at hand when it is read.
        for some, senders in zip(
            messages.split(_EDGES_AT_ONCE), edges.senders.split(_EDGES_AT_ONCE), strict=True
        ):
            some.mul_(sent.index_select(0, senders))
        return functional.embedding_bag(edges.of_receiver, messages, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        sent, maps, terms = ctx.saved_tensors
        edges, to_maps = ctx.edges, torch.zeros_like(maps)
        to_terms = torch.empty_like(terms) if ctx.needs_input_grad[2] else None
        to_messages = gradient.index_select(0, edges.receivers)
        for part, range_ in edges.parts:
            to_filters = sent.index_select(0, edges.senders[part]).mul_(to_messages[part])
            to_maps[range_].addmm_(terms[part].T, to_filters)
            if to_terms is not None:
                to_terms[part] = to_filters @ maps[range_].T
            to_messages[part].mul_(terms[part] @ maps[range_])
        to_sent = torch.zeros_like(sent).index_add_(0, edges.senders, to_messages)
        return to_sent, to_maps, to_terms, None


def _one_range(distance, radial, batch, of_edges):
    """The same as `_narrow_ranges` with 1 and all functions for powers, in the order given."""
    functions = radial(distance[:, None])
    if of_edges is not None:
        told = of_edges(distance.view(batch, -1), torch.arange(batch).to(distance.device))
        functions = torch.cat([functions, told.flatten(0, 1)], dim=1)
    powers = torch.cat([torch.ones_like(functions[:, :1]), functions], dim=1)
    order = torch.arange(len(distance), device=distance.device)
    return order, [len(distance)], powers, torch.eye(powers.shape[1]).to(powers)[None, :, 1:]


def _narrow_ranges(distance, radial, batch, of_edges):
    """Sort distances by range, and by system where these have functions of their own.

    Returns:
        order: (n,) the sort.
        counts: how many there are in each range that is not empty.
        powers: (n, n_powers) of the sorted distances, each from -1 to 1 in its range.
        functions: (n_ranges, n_powers, n_functions), what makes of the powers the Gaussians, and
            then what the condition tells.
    """
    width = radial.width / _RANGES_A_WIDTH
    # Beyond the last Gaussian there is nothing.
    reach = radial.centers[-1].item() + 6.5 * radial.width
    place = distance.clamp(max=reach) / width
    found = place.detach().long()
    n_ranges = int(reach / width) + 1
    key = found
    if of_edges is not None:
        first = n_ranges * torch.arange(batch, device=found.device)
        key = (found.view(batch, -1) + first[:, None]).flatten()
    # NumPy sorts small integers several times faster than others.
    smallest = np.min_scalar_type(n_ranges * batch)
    order = torch.from_numpy(key.numpy().astype(smallest).argsort(kind="stable"))
    counts = torch.bincount(key)
    occupied = counts.nonzero()[:, 0]
    within = 2 * (place - found)[order] - 1
    n_powers = _N_POWERS[distance.dtype]
    powers = torch.linalg.vander(within, N=n_powers)
    nodes = torch.cos(torch.pi * (torch.arange(n_powers, dtype=torch.float64) + 0.5) / n_powers)
    at = (occupied[:, None] % n_ranges + (nodes + 1) / 2) * width
    exact = torch.exp(-(((at[..., None] - radial.centers.double()) / radial.width) ** 2))
    if of_edges is not None:
        told = of_edges(at.to(distance), occupied // n_ranges)
        exact = torch.cat([exact, told.double()], dim=-1)
    functions = torch.linalg.solve(torch.linalg.vander(nodes, N=n_powers), exact)
    return order, counts[occupied].tolist(), powers, functions.to(distance)


# With so many powers in ranges of a quarter of a Gaussian's width, rounding is the larger error.
_EDGES_AT_ONCE = 1024
_RANGES_A_WIDTH, _N_POWERS = 4, {torch.float32: 5, torch.float64: 11}
N_HARMONICS = 9


def _harmonics(unit: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 2 of (..., 3) unit vectors: (..., 9)."""
    x, y, z = unit.unbind(dim=-1)
    root = math.sqrt(3)
    second = (root * x * y, root * y * z, root * x * z, root / 2 * (x * x - y * y))
    return torch.stack([torch.ones_like(x), x, y, z, *second, (3 * z * z - 1) / 2], dim=-1)
