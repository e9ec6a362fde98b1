"""Wrong calls of the public functions: none is silent, hangs or ends Python, and words say why."""

import dataclasses
import inspect
import math
import signal
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mddm import (
    bases,
    bragg,
    check,
    checkpoint,
    condition,
    configurations,
    crystal,
    dataset,
    distribution,
    encoding,
    export,
    family,
    files,
    formulas,
    fourier,
    geometry,
    importer,
    lammps,
    lattices,
    model,
    noise,
    onnx,
    pbcconv,
    phonons,
    plotting,
    potential,
    presets,
    samplers,
    sampling,
    seeded,
    shapes,
    structure,
    study,
    sublattices,
    training,
    transolver,
    viewer,
    waves,
)
from mddm.protocol import Harvest
from mddm.relaxing import Relaxing
from mddm.structures import Structures
from mddm.study import tasks, train

MODULES = (
    bases, check, checkpoint, condition, configurations, crystal, dataset, distribution, encoding,
    export, family, files, formulas, fourier, geometry, importer, lammps, lattices, model, noise,
    onnx, phonons, plotting, potential, presets, samplers, sampling, seeded, shapes, structure,
    study, sublattices, tasks, train, training, viewer, waves,
)  # fmt: skip
# What takes no argument that could be wrong, what a test of files or of the command line holds to
# account, parts of networks, which their network checks for, and records that the package makes for
# its users.
LEFT_OUT = {
    checkpoint: {
        "save",
        "load",
        "save_state",
        "load_state",
        "check_replaceable",
        "start_from",
        "potential_of",
    },
    configurations: {"Source"},
    crystal: {"Bonds", "Symmetry"},
    check: {"Check", "bimodal"},
    family: {"common"},
    files: {"whole"},
    lattices: {"table"},
    model: {"Model", "models"},
    phonons: {"Vibrations"},
    study: {"project_root", "device"},
    sublattices: {"cache_folder"},
    lammps: {"version"},
    plotting: {"set_style"},
    potential: {"PairPotential"},
    noise: {"Denoiser"},
    sampling: {"Frame", "Multistep", "Sampler", "Walk"},
    train: {"run", "settings_of"},
    training: {"Step"},
    viewer: {"Viewer"},
    waves: {"Waves"},
}

NO_NUMBER = ["1", None, 1j, True, [1.0], np.ones(2), object()]
POSITIVE = [*NO_NUMBER, 0, -1.0, math.nan, math.inf, -math.inf]
TIME = [*NO_NUMBER, 0, -1.0, math.nan]
NOT_NEGATIVE = [*NO_NUMBER, -1.0, math.nan, math.inf]
FREE = [value for value in POSITIVE if value is not None]
WAVE_NUMBER = ["1", None, 1j, True, object(), math.nan, math.inf, torch.tensor([math.nan, 1.0])]
COUNT = [*NO_NUMBER, 0, -1, 2.5, math.nan, math.inf]
SEED = [*NO_NUMBER, -1, 2.5, math.nan, 2**64]
WORD = ["nonsense", "", None, 3, ["a"]]
DEVICE = ["gpu", "cuda:99", None, 3.5]
GENERATOR = [None, 0, np.random.default_rng(0)]
POTENTIAL = [None, 3, "opp", potential.OscillatingPair(1.0, 1.0), object()]
OTHER = [None, 3, "other", object()]
PATH = [None, 3, 1.5, 1j, ["a"], object(), b"a", ""]
NO_ARRAY = ["abc", None, 1j, [[1.0], [1.0, 2.0]], {}, object(), torch.ones(4, 3, dtype=torch.bool)]


def no_numbers(value):
    """Give what is no array, or one of no numbers, in its place."""
    bad = (math.nan, math.inf, -math.inf)
    return [*(torch.full_like(value, number) for number in bad), *NO_ARRAY]


def spoilt(value):
    """Give that, and other shapes than the value's own."""
    value = torch.as_tensor(value)
    return [*no_numbers(value), value.numpy()[None], value.flatten()[:-1], value[:0]]


RANDOM = torch.Generator().manual_seed(0)
X = torch.rand(2, 30, 3, generator=RANDOM) * 7.0
ONE = X[0]
SIGMA, SIGMAS = torch.full((2,), 0.1), torch.tensor([0.0, 0.1, 0.5])
CONDITIONS = torch.tensor([[6.6, 2.4, 0.02], [1.0, 4.0, 0.03]])
LEVELS = [*spoilt(SIGMA), -SIGMA, 0 * SIGMA]
WALK = [*no_numbers(SIGMAS), SIGMAS.flip(0), SIGMAS[1:], SIGMAS[:1], SIGMAS[None], []]
LENGTHS = [*NO_ARRAY, 0.0, -1.0, math.nan, math.inf]
DISTANCES = [*NO_ARRAY, torch.tensor([1.0, -0.5])]
SMOOTHED = potential.Smoothed(potential.OscillatingPair(6.6, 2.4))
ROW = [*NO_NUMBER, -1, 1.5, 10**6]
DATA_FILE = Path(__file__).parents[1] / "data" / "opp-small.h5"
DATA = dataset.read(DATA_FILE)
HARVEST = Harvest(
    7 * np.stack(np.meshgrid(*[np.arange(4) / 4] * 3), -1).reshape(-1, 3),
    np.zeros((64, 3)), 0.02, -1.0, 0.02, 0.0, 0.0, 0, 0.0, np.empty(0),
)  # fmt: skip
SOURCE = configurations.Configurations(X, CONDITIONS, 7.0)
TINY = {"channels": 8, "n_layers": 1, "n_heads": 1, "n_slices": 2}
STATE = training.TrainingState(
    presets.Settings(preset="transolver", n_steps=2, batch_size=2, n_levels=5, architecture=TINY)
)
WAVES = waves.strongest_waves(X, 8, 2.0, 9.5, 7.0)
PLACES, THERE = waves.find_sites(WAVES, SIGMA, 30, 7.0)
TRANSOLVER = transolver.TransolverDenoiser(**TINY)
BRAGG = bragg.BraggDenoiser(channels=8, n_layers=1, n_fields=2, n_waves=8)
PBCCONV = pbcconv.PBCConvDenoiser(channels=8, n_layers=1, hidden_channels=4, head_channels=4)
RADIAL = pbcconv.RadialDenoiser(channels=8, n_layers=1)
KEPT = tempfile.TemporaryDirectory()
FOLDER = Path(KEPT.name)
MODEL, BINARY, TABLE, XYZ = (FOLDER / name for name in ("mddm.safetensors", "b.gsd", "t", "x.xyz"))
NEW, NO_FOLDER = FOLDER / "new", Path("/proc/none/x")
READ = [*PATH, FOLDER / "missing.gsd", FOLDER, BINARY]
WRITE = [*PATH, NO_FOLDER, FOLDER]
UNTRAINED = training.TrainingState(
    presets.Settings(
        architecture={"channels": 8, "n_layers": 1, "hidden_channels": 4, "head_channels": 4},
        sigma_max=3.2,
    ),
    n_particles=262,
    box_length=6.4,
    potential=family.Family("opp"),
)
checkpoint.save(MODEL, UNTRAINED, {"task": "conditional"})
BINARY.write_bytes(bytes(range(256)))
TABLE.write_text("1 1\n2 0\n3 0\n4 0\n")
export.write(XYZ, ONE, 7.0)
LJ = family.Family("lennard-jones")
FOUND = Structures(X[:1].numpy(), 7.0, {"k": 9.0}, SMOOTHED)
LOADED = model.load(MODEL)
NEAR = potential.Smoothed(potential.OscillatingPair(9.0, 0.7), r_on=1.6, r_cut=1.9)
CELL, BASIS = 2 * (np.ones((3, 3)) - np.eye(3)) / 2, np.zeros((1, 3))
FCC = crystal.Crystal(CELL, BASIS, 4.0)
PAIR = crystal.Crystal(CELL, [[0, 0, 0], [0.25, 0.25, 0.25]], 4.0)
ROWS = DATA.take([0, 1, *DATA.partners(0)])
COLUMNS = ("positions", "temperature", "seed", "energy", "kinetic_temperature",
           "pressure", "drift", "steps")  # fmt: skip
FORMULAS = [formula for formula in formulas.FORMULAS.values()
            if inspect.isclass(formula) and formula.__module__ == formulas.__name__]  # fmt: skip
FINITE = [*NO_NUMBER, math.nan, math.inf]
# Of a formula, with numbers for what it cannot do without.
MADE = [formula(*[2.0 for field in dataclasses.fields(formula)
                  if field.default is dataclasses.MISSING]) for formula in FORMULAS]  # fmt: skip
SIZES = [*FINITE, -1.0]


FRAMES = [sampling.Frame(1, 0.1, X[:1], 0), sampling.Frame(0, 0.0, X[:1], 1)]
AXES = Figure().subplots(5)


def silent(x_t, sigma, condition, box_length):
    return torch.zeros_like(x_t)


def wrong_shape(x_t, sigma, condition, box_length):
    return x_t[:, :1]


BOX = {
    "positions": (ONE, [*no_numbers(ONE), ONE[:, :2], ONE[:0], ONE.flatten()]),
    "box_length": (7.0, POSITIVE),
}
MD = {"n_particles": (64, COUNT), "box_length": (7.0, POSITIVE), "time_step": (0.01, POSITIVE)}
MD |= {"damping": (1.0, TIME), "start_temperature": (0.1, FREE)}
SCHEDULE = {"n_levels": (3, [*COUNT, 1]), "sigma_min": (0.01, POSITIVE), "sigma_max": (1, POSITIVE)}
SAMPLER = {
    "denoiser": (silent, [None, 3, wrong_shape]),
    "x_t": (X, spoilt(X)),
    "sigmas": (SIGMAS, WALK),
    "condition": (CONDITIONS, [bad for bad in spoilt(CONDITIONS) if bad is not None]),
    "box_length": (7.0, FREE),
    "generator": (RANDOM, GENERATOR),
    "center": (False, [True]),
}
ANCESTRAL, FLOW = sampling.Ancestral(), sampling.ProbabilityFlow()
STAGES = (samplers.Stage(ANCESTRAL, 1, 0.2), samplers.Stage(FLOW, 1))
STEP = {"displacement": (X, no_numbers(X))}
STEP |= {"sigma": (0.1, LENGTHS), "box_length": (7.0, FREE)}
NETWORK = {name: SAMPLER[name] for name in ("x_t", "box_length")}
NETWORK |= {"sigma": (SIGMA, LEVELS), "condition": (CONDITIONS, spoilt(CONDITIONS))}
NOISE = {"sigma_min": (0.01, [*POSITIVE, 9.0]), "sigma_max": (5.0, [*POSITIVE, 0.001])}
RANGES = ({"k": (1.0, 2.0)}, [*OTHER, {"k": (2.0, 1.0)}, {"k": 1.0}, {3: (1.0, 2.0)}])
PRESETS = {field.name: getattr(presets.Settings(), field.name)
           for field in dataclasses.fields(presets.Settings)}  # fmt: skip
STORED = {
    "positions": (ONE, [*no_numbers(ONE), ONE[:, :2], ONE[:0], ONE.flatten()]),
    "box_length": (7.0, POSITIVE),
    "information": ({"k": [1.0]}, [
        3, "abc", [1.0], {"a b": [1.0]}, {3: [1.0]}, {"energy": [1.0]},
        *({"k": bad} for bad in (["a"], [1.0, 2.0], 1.0, [[1.0], [1.0, 2.0]], None)),
    ]),
}  # fmt: skip
CUBE = {
    "n_particles": (8, COUNT),
    "box_length": (2.1, POSITIVE),
    "n_best": (2, COUNT),
    "shortest": (0.9, [*FREE, 9.0]),
}
CELLS = {"cell": (CELL, [*spoilt(CELL), 0 * CELL]), "basis": (BASIS, [*spoilt(BASIS), BASIS[0]])}
INTEGERS = [*no_numbers(torch.eye(3)), np.eye(3) / 2, np.eye(2), np.ones(3)]

# Each function with its arguments: what is right, and what is not.
CALLS = [
    (geometry.wrap, {"positions": (X, NO_ARRAY), "box_length": (7.0, FREE)}),
    (geometry.wrap_single, {
        "positions": (X, no_numbers(X)),
        "box_length": (7.0, [*POSITIVE, 1e30, 1e-30]),
    }),
    (geometry.minimum_image, {"displacement": (X, NO_ARRAY), "box_length": (7.0, FREE)}),
    (geometry.gather_particles, {
        "features": (X, [*NO_ARRAY, ONE]),
        "neighbors": (torch.zeros(2, 30, 4, dtype=torch.int64), [*OTHER, X, torch.zeros(2, 30, 4)]),
    }),
    (geometry.nearest_neighbors, {
        "positions": (X, spoilt(X)),
        "n_neighbors": (4, [*COUNT, 30]),
        "box_length": (7.0, FREE),
        "method": ("tree", WORD),
    }),
    (geometry.nearest_points, {
        "positions": (X, spoilt(X)),
        "points": (PLACES, spoilt(PLACES)),
        "there": (THERE, [*OTHER, THERE[:1], X]),
        "n_nearest": (4, [*COUNT, PLACES.shape[1] + 1]),
        "box_length": (7.0, FREE),
    }),
    (geometry.neighbor_pairs, {
        "positions": (ONE, spoilt(ONE)),
        "r_cut": (2.0, [*POSITIVE, 3.5]),
        "box_length": (7.0, POSITIVE),
    }),
    (potential.OscillatingPair, {"k": (6.6, WAVE_NUMBER), "phi": (2.4, WAVE_NUMBER)}),
    (potential.OscillatingPair(6.6, 2.4).energy, {"r": (ONE, DISTANCES)}),
    (potential.OscillatingPair(6.6, 2.4).force, {"r": (ONE, DISTANCES)}),
    (potential.Tabulated, {
        "r": ([1.0, 2.0, 3.0, 4.0], [*spoilt(torch.arange(4.0)), [4.0, 3.0, 2.0, 1.0]]),
        "energy": ([1.0, 0.0, 0.0, 0.0], spoilt(torch.arange(4.0))),
    }),
    (potential.Tabulated([1.0, 2, 3, 4], [1.0, 0, 0, 0]).energy,
     {"r": (torch.tensor([1.5]), [*DISTANCES, torch.tensor([0.5])])}),
    (potential.Smoothed, {
        "potential": (potential.OscillatingPair(1.0, 1.0), OTHER),
        "r_on": (2.5, [*POSITIVE, 3.5]),
        "r_cut": (3.0, [*POSITIVE, 2.0]),
        "r_core": (0.7, [*POSITIVE, 2.6]),
    }),
    (SMOOTHED.energy, {"r": (ONE, DISTANCES)}),
    (SMOOTHED.force, {"r": (ONE, DISTANCES)}),
    (potential.energy_scale, {"potential": (SMOOTHED, POTENTIAL)}),
    (potential.energy_unit, {"potential": (SMOOTHED, POTENTIAL), "hottest": (0.1, NOT_NEGATIVE)}),
    (potential.tabulate, {
        "potential": (SMOOTHED, POTENTIAL),
        "r": (torch.linspace(1, 3, 9).double(), [*no_numbers(SIGMA), ONE, [0.0, 1.0], [-1.0]]),
    }),
    (potential.potential_energy, {
        "positions": (ONE, spoilt(ONE)),
        "potential": (SMOOTHED, POTENTIAL),
        "box_length": (7.0, [*POSITIVE, 6.0]),
    }),
    (potential.pair_distances, {
        "positions": (ONE, spoilt(ONE)),
        "r_max": (2.0, [*POSITIVE, 3.5]),
        "box_length": (7.0, POSITIVE),
    }),
    (lammps.anneal, {
        "potential": (SMOOTHED, POTENTIAL),
        "temperature": (0.02, POSITIVE),
        "n_steps": (10, [*COUNT, 9]),
        "seed": (0, SEED),
        **MD,
    }),
    (lammps.cool, {
        "potential": (SMOOTHED, POTENTIAL),
        "previous": (HARVEST, OTHER),
        "temperature": (0.02, POSITIVE),
        "n_steps": (2, [*COUNT, 1]),
        "seed": (0, SEED),
        **{name: MD[name] for name in ("box_length", "time_step", "damping")},
    }),
    (lammps.heal, {
        "potential": (SMOOTHED, POTENTIAL),
        "positions": (HARVEST.positions, [*spoilt(HARVEST.positions), np.zeros((2, 3))]),
        "temperature": (0.02, POSITIVE),
        "n_steps": (3, [*COUNT, 2]),
        "seed": (0, SEED),
        "hottest": (0.1, [*(other for other in NO_NUMBER if other is not None), 0.01]),
        **{name: MD[name] for name in ("box_length", "time_step", "damping")},
    }),
    (lammps.hold, {
        "potential": (SMOOTHED, POTENTIAL),
        "positions": (HARVEST.positions, [*spoilt(HARVEST.positions), np.zeros((2, 3))]),
        "temperature": (0.02, POSITIVE),
        "n_steps": (1, COUNT),
        "seed": (0, SEED),
        **{name: MD[name] for name in ("box_length", "time_step", "damping")},
    }),
    (lammps.ramp, {
        "potential": (SMOOTHED, POTENTIAL),
        "temperatures": ([0.03, 0.02], [*NO_ARRAY, [], [0.0], [math.nan], [0.1, 0.2], 0.1]),
        "n_steps_first": (10, [*COUNT, 9]),
        "n_steps_between": (10, [*COUNT, 1]),
        "seed": (0, SEED),
        **MD,
    }),
    (lammps.minimize, {
        "positions": (HARVEST.positions, [*spoilt(HARVEST.positions), np.zeros((2, 3))]),
        "potential": (SMOOTHED, POTENTIAL),
        "box_length": (7.0, [*POSITIVE, 6.0]),
        "tolerance": (0.1, POSITIVE),
    }),
    (Relaxing(SMOOTHED, 7.0, 0.02).__call__, {
        "positions": (HARVEST.positions, [*spoilt(HARVEST.positions), np.zeros((2, 3))]),
        "n_steps": (1, [*NO_NUMBER, -1, 2.5, math.nan, math.inf]),
        "seed": (0, SEED),
    }),
    (Relaxing, {
        "potential": (SMOOTHED, POTENTIAL),
        "box_length": (7.0, POSITIVE),
        "temperature": (0.02, [bad for bad in POSITIVE if bad is not None]),
    }),
    (lammps.energy_and_forces, {
        "positions": (HARVEST.positions, [*spoilt(HARVEST.positions), np.zeros((2, 3))]),
        "potential": (SMOOTHED, POTENTIAL),
        "box_length": (7.0, [*POSITIVE, 6.0]),
    }),
    (noise.estimate, {
        "denoiser": (silent, [wrong_shape, lambda *_: None]),
        "x_t": (X, []),
        "sigma": (SIGMA, []),
        "condition": (None, []),
        "box_length": (7.0, []),
    }),
    (condition.sigma_max, {"box_length": (7.0, FREE)}),
    (condition.take_ranges, {"value": RANGES, "name": ("value", [])}),
    (condition.take_conditioning, {"value": (None, [3, "a"]), "name": ("value", [])}),
    (condition.Conditioning, {"ranges": RANGES, **NOISE, "n_levels": (8, [*COUNT, 1])}),
    (noise.log_schedule, SCHEDULE),
    (noise.power_schedule, SCHEDULE | {"rho": (7.0, POSITIVE)}),
    (noise.linear_variance_schedule, SCHEDULE),
    (noise.log_normal_schedule, SCHEDULE | {"center": (0.1, POSITIVE), "width": (1.0, POSITIVE)}),
    (noise.make_schedule, SCHEDULE | {"name": ("log", WORD)}),
    (noise.add_noise, {
        "x_0": (X, spoilt(X)),
        "sigma": (0.1, [math.nan, math.inf, "a", None, -1.0, torch.ones(5)]),
        "eps": (X, spoilt(X)),
        "box_length": (7.0, FREE),
    }),
    (noise.posterior, {
        "x_t": (X, no_numbers(X)),
        "eps": (X, no_numbers(X)),
        "alpha_t": (0.2, ["a", None, 0.0, -1.0, math.nan, math.inf, 0.05, torch.ones(5)]),
        "alpha_prev": (0.1, ["a", None, -1.0, math.nan, math.inf, 0.3, torch.ones(5)]),
        "variance": ("exact", WORD),
    }),
    (noise.wrapped_normal_log_density, STEP),
    (noise.wrapped_eps, STEP),
    (noise.wrapped_normal_score, STEP),
    (noise.uniformity_gap, {"sigma": (0.1, LENGTHS), "box_length": (7.0, POSITIVE)}),
    (sampling.pure_noise, {
        "batch_size": (2, COUNT),
        "n_particles": (30, COUNT),
        "box_length": (7.0, FREE),
        "sigma_max": (1.0, POSITIVE),
        "generator": (RANDOM, GENERATOR),
    }),
    (sampling.last, {"frames": ([1], [*OTHER[:2], []])}),
    (sampling.Corrector, {
        "n_steps": (1, [*NO_NUMBER, -1, 2.5]),
        "part": (0.3, [*POSITIVE, 1.1]),
        "lowest": (0.0, NOT_NEGATIVE),
        "highest": (1.0, [*NO_NUMBER, -1.0, math.nan]),
        "noise_scale": (1.0, [*NOT_NEGATIVE, 1.1]),
    }),
    (sampling.Ancestral, {
        "variance": ("exact", WORD),
        "correctors": ((), [[None], [3], 3]),
        "hops": (None, [3, (0.1,), (0.2, 0.1), ("a", "b"), (math.nan, 1.0)]),
    }),
    (seeded.choose, {
        "potential": (NEAR, POTENTIAL),
        "n_particles": CUBE["n_particles"],
        "box_length": CUBE["box_length"],
        "temperature": (0.02, POSITIVE),
        "seed": (0, SEED),
        "spread": (0.01, NOT_NEGATIVE),
    }),
    (sampling.check_levels, {"sigmas": (SIGMAS, WALK)}),
    (seeded.denoise, {
        **{name: SAMPLER[name] for name in ("denoiser", "sigmas", "condition", "box_length")},
        "sites": (X, spoilt(X)),
        "top": (0.2, POSITIVE),
        "generator": (RANDOM, GENERATOR),
    }),
    (seeded.draw, {
        **{name: SAMPLER[name] for name in ("denoiser", "sigmas")},
        "potential": (NEAR, POTENTIAL),
        **{name: CUBE[name] for name in ("n_particles", "box_length")},
        "temperature": (0.02, POSITIVE),
        "condition": (X[:1, 0], [None, 3, "a"]),
        "seed": (0, SEED),
        "spread": (0.01, NOT_NEGATIVE),
        "device": ("cpu", DEVICE),
    }),
    (sampling.ProbabilityFlow, {
        "order": (2, [*COUNT, 3]),
        "churn": (0.1, NOT_NEGATIVE),
        "churned": ((0.0, math.inf), [3, (0.1,), (0.2, 0.1), ("a", "b"), (math.nan, 1.0)]),
    }),
    (samplers.Polished, {
        "start": (ANCESTRAL, OTHER),
        "finish": (ANCESTRAL, OTHER),
        "top": (0.2, POSITIVE),
        "force": (0.3, [bad for bad in POSITIVE if bad is not None]),
    }),
    (samplers.Held, {
        "start": (ANCESTRAL, OTHER),
        "n_steps": (10, COUNT),
        "force": (0.3, [bad for bad in POSITIVE if bad is not None]),
    }),
    (samplers.Held(ANCESTRAL, 10).__call__, SAMPLER | {
        "relax": (lambda positions, **_: positions, [None, 3]),
    }),
    (samplers.Repeated, {
        "sampler": (ANCESTRAL, OTHER),
        "times": (2, COUNT),
        "top": (0.2, POSITIVE),
    }),
    (samplers.Repeated(ANCESTRAL, 1).__call__, SAMPLER),
    (samplers.repeated, {"sampler": (ANCESTRAL, OTHER), "times": (2, COUNT)}),
    (samplers.Stage, {
        "sampler": (ANCESTRAL, OTHER),
        "n_levels": (2, COUNT),
        "lowest": (0.2, [bad for bad in POSITIVE if bad is not None]),
    }),
    (samplers.Staged, {"stages": (STAGES, [3, (), (None,), STAGES[:1], STAGES[::-1]])}),
    (samplers.Staged(STAGES).__call__, SAMPLER),
    (ANCESTRAL.__call__, SAMPLER),
    (FLOW.__call__, SAMPLER),
    (sampling.Multistep().__call__, SAMPLER),
    (samplers.Polished(ANCESTRAL).__call__, SAMPLER | {"relax": (np.zeros_like, [None, 3])}),
    (samplers.name_of, {"sampler": (FLOW, OTHER)}),
    (samplers.draw, {
        "denoiser": SAMPLER["denoiser"],
        "sampler": ("ancestral", WORD),
        "sigmas": (SIGMAS, WALK),
        "conditions": SAMPLER["condition"],
        "n_samples": (2, [*COUNT, 3]),
        "n_particles": (30, COUNT),
        "box_length": (7.0, FREE),
        "seed": (0, SEED),
        "device": ("cpu", DEVICE),
    }),
    (tasks.training_source, {
        "task": ("unconditional", WORD),
        "dataset": (DATA, OTHER),
        "row": (0, ROW),
    }),
    (tasks.unconditional_row, {"dataset": (DATA, OTHER)}),
    (tasks.replicas, {"dataset": (DATA, OTHER), "row": (0, ROW), "others": (DATA, OTHER)}),
    (tasks.evaluate, {"dataset": (DATA, OTHER), "row": (0, ROW), "positions": (ONE, spoilt(ONE))}),
    (tasks.bootstrap_interval, {
        "values": ([1.0, 2.0], [*NO_ARRAY, [math.nan, 1.0]]),
        "seed": (0, SEED),
        "groups": (None, [3, ["a"]]),
    }),
    (presets.default_architecture, {"preset": ("mddm", WORD)}),
    (configurations.Configurations, {
        "positions": (X, spoilt(X)),
        "conditions": (CONDITIONS, SAMPLER["condition"][1]),
        "box_length": (7.0, POSITIVE),
        "ranges": (condition.RANGES, RANGES[1][1:]),
    }),
    (SOURCE.draw, {"batch_size": (2, COUNT), "generator": (RANDOM, GENERATOR)}),
    (presets.Settings, {
        "preset": ("mddm", WORD),
        "n_steps": (10, COUNT),
        "batch_size": (2, COUNT),
        "learning_rate": (0.001, POSITIVE),
        "ema_decay": (0.9, [*NOT_NEGATIVE, 1.0]),
        "schedule": ("log", WORD),
        "n_levels": (10, [*COUNT, 1]),
        "sigma_min": (0.01, [*POSITIVE, 9.0]),
        "sigma_max": (5.0, [*POSITIVE, 0.001]),
        "ranges": RANGES,
        "seed": (0, [*SEED, 2**32]),
        "data": ("", [None, 3]),
        "precision": ("float32", WORD),
        "decoys": (0.0, [*NOT_NEGATIVE, 1.1]),
        "rivals": (0.0, [*NOT_NEGATIVE, 1.1]),
        "told": ("numbers", WORD),
        "architecture": ({}, [None, 3, {"chanels": 3}]),
    }),
    (train.budget, {
        "profile": ("full", WORD),
        "task": ("torus", WORD),
        "model": ("mddm", WORD),
    }),
    (training.TrainingState, {"settings": (STATE.settings, OTHER), "device": ("cpu", DEVICE)}),
    (training.train, {"state": (STATE, OTHER), "source": (SOURCE, OTHER)}),
    (training.level_losses, {
        "denoiser": SAMPLER["denoiser"],
        "source": (SOURCE, OTHER),
        "sigmas": (SIGMA, [*no_numbers(SIGMA), SIGMAS, -SIGMA, 0.1]),
        "n_draws": (1, COUNT),
        "seed": (0, SEED),
    }),
    (fourier.of_particles, {
        "positions": (X, spoilt(X)),
        "n": (2, [*NO_NUMBER, -1, 2.5, math.nan, math.inf]),
        "box_length": (7.0, POSITIVE),
    }),
    (fourier.of_waves, {
        "positions": (X, spoilt(X)),
        "vectors": (X, spoilt(X)),
        "phase": (X[..., 0], spoilt(X[..., 0])),
        **{name: (X, spoilt(X)) for name in ("cosines", "sines")},
        "box_length": (7.0, POSITIVE),
    }),
    (waves.strongest_waves, {
        "positions": (X, spoilt(X)),
        "n_waves": (8, COUNT),
        "q_min": (2.0, NOT_NEGATIVE),
        "q_max": (9.5, [*POSITIVE, 1.0]),
        "box_length": (7.0, [*POSITIVE, 0.1]),
    }),
    (waves.find_sites, {
        "waves": (WAVES, OTHER),
        "sigma": (SIGMA, LEVELS),
        "n_particles": (30, COUNT),
        "box_length": (7.0, POSITIVE),
    }),
    (waves.assign, {
        "positions": (X, spoilt(X)),
        "sites": (PLACES, spoilt(PLACES)),
        "is_site": (THERE, [*OTHER, THERE[:1], X]),
        "sigma": (SIGMA, LEVELS),
        "box_length": (7.0, POSITIVE),
    }),
    (waves.hop, {
        "positions": (X, spoilt(X)),
        "sigma": (0.1, POSITIVE),
        "box_length": (7.0, POSITIVE),
    }),
    (waves.decoys, {
        "positions": (X, spoilt(X)),
        "sigma": (SIGMA, LEVELS),
        "box_length": (7.0, [*POSITIVE, 0.1]),
        "generator": (RANDOM, GENERATOR),
    }),
    (waves.rivals, {
        **{name: (X, spoilt(X)) for name in ("positions", "others")},
        "sigma": (SIGMA, LEVELS),
        "box_length": (7.0, [*POSITIVE, 0.1]),
        "generator": (RANDOM, GENERATOR),
    }),
    (transolver.TransolverDenoiser, {
        **{name: (4, COUNT) for name in ("channels", "n_layers", "n_slices", "mlp_ratio")},
        "n_heads": (2, [*COUNT, 3]),
        "conditioning": (None, [3, "a"]),
    }),
    (bragg.BraggDenoiser, {
        **{name: (2, COUNT) for name in ("channels", "n_layers", "n_radial", "n_waves")},
        "n_neighbors": (4, COUNT),
        "r_max": (2.2, POSITIVE),
        "n_fields": (0, [*NO_NUMBER, -1, 2.5]),
        "q_max": (9.0, POSITIVE),
        "conditioning": (None, [3, "a"]),
    }),
    *[(network.forward, NETWORK) for network in (TRANSOLVER, BRAGG, PBCCONV, RADIAL)],
    (structure.rdf, BOX | {
        "n_bins": (10, [*COUNT, 10**9]),
        "r_max": (3.0, [*FREE, 3.5]),
    }),
    (structure.rdf_mse, {"rdf": (SIGMA, spoilt(SIGMA)), "reference": (SIGMA, spoilt(SIGMA))}),
    (structure.structure_factor, BOX | {
        "k_max": (2.0, [*POSITIVE, 0.1, 1e6]),
        "n_bins": (10, [*COUNT, 10**9]),
    }),
    (structure.bragg_peak, BOX | {"k_max": (2.0, [*POSITIVE, 0.1, 1e6])}),
    (structure.bond_order, BOX | {
        "degree": (6, [*NO_NUMBER, -1, 2.5, 1000]),
        "n_neighbors": (12, [*COUNT, 10**9]),
    }),
    (structure.crystallinity, BOX),
    (structure.grains, BOX),
    (structure.structure_types, BOX),
    (structure.coordination, BOX | {"r_max": (1.0, [*POSITIVE, 99.0])}),
    (distribution.surroundings, BOX),
    (distribution.profile, BOX),
    (distribution.apart, {"vectors": (np.ones((2, 3)), [*no_numbers(X[0]), np.ones((1, 3))])}),
    (distribution.energy_distance, {
        name: (np.ones((2, 3)), [*no_numbers(X[0]), np.ones((1, 3)), np.ones((2, 4))])
        for name in ("samples", "references")
    }),
    (distribution.distinguishability, {
        **{name: (X, [*spoilt(X), X[:1]]) for name in ("samples", "references")},
        "box_length": (7.0, POSITIVE),
        "seed": (0, SEED),
    }),
    (encoding.encode, {
        "potential": (SMOOTHED, POTENTIAL),
        "temperature": (0.02, POSITIVE),
        "n_steps": (10, COUNT),
        "what": ("stable", WORD),
    }),
    (encoding.PotentialConditioning, {
        "ranges": (None, [3, "a", {"k": (1.0, 2.0)}, {"temperature": (0.0, 1.0)}]),
        **NOISE,
        "n_levels": (3, [*COUNT, 1]),
    }),
    (shapes.Surface, {"name": ("sphere", WORD), "n_points": (5, COUNT)}),
    (shapes.Surface("torus", 5).draw, {
        "batch_size": (2, COUNT),
        "generator": (RANDOM, GENERATOR),
    }),
    (shapes.Surface("torus", 5).distance, {"points": (X, [*no_numbers(X), X[..., :2]])}),
    (shapes.Surface("torus", 5).ideal_denoiser, {
        "x_t": (X, spoilt(X)),
        "sigma": (SIGMA, [*LEVELS, 1e-9 * SIGMA]),
    }),
    (shapes.normal_cloud, {
        "clouds": (X, [*no_numbers(X), X[:1, :1], X[..., :2], X[:0]]),
        "generator": (RANDOM, GENERATOR),
    }),
    (shapes.sinkhorn_loss, {"points": (X, [*spoilt(X), ONE]), "reference": (X, [*spoilt(X), ONE])}),
    (viewer.show, {
        "frames": (X, [*spoilt(X), [ONE, ONE[:2]]]),
        "box_length": (7.0, FREE),
        "color": (X[..., 0], [bad for bad in spoilt(X[..., 0]) if bad is not None]),
        "color_range": ((0, 1), ["ab", 3, (1, 0), (0, math.nan), (0, 1, 2)]),
        "labels": (["a", "b"], ["ab", 3, ["a"]]),
        "reference": (np.ones(100), [math.nan * np.ones(100), "abc", 1j, {}, np.ones(7)]),
        "diameter": (1.0, FREE),
    }),
    (viewer.show_sampling, {
        "frames": (FRAMES, [[], FRAMES[:0]]),
        "potential": (SMOOTHED, POTENTIAL),
        "box_length": (7.0, POSITIVE),
        "n_shown": (2, [*COUNT, 1]),
    }),
    (plotting.rdf, {
        "ax": (AXES[0], []),
        "bin_centers": (SIGMA, spoilt(SIGMA)),
        "curves": ({"MD": SIGMA}, [{"MD": bad} for bad in spoilt(SIGMA)]),
        "reference": ("MD", ["md", 3]),
        "replica": ("MD", ["md", 3]),
    }),
    (plotting.loss, {
        "ax": (AXES[1], []),
        "steps": (SIGMA, [*spoilt(SIGMA), []]),
        "losses": (SIGMA, [*NO_ARRAY, SIGMA[:1]]),
    }),
    (plotting.intervals, {
        "ax": (AXES[2], []),
        "labels": (["a", "b"], [["a"], 3, None]),
        "values": (SIGMA, [*NO_ARRAY, SIGMA[:1], -SIGMA, SIGMA * math.nan]),
        "low": (SIGMA, [*NO_ARRAY, SIGMA[:1]]),
        "high": (SIGMA, [*NO_ARRAY, SIGMA[:1]]),
    }),
    (plotting.schedule, {"ax": (AXES[3], []), "sigmas": (SIGMA, [*no_numbers(SIGMA), -SIGMA, X])}),
    (plotting.particles, {
        "ax": (AXES[4], []),
        "positions": (ONE, spoilt(ONE)),
        "box_length": (7.0, FREE),
        "color": (ONE[:, 0], [*spoilt(ONE[:, 0]), "no colour"]),
        "diameter": (1.0, FREE),
    }),
    (DATA.nearest, {
        "k": (6.6, [*NO_NUMBER, math.nan, math.inf]),
        "phi": (2.4, [*NO_NUMBER, math.nan, math.inf]),
        "temperature": (0.02, [*NO_NUMBER, math.nan, math.inf]),
    }),
    (DATA.take, {"rows": ([0], ["abc", None, 1j, {}, object(), [10**6], [0.5], [True], [[0]], 0])}),
    (DATA.subset, {"split": ("test", WORD)}),
    (DATA.partners, {"row": (0, ROW)}),
    (DATA.potential, {"row": (0, ROW)}),
    (DATA.family_of, {"row": (0, ROW)}),
    (dataset.Dataset, {
        **{name: (getattr(ROWS, name), [
            bad for bad in spoilt(getattr(ROWS, name).astype(float))
            if bad is not None or name in ("positions", "temperature", "energy")
        ]) for name in COLUMNS},
        "parameters": (ROWS.parameters, [
            *OTHER, {}, {"k": ROWS.k}, {**ROWS.parameters, "q": ROWS.k},
            *({**ROWS.parameters, "k": bad} for bad in spoilt(ROWS.k)),
        ]),
        "family": (None, OTHER[1:]),
        "ranges": (None, [3, "a", {"q": (1.0, 2.0)}, {"k": (2.0, 1.0)}]),
        "split": (ROWS.split, [*OTHER, ROWS.split[:1], ROWS.split[None]]),
        "attributes": (ROWS.attributes, [*OTHER, {}, *(
            dict(ROWS.attributes) | {"box_length": bad} for bad in POSITIVE
        )]),
    }),
    (dataset.write, {"path": (NEW / "x.h5", WRITE), "dataset": (ROWS, OTHER)}),
    (dataset.read, {"path": (DATA_FILE, READ)}),
    (check.check, {"dataset": (ROWS, OTHER)}),
    (check.floor, {"dataset": (ROWS, OTHER)}),
    (check.report, {"path": (DATA_FILE, READ)}),
    (importer.read_files, {
        "paths": (XYZ, [*READ, [], [3]]),
        "potential": (LJ, [*OTHER, "lennard-jones", [LJ, LJ], [None]]),
        "temperature": (0.4, ["a", None, 0.0, -1.0, math.nan, [0.1, 0.2], [None]]),
        "split": ("train", [*WORD, ["train", "test"]]),
        "ranges": (None, [3, "a", {"k": (1.0, 2.0)}, {"temperature": (1.0, 0.0)}]),
    }),
    (family.Family, {
        "name": ("morse", WORD),
        "parameters": ({"alpha": 6.0}, [*OTHER, {"alfa": 1.0}, {"alpha": -1.0}, {"alpha": "a"}]),
        "r_on": (2.5, [*POSITIVE, 3.5]),
        "r_cut": (3.0, [*POSITIVE, 2.0]),
        "r_core": (0.7, [*POSITIVE, 2.6]),
    }),
    (family.parse, {"potential": ("morse:alpha=6", [None, 3, "", "mors", "morse:6", "x.table"])}),
    (export.write, {
        "path": (FOLDER / "y.gsd", [*WRITE, "x.pdb"]),
        **STORED,
    }),
    (export.check, {"path": (FOLDER / "z.gsd", [*WRITE, "x.pdb"]), "n_frames": (2, COUNT)}),
    (export.to_ase, STORED),
    (onnx.to_onnx, {"denoiser": (pbcconv.PBCConvDenoiser(), [*OTHER, pbcconv.RadialDenoiser()])}),
    (export.read, {"path": (XYZ, [*READ, TABLE])}),
    *[(type(made), {field.name: (getattr(made, field.name), SIZES if field.metadata else FINITE)
                    for field in dataclasses.fields(made)}) for made in MADE],
    *[(made.energy, {"r": (ONE, DISTANCES)}) for made in MADE],
    *[(made.force, {"r": (ONE, DISTANCES)}) for made in MADE],
    (formulas.oscillating_pair_hoomd, {"k": (6.6, WAVE_NUMBER), "phi": (2.4, WAVE_NUMBER)}),
    (formulas.make, {"name": ("lennard-jones", WORD), "epsilon": (1.0, FINITE)}),
    (formulas.read_table, {"path": (TABLE, READ)}),
    (model.load, {
        "name": (MODEL, [*PATH, "nonsense", FOLDER, FOLDER / "x.safetensors", BINARY]),
        "device": ("cpu", DEVICE),
    }),
    (LOADED.sample, {
        "k": (9.0, [*NO_NUMBER, math.nan, math.inf, 100.0]),
        "phi": (0.75, [*NO_NUMBER, math.nan, math.inf]),
        "temperature": (0.02, [*POSITIVE, 9.0]),
        "n_samples": (1, COUNT),
        "seed": (0, [*SEED, 2**31]),
        "n_particles": (262, [*(bad for bad in COUNT if bad is not None), 1, 10]),
        "box_length": (6.4, [*FREE, 7.0, 1e-3]),
        "sampler": ("cooled", [bad for bad in WORD if bad is not None]),
        "n_levels": (2, [bad for bad in [*COUNT, 1] if bad is not None]),
        "potential": (SMOOTHED, POTENTIAL[1:]),
    }),
    (FOUND.relax, {"potential": (SMOOTHED, POTENTIAL[1:])}),
    (FOUND.write, {"path": (FOLDER / "w.gsd", [*WRITE, "x.pdb"])}),
    (lattices.search, {"potential": (NEAR, POTENTIAL), **CUBE}),
    (lattices.search_many, {"potentials": ([NEAR], [[], 3, None, NEAR, [None]]), **CUBE}),
    (lattices.energies, {
        "potentials": ([NEAR], [[], 3, None, NEAR, [None]]),
        **{name: CUBE[name] for name in ("n_particles", "box_length", "shortest")},
    }),
    (lattices.stable, {
        "potential": (NEAR, POTENTIAL),
        "temperature": (0.02, POSITIVE),
        "per_cell": (1, [*COUNT, 3]),
        **CUBE,
    }),
    (bases.search, {
        "potential": (NEAR, POTENTIAL),
        "per_cell": (2, [*COUNT, 1, 3]),
        "seed": (0, SEED),
        **CUBE,
    }),
    (bases.relax, {
        "crystals": ([FCC], [*OTHER, FCC, [None], [FCC, PAIR]]),
        "potential": (SMOOTHED, POTENTIAL),
        "n_steps": (10, COUNT),
    }),
    (phonons.vibrations, {
        "crystal": (FCC, OTHER),
        "potential": (SMOOTHED, POTENTIAL),
        "temperature": (0.02, POSITIVE),
    }),
    (phonons.by_free_energy, {
        "crystals": ([FCC], [*OTHER, FCC, [None]]),
        "potential": (SMOOTHED, POTENTIAL),
        "temperature": (0.02, POSITIVE),
    }),
    (crystal.Crystal, {
        "cell": (CELL, [*spoilt(CELL), 0 * CELL, 3 * CELL]),
        "basis": (BASIS, [*spoilt(BASIS), BASIS[0]]),
        "box_length": (4.0, [*POSITIVE, 5.0]),
        "energy": (0.0, NO_NUMBER),
    }),
    (FCC.bonds, {"r_max": (2.0, POSITIVE)}),
    (FCC.shells, {"r_max": (2.0, POSITIVE), "tolerance": (1e-3, POSITIVE)}),
    (FCC.symmetry, {"tolerance": (1e-3, POSITIVE)}),
    (crystal.spacing_of, {"n_particles": (8, COUNT), "box_length": (2.0, POSITIVE)}),
    (crystal.bonds, {**CELLS, "r_max": (2.0, POSITIVE)}),
    (crystal.symmetry, {**CELLS, "tolerance": (1e-3, [*POSITIVE, 100.0])}),
    (crystal.energy, {"crystal": (FCC, OTHER), "potential": (SMOOTHED, POTENTIAL)}),
    (crystal.bounded, {"potential": (SMOOTHED, POTENTIAL)}),
    (crystal.check_potential, {"potential": (SMOOTHED, POTENTIAL), "shortest": (0.9, POSITIVE)}),
    (sublattices.count, {"n_sites": (8, COUNT)}),
    (sublattices.all_lattices, {"n_sites": (8, COUNT), "shortest": (0.86, POSITIVE)}),
    (sublattices.cells, {"n_sites": (8, COUNT), "shortest": (0.86, POSITIVE)}),
    (sublattices.hermite, {"matrices": (np.eye(3), INTEGERS)}),
    (sublattices.cosets, {"matrix": (np.eye(3), [*INTEGERS, np.ones((2, 3, 3))])}),
    (checkpoint.write, {
        "path": (NEW / "x.safetensors", WRITE),
        "tensors": ({"a": X}, [*OTHER, {"a": 3}, {3: X}, [X]]),
        "header": ({"kind": "a"}, [*OTHER, {"a": object()}, ["a"]]),
    }),
    (checkpoint.read, {"path": (MODEL, READ), "kind": ("checkpoint", WORD)}),
    (files.write_whole, {"path": (NEW / "x", WRITE), "content": ("a", [None, 3, ["a"], object()])}),
    (files.check_writable, {"path": (NEW / "y", WRITE)}),
    (study.check_parameters, {
        "namespace": ({"seed": 0}, [*OTHER, {}, {"seed": "0"}, {"seed": 0.0}, {"seed": True}]),
        "seed": (int, [str, ("a",)]),
    }),
    (study.seed_everything, {"seed": (0, [*SEED, 2**32])}),
    (study.run_record, {"seed": (0, SEED), "preset": ("mddm", [])}),
    (study.provenance, {
        "notebook": ("train", [None, 3]),
        "parameters": ({"seed": 0}, [*OTHER, {}, {"seed": -1}]),
        "seconds": (1.0, NOT_NEGATIVE),
        "data": ("data/opp-small.h5", [None, 3, "data/none.h5"]),
        "checkpoints": ([MODEL], [None, 3, MODEL, [None], [BINARY], [FOLDER / "none"]]),
    }),
    (files.file_hash, {"path": (TABLE, [*PATH, FOLDER, FOLDER / "none"])}),
    (files.named_with_hash, {"path": (TABLE, [*PATH, FOLDER, FOLDER / "none"])}),
    (study.progress, {
        "iterable": ([1, 2], [None, 3]),
        "total": (2, ["a", 2.5, math.nan]),
        "label": ("", []),
    }),
    (study.is_own, {"data": ("data/opp.h5", [None, 3, 1j, b"a"])}),
    (study.name_of, {"data": ("data/opp.h5", [None, 3, 1j, b"a", "", "."])}),
    (study.checkpoint_path, {
        "profile": ("quick", WORD),
        "task": ("conditional", [None, 3, ["a"]]),
        "model": ("mddm", [None, 3, ["a"]]),
        "data": ("", [None, 3, 1j, b"a"]),
        "changes": (None, ["ab", 3, [1]]),
    }),
]  # fmt: skip


def run(function, arguments):
    """Call a function, to its end where it is lazy."""
    result = function(**arguments)
    return list(result) if isinstance(result, Iterator) else result


def wrong_calls():
    for function, table in CALLS:
        right = {name: value for name, (value, _) in table.items()}
        for name, (_, wrong) in table.items():
            for value in wrong:
                yield function, right | {name: value}, name


def verdict(function, arguments):
    """Say how a wrong call ends: "clear" if in words about its arguments, else what came."""

    def too_long(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    try:
        run(function, arguments)
    except (ValueError, TypeError, OSError) as error:
        where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        in_package = where.is_relative_to(Path(study.__file__).parents[1])
        paths = [str(value) for value in arguments.values() if isinstance(value, Path)]
        tables = [value for value in arguments.values() if isinstance(value, Mapping)]
        names = [str(name) for table in [arguments, *tables] for name in table]
        # The words of other libraries know nothing of our names, those of the system of paths.
        ours = in_package and any(name.rstrip("s") in str(error) for name in names)
        named = in_package or isinstance(error, OSError)
        if ours or (named and any(path in str(error) for path in [*paths, "'/proc/none'"])):
            return "clear"
        return f"raw: {error!r}"
    except Exception as error:
        return f"raw: {error!r}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "silent"


@pytest.fixture(scope="module", autouse=True)
def own_cache():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(FOLDER / "cache"))
        yield


@pytest.fixture(scope="module")
def ends():
    pytest.importorskip("lammps")
    found = []
    for function, arguments, name in wrong_calls():
        value = arguments[name]
        shown = f"array of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
        call = f"{getattr(function, '__qualname__', function)}({name}={shown})"
        found.append((call, verdict(function, arguments)))
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_function_is_among_them(module):
    covered = LEFT_OUT.get(module, set()) | {
        function.__qualname__ for function, _ in CALLS if function.__module__ == module.__name__
    }
    public = {
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", None) == module.__name__
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and not name.startswith("_")
    }
    assert public <= covered


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__qualname__)
def test_the_right_call_passes(call):
    function, table = call
    if function.__module__ in ("mddm.lammps", "mddm.model", "mddm.relaxing"):
        pytest.importorskip("lammps")
    if function.__module__ == "mddm.onnx":
        pytest.importorskip("onnx")
    run(function, {name: value for name, (value, _) in table.items()})


# One process makes the wrong calls, for both tests of how they end.
@pytest.mark.xdist_group("wrong calls")
def test_no_wrong_call_is_silent(ends):
    assert len(ends) >= 4500
    assert [call for call, end in ends if end == "silent"] == []


@pytest.mark.xdist_group("wrong calls")
def test_nearly_all_wrong_calls_are_answered_in_our_words(ends):
    raw = [(call, end) for call, end in ends if end.startswith("raw")]
    assert not [end for _, end in raw if "it hangs" in end]
    assert len(raw) <= 0.01 * len(ends), raw
