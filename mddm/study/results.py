"""The study's numbers: the command that scores what is to be scored, and sums it up.

`mddm results` scores what has not been scored yet, one sample at a time, and sums all scores up in
`data/results/`.  It can be killed at any moment and started again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mddm import dataset, files, optional, samplers, study, trust
from mddm.dataset import Dataset
from mddm.study import bottom, comparison, distributions, evaluation, jobs, tables, unseen
from mddm.study.evaluation import Key

if TYPE_CHECKING:
    import pandas as pd


def collect(
    path: Path, asked: list[jobs.Job], columns: tuple[str, ...] = evaluation.COLUMNS
) -> "pd.DataFrame":
    """Do the jobs whose scores a file lacks, and add each to it at once.

    Args:
        path: of a CSV file with the `columns`, there or not.
        asked: as from `jobs.jobs_of`.
        columns: what to keep of the jobs' entries, `evaluation.KEYS` among them.

    Returns:
        The scores in the file.  Those of other sources than the jobs' have been left behind: an
        older checkpoint's, or another data set's.  A job of which a line was torn is done again.

    Raises:
        ValueError: the file has other columns.
        OSError: the file cannot be written.
    """
    with optional.packages():
        import pandas as pd

    files.check_writable(path)
    found = pd.DataFrame(columns=columns)
    if path.exists():
        found = tables.read_scores(path)
        if tuple(found.columns) != columns:
            raise ValueError(f"{path} has other columns than {', '.join(columns)}; move it away")
        found = found[~_torn(path, found, {key for key, _ in asked})]
        found = found[found["source"].isin({key.source for key, _ in asked})]
    done = set(found[list(evaluation.KEYS)].itertuples(index=False, name=None))
    missing = [(key, job) for key, job in asked if key not in done]
    for key, job in study.progress(missing, label=path.stem):
        entries = [entry | {"task": key.task, "split": key.split} for entry in job()]
        more = pd.DataFrame(entries)[list(columns)]
        found = more if found.empty else pd.concat([found, more], ignore_index=True)
        tables.write_csv(path, found)
    return found


def _torn(path: Path, found: "pd.DataFrame", first: set[Key]) -> np.ndarray:
    """Tell which whole lines are of a job that lost another: from its first one to the next's."""
    keys = found[list(evaluation.KEYS)].itertuples(index=False, name=None)
    job_of = np.cumsum([key in first for key in keys])
    return np.isin(job_of, [job_of[n - 1] if n else 0 for n in tables.torn_lines(path)])


def make(
    what: Sequence[str] = (),
    profile: str = "full",
    data: str = "",
    compiled: bool = False,
) -> list[Path]:
    """Score what has not been scored yet, and sum up.

    Args:
        what: of `jobs.GROUPS`; all by default.
        profile: "quick" or "full".
        data: file of the MD data, relative to the project's root, which is also what the models of
            it have learned; the study's by default.
        compiled: whether PyTorch compiles networks first.

    Returns:
        The tables, which have been written; the study's summary is in the README, too.

    Raises:
        ValueError: an unknown group or profile, or a file of scores that is none.
        OSError: a checkpoint has not been made, or a file cannot be written.
    """
    root, of = study.project_root(), data or study.DATA
    readme, folder = root / "README.md", jobs.folder_of(of, profile)
    summarised = study.is_own(of) and profile == "full"
    known, what = dataset.read(root / of), list(what) or jobs.GROUPS
    wanted = {group: jobs.jobs_of(known, group, profile, compiled, of) for group in what}
    if summarised:
        tables.with_summary(readme.read_text(), "")
        files.check_writable(readme)
    for group in what:
        columns = jobs.COLUMNS.get(group, evaluation.COLUMNS)
        collect(folder / f"scores-{group}.csv", wanted[group], columns)
    made = _sum_up(folder, known, profile, of)
    for path, content in made.items():
        tables.write_csv(path, content)
    path = folder / "unseen.csv"
    # As it is written, which is what whoever does this again has.
    judged = tables.read_scores(path) if path in made else None
    if summarised and judged is not None and unseen.are_enough(judged):
        unseen.calibrate(judged).write(root / "data" / "checkpoints" / trust.FILE)
    summed = made.get(folder / "table1.csv")
    if summarised and summed is not None:
        page = tables.with_summary(readme.read_text(), tables.summary(summed))
        files.write_whole(readme, page)
    return list(made)


def _sum_up(
    folder: Path, data: Dataset, profile: str, trained_on: str
) -> dict[Path, "pd.DataFrame"]:
    """Make what the scores that there are allow for."""
    with optional.packages():
        import pandas as pd

    quoted = study.project_root() / "data" / "results"
    files = {what: folder / f"scores-{what}.csv" for what in jobs.GROUPS}
    found = {what: tables.read_scores(path) for what, path in files.items() if path.exists()}
    made = {}
    in_box = [scored for what, scored in found.items() if what not in jobs.COLUMNS]
    if in_box:
        scored = pd.concat(in_box, ignore_index=True)
        lowest = bottom.lowest_known(data, scored)
        made[folder / "lowest.csv"] = lowest
        scored = bottom.above_lowest(data, scored, lowest)
        paper = pd.read_csv(quoted / "paper-table1.csv")
        made[folder / "table1.csv"] = tables.table_1(scored, paper)
        if set(evaluation.MODELS) <= set(found):
            levels = {
                preset: jobs.levels_of(samplers.BEST[preset], jobs.PROFILES[profile])
                for preset in evaluation.MODELS
            }
            path = folder / "figure5.csv"
            before = pd.read_csv(path) if path.exists() else None
            made[path] = comparison.figure_5(
                data, scored, levels, trained_on=trained_on, known=before
            )
    if "unseen" in found and "told" in found:
        judged = pd.concat([unseen.of_tests(data, scored), found["unseen"]], ignore_index=True)
        made[folder / "unseen.csv"] = judged
        if unseen.are_enough(judged):
            made[folder / "coverage.csv"] = unseen.coverage(judged)
    if "distributions" in found:
        made[folder / "distributions.csv"] = distributions.summary(found["distributions"])
    if "surfaces" in found:
        paper = pd.read_csv(quoted / "paper-table-a1.csv")
        made[folder / "table-a1.csv"] = tables.table_a1(found["surfaces"], paper)
    return made
