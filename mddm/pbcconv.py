"""MDDM's denoiser, EdgeConv layers on the periodic nearest-neighbour graph, and a better one."""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from mddm import arguments
from mddm.condition import N_GLOBALS, Conditioning, take_conditioning
from mddm.geometry import gather_particles, nearest_neighbors
from mddm.layers import Gaussians, Modulation

FIRST = ("globals", "learned")


class PBCConv(nn.Module):
    """One convolution f_i' = max_j h([x_j - x_i] || f_i || f_j - f_i || g).

    h is an MLP with one hidden layer, as in EdgeConv, or a linear map.  Two methods compute the
    same. "message_passing" is the equation as written, a message an edge.  "dense" computes what
    depends on one particle alone once per particle instead of once per edge, and lets gradients
    flow only along the edges that win the maximum.  It needs a fixed number of neighbours, is
    several times faster on a CPU (benchmarks/pbcconv.py) and equal up to rounding.

    Args:
        in_channels: features per particle that come in.
        out_channels: features per particle that go out.
        n_globals: length of the global vector g.
        hidden_channels: width of the hidden layer of h; None makes h linear.
        method: "dense" or "message_passing".
        edge_channels: numbers that describe an edge; the paper's are the 3 of its displacement.

    Raises:
        ValueError: an unknown method.

    Source: MDDM eq. 1; EdgeConv (Wang et al. 2019).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_globals: int,
        hidden_channels: int | None = None,
        method: str = "dense",
        edge_channels: int = 3,
    ):
        super().__init__()
        if method not in ("dense", "message_passing"):
            raise ValueError(f"method must be 'dense' or 'message_passing', got {method!r}")
        self.method = method
        self.sizes = (edge_channels, in_channels, in_channels, n_globals)
        self.linear = nn.Linear(sum(self.sizes), hidden_channels or out_channels)
        self.mix = nn.Linear(hidden_channels, out_channels) if hidden_channels else None

    def forward(
        self, features: Tensor, neighbors: Tensor, edges: Tensor, globals_: Tensor
    ) -> Tensor:
        """Convolve features over the graph.

        Args:
            features: (batch, n_particles, in_channels).
            neighbors: (batch, n_particles, n_neighbors) indices.
            edges: (batch, n_particles, n_neighbors, edge_channels); the minimum-image
                displacements in the paper [length].
            globals_: (batch, n_globals).

        Returns:
            (batch, n_particles, out_channels).
        """
        convolve = self._dense if self.method == "dense" else self._message_passing
        return convolve(features, neighbors, edges, globals_)

    def _message_passing(self, features, neighbors, edges, globals_):
        own = features[:, :, None].expand(*neighbors.shape, -1)
        other = gather_particles(features, neighbors)
        common = globals_[:, None, None].expand(*neighbors.shape, -1)
        return self.message(own, other, edges, common).amax(dim=2)

    def message(self, features_i, features_j, edges, globals_):
        """Compute the message of each edge: h of eq. 1, shape (..., out_channels)."""
        message = self.linear(
            torch.cat([edges, features_i, features_j - features_i, globals_], dim=-1)
        )
        return message if self.mix is None else self.mix(message.relu())

    def _dense(self, features, neighbors, edges, globals_):
        along, own, other, common = self.linear.weight.split(self.sizes, dim=1)
        # Autocast may have lowered the products' precision, but not that of the edges.
        sent, edges = (features @ other.T).to(along.dtype), edges.to(along.dtype)
        kept = features @ (own - other).T
        common = (globals_ @ common.T + self.linear.bias)[:, None]
        if self.mix is None:
            return _StrongestMessage.apply(sent, edges, along, neighbors) + kept + common
        kept, mix = (kept + common).to(along.dtype), self.mix.weight
        strongest = _StrongestMixed.apply(sent, kept, edges, along, mix, neighbors)
        return strongest + self.mix.bias


def _rows(neighbors: Tensor) -> Tensor:
    """Number neighbours through the whole batch."""
    batch, n_particles, _ = neighbors.shape
    first = n_particles * torch.arange(batch, device=neighbors.device)
    return neighbors + first[:, None, None]


class _StrongestMixed(torch.autograd.Function):
    """The largest message by channel: max_j mix relu(kept_i + sent_j + along e_ij).

    Only the number of the winning edge is kept for the gradient, which flows along that edge
    alone: sums of a few rows take the place of products with all edges.
    """

    @staticmethod
    def forward(ctx, sent, kept, edges, along, mix, neighbors):
        senders, edges = _rows(neighbors).flatten(0, 1), edges.flatten(0, 1)
        rows, kept = sent.flatten(0, 1), kept.flatten(0, 1)
        (n, n_neighbors), (channels, width) = senders.shape, mix.shape
        training = any(ctx.needs_input_grad)
        strongest = rows.new_empty(n, channels)
        winner = torch.empty(n, channels, dtype=torch.int16, device=rows.device)
        hidden = rows.new_empty(n if training else 0, n_neighbors, width)
        chunk = max(1, _entries_at_once(rows) // (n_neighbors * channels))
        for start in range(0, n, chunk):
            part = slice(start, start + chunk)
            inner = rows.index_select(0, senders[part].flatten())
            inner = inner.addmm_(edges[part].flatten(0, 1), along.T).view(-1, n_neighbors, width)
            inner = inner.add_(kept[part, None]).relu_()
            messages = (inner.flatten(0, 1) @ mix.T).view(-1, n_neighbors, channels)
            best = messages.amax(dim=1)
            strongest[part] = best
            if training:
                hidden[part] = inner
                # Where a message is the largest, its rank; elsewhere, nearly minus infinity.  An
                # index-returning maximum takes five times as long.
                ranks = torch.arange(n_neighbors, dtype=best.dtype, device=best.device)[:, None]
                winner[part] = ranks.add(messages.sub_(best[:, None]), alpha=1e30).amax(dim=1)
        if training:
            ctx.save_for_backward(hidden, winner, edges, along, mix, senders)
        return strongest.unflatten(0, neighbors.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        hidden, winner, edges, along, mix, senders = ctx.saved_tensors
        (n, n_neighbors, width), channels = hidden.shape, len(mix)
        weight, won = gradient.flatten(0, 1), winner.long()
        edge = won + n_neighbors * torch.arange(n, device=won.device)[:, None]
        to_mix = embedding_bag(
            edge.T, hidden.flatten(0, 1), per_sample_weights=weight.T.contiguous(), mode="sum"
        )
        # The channels that each edge has won, edge by edge.
        order = _sort_rows(winner.int() * channels + torch.arange(channels, device=won.device))
        order = order.remainder_(channels).long()
        count = torch.zeros_like(senders).scatter_add_(1, won, torch.ones_like(won)).flatten()
        to_hidden = embedding_bag(
            order.flatten(),
            mix,
            count.cumsum(0) - count,
            per_sample_weights=weight.gather(1, order).flatten(),
            mode="sum",
        )
        to_sent, to_kept = weight.new_zeros(n, width), weight.new_empty(n, width)
        to_edges = torch.empty_like(edges) if ctx.needs_input_grad[2] else None
        to_along = torch.zeros_like(along)
        chunk = max(1, _entries_at_once(weight) // (n_neighbors * channels))
        for start in range(0, n, chunk):
            part = slice(start, start + chunk)
            inner = to_hidden.view(n, n_neighbors, width)[part] * (hidden[part] > 0)
            to_kept[part] = inner.sum(dim=1)
            inner = inner.flatten(0, 1)
            to_sent.index_add_(0, senders[part].flatten(), inner)
            to_along.addmm_(inner.T, edges[part].flatten(0, 1))
            if to_edges is not None:
                to_edges[part] = (inner @ along).unflatten(0, (-1, n_neighbors))
        systems = gradient.shape[:2]
        to_edges = None if to_edges is None else to_edges.unflatten(0, systems)
        to_sent, to_kept = to_sent.unflatten(0, systems), to_kept.unflatten(0, systems)
        return to_sent, to_kept, to_edges, to_along, to_mix, None


def _sort_rows(keys: Tensor) -> Tensor:
    # NumPy's sort of short rows of integers is forty times as fast as torch's.
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    return torch.from_numpy(np.sort(keys.numpy(), axis=1))


class _StrongestMessage(torch.autograd.Function):
    """The largest of a particle's messages, channel by channel: max_j sent_j + along e_ij.

    Only the number of the winning edge is kept for the gradient, which flows along that edge
    alone.
    """

    @staticmethod
    def forward(ctx, sent, edges, along, neighbors):
        senders = _rows(neighbors).flatten(0, 1)
        strongest, winner = _winning_edges(sent.flatten(0, 1), senders, edges.flatten(0, 1), along)
        ctx.save_for_backward(edges, along, senders, winner)
        return strongest.unflatten(0, neighbors.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        edges, along, senders, winner = ctx.saved_tensors
        shape, rows = gradient.shape, gradient.flatten(0, 1)
        to_sent = to_edges = to_along = None
        if ctx.needs_input_grad[0]:
            won = senders.gather(1, winner.long())
            to_sent = torch.zeros_like(rows).scatter_add_(0, won, rows).view(shape)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            to_edges = torch.empty_like(edges) if ctx.needs_input_grad[1] else None
            to_along = torch.zeros_like(along)
            n_neighbors, channels = edges.shape[2], len(along)
            chunk = max(1, _entries_at_once(rows) // (n_neighbors * channels))
            for start in range(0, len(rows), chunk):
                part = slice(start, start + chunk)
                spread = rows.new_zeros(len(rows[part]), n_neighbors, channels)
                spread.scatter_(1, winner[part].long()[:, None], rows[part][:, None])
                spread = spread.flatten(0, 1)
                to_along.addmm_(spread.T, edges.flatten(0, 1)[part].flatten(0, 1))
                if to_edges is not None:
                    to_edges.flatten(0, 1)[part] = (spread @ along).unflatten(0, (-1, n_neighbors))
        return to_sent, to_edges, to_along, None


def _winning_edges(sent, senders, edges, along):
    """Find, per particle and channel, the largest message and the rank of its edge.

    One neighbour rank at a time, for as many particles as fit into a cache.
    """
    senders, edges = senders.T.contiguous(), edges.transpose(0, 1).contiguous()
    weight = along.T.contiguous()
    strongest = sent.new_empty(senders.shape[1], sent.shape[1])
    ranks = torch.uint8 if len(senders) <= 256 else torch.int16
    winner = torch.zeros(strongest.shape, dtype=ranks, device=sent.device)
    chunk = max(1, _entries_at_once(sent) // sent.shape[1])
    for start in range(0, len(strongest), chunk):
        part = slice(start, start + chunk)
        best, won = strongest[part], winner[part]
        torch.addmm(sent.index_select(0, senders[0, part]), edges[0, part], weight, out=best)
        for rank in range(1, len(senders)):
            message = sent.index_select(0, senders[rank, part]).addmm_(edges[rank, part], weight)
            # Ranks rise, so that the last one to win is the largest.
            torch.maximum(won, (message > best).to(ranks).mul_(rank), out=won)
            torch.maximum(best, message, out=best)
    return strongest, winner


def _entries_at_once(tensor) -> int:
    # A megabyte on a CPU, half a gigabyte on a GPU.
    return 2**18 if tensor.device.type == "cpu" else 2**27


class PBCConvDenoiser(nn.Module):
    """Predict the noise in a configuration from relative positions alone.

    Translating all particles changes nothing, relabelling them relabels the output, and the
    boundary of the box is invisible.  The defaults are the paper preset: 101,891 parameters, as
    the paper says.  Its widths are inferred, not given; the other arguments make the rivals that
    have the same count (`sizes_with`).

    Args:
        channels: features per particle in every layer.
        n_layers: PBCConv layers.
        hidden_channels: width of the hidden layer of h; None makes h linear.
        first: what the first layer knows of a particle: "globals", the vector g that all
            particles share, or "learned", a vector of `channels` parameters.
        head_channels: width of the hidden layer of the head; None makes the head linear.
        n_neighbors: edges per particle; the paper leaves it open.
        conditioning: what it is told, and how; by default the study's conditions.
        method: how each PBCConv is computed, see there.

    Raises:
        ValueError: an unknown `first` or method.

    Source: MDDM section 4.2 and figure 3.
    """

    # What is seen of positions are their displacements.
    relative = True

    def __init__(
        self,
        channels: int = 128,
        n_layers: int = 4,
        hidden_channels: int | None = 64,
        first: str = "globals",
        head_channels: int | None = 128,
        n_neighbors: int = 8,
        conditioning: Conditioning | None = None,
        method: str = "dense",
    ):
        super().__init__()
        if first not in FIRST:
            raise ValueError(f"first must be one of {', '.join(FIRST)}, got {first!r}")
        self.n_neighbors = n_neighbors
        self.conditioning = take_conditioning(conditioning)
        learned = first == "learned"
        self.embedding = nn.Parameter(torch.randn(channels) / 10) if learned else None
        n_globals = self.conditioning.n_globals
        widths = [channels if learned else n_globals] + [channels] * n_layers
        self.layers = nn.ModuleList(
            PBCConv(n_in, n_out, n_globals, hidden_channels, method)
            for n_in, n_out in pairwise(widths)
        )
        for layer in self.layers:
            # Left to the default, three displacements would drown among 260 other inputs.
            nn.init.normal_(layer.linear.weight[:, :3], std=0.5)
            nn.init.uniform_(layer.linear.bias, -1, 1)
        self.head = nn.Linear(channels, 3)
        if head_channels is not None:
            enter = nn.Linear(channels, head_channels)
            self.head = nn.Sequential(enter, nn.ReLU(), nn.Linear(head_channels, 3))

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor,
        condition: Tensor | None,
        box_length: float | None,
    ) -> Tensor:
        """Predict the unit noise.

        Args:
            x_t: (batch, n_particles, 3) noised positions [length].
            sigma: (batch,) noise scales [length].
            condition: of each system, as the network's conditioning takes it: (batch, 3), k, phi
                and temperature, by default.
            box_length: edge of the periodic cube [length], or None for free space.

        Returns:
            (batch, n_particles, 3), the estimate of eps.

        Raises:
            TypeError, ValueError: an argument of another kind or shape, or out of its range.
        """
        weight = self.layers[0].linear.weight
        x_t, sigma, box_length = arguments.network(x_t, sigma, box_length, weight)
        neighbors, displacement = nearest_neighbors(x_t, self.n_neighbors, box_length)
        globals_ = self.conditioning(condition, sigma)
        first = globals_[:, None] if self.embedding is None else self.embedding
        features = first.expand(*x_t.shape[:2], -1)
        for layer in self.layers:
            features = layer(features, neighbors, displacement, globals_).relu()
        return self.head(features)


def sizes_with(
    n_parameters: int, widths: Sequence[int], n_layers: Sequence[int] = range(1, 9)
) -> list[dict]:
    """List every choice of sizes that gives `PBCConvDenoiser` exactly so many parameters.

    Args:
        n_parameters: the count, as a paper may report it.
        widths: what channels and hidden layers are chosen from.
        n_layers: what the number of layers is chosen from.

    Returns:
        The sizes, as keyword arguments of `PBCConvDenoiser`: `n_layers`, `channels`,
        `hidden_channels`, `first`, `head_channels`.
    """
    found = []
    for layers, first, mlp, deep_head in product(n_layers, FIRST, (False, True), (False, True)):
        # No hidden layer is a width of zero.
        hiddens, heads = (widths if with_it else [0] for with_it in (mlp, deep_head))
        channels, hidden, head = np.meshgrid(widths, hiddens, heads, indexing="ij")

        def h(n_features, channels=channels, hidden=hidden):
            n_in = 3 + 2 * n_features + N_GLOBALS
            through = _linear(n_in, hidden) + _linear(hidden, channels)
            return np.where(hidden > 0, through, _linear(n_in, channels))

        through = _linear(channels, head) + _linear(head, 3)
        count = np.where(head > 0, through, _linear(channels, 3)) + (layers - 1) * h(channels)
        count += h(N_GLOBALS) if first == "globals" else h(channels) + channels
        chosen = count == n_parameters
        for width, inner, last in zip(channels[chosen], hidden[chosen], head[chosen], strict=True):
            sizes = {"n_layers": layers, "channels": int(width)}
            sizes |= {"hidden_channels": int(inner) or None, "first": first}
            found.append(sizes | {"head_channels": int(last) or None})
    return found


def _linear(n_in, n_out):
    return n_in * n_out + n_out


class RadialDenoiser(nn.Module):
    """The same family, told what matters: how far each neighbour is, and in which direction.

    "Is this neighbour at the right distance?" is the question that a structure is made of.  Here
    an edge carries its distance, spread over Gaussians, and its unit vector; h is linear, an MLP
    completes each convolution, and its result is added to the features.  What a distance means
    depends on the noise level, so that level and condition also scale and shift the features in
    every layer.

    Args:
        channels: features per particle in every layer.
        n_layers: convolutions.
        n_neighbors: edges per particle.
        n_radial: Gaussians, evenly spaced between 0 and `r_max`.
        r_max: centre of the last Gaussian [length].
        modulated: whether level and condition scale and shift the features; without it they
            are only part of the messages, as in the paper.
        conditioning: what it is told, and how; by default the study's conditions.

    Source: this study (benchmarks/preset.py); the radial basis is that of SchNet (Schütt et al.
    2017), the modulation FiLM (Perez et al. 2018).
    """

    # What is seen of positions are their displacements.
    relative = True

    def __init__(
        self,
        channels: int = 96,
        n_layers: int = 4,
        n_neighbors: int = 16,
        n_radial: int = 20,
        r_max: float = 2.2,
        modulated: bool = True,
        conditioning: Conditioning | None = None,
    ):
        super().__init__()
        self.n_neighbors = n_neighbors
        self.conditioning = take_conditioning(conditioning)
        self.radial = Gaussians(0.0, r_max, n_radial)
        self.embedding = nn.Parameter(torch.randn(channels) / 10)
        n_globals, n_features = self.conditioning.n_globals, self.conditioning.n_features
        self.modulation = Modulation(n_features, channels, n_layers) if modulated else None
        self.convolutions = nn.ModuleList(
            PBCConv(channels, channels, n_globals, edge_channels=n_radial + 3)
            for _ in range(n_layers)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
            for _ in range(n_layers)
        )
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 3))

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor,
        condition: Tensor | None,
        box_length: float | None,
    ) -> Tensor:
        """Predict the unit noise; arguments and result are those of `PBCConvDenoiser.forward`."""
        x_t, sigma, box_length = arguments.network(x_t, sigma, box_length, self.embedding)
        neighbors, displacement = nearest_neighbors(x_t, self.n_neighbors, box_length)
        distance = displacement.norm(dim=-1, keepdim=True)
        edges = torch.cat([self.radial(distance), displacement / distance.clamp(min=1e-6)], dim=-1)
        globals_ = self.conditioning(condition, sigma)
        told = self.conditioning.spread(globals_)
        changes = self.modulation(told) if self.modulation else None
        features = self.embedding.expand(*x_t.shape[:2], -1)
        for layer, (convolution, mlp) in enumerate(zip(self.convolutions, self.mlps, strict=True)):
            strongest = convolution(features, neighbors, edges, globals_)
            if changes is not None:
                scale, shift = changes[0][layer], changes[1][layer]
                strongest = strongest * scale + shift
            features = features + mlp(strongest.relu())
        return self.head(features)
