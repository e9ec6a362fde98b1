"""The edges of a neighbour graph, and sums over them of what neighbours send, filtered."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mddm.layers import Gaussians


class Edges:
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
        self.batch, n_particles, self.n_neighbors = neighbors.shape
        displacement = displacement.flatten(0, 2)
        distance = displacement.norm(dim=-1)
        device = displacement.device.type
        ranges = _narrow_ranges if device == "cpu" else _one_range
        self.whole = ranges is _one_range
        # On a CPU so small products in half precision would take longer than in single.
        lowered = self.whole and torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device) if lowered else displacement.dtype
        order, counts, powers, self.functions = ranges(distance, radial, self.batch, of_edges)
        first = (n_senders or n_particles) * torch.arange(self.batch, device=neighbors.device)
        # A processor looks up by indices of 32 bits in two thirds of the time.
        self.senders = (neighbors + first[:, None, None]).flatten()[order].int()
        self.receivers = order.int() // self.n_neighbors
        place = torch.arange(len(order), dtype=torch.int32, device=order.device)
        self.of_receiver = torch.empty_like(place).scatter_(0, order, place)
        self.of_receiver = self.of_receiver.view(-1, self.n_neighbors)
        unit = displacement.index_select(0, order).T / distance[order].clamp(min=1e-6)
        # The long side last: a third of the time.
        self.terms = (powers[:, None] * harmonics(unit)).flatten(0, 1).to(self.dtype)
        self.at_once = len(order) if self.whole else _EDGES_AT_ONCE
        self.sizes, self.ranges = zip(
            *(
                (min(self.at_once, count - start), range_)
                for range_, count in enumerate(counts)
                for start in range(0, count, self.at_once)
            ),
            strict=True,
        )

    def cut(self, of_edges: Tensor, dim: int = 0) -> Sequence[Tensor]:
        """Cut what there is of edges into pieces that are of one range each."""
        return of_edges.split(self.sizes, dim)

    def maps_of_pieces(self, maps: Tensor) -> list[Tensor]:
        """Give each piece the map of its range."""
        of_ranges = maps.unbind()
        return [of_ranges[range_] for range_ in self.ranges]

    @torch.compiler.disable
    def collect(self, sent: Tensor, filter_: nn.Linear) -> Tensor:
        """Sum what the neighbours send, each multiplied by a filter of the edge."""
        with torch.autocast(sent.device.type, enabled=False):
            return self._collect(sent, filter_)

    def _collect(self, sent, filter_):
        channels = len(filter_.weight)
        weight = filter_.weight.view(channels, -1, N_HARMONICS).permute(1, 2, 0).flatten(1)
        # The last function is 1, and the first harmonic: the bias belongs to them.
        bias = functional.pad(filter_.bias, (0, weight.shape[1] - channels))
        maps = self.functions.flatten(0, 1) @ torch.cat([weight, bias[None]])
        maps = maps.view(len(self.functions), -1, channels)
        told = sent.flatten(0, 1).to(self.dtype), maps.to(self.dtype), self.terms
        total = _Collected.apply(*told, self).to(filter_.weight)
        return total.view(len(sent), -1, channels) / self.n_neighbors**0.5


# The number of ranges depends on the positions, which is not for a compiler.
sort_edges = torch.compiler.disable(Edges)


class _Collected(torch.autograd.Function):
    """Sums of filtered features; filters are computed twice, and only of a few edges at once."""

    @staticmethod
    def forward(ctx, sent, maps, terms, edges):
        ctx.save_for_backward(sent, maps, terms)
        ctx.edges = edges
        messages = sent.new_empty(len(edges.senders), sent.shape[1])
        pieces = edges.cut(messages), edges.cut(terms, 1), edges.maps_of_pieces(maps)
        for some, told, map_ in zip(*pieces, strict=True):
            torch.mm(told.T, map_, out=some)
        # What is written has to be still at hand when it is read.
        for some, senders in zip(
            messages.split(edges.at_once), edges.senders.split(edges.at_once), strict=True
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
        pieces = (
            edges.cut(to_messages),
            edges.cut(edges.senders),
            edges.cut(terms, 1),
            edges.maps_of_pieces(maps),
            edges.maps_of_pieces(to_maps),
            [None] * len(edges.sizes) if to_terms is None else edges.cut(to_terms, 1),
        )
        for some, senders, told, map_, to_map, to_told in zip(*pieces, strict=True):
            to_filters = sent.index_select(0, senders).mul_(some)
            if edges.whole:
                # In one, so long a sum might be for few of a GPU's processors.
                of_systems = told.unflatten(1, (edges.batch, -1)).transpose(0, 1)
                to_map += (of_systems @ to_filters.unflatten(0, (edges.batch, -1))).sum(dim=0)
            else:
                to_map.addmm_(told, to_filters)
            if to_told is not None:
                to_told.copy_(map_ @ to_filters.T)
            some.mul_(told.T @ map_)
        # A quarter of the time of index_add_.
        place = edges.senders.long()[:, None].expand_as(to_messages)
        to_sent = edges.functions.new_zeros(sent.shape)
        to_sent.scatter_add_(0, place, to_messages.to(to_sent.dtype))
        return to_sent.to(sent.dtype), to_maps, to_terms, None


def _one_range(distance, radial, batch, of_edges):
    """The same as `_narrow_ranges` with 1 and all functions for powers, in the order given."""
    functions = [radial(distance[:, None])]
    if of_edges is not None:
        told = of_edges(distance.view(batch, -1), torch.arange(batch, device=distance.device))
        functions.append(told.flatten(0, 1))
    powers = torch.cat([*functions, torch.ones_like(distance)[:, None]], dim=1).T
    order = torch.arange(len(distance), device=distance.device)
    return order, [len(distance)], powers, powers.new_ones(len(powers)).diag()[None]


def _narrow_ranges(distance, radial, batch, of_edges):
    """Sort distances by range, and by system where these have functions of their own.

    Returns:
        order: (n,) the sort.
        counts: how many there are in each range that is not empty.
        powers: (n_powers, n) of the sorted distances, each from -1 to 1 in its range.
        functions: (n_ranges, n_powers, n_functions + 1), what makes of the powers the Gaussians,
            then what the condition tells, and 1.
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
    powers = torch.stack([within**power for power in range(n_powers)])
    nodes = torch.cos(torch.pi * (torch.arange(n_powers, dtype=torch.float64) + 0.5) / n_powers)
    at = (occupied[:, None] % n_ranges + (nodes + 1) / 2) * width
    exact = [torch.exp(-(((at[..., None] - radial.centers.double()) / radial.width) ** 2))]
    if of_edges is not None:
        exact.append(of_edges(at.to(distance), occupied // n_ranges).double())
    exact.append(torch.ones_like(at)[..., None])
    functions = torch.linalg.inv(torch.linalg.vander(nodes, N=n_powers)) @ torch.cat(exact, dim=-1)
    return order, counts[occupied].tolist(), powers, functions.to(distance)


# With so many powers in ranges of a sixth of a Gaussian's width, errors are a few times rounding's.
_EDGES_AT_ONCE = 1024
_RANGES_A_WIDTH, _N_POWERS = 6, {torch.float32: 4, torch.float64: 11}
N_HARMONICS = 9


def harmonics(unit: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 2 of (3, ...) unit vectors: (9, ...)."""
    x, y, z = unit
    root = math.sqrt(3)
    second = (root * x * y, root * y * z, root * x * z, root / 2 * (x * x - y * y))
    return torch.stack([torch.ones_like(x), x, y, z, *second, (3 * z * z - 1) / 2])
