"""What a training run draws its examples from: MD configurations, or any other source."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mddm import arguments, encoding
from mddm.condition import RANGES, take_ranges
from mddm.dataset import Dataset
from mddm.family import Family
from mddm.geometry import wrap


class Source(Protocol):
    """Where training gets its clean configurations from."""

    box_length: float | None
    ranges: Mapping[str, tuple[float, float]]
    potential: Family | None

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw x_0, (batch, n_particles, 3) [length], and their conditions.

        Conditions are (batch, len(ranges)), or None where there are no ranges.
        """


@dataclass(frozen=True)
class Configurations:
    """MD configurations, drawn at random and turned by a random symmetry of the cube.

    Args:
        positions: (n_configurations, n_particles, 3) [length]; any image of a particle will do.
        conditions: (n_configurations, len(ranges)) numbers of each, or (n_configurations, 303)
            where `encoding.encode` made them of potentials; None to train on structures alone.
        box_length: edge of the periodic cube [length].
        ranges: name and range of each number of a condition; by default the study's k, phi and
            temperature.
        potential: what they were made with, for those who ask a trained model for energies; None
            where it is not known.
        told: what a condition is, a key of `encoding.CONDITIONINGS`.

    Raises:
        TypeError, ValueError: shapes that do not fit each other, no configuration at all, numbers
            that are not finite, or a box that is not positive.

    Source: MDDM section 5, the augmentation of the unconditional task.
    """

    positions: Tensor
    conditions: Tensor | None
    box_length: float
    ranges: Mapping[str, tuple[float, float]] | None = None
    potential: Family | None = None
    told: str = "numbers"
    _copies: dict = field(init=False, repr=False, compare=False, default_factory=dict)

    @classmethod
    def of(cls, *datasets: Dataset, told: str = "numbers") -> "Configurations":
        """Take all configurations of data sets, with their conditions where these vary.

        Args:
            datasets: one; or several of one box, where conditions are potentials.
            told: what a condition is to be, a key of `encoding.CONDITIONINGS`.

        Raises:
            ValueError: several data sets whose conditions are numbers, several boxes or numbers of
                particles, or a potential that `encoding.encode` refuses.
        """
        sizes = {(each.box_length, each.positions.shape[1:]) for each in datasets}
        if len(sizes) != 1 or (told == "numbers" and len(datasets) > 1):
            raise ValueError(
                "datasets must be one, or several of one box and number of particles that are told "
                f"by their potentials, got {len(datasets)} of {len(sizes)} sizes"
            )
        first, box_length = datasets[0], datasets[0].box_length
        positions = np.concatenate([each.positions for each in datasets])
        known = {"potential": first.family if isinstance(first.family, Family) else None}
        if told == "numbers":
            conditions = first.conditions if first.ranges else None
            return cls(positions, conditions, box_length, first.ranges, **known)
        conditions = torch.cat([each.encoded for each in datasets])
        ranges = {"temperature": encoding.SCALED_TEMPERATURES}
        return cls(positions, conditions, box_length, ranges, told=told)

    @classmethod
    def one(cls, dataset: Dataset, row: int) -> "Configurations":
        """Take one configuration of a data set, to train on its structure alone."""
        potential = dataset.family_of(row)
        return replace(cls.of(dataset.take([row])), conditions=None, potential=potential)

    def alone(self) -> "Configurations":
        """Leave their conditions out."""
        return replace(self, conditions=None)

    def __post_init__(self):
        shape, precision = ("n_configurations", "n_particles", 3), torch.get_default_dtype()
        taken = {
            "positions": arguments.positions(self.positions, shape, dtype=precision),
            "box_length": arguments.box(self.box_length),
        }
        ranges = take_ranges(RANGES if self.ranges is None else self.ranges)
        taken["ranges"] = {} if self.conditions is None else ranges
        arguments.choice("told", self.told, encoding.CONDITIONINGS)
        if self.potential is not None:
            arguments.instance("potential", self.potential, Family)
        if self.conditions is not None:
            n_numbers = len(ranges) if self.told == "numbers" else encoding.SIZE
            size = {"batch": len(taken["positions"]), "n_numbers": n_numbers}
            taken["conditions"] = arguments.conditions(self.conditions, **size).to(precision)
        for name, value in taken.items():
            object.__setattr__(self, name, value)

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw configurations with replacement, each under one of the cube's 48 symmetries.

        Raises:
            TypeError, ValueError: a batch size that is no whole number above 0, or no generator.
        """
        batch_size = arguments.whole("batch_size", batch_size, at_least=1)
        arguments.generator(generator)
        on = {"device": generator.device, "generator": generator}
        chosen = torch.randint(len(self.positions), (batch_size,), **on)
        positions, conditions = self._on(generator.device)
        x_0 = positions[chosen]
        axes = torch.rand(batch_size, 1, 3, **on).argsort(dim=-1).expand_as(x_0)
        mirrored = torch.rand(batch_size, 1, 3, **on) < 0.5
        x_0 = x_0.gather(2, axes)
        x_0 = wrap(torch.where(mirrored, -x_0, x_0), self.box_length)
        return x_0, None if conditions is None else conditions[chosen]

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Give positions and conditions on a device, which they are copied to once."""
        if device not in self._copies:
            held = self.positions, self.conditions
            self._copies[device] = [each if each is None else each.to(device) for each in held]
        return self._copies[device]
