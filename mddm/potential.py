"""Pair potentials in dimensionless Lennard-Jones units: energies, forces, smoothing.

A potential is any object with `energy(r)` and `force(r)`; `force` is the radial force
-dU/dr, positive where particles repel.  MD needs one that vanishes at a cut-off and stays
finite when two random particles overlap: `Smoothed` makes any potential so.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.interpolate import CubicSpline
from torch import Tensor

from mddm import arguments
from mddm.geometry import minimum_image, neighbor_pairs

# Where a force is compared with the slope of its energy: differences over this part of r, and how
# far the two may be apart, as a part of both and in units of force, but for a few kinks.
_SLOPE_STEP, _SLOPE_PART, _SLOPE_ERROR, _KINKS = 1e-4, 0.01, 1e-4, 0.01
# How far apart nearest neighbours are in the closest packing at density 1 [length].
CLOSEST = 2 ** (1 / 6)
CONVENTION = "U(r) = r^-15 + r^-3 cos(k (r - 1.25) - phi)"


class PairPotential(Protocol):
    """A radial pair potential U(r)."""

    def energy(self, r: Tensor) -> Tensor:
        """Return U at the distances r (any shape) [energy]."""

    def force(self, r: Tensor) -> Tensor:
        """Return -dU/dr at the distances r (any shape) [energy / length]."""


@dataclass(frozen=True)
class OscillatingPair:
    """The oscillating pair potential U(r) = r^-15 + r^-3 cos(k (r - 1.25) - phi).

    HOOMD-blue's potential has no offset of 1.25: its phase is phi + 1.25 k.

    Args:
        k: spatial frequency [1 / length], a number or a tensor that broadcasts against r.
        phi: phase [rad], likewise.

    Raises:
        TypeError, ValueError: k or phi is no number, or not finite.

    Source: MDDM section 2.1.
    """

    k: float | Tensor
    phi: float | Tensor

    def __post_init__(self):
        for name in ("k", "phi"):
            value = getattr(self, name)
            is_array = isinstance(value, Tensor | np.ndarray) and value.ndim
            take = arguments.tensor if is_array else arguments.number
            object.__setattr__(self, name, take(name, value))

    def energy(self, r: Tensor) -> Tensor:
        """Return U(r) [energy] at distances of any shape [length]."""
        r = arguments.distances(r)
        return r**-15 + r**-3 * torch.cos(self._phase(r))

    def force(self, r: Tensor) -> Tensor:
        """Return -dU/dr [energy / length] at distances of any shape [length]."""
        r = arguments.distances(r)
        phase = self._phase(r)
        oscillation = 3 * r**-4 * torch.cos(phase) + self.k * r**-3 * torch.sin(phase)
        return 15 * r**-16 + oscillation

    def _phase(self, r: Tensor) -> Tensor:
        return self.k * (r - 1.25) - self.phi


class Tabulated:
    """A potential given by its values at chosen distances, joined by a cubic spline.

    Args:
        r: (n,) distances [length], positive and strictly increasing, n at least 4.
        energy: (n,) values of U there [energy].

    Raises:
        TypeError, ValueError: no numbers, too few points, another shape, distances that do not
            increase from above zero, or values that are not finite or jump as from a hard core.
    """

    def __init__(self, r, energy):
        r = arguments.tensor("r", r, ("n",), above=0).detach().cpu().double().numpy()
        values = arguments.tensor("energy", energy, ("n",)).detach().cpu().double().numpy()
        if r.shape != values.shape or len(r) < 4:
            raise ValueError(
                "r and energy must be of one length, with at least 4 points; got shapes "
                f"{r.shape} and {values.shape}"
            )
        if (np.diff(r) <= 0).any():
            at = (np.diff(r) <= 0).argmax()
            raise ValueError(
                f"r must be strictly increasing, and {r[at + 1]:g} follows {r[at]:g}; sort it "
                "first, and leave out what is there twice"
            )
        self.r, self.values = r, values
        self.r_min, self.r_max = r[0], r[-1]
        self._spline = CubicSpline(r, values)
        self._slope = self._spline.derivative()
        self._refuse_ringing()

    def _refuse_ringing(self):
        # Behind a jump a spline swings, by no more than what matters in any other table.
        near = sliding_window_view(np.pad(self.values, 1, mode="edge"), 4)
        middle = self._spline((self.r[1:] + self.r[:-1]) / 2)
        beyond = np.maximum(middle - near.max(axis=1), near.min(axis=1) - middle)
        matters = np.ptp(self.values[self.r >= min(1.0, self.r[-2])]) or np.ptp(self.values)
        if (beyond > np.maximum(matters, np.ptp(near, axis=1))).any():
            at = np.abs(np.diff(self.values)).argmax()
            raise ValueError(
                f"energy must change smoothly, and goes from {self.values[at]:g} to "
                f"{self.values[at + 1]:g} at r = {self.r[at + 1]:g}, where no spline follows; "
                "begin the table behind such a jump, or give more points"
            )

    def energy(self, r: Tensor) -> Tensor:
        """Return U(r) [energy] at distances of any shape within the table [length]."""
        r = arguments.distances(r)
        # The spline is scipy's: the second term, zero in value, hands its slope to autograd.
        return self._evaluate(self._spline, r) - self.force(r) * (r - r.detach())

    def force(self, r: Tensor) -> Tensor:
        """Return -dU/dr [energy / length] at distances of any shape within the table."""
        return -self._evaluate(self._slope, arguments.distances(r))

    def _evaluate(self, curve, r: Tensor) -> Tensor:
        if r.numel() and not (self.r_min <= r.min() and r.max() <= self.r_max):
            raise ValueError(
                f"r must lie within the table, {self.r_min} to {self.r_max}; got "
                f"{r.min().item():.4g} to {r.max().item():.4g}. Extend the table, or smooth it "
                "with Smoothed(potential, r_cut=..., r_core=...) inside that range"
            )
        return torch.from_numpy(curve(r.detach().cpu().numpy())).to(r)


@dataclass(frozen=True)
class Smoothed:
    """A potential made fit for MD: zero at the cut-off, finite at contact.

    Between `r_on` and `r_cut` the energy is multiplied by HOOMD-blue's XPLOR function, so that
    energy and force go continuously to zero.  Below `r_core` it continues as a straight line:
    particles meet there only in a random start, before its minimisation.

    Args:
        potential: any pair potential.
        r_on: where the smoothing begins [length].
        r_cut: where the potential ends [length].
        r_core: where the linear core begins [length].

    Raises:
        TypeError: no pair potential, or radii that are no numbers.
        ValueError: the three radii are not in the order 0 < r_core < r_on < r_cut.
    """

    potential: PairPotential
    r_on: float = 2.5
    r_cut: float = 3.0
    r_core: float = 0.7

    def __post_init__(self):
        for name in ("energy", "force"):
            if not callable(getattr(self.potential, name, None)):
                raise TypeError(
                    "potential must have the methods energy(r) and force(r), such as "
                    f"OscillatingPair(k, phi), got {self.potential!r}"
                )
        for name in ("r_on", "r_cut", "r_core"):
            object.__setattr__(self, name, arguments.number(name, getattr(self, name)))
        if not 0 < self.r_core < self.r_on < self.r_cut:
            raise ValueError(
                "radii must satisfy 0 < r_core < r_on < r_cut, got "
                f"r_core={self.r_core}, r_on={self.r_on}, r_cut={self.r_cut}"
            )

    def energy(self, r: Tensor) -> Tensor:
        """Return the smoothed U(r) [energy] at distances of any shape [length]."""
        r = arguments.distances(r)
        inside = r.clamp(self.r_core, self.r_cut)
        energy = self.potential.energy(inside) * self._switch(inside)
        core = self.potential.force(inside) * (self.r_core - r)
        return torch.where(r < self.r_core, energy + core, energy)

    def force(self, r: Tensor) -> Tensor:
        """Return the smoothed -dU/dr [energy / length] at distances of any shape [length]."""
        r = arguments.distances(r)
        inside = r.clamp(self.r_core, self.r_cut)
        force = self.potential.force(inside) * self._switch(inside)
        return force - self.potential.energy(inside) * self._switch_slope(inside)

    def _switch(self, r: Tensor) -> Tensor:
        on2, cut2, r2 = self.r_on**2, self.r_cut**2, r.clamp(min=self.r_on).square()
        return (cut2 - r2) ** 2 * (cut2 + 2 * r2 - 3 * on2) / (cut2 - on2) ** 3

    def _switch_slope(self, r: Tensor) -> Tensor:
        on2, cut2, r2 = self.r_on**2, self.r_cut**2, r.clamp(min=self.r_on).square()
        return 12 * r * (cut2 - r2) * (on2 - r2) / (cut2 - on2) ** 3


def energy_scale(potential: Smoothed) -> float:
    """Tell how much a potential varies where particles at density 1 meet: the scale of its energy.

    Temperatures of different potentials are compared in this unit.

    Args:
        potential: of one system.

    Returns:
        Highest minus lowest U(r) between the nearest neighbours of the closest packing at density
        1, 2^(1/6) apart, and the cut-off [energy].

    Raises:
        TypeError, ValueError: as `tabulate`, or a cut-off that is not beyond them.
    """
    arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
    if potential.r_cut <= CLOSEST:
        raise ValueError(f"r_cut must be above {CLOSEST:.3f}, got {potential.r_cut}")
    r = torch.linspace(CLOSEST, potential.r_cut, 1001, dtype=torch.float64)
    energy, _ = tabulate(potential, r)
    return (energy.max() - energy.min()).item()


def energy_unit(potential: Smoothed, hottest: float = 0.0) -> float:
    """Give the unit of energy in which the steps and tolerances of this package will do.

    Args:
        potential: of one system.
        hottest: the highest temperature of its particles [energy].

    Returns:
        `energy_scale`, or the temperature where that is higher; 1 where this is between a tenth
        and ten, as in all of the study, or where nothing varies [energy].

    Raises:
        TypeError, ValueError: as `tabulate`, or a temperature below zero.
    """
    hottest = arguments.number("hottest", hottest, at_least=0)
    arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
    unit = max(energy_scale(potential) if potential.r_cut > CLOSEST else 0.0, hottest)
    return 1.0 if unit == 0 or 0.1 <= unit <= 10 else unit


def tabulate(potential: Smoothed, r: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate a potential at many distances, and refuse one that is none.

    Args:
        potential: a smoothed pair potential.
        r: (n,) distances [length], positive.

    Returns:
        (n,) U(r) [energy] and (n,) -dU/dr [energy / length].

    Raises:
        TypeError: another potential.
        ValueError: a potential of several systems, one that is not finite, or one whose force is
            not the slope of its energy.
    """
    arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
    r = arguments.tensor("r", r, ("n",), above=0)
    energy, force = potential.energy(r), potential.force(r)
    for name, values in (("energy", energy), ("force", force)):
        if values.shape != r.shape:
            raise ValueError(
                "potential must be that of one system: for distances of shape "
                f"{tuple(r.shape)} its {name} has the shape {tuple(values.shape)}"
            )
        wrong = ~values.isfinite()
        if wrong.any():
            raise ValueError(
                f"potential must be finite up to its cut-off: its {name} is "
                f"{values[wrong][0].item()} at r = {r[wrong][0].item():.4g}"
            )
    step = _SLOPE_STEP * r
    slope = (potential.energy(r - step) - potential.energy(r + step)) / (2 * step)
    wrong = (force - slope).abs() > _SLOPE_PART * (force.abs() + slope.abs()) + _SLOPE_ERROR
    if wrong.double().mean() > _KINKS:
        worst = (force - slope).abs().where(wrong, 0).argmax()
        raise ValueError(
            "the force of potential must be -dU/dr: at r = "
            f"{r[worst].item():.4g} it is {force[worst].item():.4g}, and the energy falls by "
            f"{slope[worst].item():.4g} per length"
        )
    return energy, force


def potential_energy(positions: Tensor, potential: Smoothed, box_length: float) -> Tensor:
    """Share the potential energy of one configuration out among its particles.

    Args:
        positions: (n_particles, 3) [length].
        potential: a smoothed potential, whose `r_cut` is below half the box edge.
        box_length: edge of the periodic cube [length].

    Returns:
        (n_particles,) half the energy of every bond that a particle takes part in [energy];
        the mean is the potential energy per particle.  Differentiable: minus the gradient of
        the sum is the force on each particle.

    Raises:
        TypeError: another potential.
        ValueError: `r_cut` reaches half the box edge, or positions of another shape or not finite.
    """
    positions = arguments.positions(positions, ("n_particles", 3))
    arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
    pairs = neighbor_pairs(positions, potential.r_cut, box_length)
    half = potential.energy(_lengths(positions, pairs, box_length)) / 2
    return torch.zeros_like(positions[:, 0]).index_add(
        0, pairs.flatten(), half.repeat_interleave(2)
    )


def pair_distances(positions: Tensor, r_max: float, box_length: float) -> Tensor:
    """Return the distances below `r_max` between particles, each pair once.

    Args:
        positions: (n_particles, 3) [length].
        r_max: largest distance [length], below half the box edge.
        box_length: edge of the periodic cube [length].

    Returns:
        (n_pairs,) [length], differentiable.

    Raises:
        ValueError: `r_max` reaches half the box edge, or positions of another shape or not finite.
    """
    positions = arguments.positions(positions, ("n_particles", 3))
    r_max = arguments.cutoff("r_max", r_max, arguments.box(box_length))
    return _lengths(positions, neighbor_pairs(positions, r_max, box_length), box_length)


def _lengths(positions: Tensor, pairs: Tensor, box_length: float) -> Tensor:
    bonds = minimum_image(positions[pairs[:, 1]] - positions[pairs[:, 0]], box_length)
    return bonds.norm(dim=-1)
