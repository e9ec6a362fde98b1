"""Waves in the density of a box, the sites that they add up to, and who is on which site.

A crystal is a handful of strong waves, the Bragg peaks of its structure factor.  Where they
all have their crests are its sites.  In noise a particle is often nearer to another's site than
to its own; what settles who belongs where is that no site is taken twice.  Nothing here is learned.
`decoys` and `rivals` are false waves for a network to learn from.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

from mddm import arguments
from mddm.fourier import of_particles
from mddm.geometry import minimum_image, nearest_points, wrap

# Where structures have their peaks.  Longer waves can be kept however weak they are: they tell
# where there are too many particles and where too few [1 / length].
Q_LONG, Q_MAX = 2.0, 9.5
# How far particles stray from their sites in a typical crystal, along each axis [length].
STRAY = 0.1
# Below this level an assignment is no sharper than at it: a particle on another's site has to
# find the way to an empty one [length].
_SOFTEST = 0.15
# The waves are added up on a grid with this many points per unit length, and its crests are looked
# for in so many of its planes at once.
_GRID, _PLANES = 4.8, 16
# The density is shown with this resolution [length].
_BLUR = 0.25
# A lattice has about one site per particle; waves that are no lattice have any number of crests.
_FEWEST, _MOST = 0.97, 1.15
_N_NEAR, _N_ROUNDS, _RELAXATION, _NEVER = 16, 40, 1.8, 1e-300
# Particles hop only in a crystal: where so many of them have a site of their own, and only those
# that are on a site [length].
_OWN, _ON_SITE, _MOST_MATCHED = 0.8, 0.5, 1000
_N_WAVES = 256
# Decoys: at most so many waves in a system, with vectors in this range [1 / length], a mean
# strength in this one, and displacements of at most this part of the noise.
_N_DECOYS, _DECOY_Q, _DECOY_STRENGTH, _DECOY_PART = 12, (4.0, Q_MAX), (2.0, 200.0), 0.35
# Rivals: the strongest waves of another structure, up to so much stronger than that would be in
# the same noise, and displacements of at most this part of it.
_N_RIVALS, _RIVAL_STRENGTH, _RIVAL_PART = 64, 1.5, 0.6


class Waves(NamedTuple):
    """The strongest waves of each system of a batch, each standing for q and -q.

    Args:
        vectors: (batch, n_waves, 3) wave vectors [1 / length].
        strength: (batch, n_waves) S(q), 1 on average without order.
        phase: (batch, n_waves) angle of sum_j exp(i q r_j) [rad].
        chance: what the strongest of all waves has without order, on average.
    """

    vectors: Tensor
    strength: Tensor
    phase: Tensor
    chance: float


# Sizes and steps depend on the box here, which PyTorch makes constants of a compiled program and
# takes for those of another box: such a program calls the next three functions as they are.
@torch.compiler.disable
@torch.no_grad()
def strongest_waves(
    positions: Tensor,
    n_waves: int,
    q_min: float,
    q_max: float,
    box_length: float,
    long: bool = False,
) -> Waves:
    """Find the strongest waves in the density of a periodic box.

    Args:
        positions: (batch, n_particles, 3) [length].
        n_waves: how many, or all where fewer fit into the box.
        q_min, q_max: shortest and longest wave vector [1 / length].
        box_length: edge of the periodic cube [length].
        long: whether to add all waves with shorter vectors than `q_min`.

    Returns:
        The waves, strongest first; the long ones come last.

    Raises:
        TypeError, ValueError: no wave of these lengths fits into the box, or an argument of another
            kind or shape, or out of its range.
    """
    positions, box_length = arguments.positions(positions), arguments.box(box_length)
    n_waves = arguments.whole("n_waves", n_waves, at_least=1)
    q_min = arguments.number("q_min", q_min, at_least=0)
    q_max = arguments.number("q_max", q_max, above=0)
    n, length = _waves(q_max, box_length, positions.device)
    wanted = (length >= q_min) & (length <= q_max)
    n_fitting = int(wanted.sum())
    if n_fitting == 0:
        raise ValueError(
            f"no wave with q between {q_min} and {q_max} fits into a box of edge {box_length}; "
            "take a larger box"
        )
    waves = of_particles(positions, n, box_length).flatten(1)
    strength = (waves.real.square() + waves.imag.square()) / positions.shape[1]
    index = (strength * wanted).topk(min(n_waves, n_fitting), dim=1).indices
    if long:
        longer = (length < q_min).nonzero().T.expand(len(index), -1)
        index = torch.cat([index, longer], dim=1)
    rows = index // (n + 1)
    whole = torch.stack([rows // (2 * n + 1) - n, rows % (2 * n + 1) - n, index % (n + 1)], dim=-1)
    vectors = (2 * math.pi / box_length) * whole.to(positions)
    phase = waves.gather(1, index).angle()
    # The largest of n strengths, which are distributed exponentially.
    return Waves(vectors, strength.gather(1, index), phase, math.log(n_fitting))


@lru_cache(maxsize=8)
def _waves(q_max: float, box_length: float, device: torch.device):
    """Give the largest integer of an axis, and the lengths of all waves that `of_particles` has.

    Of each pair q and -q one has its length; the other's is infinite, and so is that of q = 0.
    """
    n = int(q_max * box_length / (2 * math.pi))
    order = torch.arange(-n, n + 1, device=device, dtype=torch.float32)
    x, y, z = torch.meshgrid(order, order, order[n:], indexing="ij")
    half = (z > 0) | ((y > 0) | ((y == 0) & (x > 0)))
    length = 2 * math.pi / box_length * (x.square() + y.square() + z.square()).sqrt()
    return n, length.where(half, torch.inf).flatten()


@torch.compiler.disable
@torch.no_grad()
def find_sites(
    waves: Waves, sigma: Tensor, n_particles: int, box_length: float
) -> tuple[Tensor, Tensor]:
    """Find the sites of a crystal in noise: where the crests of its waves meet.

    Waves no stronger than chance makes them are left out, the others given back what the noise
    has taken from them, and all are added up.

    Args:
        waves: as from `strongest_waves`.
        sigma: (batch,) noise levels [length].
        n_particles: particles in each system.
        box_length: edge of the periodic cube [length].

    Returns:
        sites: (batch, n, 3) [length], the highest crests first, with n a little above
            `n_particles`.
        is_site: (batch, n) bool, which of them are sites.  All False where the number of crests is
            far from that of the particles, as in a liquid, a glass or waves that do not make a
            lattice.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.

    Source: this study.  What noise takes is the Debye-Waller factor.
    """
    arguments.instance("waves", waves, Waves, "find them by strongest_waves")
    sigma = arguments.sigma(sigma, (len(waves.vectors),))
    n_particles = arguments.whole("n_particles", n_particles, at_least=1)
    box_length = arguments.box(box_length)
    density = _density(waves, sigma, n_particles, box_length)
    n_grid = density.shape[1]
    flat = density.flatten(1)
    n_kept = min(round(1.2 * n_particles), flat.shape[1])
    system, crests = _crests(density)
    counts = system.bincount(minlength=len(flat))
    # One after the other in a row of each system.
    row = torch.arange(len(system), device=system.device) - (counts.cumsum(0) - counts)[system]
    shape = len(flat), int(counts.max())
    index = crests.new_zeros(shape).index_put_((system, row), crests)
    height = flat.new_zeros(shape).index_put_((system, row), flat[system, crests])
    height, which = height.topk(min(n_kept, shape[1]))
    missing = 0, n_kept - height.shape[1]
    height, index = (functional.pad(each, missing) for each in (height, index.gather(1, which)))
    place = torch.stack([index // n_grid**2, index // n_grid % n_grid, index % n_grid], dim=-1)
    # The top of a parabola through each crest and its neighbours on the grid.
    steps = torch.eye(3, dtype=torch.long, device=place.device)
    beside = (place[..., None, :] + torch.cat([steps, -steps])) % n_grid
    beside = (beside[..., 0] * n_grid + beside[..., 1]) * n_grid + beside[..., 2]
    above, below = flat.gather(1, beside.flatten(1)).view(*index.shape, 2, 3).unbind(dim=2)
    bend = (2 * (2 * height[..., None] - above - below)).clamp(min=1e-6)
    offset = ((above - below) / bend).clamp(-0.5, 0.5)
    sites = (place + offset) * (box_length / n_grid)
    is_site = height > 0
    n_sites = is_site.sum(dim=1, keepdim=True)
    return sites, is_site & (n_sites >= _FEWEST * n_particles) & (n_sites <= _MOST * n_particles)


def _crests(density: Tensor) -> tuple[Tensor, Tensor]:
    """Find the points of periodic grids that none of the 26 about them is above.

    Returns:
        Systems, in their order, and indices of the points.
    """
    n_grid, found = density.shape[1], []
    at_once = _PLANES if density.device.type == "cpu" else n_grid
    for start in range(0, n_grid, at_once):
        planes = torch.arange(start - 1, min(start + at_once, n_grid) + 1, device=density.device)
        slab = density.index_select(1, planes % n_grid)
        highest = torch.maximum(torch.maximum(slab[:, :-2], slab[:, 1:-1]), slab[:, 2:])
        for axis in (2, 3):
            sides = torch.maximum(highest.roll(1, axis), highest.roll(-1, axis))
            highest = torch.maximum(highest, sides)
        slab = slab[:, 1:-1]
        system, crests = ((slab >= highest) & (slab > 0)).flatten(1).nonzero().unbind(dim=1)
        found.append((system, crests + start * n_grid**2))
    system, crests = (torch.cat(each) for each in zip(*found, strict=True))
    system, order = system.sort(stable=True)
    return system, crests[order]


def _density(waves: Waves, sigma: Tensor, n_particles: int, box_length: float) -> Tensor:
    """Add the waves up on a grid: (batch, n_grid, n_grid, n_grid)."""
    vectors, strength, phase, chance = waves
    n_grid = 2 * math.ceil(_GRID * box_length / 2)
    step = 2 * math.pi / box_length
    squared = vectors.square().sum(dim=-1)
    real = (strength - chance).clamp(min=0) / strength.clamp(min=1)
    # Amplitudes in the crystal are at most 1.
    restored = (squared * sigma[:, None] ** 2 / 2).clamp(max=20).exp()
    amplitude = ((strength / n_particles).sqrt() * restored).clamp(max=1)
    amplitude = amplitude * real * (-squared * _BLUR**2 / 2).exp()
    # A real density has the waves q and -q, of which a half of the grid holds one.
    place = (vectors / step).round().long()
    place, crests = torch.cat([place, -place], dim=1), torch.polar(amplitude / 2, -phase)
    crests = torch.cat([crests, crests.conj()], dim=1) * (place[..., 2] >= 0)
    x, y, z = (place % n_grid).unbind(dim=-1)
    half = n_grid // 2 + 1
    place = ((x * n_grid + y) * half + z).where(z < half, 0)
    spectrum = crests.new_zeros(len(vectors), n_grid**2 * half).scatter_add_(1, place, crests)
    spectrum = spectrum.view(-1, n_grid, n_grid, half)
    return torch.fft.irfftn(spectrum, s=(n_grid,) * 3, dim=(1, 2, 3), norm="forward")


@torch.compiler.disable
@torch.no_grad()
def assign(
    positions: Tensor, sites: Tensor, is_site: Tensor, sigma: Tensor, box_length: float
) -> tuple[Tensor, Tensor]:
    """Share the sites out among the particles, every particle once, no site more than once.

    Each particle prefers the sites near it, as normal noise makes likely.  Sinkhorn's algorithm
    weighs the sites until no one is wanted by more than one.

    Args:
        positions: (batch, n_particles, 3) [length].
        sites, is_site: as from `find_sites`.
        sigma: (batch,) noise levels [length].
        box_length: edge of the periodic cube [length].

    Returns:
        displacement: (batch, n_particles, 3), from each particle to its site, on average over
            the sites that it may have [length]; zero where there are no sites.
        certainty: (batch, n_particles, 1), the share of the likeliest site; zero where there are
            none.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.

    Source: Sinkhorn and Knopp 1967, over-relaxed as in Thibault et al. 2021; sites may stay empty.
    """
    positions, box_length = arguments.positions(positions), arguments.box(box_length)
    sites = arguments.tensor("sites", sites, (len(positions), "n", 3))
    is_site = arguments.typed("is_site", is_site, torch.bool, tuple(sites.shape[:2]))
    sigma = arguments.sigma(sigma, (len(positions),))
    if not is_site.any():
        return torch.zeros_like(positions), torch.zeros_like(positions[..., :1])
    n_near = min(_N_NEAR, sites.shape[1])
    near = nearest_points(positions, sites, is_site, n_near, box_length)
    first = sites.shape[1] * torch.arange(len(sites), device=near.device)
    shape, near = near.shape, (near + first[:, None, None]).flatten()
    at = sites.flatten(0, 1).index_select(0, near).view(*shape, 3)
    displacement = minimum_image(at - positions[:, :, None], box_length)
    spread = (sigma**2 + STRAY**2).clamp(min=_SOFTEST**2 + STRAY**2)[:, None, None]
    likely = displacement.square().sum(dim=-1) / (-2 * spread)
    may_be = is_site.flatten().index_select(0, near).view(shape)
    # Relative to the likeliest; in double precision nothing that matters is 0.
    likely = (likely - likely.amax(dim=-1, keepdim=True)).double().exp() * may_be
    likely, weight = likely.flatten(0, 1), likely.new_ones(is_site.numel())

    of_particles, of_sites = _sums(likely, near, len(weight))
    for _ in range(_N_ROUNDS):
        wanted = of_sites(of_particles(weight).clamp_(min=_NEVER).reciprocal_()).mul_(weight)
        weight = wanted.clamp_(min=1e-12).pow_(-_RELAXATION).mul_(weight).clamp_(max=1)
    share = likely * weight.index_select(0, near).view_as(likely)
    share = (share / share.sum(dim=1, keepdim=True).clamp_(min=_NEVER)).to(displacement)
    way = (share[:, None] @ displacement.flatten(0, 1)).view_as(positions)
    return way, share.amax(dim=1).view(*shape[:2], 1)


def _sums(likely: Tensor, near: Tensor, n_sites: int) -> tuple[Callable, Callable]:
    """Give the products of a matrix, which is sparse, with a number a site, and a particle."""
    if near.device.type == "cpu":
        # Half of the time that PyTorch takes for looking up and adding.
        ends = np.arange(0, near.numel() + 1, likely.shape[1])
        shape = len(likely), n_sites
        matrix = csr_array((likely.flatten().numpy(), near.numpy(), ends), shape)
        return tuple(
            lambda vector, each=each: torch.from_numpy(each @ vector.numpy())
            for each in (matrix, matrix.T)
        )
    return (
        lambda weight: (likely * weight.index_select(0, near).view_as(likely)).sum(dim=1),
        lambda share: likely.new_zeros(n_sites).scatter_add_(
            0, near, (likely * share[:, None]).flatten()
        ),
    )


@torch.no_grad()
def hop(positions: Tensor, sigma: float, box_length: float) -> Tensor:
    """Move particles from a crystal's sites that are taken twice to empty ones.

    Particles are alike: where one too many is on a site and another site is empty, it makes no
    difference which of all the particles between them move, and one jump does it.

    Args:
        positions: (batch, n_particles, 3) [length].
        sigma: their noise level [length].
        box_length: edge of the periodic cube [length].

    Returns:
        The positions, new ones where there was a jump.  Where no sites are found, or too few
        particles are at one of their own, nothing moves.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.

    Source: this study; jumps over any distance are moves of Monte Carlo simulation.
    """
    positions, box_length = arguments.positions(positions), arguments.box(box_length)
    sigma = arguments.number("sigma", sigma, above=0)
    n_particles = positions.shape[1]
    if 2 * math.pi / box_length > Q_MAX:
        return positions
    waves = strongest_waves(positions, _N_WAVES, Q_LONG, Q_MAX, box_length)
    levels = torch.full((len(positions),), sigma, device=positions.device)
    found = zip(*find_sites(waves, levels, n_particles, box_length), strict=True)
    moved = positions.clone()
    for system, (sites, is_site) in zip(moved, found, strict=True):
        sites = sites[is_site]
        if not len(sites):
            continue
        there = torch.ones_like(sites[None, :, 0], dtype=torch.bool)
        site = nearest_points(system[None], sites[None], there, 1, box_length)[0, :, 0]
        distance = minimum_image(system - sites[site], box_length).norm(dim=-1)
        # The nearest particle keeps the site.
        keeps = distance == torch.full_like(sites[:, 0], torch.inf).scatter_reduce(
            0, site, distance, "amin"
        ).gather(0, site)
        on_site = distance < _ON_SITE
        if (keeps & on_site).sum() < _OWN * n_particles:
            continue
        extra = (~keeps & on_site).nonzero()[:, 0]
        empty = torch.ones_like(is_site[: len(sites)]).index_fill(0, site, False).nonzero()[:, 0]
        # Of very many those in a slab of the box are matched with each other.
        n_slabs = math.ceil(len(extra) / _MOST_MATCHED)
        slabs = [
            (wrap(each[:, 0], box_length) * (n_slabs / box_length)).long()
            for each in (system[extra], sites[empty])
        ]
        for slab in range(n_slabs):
            who, where = extra[slabs[0] == slab], empty[slabs[1] == slab]
            far = minimum_image(system[who][:, None] - sites[where], box_length).square().sum(-1)
            rows, columns = linear_sum_assignment(far.cpu().numpy())
            who, where = who[rows], where[columns]
            system[who] += sites[where] - sites[site[who]]
    return wrap(moved, box_length)


@torch.no_grad()
def decoys(
    positions: Tensor, sigma: Tensor, box_length: float, generator: torch.Generator
) -> Tensor:
    """Draw displacements that put waves into the density which do not belong to its crystal.

    In noise the true waves of a crystal are the only strong ones, and a network that never saw
    another comes to believe in any.  A sampler then takes whichever wave happens to grow first for
    its lattice.  Displaced particles are still near their sites: what is to be learned is
    to tell where they are all the same.

    Args:
        positions: (batch, n_particles, 3) in noise [length].
        sigma: (batch,) its levels, which the displacements stay well below [length].
        box_length: edge of the periodic cube [length].
        generator: source of randomness; its device is that of the positions.

    Returns:
        (batch, n_particles, 3) displacements, a sum of longitudinal waves [length].

    Raises:
        TypeError, ValueError: a box too small for such waves, or an argument of another kind or
            shape, or out of its range.

    Source: this study.
    """
    positions, box_length = arguments.positions(positions), arguments.box(box_length)
    sigma = arguments.sigma(sigma, (len(positions),))
    arguments.generator(generator)
    step = 2 * math.pi / box_length
    if step > _DECOY_Q[1]:
        raise ValueError(
            f"a box of edge {box_length} is too small for decoys: no wave with q below "
            f"{_DECOY_Q[1]} fits into it; take a larger box, or none"
        )
    batch, n_particles = positions.shape[:2]
    on = {"device": generator.device, "generator": generator}
    shape = (batch, _N_DECOYS, 1)
    direction = functional.normalize(torch.randn(batch, _N_DECOYS, 3, **on), dim=-1)
    length = _DECOY_Q[0] + (_DECOY_Q[1] - _DECOY_Q[0]) * torch.rand(shape, **on)
    vectors = step * (direction * length / step).round()
    length = vectors.norm(dim=-1, keepdim=True).clamp(min=step)
    low, high = (math.log(end) for end in _DECOY_STRENGTH)
    # Strengths are distributed exponentially, as those of chance are.
    strength = -torch.rand(shape, **on).clamp(min=1e-9).log()
    strength = strength * (low + (high - low) * torch.rand(batch, 1, 1, **on)).exp()
    n_waves = torch.randint(_N_DECOYS + 1, (batch, 1, 1), **on)
    drawn = torch.arange(_N_DECOYS, device=generator.device)[:, None] < n_waves
    # A longitudinal wave of amplitude a has S = N (q a / 2)^2.
    amplitude = drawn * 2 * (strength / n_particles).sqrt() / length
    phase = 2 * math.pi * torch.rand(batch, 1, _N_DECOYS, **on)
    return _displacement(positions, vectors, amplitude, phase, _DECOY_PART * sigma)


def _displacement(positions, vectors, amplitude, phase, most) -> Tensor:
    """Add up longitudinal waves of displacement, weakened where they are more than the most."""
    spread = (amplitude.square().sum(dim=1, keepdim=True) / 6).sqrt()
    amplitude = amplitude * (most[:, None, None] / spread.clamp(min=1e-9)).clamp(max=1)
    along = amplitude * vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    return (positions @ vectors.transpose(1, 2) + phase).sin() @ along


@torch.no_grad()
def rivals(
    positions: Tensor,
    others: Tensor,
    sigma: Tensor,
    box_length: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw displacements that put another structure's waves into the density, all in phase.

    Two lattices are in sight then, and what tells which is the right one is the condition.

    Args:
        positions, sigma, box_length, generator: as for `decoys`.
        others: (batch, n_particles, 3) the other structures, without noise [length].

    Returns:
        (batch, n_particles, 3) displacements towards the others' crests [length].

    Raises:
        TypeError, ValueError: as from `decoys`.

    Source: this study.
    """
    positions, box_length = arguments.positions(positions), arguments.box(box_length)
    others = arguments.positions(others, tuple(positions.shape), name="others")
    sigma = arguments.sigma(sigma, (len(positions),))
    arguments.generator(generator)
    vectors, strength, phase, _ = strongest_waves(others, _N_RIVALS, Q_LONG, Q_MAX, box_length)
    length = vectors.norm(dim=-1, keepdim=True)
    # Noise weakens waves by the Debye-Waller factor.
    weakened = strength[..., None] * (-((length * sigma[:, None, None]) ** 2)).exp()
    drawn = torch.rand(len(positions), 1, 1, device=generator.device, generator=generator)
    part = _RIVAL_STRENGTH * drawn * weakened / positions.shape[1]
    # Towards a crest it goes downhill in the phase.
    amplitude = -2 * part.sqrt() / length
    return _displacement(positions, vectors, amplitude, -phase[:, None], _RIVAL_PART * sigma)
