"""Named pair potentials, each with its formula and source, and tables of values read from files.

`make("lennard-jones", epsilon=2)` builds one by its name, `read_table("mine.table")` one from a
file.  Distances are in units in which the number density of the study's boxes is 1.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mddm import arguments
from mddm.potential import OscillatingPair, PairPotential, Tabulated

# A force given beside an energy may differ by this part from the slope of a spline through it,
# which a coarse table gives roughly where it is steep.
_FORCE_TOLERANCE = 0.2


def _positive(default):
    return field(default=default, metadata={"above": 0})


@dataclass(frozen=True)
class _Formula:
    """What all formulas share: numbers for parameters, and distances that are checked."""

    def __post_init__(self):
        for each in fields(self):
            taken = arguments.number(each.name, getattr(self, each.name), **each.metadata)
            object.__setattr__(self, each.name, taken)

    def energy(self, r: Tensor) -> Tensor:
        """Return U(r) [energy] at distances of any shape [length]."""
        return self._energy(arguments.distances(r))

    def force(self, r: Tensor) -> Tensor:
        """Return -dU/dr [energy / length] at distances of any shape [length]."""
        return self._force(arguments.distances(r))


@dataclass(frozen=True)
class LennardJones(_Formula):
    """U(r) = 4 epsilon ((size / r)^12 - (size / r)^6).

    Args:
        epsilon: depth of the well [energy].
        size: where U is zero [length].

    Source: Lennard-Jones 1931.
    """

    epsilon: float = 1.0
    size: float = _positive(1.0)

    def _energy(self, r):
        sixth = (self.size / r) ** 6
        return 4 * self.epsilon * (sixth**2 - sixth)

    def _force(self, r):
        sixth = (self.size / r) ** 6
        return 24 * self.epsilon * (2 * sixth**2 - sixth) / r


@dataclass(frozen=True)
class Morse(_Formula):
    """U(r) = epsilon (exp(-2 alpha (r - r_0)) - 2 exp(-alpha (r - r_0))).

    Args:
        epsilon: depth of the well [energy].
        alpha: the greater, the narrower the well [1 / length].
        r_0: where the well is deepest [length].

    Source: Morse 1929.
    """

    epsilon: float = 1.0
    alpha: float = _positive(6.0)
    r_0: float = 1.0

    def _energy(self, r):
        decay = torch.exp(-self.alpha * (r - self.r_0))
        return self.epsilon * (decay**2 - 2 * decay)

    def _force(self, r):
        decay = torch.exp(-self.alpha * (r - self.r_0))
        return 2 * self.alpha * self.epsilon * (decay**2 - decay)


@dataclass(frozen=True)
class Yukawa(_Formula):
    """U(r) = (size / r)^12 + epsilon exp(-kappa r) / r, a screened charge with a core.

    Args:
        epsilon: strength, positive for repulsion [energy x length].
        kappa: inverse screening length [1 / length].
        size: of the core [length]; 0 for none.

    Source: Yukawa 1935; the soft core stands for the hard one of colloids.
    """

    epsilon: float = 1.0
    kappa: float = 2.0
    size: float = field(default=0.9, metadata={"at_least": 0})

    def _energy(self, r):
        return (self.size / r) ** 12 + self.epsilon * torch.exp(-self.kappa * r) / r

    def _force(self, r):
        screened = self.epsilon * torch.exp(-self.kappa * r) / r
        return 12 * (self.size / r) ** 12 / r + screened * (self.kappa + 1 / r)


@dataclass(frozen=True)
class InversePower(_Formula):
    """U(r) = epsilon (size / r)^exponent.

    Args:
        epsilon: energy at r = `size` [energy].
        size: a distance [length].
        exponent: how steep it is; 12 for soft spheres.

    Source: Hoover et al. 1970, soft spheres.
    """

    epsilon: float = 1.0
    size: float = _positive(1.0)
    exponent: float = _positive(12.0)

    def _energy(self, r):
        return self.epsilon * (self.size / r) ** self.exponent

    def _force(self, r):
        return self.exponent * self._energy(r) / r


@dataclass(frozen=True)
class Dzugutov(_Formula):
    """U(r) = a (x^-16 - b) exp(1.1 / (x - 1.87)) + b exp(0.27 / (x - 1.94)), with x = r / size.

    Each term ends where its exponent diverges.  The hump at 1.6 keeps simple crystals away and
    favours icosahedra.

    Args:
        epsilon: factor of the energy [energy].
        size: unit of distance [length].

    Source: Dzugutov 1992, with its parameters a = 5.82 and b = 1.28.
    """

    epsilon: float = 1.0
    size: float = _positive(1.0)

    _A, _B, _M = 5.82, 1.28, 16
    _FIRST, _SECOND = (1.1, 1.87), (0.27, 1.94)

    def _energy(self, r):
        x = r / self.size
        first, second = (self._decay(x, *term)[0] for term in (self._FIRST, self._SECOND))
        return self.epsilon * (self._A * (x**-self._M - self._B) * first + self._B * second)

    def _force(self, r):
        x = r / self.size
        (first, slope), (_, other) = (self._decay(x, *term) for term in (self._FIRST, self._SECOND))
        power = self._M * x ** -(self._M + 1) * first - (x**-self._M - self._B) * slope
        return self.epsilon * (self._A * power - self._B * other) / self.size

    @staticmethod
    def _decay(x, strength, end):
        inside = x < end
        gap = torch.where(inside, x - end, -torch.ones_like(x))
        decay = torch.where(inside, torch.exp(strength / gap), torch.zeros_like(x))
        return decay, -strength / gap**2 * decay


@dataclass(frozen=True)
class LennardJonesGauss(_Formula):
    """U(r) = r^-12 - 2 r^-6 - epsilon exp(-(r - r_0)^2 / (2 width^2)), a second well.

    Args:
        epsilon: depth of the second well [energy].
        r_0: its place [length].
        width: its width [length].

    Source: Engel and Trebin 2007, whose width^2 is 0.02.
    """

    epsilon: float = 1.8
    r_0: float = 1.42
    width: float = _positive(0.02**0.5)

    def _energy(self, r):
        return r**-12 - 2 * r**-6 - self._well(r)

    def _force(self, r):
        slope = self._well(r) * (r - self.r_0) / self.width**2
        return 12 * r**-13 - 12 * r**-7 - slope

    def _well(self, r):
        return self.epsilon * torch.exp(-((r - self.r_0) ** 2) / (2 * self.width**2))


@dataclass(frozen=True)
class DecayingOscillation(_Formula):
    """U(r) = r^-15 + r^-decay cos(k (r - 1.25) - phi), the oscillating potential of any decay.

    Args:
        k: spatial frequency [1 / length].
        phi: phase [rad].
        decay: exponent of the oscillation; 3 in `potential.OscillatingPair`.

    Source: Mihalkovič and Henley 2012, who fit both exponents to metals.
    """

    k: float
    phi: float
    decay: float = _positive(5.0)

    def _energy(self, r):
        return r**-15 + r**-self.decay * torch.cos(self.k * (r - 1.25) - self.phi)

    def _force(self, r):
        phase = self.k * (r - 1.25) - self.phi
        slope = self.decay / r * torch.cos(phase) + self.k * torch.sin(phase)
        return 15 * r**-16 + r**-self.decay * slope


@dataclass(frozen=True)
class Shoulder(_Formula):
    """U(r) = (size / r)^14 + epsilon (1 - tanh(steepness (r - edge))) / 2, a repulsive shoulder.

    Args:
        epsilon: height of the shoulder [energy].
        edge: where it ends [length].
        steepness: of that end [1 / length].
        size: of the core [length].

    Source: Fomin et al. 2008, with a steepness of 10 and an edge from 1.15 to 1.55.
    """

    epsilon: float = 1.0
    edge: float = _positive(1.35)
    steepness: float = _positive(10.0)
    size: float = _positive(1.0)

    def _energy(self, r):
        step = torch.tanh(self.steepness * (r - self.edge))
        return (self.size / r) ** 14 + self.epsilon * (1 - step) / 2

    def _force(self, r):
        step = torch.tanh(self.steepness * (r - self.edge))
        slope = self.epsilon * self.steepness * (1 - step**2) / 2
        return 14 * (self.size / r) ** 14 / r + slope


@dataclass(frozen=True)
class Wells(_Formula):
    """A core, a tail, and three wells or humps: potentials of most shapes.

    U(r) / epsilon = (size / r)^steepness + tail exp(-kappa (r - 1)) / r
    - sum_i depth_i exp(-(r - r_i)^2 / (2 width_i^2)).

    Args:
        epsilon: factor of the energy [energy].
        size: of the core [length].
        steepness: exponent of the core.
        tail: of a screened charge at r = 1, positive for repulsion.
        kappa: its inverse screening length [1 / length].
        depth_1, depth_2, depth_3: of the wells; negative for humps.
        r_1, r_2, r_3: their places [length].
        width_1, width_2, width_3: their widths [length].

    Source: this study.
    """

    epsilon: float = _positive(1.0)
    size: float = _positive(0.9)
    steepness: float = _positive(12.0)
    tail: float = 0.0
    kappa: float = _positive(2.0)
    depth_1: float = 1.0
    r_1: float = _positive(1.1)
    width_1: float = _positive(0.15)
    depth_2: float = 0.0
    r_2: float = _positive(1.6)
    width_2: float = _positive(0.15)
    depth_3: float = 0.0
    r_3: float = _positive(2.2)
    width_3: float = _positive(0.15)

    @property
    def _wells(self):
        return [
            tuple(getattr(self, f"{name}_{i}") for name in ("depth", "r", "width"))
            for i in (1, 2, 3)
        ]

    def _energy(self, r):
        energy = (self.size / r) ** self.steepness
        energy = energy + self.tail * torch.exp(-self.kappa * (r - 1)) / r
        for depth, place, width in self._wells:
            energy = energy - depth * torch.exp(-((r - place) ** 2) / (2 * width**2))
        return self.epsilon * energy

    def _force(self, r):
        force = self.steepness * (self.size / r) ** self.steepness / r
        force = force + self.tail * torch.exp(-self.kappa * (r - 1)) / r * (self.kappa + 1 / r)
        for depth, place, width in self._wells:
            gauss = torch.exp(-((r - place) ** 2) / (2 * width**2))
            force = force - depth * gauss * (r - place) / width**2
        return self.epsilon * force


def oscillating_pair_hoomd(k: float, phi: float) -> OscillatingPair:
    """Build U(r) = r^-15 + r^-3 cos(k r - phi), the oscillating potential of HOOMD-blue.

    Args:
        k: spatial frequency [1 / length].
        phi: phase without the offset of 1.25 [rad].

    Source: Mihalkovič and Henley 2012; HOOMD-blue's `md.pair.OPP` with its other parameters as in
    MDDM section 2.1.
    """
    given = OscillatingPair(k, phi)
    return OscillatingPair(given.k, given.phi - 1.25 * given.k)


FORMULAS: dict[str, Callable[..., PairPotential]] = {
    "opp": OscillatingPair,
    "opp-hoomd": oscillating_pair_hoomd,
    "lennard-jones": LennardJones,
    "morse": Morse,
    "yukawa": Yukawa,
    "inverse-power": InversePower,
    "dzugutov": Dzugutov,
    "lennard-jones-gauss": LennardJonesGauss,
    "opp-decay": DecayingOscillation,
    "shoulder": Shoulder,
    "wells": Wells,
}


def make(name: str, **parameters: float) -> PairPotential:
    """Build a potential by its name.

    Args:
        name: a key of `FORMULAS`.
        parameters: of its formula; those left out take their defaults, where they have one.

    Raises:
        ValueError: an unknown name or parameter, one that is missing or not finite.
    """
    formula = FORMULAS[arguments.choice("name", name, FORMULAS)]
    known = inspect.signature(formula).parameters
    for word in parameters:
        arguments.choice(f"a parameter of {name!r}", word, known)
    missing = [
        word
        for word, parameter in known.items()
        if parameter.default is parameter.empty and word not in parameters
    ]
    if missing:
        raise ValueError(f"{name!r} needs {', '.join(known)}; {', '.join(missing)} not given")
    return formula(**parameters)


def read_table(path: str | Path) -> Tabulated:
    """Read a potential from a file: columns of r, U and, if it has them, the force -dU/dr.

    A table of LAMMPS's `pair_style table` will do, of which the first section is taken and the
    numbering of its lines left out, and so will HOOMD-blue's columns.  What follows a # is left
    out.

    Args:
        path: of a text file.

    Raises:
        FileNotFoundError: no such file.
        TypeError: no path.
        ValueError: no text, lines of other than two or three numbers, a distance of 0, a force that
            is not the slope of the energy, or values that `Tabulated` refuses; the message names
            the file.
    """
    path = arguments.path(path)
    try:
        # Windows begins a text with a mark of its own.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8; save it as such") from error
    lines = [line.split("#")[0].replace(",", " ").split() for line in text.splitlines()]
    lines = [line for line in lines if line]
    # The word alone may be the name of a section.
    heads = [number for number, line in enumerate(lines) if line[0] == "N" and len(line) > 1]
    if heads:
        wanted = arguments.whole(f"N of {path}", _numbers(path, lines[heads[0]][1:2])[0])
        lines = [line[1:] for line in lines[heads[0] + 1 : heads[0] + 1 + wanted]]
        if len(lines) < wanted:
            raise ValueError(f"{path} ends after {len(lines)} of the {wanted} lines it announces")
    rows = [_numbers(path, line) for line in lines]
    if not rows or {len(row) for row in rows} not in ({2}, {3}):
        raise ValueError(
            f"{path} must have two columns, r and U, or three with the force -dU/dr, in every line"
        )
    columns = np.array(rows).T
    wrong = ~np.isfinite(columns).all(axis=0) | (columns[0] <= 0)
    if wrong.any():
        shown = " ".join(f"{value:g}" for value in columns[:, wrong.argmax()])
        raise ValueError(
            f"{path}: r must be above 0 and all numbers finite, got {shown!r}; leave that line out"
        )
    try:
        found = Tabulated(columns[0], columns[1])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if len(columns) == 3:
        slope = found.force(torch.from_numpy(columns[0])).numpy()
        off = np.abs(columns[2] - slope)[1:-1] / (np.abs(slope) + _typical(slope))[1:-1]
        if off.max() > _FORCE_TOLERANCE:
            worst = 1 + int(off.argmax())
            raise ValueError(
                f"{path}: the third column must be the force -dU/dr; at r = {columns[0, worst]:g} "
                f"it is {columns[2, worst]:g}, and the energies fall by {slope[worst]:g} a length. "
                "Mend its sign or leave it out"
            )
    return found


def _typical(slope):
    return np.median(np.abs(slope)) + np.finfo(float).tiny


def _numbers(path, words):
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise ValueError(
            f"{path} must hold numbers in columns of r and U, with blanks or commas between them; "
            f"got {' '.join(words)!r}. Put a # before lines of words"
        ) from error
