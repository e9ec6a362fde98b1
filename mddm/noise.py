"""Noise on a torus: schedules, the forward process, its posterior, the wrapped normal.

A schedule is the plain tensor of its noise levels: `sigmas[t]` is the standard deviation
[length] after t steps, `sigmas[0] = 0` is the data, and `sigmas**2` are the variances alpha_t of
the paper.  Algorithm 1 picks a level, `sigmas[torch.randint(1, len(sigmas), (batch,))]`;
algorithm 2 walks down `zip(sigmas[1:], sigmas[:-1])`.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from mddm import arguments
from mddm.condition import SIGMA_MAX, SIGMA_MIN
from mddm.geometry import minimum_image, wrap

# Where image sum and Fourier sum converge equally fast (the self-dual point of the theta
# function).  On its own side of it, each needs three terms for all digits of a float64.
_SELF_DUAL = 1 / math.sqrt(2 * math.pi)
_N_TERMS = 3
# Of the reverse process: the one that follows from the forward process, and half of it.
VARIANCES = ("exact", "paper")


class Denoiser(Protocol):
    """A network, or any function like one."""

    def __call__(
        self, x_t: Tensor, sigma: Tensor, condition: Tensor | None, box_length: float | None
    ) -> Tensor:
        """Estimate eps, (batch, n_particles, 3), from x_t of that shape and sigma, (batch,)."""


def estimate(
    denoiser: Denoiser,
    x_t: Tensor,
    sigma: Tensor,
    condition: Tensor | None,
    box_length: float | None,
) -> Tensor:
    """Call a denoiser, and refuse what is no estimate of the noise.

    Args:
        denoiser: a network, or any function like one.
        x_t: (batch, n_particles, 3) noised positions [length].
        sigma: (batch,) noise levels [length].
        condition: (batch, 3), k, phi and temperature; None for a model of one structure.
        box_length: edge of the periodic cube [length], or None for free space.

    Returns:
        (batch, n_particles, 3), the estimate of eps.

    Raises:
        ValueError: the denoiser returns something else.
    """
    eps = denoiser(x_t, sigma, condition, box_length)
    if not (isinstance(eps, Tensor) and eps.shape == x_t.shape):
        found = tuple(eps.shape) if isinstance(eps, Tensor) else type(eps).__name__
        raise ValueError(
            f"denoiser must return a tensor of the shape of x_t, {tuple(x_t.shape)}, got {found}"
        )
    return eps


def log_schedule(
    n_levels: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX
) -> Tensor:
    """Space the noise levels evenly in log sigma: every scale gets the same number of steps.

    Args:
        n_levels: number of noise levels above zero, at least 2.
        sigma_min: the level of step 1 [length].
        sigma_max: the last level [length]; half a box edge is uniform to 1.4 %.

    Returns:
        (n_levels + 1,) float64 levels [length], increasing, the first one zero.

    Raises:
        ValueError: too few steps, or not 0 < sigma_min < sigma_max.
    """
    u, sigma_min, sigma_max = _from_zero_to_one(n_levels, sigma_min, sigma_max)
    log_ratio = math.log(sigma_max / sigma_min)
    return _with_ends(sigma_min * torch.exp(log_ratio * u), sigma_min, sigma_max)


def power_schedule(
    n_levels: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = 7.0
) -> Tensor:
    """Space the noise levels evenly in sigma^(1 / rho).

    `rho` = 7 is the usual compromise, 1 is linear in sigma, 1/2 linear in the variance, and the
    limit of large `rho` is `log_schedule`.

    Args:
        n_levels, sigma_min, sigma_max: those of `log_schedule`.
        rho: positive; the larger, the more levels lie near `sigma_min`.

    Returns:
        (n_levels + 1,) float64 levels [length], increasing, the first one zero.

    Raises:
        ValueError: too few steps, not 0 < sigma_min < sigma_max, or `rho` not positive.

    Source: Karras et al. 2022 (EDM), eq. 5.
    """
    rho = arguments.number("rho", rho, above=0)
    u, sigma_min, sigma_max = _from_zero_to_one(n_levels, sigma_min, sigma_max)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _with_ends((low + u * (high - low)) ** rho, sigma_min, sigma_max)


def linear_variance_schedule(
    n_levels: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX
) -> Tensor:
    """Space the noise levels evenly in the variance, the plain reading of MDDM.

    Its second level lies at about sigma_max / sqrt(n_levels), which for a box of ten particle
    spacings and hundreds of steps is half a spacing: where structure forms there are no steps.

    Args, Returns, Raises: those of `log_schedule`.

    Source: MDDM section 4.3, which leaves alpha_t open.
    """
    return power_schedule(n_levels, sigma_min, sigma_max, rho=0.5)


def log_normal_schedule(
    n_levels: int,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    center: float = 0.1,
    width: float = 1.3,
) -> Tensor:
    """Space the noise levels like the quantiles of a normal distribution of log sigma.

    Most steps go to the levels around `center`, where structure forms, and few to both ends,
    where there is little to know.

    Args:
        n_levels, sigma_min, sigma_max: those of `log_schedule`.
        center: where the levels are densest [length].
        width: standard deviation of log sigma; the larger, the nearer to `log_schedule`.

    Returns:
        (n_levels + 1,) float64 levels [length], increasing, the first one zero.

    Raises:
        ValueError: too few steps, not 0 < sigma_min < sigma_max, or a center or width that is
            not positive.

    Source: Karras et al. 2022 (EDM), table 1, the noise levels that are trained on.
    """
    center = arguments.number("center", center, above=0)
    width = arguments.number("width", width, above=0)
    u, sigma_min, sigma_max = _from_zero_to_one(n_levels, sigma_min, sigma_max)
    ends = torch.tensor([sigma_min, sigma_max], dtype=torch.float64)
    low, high = torch.special.ndtr((ends / center).log() / width)
    quantiles = torch.special.ndtri(low + u * (high - low))
    return _with_ends(center * torch.exp(width * quantiles), sigma_min, sigma_max)


SCHEDULES = {
    "log": log_schedule,
    "log_normal": log_normal_schedule,
    "power": power_schedule,
    "linear_variance": linear_variance_schedule,
}


def make_schedule(
    name: str, n_levels: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX
) -> Tensor:
    """Build the noise levels of the schedule with this name.

    Args:
        name: a key of `SCHEDULES`.
        n_levels, sigma_min, sigma_max: those of `log_schedule`.

    Returns:
        (n_levels + 1,) float64 levels [length], increasing, the first one zero.

    Raises:
        ValueError: an unknown name, too few steps, or not 0 < sigma_min < sigma_max.
    """
    return SCHEDULES[arguments.choice("name of a schedule", name, SCHEDULES)](
        n_levels, sigma_min, sigma_max
    )


def _from_zero_to_one(n_levels, sigma_min, sigma_max) -> tuple[Tensor, float, float]:
    n_levels = arguments.whole("n_levels", n_levels, at_least=2)
    sigma_min = arguments.number("sigma_min", sigma_min)
    sigma_max = arguments.number("sigma_max", sigma_max)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            "noise levels must satisfy 0 < sigma_min < sigma_max, got "
            f"sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
    return torch.linspace(0, 1, n_levels, dtype=torch.float64), sigma_min, sigma_max


def _with_ends(levels: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    levels[0], levels[-1] = sigma_min, sigma_max  # free of rounding
    return torch.cat([torch.zeros(1, dtype=torch.float64), levels])


def add_noise(x_0: Tensor, sigma: Tensor | float, eps: Tensor, box_length: float | None) -> Tensor:
    """Run the forward process up to the noise level sigma, x_t = wrap(x_0 + sigma eps).

    Args:
        x_0: clean positions, any shape [length].
        sigma: noise level [length], broadcast against `x_0`: (batch, 1, 1) for a batch.
        eps: unit normal noise, the shape of `x_0`.
        box_length: edge of the periodic cube [length], or None for free space.

    Returns:
        Noised positions in [0, box_length), with the shape, dtype and device of `x_0`.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.

    Source: MDDM eq. 3 and algorithm 1, line 5.
    """
    x_0 = arguments.tensor("x_0", x_0)
    eps = arguments.tensor("eps", eps, tuple(x_0.shape))
    sigma = arguments.tensor("sigma", sigma, dtype=torch.float64, at_least=0)
    arguments.broadcast(x_0=x_0, sigma=sigma)
    return wrap(x_0 + sigma.to(x_0) * eps, box_length)


def posterior(
    x_t: Tensor,
    eps: Tensor,
    alpha_t: Tensor | float,
    alpha_prev: Tensor | float,
    variance: str = "exact",
) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation of x_{t-1}, once x_t and its noise are known.

    The next positions are `wrap(mean + sigma * z, box_length)`.  At the last step, where
    `alpha_prev` is zero, `sigma` is zero and the mean is the estimate of x_0.

    Args:
        x_t: noised positions, any shape [length].
        eps: the noise in them, the denoiser's output, in units of sqrt(alpha_t).
        alpha_t: variance at step t [length^2], positive, broadcast against `x_t`.
        alpha_prev: variance at step t - 1 [length^2], from 0 to `alpha_t`.
        variance: "exact" for the variance that follows from the forward process; "paper" for
            half of it, as MDDM prints it.

    Returns:
        mean: the shape of `x_t` [length], not wrapped.
        sigma: standard deviation [length], with the broadcast shape of the variances.

    Raises:
        TypeError, ValueError: an unknown `variance`, variances out of order, or an argument of
            another kind or shape.

    Source: MDDM eqs. 7 and 8; algorithm 2, lines 4 and 5.
    """
    arguments.choice("variance", variance, VARIANCES)
    x_t, eps = arguments.tensor("x_t", x_t), arguments.tensor("eps", eps)
    alpha_t = arguments.tensor("alpha_t", alpha_t, dtype=torch.float64)
    alpha_prev = arguments.tensor("alpha_prev", alpha_prev, dtype=torch.float64)
    arguments.broadcast(x_t=x_t, eps=eps, alpha_t=alpha_t, alpha_prev=alpha_prev)
    if not ((alpha_t > 0) & (alpha_prev >= 0) & (alpha_prev <= alpha_t)).all():
        raise ValueError(
            "variances must satisfy 0 <= alpha_prev <= alpha_t and alpha_t > 0, got "
            f"alpha_prev={alpha_prev.tolist()}, alpha_t={alpha_t.tolist()}"
        )
    # Eq. 8
    step = (alpha_prev / alpha_t - 1) * alpha_t.sqrt()
    # Eq. 7, whose Gaussian exponents lack their 1/2
    sigma2 = alpha_prev * (alpha_t - alpha_prev) / alpha_t
    if variance == "paper":
        sigma2 = sigma2 / 2
    return x_t + step.to(x_t) * eps, sigma2.sqrt().to(x_t)


def wrapped_normal_log_density(
    displacement: Tensor, sigma: Tensor | float, box_length: float | None
) -> Tensor:
    """Give log p of a normal step wrapped onto a ring, component by component.

    Args:
        displacement: x_t - x_0 along each axis, any image, any shape [length].
        sigma: standard deviation before wrapping [length], positive, broadcast against
            `displacement`.
        box_length: circumference of the ring [length]; None gives the plain normal density.

    Returns:
        log p for each component [log(1 / length)]; sum over particles and axes for a
        configuration.

    Raises:
        TypeError, ValueError: sigma is not positive, or an argument is of another kind or shape.

    Source: MDDM appendix C.1, without its claim that the result is uniform.
    """
    displacement, sigma, box_length = _one_step(displacement, sigma, box_length)
    if box_length is None:
        return _normal_log_density(displacement, sigma)
    narrow = sigma <= _SELF_DUAL * box_length
    small, large = _one_branch_each(sigma, box_length)
    images, _ = _image_log_weights(displacement, small, box_length)
    by_images = _normal_log_density(displacement, small) + torch.logsumexp(images, dim=0)
    excess, _ = _fourier_sums(displacement, large, box_length)
    return torch.where(narrow, by_images, torch.log1p(excess) - math.log(box_length))


def wrapped_eps(displacement: Tensor, sigma: Tensor | float, box_length: float | None) -> Tensor:
    """Give the mean of the noise eps that can have led from x_0 to the wrapped x_t.

    After wrapping, x_t no longer tells through how many boxes a particle went, so the eps that
    was drawn is not determined by what a denoiser can see.  Its mean over all windings has the
    same regression minimum and a smaller variance: it equals eps as long as sigma is well below
    box_length, and fades to zero where the noise has become uniform.

    Args:
        displacement: x_t - x_0 along each axis, any image, any shape [length].
        sigma: standard deviation before wrapping [length], positive, broadcast against
            `displacement`.
        box_length: edge of the periodic cube [length]; None gives displacement / sigma.

    Returns:
        E[eps | displacement] = -sigma * score, the shape of `displacement`.

    Raises:
        TypeError, ValueError: sigma is not positive, or an argument is of another kind or shape.

    Source: Jing et al. 2022 (torsional diffusion), the score of a wrapped normal.
    """
    displacement, sigma, box_length = _one_step(displacement, sigma, box_length)
    if box_length is None:
        return displacement / sigma
    narrow = sigma <= _SELF_DUAL * box_length
    small, large = _one_branch_each(sigma, box_length)
    images, windings = _image_log_weights(displacement, small, box_length)
    mean_winding = (images.softmax(dim=0) * windings).sum(dim=0)
    by_images = (displacement + box_length * mean_winding) / small
    excess, slope = _fourier_sums(displacement, large, box_length)
    return torch.where(narrow, by_images, -large * slope / (1 + excess))


def wrapped_normal_score(
    displacement: Tensor, sigma: Tensor | float, box_length: float | None
) -> Tensor:
    """Give the score of a wrapped normal, the derivative of its log density.

    Args:
        displacement: x_t - x_0 along each axis, any image, any shape [length].
        sigma: standard deviation before wrapping [length], positive, broadcast against
            `displacement`.
        box_length: circumference of the ring [length]; None gives the plain normal score.

    Returns:
        d log p / d displacement [1 / length], the shape of `displacement`.

    Raises:
        TypeError, ValueError: sigma is not positive, or an argument is of another kind or shape.

    Source: Jing et al. 2022 (torsional diffusion).
    """
    displacement, sigma, box_length = _one_step(displacement, sigma, box_length)
    return -wrapped_eps(displacement, sigma, box_length) / sigma


def uniformity_gap(sigma: Tensor | float, box_length: float) -> Tensor:
    """Give the largest relative deviation of a wrapped normal from the uniform density.

    The deviation is 2 sum_n exp(-2 pi^2 n^2 sigma^2 / box_length^2) cos(2 pi n x / box_length),
    so it is largest where every cosine is 1, at the displacement x = 0.

    Args:
        sigma: standard deviation before wrapping [length], positive, any shape.
        box_length: circumference of the ring [length].

    Returns:
        max |box_length p - 1|, float64, the shape of `sigma`.

    Raises:
        TypeError, ValueError: sigma is not positive, or an argument is of another kind or shape.
    """
    sigma, box_length = arguments.sigma(sigma).double(), arguments.box(box_length)
    at_zero = torch.zeros_like(sigma)
    large = _one_branch_each(sigma, box_length)[1]
    excess, _ = _fourier_sums(at_zero, large, box_length)
    by_images = box_length * wrapped_normal_log_density(at_zero, sigma, box_length).exp() - 1
    return torch.where(sigma <= _SELF_DUAL * box_length, by_images, excess)


def _one_step(displacement, sigma, box_length) -> tuple[Tensor, Tensor, float | None]:
    displacement = arguments.tensor("displacement", displacement)
    sigma, box_length = arguments.sigma(sigma), arguments.box(box_length, free=True)
    arguments.broadcast(displacement=displacement, sigma=sigma)
    return minimum_image(displacement, box_length), sigma.to(displacement), box_length


def _normal_log_density(displacement: Tensor, sigma: Tensor) -> Tensor:
    return -((displacement / sigma).square()) / 2 - torch.log(sigma) - math.log(2 * math.pi) / 2


def _one_branch_each(sigma: Tensor, box_length: float) -> tuple[Tensor, Tensor]:
    # Both sums are evaluated for every element and one is kept: clamping the other one's sigma
    # keeps its value and its gradient finite.
    return sigma.clamp(max=_SELF_DUAL * box_length), sigma.clamp(min=_SELF_DUAL * box_length)


def _image_log_weights(
    displacement: Tensor, sigma: Tensor, box_length: float
) -> tuple[Tensor, Tensor]:
    # Relative to the nearest image, whose weight is one: no overflow however small sigma is.
    windings = torch.arange(-_N_TERMS, _N_TERMS + 1).to(displacement)
    windings = windings.reshape(-1, *[1] * torch.broadcast_tensors(displacement, sigma)[0].ndim)
    shift = windings * box_length
    return -(shift / sigma) * ((2 * displacement + shift) / sigma) / 2, windings


def _fourier_sums(displacement: Tensor, sigma: Tensor, box_length: float) -> tuple[Tensor, Tensor]:
    excess, slope = 0.0, 0.0
    for n in range(1, _N_TERMS + 1):
        wave_number = 2 * math.pi * n / box_length
        amplitude = 2 * torch.exp(-((wave_number * sigma).square()) / 2)
        excess = excess + amplitude * torch.cos(wave_number * displacement)
        slope = slope - amplitude * wave_number * torch.sin(wave_number * displacement)
    return excess, slope
