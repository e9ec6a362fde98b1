"""Structures of one condition: their energies and g(r), at rest, in files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mddm import arguments, export, lammps, structure
from mddm.budget import Candidate
from mddm.potential import Smoothed, potential_energy

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Structures:
    """Structures of one condition, drawn from a model.

    Args:
        positions: (n_samples, n_particles, 3) float32, in [0, box_length) where there is a box
            [length].
        box_length: edge of the periodic cube [length]; None for free space.
        condition: name and value of each number of the condition.
        potential: what their energies are of; None where it is not known.
        calls: of the network, for each of them.
        seconds: for each of them, on average.
        candidates: of an answer within a budget: itself, then the others by energy at rest.
        source: what drew them, see `trust.source_of`; "" for what is no sample of what MD comes to.
    """

    positions: np.ndarray
    box_length: float | None
    condition: Mapping[str, float] = field(default_factory=dict)
    potential: Smoothed | None = None
    calls: int = 0
    seconds: float = 0.0
    candidates: tuple[Candidate, ...] = ()
    source: str = ""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def energies(self) -> np.ndarray:
        """The potential energy per particle of each, (n_samples,) [energy].

        Raises:
            ValueError: their potential is not known.
        """
        potential = self.known_potential()
        systems = torch.as_tensor(self.positions).double()
        return np.array(
            [potential_energy(one, potential, self.box_length).mean().item() for one in systems]
        )

    def rdf(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute g(r), averaged over them; see `structure.rdf`.

        Raises:
            ValueError: they are in free space.
        """
        return structure.rdf(self.positions, self.periodic_box())

    def crystallinity(self) -> np.ndarray:
        """Return the share of crystalline particles of each, (n_samples,)."""
        return np.array(
            [structure.crystallinity(one, self.periodic_box()) for one in self.positions]
        )

    def relax(self, potential: Smoothed | None = None) -> "Structures":
        """Go downhill in energy to the nearest minimum.

        Args:
            potential: their own by default.

        Raises:
            ValueError: no potential is known, or they are in free space.
        """
        potential = self.known_potential(potential)
        relaxed = [
            lammps.minimize(one, potential, self.periodic_box())[0] for one in self.positions
        ]
        return replace(self, positions=np.stack(relaxed), potential=potential)

    def write(self, path: str | Path) -> None:
        """Write them as the frames of a file, see `export.write` for its endings.

        Raises:
            ValueError: another ending, or they are in free space.
            OSError: the file cannot be written.
        """
        export.write(path, self.positions, self.periodic_box(), self._information())

    def to_ase(self) -> list["Atoms"]:
        """Return them as ASE's `Atoms`, of the element X, which is none."""
        return export.to_ase(self.positions, self.periodic_box(), self._information())

    def _information(self):
        numbers = {name: np.full(len(self), value) for name, value in self.condition.items()}
        if self.potential is not None:
            numbers["energy_per_particle"] = self.energies
        return numbers

    def known_potential(self, potential: Smoothed | None = None) -> Smoothed:
        """Return the potential that is given, or their own.

        Raises:
            TypeError, ValueError: no smoothed potential, or none at all.
        """
        potential = self.potential if potential is None else potential
        if potential is None:
            raise ValueError("their potential is not known; give it, as potential=Smoothed(...)")
        return arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")

    def periodic_box(self) -> float:
        """Return the edge of their box [length]; a ValueError in free space."""
        if self.box_length is None:
            raise ValueError("these are points in free space; this needs a periodic box")
        return self.box_length
