"""Molecular dynamics of many systems at once in PyTorch: the anneal of `mddm.lammps`, batched.

Every system of a batch has a k, a phi and a temperature of its own.  On a GPU the pair forces and
the neighbour lists are Triton kernels, and no step waits for the host.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from mddm import arguments
from mddm.geometry import minimum_image, wrap
from mddm.pairs import Pairs, compiled, make_pairs

# A minimisation lists its pairs anew after so many steps, and looks whether it is done.
_RELAX_STEPS = 10
# How far particles that coincide are moved apart before it [length].
_APART = 1e-3


@dataclass(frozen=True)
class State:
    """A batch of systems at one step of an anneal: all that is needed to go on from there.

    Args:
        positions: (batch, n_particles, 3) in [0, box_length) [length].
        velocities: (batch, n_particles, 3) [length / time].
        forces: (batch, n_particles, 3), the thermostat's included [energy / length].
        energy: (batch,) potential energy per particle of exactly these positions [energy].
        kinetic_temperature: (batch,) mean over the present hold or ramp so far [energy].
        pressure: (batch,) mean over the present hold or ramp so far [energy / length^3].
        step: MD steps since the random start.
    """

    positions: Tensor
    velocities: Tensor
    forces: Tensor
    energy: Tensor
    kinetic_temperature: Tensor
    pressure: Tensor
    step: int

    def take(self, rows) -> "State":
        """Return the systems given by a mask, a slice or a tensor of indices."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> "State":
        """Return the state with its tensors on another device."""
        device = arguments.device(device)
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "State":
        names = [field.name for field in fields(self) if field.name != "step"]
        return replace(self, **{name: change(getattr(self, name)) for name in names})


def anneal(
    conditions: Tensor,
    n_steps: int,
    seed: int,
    *,
    start_temperature: Tensor | float | None = None,
    n_particles: int = 1000,
    box_length: float = 10.0,
    time_step: float = 0.01,
    damping: float = 1.0,
    every: int = 10_000,
    previous: State | None = None,
    device: torch.device | str = "cpu",
    **settings,
) -> Iterator[State]:
    """Anneal a batch of random starts as `lammps.anneal` does one, and yield it on the way.

    Each system is minimised, held hot, cooled linearly and held at its target; a tenth of the
    steps is spent on either hold.  The last state that is yielded is the result.  An anneal with
    the same arguments goes on from any of them, and on a CPU its bits are those of an anneal that
    was never broken off.

    Args:
        conditions: (batch, 3), k [1 / length], phi [rad] and target temperature [energy].  Equal
            rows are replicas: every system has a start and a noise of its own.
        n_steps: MD steps, at least 10.
        seed: of the starts and of the thermostat, 0 or more.
        start_temperature: where the cooling begins, a number or (batch,) [energy]; 10 times
            the target by default.
        n_particles: number of particles of each system.
        box_length: edge of the periodic cube [length].
        time_step: of the velocity Verlet integrator [time].
        damping: relaxation time of the Langevin thermostat [time]; `math.inf` for none.
        every: steps from one state that is yielded to the next.  Holds and ramp end with one too.
        previous: where to go on from; its precision is the run's, float32 without one.
        device: where to run.
        settings: `skin`, `engine` and `compile`, as for `pairs.make_pairs`.

    Raises:
        TypeError, ValueError: an argument of another kind or out of its range.
        FloatingPointError: a system has blown up.

    Source: MDDM section 2.1; the steps' division is ours.
    """
    n_steps = arguments.whole("n_steps", n_steps, at_least=10)
    n_particles = arguments.whole("n_particles", n_particles, at_least=2)
    every, seed = arguments.whole("every", every, at_least=1), arguments.seed(seed)
    time_step = arguments.number("time_step", time_step, above=0)
    damping = arguments.number("damping", damping, above=0, at_most=math.inf)
    conditions, device = arguments.conditions(conditions, n_numbers=3), arguments.device(device)
    if previous is not None:
        arguments.instance("previous", previous, State)
    dtype = torch.float32 if previous is None else previous.positions.dtype
    pairs = make_pairs(conditions, box_length, device, dtype, **settings)
    target = conditions.detach()[:, 2].to(device, dtype)
    hot = 10 * target
    if start_temperature is not None:
        shapes = (), (1,), (len(conditions),)
        hot = arguments.tensor("start_temperature", start_temperature, *shapes, above=0)
        hot = hot.to(target).expand_as(target)
    if not target.min() > 0:
        raise ValueError(f"conditions must have temperatures above 0, got {target.min().item()}")
    shape = (len(conditions), n_particles, 3)
    state = _start(pairs, shape, hot, seed) if previous is None else previous.to(device)
    if state.positions.shape != shape:
        found = tuple(state.positions.shape)
        raise ValueError(f"previous must hold positions of shape {shape}, got {found}")
    protocol = _Protocol(n_steps, target, hot)
    while state.step < n_steps:
        stop = min(protocol.stage(state.step)[1], (state.step // every + 1) * every)
        state = _run(pairs, state, stop, protocol, seed, time_step, 1 / damping)
        _refuse_blow_up(state, conditions, hot, time_step)
        yield state


def minimize(
    positions: Tensor,
    conditions: Tensor,
    box_length: float,
    *,
    tolerance: float = 1e-3,
    n_steps: int = 10_000,
    **settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Relax a batch of configurations, each under its own potential, by the FIRE method.

    Args:
        positions: (batch, n_particles, 3) [length]; any image of a particle will do.  Their
            device and precision are those of the computation.
        conditions: (batch, 3), k [1 / length] and phi [rad]; the temperature plays no part.
        box_length: edge of the periodic cube [length].
        tolerance: root mean square of a system's forces at which to stop [energy / length].
        n_steps: number of steps after which to stop all the same; 0 only evaluates.
        settings: `skin`, `engine` and `compile`, as for `pairs.make_pairs`.

    Returns:
        The relaxed positions in [0, box_length), (batch, n_particles, 3), the (batch,) float64
        potential energy per particle, and, (batch,) bool, which systems have come down to the
        tolerance.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, out of its range or not finite.

    Particles at one and the same place, which no force can part, are first moved at random.

    Source: Bitzek et al., Physical Review Letters 97, 170201 (2006), steps limited by the skin.
    """
    conditions = arguments.conditions(conditions, n_numbers=3)
    positions = arguments.positions(positions, (len(conditions), "n_particles", 3))
    tolerance = arguments.number("tolerance", tolerance, above=0)
    n_steps = arguments.whole("n_steps", n_steps, at_least=0)
    pairs = make_pairs(conditions, box_length, positions.device, positions.dtype, **settings)
    x = wrap(positions.detach().transpose(1, 2).contiguous(), pairs.box_length)
    if n_steps:
        x = _part(x, pairs.box_length)
    x = _relax(pairs, x, tolerance, n_steps)
    forces, energy, _ = pairs.sums(x, measure=True)
    converged = forces.square().mean((1, 2)) < tolerance**2
    return x.transpose(1, 2).contiguous(), energy / x.shape[2], converged


@dataclass(frozen=True)
class _Protocol:
    n_steps: int
    target: Tensor
    hot: Tensor

    def stage(self, step: int) -> tuple[int, int]:
        hold = self.n_steps // 10
        edges = (0, hold, self.n_steps - hold, self.n_steps)
        end = next(edge for edge in edges if edge > step)
        return edges[edges.index(end) - 1], end

    def temperature(self, step: int) -> Tensor:
        hold = self.n_steps // 10
        cooled = (step - hold) / (self.n_steps - 2 * hold)
        return self.hot + min(max(cooled, 0), 1) * (self.target - self.hot)


def _start(pairs: Pairs, shape: tuple, hot: Tensor, seed: int) -> State:
    rng = np.random.default_rng((seed, 0))
    draws = rng.uniform(0, pairs.box_length, shape), rng.normal(0, 1, shape)
    x, v = (torch.from_numpy(draw).to(hot).transpose(1, 2).contiguous() for draw in draws)
    x = _relax(pairs, wrap(x, pairs.box_length), 1e-3, 1000)
    v = (v - v.mean(2, keepdim=True)) * hot[:, None, None].sqrt()
    forces, energy, _ = pairs.sums(x, measure=True)
    unknown = torch.zeros_like(energy)
    x, v, forces = (tensor.transpose(1, 2).contiguous() for tensor in (x, v, forces))
    return State(x, v, forces, energy / shape[1], unknown, unknown, 0)


def _part(x: Tensor, box_length: float) -> Tensor:
    batch, _, n_particles = x.shape
    system = torch.arange(batch).to(x)[:, None, None].expand(-1, 1, n_particles)
    rows = torch.cat([system, x], 1).transpose(1, 2).flatten(0, 1)
    _, place, count = rows.unique(dim=0, return_inverse=True, return_counts=True)
    coincident = (count[place] > 1).view(batch, 1, n_particles)
    draws = torch.randn(3, n_particles, generator=torch.Generator().manual_seed(0))
    return torch.where(coincident, wrap(x + _APART * draws.to(x), box_length), x)


def _relax(pairs: Pairs, x: Tensor, tolerance: float, n_steps: int) -> Tensor:
    # MD that is bent towards the forces, quickened downhill and stopped uphill.
    longest = pairs.skin / 2 / _RELAX_STEPS
    v = torch.zeros_like(x)
    time_step, mixing = x.new_full((len(x), 1, 1), 0.005), x.new_full((len(x), 1, 1), 0.1)
    downhill = torch.zeros_like(mixing)
    for step in range(n_steps):
        if step % _RELAX_STEPS == 0:
            pairs.rebuild(x)
        forces, _, _ = pairs.sums(x)
        if step % _RELAX_STEPS == 0 and forces.square().mean((1, 2)).max() < tolerance**2:
            return x
        down = (forces * v).sum((1, 2), keepdim=True) > 0
        downhill = torch.where(down, downhill + 1, 0)
        faster = torch.where(downhill > 5, (1.1 * time_step).clamp(max=0.03), time_step)
        time_step = torch.where(down, faster, time_step / 2).clamp(min=1e-4)
        mixing = torch.where(down, torch.where(downhill > 5, 0.99 * mixing, mixing), 0.1)
        v = torch.where(down, v, 0) + time_step * forces
        speed, pull = (torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True) for y in (v, forces))
        aligned = forces * (speed / pull.clamp(min=1e-12))
        v = v + mixing * (aligned - v)
        # No particle may leave the skin before the lists are made anew.
        v = v * (longest / (time_step * v.norm(dim=1, keepdim=True)).clamp(min=longest))
        x = wrap(x + time_step * v, pairs.box_length)
    pairs.rebuild(x)
    return x


def _run(
    pairs: Pairs,
    state: State,
    stop: int,
    protocol: _Protocol,
    seed: int,
    time_step: float,
    drag: float,
) -> State:
    first = [
        tensor.transpose(1, 2).contiguous()
        for tensor in (state.positions, state.velocities, state.forces)
    ]
    n_particles, volume = first[0].shape[2], pairs.box_length**3
    begin, end = protocol.stage(state.step)
    cadence = 10 if end - begin >= 1000 else 1
    drift, kick = (compiled(f) if pairs.compile else f for f in (_drift, _kick))
    if pairs.compile:
        time_step, drag = first[0].new_tensor([time_step, drag])
    generator = torch.Generator(first[0].device)
    noise_seed = int(np.random.SeedSequence((seed, state.step)).generate_state(1, np.uint64)[0])
    pairs.rebuild(first[0])
    while True:
        generator.manual_seed(noise_seed % 2**63)
        x, v, f = first
        temperature, pressure = state.kinetic_temperature, state.pressure
        if state.step == begin:
            temperature, pressure = torch.zeros_like(temperature), torch.zeros_like(pressure)
        for step in range(state.step + 1, stop + 1):
            x, v, moved2 = drift(x, v, f, pairs.reference, time_step, pairs.edge)
            pairs.refresh(x, moved2)
            sample = (step - begin) % cadence == 0
            forces, energy, virial = pairs.sums(x, measure=sample or step == stop)
            noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            # Uniform noise of this width has the variance 2 kT / (damping time_step).
            width = (24 * drag / time_step * protocol.temperature(step)).sqrt()
            v, f = kick(v, forces, noise, width[:, None, None], time_step, drag)
            if sample:
                count = (step - begin) // cadence
                kinetic2 = v.square().sum((1, 2)).double()
                now = kinetic2 / (3 * n_particles - 3), (kinetic2 + virial) / (3 * volume)
                temperature = temperature + (now[0] - temperature) / count
                pressure = pressure + (now[1] - pressure) / count
        if not pairs.overflow:
            break
        lost = not v.isfinite().all()
        pairs.rebuild(first[0], least_width=n_particles if lost else pairs.overflow)
    x, v, f = (tensor.transpose(1, 2).contiguous() for tensor in (x, v, f))
    return State(x, v, f, energy / n_particles, temperature, pressure, stop)


def _drift(x, v, f, reference, time_step: float, box_length: float):
    v = v + time_step / 2 * f
    x = wrap(x + time_step * v, box_length)
    # The image matters: a particle that has crossed the boundary has not gone far.
    moved = minimum_image(x - reference, box_length)
    return x, v, moved.square().sum(1).amax(1)


def _kick(v, forces, noise, width, time_step: float, drag: float):
    # Without its mean the noise leaves the centre of mass alone.
    noise = noise - noise.mean(2, keepdim=True)
    f = forces - drag * v + width * noise
    return v + time_step / 2 * f, f


def _refuse_blow_up(state: State, conditions: Tensor, hot: Tensor, time_step: float) -> None:
    # Wrapping turns positions that are not numbers into zeros, but the velocities tell.
    fine = state.velocities.square().mean((1, 2)) < 10 * hot
    if not fine.all():
        lost = (~fine).nonzero().flatten().tolist()
        k, phi, temperature = conditions[lost[0]].tolist()
        raise FloatingPointError(
            f"{len(lost)} of {len(fine)} systems blew up before step {state.step}, the first "
            f"being system {lost[0]} (k={k:.4g}, phi={phi:.4g}, temperature={temperature:.4g}): go "
            f"on from the state before with a time_step below {time_step}, or without systems "
            f"{lost} (State.take)"
        )
