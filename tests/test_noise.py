import math

import numpy as np
import pytest
import torch

from mddm import noise
from mddm.geometry import minimum_image

BOX = 10.0
# On both sides of the switch between image and Fourier sum (at 0.399 box lengths), and at it.
SIGMAS = [0.005, 0.1, 1.0, 2.0, 3.9, 3.99, 4.0, 5.0, 10.0, 30.0]


def brute_force_density(displacement, sigma, box_length, n_images=60):
    images = np.arange(-n_images, n_images + 1)[:, None]
    r = displacement[None, :] + images * box_length
    return (np.exp(-(r**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))).sum(axis=0)


def brute_force_score(displacement, sigma, box_length, n_images=60):
    images = np.arange(-n_images, n_images + 1)[:, None]
    r = displacement[None, :] + images * box_length
    exponent = -(r**2) / (2 * sigma**2)
    weight = np.exp(exponent - exponent.max(axis=0))
    return -(weight * r).sum(axis=0) / weight.sum(axis=0) / sigma**2


# --- schedules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", noise.SCHEDULES)
def test_every_schedule_rises_from_zero_between_its_two_levels(name):
    sigmas = noise.make_schedule(name, 50, sigma_min=0.01, sigma_max=3.0)
    assert sigmas.shape == (51,) and sigmas.dtype == torch.float64
    assert sigmas[0] == 0 and sigmas[1] == 0.01 and sigmas[-1] == 3.0
    assert (sigmas.diff() > 0).all()


def test_each_schedule_is_even_in_its_own_variable():
    log, power, linear = (
        noise.make_schedule(name, 20)[1:] for name in ("log", "power", "linear_variance")
    )
    for even in (log.log(), power ** (1 / 7), linear**2):
        torch.testing.assert_close(even.diff(), even.diff().mean().expand(19))


def test_log_normal_schedule_has_the_quantiles_of_its_distribution():
    sigmas = noise.log_normal_schedule(2001, 1e-4, 1e2, center=0.1, width=1.3)[1:]
    logs = (sigmas / 0.1).log()
    # The ends lie five standard deviations away.
    assert logs.mean().item() == pytest.approx(0, abs=1e-3)
    assert logs.std().item() == pytest.approx(1.3, rel=0.02)
    assert ((logs.abs() < 1.3).double().mean().item()) == pytest.approx(0.683, abs=2e-3)


def test_log_normal_schedule_tends_to_the_log_schedule():
    torch.testing.assert_close(
        noise.log_normal_schedule(30, width=1e3), noise.log_schedule(30), rtol=1e-4, atol=0
    )


def test_power_schedule_tends_to_the_log_schedule():
    torch.testing.assert_close(
        noise.power_schedule(30, rho=1e6), noise.log_schedule(30), rtol=1e-4, atol=0
    )


def test_a_schedule_linear_in_the_variance_steps_over_the_structure():
    below_half_a_spacing = [
        int((noise.make_schedule(name, 500, sigma_max=10.0) < 0.44).sum())
        for name in ("log", "linear_variance")
    ]
    assert below_half_a_spacing[0] > 250 and below_half_a_spacing[1] == 2


def test_unknown_schedule_suggests_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'linear_variance'"):
        noise.make_schedule("linear_varianc", 10)
    with pytest.raises(
        ValueError, match=r"'log', 'log_normal', 'power', 'linear_variance', got 'zzz'$"
    ):
        noise.make_schedule("zzz", 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_levels": 1}, "n_levels"),
        ({"n_levels": 2.5}, "n_levels"),
        ({"n_levels": 10, "sigma_min": 0.0}, "sigma_min"),
        ({"n_levels": 10, "sigma_min": 6.0}, "sigma_min"),
        ({"n_levels": 10, "sigma_max": math.inf}, "sigma_max"),
        ({"n_levels": 10, "sigma_max": math.nan}, "sigma_max"),
    ],
)
@pytest.mark.parametrize("name", noise.SCHEDULES)
def test_schedules_refuse_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        noise.make_schedule(name, **arguments)


@pytest.mark.parametrize("bad", [{"center": 0}, {"width": -1}])
def test_log_normal_schedule_refuses_a_bad_center_or_width(bad):
    with pytest.raises(ValueError, match=r"(center|width) must be a finite number above 0"):
        noise.log_normal_schedule(10, **bad)


def test_power_schedule_refuses_a_bad_exponent():
    with pytest.raises(ValueError, match="rho"):
        noise.power_schedule(10, rho=0)


# --- forward process ---------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 2.0, 6.0])
def test_noised_positions_have_the_moments_of_a_wrapped_normal(sigma):
    torch.manual_seed(0)
    x_0 = torch.rand(50_000, dtype=torch.float64) * BOX
    x_t = noise.add_noise(x_0, sigma, torch.randn_like(x_0), BOX)
    assert (x_t >= 0).all() and (x_t < BOX).all()
    for n in (1, 2, 3):
        moment = torch.exp(2j * math.pi * n * (x_t - x_0) / BOX).mean()
        expected = math.exp(-2 * (math.pi * n * sigma / BOX) ** 2)
        assert abs(moment - expected) < 4 / math.sqrt(len(x_0))


def test_small_noise_has_the_variance_asked_for_across_the_boundary():
    torch.manual_seed(1)
    x_0 = torch.full((40_000, 3), 0.01)
    displacement = minimum_image(noise.add_noise(x_0, 0.2, torch.randn_like(x_0), BOX) - x_0, BOX)
    assert displacement.mean().abs() < 4 * 0.2 / math.sqrt(120_000)
    assert displacement.std() == pytest.approx(0.2, rel=0.01)


def test_a_batch_can_have_one_level_each_and_keeps_its_dtype():
    torch.manual_seed(2)
    x_0, eps = torch.rand(4, 5, 3) * BOX, torch.randn(4, 5, 3)
    sigma = noise.log_schedule(4)[1:].reshape(4, 1, 1)
    together = noise.add_noise(x_0, sigma, eps, BOX)
    assert together.dtype == torch.float32
    for system in range(4):
        alone = noise.add_noise(x_0[system], sigma[system].item(), eps[system], BOX)
        torch.testing.assert_close(together[system], alone)


def test_free_space_has_no_box():
    x_0, eps = torch.tensor([0.5, -3.0]), torch.tensor([-1.0, 2.0])
    torch.testing.assert_close(noise.add_noise(x_0, 2.0, eps, None), torch.tensor([-1.5, 1.0]))


# --- posterior ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha_prev", "alpha_t"), [(0.0, 1e-4), (0.2, 0.5), (3.9, 4.0)])
def test_posterior_is_the_joint_normal_of_the_two_levels_conditioned(alpha_prev, alpha_t):
    # x_{t-1} and x_t share the first increment: their covariance given x_0 is alpha_prev.
    covariance = np.array([[alpha_prev, alpha_prev], [alpha_prev, alpha_t]])
    x_0, x_t = 1.3, 2.1
    gain = covariance[0, 1] / covariance[1, 1]
    mean, sigma = noise.posterior(
        torch.tensor(x_t, dtype=torch.float64), (x_t - x_0) / alpha_t**0.5, alpha_t, alpha_prev
    )
    assert mean.item() == pytest.approx(x_0 + gain * (x_t - x_0), rel=1e-12)
    schur_complement = covariance[0, 0] - gain * covariance[1, 0]
    assert sigma.item() ** 2 == pytest.approx(schur_complement, rel=1e-9, abs=1e-15)


def test_a_posterior_step_from_one_level_gives_the_level_below():
    torch.manual_seed(3)
    n, alpha_prev, alpha_t = 200_000, 0.3, 0.7
    eps = torch.randn(n, dtype=torch.float64)
    x_t = alpha_t**0.5 * eps
    spread = {}
    for variance in ("exact", "paper"):
        mean, sigma = noise.posterior(x_t, eps, alpha_t, alpha_prev, variance=variance)
        spread[variance] = (mean + sigma * torch.randn_like(mean)).var().item()
    assert spread["exact"] == pytest.approx(alpha_prev, rel=0.02)
    missing = alpha_prev * (alpha_t - alpha_prev) / alpha_t / 2
    assert spread["paper"] == pytest.approx(alpha_prev - missing, rel=0.02)


def test_posterior_of_a_batch_broadcasts_and_keeps_its_dtype():
    torch.manual_seed(4)
    x_t, eps = torch.rand(3, 5, 3), torch.randn(3, 5, 3)
    alphas = (noise.log_schedule(3) ** 2)[:, None, None]
    mean, sigma = noise.posterior(x_t, eps, alphas[1:], alphas[:-1])
    assert mean.shape == x_t.shape and sigma.shape == (3, 1, 1)
    assert mean.dtype == sigma.dtype == torch.float32
    assert sigma[0] == 0 and (sigma[1:] > 0).all()
    torch.testing.assert_close(mean[0], x_t[0] - alphas[1].sqrt().item() * eps[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 2.0), "alpha_prev"),
        ((1.0, -0.1), "alpha_prev"),
        ((0.0, 0.0), "alpha_t"),
        ((math.nan, 0.0), "alpha_t"),
        ((1.0, 0.5, "papr"), "'exact', 'paper', got 'papr'"),
    ],
)
def test_posterior_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        noise.posterior(torch.zeros(3), torch.zeros(3), *arguments)


# --- wrapped normal ----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", SIGMAS)
def test_density_and_score_equal_brute_force_sums(sigma):
    reach = min(BOX / 2, 12 * sigma)  # farther out the density itself underflows
    displacement = np.linspace(-reach, reach, 401)
    ours = noise.wrapped_normal_log_density(torch.from_numpy(displacement), sigma, BOX).exp()
    expected = brute_force_density(displacement, sigma, BOX)
    np.testing.assert_allclose(ours, expected, rtol=2e-13)
    score = noise.wrapped_normal_score(torch.from_numpy(displacement), sigma, BOX)
    expected = brute_force_score(displacement, sigma, BOX)
    np.testing.assert_allclose(score, expected, rtol=1e-12, atol=1e-14 / sigma)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_is_the_gradient_of_the_log_density(sigma):
    displacement = torch.linspace(-12, 12, 101, dtype=torch.float64, requires_grad=True)
    log_density = noise.wrapped_normal_log_density(displacement, sigma, BOX)
    (gradient,) = torch.autograd.grad(log_density.sum(), displacement)
    score = noise.wrapped_normal_score(displacement.detach(), sigma, BOX)
    torch.testing.assert_close(score, gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_density_integrates_to_one(sigma):
    # On a ring the trapezoid rule converges exponentially for a smooth periodic function.
    n_points = 20_000
    displacement = torch.arange(n_points, dtype=torch.float64) * BOX / n_points
    density = noise.wrapped_normal_log_density(displacement, sigma, BOX).exp()
    assert density.mean().item() * BOX == pytest.approx(1, abs=1e-12)


def test_any_image_of_a_displacement_will_do():
    displacement = torch.linspace(-4.9, 4.9, 50, dtype=torch.float64)
    sigma = torch.tensor([0.3, 6.0], dtype=torch.float64)[:, None]
    for function in (noise.wrapped_normal_log_density, noise.wrapped_normal_score):
        torch.testing.assert_close(
            function(displacement + 3 * BOX, sigma, BOX), function(displacement, sigma, BOX)
        )


def test_mixed_levels_in_one_batch_equal_each_level_alone():
    displacement = torch.linspace(-5, 5, 64).reshape(4, 16, 1)
    sigma = torch.tensor([1e-3, 1.0, 4.5, 20.0])
    for function in (noise.wrapped_normal_log_density, noise.wrapped_eps):
        together = function(displacement, sigma.reshape(4, 1, 1), BOX)
        assert together.dtype == torch.float32 and torch.isfinite(together).all()
        for system in range(4):
            alone = function(displacement[system], sigma[system].item(), BOX)
            torch.testing.assert_close(together[system], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_sigma_stays_finite_with_its_gradient(dtype):
    displacement = torch.tensor([0.0, 1e-7, 0.3, 5.0], dtype=dtype, requires_grad=True)
    sigma = torch.tensor([1e-6, 1e-6, 1e-6, 1e-6], dtype=dtype, requires_grad=True)
    log_density = noise.wrapped_normal_log_density(displacement, sigma, BOX)
    score = noise.wrapped_normal_score(displacement, sigma, BOX)
    (log_density + score).sum().backward()
    for value in (log_density, score, displacement.grad, sigma.grad):
        assert torch.isfinite(value).all()
    torch.testing.assert_close(score[1], -displacement[1] / sigma[1] ** 2)


def test_free_space_gives_the_plain_normal():
    displacement = torch.linspace(-20, 20, 11, dtype=torch.float64)
    plain = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 3.0)
    torch.testing.assert_close(
        noise.wrapped_normal_log_density(displacement, 3.0, None), plain.log_prob(displacement)
    )
    torch.testing.assert_close(
        noise.wrapped_normal_score(displacement, 3.0, None), -displacement / 9
    )


@pytest.mark.parametrize("sigma", [0.5, 2.5, 5.0])
def test_wrapped_eps_is_the_conditional_mean_of_the_drawn_noise(sigma):
    torch.manual_seed(5)
    eps = torch.randn(400_000, dtype=torch.float64)
    displacement = minimum_image(sigma * eps, BOX)
    mean_eps = noise.wrapped_eps(displacement, sigma, BOX)
    residual = eps - mean_eps
    # A conditional mean leaves a residual uncorrelated with every function of the displacement.
    wave = 2 * math.pi * displacement / BOX
    for test_function in (torch.sin(wave), torch.sin(2 * wave), displacement, mean_eps):
        product = residual * test_function
        assert product.mean().abs() <= 4.5 * product.std() / math.sqrt(len(eps))
    assert mean_eps.var() <= eps.var()


def test_wrapped_eps_is_eps_at_small_noise_and_nothing_at_large():
    eps = torch.linspace(-3, 3, 31, dtype=torch.float64)
    torch.testing.assert_close(noise.wrapped_eps(0.1 * eps, 0.1, BOX), eps)
    assert noise.wrapped_eps(eps, BOX, BOX).abs().max() < 1e-7


@pytest.mark.parametrize("sigma", SIGMAS)
def test_uniformity_gap_is_the_largest_deviation(sigma):
    displacement = torch.linspace(-BOX / 2, BOX / 2, 1001, dtype=torch.float64)
    density = noise.wrapped_normal_log_density(displacement, sigma, BOX).exp()
    largest = (BOX * density - 1).abs().max().item()
    gap = noise.uniformity_gap(sigma, BOX).item()
    assert gap == pytest.approx(largest, rel=1e-12, abs=1e-15)
    n = np.arange(1, 10_000)
    series = 2 * np.exp(-2 * (np.pi * n * sigma / BOX) ** 2).sum()
    assert gap == pytest.approx(series, rel=1e-11)


def test_the_wrapped_normal_is_not_uniform_at_sigma_equal_to_the_box():
    gap = noise.uniformity_gap(torch.tensor([BOX / 2, BOX], dtype=torch.float64), BOX)
    assert gap[0].item() == pytest.approx(1.4e-2, rel=0.03)
    assert gap[1].item() == pytest.approx(5.35e-9, rel=1e-3)


@pytest.mark.parametrize(
    "function",
    [noise.wrapped_normal_log_density, noise.wrapped_normal_score, noise.wrapped_eps],
)
def test_wrapped_normal_refuses_level_zero(function):
    with pytest.raises(ValueError, match="sigma must be numbers above 0, got 0"):
        function(torch.zeros(3), noise.log_schedule(5)[:, None], BOX)
