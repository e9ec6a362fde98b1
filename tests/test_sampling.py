import math

import pytest
import torch

from mddm import sampling
from mddm.geometry import minimum_image, neighbor_pairs
from mddm.noise import linear_variance_schedule, log_schedule, power_schedule, wrapped_eps
from mddm.sampling import Ancestral, Corrector, Multistep, ProbabilityFlow

BOX = 10.0
SPREAD = 0.7
SAMPLERS = [Ancestral(), ProbabilityFlow(), Multistep()]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def frames_of(sampler, denoiser, x_t, sigmas, seed=0, **options):
    return list(sampler(denoiser, x_t, sigmas, generator(seed), **options))


def result_of(*arguments, **options):
    return frames_of(*arguments, **options)[-1].positions


# --- denoisers that are exact ------------------------------------------------------------------


def normal_denoiser(x_t, sigma, condition, box_length):
    """For data N(0, SPREAD^2): x_t is N(0, SPREAD^2 + sigma^2), and eps = -sigma score."""
    sigma = sigma[:, None, None]
    return sigma * x_t / (SPREAD**2 + sigma**2)


def cubic_sites(n):
    return torch.cartesian_prod(*[(torch.arange(n) + 0.5) * BOX / n] * 3)


class ThermalLattice:
    """Each particle about its own site, with a normal width that wraps around the box."""

    def __init__(self, sites, width):
        self.sites, self.width = sites, width

    def __call__(self, x_t, sigma, condition, box_length):
        sigma = sigma[:, None, None]
        total = (self.width**2 + sigma**2).sqrt()
        return sigma / total * wrapped_eps(x_t - self.sites.to(x_t), total, box_length)


class SharedSites:
    """Each particle about any site, all equally likely: a mixture of normals on the torus."""

    def __init__(self, sites, width):
        self.sites, self.width = sites, width

    def __call__(self, x_t, sigma, condition, box_length):
        images = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3).to(x_t) * box_length
        centers = (self.sites.to(x_t)[:, None] + images).reshape(-1, 3)
        total = self.width**2 + sigma**2
        square = torch.cdist(x_t, centers.expand(len(x_t), -1, -1)).square()
        weights = (-square / (2 * total[:, None, None])).softmax(-1)
        return (sigma / total)[:, None, None] * (x_t - weights @ centers)


def variances_of_ancestral(sigmas, start, variance="exact", correctors=()):
    """Follow the variance of normal data through the sampler, in closed form."""
    alphas, value = (sigmas**2).tolist(), start
    for step in range(len(alphas) - 1, 0, -1):
        above, below = alphas[step], alphas[step - 1]
        # x' = x + (below / above - 1) sigma eps + noise, with eps = sigma x / (s^2 + above)
        value *= ((SPREAD**2 + below) / (SPREAD**2 + above)) ** 2
        value += below * (above - below) / above * {"exact": 1, "paper": 0.5}[variance]
        if below > 0:
            for corrector in correctors:
                for _ in range(corrector.n_steps):
                    known = min(below * value / (SPREAD**2 + below) ** 2, 1)
                    value *= (1 - corrector.part * below / (SPREAD**2 + below)) ** 2
                    value += corrector.part * (2 - corrector.part * known) * below
    return value


def assert_spread(samples, expected, n_sigmas=4.5):
    error = expected / math.sqrt(2 * samples.numel())
    assert abs(samples.std().item() - expected) < n_sigmas * error
    assert samples.mean().abs().item() < n_sigmas * expected / math.sqrt(samples.numel())


# --- the start ---------------------------------------------------------------------------------


def test_pure_noise_in_a_box_is_uniform():
    positions = sampling.pure_noise(4, 5000, BOX, 3.0, generator())
    assert positions.shape == (4, 5000, 3)
    assert (positions >= 0).all() and (positions < BOX).all()
    counts = torch.histc(positions, bins=20, min=0, max=BOX)
    expected = positions.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 19 + 4.5 * math.sqrt(38)


def test_pure_noise_in_free_space_is_normal():
    assert_spread(sampling.pure_noise(4, 5000, None, 3.0, generator()), 3.0)


@pytest.mark.parametrize("box_length", [BOX, None])
def test_pure_noise_is_decided_by_its_generator(box_length):
    first, again, other = (
        sampling.pure_noise(2, 9, box_length, 3.0, generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


# --- ancestral sampling, algorithm 2 -----------------------------------------------------------


@pytest.mark.parametrize("variance", ["exact", "paper"])
@pytest.mark.parametrize("correctors", [[], [Corrector(2)], [Corrector(1), Corrector(2, 0.5)]])
@pytest.mark.parametrize("n_steps", [5, 60])
def test_ancestral_sampling_of_normal_data_has_the_predicted_spread(variance, correctors, n_steps):
    sigmas = log_schedule(n_steps, 0.02, 8.0)
    x_t = sampling.pure_noise(8, 1500, None, 8.0, generator(7))
    options = {"variance": variance, "correctors": correctors}
    samples = result_of(Ancestral(**options), normal_denoiser, x_t, sigmas)
    assert_spread(samples, math.sqrt(variances_of_ancestral(sigmas, 64.0, **options)))


def test_many_steps_give_the_spread_of_the_data_and_the_papers_variance_half_of_it():
    # In the limit dv/d(alpha) = 2 v / (s^2 + alpha) - 1, whose solution is s^2 + alpha; with the
    # paper's noise the last term is 1/2 and so is the solution.
    sigmas = log_schedule(2000, 0.005, 50.0)
    start = SPREAD**2 + 50.0**2
    exact = variances_of_ancestral(sigmas, start)
    paper = variances_of_ancestral(sigmas, start, "paper")
    assert exact == pytest.approx(SPREAD**2, rel=0.01)
    assert paper == pytest.approx(SPREAD**2 / 2, rel=0.01)
    few = log_schedule(150, 0.005, 50.0)
    x_t = math.sqrt(start) * torch.randn(8, 1000, 3, generator=generator(1))
    samples = result_of(Ancestral("paper"), normal_denoiser, x_t, few)
    assert 0.6 * SPREAD < samples.std() < 0.75 * SPREAD


def test_the_corrector_repairs_a_coarse_schedule():
    sigmas = log_schedule(6, 0.05, 20.0)
    x_t = sampling.pure_noise(8, 1500, None, 20.0, generator(2))
    missing = []
    for n_steps in (0, 2, 20):
        sampler = Ancestral(correctors=[Corrector(n_steps)])
        samples = result_of(sampler, normal_denoiser, x_t, sigmas)
        missing.append(1 - samples.std().item() / SPREAD)
    assert missing[0] > 0.3
    assert missing[1] < 0.75 * missing[0] and missing[2] < 0.3 * missing[0]


@pytest.mark.parametrize("part", [0.05, 0.5, 1.0])
def test_the_corrector_leaves_the_noise_of_what_is_known(part):
    # One point: the estimate is right at every moment, and the fresh noise is as much as was taken.
    def one_point(x_t, sigma, condition, box_length):
        return x_t / sigma[:, None, None]

    sigmas = torch.tensor([0.0, 0.1, 0.1001], dtype=torch.float64)
    x_t = 0.1001 * torch.randn(8, 1500, 3, generator=generator(3))
    sampler = Ancestral(correctors=[Corrector(60, part)])
    frames = frames_of(sampler, one_point, x_t, sigmas)
    assert_spread(frames[1].positions, 0.1)
    # It does move the particles: their start is forgotten.
    overlap = (frames[1].positions * x_t).mean() / 0.1**2
    assert abs(overlap) < 0.1


def test_hops_fill_the_empty_sites_of_a_crystal():
    # To this denoiser each particle belongs to the nearest site, taken or not.
    def nearest_site(x_t, sigma, condition, box_length):
        off = (x_t + 0.5) % 1 - 0.5
        return off * (sigma / (0.03**2 + sigma**2))[:, None, None]

    sites = cubic_sites(10) - 0.5
    x_t = sites[None] + 0.1 * torch.randn(1, 1000, 3, generator=generator())
    x_t[0, :20] = sites[900:920] + 0.1 * torch.randn(20, 3, generator=generator(1))
    start = (nearest_site, x_t, log_schedule(12, 0.01, 0.1))
    n_pairs = {
        hops: len(
            neighbor_pairs(result_of(Ancestral(hops=hops), *start, box_length=BOX)[0], 0.4, BOX)
        )
        for hops in (None, (0.02, 0.05), (0.5, 1.0))
    }
    assert n_pairs == {None: 20, (0.02, 0.05): 0, (0.5, 1.0): 20}


def test_free_space_has_no_sites_to_hop_to():
    x_t, sigmas = torch.randn(1, 100, 3, generator=generator()), log_schedule(4, 0.05, 1.0)
    plain, hopped = (
        result_of(Ancestral(hops=hops), normal_denoiser, x_t, sigmas) for hops in (None, (0.0, 1.0))
    )
    assert torch.equal(plain, hopped)


@pytest.mark.parametrize("level", [0.1 * SPREAD, SPREAD, 10 * SPREAD])
@pytest.mark.parametrize("part", [0.3, 1.0])
def test_the_corrector_leaves_a_normal_distribution_that_is_right_already(level, part):
    sigmas = torch.tensor([0.0, level, 1.001 * level], dtype=torch.float64)
    spread = math.hypot(SPREAD, level)
    x_t = math.hypot(SPREAD, 1.001 * level) * torch.randn(8, 1500, 3, generator=generator(3))
    sampler = Ancestral(correctors=[Corrector(300, part)])
    frames = frames_of(sampler, normal_denoiser, x_t, sigmas)
    assert_spread(frames[1].positions, spread, n_sigmas=6)
    # It does move the particles: most of their start is forgotten.
    assert (frames[1].positions - x_t).std() > 0.7 * spread


def test_less_fresh_noise_makes_a_normal_distribution_as_much_narrower():
    sigmas = torch.tensor([0.0, SPREAD, 1.001 * SPREAD], dtype=torch.float64)
    spread = math.hypot(SPREAD, SPREAD)
    x_t = spread * torch.randn(8, 1500, 3, generator=generator(3))
    sampler = Ancestral(correctors=[Corrector(300, 0.05, noise_scale=0.8)])
    frames = frames_of(sampler, normal_denoiser, x_t, sigmas)
    assert frames[1].positions.std() == pytest.approx(0.8 * spread, rel=0.02)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_jumps_to_the_estimate_of_the_data(sampler):
    sigmas = torch.tensor([0.0, 3.0], dtype=torch.float64)
    x_t = torch.randn(2, 5, 3, generator=generator())
    samples = result_of(sampler, normal_denoiser, x_t, sigmas)
    expected = x_t * SPREAD**2 / (SPREAD**2 + 9)
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-6)


# --- probability flow --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "ratio"),
    [(ProbabilityFlow(1), 2.0), (ProbabilityFlow(2), 4.0), (Multistep(), 4.0)],
)
@pytest.mark.parametrize("schedule", [log_schedule, power_schedule])
def test_order_of_convergence(sampler, ratio, schedule):
    x_t = torch.randn(1, 20, 3, generator=generator(), dtype=torch.float64) * 5
    # The flow keeps x / sqrt(s^2 + sigma^2).
    exact = x_t * SPREAD / math.sqrt(SPREAD**2 + 25.0)
    errors = []
    for n_steps in (80, 160, 320):
        sigmas = schedule(n_steps, sigma_min=1e-5, sigma_max=5.0)
        samples = result_of(sampler, normal_denoiser, x_t, sigmas)
        errors.append(((samples - exact) / exact).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(ratio, rel=0.12)
    assert errors[1] / errors[2] == pytest.approx(ratio, rel=0.06)
    assert errors[2] < {2.0: 2e-2, 4.0: 5e-4}[ratio]


@pytest.mark.parametrize("sampler", [ProbabilityFlow(), Multistep()])
def test_probability_flow_on_the_torus_is_the_same_in_every_image(sampler):
    lattice = ThermalLattice(cubic_sites(3).double(), 0.2)
    x_t = sampling.pure_noise(2, 27, BOX, 5.0, generator()).double()
    sigmas = log_schedule(30)
    samples = result_of(sampler, lattice, x_t, sigmas, box_length=BOX)
    moved = result_of(sampler, lattice, x_t + 3 * BOX, sigmas, box_length=BOX)
    torch.testing.assert_close(
        minimum_image(samples - moved, BOX), torch.zeros_like(x_t), rtol=0, atol=1e-9
    )


# --- on the torus ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "width"),
    [
        (Ancestral(), 0.1),
        (Ancestral(correctors=[Corrector(2)]), 0.1),
        (Ancestral("paper"), 0.1 / math.sqrt(2)),
        (ProbabilityFlow(), 0.1),
        (Multistep(), 0.1),
    ],
)
def test_a_thermal_lattice_comes_out_of_uniform_noise(sampler, width):
    # Shifted so that many sites lie on the boundary.
    sites = cubic_sites(8) - BOX / 16
    x_t = sampling.pure_noise(8, 512, BOX, 5.0, generator(4))
    sigmas = log_schedule(150, 0.002, 5.0)
    lattice = ThermalLattice(sites, 0.1)
    samples = result_of(sampler, lattice, x_t, sigmas, box_length=BOX)
    displacement = minimum_image(samples - sites, BOX)
    assert displacement.abs().max() < 6 * 0.1
    assert displacement.mean().abs() < 4.5 * 0.1 / math.sqrt(displacement.numel())
    assert displacement.std().item() == pytest.approx(width, rel=0.04)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_particles_that_may_choose_their_site_choose_evenly(sampler):
    sites = cubic_sites(2) - BOX / 4
    x_t = sampling.pure_noise(4, 500, BOX, 5.0, generator(5))
    sigmas = log_schedule(60, 0.02, 5.0)
    samples = result_of(sampler, SharedSites(sites, 0.3), x_t, sigmas, box_length=BOX)
    displacement = minimum_image(samples[:, :, None] - sites, BOX)
    distance, chosen = displacement.norm(dim=-1).min(dim=-1)
    counts = torch.bincount(chosen.flatten(), minlength=8)
    assert ((counts - 250.0) ** 2 / 250).sum() < 7 + 4.5 * math.sqrt(14)
    # Three normal components a particle.
    assert (distance.square().mean() / 3).sqrt().item() == pytest.approx(0.3, rel=0.06)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_frame_lies_in_the_box(sampler):
    x_t = sampling.pure_noise(2, 200, BOX, 5.0, generator())
    # Sites near the boundary, so that particles cross it on their way.
    lattice = ThermalLattice(0.5 * torch.randn(200, 3, generator=generator(1)), 0.01)
    for frame in frames_of(sampler, lattice, x_t, log_schedule(20), box_length=BOX):
        assert (frame.positions >= 0).all() and (frame.positions < BOX).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_network_that_blows_up_is_told(sampler):
    def broken(x_t, sigma, condition, box_length):
        return torch.full_like(x_t, torch.nan)

    x_t = sampling.pure_noise(1, 10, BOX, 5.0, generator())
    with pytest.raises(FloatingPointError, match=r"denoiser returned .* not finite at sigma = 5:"):
        result_of(sampler, broken, x_t, log_schedule(5), box_length=BOX)


# --- frames ------------------------------------------------------------------------------------


class Counting:
    """The normal denoiser, remembering what it was asked."""

    def __init__(self):
        self.sigmas, self.others, self.grad_modes = [], [], []

    def __call__(self, x_t, sigma, condition, box_length):
        assert sigma.shape == (len(x_t),) and sigma.dtype == x_t.dtype
        self.sigmas.append(sigma[0].item())
        self.others.append((condition, box_length))
        self.grad_modes.append(torch.is_grad_enabled())
        return normal_denoiser(x_t, sigma, condition, box_length)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        (Ancestral(), [0, 1, 2, 3, 4, 5]),
        (Ancestral(correctors=[Corrector(3)]), [0, 4, 8, 12, 16, 17]),
        (Ancestral(correctors=[Corrector(1, lowest=0.1, highest=1.0)]), [0, 1, 3, 5, 6, 7]),
        (ProbabilityFlow(1), [0, 1, 2, 3, 4, 5]),
        (ProbabilityFlow(2), [0, 2, 4, 6, 8, 9]),
        (Multistep(), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_frames_count_steps_and_calls(sampler, calls):
    denoiser, sigmas = Counting(), torch.tensor([0.0, 0.05, 0.1, 1.0, 2.0, 4.0])
    x_t = torch.randn(2, 6, 3, generator=generator())
    frames = frames_of(sampler, denoiser, x_t, sigmas)
    assert [frame.n_left for frame in frames] == [5, 4, 3, 2, 1, 0]
    assert [frame.sigma for frame in frames] == pytest.approx(sigmas.flip(0).tolist())
    assert [frame.calls for frame in frames] == calls
    assert len(denoiser.sigmas) == calls[-1]
    assert torch.equal(frames[0].positions, x_t)
    assert all(frame.positions.shape == x_t.shape for frame in frames)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Ancestral(), [4, 1, 0.1]),
        (Ancestral(correctors=[Corrector(1)]), [4, 1, 1, 0.1, 0.1]),
        (ProbabilityFlow(1), [4, 1, 0.1]),
        (ProbabilityFlow(2), [4, 1, 1, 0.1, 0.1]),
        (Multistep(), [4, 1, 0.1]),
    ],
)
def test_the_network_is_asked_at_the_level_of_the_positions(sampler, expected):
    denoiser, condition = Counting(), torch.rand(2, 3)
    x_t = BOX * torch.rand(2, 6, 3, generator=generator())
    sigmas = torch.tensor([0.0, 0.1, 1.0, 4.0])
    frames_of(sampler, denoiser, x_t, sigmas, condition=condition, box_length=BOX)
    assert denoiser.sigmas == pytest.approx(expected)
    assert all(seen is condition and box == BOX for seen, box in denoiser.others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_positions_keep_their_dtype_and_the_start_is_left_alone(sampler, dtype):
    x_t = BOX * torch.rand(2, 6, 3, generator=generator(), dtype=dtype)
    before = x_t.clone()
    sigmas = linear_variance_schedule(5)
    samples = result_of(sampler, normal_denoiser, x_t, sigmas, box_length=BOX)
    assert samples.dtype == dtype and torch.equal(x_t, before)


def test_ancestral_sampling_is_decided_by_its_generator():
    x_t, sigmas = torch.randn(2, 6, 3, generator=generator()), log_schedule(8)
    before = torch.random.get_rng_state()
    first, again, other = (
        result_of(Ancestral(correctors=[Corrector(1)]), normal_denoiser, x_t, sigmas, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_centring_keeps_the_centroid_at_the_origin(sampler):
    x_t = 3 * torch.randn(2, 50, 3, generator=generator()) + 4
    frames = frames_of(sampler, normal_denoiser, x_t, log_schedule(10), center=True)
    for frame in frames[1:]:
        assert frame.positions.mean(dim=1).abs().max() < 1e-5
    drifting = frames_of(sampler, normal_denoiser, x_t, log_schedule(10))
    assert drifting[1].positions.mean(dim=1).abs().max() > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("outside", [True, False])
def test_the_callers_grad_mode_is_not_changed(sampler, outside):
    denoiser, x_t = Counting(), torch.randn(1, 6, 3, generator=generator())
    with torch.set_grad_enabled(outside):
        for frame in sampler(denoiser, x_t, log_schedule(4), generator()):
            assert torch.is_grad_enabled() is outside
            assert not frame.positions.requires_grad
        assert torch.is_grad_enabled() is outside
    assert not any(denoiser.grad_modes)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_last_runs_a_sampler_to_its_end(sampler):
    x_t, sigmas = torch.randn(1, 6, 3, generator=generator()), log_schedule(4)
    frame = sampling.last(sampler(normal_denoiser, x_t, sigmas, generator()))
    assert (frame.n_left, frame.sigma, frame.stage) == (0, 0, "sampled")
    assert torch.equal(frame.positions, result_of(sampler, normal_denoiser, x_t, sigmas))


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "sigmas",
    [
        [5.0, 1.0, 0.0],
        [0.1, 1.0, 5.0],
        [0.0, 1.0, 1.0],
        [0.0, math.nan, 1.0],
        [0.0],
        [],
        [[0.0, 1.0]],
    ],
)
def test_noise_levels_must_increase_from_zero(sampler, sigmas):
    x_t = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r"that increase from zero|sigmas must (be finite|have)"):
        frames_of(sampler, normal_denoiser, x_t, torch.tensor(sigmas))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": -1}, "n_steps must be a whole number of at least 0, got -1"),
        ({"part": 0.0}, "part must be a finite number above 0 and at most 1, got 0.0"),
        ({"part": 1.01}, "above 0 and at most 1, got 1.01"),
        ({"part": math.nan}, "part must be a finite number"),
        ({"lowest": 2.0, "highest": 1.0}, "highest must be a number of at least 2.0, got 1.0"),
        ({"noise_scale": 1.2}, "noise_scale must be a finite number .* at most 1, got 1.2"),
    ],
)
def test_correctors_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Corrector(**{"n_steps": 4} | options)


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (Ancestral, {"variance": "papr"}, "'exact', 'paper', got 'papr'; did you mean 'paper'"),
        (ProbabilityFlow, {"order": 3}, "order must be a whole number of at least 1 and at most 2"),
        (ProbabilityFlow, {"churn": -0.1}, "churn must be a finite number of at least 0, got -0.1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(sampler, options, message):
    with pytest.raises(ValueError, match=message):
        sampler(**options)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_start_that_is_not_finite_is_refused_at_the_call(sampler, value):
    x_t = torch.zeros(1, 2, 3)
    x_t[0, 1, 2] = value
    with pytest.raises(ValueError, match="x_t must be finite"):
        sampler(normal_denoiser, x_t, log_schedule(3), generator())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_box_has_no_centre(sampler):
    arguments = (normal_denoiser, torch.zeros(1, 2, 3), log_schedule(3), generator())
    with pytest.raises(ValueError, match=r"center=True is for free space.* instead of 10\.0"):
        sampler(*arguments, box_length=BOX, center=True)


# --- churn -------------------------------------------------------------------------------------


def test_churn_raises_the_level_before_a_step_inside_its_window():
    denoiser, sigmas = Counting(), torch.tensor([0.0, 0.1, 1.0, 4.0])
    x_t = torch.randn(2, 6, 3, generator=generator())
    frames = frames_of(ProbabilityFlow(churn=0.5, churned=(0.5, 2.0)), denoiser, x_t, sigmas)
    assert denoiser.sigmas == pytest.approx([4, 1, 1.5, 0.1, 0.1])
    assert [frame.calls for frame in frames] == [0, 2, 4, 5]


@pytest.mark.parametrize("churn", [0.0, 0.1])
def test_sampling_with_churn_keeps_the_spread_of_the_data(churn):
    x_t = sampling.pure_noise(8, 4000, None, 20.0, generator(1))
    sigmas = log_schedule(200, 0.005, 20.0)
    samples = result_of(ProbabilityFlow(churn=churn), normal_denoiser, x_t, sigmas, seed=2)
    assert_spread(samples, SPREAD, n_sigmas=6)


def test_churn_is_decided_by_its_generator():
    x_t, sigmas = torch.randn(2, 6, 3, generator=generator()), log_schedule(8)
    first, again, other = (
        result_of(ProbabilityFlow(churn=0.2), normal_denoiser, x_t, sigmas, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
