"""Neighbour lists and pair forces of a batch of systems, in plain PyTorch or in Triton.

Positions are laid out (batch, 3, n_particles) here, so that one coordinate of a system is
contiguous in memory: the gathers of the pair forces then touch few cache lines.
"""

import functools
import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mddm import arguments, kernels
from mddm.geometry import minimum_image, wrap
from mddm.potential import OscillatingPair, Smoothed

# A list is given room for this much more than its longest row, in steps of so many entries.
_ROOM = 1.15
_WIDTH_STEP = 32
# On a GPU without Triton the distance matrix of one pass is kept below this many entries.
_MATRIX_ENTRIES = 2**27


class Pairs:
    """Every system's neighbour list with a skin, and sums over the pairs that it lists.

    Args:
        potential: a smoothed pair potential whose parameters broadcast against
            (batch, n_particles, n_neighbors).
        box_length: edge of the periodic cube [length].
        skin: width of the shell beyond the cut-off that is listed too [length].
        compile: whether PyTorch is to compile what it runs.

    Raises:
        TypeError: another potential, or no numbers.
        ValueError: the lists would reach half the box edge, where minimum images are ambiguous.
    """

    def __init__(self, potential: Smoothed, box_length: float, skin: float, compile: bool):
        arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
        box_length = arguments.box(box_length)
        skin = arguments.number("skin", skin, above=0)
        if not 2 * (potential.r_cut + skin) < box_length:
            raise ValueError(
                "cut-off and skin together must be below half the box edge: "
                f"got skin={skin}, r_cut={potential.r_cut}, box_length={box_length}"
            )
        self.potential, self.box_length, self.skin = potential, box_length, skin
        self.reach = potential.r_cut + skin
        self.compile, self.width = compile, _WIDTH_STEP

    def rebuild(self, x: Tensor, least_width: int = 0) -> None:
        """List all pairs anew, with room for rows to grow.

        Args:
            x: (batch, 3, n_particles) in [0, box_length) [length].
            least_width: length of the longest row that must find room.
        """
        batch, _, n_particles = x.shape
        self.reference = x.new_empty(x.shape)
        # A float may become a constant of a compiled program, a tensor never does.
        self.edge = x.new_tensor(self.box_length) if self.compile else self.box_length
        wanted = self.width
        while True:
            self.width = wanted
            self._allocate(batch, n_particles, x.device)
            self.longest = torch.zeros(batch, dtype=torch.int32, device=x.device)
            self.refresh(x, x.new_full((batch,), math.inf))
            # A function of the positions alone, so that a run that is resumed sums alike.
            needed = max(least_width, int(self.longest.max()), 1)
            wanted = _WIDTH_STEP * math.ceil(_ROOM * needed / _WIDTH_STEP)
            if wanted == self.width:
                return

    @property
    def overflow(self) -> int:
        """The room that the longest row since `rebuild` wants, 0 if it had that."""
        longest = int(self.longest.max())
        # Forces without the pairs that found no room lead astray; never believe more than half.
        return min(longest, self.width * 3 // 2) if longest > self.width else 0


class TorchPairs(Pairs):
    """Plain tensor operations, for any potential, device and precision."""

    def _allocate(self, batch: int, n_particles: int, device: torch.device) -> None:
        self.neighbors = torch.empty(
            batch, n_particles, self.width, dtype=torch.int64, device=device
        )
        self.own = torch.arange(n_particles, device=device)[:, None]

    def refresh(self, x: Tensor, moved2: Tensor) -> None:
        """List the pairs of those systems anew whose particles have crossed half the skin.

        Args:
            x: (batch, 3, n_particles) in [0, box_length) [length].
            moved2: (batch,) the largest squared displacement from `reference`.
        """
        systems = (moved2 > (self.skin / 2) ** 2).nonzero().flatten()
        if not len(systems):
            return
        chunk = 1 if x.device.type == "cpu" else max(1, _MATRIX_ENTRIES // x.shape[-1] ** 2)
        for some in systems.split(chunk):
            find = _pairs_by_tree if x.device.type == "cpu" else _pairs_by_matrix
            rows, columns = find(x[some], self.reach, self.box_length)
            shape = (len(some), *self.neighbors.shape[1:])
            counts = torch.bincount(rows, minlength=shape[0] * shape[1])
            place = torch.arange(len(rows), device=x.device) - (counts.cumsum(0) - counts)[rows]
            fits = place < self.width
            # A particle that stands in for a neighbour itself is at no distance, and no force.
            table = self.own.expand(shape).flatten(0, 1).clone()
            table[rows[fits], place[fits]] = columns[fits]
            self.neighbors[some] = table.view(shape)
            longest = counts.view(shape[:2]).amax(1).int()
            self.longest[some] = torch.maximum(self.longest[some], longest)
            self.reference[some] = x[some]

    def sums(self, x: Tensor, measure: bool = False) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Sum over all pairs.

        Args:
            x: (batch, 3, n_particles) in [0, box_length) [length].
            measure: whether energy and virial are asked for.

        Returns:
            forces: (batch, 3, n_particles) [energy / length].
            energy: (batch,) float64 potential energy of each system, or None.
            virial: (batch,) float64 sum of r times the force over its pairs [energy], or None.
        """
        function = compiled(_pair_sums) if self.compile else _pair_sums
        forces, energy, virial = function(
            x, self.neighbors, self.own, self.potential, self.edge, measure
        )
        if measure:
            return forces, energy.double().sum(1), virial.double().sum(1)
        return forces, None, None


class TritonPairs(Pairs):
    """Kernels for the oscillating pair potential in single precision, all on the GPU.

    Raises:
        ImportError: Triton is not installed.
        TypeError: another potential.
    """

    # Particles of one program of the lists; neighbours by particles of one of the forces.
    list_tile = 128
    force_tile = (16, 8)

    def __init__(self, potential: Smoothed, box_length: float, skin: float, compile: bool):
        super().__init__(potential, box_length, skin, compile)
        if kernels.triton is None:
            raise ImportError("Triton cannot be imported: install it, or pass engine='torch'")
        pair = potential.potential
        if not isinstance(pair, OscillatingPair):
            raise TypeError(
                f"the kernels know OscillatingPair alone, got {type(pair).__name__}: pass "
                "engine='torch'"
            )
        self._k, self._phi = (
            (value.flatten() / (2 * math.pi)).float().contiguous() for value in (pair.k, pair.phi)
        )

    def _allocate(self, batch: int, n_particles: int, device: torch.device) -> None:
        kind = torch.int16 if n_particles < 2**15 else torch.int32
        self.neighbors = torch.empty(batch, n_particles, self.width, dtype=kind, device=device)
        self.counts = torch.empty(batch, n_particles, dtype=torch.int32, device=device)

    def refresh(self, x: Tensor, moved2: Tensor) -> None:
        """As `TorchPairs.refresh`; the host neither waits nor learns of it."""
        batch, _, n_particles = x.shape
        # The kernels count on this layout, and torch.compile may pad what it returns.
        x = x.contiguous()
        kernels.list_pairs[(-(-n_particles // self.list_tile), batch)](
            x, self.reference, moved2, self.neighbors, self.counts, self.longest, self.width,
            self.box_length, 1 / self.box_length, self.reach**2, (self.skin / 2) ** 2,
            n=n_particles, ROWS=self.list_tile,
        )  # fmt: skip

    def sums(self, x: Tensor, measure: bool = False) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `TorchPairs.sums`."""
        batch, _, n_particles = x.shape
        columns, rows = self.force_tile
        x = x.contiguous()
        forces = torch.empty_like(x)
        energy, virial = x.new_empty(2, batch, n_particles) if measure else (x, x)
        kernels.sum_pairs[(-(-n_particles // rows), batch)](
            x, self.neighbors, self.counts, self._k, self._phi, forces, energy, virial,
            self.width, self.box_length, 1 / self.box_length,
            n=n_particles, R_CORE=self.potential.r_core, R_ON=self.potential.r_on,
            R_CUT=self.potential.r_cut, MEASURE=measure, ROWS=rows, COLUMNS=columns,
        )  # fmt: skip
        if measure:
            return forces, energy.double().sum(1), virial.double().sum(1)
        return forces, None, None


def make_pairs(
    conditions: Tensor,
    box_length: float,
    device: torch.device | str,
    dtype: torch.dtype,
    skin: float = 0.4,
    engine: str = "auto",
    compile: bool | None = None,
) -> Pairs:
    """Choose an engine for a batch of oscillating pair potentials, smoothed as usual.

    Args:
        conditions: (batch, 3), k [1 / length] and phi [rad]; the temperature plays no part.
        box_length: edge of the periodic cube [length].
        device: where the positions will be.
        dtype: their precision.
        skin: width of the shell beyond the cut-off that is listed too [length].
        engine: "triton" for a GPU and float32, "torch" for anything, "auto" for the faster.
        compile: whether PyTorch is to compile what it runs; by default on a GPU only.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.
        ImportError: Triton is asked for and not installed.
    """
    conditions, device = arguments.conditions(conditions, n_numbers=3), arguments.device(device)
    arguments.instance("dtype", dtype, torch.dtype)
    engine = arguments.choice("engine", engine, ("auto", "torch", "triton"))
    on_gpu = device.type == "cuda"
    if engine == "auto":
        fast = on_gpu and dtype == torch.float32 and kernels.triton is not None
        engine = "triton" if fast else "torch"
    if engine == "triton" and dtype != torch.float32:
        raise ValueError(f"engine 'triton' computes in float32, got {dtype}: pass engine='torch'")
    k, phi, _ = conditions.detach().to(device, dtype)[:, :, None, None].unbind(1)
    potential = Smoothed(OscillatingPair(k, phi))
    make = TorchPairs if engine == "torch" else TritonPairs
    return make(potential, box_length, skin, on_gpu if compile is None else compile)


@functools.cache
def compiled(function):
    """Compile a function of tensors, once."""
    return torch.compile(function)


def _pair_sums(x, neighbors, own, potential, box_length, measure):
    flat = neighbors.flatten(1)
    displacement = [
        minimum_image(
            x[:, axis].gather(1, flat).view_as(neighbors) - x[:, axis, :, None], box_length
        )
        for axis in range(3)
    ]
    r = sum(delta * delta for delta in displacement).clamp(min=1e-12).sqrt()
    force = potential.force(r) / r
    forces = torch.stack([-(force * delta).sum(2) for delta in displacement], 1)
    if not measure:
        return forces, None, None
    absent = neighbors == own
    energy = potential.energy(r).masked_fill(absent, 0).sum(2) / 2
    return forces, energy, (force * r * r).masked_fill(absent, 0).sum(2) / 2


def _pairs_by_tree(x: Tensor, reach: float, box_length: float) -> tuple[Tensor, Tensor]:
    points = wrap(x[0].T, box_length).double().numpy()
    pairs = cKDTree(points, boxsize=box_length).query_pairs(reach, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))].astype(np.int64)
    rows, columns = torch.from_numpy(both).unbind(1)
    return rows, columns


def _pairs_by_matrix(x: Tensor, reach: float, box_length: float) -> tuple[Tensor, Tensor]:
    batch, _, n_particles = x.shape
    distance2 = x.new_zeros(batch, n_particles, n_particles)
    for axis in range(3):
        delta = x[:, axis, None, :] - x[:, axis, :, None]
        distance2 += minimum_image(delta, box_length).square()
    distance2.diagonal(dim1=1, dim2=2).fill_(math.inf)
    rows, columns = (distance2.flatten(0, 1) < reach**2).nonzero().unbind(1)
    return rows, columns
