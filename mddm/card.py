"""What a trained model is, and what it can be asked for."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from mddm import arguments
from mddm.family import Family
from mddm.potential import Smoothed, energy_scale

# How far a density may be from that of training, relatively.
_DENSITY_TOLERANCE = 0.01
_FULL_TURN = 2 * math.pi
# How far a box may be from those of training for its structure to be repeated in a larger one.
_EDGE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Card:
    """What a trained model is and knows.

    Args:
        name: what `load` takes.
        preset: its network, one of `presets.PRESETS`.
        ranges: name and range of each number of its condition; none for a model of one structure.
            The temperature of a model that is told a potential is in its `potential.energy_scale`.
        potential: what its training data was made with; None where it is not known.
        n_particles: particles in a configuration of training.
        box_length: edge of its periodic cube [length]; None for free space.
        n_parameters: of the network.
        steps: that it was trained.
        told: what its condition is, a key of `encoding.CONDITIONINGS`.
        source: its file, with the file's hash.
    """

    name: str
    preset: str
    ranges: Mapping[str, tuple[float, float]]
    potential: Family | None
    n_particles: int
    box_length: float | None
    n_parameters: int
    steps: int
    told: str = "numbers"
    source: str = ""

    def _ranges(self, potential: Smoothed | None) -> dict[str, tuple[float, float]]:
        """Give the ranges of a condition's numbers, in the caller's units."""
        if self.told != "potential":
            return dict(self.ranges)
        if potential is None:
            raise ValueError(
                f"{self.name!r} has to be told a potential; give it, as "
                "potential=Smoothed(...), or --potential with `mddm sample`"
            )
        arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
        unit = energy_scale(potential)
        if unit == 0:
            raise ValueError("potential must vary where particles meet, and is the same everywhere")
        return {name: (low * unit, high * unit) for name, (low, high) in self.ranges.items()}

    def take_condition(
        self, given: Mapping, potential: Smoothed | None = None, extrapolate: bool = False
    ) -> dict[str, float]:
        """Take the numbers of a condition.

        Args:
            given: name and value of each; None counts as not given.
            potential: that a model of potentials is told.
            extrapolate: whether values outside of the ranges of training will do, with a warning.

        Raises:
            TypeError, ValueError: a number that is missing or not known, no number at all, or one
                out of its range.
        """
        known = self._ranges(potential)
        given = {name: value for name, value in given.items() if value is not None}
        if not known and given:
            raise ValueError(
                f"{self.name!r} is a model of one structure and takes no condition; leave out "
                f"{', '.join(given)}, or load a conditional model, such as 'bragg'"
            )
        missing = [name for name in known if name not in given]
        if missing:
            raise ValueError(
                f"{self.name!r} has to be told {', '.join(known)}; {', '.join(missing)} not given"
            )
        unknown = [name for name in given if name not in known]
        if unknown:
            words = ", ".join(known) + " and a potential" * (self.told == "potential")
            raise ValueError(f"{self.name!r} knows {words} alone; leave out {', '.join(unknown)}")
        condition = {name: arguments.number(name, given[name]) for name in known}
        if "phi" in condition:
            condition["phi"] %= _FULL_TURN
        outside = [
            f"{name} = {condition[name]:.6g} lies outside of [{low:g}, {high:g}]"
            for name, (low, high) in known.items()
            if not low <= condition[name] <= high
        ]
        if condition.get("temperature", 1.0) <= 0:
            raise ValueError(f"temperature must be above 0, got {condition['temperature']}")
        if outside:
            told = f"{'; '.join(outside)}, where {self.name!r} was trained"
            if not extrapolate:
                raise ValueError(
                    f"{told}; pass extrapolate=True, or --extrapolate, to ask all the same"
                )
            warnings.warn(f"{told}: the answer is a guess", stacklevel=3)
        return condition

    def take_size(
        self, n_particles: int | None = None, box_length: float | None = None
    ) -> tuple[int, float | None]:
        """Give both number of particles and box [length], at the density of training.

        Raises:
            TypeError, ValueError: another density, or an argument of another kind or out of its
                range.
        """
        if self.box_length is None:
            if box_length is not None:
                raise ValueError(f"{self.name!r} draws points in free space; leave out box_length")
            wanted = self.n_particles if n_particles is None else n_particles
            return arguments.whole("n_particles", wanted, at_least=2), None
        density = self.n_particles / self.box_length**3
        if n_particles is None:
            edge = self.box_length if box_length is None else arguments.box(box_length)
            n_particles = round(density * edge**3)
        n_particles = arguments.whole("n_particles", n_particles, at_least=2)
        if box_length is None:
            box_length = (n_particles / density) ** (1 / 3)
            if n_particles == self.n_particles:
                box_length = self.box_length
        box_length = arguments.box(box_length)
        found = n_particles / box_length**3
        if abs(found / density - 1) > _DENSITY_TOLERANCE:
            raise ValueError(
                f"{self.name!r} knows the number density {density:g} alone, and {n_particles} "
                f"particles in a box of {box_length:g} have {found:.4g}; leave out one of the two"
            )
        return n_particles, box_length

    def warn_of_size(self, n_particles: int, box_length: float | None, times: int = 1) -> None:
        """Warn where a system is of another size than in training.

        Args:
            n_particles: of the system.
            box_length: edge of its periodic cube [length]; None for one in free space.
            times: how often a smaller sample is repeated along each axis.
        """
        if box_length is None or n_particles == self.n_particles:
            return
        drawn = "they are drawn as a whole"
        if n_particles > self.n_particles:
            drawn += ", and more than in training seldom form a crystal"
        if times > 1:
            drawn = (
                f"{times**3} copies of a smaller sample are drawn again from noise, and a crystal "
                "is one grain"
            )
        warnings.warn(
            f"{self.name!r} was trained on {self.n_particles} particles in a box of "
            f"{self.box_length:g}; {n_particles} in a box of {box_length:.4g} are "
            f"{n_particles / self.n_particles:.3g} times as many: {drawn}",
            stacklevel=3,
        )

    def times_training(self, n_particles: int, box_length: float | None) -> int:
        """Tell of how many boxes like those of training, along each axis, a box is made."""
        if box_length is None:
            return 1
        times = max(1, round(box_length / self.box_length))
        ratio = box_length / times / self.box_length
        whole = n_particles % times**3 == 0 and abs(ratio - 1) < _EDGE_TOLERANCE
        return times if whole else 1
