"""Molecular dynamics in LAMMPS: anneals, slow ramps and energy minimisation of one system.

LAMMPS is loaded when the first system is built, in a process of its own, and keeps the table of a
potential for the next.  Each call runs on one thread and depends on its arguments alone: equal
seeds give bitwise equal results, whatever ran before, and a ramp continued from a stored harvest is
the ramp that was never broken off.

Time steps and tolerances are for energies of order 1, as the study's are.  Where a potential varies
by less than a tenth or by more than ten, LAMMPS is given it in that unit: a mass of 1, and times
and tolerances, are then in it, and the same steps do whatever the unit of energy.
"""

import math
import time
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from mddm import arguments, lammps_process, lammps_system, protocol
from mddm.potential import Smoothed, energy_scale
from mddm.protocol import Harvest

# At most so many steps of a minimisation, and ten evaluations of all forces for each.
_ITERATIONS = 20_000
# Crystals are healed at this part of how much their potential varies: of a dozen that were tried
# none melted there, and at a quarter of it defects stayed.
HEALING = 0.6


def anneal(
    potential: Smoothed,
    temperature: float,
    n_steps: int,
    seed: int,
    *,
    start_temperature: float | None = None,
    n_particles: int = 1000,
    box_length: float = 10.0,
    time_step: float = 0.01,
    damping: float = 1.0,
) -> Harvest:
    """Anneal a random start: minimise it, hold it hot, cool it linearly, hold it at the target.

    A tenth of the steps is spent on either hold.  With about a hundred steps this is a quench.

    Args:
        potential: a smoothed pair potential.
        temperature: the target [energy].
        n_steps: MD steps, at least 10.
        seed: of the start and of the thermostat, 0 or more.
        start_temperature: where the cooling begins [energy], 10 times the target by default.
        n_particles: number of particles.
        box_length: edge of the periodic cube [length], above twice the cut-off.
        time_step: of the velocity Verlet integrator [time].
        damping: relaxation time of the Langevin thermostat [time].

    Raises:
        TypeError, ValueError: an argument of another kind or out of its range, or a potential that
            is not fit for MD: it attracts at contact, is not finite, or its force is not the slope
            of its energy.
        FloatingPointError: the system has blown up.
        ImportError: LAMMPS cannot be loaded.
        RuntimeError: LAMMPS fails in another way.

    Source: MDDM section 2.1; the steps' division is ours.
    """
    temperature = arguments.number("temperature", temperature, above=0)
    if start_temperature is None:
        start_temperature = 10 * temperature
    start_temperature = arguments.number("start_temperature", start_temperature, above=0)
    n_steps = arguments.whole("n_steps", n_steps, at_least=10)
    n_particles = arguments.whole("n_particles", n_particles, at_least=2)
    seed, box_length = arguments.seed(seed), arguments.box(box_length)
    rng = protocol.generator(seed)
    start = protocol.random_start(n_particles, box_length, start_temperature, rng)
    stages = protocol.anneal(start_temperature, temperature, n_steps)
    return _run(potential, stages, start, rng, box_length, time_step, damping, minimize_first=True)


def hold(
    potential: Smoothed,
    positions,
    temperature: float,
    n_steps: int,
    seed: int,
    *,
    box_length: float = 10.0,
    time_step: float = 0.01,
    damping: float = 1.0,
) -> Harvest:
    """Hold given positions at a temperature, from velocities that are drawn at it.

    Args:
        potential: a smoothed pair potential.
        positions: (n_particles, 3) array or tensor [length], at or near rest.
        temperature: [energy].
        n_steps: MD steps, at least 1.
        seed: of the velocities and of the thermostat.
        box_length, time_step, damping: as for `cool`.

    Raises:
        As `anneal`.
    """
    temperature = arguments.number("temperature", temperature, above=0)
    n_steps, seed = arguments.whole("n_steps", n_steps, at_least=1), arguments.seed(seed)
    stages = [protocol.Stage(temperature, temperature, n_steps)]
    return _held(potential, positions, stages, seed, box_length, time_step, damping)


def heal(
    potential: Smoothed,
    positions,
    temperature: float,
    n_steps: int,
    seed: int,
    *,
    hottest: float | None = None,
    box_length: float = 10.0,
    time_step: float = 0.01,
    damping: float = 1.0,
) -> Harvest:
    """Anneal the defects of a crystal out: hold it hot, and cool it linearly.

    Args:
        potential: a smoothed pair potential.
        positions: (n_particles, 3) array or tensor [length], at or near rest.
        temperature: the target [energy].
        n_steps: MD steps, at least 3.
        seed: of the velocities and of the thermostat.
        hottest: temperature that it is held at for a third of the steps [energy]; where it melts,
            what comes of it is a quench.  By default `HEALING` of `potential.energy_scale`, or the
            target where that is higher.
        box_length, time_step, damping: as for `cool`.

    Raises:
        As `anneal`.

    Source: this study.
    """
    temperature = arguments.number("temperature", temperature, above=0)
    if hottest is None:
        hottest = max(HEALING * energy_scale(potential), temperature)
    hottest = arguments.number("hottest", hottest, at_least=temperature)
    n_steps, seed = arguments.whole("n_steps", n_steps, at_least=3), arguments.seed(seed)
    stages = protocol.heal(hottest, temperature, n_steps)
    return _held(potential, positions, stages, seed, box_length, time_step, damping)


def cool(
    potential: Smoothed,
    previous: Harvest,
    temperature: float,
    n_steps: int,
    seed: int,
    *,
    box_length: float = 10.0,
    time_step: float = 0.01,
    damping: float = 1.0,
) -> Harvest:
    """Run on from a harvest: one half of the steps to change the temperature, one to hold it.

    Args:
        potential: the smoothed pair potential that the harvest was made with.
        previous: where to start from.
        temperature: the new target [energy].
        n_steps: MD steps, at least 2.
        seed: of the thermostat; together with the steps behind `previous` it fixes the noise.
        box_length: edge of the periodic cube [length].
        time_step: of the velocity Verlet integrator [time].
        damping: relaxation time of the Langevin thermostat [time]; `math.inf` for none, that is
            for the same energy throughout.

    Raises:
        As `anneal`.
    """
    arguments.instance("previous", previous, Harvest)
    temperature = arguments.number("temperature", temperature, above=0)
    n_steps, seed = arguments.whole("n_steps", n_steps, at_least=2), arguments.seed(seed)
    rng = protocol.generator(seed, previous.n_steps)
    stages = protocol.cool(previous.temperature, temperature, n_steps)
    return _run(potential, stages, previous, rng, box_length, time_step, damping)


def ramp(
    potential: Smoothed,
    temperatures: Sequence[float],
    n_steps_first: int,
    n_steps_between: int,
    seed: int,
    *,
    start_temperature: float = 0.5,
    previous: Harvest | None = None,
    **settings,
) -> Iterator[Harvest]:
    """Cool one system slowly and yield a harvest at each temperature on the way.

    Args:
        potential: a smoothed pair potential.
        temperatures: the targets, hottest first [energy].
        n_steps_first: MD steps from the random start to the first harvest.
        n_steps_between: MD steps from each harvest to the next.
        seed: of the start and of the thermostat.
        start_temperature: where the cooling begins [energy].
        previous: the last harvest of a broken ramp, at one of the `temperatures`; the ramp
            goes on after it exactly as if it had not been broken.
        settings: `n_particles`, `box_length`, `time_step`, `damping`, as for `anneal`.

    Raises:
        TypeError, ValueError: temperatures that do not fall, or a `previous` of another ramp;
            what else `anneal` raises.
    """
    temperatures = arguments.tensor("temperatures", temperatures, ("n",), above=0).tolist()
    n_steps_first = arguments.whole("n_steps_first", n_steps_first, at_least=10)
    # One temperature has no other to go to.
    least = 2 if len(temperatures) > 1 else 0
    n_steps_between = arguments.whole("n_steps_between", n_steps_between, at_least=least)
    if sorted(set(temperatures), reverse=True) != temperatures:
        raise ValueError(f"temperatures must fall strictly, got {temperatures}")
    if previous is None:
        previous = anneal(
            potential,
            temperatures[0],
            n_steps_first,
            seed,
            start_temperature=start_temperature,
            **settings,
        )
        yield previous
    elif previous.temperature not in temperatures:
        raise ValueError(
            f"previous must be a harvest at one of the temperatures {temperatures}, got one at "
            f"{previous.temperature}"
        )
    settings.pop("n_particles", None)
    for temperature in temperatures[temperatures.index(previous.temperature) + 1 :]:
        previous = cool(potential, previous, temperature, n_steps_between, seed, **settings)
        yield previous


def minimize(
    positions, potential: Smoothed, box_length: float, *, tolerance: float = 1e-4
) -> tuple[np.ndarray, float, bool]:
    """Relax positions to a nearby minimum of the potential energy.

    Args:
        positions: (n_particles, 3) array or tensor [length]; any image of a particle will do.
        potential: a smoothed pair potential.
        box_length: edge of the periodic cube [length].
        tolerance: length of the vector of all forces at which to stop [energy / length], of the
            potential in units of order 1 (see the top of this page).

    Returns:
        The relaxed positions, (n_particles, 3) float32 in [0, box_length), their potential energy
        per particle, and whether the forces have come down to the tolerance: those of a steep
        potential may not, in 20,000 iterations, of which a warning tells too.

    Raises:
        TypeError, ValueError: positions of another shape, not finite or with two particles in one
            place, another argument out of its range, or a potential that is not fit for MD.
        ImportError, RuntimeError: LAMMPS cannot be loaded, or fails.
    """
    box_length = arguments.box(box_length)
    tolerance = arguments.number("tolerance", tolerance, above=0)
    with lammps_system.build(positions, potential, box_length, moves=True) as (system, unit):
        system.command(f"minimize 0.0 {tolerance!r} {_ITERATIONS} {10 * _ITERATIONS}")
        force = float(np.linalg.norm(lammps_system.gather(system, "f")))
        if force > tolerance:
            warnings.warn(
                f"the minimisation ended with forces of {force:.2g}, above its tolerance of "
                f"{tolerance}: what it arrived at is not quite at rest",
                stacklevel=2,
            )
        return *lammps_system.rounded(system, unit, box_length), force <= tolerance


def energy_and_forces(
    positions, potential: Smoothed, box_length: float
) -> tuple[float, np.ndarray]:
    """Evaluate the potential energy per particle and the (n_particles, 3) forces in LAMMPS.

    Args:
        positions: (n_particles, 3) array or tensor [length]; any image of a particle will do.
        potential: a smoothed pair potential.
        box_length: edge of the periodic cube [length].

    Raises:
        TypeError, ValueError: positions of another shape, not finite or with two particles in one
            place, a box below twice the cut-off, or a potential that is not finite or whose force
            is not the slope of its energy.
        ImportError, RuntimeError: LAMMPS cannot be loaded, or fails.
    """
    with lammps_system.build(positions, potential, box_length) as (system, unit):
        system.command("run 0 post no")
        return unit * system.get_thermo("pe"), unit * lammps_system.gather(system, "f")


def version() -> str:
    """Return the engine's name and version, as data sets record it."""
    with lammps_process.instance() as system:
        return f"LAMMPS {system.version()}"


def _held(potential, positions, stages, seed, box_length, time_step, damping):
    positions = arguments.positions(positions, ("n_particles", 3)).detach().cpu().numpy()
    rng = protocol.generator(seed)
    start = protocol.start(positions, stages[0].begin, rng)
    return _run(potential, stages, start, rng, box_length, time_step, damping)


def _run(potential, stages, start, rng, box_length, time_step, damping, minimize_first=False):
    time_step = arguments.number("time_step", time_step, above=0)
    damping = arguments.number("damping", damping, above=0, at_most=math.inf)
    box_length = arguments.box(box_length)
    clock, trace = time.perf_counter(), []
    settings = {"velocities": start.velocities, "time_step": time_step, "moves": True}
    settings["hottest"] = max(stage.hottest for stage in stages)
    with lammps_system.build(start.positions, potential, box_length, **settings) as (system, unit):
        if minimize_first:
            system.command("minimize 0.0 1e-3 1000 10000")
        system.command(f"reset_timestep {start.n_steps}")
        system.command("velocity all zero linear")
        system.command("fix move all nve")
        for stage in stages:
            (begin, end, n_steps), every = stage, stage.every
            first = int(system.get_thermo("step"))
            # Seeds above 900 million are outside the range of LAMMPS's generator.
            noise = rng.integers(1, 900_000_000)
            if damping < math.inf:
                bath = f"{begin / unit!r} {end / unit!r} {damping!r} {noise} zero yes"
                system.command(f"fix bath all langevin {bath}")
            system.command(
                f"fix mean all ave/time {every} 1 {every} c_thermo_temp c_thermo_press ave running"
            )
            # A stage is set up once: a new set-up would draw the noise of its first step again.
            setup = "yes"
            pieces = np.linspace(0, n_steps, protocol.PIECES + 1, dtype=int)
            for stop in first + np.unique(pieces)[1:]:
                span = f"start {first} stop {first + n_steps}"
                system.command(f"run {stop} upto {span} pre {setup} post no")
                setup = "no"
                energies = [unit * system.get_thermo(name) for name in ("temp", "pe", "press")]
                trace.append([system.get_thermo("step"), *energies])
            _refuse_blow_up(trace[-1], stage, time_step)
            kinetic_temperature, pressure = (
                unit * system.extract_fix("mean", 0, 1, i) for i in (0, 1)
            )
            system.command("unfix mean")
            if damping < math.inf:
                system.command("unfix bath")
        system.command("unfix move")
        velocities = unit**0.5 * lammps_system.gather(system, "v")
        positions, energy = lammps_system.rounded(system, unit, box_length)
        trace = np.array(trace)
        hold = trace[trace[:, 0] > first]
        return Harvest(
            positions,
            velocities.astype(np.float32),
            end,
            energy,
            kinetic_temperature,
            pressure,
            stage.drift(hold[:, 0], hold[:, 2]),
            first + n_steps,
            start.wall_time + time.perf_counter() - clock,
            trace,
        )


def _refuse_blow_up(last: list[float], stage: protocol.Stage, time_step: float) -> None:
    step, temperature, *_ = last
    if stage.has_blown_up(temperature):
        raise FloatingPointError(
            f"the system blew up before step {step:.0f}: its kinetic temperature is "
            f"{temperature:.4g}, where the thermostat is at {stage.hottest:.4g}; take a time_step "
            f"below {time_step}, or a lower temperature"
        )
