"""The edges of a neighbour graph, and sums over them of what neighbours send, filtered."""

import math
from collections.abc import Callable
from itertools import accumulate, pairwise

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
        self.terms = (powers[:, :, None] * harmonics(unit)[:, None]).flatten(1)
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
sort_edges = torch.compiler.disable(Edges)


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


def harmonics(unit: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 2 of (..., 3) unit vectors: (..., 9)."""
    x, y, z = unit.unbind(dim=-1)
    root = math.sqrt(3)
    second = (root * x * y, root * y * z, root * x * z, root / 2 * (x * x - y * y))
    return torch.stack([torch.ones_like(x), x, y, z, *second, (3 * z * z - 1) / 2], dim=-1)
