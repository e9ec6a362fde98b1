import itertools
import math
import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from small_runs import PRESETS, assert_bitwise_equal, run, settings, small_configurations
from torch.optim.swa_utils import AveragedModel

from mddm import training
from mddm.configurations import Configurations
from mddm.encoding import SCALED_TEMPERATURES, PotentialConditioning, encode
from mddm.formulas import LennardJones
from mddm.geometry import minimum_image
from mddm.noise import wrapped_eps
from mddm.potential import Smoothed
from mddm.training import TrainingState


class FixedSource:
    """One configuration, never turned."""

    ranges: ClassVar = {}
    potential = None

    def __init__(self, positions, box_length):
        self.positions, self.box_length = positions, box_length

    def draw(self, batch_size, generator):
        return self.positions.expand(batch_size, -1, -1), None


class GaussianSource:
    """Independent normal particles in free space, for which the best denoiser is known."""

    box_length = None
    ranges: ClassVar = {}
    potential = None

    def __init__(self, spread, n_particles=32):
        self.spread, self.n_particles = spread, n_particles

    def draw(self, batch_size, generator):
        shape = (batch_size, self.n_particles, 3)
        return self.spread * torch.randn(shape, generator=generator), None


class Stub(torch.nn.Module):
    """A denoiser with one weight, which multiplies what a plain function estimates."""

    def __init__(self, estimate=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.estimate = estimate or (lambda x_t, sigma, condition, box_length: 0 * x_t)

    def forward(self, x_t, sigma, condition, box_length):
        return self.weight * self.estimate(x_t, sigma, condition, box_length)


def cubic_lattice(n=3):
    return torch.cartesian_prod(*[torch.arange(n).float()] * 3)[None], float(n)


def stub_state(run_settings, denoiser):
    state = TrainingState(run_settings)
    state.denoiser = denoiser
    state.average = AveragedModel(denoiser)
    state.optimizer = torch.optim.Adam(denoiser.parameters())
    return state


# --- algorithm 1 -------------------------------------------------------------------------------


@pytest.mark.parametrize("decoys", [0.0, 1.0])
def test_a_step_noises_the_data_and_measures_the_error_of_the_noise(decoys):
    box_length, seen = 10.0, []
    torch.manual_seed(0)
    x_0 = torch.rand(1, 500, 3) * box_length

    def remember(x_t, sigma, condition, box_length):
        seen.append((x_t, sigma))
        return 0.5 * torch.ones_like(x_t)

    run_settings = settings(
        n_steps=40, batch_size=3, sigma_min=0.01, sigma_max=0.8, decoys=decoys, ranges={}
    )
    steps = run(stub_state(run_settings, Stub(remember)), FixedSource(x_0, box_length), 1)
    ((x_t, sigma),), (step,) = seen, steps
    # Noise this small does not come round the box, so it can be read off.
    eps = minimum_image(x_t - x_0, box_length) / sigma[:, None, None]
    assert torch.equal(step.sigmas, sigma)
    expected = (0.5 - eps).square().mean(dim=(1, 2))
    torch.testing.assert_close(step.losses, expected, rtol=1e-3, atol=1e-3)
    assert step.loss == pytest.approx(step.losses.mean().item())
    assert eps.mean().abs() < 4.5 / math.sqrt(eps.numel())
    spread = 4.5 * math.sqrt(2 / eps.numel())
    assert eps.var().item() == pytest.approx(1.06 if decoys else 1, abs=0.07 if decoys else spread)


def test_decoys_are_for_a_box_and_for_the_part_of_all_systems_that_was_asked_for():
    def states(**changes):
        return stub_state(settings(n_steps=60, ranges={}, **changes), Stub())

    with_decoys, without = ({"decoys": 1.0}, {"decoys": 0.0})
    free = GaussianSource(1.0)
    assert run(states(**with_decoys), free)[0].loss == run(states(**without), free)[0].loss
    boxed = small_configurations(n_particles=200, box_length=6.0, conditions=False)
    plain, some, all_ = (
        torch.stack([step.losses for step in run(states(decoys=part), boxed)]).flatten()
        for part in (0.0, 0.5, 1.0)
    )
    # One who guesses no noise pays for all of it, for the decoys too.
    assert plain.mean() + 0.01 < some.mean() < all_.mean() - 0.01
    rivalled = torch.stack([step.losses for step in run(states(rivals=1.0), boxed)]).flatten()
    assert rivalled.mean() > plain.mean() + 0.01


def test_potentials_that_are_told_are_jittered_anew_at_every_step():
    known = encode(Smoothed(LennardJones()), 0.03)
    told = {"told": "potential", "ranges": {"temperature": SCALED_TEMPERATURES}}
    source = Configurations(3 * torch.rand(1, 24, 3), known[None], 3.0, **told)

    def seen(jitter):
        conditions = []

        def listen(x_t, sigma, condition, box_length):
            conditions.append(condition)
            return 0 * x_t

        listener = Stub(listen)
        listener.conditioning = PotentialConditioning()
        run(stub_state(settings(jitter=jitter, **told), listener), source)
        return torch.stack(conditions).flatten(0, 1) - known

    assert seen(0.0).abs().max() == 0
    added = seen(0.1)[:, 3:20]
    assert len(added.round(decimals=5).unique(dim=0)) == 14 and 0.02 < added.std() < 0.3
    with pytest.raises(ValueError, match="jitter is of potentials that are told"):
        settings(jitter=0.1)


def test_steps_draw_every_level_but_zero_evenly_and_never_the_same_noise():
    run_settings = settings(n_steps=400, batch_size=4, ranges={})
    steps = run(stub_state(run_settings, Stub()), GaussianSource(1.0, n_particles=2))
    levels = run_settings.sigmas()[1:].float()
    sigmas = torch.cat([step.sigmas for step in steps])
    counts = (sigmas[:, None] == levels).sum(0)
    assert counts.sum() == 1600
    assert (counts - 160).abs().max() < 5 * math.sqrt(160)
    assert len({step.loss for step in steps}) == 400


@pytest.mark.parametrize("preset", PRESETS)
def test_train_reports_every_step_and_stops_at_the_last(preset):
    state = TrainingState(settings(preset=preset))
    steps = run(state, small_configurations())
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6, 7]
    assert state.step == 7
    for step in steps:
        assert math.isfinite(step.loss) and not step.losses.requires_grad
        assert step.sigmas.shape == step.losses.shape == (2,)
    assert run(state, small_configurations()) == []


def test_pbcconv_overfits_one_configuration():
    positions, box_length = cubic_lattice()
    run_settings = settings(
        n_steps=120, batch_size=4, learning_rate=3e-3, sigma_min=0.05, sigma_max=0.3, ranges={}
    )
    losses = [s.loss for s in run(TrainingState(run_settings), FixedSource(positions, box_length))]
    assert np.mean(losses[:10]) > 0.9
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:10])


@pytest.mark.parametrize("preset", PRESETS)
def test_half_precision_takes_nearly_the_same_step_and_keeps_the_weights_whole(preset):
    source, reports = small_configurations(), {}
    for precision in ("float32", "bfloat16"):
        state = TrainingState(settings(preset=preset, precision=precision))
        (reports[precision],) = run(state, source, 1)
        assert {weight.dtype for weight in state.denoiser.parameters()} == {torch.float32}
    torch.testing.assert_close(
        reports["bfloat16"].losses, reports["float32"].losses, rtol=0.05, atol=0
    )
    assert reports["bfloat16"].loss != reports["float32"].loss


def test_training_reaches_the_loss_of_the_best_denoiser():
    # Normal data of spread s leave an error of s^2 / (s^2 + sigma^2), whatever the network.
    spread, source = 0.5, GaussianSource(0.5)
    run_settings = settings(
        preset="transolver", n_steps=120, batch_size=8, learning_rate=3e-3,
        ema_decay=0.9, sigma_min=0.05, sigma_max=5.0, ranges={},
    )  # fmt: skip
    state = TrainingState(run_settings)
    first = run(state, source, 1)[0].loss
    run(state, source)
    sigmas = run_settings.sigmas()[1:]
    best = spread**2 / (spread**2 + sigmas**2)
    losses = training.level_losses(state.average.module, source, sigmas, n_draws=32)
    assert first > 0.8
    assert (losses - best).abs().max() < 0.12
    assert losses.mean().item() == pytest.approx(best.mean().item(), abs=0.05)


def test_a_source_of_another_kind_than_the_settings_say_is_refused():
    single, pressed = small_configurations(conditions=False), {"temperature": (0.0, 1.0)}
    told = Configurations(torch.rand(2, 24, 3), torch.rand(2, 1), 3.0, pressed)
    for changes, source, message in (
        ({}, single, r"other conditions \(none\) than the settings \(k 1 to 15, phi"),
        ({"ranges": {}}, small_configurations(), r"than the settings \(none\)"),
        ({}, told, r"other conditions \(temperature 0 to 1\)"),
    ):
        state = TrainingState(settings(**changes))
        with pytest.raises(ValueError, match=message):
            run(state, source)
        assert state.step == 0 and state.n_particles is None
    state = TrainingState(settings(ranges=pressed))
    assert run(state, told)[-1].step == 7


def test_a_run_sees_systems_of_one_size():
    state = TrainingState(settings())
    run(state, small_configurations(), 1)
    with pytest.raises(ValueError, match=r"seen 24 particles in a box of 3.0, and .* has 25 in"):
        run(state, small_configurations(n_particles=25))
    assert state.step == 1 and (state.n_particles, state.box_length) == (24, 3.0)


def test_a_run_is_decided_by_its_seed():
    states = [TrainingState(settings(seed=seed)) for seed in (5, 5, 6)]
    losses = [[step.loss for step in run(state, small_configurations())] for state in states]
    assert losses[0] == losses[1] != losses[2]
    assert_bitwise_equal(states[0], states[1])


def test_nothing_touches_the_global_random_numbers():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    state = TrainingState(settings(ranges={}))
    source = Configurations(torch.linspace(0, 2.9, 72).reshape(1, 24, 3), None, 3.0)
    run(state, source, 2)
    training.level_losses(state.denoiser, source, state.settings.sigmas()[1:3], n_draws=1)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    run_settings = settings(n_steps=400, batch_size=1, learning_rate=0.02, ranges={})
    state, rates = stub_state(run_settings, Stub()), []
    for _ in training.train(state, GaussianSource(1.0, n_particles=2)):
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.02 / 40)  # a tenth of the run to warm up
    assert 0.8 * 0.02 < max(rates) <= 0.02
    peak = int(np.argmax(rates))
    assert (np.diff(rates[:peak]) > 0).all() and (np.diff(rates[peak:]) < 0).all()
    assert rates[-1] < 1e-4 * 0.02
    # A cosine over the whole run.
    assert rates[200] == pytest.approx(0.01) and rates[300] == pytest.approx(
        0.02 * 0.1464, rel=1e-3
    )


def test_a_gradient_that_explodes_is_clipped():
    state = stub_state(settings(ranges={}), Stub(lambda x_t, *_: 1e6 * x_t))
    (step,) = run(state, GaussianSource(1.0), 1)
    assert step.loss > 1e9
    assert state.denoiser.weight.grad.norm().item() == pytest.approx(1)


def test_the_average_follows_the_weights():
    latest = TrainingState(settings(ema_decay=0.0))
    run(latest, small_configurations())
    for average, current in zip(
        latest.average.module.parameters(), latest.denoiser.parameters(), strict=True
    ):
        assert torch.equal(average, current)

    def last(network):
        return list(network.parameters())[-1]

    state, history = TrainingState(settings(ema_decay=0.25)), []
    for _ in training.train(state, small_configurations()):
        history.append(last(state.denoiser).detach().clone())
    expected = history[0]
    for n_averaged, current in enumerate(history[1:], start=1):
        decay = min(0.25, (1 + n_averaged) / (10 + n_averaged))
        expected = decay * expected + (1 - decay) * current
    torch.testing.assert_close(last(state.average.module), expected)
    assert not torch.equal(last(state.average.module), last(state.denoiser))


def test_a_loss_that_is_not_finite_stops_the_run_with_the_last_good_weights():
    calls = itertools.count(1)

    def breaks_at_the_third_call(x_t, sigma, condition, box_length):
        return x_t * (math.nan if next(calls) == 3 else 1.0)

    state = stub_state(settings(ranges={}), Stub(breaks_at_the_third_call))
    steps = training.train(state, GaussianSource(1.0))
    next(steps), next(steps)
    good = state.denoiser.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="nan at step 3; lower learning_rate"):
        next(steps)
    assert state.step == 2 and torch.equal(state.denoiser.weight.detach(), good)
    assert torch.isfinite(good).all()


def test_conditions_that_are_not_finite_are_called_so():
    source = small_configurations(n_configurations=1)
    source.conditions[0, 1] = math.nan
    with pytest.raises(ValueError, match="drawn conditions that are nan or infinite at step 1"):
        run(TrainingState(settings()), source)


@pytest.mark.parametrize("preset", PRESETS)
def test_data_that_are_not_finite_do_not_train_anything(preset):
    source = small_configurations(n_configurations=1, conditions=False)
    source.positions[0, 5, 1] = math.nan
    state = TrainingState(settings(preset=preset, ranges={}))
    with pytest.raises((ValueError, FloatingPointError), match=r"finite|nan"):
        run(state, source)
    assert state.step == 0


# --- loss by level -----------------------------------------------------------------------------


def test_knowing_nothing_costs_one_at_every_level():
    levels = settings().sigmas()[1:]
    losses = training.level_losses(Stub(), small_configurations(), levels, n_draws=64)
    assert losses.shape == levels.shape
    assert (losses - 1).abs().max() < 4.5 * math.sqrt(2 / (64 * 24 * 3))


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_the_best_denoiser_of_normal_data_has_the_known_loss(spread):
    levels = torch.tensor([0.05, 0.3, 1.0, 4.0], dtype=torch.float64)

    def exact(x_t, sigma, condition, box_length):
        sigma = sigma[:, None, None]
        return sigma * x_t / (spread**2 + sigma**2)

    losses = training.level_losses(Stub(exact), GaussianSource(spread), levels, n_draws=64)
    best = spread**2 / (spread**2 + levels**2)
    tolerance = 4.5 * math.sqrt(2 / (64 * 32 * 3)) * best
    assert ((losses - best).abs() < tolerance).all()


def test_knowing_the_one_configuration_costs_nothing_until_noise_goes_round_the_box():
    positions, box_length = cubic_lattice()

    def exact(x_t, sigma, condition, box_length):
        return wrapped_eps(x_t - positions, sigma[:, None, None], box_length)

    source = FixedSource(positions, box_length)
    levels = torch.tensor([0.01, 0.1, 0.3, 10 * box_length])
    losses = training.level_losses(Stub(exact), source, levels, n_draws=64)
    assert losses[:3].max() < 1e-6
    assert losses[3].item() == pytest.approx(1, abs=4.5 * math.sqrt(2 / (64 * 27 * 3)))


def test_loss_by_level_is_decided_by_its_seed():
    arguments = (Stub(lambda x_t, *_: x_t), small_configurations(), settings().sigmas()[1:4])
    first, again, other = (training.level_losses(*arguments, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_level_losses_take_any_function():
    source, levels = GaussianSource(1.0), torch.tensor([0.3, 1.0])

    def half(x_t, sigma, condition, box_length):
        return x_t / 2

    losses = training.level_losses(half, source, levels)
    assert torch.equal(losses, training.level_losses(Stub(half), source, levels))


@pytest.mark.parametrize("mode", [True, False])
def test_level_losses_leave_the_network_in_its_mode(mode):
    seen = []

    def remember(x_t, *_):
        seen.append(denoiser.training)
        return x_t

    denoiser = Stub(remember).train(mode)
    training.level_losses(denoiser, GaussianSource(1.0), torch.tensor([0.3]))
    assert denoiser.training is mode and seen == [False]
    denoiser.estimate = None
    with pytest.raises(TypeError):
        training.level_losses(denoiser, GaussianSource(1.0), torch.tensor([0.3]))
    assert denoiser.training is mode
