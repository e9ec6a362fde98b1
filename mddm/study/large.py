"""Larger boxes than those of training: are samples still what MD of that size comes to?"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mddm import lammps, lammps_process, potential, sampling, structure
from mddm.dataset import Dataset
from mddm.study import distributions, evaluation, plan, surrogates
from mddm.waves import Q_LONG, Q_MAX, strongest_waves

if TYPE_CHECKING:
    import pandas as pd

# Two of the test conditions, the first a crystal and the second a glass, by their places.
CONDITIONS = (24, 3)
# How often the box is repeated along each axis, and how many samples are scored and how many
# anneals are run: the largest of them within the hour.
SAMPLED, ANNEALED = {1: 4, 2: 2, 4: 1}, {1: 4, 2: 1}
# The one that is kept, of the crystal alone.
SHOWN = 5
N_STEPS = 100_000
COLUMNS = (
    *evaluation.KEYS,
    *("times", "n_particles", "k", "phi", "temperature", "rdf_mse", "energy"),
    *("long_waves", "copies", "crystallinity", "largest_grain", "calls", "seconds"),
)


def key_of(
    data: Dataset, row: int, times: int, seed: int, surrogate: surrogates.Surrogate | None = None
) -> evaluation.Key:
    """Give the key of a sample's score, or of an anneal's.

    Args:
        data: the MD data.
        row: the condition.
        times: how often the data's box is repeated along each axis.
        seed: of the answer.
        surrogate: that draws it; None for MD.
    """
    drawn = (evaluation.md_source(data), "", N_STEPS)
    if surrogate is not None:
        drawn = (surrogate.source, surrogate.sampler, 0)
    name = evaluation.ANNEAL if surrogate is None else surrogate.name
    n_particles = times**3 * data.positions.shape[1]
    return evaluation.Key(
        f"{name}, {n_particles:,} particles", "conditional", str(data.split[row]), row, seed, *drawn
    )


def sample(
    data: Dataset,
    row: int,
    surrogate: surrogates.Surrogate,
    times: int,
    key: evaluation.Key,
    kept: Path,
) -> list[dict]:
    """Draw and measure a sample.

    Args:
        data: the MD data.
        row: the condition.
        surrogate: that draws it.
        times: how often the data's box is repeated along each axis.
        key: of the entry.
        kept: file that a sample of `SHOWN` times is kept in, see `distributions.keep`.

    Returns:
        One entry with the `COLUMNS`: `rdf_mse` is to MD in the data's box, as far as that allows,
        `energy` per particle, `long_waves` the mean S(q) of waves longer than those of any
        structure, and `copies` that of the waves that fit the data's box over that of all others:
        1 in a glass in which nothing is left of its copies.
    """
    clock = lammps_process.process_time()
    final = sampling.last(surrogate.frames(data, row, key.seed, times))
    spent = {"calls": final.calls, "seconds": lammps_process.process_time() - clock}
    positions, box_length = final.positions[0].cpu().numpy(), times * data.box_length
    if times == SHOWN:
        distributions.keep(kept, key.source, row, key.seed, positions, box_length)
    return [_measured(data, row, positions, times) | key._asdict() | spent]


def anneal(data: Dataset, row: int, times: int, key: evaluation.Key) -> list[dict]:
    """Anneal as many particles in `N_STEPS`, and measure them like a `sample`."""
    clock = lammps_process.process_time()
    found = lammps.anneal(
        data.potential(row),
        float(data.temperature[row]),
        N_STEPS,
        # Not that of any other anneal.
        seed=6_000_000 + 1000 * row + key.seed,
        start_temperature=plan.START_TEMPERATURE,
        n_particles=times**3 * data.positions.shape[1],
        box_length=times * data.box_length,
    )
    spent = {"calls": N_STEPS, "seconds": lammps_process.process_time() - clock}
    return [_measured(data, row, found.positions, times) | key._asdict() | spent]


def _measured(data: Dataset, row: int, positions: np.ndarray, times: int) -> dict:
    edge, box_length = data.box_length, times * data.box_length
    r_max = structure.RDF_RANGE * edge
    reference = structure.rdf(data.positions[row], edge, r_max=r_max)[1]
    curve = structure.rdf(positions, box_length, r_max=r_max)[1]
    system = torch.as_tensor(positions, dtype=torch.float64)
    energies = potential.potential_energy(system, data.potential(row), box_length)
    grains = structure.grains(positions, box_length)
    condition = dict(zip(data.ranges, data.conditions[row].tolist(), strict=True))
    return condition | {
        "times": times,
        "n_particles": len(positions),
        "rdf_mse": structure.rdf_mse(curve, reference),
        "energy": energies.mean().item(),
        **_waves(system, box_length, times),
        "crystallinity": structure.crystallinity(positions, box_length),
        "largest_grain": grains[0] if len(grains) else 0.0,
    }


def _waves(system: torch.Tensor, box_length: float, times: int) -> dict[str, float]:
    """Average S(q) over the longest waves, and compare those of the copied box with all others."""
    # A box has no more waves than this, and then all are given.
    found = strongest_waves(system[None], 2**62, 0.0, Q_MAX, box_length)
    vectors, strength = found.vectors[0], found.strength[0]
    of_copies = ((box_length / (2 * math.pi) * vectors).round() % times == 0).all(dim=1)
    copies = math.nan
    if times > 1:
        copies = (strength[of_copies].mean() / strength[~of_copies].mean()).item()
    return {"long_waves": strength[vectors.norm(dim=1) <= Q_LONG].mean().item(), "copies": copies}


def summary(scored: "pd.DataFrame") -> "pd.DataFrame":
    """Average over the samples and anneals of each size.

    Args:
        scored: `COLUMNS`.

    Returns:
        A line for each condition, size and model: means over `n` of what was measured, and
        `energy_spread` and `long_waves_spread`, the standard deviations; nan for one alone.
    """
    groups = scored.groupby(["row", "n_particles", "model"], sort=False)
    measured = list(COLUMNS[COLUMNS.index("rdf_mse") :])
    found = groups[measured].mean().join(groups.size().rename("n"))
    spread = groups[["energy", "long_waves"]].std().add_suffix("_spread")
    return found.join(spread).reset_index()
