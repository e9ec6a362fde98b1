import inspect
import itertools
import json
import math
import random
from dataclasses import asdict
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.optim.swa_utils import AveragedModel

from mddm import __version__, checkpoint, training
from mddm.encoding import SCALED_TEMPERATURES, PotentialConditioning, encode
from mddm.formulas import LennardJones
from mddm.geometry import minimum_image
from mddm.noise import wrapped_eps
from mddm.potential import Smoothed
from mddm.training import Configurations, Settings, TrainingState

PRESETS = list(training.PRESETS)


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


def small_configurations(n_configurations=3, n_particles=24, box_length=3.0, conditions=True):
    torch.manual_seed(0)
    positions = torch.rand(n_configurations, n_particles, 3) * box_length
    rows = torch.rand(n_configurations, 3) if conditions else None
    return Configurations(positions, rows, box_length)


def settings(**changes):
    return Settings(**({"n_steps": 7, "batch_size": 2, "n_levels": 10, "sigma_max": 1.5} | changes))


def stub_state(run_settings, denoiser):
    state = TrainingState(run_settings)
    state.denoiser = denoiser
    state.average = AveragedModel(denoiser)
    state.optimizer = torch.optim.Adam(denoiser.parameters())
    return state


def run(state, source, n_steps=None):
    return list(itertools.islice(training.train(state, source), n_steps))


def assert_same_tree(ours, expected):
    assert type(ours) is type(expected)
    if isinstance(ours, dict):
        assert ours.keys() == expected.keys()
        for key in ours:
            assert_same_tree(ours[key], expected[key])
    elif isinstance(ours, list):
        for left, right in zip(ours, expected, strict=True):
            assert_same_tree(left, right)
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == expected.dtype and torch.equal(ours, expected)
    else:
        assert ours == expected


def assert_bitwise_equal(state, expected):
    assert state.step == expected.step
    for part in ("denoiser", "average", "optimizer"):
        ours, theirs = getattr(state, part).state_dict(), getattr(expected, part).state_dict()
        assert_same_tree(dict(ours), dict(theirs))


# --- configurations ----------------------------------------------------------------------------


def cube_symmetries():
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product([1.0, -1.0], repeat=3):
            yield lambda x, axes=axes, signs=signs: x[..., axes] * torch.tensor(signs)


def test_draw_reaches_all_48_symmetries_of_the_cube_evenly():
    source = small_configurations(n_configurations=1, n_particles=5, conditions=False)
    drawn, condition = source.draw(4800, torch.Generator().manual_seed(0))
    assert condition is None
    assert (drawn >= 0).all() and (drawn < source.box_length).all()
    images = torch.stack([turn(source.positions[0]) for turn in cube_symmetries()])
    apart = minimum_image(drawn[:, None] - images[None], source.box_length).abs().amax((2, 3))
    assert ((apart < 1e-5).sum(dim=1) == 1).all()
    counts = torch.bincount(apart.argmin(dim=1), minlength=48)
    chi_squared = ((counts - 100.0) ** 2 / 100).sum()
    assert counts.min() > 0 and chi_squared < 47 + 4.5 * math.sqrt(2 * 47)


def test_draw_keeps_every_pair_distance():
    source = small_configurations(conditions=False)

    def distances(positions):
        delta = positions[:, None] - positions[:, :, None]
        return minimum_image(delta, source.box_length).norm(dim=-1)

    drawn, _ = source.draw(16, torch.Generator().manual_seed(1))
    originals = distances(source.positions)
    for system in distances(drawn):
        assert min((system - original).abs().max() for original in originals) < 1e-5


def test_draw_takes_every_configuration_with_its_own_condition():
    source = small_configurations(n_configurations=5)
    drawn, conditions = source.draw(500, torch.Generator().manual_seed(2))
    chosen = (conditions[:, None] == source.conditions).all(-1)
    assert (chosen.sum(1) == 1).all() and (chosen.sum(0) > 60).all()
    for positions, index in zip(drawn[:20], chosen.int().argmax(1), strict=False):
        # A symmetry keeps the set of coordinates up to their sign.
        folded = minimum_image(positions, source.box_length).abs().flatten().sort().values
        expected = source.positions[index]
        expected = minimum_image(expected, source.box_length).abs().flatten().sort().values
        torch.testing.assert_close(folded, expected, rtol=0, atol=1e-5)


def test_draw_is_decided_by_its_generator_alone():
    source = small_configurations()
    draws = [source.draw(4, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[2][0])


@pytest.mark.parametrize(
    ("positions", "conditions", "message"),
    [
        ((10, 3), None, r"n_particles, 3\), got \(10, 3\)"),
        ((2, 10, 2), None, r"got \(2, 10, 2\)"),
        ((0, 10, 3), None, r"n_configurations, .* got \(0, 10, 3\)"),
        ((2, 10, 3), (3, 3), r"conditions must have the shape \(2, 3\), got \(3, 3\)"),
        ((2, 10, 3), (2,), "conditions"),
    ],
)
def test_configurations_refuse_shapes_that_do_not_fit(positions, conditions, message):
    with pytest.raises(ValueError, match=message):
        Configurations(
            torch.rand(positions), None if conditions is None else torch.rand(conditions), 3.0
        )


def test_configurations_refuse_positions_that_are_not_finite():
    positions = torch.rand(2, 10, 3)
    positions[1, 3, 0] = math.inf
    with pytest.raises(ValueError, match="positions must be finite"):
        Configurations(positions, None, 3.0)


def test_conditions_that_are_not_finite_are_called_so(tmp_path):
    positions, conditions = torch.rand(2, 10, 3), torch.rand(2, 3)
    conditions[1, 2] = math.nan
    with pytest.raises(ValueError, match="conditions must be finite"):
        Configurations(positions, conditions, 3.0)
    source = small_configurations(n_configurations=1)
    source.conditions[0, 1] = math.nan
    with pytest.raises(ValueError, match="drawn conditions that are nan or infinite at step 1"):
        run(TrainingState(settings()), source)


# --- settings ----------------------------------------------------------------------------------


def test_settings_keep_pythons_numbers():
    plain = Settings(n_steps=7, seed=3, learning_rate=0.5, architecture={"n_neighbors": 4})
    given = {"n_steps": np.int64(7), "seed": np.int64(3), "learning_rate": np.float64(0.5)}
    others = Settings(**given, architecture={"n_neighbors": np.int64(4)})
    assert json.dumps(asdict(others)) == json.dumps(asdict(plain))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"preset": "transolvr"},
            "must be one of 'mddm', .*'transolvr'; did you mean 'transolver'",
        ),
        ({"preset": "zzz"}, "preset must be one of 'mddm', .*'transolver', got 'zzz'$"),
        ({"schedule": "lgo"}, "did you mean 'log'"),
        ({"n_steps": 0}, "n_steps must be a whole number of at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be a whole number of at least 1, got -1"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number above 0, got nan"),
        (
            {"ema_decay": 1.0},
            "ema_decay must be a finite number of at least 0 and below 1, got 1.0",
        ),
        ({"ema_decay": math.nan}, "ema_decay"),
        ({"n_levels": 1}, "n_steps must be a whole number of at least 2|n_levels"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"sigma_max": 0.001}, "sigma_max"),
        ({"seed": -1}, "seed"),
        (
            {"architecture": {"n_neighbours": 4}},
            "of .mddm. must be one of .channels., .*'n_neighbours'; did you mean 'n_neighbors'",
        ),
        ({"preset": "transolver", "architecture": {"basis": 4}}, "got 'basis'$"),
        ({"decoys": 1.5}, "decoys must be a finite number of at least 0 and at most 1, got 1.5"),
        ({"precision": "float16"}, "precision must be one of 'float32', 'bfloat16', got 'float16'"),
    ],
)
def test_settings_refuse_what_makes_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_new_denoiser_is_decided_by_the_seed(preset):
    first, again, other = (Settings(preset=preset, seed=s).new_denoiser() for s in (3, 3, 4))
    assert_same_tree(dict(first.state_dict()), dict(again.state_dict()))
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(ours, theirs) for ours, theirs in pairs)
    model = Settings(preset=preset, sigma_min=0.02, sigma_max=2.0).new_denoiser()
    assert (model.conditioning.sigma_min, model.conditioning.sigma_max) == (0.02, 2.0)


def test_the_architecture_decides_the_network_and_is_filled_in():
    plain = Settings()
    assert plain.architecture == training.default_architecture("mddm")
    changed = Settings(architecture={"n_neighbors": 9, "channels": 8})
    assert changed.architecture == plain.architecture | {"n_neighbors": 9, "channels": 8}
    model = changed.new_denoiser()
    assert model.n_neighbors == 9 and model.layers[-1].mix.out_features == 8


def test_the_presets_are_the_papers():
    counts = {
        preset: sum(p.numel() for p in Settings(preset=preset).new_denoiser().parameters())
        for preset in ("mddm", "transolver")
    }
    assert counts == {"mddm": 101_891, "transolver": 128_867}


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


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("saved_at", [0, 1, 4])
def test_a_killed_run_resumes_bitwise_where_it_was_saved(tmp_path, preset, saved_at):
    path, run_settings = tmp_path / "state.safetensors", settings(preset=preset)
    unbroken = TrainingState(run_settings)
    losses = [step.loss for step in run(unbroken, small_configurations())]

    killed = TrainingState(run_settings)
    run(killed, small_configurations(), saved_at)
    training.save_state(path, killed)
    run(killed, small_configurations(), 2)  # lost: the kill comes between two saves

    torch.manual_seed(123)  # nor does a new process share the global random numbers
    resumed = training.load_state(path, run_settings)
    assert resumed.step == saved_at
    assert [step.loss for step in run(resumed, small_configurations())] == losses[saved_at:]
    assert_bitwise_equal(resumed, unbroken)


def test_a_state_that_was_read_is_written_as_the_same_file(tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    state = TrainingState(settings())
    run(state, small_configurations(), 3)
    training.save_state(first, state)
    training.save_state(second, training.load_state(first, settings()))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("preset", "transolver", "preset was 'mddm', is 'transolver'"),
        ("n_steps", 8, "n_steps was 7, is 8"),
        ("batch_size", 3, "batch_size was 2, is 3"),
        ("learning_rate", 2e-3, "learning_rate was 0.001, is 0.002"),
        ("ema_decay", 0.9, "ema_decay was 0.999, is 0.9"),
        ("schedule", "power", "schedule was 'log_normal', is 'power'"),
        ("n_levels", 11, "n_levels was 10, is 11"),
        ("sigma_min", 0.01, "sigma_min was 0.005, is 0.01"),
        ("seed", 1, "seed was 0, is 1"),
        ("ranges", {}, r"ranges was {'k': .*}, is {}"),
        ("architecture", {"n_neighbors": 5}, "n_neighbors was 8, is 5"),
    ],
)
def test_a_run_with_other_settings_is_not_resumed(tmp_path, name, value, message):
    path = tmp_path / "state.safetensors"
    training.save_state(path, TrainingState(settings()))
    with pytest.raises(ValueError, match=rf"state.safetensors .*\({message}\).*move") as info:
        training.load_state(path, settings(**{name: value}))
    assert str(info.value).count(" was ") == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_checkpoint_is_the_averaged_denoiser_ready_to_sample(tmp_path, preset):
    path, source = tmp_path / "model.safetensors", small_configurations()
    state = TrainingState(settings(preset=preset, sigma_min=0.02))
    run(state, source)
    training.save_checkpoint(path, state, record={"data": "abc123"})
    denoiser, header = training.load_checkpoint(path)
    assert not denoiser.training
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    sigma = torch.tensor([0.1, 0.5, 1.0])
    arguments = (source.positions, sigma, source.conditions, source.box_length)
    with torch.no_grad():
        assert torch.equal(denoiser(*arguments), state.average.module(*arguments))
        assert not torch.equal(denoiser(*arguments), state.denoiser(*arguments))
    assert header["preset"] == preset and header["step"] == 7 and header["mddm"] == __version__
    assert header["record"] == {"data": "abc123"}
    assert (header["n_particles"], header["box_length"]) == (24, 3.0)
    assert header["losses"] == pytest.approx(state.losses.tolist(), abs=1e-5)
    assert Settings(**header["settings"]) == state.settings


def test_a_checkpoint_keeps_its_loss_curve_in_means_of_equal_parts(tmp_path):
    path, state = tmp_path / "model.safetensors", TrainingState(settings(n_steps=1000))
    state.losses, state.step = torch.arange(1000.0), 1000
    training.save_checkpoint(path, state)
    assert training.load_checkpoint(path)[1]["losses"] == [5 * i + 2 for i in range(200)]
    training.save_checkpoint(path, TrainingState(settings()))
    assert training.load_checkpoint(path)[1]["losses"] == []


def other_defaults(monkeypatch, preset, **sizes):
    build = training.PRESETS[preset]

    class Changed(build):
        pass

    signature = inspect.signature(build)
    changed = [
        argument.replace(default=sizes.get(name, argument.default))
        for name, argument in signature.parameters.items()
    ]
    Changed.__signature__ = signature.replace(parameters=changed)
    monkeypatch.setitem(training.PRESETS, preset, Changed)


def test_a_checkpoint_is_rebuilt_as_it_was_whatever_the_defaults_are_now(tmp_path, monkeypatch):
    path, source = tmp_path / "model.safetensors", small_configurations()
    sizes = {"channels": 16, "n_neighbors": 5}
    state = TrainingState(settings(architecture=sizes))
    training.save_checkpoint(path, state)
    training.save_state(tmp_path / "state.safetensors", state)
    other_defaults(monkeypatch, "mddm", channels=32, n_neighbors=3, n_layers=1)
    assert Settings().architecture["n_layers"] == 1
    denoiser, header = training.load_checkpoint(path)
    assert header["settings"]["architecture"] == state.settings.architecture
    assert denoiser.n_neighbors == 5
    assert len(denoiser.layers) == state.settings.architecture["n_layers"] > 1
    arguments = (source.positions, torch.full((3,), 0.3), source.conditions, source.box_length)
    assert torch.equal(denoiser(*arguments), state.average.module(*arguments))
    again = training.load_state(tmp_path / "state.safetensors", state.settings)
    assert_bitwise_equal(again, state)


def spoil(path, kind, change):
    tensors, header = checkpoint.read(path, kind)
    change(tensors, header)
    checkpoint.write(path, tensors, header)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, header: header.pop("settings"),
        lambda tensors, header: header["settings"].update(width=3),
        lambda tensors, header: header["settings"].update(preset="mddm-2"),
        lambda tensors, header: header["settings"]["architecture"].update(n_rings=3),
        lambda tensors, header: tensors.pop(next(iter(tensors))),
        lambda tensors, header: tensors.update({"denoiser.extra": torch.ones(2)}),
    ],
)
def test_files_of_another_version_are_refused_by_name_with_what_to_do(tmp_path, change):
    state = TrainingState(settings())
    run(state, small_configurations(), 1)
    model, resumable = tmp_path / "model.safetensors", tmp_path / "state.safetensors"
    training.save_checkpoint(model, state)
    training.save_state(resumable, state)
    spoil(model, "checkpoint", change)
    with pytest.raises(ValueError, match=r"model\.safetensors is a checkpoint of another version"):
        training.load_checkpoint(model)
    spoil(resumable, "state", change)
    with pytest.raises(ValueError, match=r"state\.safetensors is a state of another version") as e:
        training.load_state(resumable, settings())
    assert "train again" in str(e.value)


def test_weights_of_another_size_than_the_header_says_are_refused_by_name(tmp_path):
    path = tmp_path / "model.safetensors"
    training.save_checkpoint(path, TrainingState(settings()))
    spoil(
        path, "checkpoint", lambda _, header: header["settings"]["architecture"].update(channels=8)
    )
    with pytest.raises(ValueError, match=r"model\.safetensors is a checkpoint of another version"):
        training.load_checkpoint(path)


def test_the_header_can_be_read_by_anyone(tmp_path):
    path = tmp_path / "model.safetensors"
    training.save_checkpoint(path, TrainingState(settings(seed=9)))
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["mddm"])
    assert header["settings"]["seed"] == 9 and header["settings"]["schedule"] == "log_normal"


def test_a_run_whose_network_was_compiled_is_saved_as_any_other(tmp_path):
    path, source = tmp_path / "state.safetensors", small_configurations()
    plain, compiled = (TrainingState(settings()) for _ in range(2))
    for state in (plain, compiled):
        run(state, source, 1)
    # It is the names that change, and they do so before anything is compiled.
    compiled.denoiser = torch.compile(compiled.denoiser, backend="eager")
    compiled.average.module = torch.compile(compiled.average.module, backend="eager")
    training.save_state(path, compiled)
    assert_bitwise_equal(training.load_state(path, settings()), plain)
    training.save_checkpoint(path, compiled)
    denoiser, _ = training.load_checkpoint(path)
    assert_same_tree(dict(denoiser.state_dict()), dict(plain.average.module.state_dict()))


def test_only_a_run_with_the_same_settings_replaces_a_checkpoint(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    training.check_replaceable(path, settings())
    training.save_checkpoint(path, TrainingState(settings()))
    training.check_replaceable(path, settings())
    with pytest.raises(FileExistsError, match=rf"{path} .*\(n_steps was 7, is 5\).*move"):
        training.check_replaceable(path, settings(n_steps=5))
    path.write_bytes(b"somebody's notes")
    with pytest.raises(FileExistsError, match=rf"{path} .* no checkpoint .*move the file away"):
        training.check_replaceable(path, settings())
    with pytest.raises(OSError, match="/proc/none"):
        training.check_replaceable("/proc/none/model.safetensors", settings())
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_a_checkpoint_of_another_preset_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    training.save_checkpoint(path, TrainingState(settings()))
    assert training.load_checkpoint(path, preset="mddm")[1]["preset"] == "mddm"
    with pytest.raises(
        ValueError, match=r"model\.safetensors .*'mddm', but 'transolver' is wanted"
    ):
        training.load_checkpoint(path, preset="transolver")


def test_states_and_checkpoints_are_told_apart(tmp_path):
    state = TrainingState(settings())
    training.save_state(tmp_path / "state.safetensors", state)
    training.save_checkpoint(tmp_path / "model.safetensors", state)
    with pytest.raises(ValueError, match=r"state\.safetensors is no checkpoint"):
        training.load_checkpoint(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is no state"):
        training.load_state(tmp_path / "model.safetensors", settings())
    with pytest.raises(FileNotFoundError, match="there is no state at"):
        training.load_state(tmp_path / "absent.safetensors", settings())


def test_a_truncated_state_is_refused_by_name(tmp_path):
    path = tmp_path / "state.safetensors"
    training.save_state(path, TrainingState(settings()))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"state\.safetensors is truncated"):
        training.load_state(path, settings())
