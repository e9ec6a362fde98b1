"""How far to believe an answer: what it would differ from MD by, told without MD.

Where a network is sure of a structure, all of its samples come to it; where it is not, they come to
different ones, of different energies, and where it fails a quench lies lower.  How much MD
differs from the `answer` was measured on potentials that the network has not learned.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mddm import arguments, files, structure
from mddm.potential import Smoothed, energy_scale

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# The calibration's file, beside the models.
FILE = "trust.json"
# Fewer samples tell nothing; and MD steps of the quench beside them.
FEWEST, QUENCH_STEPS = 3, 10_000
# The share of answers whose difference from MD is to be below what is said.
COVERAGE = 0.9
# Differences and spreads below this one are as good as none.
_LEAST = 1e-3
# What `Evidence` has that differences are guessed from.
SEEN = ("crystalline", "spread", "sampled")


@dataclass(frozen=True)
class Evidence:
    """What can be known of several samples of one condition, and a quench, without a slow anneal.

    Args:
        crystalline: the share of samples that are crystals (`structure.CRYSTAL`).
        spread: standard deviation of their energies at rest, in units of `potential.energy_scale`.
        sampled: 1 where one of them is lower at rest than the quench; 0 where the quench is.
    """

    crystalline: float
    spread: float
    sampled: float


@dataclass(frozen=True)
class Difference:
    """What the answer of several samples and a quench is thought to differ from MD by.

    Args:
        expected: RDF-MSE to an MD run, the middle of what was found for such answers; nan where it
            was found for those of other samples alone, of another model or sampler.
        at_most: what nine of ten of them are below; nan likewise.
        evidence: what it was told from.
    """

    expected: float
    at_most: float
    evidence: Evidence

    def __str__(self):
        said = "not known; that was measured on samples of another model or sampler"
        if math.isfinite(self.expected):
            said = (
                f"about {self.expected:.2g}, and below {self.at_most:.2g} in {COVERAGE:.0%} of "
                "such cases"
            )
        return (
            f"RDF-MSE to MD: {said} ({self.evidence.crystalline:.0%} of the samples are crystals, "
            f"the lowest at rest is {'a sample' if self.evidence.sampled else 'the quench'})"
        )


def answer(
    crystallinity: "ArrayLike", energy_at_rest: "ArrayLike", *, quenched: bool = True
) -> int:
    """Choose what MD is likeliest to come to among several samples and a quench.

    Samples are drawn from what MD comes to: most of them say whether that is a crystal.  Of all
    crystals the lowest at rest has the fewest defects.  A glass is what MD was too fast to bring to
    order, and a quench, which is MD, is closer to that than a sample.

    Args:
        crystallinity: (n,) of each, see `structure.crystallinity`; the quench comes last.
        energy_at_rest: (n,) potential energy per particle in the nearest minimum [energy].
        quenched: whether there is a quench; otherwise the lowest of the samples that agree with
            most of them is taken.

    Returns:
        Its index.

    Raises:
        TypeError, ValueError: no sample, or lists of different lengths.
    """
    ordered = arguments.array("crystallinity", crystallinity, ("n",)).astype(float)
    energies = arguments.array("energy_at_rest", energy_at_rest, ("n",)).astype(float)
    n_samples = len(ordered) - quenched
    if len(ordered) != len(energies) or n_samples < 1:
        raise ValueError(
            f"crystallinity and energy_at_rest must be of samples{' and a quench' * quenched}, got "
            f"{len(ordered)} and {len(energies)}"
        )
    crystals = ordered > structure.CRYSTAL
    is_crystal = crystals[:n_samples].mean() > 0.5
    if quenched and not is_crystal:
        return n_samples
    agreeing = np.flatnonzero(crystals == is_crystal)
    return int(agreeing[energies[agreeing].argmin()])


def evidence(
    crystallinity: "ArrayLike", energy_at_rest: "ArrayLike", quenched: float, potential: Smoothed
) -> Evidence:
    """Gather what can be known of several samples and a quench.

    Args:
        crystallinity: (n,) of each, see `structure.crystallinity`; n at least 3.
        energy_at_rest: (n,) potential energy per particle of each in the nearest minimum [energy].
        quenched: the same energy of a quench of `QUENCH_STEPS` [energy].
        potential: of all of them.

    Raises:
        TypeError, ValueError: fewer than three, or lists of different lengths.
    """
    ordered = arguments.array("crystallinity", crystallinity, ("n",)).astype(float)
    energies = arguments.array("energy_at_rest", energy_at_rest, ("n",)).astype(float)
    if len(ordered) != len(energies) or len(energies) < FEWEST:
        raise ValueError(
            f"crystallinity and energy_at_rest must be of at least {FEWEST} samples, got "
            f"{len(ordered)} and {len(energies)}; draw more"
        )
    spread = float(energies.std()) / energy_scale(potential)
    sampled = float(energies.min() <= arguments.number("quenched", quenched))
    return Evidence(float((ordered > structure.CRYSTAL).mean()), spread, sampled)


@dataclass(frozen=True)
class Calibration:
    """How differences from MD follow from evidence: the logarithm is a straight line in it.

    Args:
        intercept: of log10 of the expected RDF-MSE.
        slopes: by what of the evidence; of `spread` that of its log10.
        factor: by what nine of ten differences are at most larger than expected.
        n: answers that it was made from.
        n_potentials: of so many potentials.
        source: what drew the samples, as `source_of` names it.
    """

    intercept: float
    slopes: Mapping[str, float]
    factor: float
    n: int
    n_potentials: int
    source: str

    @classmethod
    def fit(
        cls, known: Sequence[Evidence], differences: Sequence[float], potentials: Sequence,
        source: str = "",
    ) -> "Calibration":  # fmt: skip
        """Calibrate on answers whose difference from MD is known.

        Args:
            known: evidence of each.
            differences: RDF-MSE of each to MD, above zero.
            potentials: of each, by any name; the `factor` is that of potentials left out in turn.
            source: what drew the samples, as `source_of` names it.

        Raises:
            ValueError: lists of different lengths, or of fewer than three potentials.
        """
        if not len(known) == len(differences) == len(potentials):
            raise ValueError(
                "known, differences and potentials must be of one length, got "
                f"{len(known)}, {len(differences)} and {len(potentials)}"
            )
        names = sorted(set(potentials))
        if len(names) < 3:
            raise ValueError(f"potentials must be at least three, got {len(names)}")
        line = _fit(_seen(known), _log(differences))
        factor = 10 ** float(np.quantile(left_out(known, differences, potentials), COVERAGE))
        slopes = dict(zip(SEEN, line[1:].tolist(), strict=True))
        return cls(float(line[0]), slopes, factor, len(known), len(names), source)

    @classmethod
    def read(cls, path: str | Path) -> "Calibration":
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: no such file.
        """
        return cls(**json.loads(Path(path).read_text()))

    def write(self, path: str | Path) -> None:
        """Write it to a JSON file, which is there whole or not at all."""
        files.write_whole(Path(path), json.dumps(asdict(self), indent=1) + "\n")

    def judge(self, of: Evidence, source: str) -> Difference:
        """Say what an answer is thought to differ from MD by.

        Args:
            of: what is known of it.
            source: what drew the samples; where it is another than here, the difference is unknown.
        """
        if source != self.source:
            return Difference(math.nan, math.nan, of)
        line = np.array([self.intercept, *(self.slopes[name] for name in SEEN)])
        expected = 10 ** float(_line(line, _seen([of]))[0])
        return Difference(expected, self.factor * expected, of)


def source_of(checkpoint: str, sampler: str) -> str:
    """Name what draws samples of what MD comes to: a checkpoint with its hash, and a sampler."""
    return f"{checkpoint}, {sampler}"


def left_out(
    known: Sequence[Evidence], differences: Sequence[float], potentials: Sequence
) -> np.ndarray:
    """Compute by how much answers differ from what the answers of other potentials let expect.

    Args:
        known, differences, potentials: as for `Calibration.fit`.

    Returns:
        (n,) log10 of the difference over the expected one.
    """
    seen, found = _seen(known), _log(differences)
    names = np.array([str(name) for name in potentials])
    missed = np.empty(len(found))
    for name in np.unique(names):
        out = names == name
        missed[out] = found[out] - _line(_fit(seen[~out], found[~out]), seen[out])
    return missed


def _seen(known: Sequence[Evidence]) -> np.ndarray:
    return np.array([[each.crystalline, _log([each.spread])[0], each.sampled] for each in known])


def _log(values: Sequence[float]) -> np.ndarray:
    return np.log10(np.maximum(np.asarray(values, dtype=float), _LEAST))


def _fit(seen: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(np.column_stack([np.ones(len(seen)), seen]), found, rcond=None)[0]


def _line(line: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return line[0] + seen @ line[1:]
