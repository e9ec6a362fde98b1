"""A trained network as ONNX, for programs that have no PyTorch: the page that samples is one.

What is left to such a program is what is not learned.  Of MDDM's network these are the neighbours,
and the vector g of `condition.Conditioning`; of `bragg.BraggDenoiser` also the strongest waves and
the ways to the sites.
"""

import math

import numpy as np
import torch
from torch import nn

from mddm import arguments, optional
from mddm.bragg import BraggDenoiser
from mddm.condition import Conditioning
from mddm.edges import N_HARMONICS
from mddm.encoding import CAPS, ENERGIES, FORCES, SHARPEST, SIZE, PotentialConditioning
from mddm.onnx_graph import Graph
from mddm.pbcconv import PBCConv, PBCConvDenoiser
from mddm.wave_fields import LOG_S_MAX, WaveFields
from mddm.waves import STRAY


def to_onnx(denoiser: PBCConvDenoiser | BraggDenoiser) -> bytes:
    """Write graph and weights of a network as an ONNX model.

    Its inputs are one configuration of any number of particles: `neighbors`, (n_particles,
    n_neighbors) int64, and `displacements`, (n_particles, n_neighbors, 3) [length], as
    `geometry.nearest_neighbors` finds them.  Its output is `eps`, (n_particles, 3).  All but the
    indices is float32.

    MDDM's network is told `globals`, (1, n_globals), as its `conditioning` makes them.

    A `BraggDenoiser` is told `sigma`, (1, 1) [length], and `condition`, (1, 303), as
    `encoding.encode` makes it; or `globals`, where its condition is numbers.  It takes `positions`,
    (n_particles, 3) [length]; of the waves that `waves.strongest_waves` finds, the long ones with
    them, `vectors`, (n_waves, 3) [1 / length], `strength`, (n_waves, 1), and `phase`, (1, n_waves)
    [rad]; and what `waves.assign` makes of their sites: `way`, (n_particles, 3) [length],
    `certainty`, (n_particles, 1), and `found`, (1, 1), 1 where there are sites and else 0.

    Args:
        denoiser: the network; on a CPU or not.

    Returns:
        The content of an `.onnx` file.

    Raises:
        TypeError: another network.
        ValueError: a `BraggDenoiser` that sees no waves or no sites.
        ModuleNotFoundError: the package onnx is not installed.
    """
    arguments.instance("denoiser", denoiser, (PBCConvDenoiser, BraggDenoiser))
    with optional.packages():
        import onnx

    graph = Graph(onnx)
    edges = ("n_particles", denoiser.n_neighbors)
    graph.take("neighbors", edges, onnx.TensorProto.INT64)
    graph.take("displacements", (*edges, 3))
    build = _mddm if isinstance(denoiser, PBCConvDenoiser) else _bragg
    build(graph, denoiser)
    return graph.model("eps", ("n_particles", 3)).SerializeToString()


# ---- MDDM's network ------------------------------------------------------------


def _mddm(graph: Graph, denoiser: PBCConvDenoiser) -> None:
    graph.take("globals", (1, denoiser.conditioning.n_globals))
    shared = denoiser.embedding
    features = "globals" if shared is None else graph.constant(shared[None])
    for number, layer in enumerate(denoiser.layers):
        # What the first layer knows of a particle, it knows of all.
        features = graph.add("Relu", _convolve(graph, layer, features, alike=number == 0))
    if isinstance(denoiser.head, nn.Linear):
        graph.linear(features, denoiser.head, "eps")
    else:
        *enter, leave = denoiser.head
        graph.linear(graph.sequence(features, enter), leave, "eps")


def _convolve(graph: Graph, layer: PBCConv, features: str, alike: bool) -> str:
    """Add a convolution, computed as `PBCConv._dense` does."""
    along, own, other, common = layer.linear.weight.split(layer.sizes, dim=1)
    sent, kept = graph.times(features, other), graph.times(features, own - other)
    told = graph.add("Add", graph.times("globals", common), layer.linear.bias)
    kept = graph.add("Add", kept, told)
    if not alike:
        sent = graph.add("Gather", sent, "neighbors")
    message = graph.add("Add", graph.times("displacements", along), sent)
    if layer.mix is None:
        return graph.add("Add", _strongest(graph, message), kept)
    message = graph.add("Relu", graph.add("Add", message, graph.axis(kept, 1)))
    message = graph.times(message, layer.mix.weight)
    return graph.add("Add", _strongest(graph, message), layer.mix.bias)


def _strongest(graph: Graph, message: str) -> str:
    return graph.add("ReduceMax", message, axes=[1], keepdims=0)


# ---- the network that sees waves and sites -------------------------------------


def _bragg(graph: Graph, denoiser: BraggDenoiser) -> None:
    if not denoiser.sites:
        raise ValueError("denoiser must see waves and sites: n_fields above 0, and sites=True")
    graph.take("positions", ("n_particles", 3))
    graph.take("sigma", (1, 1))
    of_potential = isinstance(denoiser.conditioning, PotentialConditioning)
    told = (_Potential if of_potential else _Numbers)(graph, denoiser.conditioning)
    distance = graph.add("ReduceL2", "displacements", axes=[-1])
    functions = graph.join(graph.gaussians(distance, denoiser.radial), *told.edges(distance))
    terms = _terms(graph, functions, distance)
    seen, pull = _look_around(graph, denoiser.fields, told)
    features = graph.add("Add", graph.linear(seen, denoiser.enter), denoiser.embedding)
    modulation = denoiser.modulation
    changes = graph.linear(graph.sequence(told.heard, modulation.embed), modulation.change)
    n_layers, _, channels = modulation.shape
    changes = graph.split(changes, [channels] * 2 * n_layers)
    for layer, scale, shift in zip(denoiser.layers, changes[::2], changes[1::2], strict=True):
        sent = graph.add("Gather", graph.linear(features, layer.send), "neighbors")
        message = graph.add("Mul", sent, _filter(graph, terms, layer.filter, denoiser.n_neighbors))
        collected = graph.add("ReduceSum", message, np.array([1]), keepdims=0)
        both = graph.norm(graph.join(collected, features), layer.norm)
        both = graph.add("Mul", both, graph.add("Add", scale, 1.0))
        change = graph.sequence(graph.add("Add", both, shift), layer.mlp)
        features = graph.add("Add", features, change)
    leave = graph.sequence(graph.join(features, seen), denoiser.head)
    noise, trust = graph.split(leave, [3, 1])
    graph.add("Sub", noise, graph.add("Mul", trust, pull), output="eps")


class _Numbers:
    """What is told where the condition is numbers, as `condition.Conditioning` does."""

    def __init__(self, graph: Graph, conditioning: Conditioning):
        self.graph, self.conditioning = graph, conditioning
        graph.take("globals", (1, conditioning.n_globals))
        numbers, fraction = graph.split("globals", [conditioning.n_numbers, 1])
        self.heard = graph.join(numbers, graph.gaussians(fraction, conditioning.levels))

    def edges(self, distance: str) -> list[str]:
        return []

    def waves(self, length: str) -> list[str]:
        return []


class _Potential:
    """What is told where it is a potential, as `encoding.PotentialConditioning` does."""

    def __init__(self, graph: Graph, conditioning: PotentialConditioning):
        self.graph, self.conditioning = graph, conditioning
        condition, n = graph.take("condition", (1, SIZE)), len(conditioning.r)
        temperature, others, energy, force = graph.split(condition, [1, SIZE - 2 * n - 1, n, n])
        warmth = self._place(temperature, *conditioning.ranges["temperature"])
        warmth = graph.add("Sub", graph.add("Mul", warmth, 2.0), 1.0)
        whole = graph.add("Gather", energy, torch.arange(n)[conditioning.whole], axis=1)
        whole = graph.add("Tanh", graph.add("Div", whole, CAPS[0]))
        fraction = self._place("sigma", conditioning.sigma_min, conditioning.sigma_max)
        levels = graph.gaussians(fraction, conditioning.levels)
        self.heard = graph.join(warmth, others, whole, levels)
        self.energy, self.force = graph.turn(energy, 1, 0), graph.turn(force, 1, 0)

    def _place(self, value: str, low: float, high: float) -> str:
        """Where a value lies between two others, in logarithms: from 0 to 1."""
        logarithm = self.graph.add("Log", self.graph.add("Div", value, low))
        return self.graph.add("Div", logarithm, math.log(high / low))

    def edges(self, distance: str) -> list[str]:
        """Add energies and forces at distances, averaged over the noise."""
        graph, r = self.graph, self.conditioning.r
        step = r[0].item()
        squashed = [
            graph.add("Div", self.energy, [ENERGIES]),
            graph.add("Div", self.force, [FORCES]),
        ]
        known = graph.add("Mul", graph.add("Tanh", graph.join(*squashed)), r[:, None])
        spread = graph.add("Add", graph.add("Mul", "sigma", "sigma"), SHARPEST**2 / 2)
        near = graph.add("Max", distance, step)
        here, image = (
            graph.bell(graph.add(operator, near, r), graph.add("Div", -0.25, spread), -40.0)
            for operator in ("Sub", "Add")
        )
        averaged = graph.add("MatMul", graph.add("Sub", here, image), known)
        width = graph.add("Mul", near, graph.add("Sqrt", spread))
        return [graph.add("Mul", averaged, graph.add("Div", step / (4 * math.pi) ** 0.5, width))]

    def waves(self, length: str) -> list[str]:
        """Add what the potential contributes to the energy of waves."""
        graph, r = self.graph, self.conditioning.r
        capped = graph.add("Mul", graph.add("Tanh", graph.add("Div", self.energy, [CAPS])), [CAPS])
        phase = graph.add("Mul", length, r)
        sinc = graph.add("Div", graph.add("Sin", phase), phase)
        kernel = graph.add("Mul", sinc, 4 * math.pi * r[0] * r.square())
        return [graph.add("Asinh", graph.add("MatMul", kernel, capped))]


# Those harmonics of `bragg` that are no component of the vector: of the products of two components,
# xx, xy, xz, yx and so on, so much; and so much always.
_ROOT = math.sqrt(3)
_PRODUCTS = np.zeros((9, 6))
_PRODUCTS[[1, 5, 2], [1, 2, 3]] = _ROOT
_PRODUCTS[[0, 4], 4] = _ROOT / 2, -_ROOT / 2
_PRODUCTS[8, 5] = 1.5
_ALWAYS = np.array([1, 0, 0, 0, 0, -0.5])
_ORDER = [0, 4, 5, 6, 7, 8, 1, 2, 3]


def _terms(graph: Graph, functions: str, distance: str) -> str:
    """Add all products of a function of the distance and a harmonic of the direction."""
    unit = graph.add("Div", "displacements", graph.add("Max", distance, 1e-6))
    products = graph.add("Mul", graph.axis(unit, -1), graph.axis(unit, -2))
    products = graph.reshape(products, 0, 0, -1)
    others = graph.add("Add", graph.add("MatMul", products, _PRODUCTS), _ALWAYS)
    harmonics = graph.axis(graph.join(others, unit), -2)
    return graph.reshape(graph.add("Mul", graph.axis(functions, -1), harmonics), 0, 0, -1)


def _filter(graph: Graph, terms: str, layer: nn.Linear, n_neighbors: int) -> str:
    weight = layer.weight.unflatten(1, (-1, N_HARMONICS))[..., _ORDER].flatten(1)
    product = graph.times(terms, weight / n_neighbors**0.5)
    return graph.add("Add", product, layer.bias / n_neighbors**0.5)


def _look_around(graph: Graph, fields: WaveFields, told) -> tuple[str, str]:
    """Add what is told of waves and sites, and the noise that its site would explain."""
    values = _fields(graph, fields, told)
    way = graph.take("way", ("n_particles", 3))
    certainty = graph.take("certainty", ("n_particles", 1))
    found = graph.take("found", (1, 1))
    spread = graph.add("Add", graph.add("Mul", "sigma", "sigma"), STRAY**2)
    pull = graph.add("Mul", way, graph.add("Div", "sigma", spread))
    square = graph.add("ReduceMean", graph.add("Mul", way, way), axes=[0, 1])
    shape = graph.add("Shape", certainty)
    misfit, found = (
        graph.add("Expand", value, shape) for value in (graph.add("Div", square, spread), found)
    )
    return graph.join(values, pull, way, certainty, misfit, found), pull


def _fields(graph: Graph, fields: WaveFields, told) -> str:
    """Add the fields of the waves, as `WaveFields.forward` computes them."""
    vectors = graph.take("vectors", ("n_waves", 3))
    strength, phase = graph.take("strength", ("n_waves", 1)), graph.take("phase", (1, "n_waves"))
    length = graph.add("ReduceL2", vectors, axes=[-1])
    unit = graph.add("Div", vectors, length)
    logarithm = graph.add("Log", graph.add("Add", strength, 1.0))
    seen = graph.gaussians(graph.add("Div", logarithm, LOG_S_MAX), fields.strength)
    # Invariant to permuting the axes.
    sides, _ = graph.add_several(
        "TopK", graph.add("Abs", unit), np.array([3]), names=["", ""], largest=0
    )
    axes = graph.reshape(graph.gaussians(graph.axis(sides, -1), fields.axes), 0, -1)
    features = graph.join(graph.gaussians(length, fields.length), seen, axes, *told.waves(length))
    enter, n_heard, n_wave = fields.enter[0], told.conditioning.n_features, told.conditioning.n_wave
    own, common, other = enter.weight.split(
        [enter.in_features - n_heard - n_wave, n_heard, n_wave], dim=1
    )
    features = graph.times(features, torch.cat([own, other], dim=1))
    heard = graph.add("Add", graph.times(told.heard, common), enter.bias)
    features = graph.silu(graph.add("Add", features, heard))
    cosines = graph.add("Abs", graph.add("MatMul", unit, graph.turn(unit, 1, 0)))
    angles = graph.gaussians(graph.axis(cosines, -1), fields.angles)
    for layer in fields.layers:
        features = _attend(graph, layer, features, angles)
    size = graph.add("Cast", graph.add("Shape", "positions", end=1), to=1)
    amplitude = graph.add("Sqrt", graph.add("Div", strength, size))
    weights = graph.add("Mul", graph.sequence(features, fields.weigh), amplitude)
    along = graph.add("Mul", graph.axis(weights, -1), graph.axis(unit, -2))
    along = graph.reshape(along, 0, -1)
    angle = graph.add("MatMul", "positions", graph.turn(vectors, 1, 0))
    angle = graph.add("Sub", angle, phase)
    cosine, sine = graph.add("Cos", angle), graph.add("Sin", angle)
    return graph.join(graph.add("MatMul", cosine, weights), graph.add("MatMul", sine, along))


def _attend(graph: Graph, layer: nn.Module, waves: str, angles: str) -> str:
    """Add a layer of attention among the waves."""
    bias = graph.turn(graph.linear(angles, layer.bias), 2, 0, 1)
    projected = graph.linear(graph.norm(waves, layer.norms[0]), layer.project)
    parts = [
        graph.reshape(part, 0, layer.n_heads, -1)
        for part in graph.split(projected, [layer.out.in_features] * 3)
    ]
    orders = ((1, 0, 2), (1, 2, 0), (1, 0, 2))
    query, key, value = (
        graph.turn(part, *order) for part, order in zip(parts, orders, strict=True)
    )
    scale = (layer.out.in_features / layer.n_heads) ** -0.5
    heed = graph.add("Mul", graph.add("MatMul", query, key), scale)
    heed = graph.add("Softmax", graph.add("Add", heed, bias), axis=-1)
    heard = graph.turn(graph.add("MatMul", heed, value), 1, 0, 2)
    waves = graph.add("Add", waves, graph.linear(graph.reshape(heard, 0, -1), layer.out))
    change = graph.sequence(graph.norm(waves, layer.norms[1]), layer.mlp)
    return graph.add("Add", waves, change)
