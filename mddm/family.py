"""Potentials as files and commands name them: a formula, what is fixed of it, and what varies.

A `Family` is what a data set, a trained model and the command line know of a potential; with the
numbers of a condition it becomes a potential.
"""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mddm import arguments, formulas
from mddm.potential import CLOSEST, CONVENTION, Smoothed, Tabulated

# The name of values that were read from a table; its parameters are those of `Tabulated`.
TABULATED = "tabulated"
# What data sets of before, and of HOOMD-blue's users, call their potential.
CONVENTIONS = {CONVENTION: "opp", "U(r) = r^-15 + r^-3 cos(k r - phi)": "opp-hoomd"}
# The part of what it varies by that a table need not have come to at its end.
_MUCH = 0.25
_HOW = "a table of r and U in a file, or a name with parameters, such as morse:alpha=8,epsilon=2"


@dataclass(frozen=True)
class Family:
    """Smoothed potentials of one formula.

    Args:
        name: a key of `formulas.FORMULAS`, or "tabulated".
        parameters: those that all potentials of the family share; of a table r [length] and
            energy [energy], both (n,).
        r_on, r_cut, r_core: see `potential.Smoothed` [length].

    Raises:
        TypeError, ValueError: an unknown name or parameter, or radii out of order.

    Example:
        `Family("opp").at({"k": 9.0, "phi": 0.75})`.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    r_on: float = Smoothed.r_on
    r_cut: float = Smoothed.r_cut
    r_core: float = Smoothed.r_core

    def __post_init__(self):
        arguments.choice("name", self.name, (*formulas.FORMULAS, TABULATED))
        given = dict(arguments.instance("parameters", self.parameters, Mapping))
        for word, value in given.items():
            arguments.choice(f"a parameter of {self.name!r}", word, self._defaults())
            if self.name == TABULATED:
                given[word] = arguments.array(word, value, ("n",)).tolist()
            else:
                given[word] = arguments.number(word, value)
        object.__setattr__(self, "parameters", given)
        for radius in ("r_on", "r_cut", "r_core"):
            object.__setattr__(self, radius, arguments.number(radius, getattr(self, radius)))
        if not self.needs:
            self.at({})

    def __str__(self):
        if self.name == TABULATED:
            r = self.parameters["r"]
            told = f"{len(r)} values from r = {r[0]:g} to {r[-1]:g}"
        else:
            told = ", ".join(f"{word} = {value:g}" for word, value in self.parameters.items())
            told = ", ".join(filter(None, [told, *(f"any {word}" for word in self.needs)]))
        name = f"{self.name} ({told})" if told else self.name
        return f"{name}, smoothed from {self.r_on:g} to {self.r_cut:g}"

    def _defaults(self) -> dict[str, Any]:
        formula = Tabulated if self.name == TABULATED else formulas.FORMULAS[self.name]
        known = inspect.signature(formula).parameters
        return {word: parameter.default for word, parameter in known.items()}

    @property
    def free(self) -> tuple[str, ...]:
        """Parameters that may vary, in the order of the formula."""
        return tuple(word for word in self._defaults() if word not in self.parameters)

    @property
    def needs(self) -> tuple[str, ...]:
        """Those of them that have no default, and must be given."""
        defaults = self._defaults()
        return tuple(word for word in self.free if defaults[word] is inspect.Parameter.empty)

    def fix(self, condition: Mapping[str, float]) -> "Family":
        """Return the family in which a condition's parameters vary no more.

        Args:
            condition: numbers by name; those that the formula does not have, such as the
                temperature, are left out.
        """
        fixed = {word: condition[word] for word in self.free if word in condition}
        return replace(self, parameters={**self.parameters, **fixed})

    def at(self, condition: Mapping[str, float]) -> Smoothed:
        """Return the potential of a condition; see `fix`.

        Raises:
            TypeError, ValueError: a parameter that is missing, or a value that the formula refuses.
        """
        given = {word: condition[word] for word in self.free if word in condition}
        given = {**self.parameters, **given}
        make = Tabulated if self.name == TABULATED else formulas.FORMULAS[self.name]
        if any(word not in given for word in self.needs):
            raise ValueError(f"{self.name!r} needs {', '.join(self.needs)} in its condition")
        return Smoothed(make(**given), self.r_on, self.r_cut, self.r_core)


def common(families: Sequence[Family]) -> tuple[Family, dict[str, list[float]]] | None:
    """Part what families share from the parameters in which they differ.

    Args:
        families: at least one.

    Returns:
        The family of them all, and the values of each parameter that it leaves to vary; None where
        they are of several formulas, or differ in more than numbers.
    """
    first = families[0]
    alike = all(
        replace(each, parameters=first.parameters) == first
        and each.parameters.keys() == first.parameters.keys()
        for each in families
    )
    varied = {
        name: [each.parameters.get(name) for each in families]
        for name, value in first.parameters.items()
        if any(each.parameters.get(name) != value for each in families)
    }
    if not alike or any(isinstance(each, list) for values in varied.values() for each in values):
        return None
    fixed = {name: value for name, value in first.parameters.items() if name not in varied}
    return replace(first, parameters=fixed), varied


def parse(potential: str) -> Family:
    """Read a family from what is written on a command line.

    Args:
        potential: a name with parameters, such as "morse:alpha=8,epsilon=2", or the path of a
            table, see `formulas.read_table`.  A table is smoothed as far as it goes, and a warning
            tells what that leaves out.

    Raises:
        FileNotFoundError: no such file.
        TypeError, ValueError: an unknown name or parameter, a name that is a file's, too, a file
            that is no table, or a table without the distances at which particles meet.
    """
    text = arguments.instance("potential", potential, str)
    name, _, parameters = text.partition(":")
    if Path(text).is_file():
        if text in formulas.FORMULAS:
            raise ValueError(
                f"potential {text!r} is a formula, and a file of that name is here; give ./{text} "
                f"for the file, or {text}: for the formula"
            )
        return _of_table(text)
    if name not in formulas.FORMULAS and (Path(text).suffix or "/" in text):
        raise FileNotFoundError(f"there is no file {text}; potential must be {_HOW}")
    arguments.choice("potential, where it is no file,", name, formulas.FORMULAS)
    pairs = [pair.partition("=") for pair in parameters.split(",") if pair]
    try:
        numbers = {key.strip(): float(value) for key, _, value in pairs}
    except ValueError as error:
        raise ValueError(f"potential {text!r} is not a name and parameters; give {_HOW}") from error
    return Family(name, numbers)


def _of_table(path: str) -> Family:
    table = formulas.read_table(path)
    r_cut, r_core = min(Smoothed.r_cut, table.r_max), max(Smoothed.r_core, table.r_min)
    smoothed = Smoothed.r_cut - Smoothed.r_on
    unit = "lengths are in units in which the number density is 1"
    if not (table.r_min < CLOSEST and r_core < r_cut - smoothed):
        raise ValueError(
            f"{path} goes from r = {table.r_min:g} to {table.r_max:g}, and must go from below "
            f"{CLOSEST:.2f} to above {r_core + smoothed:g}; {unit}"
        )
    beyond = np.abs(table.values[table.r > r_cut])
    left = float(table.energy(torch.tensor(r_cut, dtype=torch.float64)))
    varies = np.ptp(table.values[(table.r >= CLOSEST) & (table.r <= r_cut)])
    told = [f"what lies beyond r = {r_cut:g} is left out; {unit}"] if beyond.any() else []
    if abs(left) > _MUCH * varies:
        told.append(f"U is {left:g} at r = {r_cut:g}, and brought to 0 from {r_cut - smoothed:g}")
    for line in told:
        warnings.warn(f"{path}: {line}", stacklevel=3)
    points = {"r": table.r, "energy": table.values}
    return Family(TABULATED, points, r_cut - smoothed, r_cut, r_core)
