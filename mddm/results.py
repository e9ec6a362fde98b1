"""The study's numbers: scores of models, quenches and yardsticks, and the table made of them.

`python -m mddm.results` scores what has not been scored yet, one sample at a time, and sums all
scores up in `data/results/table1.csv`.  It can be killed at any moment and started again.
"""

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mddm import dataset, lammps, noise, sampling, structure, study, tasks, training
from mddm.dataset import Dataset

if TYPE_CHECKING:
    import pandas as pd

# What tells one score from another.
KEYS = ("model", "task", "split", "sampler", "row", "seed", "relaxed", "source")
# `calls` are those of the network, or MD steps; `seconds` are of the processor, for one sample.
COLUMNS = (
    *KEYS,
    *("k", "phi", "temperature", "rdf_mse", "energy_gap", "crystallinity", "md_crystallinity"),
    *("calls", "seconds"),
)
GROUPS = ("yardsticks", "quench", *training.PRESETS)
QUENCH_STEPS = (100, 300, 1000, 3000, 10_000)
# Conditions of each split, samples of the one configuration, noise levels of a sample.
_PROFILES = {
    "quick": {"train": 2, "test": 2, "unconditional": 2, "n_levels": 30, "quench": 4},
    "full": {"train": 100, "test": 25, "unconditional": 20, "n_levels": 100, "quench": 25},
}

# The key of a job's first entry, and the job.
Job = tuple[tuple, Callable[[], list[dict]]]


def choose_rows(data: Dataset, split: str, n: int, seed: int = 0) -> list[int]:
    """Draw rows of a split to be scored, those that have a replica first.

    Args:
        data: the MD data.
        split: "train" or "test".
        n: how many at most.
        seed: of the draw.
    """
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(data.split == split))
    return sorted(rows.tolist(), key=lambda row: not len(data.partners(row)))[:n]


def yardsticks(data: Dataset, row: int) -> list[dict]:
    """Score the ideal gas, g(r) = 1, and every replica of a row against it.

    Returns:
        Entries with the `COLUMNS` that depend on the sample; the ideal gas has no energy.
    """
    source = _md_source(data)
    entries = []
    for partner in data.partners(row):
        scored = _score(data, row, data.positions[partner])
        named = {"model": "MD replica", "seed": int(data.seed[partner])}
        entries.append(scored | named | {"calls": int(data.steps[partner]), "source": source})
    gas = _score(data, row, data.positions[row])
    gas |= {"model": "ideal gas", "seed": 0, "rdf_mse": gas["ideal_gas"], "calls": 0}
    gas |= {"energy_gap": math.nan, "crystallinity": 0.0, "source": source}
    return [gas, *entries]


def quench(data: Dataset, row: int, n_steps: int, seed: int = 0) -> list[dict]:
    """Score the rival: MD of a random start that is cooled from 10 T to T in a few steps.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        n_steps: MD steps, at least 10.
        seed: of the quench.

    Returns:
        Two entries, as it is and relaxed.
    """
    clock = time.process_time()
    found = lammps.anneal(
        data.potential(row),
        float(data.temperature[row]),
        n_steps,
        # Not the start of any row of the data.
        seed=1_000_000 + 1000 * row + seed,
        n_particles=data.positions.shape[1],
        box_length=data.box_length,
        time_step=float(data.attributes["time_step"]),
    )
    seconds = time.process_time() - clock
    named = {"model": _quench_name(n_steps), "seed": seed, "calls": n_steps}
    named |= {"source": _md_source(data)}
    return _raw_and_relaxed(data, row, found.positions, seconds, named)


def sample(
    data: Dataset,
    row: int,
    preset: str,
    task: str,
    sampler: str,
    n_levels: int,
    seed: int = 0,
) -> list[dict]:
    """Score one sample of a checkpoint.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        preset: one of `training.PRESETS`.
        task: "unconditional" or "conditional".
        sampler: one of `tasks.SAMPLERS`.
        n_levels: noise levels of the sampler.
        seed: of the sample.

    Returns:
        Two entries, as it is and relaxed.

    Raises:
        FileNotFoundError: the checkpoint has not been made.
    """
    path = study.checkpoint_path("full", task, preset)
    denoiser, header = training.load_checkpoint(path, preset)
    settings = training.Settings(**header["settings"])
    device = study.device()
    clock = time.process_time()
    frames = tasks.generate(
        denoiser.to(device),
        sampler,
        noise.make_schedule("log", n_levels, settings.sigma_min, settings.sigma_max),
        data.conditions[[row]] if task == "conditional" else None,
        n_samples=1,
        n_particles=data.positions.shape[1],
        box_length=data.box_length,
        seed=1000 * row + seed,
        device=device,
    )
    final = sampling.last(frames)
    seconds = time.process_time() - clock
    named = {"model": preset, "sampler": sampler, "seed": seed, "calls": final.calls}
    named |= {"task": task, "source": _checkpoint_source(task, preset)}
    return _raw_and_relaxed(data, row, final.positions[0].cpu().numpy(), seconds, named)


def table(scores: "pd.DataFrame", quoted: "pd.DataFrame") -> "pd.DataFrame":
    """Sum scores up, with bootstrap intervals of the mean, all and by what MD arrived at.

    Args:
        scores: `COLUMNS`, one line a sample.
        quoted: model, task, split, rdf_mse and source of values from elsewhere.

    Returns:
        One line for each model, task, split, sampler, relaxed or not, and `reference` ("all",
        "crystal" or "glass"): rdf_mse, ci_low, ci_high, energy_gap (median), n, calls and
        seconds_per_sample (means), source.
    """
    import pandas as pd

    crystal = np.where(scores["md_crystallinity"] > structure.CRYSTAL, "crystal", "glass")
    parts = [scores.assign(reference="all"), scores.assign(reference=crystal)]
    by = ["model", "task", "split", "sampler", "relaxed", "reference"]
    lines = []
    for key, group in pd.concat(parts).groupby(by, sort=False):
        low, high = tasks.bootstrap_interval(group["rdf_mse"])
        values = {"rdf_mse": group["rdf_mse"].mean(), "ci_low": low, "ci_high": high}
        values |= {"energy_gap": group["energy_gap"].median(), "n": len(group)}
        values |= {"calls": group["calls"].mean(), "seconds_per_sample": group["seconds"].mean()}
        values |= {"source": "; ".join(sorted(set(group["source"])))}
        lines.append(dict(zip(by, key, strict=True)) | values)
    paper = quoted.assign(model=quoted["model"] + " (paper)", sampler="paper", relaxed=False)
    return pd.concat([pd.DataFrame(lines), paper.assign(reference="all")], ignore_index=True)


def _score(data: Dataset, row: int, positions: np.ndarray) -> dict:
    entry = tasks.score(data, row, positions)
    entry |= {"row": row, "task": "conditional", "sampler": "", "relaxed": False}
    entry |= {"seconds": math.nan, "crystallinity": _crystallinity(data, positions)}
    return entry | {"md_crystallinity": _crystallinity(data, data.positions[row])}


def _md_source(data: Dataset) -> str:
    return f"{data.attributes['engine']}, data {data.content_hash}"


def _checkpoint_source(task: str, preset: str) -> str:
    path = study.checkpoint_path("full", task, preset)
    return f"{path.name} {study.file_hash(path)}"


def _quench_name(n_steps: int) -> str:
    return f"quench, {n_steps:,} steps"


def _crystallinity(data: Dataset, positions: np.ndarray) -> float:
    return structure.crystallinity(positions, data.box_length)


def _raw_and_relaxed(
    data: Dataset, row: int, positions: np.ndarray, seconds: float, named: dict
) -> list[dict]:
    clock = time.process_time()
    relaxed, _ = lammps.minimize(positions, data.potential(row), data.box_length)
    further = time.process_time() - clock
    raw = _score(data, row, positions) | {"seconds": seconds}
    rest = _score(data, row, relaxed) | {"seconds": seconds + further, "relaxed": True}
    return [raw | named, rest | named]


def jobs_of(data: Dataset, what: str, profile: str) -> list[Job]:
    """List what is to be scored: each job with the keys of its first entry.

    Args:
        data: the MD data.
        what: one of `GROUPS`.
        profile: "quick" or "full".

    Raises:
        ValueError: an unknown group or profile.
    """
    if what not in GROUPS or profile not in _PROFILES:
        raise ValueError(
            f"what must be one of {', '.join(GROUPS)} and profile quick or full, got {what!r} and "
            f"{profile!r}"
        )
    sizes = _PROFILES[profile]
    rows = {split: choose_rows(data, split, sizes[split]) for split in ("train", "test")}
    chosen = [("conditional", split, row, 0) for split in rows for row in rows[split]]
    one = tasks.unconditional_row(data)
    again = [("unconditional", "train", one, seed) for seed in range(sizes["unconditional"])]
    jobs, md_source = [], _md_source(data)
    if what == "yardsticks":
        for task, split, row, _ in chosen + again[:1]:
            key = ("ideal gas", task, split, "", row, 0, False, md_source)
            jobs.append((key, partial(yardsticks, data, row)))
    elif what == "quench":
        conditions = chosen[-sizes["quench"] :] + again[:1]
        for n_steps in QUENCH_STEPS if profile == "full" else QUENCH_STEPS[:3]:
            for task, split, row, seed in conditions:
                key = (_quench_name(n_steps), task, split, "", row, seed, False, md_source)
                jobs.append((key, partial(quench, data, row, n_steps, seed)))
    else:
        sources = {
            task: _checkpoint_source(task, what) for task in ("unconditional", "conditional")
        }
        for sampler in tasks.SAMPLERS:
            for task, split, row, seed in again + chosen:
                key = (what, task, split, sampler, row, seed, False, sources[task])
                job = partial(sample, data, row, what, task, sampler, sizes["n_levels"], seed)
                jobs.append((key, job))
    return jobs


def collect(path: Path, jobs: list[Job]) -> "pd.DataFrame":
    """Do the jobs whose scores a file lacks, and add each to it at once.

    Args:
        path: of a CSV file with `COLUMNS`, there or not.
        jobs: as from `jobs_of`.

    Returns:
        The scores in the file.  Those of other sources than the jobs' have been left behind: an
        older checkpoint's, or another data set's.

    Raises:
        ValueError: the file has other columns.
    """
    import pandas as pd

    scores = pd.DataFrame(columns=COLUMNS)
    if path.exists():
        scores = read_scores(path)
        if tuple(scores.columns) != COLUMNS:
            raise ValueError(f"{path} has other columns than {', '.join(COLUMNS)}; remove it")
        scores = scores[scores["source"].isin({key[-1] for key, _ in jobs})]
    done = set(scores[list(KEYS)].itertuples(index=False, name=None))
    missing = [(key, job) for key, job in jobs if key not in done]
    for key, job in study.progress(missing, label=path.stem):
        entries = [entry | {"task": key[1], "split": key[2]} for entry in job()]
        more = pd.DataFrame(entries)[list(COLUMNS)]
        scores = more if scores.empty else pd.concat([scores, more], ignore_index=True)
        write_csv(path, scores)
    return scores


def read_scores(path: Path) -> "pd.DataFrame":
    """Read a file that `collect` has written."""
    import pandas as pd

    scores = pd.read_csv(path, dtype={"sampler": str})
    return scores.assign(sampler=scores["sampler"].fillna("")) if "sampler" in scores else scores


def write_csv(path: Path, content: "pd.DataFrame") -> None:
    """Write a CSV file, which is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partly = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        content.to_csv(partly, index=False, float_format="%.6g")
        partly.replace(path)
    finally:
        partly.unlink(missing_ok=True)


def append_line(path: Path, line: Mapping) -> None:
    """Add a line to a CSV file, and the names of its columns first if there is no file."""
    new = not path.is_file()
    with open(path, "a", newline="") as file:
        table = csv.DictWriter(file, line, lineterminator="\n")
        if new:
            table.writeheader()
        table.writerow(line)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    import pandas as pd

    parser = argparse.ArgumentParser(prog="python -m mddm.results", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--profile", choices=_PROFILES, default="full", help="how much of it")
    parser.add_argument("--data", default="data/opp-small.h5", help="the MD data")
    options = parser.parse_args(arguments)
    folder = study.project_root() / "data" / "results"
    quoted = pd.read_csv(folder / "paper-table1.csv")
    if options.profile == "quick":
        folder /= "quick"
    try:
        data = dataset.read(study.project_root() / options.data)
        groups = options.what or GROUPS
        jobs = {what: jobs_of(data, what, options.profile) for what in groups}
        for what in groups:
            collect(folder / f"scores-{what}.csv", jobs[what])
        parts = [read_scores(path) for path in sorted(folder.glob("scores-*.csv"))]
        write_csv(folder / "table1.csv", table(pd.concat(parts, ignore_index=True), quoted))
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {folder / 'table1.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
