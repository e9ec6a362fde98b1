"""Lattice dynamics: how a crystal vibrates, whether it is stable, and its free energy.

Particles have mass 1, vibrations are small and classical, and the waves are those that are periodic
in the cube: nothing is left out of the harmonic crystal of just these particles.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from mddm import arguments
from mddm.crystal import Crystal, bounded
from mddm.potential import Smoothed, energy_unit

# Step of the numerical derivative of the force [length].
_STEP = 1e-4
# Squared frequencies above minus this, in units of the largest, are 0 by rounding or positive.
_ROUNDING = 1e-8


@dataclass(frozen=True)
class Vibrations:
    """The harmonic vibrations of a crystal at a temperature.

    Args:
        crystal: whose they are.
        temperature: [energy].
        squared_frequencies: (3 n_particles - 3,) in rising order [1 / time^2]; a negative one
            belongs to a distortion that lowers the energy.
    """

    crystal: Crystal
    temperature: float
    squared_frequencies: np.ndarray = field(repr=False)

    @property
    def stable(self) -> bool:
        """Whether every small distortion that keeps the cube costs energy."""
        lowest, *_, highest = self.squared_frequencies
        return bool(lowest > _ROUNDING * highest)

    @property
    def free_energy(self) -> float:
        """Helmholtz free energy per particle [energy]; nan where the crystal is not stable.

        Planck's constant over 2 pi counts as 1.  It adds the same to all crystals of as many
        particles, so that differences have a meaning.
        """
        if not self.stable:
            return math.nan
        # Each classical oscillator adds T log(frequency / T).
        logarithms = np.log(self.squared_frequencies) / 2 - math.log(self.temperature)
        return self.crystal.energy + self.temperature * logarithms.sum() / self.crystal.n_particles

    @property
    def mean_energy(self) -> float:
        """Mean potential energy per particle: T / 2 for each vibration [energy]."""
        share = len(self.squared_frequencies) / self.crystal.n_particles
        return self.crystal.energy + self.temperature / 2 * share

    @property
    def amplitude(self) -> float:
        """Root mean square distance of a particle from its site [length]; nan without a minimum."""
        if not self.stable:
            return math.nan
        squared = (self.temperature / self.squared_frequencies).sum()
        return math.sqrt(squared / self.crystal.n_particles)


def vibrations(crystal: Crystal, potential: Smoothed, temperature: float) -> Vibrations:
    """Compute the vibrations of a crystal, whose particles feel no force at their sites.

    Args:
        crystal: at rest.
        potential: the smoothed pair potential that its energy belongs to.
        temperature: [energy].

    Raises:
        TypeError, ValueError: other objects, the temperature is not positive, the crystal has
            fewer than 2 particles, or they are not at rest.

    Source: Born and Huang 1954, in any book on lattice dynamics.
    """
    arguments.instance("crystal", crystal, Crystal)
    bounded(potential)
    temperature = arguments.number("temperature", temperature, above=0)
    if crystal.n_particles < 2:
        raise ValueError("a crystal of a single particle has no vibrations; take a larger cube")
    squared = np.sort(np.linalg.eigvalsh(_dynamical_matrices(crystal, potential)).ravel())
    # The three shifts of the whole crystal are no vibrations.
    shifts = np.argsort(np.abs(squared))[:3]
    return Vibrations(crystal, temperature, np.delete(squared, shifts))


def by_free_energy(
    crystals: Iterable[Crystal], potential: Smoothed, temperature: float
) -> list[Vibrations]:
    """Put crystals in the order that they have at a temperature.

    Args:
        crystals: of equal numbers of particles, at rest.
        potential, temperature: as for `vibrations`.

    Returns:
        Their vibrations, the lowest free energy first; those that are not stable come last, the
        lowest energy first.

    Raises:
        TypeError, ValueError: as for `vibrations`.
    """
    crystals = arguments.several("crystals", crystals, Crystal)
    found = [vibrations(crystal, potential, temperature) for crystal in crystals]
    return sorted(
        found,
        key=lambda each: (
            not each.stable,
            each.free_energy if each.stable else each.crystal.energy,
        ),
    )


def _dynamical_matrices(crystal: Crystal, potential: Smoothed) -> np.ndarray:
    """Build the dynamical matrix of each wave, (n_cells, 3 n, 3 n) with n particles a cell."""
    start, end, vectors = crystal.bonds(potential.r_cut)
    r = np.linalg.norm(vectors, axis=1)
    slope, bend = _derivatives(potential, r)
    n = len(crystal.basis)
    net = np.zeros((n, 3))
    np.add.at(net, start, (slope / r)[:, None] * vectors)
    if np.abs(net).max() > 1e-3 * energy_unit(potential):
        raise ValueError(
            "the crystal's particles are not at rest: the largest force is "
            f"{np.abs(net).max():.3g}; relax it first, as bases.search does"
        )
    along = vectors[:, :, None] * vectors[:, None] / (r**2)[:, None, None]
    across = np.eye(3) - along
    stiffness = bend[:, None, None] * along + (slope / r)[:, None, None] * across
    phases = np.exp(1j * crystal.wave_vectors @ vectors.T)
    matrices = np.zeros((len(phases), n, 3, n, 3), dtype=complex)
    for i in range(n):
        own = stiffness[start == i].sum(axis=0)
        for j in range(n):
            between = (start == i) & (end == j)
            waves = phases[:, between] @ stiffness[between].reshape(-1, 9)
            matrices[:, i, :, j] = (i == j) * own - waves.reshape(-1, 3, 3)
    return matrices.reshape(-1, 3 * n, 3 * n)


def _derivatives(potential: Smoothed, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return dU/dr and its slope at distances; the slope by the force, for any potential."""
    below, at, above = (
        potential.force(torch.from_numpy(r + step)).numpy() for step in (-_STEP, 0, _STEP)
    )
    return -at, -(above - below) / (2 * _STEP)
