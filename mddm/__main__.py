"""The command line: `mddm sample --k 9 --phi 0.75 --temperature 0.02 --out found.gsd`."""

import argparse
import sys
import warnings
from collections.abc import Sequence

_SAMPLE = "mddm sample --k 9 --phi 0.75 --temperature 0.02 --out found.gsd"
_ANNEAL = "mddm anneal --potential lennard-jones --temperature 0.4 --n-steps 20000 --out md.gsd"
_IMPORT = "mddm data import run.gsd --potential lennard-jones --temperature 0.4 --out mine.h5"
_POTENTIAL = (
    "a file with columns of r, U and perhaps -dU/dr, or a name with its parameters, such as "
    "lennard-jones or morse:alpha=8,epsilon=2"
)
_OUT = "a .gsd, .xyz, .extxyz or .data file"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 for success, 1 for a failure and 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    usual, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return options.run(options) or 0
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        print(f"mddm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"mddm: {str(stop) or 'stopped; no file is half-written'}", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = usual


def _one_line(message, *_):
    return f"mddm: {message}\n"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Leaves an example on its line, and tells the defaults that there are."""

    def _get_help_string(self, action):
        told = isinstance(action.default, str | int) and not isinstance(action.default, bool)
        if told and action.default not in ("", argparse.SUPPRESS):
            return f"{action.help}; default: %(default)s"
        return action.help


def _parser():
    parser = argparse.ArgumentParser(prog="mddm", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_sample, _add_models, _add_lattices, _add_anneal, _add_relax, _add_score, _add_train,
        _add_export, _add_check, _add_data, _add_results,
    ):  # fmt: skip
        add(commands)
    return parser


def _add(commands, name, run, says, example):
    parser = commands.add_parser(
        name,
        help=says,
        description=says,
        epilog=f"example: {example}",
        formatter_class=_Help,
    )
    parser.set_defaults(run=run)
    return parser


def _add_sample(commands):
    says = "draw structures from a trained model"
    parser = _add(commands, "sample", _sample, says, _SAMPLE)
    parser.add_argument("--model", default="bragg", help="a name of `mddm models`, or a file")
    for name, unit in (("k", "1 / length"), ("phi", "rad"), ("temperature", "energy")):
        parser.add_argument(f"--{name}", type=float, help=f"of the condition [{unit}]")
    parser.add_argument(
        "--number", action="append", default=[], metavar="NAME=VALUE", help="any other of it"
    )
    parser.add_argument("--potential", help=_POTENTIAL)
    parser.add_argument("--n-samples", type=int, default=1, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next have the next")
    parser.add_argument("--n-particles", type=int, help="default: as in training")
    parser.add_argument("--sampler", help="default: the model's best")
    parser.add_argument("--n-levels", type=int, help="noise levels of the sampler")
    parser.add_argument("--budget", type=float, help="seconds for one answer")
    parser.add_argument(
        "--what",
        help="of a model of any potential: anneal, what MD comes to, the default; or stable",
    )
    parser.add_argument("--device", default="cpu", help="where to compute, cpu or cuda")
    parser.add_argument("--extrapolate", action="store_true", help="outside of what was trained")
    parser.add_argument("--out", required=True, help=_OUT)


def _add_models(commands):
    _add(commands, "models", _models, "list the trained models and what they know", "mddm models")


def _add_lattices(commands):
    says = "search the crystals that fit the box for those of lowest energy"
    example = "mddm lattices --potential opp:k=13.87,phi=1.01 -n 5"
    parser = _add(commands, "lattices", _lattices, says, example)
    parser.add_argument("--potential", required=True, help=_POTENTIAL)
    parser.add_argument("-n", type=int, default=5, help="how many to print")
    parser.add_argument("--temperature", type=float, help="order by free energy at it [energy]")
    parser.add_argument("--per-cell", type=int, default=1, help="particles a cell")
    parser.add_argument("--n-particles", type=int, default=1000, help="in the box")
    parser.add_argument("--box-length", type=float, help="default: for number density 1")
    parser.add_argument(
        "--shortest",
        type=float,
        help="no particles are nearer [length]; default: 0.86 at density 1",
    )
    parser.add_argument("--out", help=f"{_OUT}, for the lowest one")


def _add_anneal(commands):
    parser = _add(commands, "anneal", _anneal, "cool a random start by molecular dynamics", _ANNEAL)
    parser.add_argument("--potential", required=True, help=_POTENTIAL)
    parser.add_argument("--temperature", type=float, required=True, help="the target [energy]")
    parser.add_argument("--n-steps", type=int, default=100_000, help="of molecular dynamics")
    parser.add_argument("--n-particles", type=int, default=1000, help="at number density 1")
    parser.add_argument("--seed", type=int, default=0, help="of the random start and of the heat")
    parser.add_argument("--out", required=True, help=_OUT)


def _add_relax(commands):
    example = "mddm relax found.gsd --potential opp:k=9,phi=0.75 --out relaxed.gsd"
    says = "go downhill in energy from the configurations of a file"
    parser = _add(commands, "relax", _relax, says, example)
    parser.add_argument("file", help="GSD, extended XYZ, or what else ASE reads")
    parser.add_argument("--potential", required=True, help=_POTENTIAL)
    parser.add_argument("--out", required=True, help=_OUT)


def _add_score(commands):
    says = "measure the configurations of a file: g(r), S(q), crystallinity, energy"
    example = "mddm score found.gsd --against md.gsd --potential opp:k=9,phi=0.75"
    parser = _add(commands, "score", _score, says, example)
    parser.add_argument("file", help="GSD, extended XYZ, or what else ASE reads")
    parser.add_argument("--against", help="another file, for RDF-MSE to its mean g(r)")
    parser.add_argument("--potential", help=_POTENTIAL + "; for energies")


def _add_train(commands):
    says = "train a model; what Ctrl-C stops, the same line goes on with"
    example = "mddm train --data data/opp.h5 --model mddm-rbf --n-steps 3000 --out mine.safetensors"
    parser = _add(commands, "train", _train, says, example)
    parser.add_argument(
        "--task", default="conditional", help="or potential, unconditional, sphere, torus"
    )
    parser.add_argument("--model", default="mddm", help="or mddm-rbf, bragg, transolver")
    parser.add_argument(
        "--data", nargs="+", help="a data set; several for potential, none for sphere and torus"
    )
    parser.add_argument("--profile", default="full", help="the study's own run; or quick: minutes")
    parser.add_argument("--n-steps", type=int, help="default: the profile's")
    parser.add_argument("--batch-size", type=int, help="configurations a step; the profile's")
    parser.add_argument("--learning-rate", type=float, help="at its highest; the model's")
    parser.add_argument("--precision", default="float32", help="or bfloat16")
    parser.add_argument("--start", help="a checkpoint whose weights are trained further")
    parser.add_argument("--jitter", type=float, help="of potentials that are told; the study's")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and noise")
    parser.add_argument("--compiled", action="store_true", help="PyTorch compiles the network")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--out", required=True, help="a .safetensors file, for `mddm sample`")


def _add_export(commands):
    says = "write configurations of a data set for other programs"
    example = "mddm export data/opp.h5 --split test --out tests.gsd"
    parser = _add(commands, "export", _export, says, example)
    parser.add_argument("data", help="a data set")
    parser.add_argument("--split", help="only train, test or replica")
    parser.add_argument("--rows", type=int, nargs="+", help="only these rows, from 0")
    parser.add_argument("--out", required=True, help=_OUT)


def _add_check(commands):
    says = "print what a data set holds and check its physics; exit with 1 if a check fails"
    parser = _add(commands, "check", _check, says, "mddm check data/opp.h5")
    parser.add_argument("data", help="a data set")


def _add_data(commands):
    says = "make data sets"
    example = "mddm data make small"
    parser = _add(commands, "data", None, says, example)
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    says = "run what is missing of a sweep of the study, and assemble its data set"
    make = _add(parts, "make", _data_make, says, example)
    make.add_argument("what", help="small, ramps or any; a mistyped one lists all")
    make.add_argument("--folder", help="of the runs' files; default: data/WHAT")
    make.add_argument("--scheduler", help="address of a Dask scheduler; default: all cores here")
    make.add_argument("--workers", type=int, help="processes to start here")
    make.add_argument(
        "--device", help="cuda: hundreds of systems at once on a GPU; default: LAMMPS"
    )
    make.add_argument("--as-is", action="store_true", help="assemble what there is; run nothing")
    make.add_argument("--out", help="the data set; default: the study's own")
    says, each = "take configurations from other programs' files", "; one for all files, or each"
    taken = _add(parts, "import", _data_import, says, _IMPORT)
    taken.add_argument("files", nargs="+", help="GSD, extended XYZ, or what else ASE reads")
    taken.add_argument("--potential", nargs="+", required=True, help=_POTENTIAL + each)
    taken.add_argument(
        "--temperature", nargs="+", type=float, required=True, help=f"[energy]{each}"
    )
    taken.add_argument(
        "--split", nargs="+", default=["train"], help=f"train, the default, or test{each}"
    )
    taken.add_argument("--out", required=True, help="an .h5 file")


def _add_results(commands):
    says = "score the study's models and their rivals, as far as that has not been done, and sum up"
    parser = _add(commands, "results", _results, says, "mddm results bragg seeded")
    parser.add_argument("what", nargs="*", help="groups of scores, such as bragg; default: all")
    parser.add_argument("--profile", default="full", help="how much of it, quick or full")
    parser.add_argument("--data", default="", help="relative to the clone; default: the study's")
    parser.add_argument("--compiled", action="store_true", help="PyTorch compiles networks first")


def _sample(options):
    from pathlib import Path

    from mddm import arguments, export, family, model, trust

    export.check(options.out, arguments.whole("n_samples", options.n_samples, at_least=1))
    potential = family.parse(options.potential).at({}) if options.potential else None
    names = (
        *("k", "phi", "temperature", "n_samples", "seed", "n_particles", "sampler", "n_levels"),
        *("budget", "what", "extrapolate"),
    )
    asked = {name: getattr(options, name) for name in names}
    for pair in options.number:
        name, _, value = pair.partition("=")
        try:
            asked[name.strip()] = float(value)
        except ValueError:
            raise ValueError(
                f"--number must be NAME=VALUE, such as alpha=6, got {pair!r}"
            ) from None
    network = model.load(options.model, options.device)
    if network.card.box_length is None:
        raise ValueError(
            f"{network.card.name!r} draws points in free space, and these files hold periodic "
            "boxes; in Python, mddm.load(...).sample().positions has them"
        )
    found = network.sample(**asked, potential=potential)
    found.write(options.out)
    for each in found.candidates:
        print(
            f"{each.name:8} energy at rest {each.energy_at_rest:.5g} a particle, crystallinity "
            f"{each.crystallinity:.2f}, {each.seconds:.1f} s"
        )
    if found.potential is not None:
        for number, energy in enumerate(found.energies):
            name = f"sample {number}: seed {options.seed + number}"
            if found.candidates:
                name = f"the {found.candidates[0].name}"
            print(f"{name}, energy {energy:.5g} a particle")
    print(f"wrote {len(found)} to {options.out}, {found.seconds:.1f} s each", flush=True)
    if network.card.told == "potential" and len(found) >= trust.FEWEST:
        print(f"a quench of {trust.QUENCH_STEPS:,} steps competes with them", file=sys.stderr)
        answer, difference = network.answer(found, options.seed, what=options.what)
        path = Path(options.out)
        path = path.with_name(f"{path.stem}-answer{path.suffix}")
        answer.write(path)
        print(f"wrote the answer, {_which(answer, found)}, to {path}\n{difference}")


def _which(answer, found):
    same = (found.positions == answer.positions).all(axis=(1, 2))
    return f"sample {same.argmax()}" if same.any() else "the quench"


def _models(options):
    from mddm import model

    for card in model.models():
        ends = [f"{name} {low:g} to {high:g}" for name, (low, high) in card.ranges.items()]
        if card.told == "potential":
            ends.append("in units of how much U varies, any potential")
        knows = ", ".join(ends)
        box = "free space" if card.box_length is None else f"box of {card.box_length:g}"
        print(
            f"{card.name:28} {card.n_parameters:>8,} parameters  "
            f"{card.n_particles} particles, {box}"
            f"  {knows or 'no condition'}"
        )


def _lattices(options):
    from mddm import arguments, bases, export, family, lattices

    if options.out:
        export.check(options.out)
    box_length = options.box_length
    if box_length is None:
        box_length = arguments.whole("n_particles", options.n_particles, at_least=1) ** (1 / 3)
    asked = (family.parse(options.potential).at({}), options.n_particles, box_length)
    how, free_energies = {"shortest": options.shortest}, []
    if options.temperature is not None:
        how["per_cell"] = options.per_cell
        stable = lattices.stable(*asked, options.temperature, options.n, **how)
        found = [each.crystal for each in stable]
        free_energies = [each.free_energy for each in stable]
    elif options.per_cell == 1:
        found = lattices.search(*asked, options.n, **how)
    else:
        found = bases.search(*asked, options.per_cell, options.n, **how)
    print(lattices.table(found, free_energies))
    if options.out:
        numbers = {"energy_per_particle": [found[0].energy]}
        export.write(options.out, found[0].positions, box_length, numbers)
        print(f"wrote the first to {options.out}")


def _anneal(options):
    from mddm import export, family, lammps

    export.check(options.out)
    potential, box_length = family.parse(options.potential).at({}), options.n_particles ** (1 / 3)
    size = {"n_particles": options.n_particles, "box_length": box_length}
    found = lammps.anneal(potential, options.temperature, options.n_steps, options.seed, **size)
    numbers = {"temperature": [options.temperature], "energy_per_particle": [found.energy]}
    export.write(options.out, found.positions, box_length, numbers)
    print(f"wrote {options.out}, energy {found.energy:.5g} a particle")


def _relax(options):
    from mddm import export, family
    from mddm.structures import Structures

    potential = family.parse(options.potential).at({})
    before = Structures(*export.read(options.file), potential=potential)
    export.check(options.out, len(before))
    after = before.relax()
    numbers = {"energy_per_particle": after.energies}
    export.write(options.out, after.positions, after.box_length, numbers)
    for number, energies in enumerate(zip(before.energies, after.energies, strict=True)):
        print("frame {}: energy {:.5g} to {:.5g} a particle".format(number, *energies))
    print(f"wrote {options.out}")


def _score(options):
    from mddm import distribution, export, family, structure
    from mddm.structures import Structures

    potential = family.parse(options.potential).at({}) if options.potential else None
    positions, box_length = export.read(options.file)
    found = Structures(positions, box_length, potential=potential)
    reference = None
    if options.against:
        others, other_box = export.read(options.against)
        r_max = structure.RDF_RANGE * min(box_length, other_box)
        mine, other = positions.shape[1] / box_length**3, others.shape[1] / other_box**3
        if abs(mine / other - 1) > 0.01:
            told = f"of number density {mine:.3g}, and {options.against} of {other:.3g}"
            print(f"mddm: {options.file} is {told}: their g(r) need not agree", file=sys.stderr)
        _, reference = structure.rdf(others, other_box, r_max=r_max)
    columns = {
        "S at its peak": [structure.bragg_peak(one, box_length) for one in positions],
        "crystallinity": found.crystallinity(),
    }
    if potential is not None:
        columns["energy/particle"] = found.energies
    if reference is not None:
        columns["RDF-MSE"] = [
            structure.rdf_mse(structure.rdf(one, box_length, r_max=r_max)[1], reference)
            for one in positions
        ]
    r, g = found.rdf()
    print(f"{len(found)} frames of {positions.shape[1]} particles in a box of {box_length:g}")
    print(f"g(r) is highest at r = {r[g.argmax()]:.3f}: {g.max():.2f}")
    print("frame " + "".join(f"{name:>16}" for name in columns))
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        print(f"{number:5} " + "".join(f"{value:16.5g}" for value in values))
    if reference is not None and min(len(positions), len(others)) > 1:
        curves = [
            [structure.rdf(one, box, r_max=r_max)[1] for one in frames]
            for frames, box in ((positions, box_length), (others, other_box))
        ]
        distance = distribution.energy_distance(*curves)
        print(f"energy distance of the g(r) of both files: {distance:.4f}, 0 where they are alike")
    if reference is not None and min(len(positions), len(others)) > 1 and box_length == other_box:
        try:
            told = distribution.distinguishability(positions, others, box_length)
            print(f"a classifier's AUC on single particles: {told:.3f}, 0.5 where they are alike")
        except ImportError as error:
            print(f"no classifier: {error}")


def _train(options):
    from mddm import dataset, files, study
    from mddm.study import tasks, train

    task, model = options.task, options.model
    names = ("n_steps", "batch_size", "learning_rate", "seed", "jitter")
    asked = {name: getattr(options, name) for name in names}
    asked = {name: value for name, value in asked.items() if value is not None}
    asked = train.budget(options.profile, task, model) | asked
    if options.start:
        asked["start"] = files.file_hash(options.start)
    data, row = [None], None
    if task not in tasks.SURFACES:
        if options.data is None:
            raise ValueError(f"the task {task} is about a data set: name it with --data")
        data = [dataset.read(path) for path in options.data]
        if len(data) > 1 and task != "potential":
            raise ValueError(f"the task {task} is about one data set, got {len(data)}")
        row = tasks.unconditional_row(data[0]) if task == "unconditional" else None
    elif options.data is not None:
        raise ValueError(f"the task {task} has no data set: leave out --data")
    source = tasks.training_source(task, data if task == "potential" else data[0], row)
    hashes = ", ".join(each.content_hash for each in data if each)
    settings = train.settings_of(model, source, hashes, precision=options.precision, **asked)
    origin = {"data_file": ", ".join(options.data or []), "compiled": options.compiled}
    state = train.run(
        options.out,
        settings,
        source,
        study.run_record(options.seed, task=task, **origin),
        device=options.device or study.device(),
        compiled=options.compiled,
        start=options.start,
        label=f"{task} {model}",
    )
    last = state.losses[-max(1, len(state.losses) // 10) :].mean()
    print(f"wrote {options.out}: {state.step} steps in {state.seconds:.0f} s, loss {last:.3f}")


def _export(options):
    import numpy as np

    from mddm import arguments, dataset, export

    export.check(options.out)
    data = dataset.read(options.data)
    rows = np.arange(len(data)) if options.rows is None else np.array(options.rows)
    if not ((rows >= 0) & (rows < len(data))).all():
        raise ValueError(f"rows must lie in [0, {len(data)}), got {options.rows}")
    chosen = data.take(rows)
    if options.split:
        chosen = chosen.subset(arguments.choice("split", options.split, dataset.SPLITS))
    if not len(chosen):
        raise ValueError(f"no row of {options.data} is chosen; leave out --split or --rows")
    known = ("temperature", "pressure", "steps", "seed")
    numbers = {**chosen.parameters, **{name: getattr(chosen, name) for name in known}}
    numbers = {name: column for name, column in numbers.items() if column is not None}
    # Readers take "energy" for that of all particles together.
    numbers["energy_per_particle"] = chosen.energy
    export.write(options.out, chosen.positions, chosen.box_length, numbers)
    print(f"wrote {len(chosen)} configurations to {options.out}")


def _check(options):
    from mddm import check

    return 0 if check.report(options.data) else 1


def _refuse_no_h5(path):
    if path is not None and not path.endswith((".h5", ".hdf5")):
        raise ValueError(f"a data set is an HDF5 file: --out must end in .h5, got {path!r}")


def _data_make(options):
    from mddm.study import sweep

    _refuse_no_h5(options.out)
    try:
        made = sweep.make(
            options.what,
            folder=options.folder,
            output=options.out,
            scheduler=options.scheduler,
            n_workers=options.workers,
            device=options.device,
            as_is=options.as_is,
            report=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        kept = "stopped; what is finished is kept, run the same line again to go on"
        raise KeyboardInterrupt(kept) from None
    print(f"wrote {made}")


def _data_import(options):
    from mddm import dataset, family, files, importer

    _refuse_no_h5(options.out)
    files.check_writable(options.out)
    families = [family.parse(text) for text in options.potential]
    made = importer.read_files(options.files, families, options.temperature, options.split)
    dataset.write(options.out, made)
    told = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in made.ranges.items())
    print(
        f"wrote {len(made)} configurations of {made.positions.shape[1]} particles to "
        f"{options.out}; {'conditions: ' + told if told else 'all of one condition'}"
    )


def _results(options):
    from mddm import study
    from mddm.study import results

    try:
        made = results.make(options.what, options.profile, options.data, options.compiled)
    except KeyboardInterrupt:
        kept = "stopped; what is scored is kept, run the same line again to go on"
        raise KeyboardInterrupt(kept) from None
    print(f"wrote {', '.join(str(path.relative_to(study.project_root())) for path in made)}")


if __name__ == "__main__":
    sys.exit(main())
