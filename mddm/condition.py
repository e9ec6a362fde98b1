"""What a network is told of a whole system: the condition that it is under, and how noisy it is.

A condition is a few numbers, each with a name and a range.  Names and ranges belong to the data
that a network is trained on; a network is given them as a part, its `Conditioning`, and asks it
for numbers between -1 and 1 that it need not understand.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mddm import arguments
from mddm.layers import Gaussians

# The ranges that the study covers, each closed on the left (MDDM section 2.1).
RANGES = {"k": (1.0, 15.0), "phi": (0.0, 6.0), "temperature": (0.01, 0.05)}
# A network has room for as many numbers as the paper's, so that it has the paper's number of
# parameters whatever it is told; what a condition leaves of it is zero.
N_NUMBERS = len(RANGES)
N_GLOBALS = N_NUMBERS + 1
# Noise levels of the study [length]: below thermal motion, and half its box.
SIGMA_MIN, SIGMA_MAX = 0.005, 5.0
_SIGMA_MAX_FREE = 3.0


def sigma_max(box_length: float | None) -> float:
    """Give the noise level at which nothing is left of the data [length].

    Half a box edge, where a wrapped normal is uniform to 1.4 %; in free space 3, three times the
    size of the surfaces.

    Args:
        box_length: edge of the periodic cube [length], or None for free space.

    Raises:
        TypeError, ValueError: a box that is not positive and finite.
    """
    box_length = arguments.box(box_length, free=True)
    return _SIGMA_MAX_FREE if box_length is None else box_length / 2


def take_ranges(value: Any, name: str = "ranges") -> dict[str, tuple[float, float]]:
    """Take names and ranges of a condition's numbers.

    Args:
        value: name and (low, high) of each number; none for what has no condition.
        name: the argument's.

    Raises:
        TypeError, ValueError: no such mapping, a name that is no word, or a range that is not
            low < high.
    """
    taken = {}
    for word, ends in arguments.instance(name, value, Mapping).items():
        if not str(word).isidentifier():
            raise ValueError(f"each of {name} must be named by a word, got {word!r}")
        low, high = arguments.array(f"{name} of {word}", ends, (2,)).tolist()
        if not low < high:
            raise ValueError(f"{name} of {word} must be low < high, got {low} and {high}")
        taken[word] = (low, high)
    return taken


class Conditioning(nn.Module):
    """The part of a network that knows what conditions and noise levels are.

    It has no weights.  What stands in its place, `encoding.PotentialConditioning`, which is told a
    potential instead of numbers, has the same members.

    Args:
        ranges: name and (low, high) of each number of a condition; none for a model of one
            structure, which takes no condition.
        sigma_min, sigma_max: noise levels [length] where the diffusion fraction is 0 and 1.
        n_levels: Gaussians that `spread` turns the diffusion fraction into.

    Attributes:
        n_globals: numbers that it makes of condition and noise level.
        n_features: numbers that `spread` makes of those, the last `n_levels` of the noise level.
        n_edge, n_wave: numbers that it tells of every edge and wave: none.

    Raises:
        TypeError, ValueError: ranges that are none, not 0 < sigma_min < sigma_max, or fewer than
            two Gaussians.
    """

    n_edge = n_wave = 0

    def __init__(
        self,
        ranges: Mapping[str, tuple[float, float]] = RANGES,
        sigma_min: float = SIGMA_MIN,
        sigma_max: float = SIGMA_MAX,
        n_levels: int = 8,
    ):
        super().__init__()
        self.ranges = take_ranges(ranges)
        self.sigma_min = arguments.number("sigma_min", sigma_min, above=0)
        self.sigma_max = arguments.number("sigma_max", sigma_max, above=self.sigma_min)
        self.n_levels = n_levels = arguments.whole("n_levels", n_levels, at_least=2)
        self.n_numbers = max(len(self.ranges), N_NUMBERS)
        self.n_globals, self.n_features = self.n_numbers + 1, self.n_numbers + n_levels
        self.levels = Gaussians(0.0, 1.0, n_levels)

    def forward(self, condition: Tensor | None, sigma: Tensor) -> Tensor:
        """Put together what is told about the whole system, the vector g.

        Its last entry, the diffusion fraction t / T, is the step number over the number of steps
        on a log schedule from `sigma_min` to `sigma_max`; written as a function of sigma it lets a
        trained network follow any schedule.

        Args:
            condition: (batch, len(ranges)) numbers in the order of the ranges; None for a model of
                one structure.
            sigma: (batch,) noise levels [length], positive.

        Returns:
            (batch, n_globals): the condition, scaled from its ranges to [-1, 1) and filled up with
            zeros, then log(sigma / sigma_min) / log(sigma_max / sigma_min).

        Raises:
            TypeError, ValueError: a condition where there is none or none where there must be one,
                or an argument of another shape, not finite or not positive.

        Source: MDDM section 4.2, below eq. 1.
        """
        sigma = arguments.sigma(sigma, ("batch",))
        told = [sigma.new_zeros(len(sigma), self.n_numbers - len(self.ranges))]
        told.append(self._fraction(sigma))
        names = ", ".join(self.ranges)
        if self.ranges:
            if condition is None:
                raise ValueError(
                    f"condition must be {names} of each system, as this network has learned them; "
                    "got None, which is for models of one structure"
                )
            shape = (len(sigma), len(self.ranges))
            condition = arguments.tensor(f"condition ({names})", condition, shape).to(sigma)
            ranges = torch.tensor(list(self.ranges.values()), dtype=torch.float64).to(sigma)
            low, high = ranges.unbind(-1)
            told.insert(0, 2 * (condition - low) / (high - low) - 1)
        elif condition is not None:
            raise ValueError(
                "condition must be None: this network has learned one structure and takes none"
            )
        return torch.cat(told, dim=1)

    def _fraction(self, sigma: Tensor) -> Tensor:
        fraction = torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        return fraction[:, None]

    def spread(self, globals_: Tensor) -> Tensor:
        """Turn (batch, n_globals) into (batch, n_features): the fraction over Gaussians."""
        return torch.cat([globals_[:, :-1], self.levels(globals_[:, -1:])], dim=-1)


def take_conditioning(value: Any, name: str = "conditioning") -> nn.Module:
    """Take the part of a network that this module is about; None stands for the study's.

    Raises:
        TypeError: another object.
    """
    return Conditioning() if value is None else arguments.instance(name, value, nn.Module)
