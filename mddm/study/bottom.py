"""What MD leaves on the table: the lowest energies known, and MD that starts from a lattice."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from mddm import lammps, lammps_process, lattices, optional, structure
from mddm.crystal import spacing_of
from mddm.dataset import Dataset
from mddm.geometry import minimum_image
from mddm.study import evaluation

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *evaluation.KEYS,
    *("k", "phi", "temperature", "energy", "crystallinity", "moved", "calls", "seconds"),
)
LATTICE, HELD = "lattice", "MD from the lattice"
# Steps at the condition's temperature, then at each of hotter ones [energy].
HELD_STEPS, HEATED_STEPS, HEATED = 30_000, 5_000, (0.1, 0.2, 0.4)
# A particle that is so far from its site has left it, in units of the cube root of the volume of a
# particle; when this share of them has, the lattice is gone.
_LEFT, GONE = 0.5, 0.5


def from_lattice(data: Dataset, row: int) -> list[dict]:
    """Hold the lattice of lowest free energy at a condition's temperature by MD, then heat it.

    Args:
        data: the MD data.
        row: the condition.

    Returns:
        Entries with the `COLUMNS`: of the lattice, whose `energy` is the mean that its vibrations
        give it at T; of what MD at T makes of it; and of what it is at hotter temperatures, up to
        the first at which it is gone.  `energy` is per particle, at the temperature [energy], and
        `moved` the share of particles that have left their sites.
    """
    potential, temperature = data.potential(row), float(data.temperature[row])
    settings = {"box_length": data.box_length, "time_step": float(data.attributes["time_step"])}
    named = evaluation.Key._field_defaults | {"row": row, "seed": 0, "k": float(data.k[row])}
    named |= {"phi": float(data.phi[row]), "source": evaluation.md_source(data)}
    box = {"n_particles": data.positions.shape[1], "box_length": data.box_length}
    clock = lammps_process.process_time()
    found = lattices.stable(potential, **box, temperature=temperature, n_best=1)[0]

    def entry(model, target, positions, energy, n_steps):
        nonlocal clock
        spent = {"calls": n_steps, "seconds": lammps_process.process_time() - clock}
        clock = lammps_process.process_time()
        measured = {"temperature": target, "energy": energy, "model": model}
        measured["crystallinity"] = structure.crystallinity(positions, data.box_length)
        measured["moved"] = moved(found.crystal.positions, positions, data.box_length)
        return named | measured | spent

    sites = found.crystal.positions
    entries = [entry(LATTICE, temperature, sites, found.mean_energy, 0)]
    # Not the seed of any row of the data, nor of a score.
    seed = 3_000_000 + row
    harvest = lammps.hold(potential, sites, temperature, HELD_STEPS, seed, **settings)
    for target in (temperature, *HEATED):
        if target != temperature:
            harvest = lammps.cool(potential, harvest, target, HEATED_STEPS, seed, **settings)
        reached = (target, harvest.positions, harvest.energy, harvest.n_steps)
        entries.append(entry(HELD, *reached))
        if entries[-1]["moved"] > GONE:
            break
    return entries


def moved(sites: np.ndarray, positions: np.ndarray, box_length: float) -> float:
    """Return the share of particles that have left their sites, whatever the drift of them all.

    Args:
        sites: (n_particles, 3) where each began [length].
        positions: (n_particles, 3) where each is [length].
        box_length: edge of the periodic cube [length].
    """
    shifts = minimum_image(torch.as_tensor(positions - sites), box_length)
    shifts = minimum_image(shifts - shifts.median(dim=0).values, box_length)
    return (shifts.norm(dim=1) > _LEFT * spacing_of(len(sites), box_length)).double().mean().item()


def lowest_known(data: Dataset, scored: "pd.DataFrame") -> "pd.DataFrame":
    """Find the lowest energy at rest that is known of each potential that is scored.

    Args:
        data: the MD data.
        scored: `evaluation.COLUMNS`, of which the relaxed lines count.

    Returns:
        A line a potential: k, phi, energy (per particle, at rest [energy]), and found_by: a
        lattice, MD, or a model and its sampler.
    """
    with optional.packages():
        import pandas as pd

    rows = scored["row"].to_numpy(dtype=int)
    found = pd.DataFrame({"k": data.k[rows], "phi": data.phi[rows]})
    found["energy"] = scored["energy_gap"].to_numpy(dtype=float) + data.energy[rows]
    sampler = scored["sampler"].map(lambda name: f", {name}" if name else "")
    found["found_by"] = (scored["model"] + sampler).to_numpy()
    found = found[scored["relaxed"].to_numpy(dtype=bool)]
    _, first = np.unique(data.conditions[rows][:, :2], axis=0, return_index=True)
    potentials = [data.potential(row) for row in rows[first]]
    box = {"n_particles": data.positions.shape[1], "box_length": data.box_length}
    energies = [best[0].energy for best in lattices.search_many(potentials, **box, n_best=1)]
    crystals = {"k": data.k[rows[first]], "phi": data.phi[rows[first]], "energy": energies}
    found = pd.concat([pd.DataFrame(crystals | {"found_by": LATTICE}), found], ignore_index=True)
    # What relaxes into a lattice comes after it.
    rounded = found.assign(energy=found["energy"].round(5))
    lowest = rounded.groupby(["k", "phi"])["energy"].idxmin()
    return found.loc[lowest].reset_index(drop=True)


def above_lowest(data: Dataset, scored: "pd.DataFrame", lowest: "pd.DataFrame") -> "pd.DataFrame":
    """Add the column `above_lowest`: how far above the lowest energy known a relaxed sample lies.

    Args:
        data: the MD data.
        scored: `evaluation.COLUMNS`.
        lowest: as from `lowest_known`.

    Returns:
        `scored` with the column [energy]; nan for what is not relaxed.
    """
    energy_of = lowest.set_index(["k", "phi"])["energy"].to_dict()
    rows = scored["row"].to_numpy(dtype=int)
    least = np.array([energy_of[data.k[row], data.phi[row]] for row in rows])
    above = scored["energy_gap"].to_numpy(dtype=float) + data.energy[rows] - least
    return scored.assign(above_lowest=np.where(scored["relaxed"].astype(bool), above, np.nan))
