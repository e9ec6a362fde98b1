"""How far to believe an answer: what it would differ from MD by, told without MD.

Two roads to a structure, a network's sample and a quench, have little in common but the potential.
Where they lead to the same place, MD leads there as a rule; where they part, one of them is wrong.
How much MD differs for how much they part was measured on potentials that the network has not seen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mddm import arguments, files, lattices, structure
from mddm.budget import Candidate
from mddm.potential import Smoothed, energy_scale

# The calibration's file, beside the models.
FILE = "trust.json"
# The share of answers whose difference from MD is to be below what is said.
COVERAGE = 0.9
# Differences below this one are of no interest, and those of two crystals are hardly above it.
_LEAST = 1e-3
# What `Evidence` has that differences are guessed from.
_SEEN = ("agreement", "above_lattice")


@dataclass(frozen=True)
class Evidence:
    """What can be known of an answer without MD.

    Args:
        agreement: RDF-MSE between the answer and the other candidate; 0 where they are the same.
        above_lattice: its energy at rest above that of the lowest lattice that fits the box, in
            units of `potential.energy_scale`; below 0 where no such lattice lies as low.
        crystallinity: share of its particles that are crystalline.
    """

    agreement: float
    above_lattice: float
    crystallinity: float


@dataclass(frozen=True)
class Difference:
    """What an answer is thought to differ from MD by.

    Args:
        expected: RDF-MSE to an MD run, the middle of what was found for such answers.
        at_most: what nine of ten of them are below.
        evidence: what it was told from.
    """

    expected: float
    at_most: float
    evidence: Evidence

    def __str__(self):
        return (
            f"RDF-MSE to MD: about {self.expected:.2g}, and below {self.at_most:.2g} in "
            f"{COVERAGE:.0%} of such cases (the candidates differ by {self.evidence.agreement:.2g})"
        )


def evidence(
    candidates: Sequence[Candidate], potential: Smoothed, box_length: float
) -> Evidence | None:
    """Gather what can be known of an answer, the first of several candidates.

    Args:
        candidates: as from `budget.within`, the lowest in energy at rest first.
        potential: of all of them.
        box_length: edge of the periodic cube [length].

    Returns:
        What is known; None where there is no second candidate, or it came from a lattice.

    Raises:
        TypeError, ValueError: no candidates, or what `lattices.search` refuses.
    """
    candidates = arguments.several("candidates", candidates, Candidate)
    if not candidates:
        raise ValueError("candidates must hold at least one")
    answer = candidates[0]
    others = [each for each in candidates[1:] if each.name in ("sample", "quench")]
    if not others:
        return None
    curves = [structure.rdf(each.positions, box_length)[1] for each in (answer, others[0])]
    lowest = lattices.search(potential, len(answer.positions), box_length, 1)[0].energy
    return Evidence(
        agreement=structure.rdf_mse(*curves),
        above_lattice=(answer.energy_at_rest - lowest) / energy_scale(potential),
        crystallinity=answer.crystallinity,
    )


@dataclass(frozen=True)
class Calibration:
    """How differences from MD follow from evidence: the logarithm is a straight line in it.

    Args:
        intercept: of log10 of the expected RDF-MSE.
        slopes: by what of the evidence; of `agreement` that of its log10.
        factor: by what nine of ten differences are at most larger than expected.
        n: answers that it was made from.
        n_potentials: of so many potentials.
        source: the checkpoint whose samples they were.
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
            source: the checkpoint whose samples they were.

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
        slopes = dict(zip(_SEEN, line[1:].tolist(), strict=True))
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

    def judge(self, of: Evidence) -> Difference:
        """Say what an answer is thought to differ from MD by."""
        line = np.array([self.intercept, *(self.slopes[name] for name in _SEEN)])
        expected = 10 ** float(_line(line, _seen([of]))[0])
        return Difference(expected, self.factor * expected, of)


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
    return np.array([[_log([each.agreement])[0], each.above_lattice] for each in known])


def _log(values: Sequence[float]) -> np.ndarray:
    return np.log10(np.maximum(np.asarray(values, dtype=float), _LEAST))


def _fit(seen: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(np.column_stack([np.ones(len(seen)), seen]), found, rcond=None)[0]


def _line(line: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return line[0] + seen @ line[1:]
