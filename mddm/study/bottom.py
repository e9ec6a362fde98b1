"""What MD leaves on the table: the lowest energies known."""

from typing import TYPE_CHECKING

import numpy as np

from mddm import lattices, optional
from mddm.dataset import Dataset

if TYPE_CHECKING:
    import pandas as pd

LATTICE = "lattice"


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
