"""The samples of a condition against its runs of MD, as two distributions (`mddm.distribution`).

Samples are kept where they are scored, and compared with all runs at once afterwards.  Runs of two
engines are compared the same way: `engines` and `told_apart`.
"""

import io
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mddm import arguments, dataset, distribution, files, optional, structure, study
from mddm.dataset import Dataset
from mddm.study import evaluation, plan, rivals, tables, tasks

if TYPE_CHECKING:
    import pandas as pd

# Of the positions in a file, relative to the box: finer than any thermal motion.
_STEPS = 2**16
# What runs of two engines are compared by.
MEASURED = ("energy", "kinetic_temperature", "pressure", "crystallinity", "g")
# Of a permutation test.
_N_DRAWS = 10_000
COLUMNS = (
    *evaluation.KEYS,
    *("k", "phi", "temperature", "md_crystallinity", "n", "n_md"),
    *("rdf", "rdf_md", "surroundings", "surroundings_md", "auc"),
)


def keep(
    path: str | Path, source: str, row: int, seed: int, positions: np.ndarray, box_length: float
) -> None:
    """Add a sample to the file of a checkpoint's; those of another checkpoint are left behind.

    Args:
        path: of the file, an .npz, there or not.
        source: what drew it, as `surrogates.checkpoint_source` names it.
        row: its condition.
        seed: its number.
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].

    Raises:
        OSError: the file cannot be written.
    """
    found = {}
    if Path(path).exists():
        with np.load(path) as known:
            if str(known["source"]) == source:
                found = dict(known)
    places = np.round(np.asarray(positions, dtype=float) / box_length * _STEPS).astype(np.int64)
    found |= {"source": np.array(source), f"{row}-{seed}": (places % _STEPS).astype(np.uint16)}
    content = io.BytesIO()
    np.savez_compressed(content, **found)
    files.write_whole(path, content.getvalue())


def kept(path: str | Path, source: str, row: int, box_length: float) -> np.ndarray:
    """Read the samples of a condition.

    Returns:
        (n, n_particles, 3) [length], by their seeds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no samples of this checkpoint and condition.
    """
    with np.load(path) as known:
        names = [name for name in known if name.startswith(f"{row}-")]
        if str(known["source"]) != source or not names:
            raise ValueError(
                f"{path} has no samples of {source} for row {row}; `mddm results told` keeps them, "
                "once data/results/scores-told.csv has been moved away"
            )
        names.sort(key=lambda name: int(name.partition("-")[2]))
        return np.stack([known[name] for name in names]).astype(np.float32) * box_length / _STEPS


def sampled(data: Dataset, row: int, path: str | Path, key: evaluation.Key) -> list[dict]:
    """Compare the samples that were kept of a condition with its MD.

    Args:
        data: the MD data.
        row: the condition.
        path: of the file that `keep` made.
        key: of the entry.

    Returns:
        One entry with the `COLUMNS`, see `compared`.
    """
    return [compared(data, row, kept(path, key.source, row, data.box_length)) | key._asdict()]


def looked_up(data: Dataset, row: int, n: int, key: evaluation.Key) -> list[dict]:
    """Compare the structures of the training potentials that are nearest, like `sampled`."""
    return [compared(data, row, np.stack(rivals.nearest(data, row, n))) | key._asdict()]


def compared(data: Dataset, row: int, samples: np.ndarray) -> dict:
    """Compare several structures with the runs of MD of a condition.

    Args:
        data: the MD data; the further replicas of `plan.FILES` join it.
        row: the condition, with a replica at least.
        samples: (n, n_particles, 3), n at least 2 [length].

    Returns:
        rdf and surroundings, energy distances between g(r), and between what
        `distribution.profile` tells of surroundings; the same with _md, what two runs of MD are
        apart on average, which is the scale of it; auc (`distribution.distinguishability`); n and
        n_md, how many are compared, and the condition.
    """
    runs = np.concatenate([data.positions[[row, *data.partners(row)]], _again(data, row)])
    box_length, found = data.box_length, {}
    described = {
        "rdf": lambda one: structure.rdf(one, box_length)[1],
        "surroundings": lambda one: distribution.profile(one, box_length),
    }
    for name, of in described.items():
        ours, theirs = ([of(one) for one in each] for each in (samples, runs))
        found[name] = distribution.energy_distance(ours, theirs)
        found[f"{name}_md"] = distribution.apart(theirs)
    found["auc"] = distribution.distinguishability(samples, runs, box_length)
    found["md_crystallinity"] = structure.crystallinity(data.positions[row], box_length)
    condition = dict(zip(data.ranges, data.conditions[row].tolist(), strict=True))
    return found | condition | {"n": len(samples), "n_md": len(runs)}


def _again(data: Dataset, row: int) -> np.ndarray:
    """Give the further replicas that there are of a condition, (n, n_particles, 3) [length]."""
    path = study.project_root() / plan.FILES["again"]
    if not path.is_file():
        return data.positions[:0]
    others = dataset.read(path)
    same = tasks.replicas(data, row, others) if others.ranges == data.ranges else []
    return others.positions[same]


def summary(scored: "pd.DataFrame") -> "pd.DataFrame":
    """Average over conditions, crystals and glasses apart.

    Args:
        scored: `COLUMNS`.

    Returns:
        A line for each model and reference, crystal or glass: the means of rdf and surroundings
        with their intervals over potentials, those of two runs of MD, and of auc; conditions n.
    """
    with optional.packages():
        import pandas as pd

    crystal = tables.is_crystal(scored["md_crystallinity"])
    named = scored.assign(reference=np.where(crystal, "crystal", "glass"))
    lines = []
    for (model, reference), each in named.groupby(["model", "reference"], sort=False):
        line = {"model": model, "reference": reference, "n": len(each)}
        potentials = list(zip(each["k"], each["phi"], strict=True))
        for column in ("rdf", "surroundings"):
            low, high = tasks.bootstrap_interval(each[column].to_numpy(), groups=potentials)
            line |= {column: each[column].mean(), f"{column}_low": low, f"{column}_high": high}
            line[f"{column}_md"] = each[f"{column}_md"].mean()
        lines.append(line | {"auc": each["auc"].mean()})
    return pd.DataFrame(lines)


def engines(data: Dataset, again: Dataset, n: int | None = None) -> "pd.DataFrame":
    """List the runs of the conditions that two engines have annealed.

    Args:
        data: with a run of each test condition and its replicas, those of the first engine.
        again: replicas of some of these conditions, those of the second.
        n: how many conditions, the first ones; None for all.

    Returns:
        A line for each run, those of a condition together: row (of the condition in `data`), k and
        phi, engine (1 or 2), the `MEASURED`: energy [energy], kinetic_temperature in units of the
        thermostat's, pressure [energy / length^3], crystallinity, and the curve g.
    """
    with optional.packages():
        import pandas as pd

    known, lines = set(map(tuple, again.conditions.tolist())), []
    tests = np.flatnonzero(data.split == "test").tolist()
    for row in [row for row in tests if tuple(data.conditions[row].tolist()) in known][:n]:
        # Of one seed two engines make two runs.
        others = np.flatnonzero((again.conditions == data.conditions[row]).all(axis=1))
        runs = [(1, data, one) for one in (row, *data.partners(row))]
        runs += [(2, again, one) for one in others]
        for engine, of, one in runs:
            positions, box_length = of.positions[one], of.box_length
            line = {"row": row, "k": of.k[one], "phi": of.phi[one], "engine": engine}
            line |= {"energy": of.energy[one], "pressure": of.columns["pressure"][one]}
            reached = of.columns["kinetic_temperature"][one] / of.temperature[one]
            line |= {"kinetic_temperature": reached, "g": structure.rdf(positions, box_length)[1]}
            lines.append(line | {"crystallinity": structure.crystallinity(positions, box_length)})
    return pd.DataFrame(lines)


def told_apart(runs: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """Test whether the runs of two engines are of one distribution, over all conditions at once.

    The conditions are those whose first run is a crystal.  The energy distance between the engines'
    runs, in units of how far any two are apart, is therefore held against what it is where other
    runs of the same condition are said to be the first engine's, a crystal first: were they of one
    distribution, all of these would be equally likely.

    Args:
        runs: as from `engines`; two of the first engine and more of the second in each condition,
            and the very first is a crystal.
        seed: of the draw of runs that take the first engine's place.

    Returns:
        A line for each of the `MEASURED`: first, second and between, how far two runs are apart on
        average, both of an engine or one of each, by the absolute difference or the RDF-MSE;
        shift, the first engine's mean minus the second's in units of the standard deviation of
        all runs of the condition, with its interval low and high, none for g; and p, how often the
        distance is as large by chance.

    Raises:
        ValueError: a condition with other runs than these.

    Source: Phipson and Smyth 2010 for the p of drawn permutations.
    """
    with optional.packages():
        import pandas as pd

    for row, each in runs.groupby("row"):
        n_first, crystal = (each["engine"] == 1).sum(), tables.is_crystal(each["crystallinity"])
        if n_first != 2 or len(each) < 4 or not crystal.iloc[0]:
            raise ValueError(
                "runs must be two of engine 1, a crystal first, and two or more of engine 2 in "
                f"each condition; row {row} has {n_first} and {len(each) - n_first}, and its "
                f"first is {'a' if crystal.iloc[0] else 'no'} crystal"
            )
    rng, lines = np.random.default_rng(arguments.seed(seed)), []
    for name in MEASURED:
        square, apart, shifts, distances, drawn = name == "g", [], [], [], []
        for _, each in runs.groupby("row", sort=False):
            values = np.stack(each[name].to_list()).astype(float).reshape(len(each), -1)
            first = each["engine"].to_numpy() == 1
            difference = np.sqrt(((values[:, None] - values) ** 2).mean(axis=-1)) ** (1 + square)
            within = [difference[part][:, part].sum() / (n * (n - 1)) for part, n in _parts(first)]
            apart.append([*within, difference[first][:, ~first].mean()])
            if not square:
                ahead = values[first].mean() - values[~first].mean()
                shifts.append(ahead / values.std(ddof=1))
            pairs, scale = list(combinations(range(len(each)), 2)), distribution.apart(values)
            of_pairs = [
                distribution.energy_distance(values[list(pair)], np.delete(values, pair, axis=0))
                for pair in pairs
            ]
            # A pair comes in two orders, and one of them has a crystal first, or both, or none.
            crystal = tables.is_crystal(each["crystallinity"]).to_numpy()
            weights = np.array([crystal[list(pair)].sum() for pair in pairs])
            distances.append(of_pairs[pairs.index(tuple(np.flatnonzero(first)))] / scale)
            drawn.append(rng.choice(of_pairs, _N_DRAWS, p=weights / weights.sum()) / scale)
        chance = np.mean(drawn, axis=0) >= np.mean(distances)
        mean, low, high = (np.nan,) * 3
        if shifts:
            mean, (low, high) = np.mean(shifts), tasks.bootstrap_interval(np.array(shifts))
        line = dict(zip(("first", "second", "between"), np.mean(apart, axis=0), strict=True))
        line |= {"shift": mean, "low": low, "high": high}
        lines.append(line | {"p": (1 + chance.sum()) / (1 + _N_DRAWS)})
    return pd.DataFrame(lines, index=pd.Index(MEASURED, name="measured"))


def _parts(first: np.ndarray) -> list[tuple[np.ndarray, int]]:
    return [(part, int(part.sum())) for part in (first, ~first)]
