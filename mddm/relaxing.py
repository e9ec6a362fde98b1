"""What samplers that ask the potential are given: relaxing a system in LAMMPS, and holding it."""

from dataclasses import dataclass

import numpy as np

from mddm import arguments, lammps, lammps_system
from mddm.potential import Smoothed


@dataclass(frozen=True)
class Relaxing:
    """How samplers relax a system, and hold it: a function of its positions.

    Args:
        potential: a smoothed pair potential.
        box_length: edge of the periodic cube [length].
        temperature: at which to hold [energy]; None where nothing is held.

    Raises:
        TypeError, ValueError: another potential than a smoothed one, one that is not fit for MD, or
            a number out of its range.
    """

    potential: Smoothed
    box_length: float
    temperature: float | None = None

    def __post_init__(self):
        box_length = lammps_system.check(self.potential, self.box_length)
        object.__setattr__(self, "box_length", box_length)
        if self.temperature is not None:
            temperature = arguments.number("temperature", self.temperature, above=0)
            object.__setattr__(self, "temperature", temperature)

    def __call__(self, positions, *, n_steps: int = 0, seed: int = 0, **how) -> np.ndarray:
        """Relax positions and, if `n_steps` are asked for, hold them.

        Args:
            positions: (n_particles, 3) array or tensor [length].
            n_steps: of molecular dynamics afterwards, see `lammps.hold`.
            seed: of it.
            how: the `tolerance` of `lammps.minimize`.

        Returns:
            (n_particles, 3) float32 in [0, box_length).

        Raises:
            ValueError: something is to be held at no temperature.
            As `lammps.minimize` and `lammps.hold`.
        """
        n_steps = arguments.whole("n_steps", n_steps, at_least=0)
        if n_steps and self.temperature is None:
            raise ValueError("temperature is not known, at which to hold; give one")
        at_rest = lammps.minimize(positions, self.potential, self.box_length, **how)[0]
        if not n_steps:
            return at_rest
        size = {"box_length": self.box_length}
        held = lammps.hold(self.potential, at_rest, self.temperature, n_steps, seed, **size)
        return held.positions
