"""What is scored: which samples of which models, and their rivals, under which conditions."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import numpy as np

from mddm import dataset, samplers, study, trust
from mddm.dataset import Dataset
from mddm.shapes import SURFACES
from mddm.study import (
    bottom,
    distributions,
    evaluation,
    large,
    plan,
    rivals,
    surfaces,
    surrogates,
    tasks,
    unseen,
)
from mddm.study.evaluation import Key

# A file of scores each; the last seven are not of conditions of the data, or their columns are
# their own.
GROUPS = (
    *("yardsticks", "quench", "lattices", *evaluation.MODELS, "told", "seeded", "answers"),
    *("tests", "surfaces", "losses", "bottom", "unseen", "distributions", "large"),
)
COLUMNS = {
    "tests": evaluation.COLUMNS,
    "surfaces": surfaces.COLUMNS,
    "losses": surrogates.LOSS_COLUMNS,
    "bottom": bottom.COLUMNS,
    "unseen": unseen.COLUMNS,
    "distributions": distributions.COLUMNS,
    "large": large.COLUMNS,
}
# In the folder of scores: the samples that those of "distributions" are made from.
_KEPT = "samples-told.npz"
# And the largest of those of "large".
LARGEST = "sample-large.npz"
QUENCH_STEPS = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
# Lengths of which as many are run as a model has samples, and the lowest at rest is a score too.
SEVERAL_QUENCHES = (1000, 10_000)
# Beside the answers within budgets on the further test conditions; a shorter one is among "unseen".
LONG_QUENCH = 30_000
# How much of each is scored: conditions of each split, samples of the one configuration and clouds
# of a surface; conditions of each split that lattices are searched for, conditions that are
# quenched, and in how many of the numbers of steps; noise levels of a sample (500 are the paper's;
# the corrector spends its calls better on fewer); draws for the loss at each level; polished
# samples of each condition, of which the lowest at rest is a score of its own, as of quenches and
# of structures that are looked up, and samples that begin at a lattice that is drawn; within how
# many budgets an answer is sought, and within how many on the further test conditions; how often a
# box is repeated along each axis.  "others" is what samplers other than the best are asked for.
PROFILES = {
    "quick": {
        **{"train": 2, "test": 2, "unconditional": 2, "surfaces": 2, "others": {}, "lattices": 2},
        **{"quenched": 4, "quenches": 3, "levels": 40, "best levels": 16, "draws": 4, "tries": 1},
        "drawn": 1,
        "bottom": 1,
        "answers": 1,
        "tests": 0,
        "unseen": 1,
        "large": 0,
    },
    "full": {
        **{"train": 100, "test": 25, "unconditional": 20, "surfaces": 20, "others": {"train": 25}},
        **{"quenched": 25, "quenches": len(QUENCH_STEPS), "levels": 500, "draws": 16, "tries": 4},
        **{"best levels": surrogates.N_LEVELS, "lattices": 100, "drawn": 2},
        "bottom": 12,
        "answers": 3,
        "tests": 2,
        "unseen": 100,
        "large": large.SHOWN,
    },
}
# Of a cloud on a surface.
POINTS = 1000
# Of two or three seconds: that by which the page that samples draws, and one with MD at its end.
_CHEAPER = ("quick", "settled")
# With the right variance, and as printed.
_ALGORITHM_2 = ("ancestral", "paper")

# The key of a job's first entry, and the job.
Job = tuple[Key, Callable[[], list[dict]]]


def folder_of(data: str, profile: str = "full") -> Path:
    """Return where scores against a data set go: other data and a quick look leave the study alone.

    Args:
        data: file of the MD data, relative to the project's root.
        profile: "quick" or "full".
    """
    folder = study.project_root() / "data" / "results"
    if not study.is_own(data):
        folder /= study.name_of(data)
    return folder / "quick" if profile == "quick" else folder


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


def jobs_of(
    data: Dataset, what: str, profile: str, compiled: bool = False, trained_on: str = ""
) -> list[Job]:
    """List what is to be scored: each job with the keys of its first entry.

    Args:
        data: the MD data.
        what: one of `GROUPS`.
        profile: "quick" or "full".
        compiled: whether PyTorch compiles networks that are sampled in the box.
        trained_on: file of the data that the models in the box were trained on; "" for the study's.

    Raises:
        ValueError: an unknown group or profile.
        FileNotFoundError: a checkpoint of the group has not been made.
    """
    if what not in GROUPS or profile not in PROFILES:
        raise ValueError(
            f"what must be one of {', '.join(GROUPS)} and profile quick or full, got {what!r} and "
            f"{profile!r}"
        )
    sizes = PROFILES[profile]
    kept = folder_of(trained_on or study.DATA, profile) / _KEPT
    if what == "yardsticks":
        return _yardstick_jobs(data, sizes)
    if what == "quench":
        return _quench_jobs(data, sizes)
    if what == "lattices":
        return _lattice_jobs(data, sizes)
    if what == "told":
        return _told_jobs(data, sizes, compiled, kept)
    if what == "distributions":
        return _distribution_jobs(data, sizes, kept)
    if what == "large":
        return _large_jobs(data, sizes, compiled, kept.with_name(LARGEST))
    if what == "unseen":
        return _unseen_jobs(data, sizes, compiled)
    if what == "seeded":
        return _seeded_jobs(data, sizes, compiled, trained_on)
    if what == "answers":
        return _answer_jobs(data, sizes, compiled)
    if what == "tests":
        return _more_test_jobs(sizes, compiled)
    if what == "bottom":
        return _bottom_jobs(data, sizes)
    if what == "surfaces":
        return _surface_jobs(sizes)
    if what == "losses":
        return _loss_jobs(data, sizes, trained_on)
    return _sample_jobs(data, sizes, what, compiled, trained_on)


def _chosen(data: Dataset, sizes: Mapping, tries: int = 1) -> list[tuple]:
    """List the conditions to be asked for, as (task, split, row, seed)."""
    splits = ("train", "test")
    chosen = [(split, row) for split in splits for row in choose_rows(data, split, sizes[split])]
    return [("conditional", *of, seed) for seed in range(tries) for of in chosen]


def _again(data: Dataset, sizes: Mapping) -> list[tuple]:
    row = tasks.unconditional_row(data)
    return [("unconditional", "train", row, seed) for seed in range(sizes["unconditional"])]


def _yardstick_jobs(data: Dataset, sizes: Mapping) -> list[Job]:
    jobs, source = [], evaluation.md_source(data)
    for task, split, row, seed in _chosen(data, sizes) + _again(data, sizes)[:1]:
        key = Key(evaluation.IDEAL_GAS, task, split, row, seed, source)
        jobs.append((key, partial(rivals.yardsticks, data, row)))
    for row in choose_rows(data, "test", sizes["test"]):
        key = Key(evaluation.ANNEAL, "conditional", "test", row, 0, source, relaxed=True)
        jobs.append((key, partial(rivals.anneal_at_rest, data, row)))
        for (name, more), n_tries in product(_looked_up(data), sorted({1, sizes["tries"]})):
            of = rivals.look_up_source(data, *more)
            key = Key(name, "conditional", "test", row, 0, of, n_tries=n_tries)
            jobs.append((key, partial(rivals.look_up, data, row, n_tries, *more)))
    for task, split, row, seed in _chosen(data, sizes) + _again(data, sizes):
        key = Key(evaluation.RELAXED_NOISE, task, split, row, seed, source)
        jobs.append((key, partial(rivals.relaxed_noise, data, row, seed)))
    row, others = tasks.unconditional_row(data), _more_replicas()
    source = evaluation.md_source(others)
    for partner in tasks.replicas(data, row, others):
        seed = int(others.seed[partner])
        key = Key(evaluation.REPLICA, "unconditional", "train", row, seed, source)
        jobs.append((key, partial(rivals.replica, data, row, others, partner)))
    return jobs


def _quench_jobs(data: Dataset, sizes: Mapping) -> list[Job]:
    jobs, source = [], evaluation.md_source(data)
    conditions = _chosen(data, sizes)[-sizes["quenched"] :]
    for n_steps in QUENCH_STEPS[: sizes["quenches"]]:
        asked = conditions + _again(data, sizes)[:1]
        if n_steps in SEVERAL_QUENCHES:
            asked += [(*of, seed) for seed in range(1, sizes["tries"]) for *of, _ in conditions]
        for task, split, row, seed in asked:
            key = Key(evaluation.QUENCH, task, split, row, seed, source, n_steps=n_steps)
            jobs.append((key, partial(rivals.quench, data, row, n_steps, seed)))
    return jobs


def _lattice_jobs(data: Dataset, sizes: Mapping) -> list[Job]:
    jobs, source = [], evaluation.md_source(data)
    for split in ("test", "train"):
        for row in choose_rows(data, split, sizes["lattices"]):
            key = Key(evaluation.LATTICE_SEARCH, "conditional", split, row, 0, source)
            jobs.append((key, partial(rivals.lattice_search, data, row)))
    return jobs


def _told_potentials(
    sizes: Mapping, compiled: bool, sampler: str = samplers.BEST_TOLD
) -> surrogates.Surrogate:
    drawn_by = (evaluation.OURS, "potential", sampler, sizes["best levels"])
    return surrogates.Surrogate(*drawn_by, compiled)


def _told_jobs(data: Dataset, sizes: Mapping, compiled: bool, kept: Path) -> list[Job]:
    surrogate = _told_potentials(sizes, compiled)
    jobs, source = [], surrogate.source
    for task, split, row, seed in _chosen(data, sizes | {"train": 0}, sizes["tries"]):
        key = Key(surrogate.name, task, split, row, seed, source, samplers.BEST_TOLD)
        keep = partial(distributions.keep, kept, source, row, seed, box_length=data.box_length)
        jobs.append((key, partial(surrogates.sample, data, row, surrogate, seed, keep)))
    for sampler in _CHEAPER:
        surrogate = _told_potentials(sizes, compiled, sampler)
        for task, split, row, seed in _chosen(data, sizes | {"train": 0}):
            key = Key(surrogate.name, task, split, row, seed, source, sampler)
            jobs.append((key, partial(surrogates.sample, data, row, surrogate, seed)))
    return jobs


def _distribution_jobs(data: Dataset, sizes: Mapping, kept: Path) -> list[Job]:
    # One is no distribution.
    jobs, source, n = [], surrogates.checkpoint_source("potential", evaluation.OURS), sizes["tries"]
    for row in choose_rows(data, "test", sizes["test"] if n > 1 else 0):
        if not len(data.partners(row)):
            continue
        key = Key(evaluation.TOLD, "conditional", "test", row, 0, source, samplers.BEST_TOLD)
        jobs.append((key, partial(distributions.sampled, data, row, kept, key)))
        key = Key(evaluation.LOOKED_UP, "conditional", "test", row, 0, evaluation.md_source(data))
        jobs.append((key, partial(distributions.looked_up, data, row, n, key)))
    return jobs


def _large_jobs(data: Dataset, sizes: Mapping, compiled: bool, kept: Path) -> list[Job]:
    jobs, surrogate = [], _told_potentials(sizes, compiled)
    tests = np.flatnonzero(data.split == "test").tolist()
    of = [tests[i] for i in large.CONDITIONS if i < len(tests)]
    asked = [(row, *each) for row in of for each in large.SAMPLED.items()]
    for row, times, n in asked + [(row, large.SHOWN, 1) for row in of[:1]]:
        for seed in range(n if times <= sizes["large"] else 0):
            key = large.key_of(data, row, times, seed, surrogate=surrogate)
            jobs.append((key, partial(large.sample, data, row, surrogate, times, key, kept)))
    for row, (times, n) in product(of, large.ANNEALED.items()):
        for seed in range(n if times <= sizes["large"] else 0):
            key = large.key_of(data, row, times, seed)
            jobs.append((key, partial(large.anneal, data, row, times, key)))
    return jobs


def _unseen_jobs(data: Dataset, sizes: Mapping, compiled: bool) -> list[Job]:
    surrogate = _told_potentials(sizes, compiled)
    jobs, source = [], surrogate.source
    for split in unseen.SETS:
        path = study.project_root() / plan.FILES[split]
        if not path.is_file():
            continue
        asked = dataset.read(path)
        for row in unseen.rows_of(asked)[: sizes["unseen"]]:
            for seed in range(unseen.N_SAMPLES):
                key = Key(
                    unseen.SAMPLE, "conditional", split, row, seed, source, samplers.BEST_TOLD
                )
                jobs.append((key, partial(unseen.sample, asked, row, surrogate, seed)))
            key = Key(evaluation.QUENCH, "conditional", split, row, 0, source)
            key = key._replace(n_steps=trust.QUENCH_STEPS)
            jobs.append((key, partial(unseen.quench, asked, row, source)))
            if split in unseen.STABLE_SETS:
                key = Key(unseen.STABLE, "conditional", split, row, 0, source)
                of_crystals = replace(surrogate, what="stable")
                jobs.append((key, partial(unseen.stable, asked, row, of_crystals)))
            # Others have nothing near them.
            for name, more in _looked_up(data) if asked.ranges == data.ranges else ():
                key = Key(name, "conditional", split, row, 0, rivals.look_up_source(data, *more))
                jobs.append((key, partial(unseen.look_up, asked, row, name, [data, *more])))
    return jobs


def _seeded_jobs(data: Dataset, sizes: Mapping, compiled: bool, trained_on: str) -> list[Job]:
    jobs, tries = [], (1, sizes["drawn"])
    for sampler, n in zip(evaluation.SEEDED, tries, strict=True):
        drawn_by = (evaluation.OURS, "conditional", sampler)
        surrogate = surrogates.Surrogate(*drawn_by, compiled=compiled, trained_on=trained_on)
        for task, split, row, seed in _chosen(data, sizes | {"train": 0}, n):
            key = Key(evaluation.OURS, task, split, row, seed, surrogate.source, sampler)
            jobs.append((key, partial(surrogates.seeded_sample, data, row, surrogate, seed)))
    return jobs


def _answer_jobs(data: Dataset, sizes: Mapping, compiled: bool) -> list[Job]:
    rows = choose_rows(data, "test", sizes["test"])
    return _answers(data, "test", rows, sizes["answers"], _told_potentials(sizes, compiled))


def _more_test_jobs(sizes: Mapping, compiled: bool) -> list[Job]:
    path = study.project_root() / plan.FILES["tests"]
    if not sizes["tests"] or not path.is_file():
        return []
    asked = dataset.read(path)
    rows, source = unseen.rows_of(asked), evaluation.md_source(asked)
    jobs = _answers(asked, "tests", rows, sizes["tests"], _told_potentials(sizes, compiled))
    for row in rows:
        key = Key(evaluation.QUENCH, "conditional", "tests", row, 0, source, n_steps=LONG_QUENCH)
        jobs.append((key, partial(rivals.quench, asked, row, LONG_QUENCH)))
    return jobs


def _answers(
    data: Dataset, split: str, rows: list[int], n_budgets: int, surrogate: surrogates.Surrogate
) -> list[Job]:
    jobs = []
    for name, row in product(list(evaluation.ANSWERS)[:n_budgets], rows):
        key = Key(name, "conditional", split, row, 0, surrogate.source)
        jobs.append((key, partial(surrogates.answer, data, row, surrogate, name)))
    return jobs


def _bottom_jobs(data: Dataset, sizes: Mapping) -> list[Job]:
    jobs, source = [], evaluation.md_source(data)
    for row in _spread(data, sizes["bottom"]):
        key = Key(bottom.LATTICE, "conditional", "train", row, 0, source)
        jobs.append((key, partial(bottom.from_lattice, data, row)))
    return jobs


def _spread(data: Dataset, n: int) -> list[int]:
    """Choose the hottest training rows of potentials that are spread out evenly."""
    train = np.flatnonzero(data.split == "train")
    hottest = train[data.temperature[train] == data.temperature[train].max()]
    row_of = {(data.k[row], data.phi[row]): int(row) for row in hottest}
    spread = ((run.k, run.phi) for run in plan.ramp_runs() if run.split == "train")
    return [row_of[potential] for potential in spread if potential in row_of][:n]


def _sample_jobs(
    data: Dataset, sizes: Mapping, preset: str, compiled: bool, trained_on: str
) -> list[Job]:
    jobs, both = [], ("unconditional", "conditional")
    sources = {task: surrogates.checkpoint_source(task, preset, trained_on) for task in both}
    best = samplers.BEST[preset]
    for sampler in _samplers(best):
        fewer = sizes if sampler == best else sizes | sizes["others"]
        tries = sizes["tries"] if samplers.SAMPLERS[sampler].asks_potential else 1
        levels = levels_of(sampler, sizes)
        drawn_by = {
            task: surrogates.Surrogate(preset, task, sampler, levels, compiled, trained_on)
            for task in both
        }
        for task, split, row, seed in _again(data, fewer) + _chosen(data, fewer, tries):
            key = Key(preset, task, split, row, seed, sources[task], sampler)
            jobs.append((key, partial(surrogates.sample, data, row, drawn_by[task], seed)))
    return jobs


def _surface_jobs(sizes: Mapping) -> list[Job]:
    jobs = []
    for surface, seed in product(SURFACES, range(sizes["surfaces"])):
        key = Key(surfaces.TRUE_CLOUD, surface, "", 0, seed, surfaces.CLOSED_FORM)
        levels = sizes["levels"]
        job = partial(surfaces.yardsticks, surface, levels, POINTS, seed)
        jobs.append((key, job))
    for surface, preset in product(SURFACES, surfaces.MODELS):
        source = surrogates.checkpoint_source(surface, preset)
        asked = _samplers(samplers.BEST_IN_FREE_SPACE)
        for sampler, seed in product(asked, range(sizes["surfaces"])):
            surrogate = surrogates.Surrogate(preset, surface, sampler, levels_of(sampler, sizes))
            key = Key(preset, surface, "", 0, seed, source, sampler)
            jobs.append((key, partial(surfaces.sample, surrogate, POINTS, seed)))
    return jobs


def _loss_jobs(data: Dataset, sizes: Mapping, trained_on: str) -> list[Job]:
    row, others = tasks.unconditional_row(data), _more_replicas()
    found = tasks.replicas(data, row, others)
    replicas = {
        "unconditional": others.take(found) if len(found) else data.take(data.partners(row)),
        "conditional": data.subset("replica"),
    }
    jobs = []
    for task, preset in product(replicas, evaluation.MODELS):
        source = surrogates.checkpoint_source(task, preset, trained_on)
        asked = (preset, task, 13, sizes["draws"], trained_on)
        job = partial(surrogates.losses, data, replicas[task], *asked)
        jobs.append((Key(preset, task, "", 0, 0, source), job))
    return jobs


@lru_cache(maxsize=1)
def _looked_up(data: Dataset) -> list[tuple[str, list[Dataset]]]:
    """Name the look-ups, each with the sets that it looks at beside the data.

    The potentials between those of the grid belong to the study's data alone.
    """
    own, path = (study.project_root() / each for each in (study.DATA, plan.FILES["drawn"]))
    found = [(evaluation.LOOKED_UP, [])]
    there = own.is_file() and path.is_file()
    if there and dataset.read(own).content_hash == data.content_hash:
        found.append((evaluation.LOOKED_UP_IN_ALL, [dataset.read(path)]))
    return found


def _more_replicas() -> Dataset:
    return dataset.read(study.project_root() / plan.FILES["replica"])


def _samplers(best: str) -> list[str]:
    # What matters most first.
    return list(dict.fromkeys((best, *_ALGORITHM_2)))


def levels_of(sampler: str, sizes: Mapping) -> int:
    """Return the noise levels of a sampler that is scored, of the sizes of a profile."""
    return sizes["levels" if sampler in _ALGORITHM_2 else "best levels"]
