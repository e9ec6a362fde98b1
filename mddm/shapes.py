"""Clouds of points on a sphere and a torus, which a diffusion model should learn to draw."""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from mddm import arguments, optional

SURFACES = ("sphere", "torus")
# Of the torus [length]; the sphere has radius 1.
MAJOR_RADIUS, MINOR_RADIUS = 1.0, 0.4

# The Sinkhorn loss resolves `SINKHORN_BLUR` [length] and gets there from the size of the clouds in
# steps of the factor `SINKHORN_SCALING`.  Scores come out a few per cent low, all alike; 0.99 would
# mend that at ten times the price, and geomloss's own 0.5 is low by a third.
SINKHORN_BLUR = 0.05
SINKHORN_SCALING = 0.9

# Terms that the mean on a torus may sum over at once, a few numbers of 8 bytes each.
_MOST_NODES = 2**28


@dataclass(frozen=True)
class Surface:
    """A source of fresh points on a surface around the origin, uniform in area.

    Args:
        name: "sphere" for the unit sphere, "torus" for a torus about the z axis with major
            radius 1 and minor radius 0.4.
        n_points: points in a cloud, at least 1.

    Raises:
        ValueError: an unknown surface, or no points.

    Source: MDDM appendix B, which leaves the radii of its torus open.
    """

    name: str
    n_points: int

    box_length = potential = None
    ranges = MappingProxyType({})

    def __post_init__(self):
        arguments.choice("name", self.name, SURFACES)
        n_points = arguments.whole("n_points", self.n_points, at_least=1)
        object.__setattr__(self, "n_points", n_points)

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, None]:
        """Draw clouds of fresh points.

        Args:
            batch_size: number of clouds.
            generator: source of randomness; its device is where the points are made.

        Returns:
            (batch_size, n_points, 3) points [length], and None, for there is no condition.

        Raises:
            TypeError: no generator, or no number of clouds.
            ValueError: fewer than one cloud.
        """
        generator = arguments.generator(generator)
        shape = (arguments.whole("batch_size", batch_size, at_least=1), self.n_points)
        on = {"generator": generator, "device": generator.device}
        if self.name == "sphere":
            # In double precision, so that rounding leaves no point off the surface.
            normal = torch.randn(*shape, 3, dtype=torch.float64, **on)
            return (normal / normal.norm(dim=-1, keepdim=True)).float(), None
        around, along, coin = torch.rand(3, *shape, dtype=torch.float64, **on)
        longitude, latitude = 2 * math.pi * around, 2 * math.pi * along
        # The outer half of the tube has more area than the inner one, as 1 + (r / R) cos.  An
        # angle that a rejection step would throw away stands for its opposite, which then is
        # exactly as likely as it has to be: no angle is wasted, and none needs a second try.
        share = (1 + MINOR_RADIUS / MAJOR_RADIUS * torch.cos(latitude)) / 2
        latitude = torch.where(coin < share, latitude, latitude + math.pi)
        from_axis = MAJOR_RADIUS + MINOR_RADIUS * torch.cos(latitude)
        x, y = from_axis * torch.cos(longitude), from_axis * torch.sin(longitude)
        return torch.stack([x, y, MINOR_RADIUS * torch.sin(latitude)], dim=-1).float(), None

    def distance(self, points: Tensor) -> Tensor:
        """Give the distance of points from the surface, inside or outside.

        Args:
            points: (..., 3) [length].

        Returns:
            (...) distances [length], zero on the surface.

        Raises:
            TypeError, ValueError: points of another shape, or not finite.
        """
        points = arguments.tensor("points", points, (..., 3))
        if self.name == "sphere":
            return (points.norm(dim=-1) - 1).abs()
        from_circle = torch.hypot(points[..., :2].norm(dim=-1) - MAJOR_RADIUS, points[..., 2])
        return (from_circle - MINOR_RADIUS).abs()

    def ideal_denoiser(
        self,
        x_t: Tensor,
        sigma: Tensor,
        condition: Tensor | None = None,
        box_length: float | None = None,
    ) -> Tensor:
        """Give the mean of the noise in noised points, which no network can estimate better.

        It knows the surface, and points that are drawn independently tell nothing about each
        other; what remains of the loss is what the noise itself has hidden.

        Args:
            x_t: (batch, n_points, 3) noised points [length].
            sigma: (batch,) noise scales [length], positive.
            condition, box_length: None; there so that it can stand in for a network.

        Returns:
            (batch, n_points, 3), E[eps | x_t], so that x_t - sigma E[eps] is the mean of x_0.

        Raises:
            TypeError: no real numbers.
            ValueError: points or noise scales of another shape, not finite, or no noise.
        """
        x_t = arguments.positions(x_t, name="x_t")
        noise = arguments.sigma(sigma, (len(x_t),)).to(x_t.device).double()[:, None, None]
        x = x_t.double()
        mean = (_sphere_mean if self.name == "sphere" else _torus_mean)(x, noise)
        return ((x - mean) / noise).to(x_t)


def _sphere_mean(x: Tensor, noise: Tensor) -> Tensor:
    # A von Mises-Fisher distribution of directions, of mean length coth(c) - 1 / c.
    concentration = x.norm(dim=-1, keepdim=True) / noise**2
    c = concentration.clamp(min=1e-3)
    return x / noise**2 * (1 / c.tanh() - 1 / c) / c


def _torus_mean(x: Tensor, noise: Tensor) -> Tensor:
    # The integral over the longitude is a Bessel function; the one around the tube is a sum, whose
    # nodes stand half a noise scale apart: on a circle that is exact to rounding.
    n_nodes = max(64, math.ceil(4 * math.pi * MINOR_RADIUS / noise.min().item()))
    if n_nodes * x[..., 0].numel() > _MOST_NODES:
        raise ValueError(
            f"sigma must be larger for so many points: {noise.min().item():.2g} asks for "
            f"{n_nodes:,} nodes around the tube for each"
        )
    latitude = 2 * math.pi / n_nodes * torch.arange(n_nodes).to(x)
    from_axis = MAJOR_RADIUS + MINOR_RADIUS * torch.cos(latitude)
    height = MINOR_RADIUS * torch.sin(latitude)
    radius = x[..., :2].norm(dim=-1, keepdim=True)
    concentration = from_axis * radius / noise**2
    bessel_0 = torch.special.i0e(concentration)
    distance2 = (from_axis - radius) ** 2 + (height - x[..., 2:]) ** 2
    weight = (from_axis.log() + bessel_0.log() - distance2 / (2 * noise**2)).softmax(dim=-1)
    toward = weight * from_axis * torch.special.i1e(concentration) / bessel_0
    outward = x[..., :2] / radius.clamp(min=1e-12)
    in_plane = outward * toward.sum(dim=-1, keepdim=True)
    return torch.cat([in_plane, (weight * height).sum(dim=-1, keepdim=True)], dim=-1)


def normal_cloud(clouds: Tensor, generator: torch.Generator) -> Tensor:
    """Draw what has the extent of a surface along each axis, and nothing of its shape.

    Args:
        clouds: (..., n_points, 3) true clouds [length].
        generator: source of randomness, on their device.

    Returns:
        As many points from a normal distribution with the clouds' variances.

    Raises:
        TypeError, ValueError: clouds of another shape or not finite, or no generator.
    """
    clouds = arguments.tensor("clouds", clouds, (..., "n_points", 3))
    if clouds[..., 0].numel() < 2:
        raise ValueError("clouds must have two points at least: one alone has no variance")
    generator = arguments.generator(generator)
    spread = clouds.flatten(0, -2).std(dim=0)
    return spread * torch.randn(clouds.shape, generator=generator, device=clouds.device)


def sinkhorn_loss(points: Tensor, reference: Tensor) -> Tensor:
    """Score how well one cloud matches another by the debiased Sinkhorn divergence.

    Its cost is half the squared distance, so that clouds which differ by a shift d score
    d^2 / 2.  Two samples of one surface do not score zero, but the less the more points they
    have: a score means something beside that of another true sample.

    Args:
        points: (n_points, 3) or (batch, n_points, 3) [length].
        reference: (n_reference, 3), or (batch, n_reference, 3) if `points` is a batch [length].

    Returns:
        One loss, or (batch,) losses [length^2].

    Raises:
        TypeError: no real numbers.
        ValueError: clouds of another shape, empty or not finite.

    Source: MDDM appendix B; Feydy et al. 2019, eq. 3.  MDDM states neither the cost nor the blur.
    """
    shapes = ("n_points", 3), ("batch", "n_points", 3)
    points = arguments.tensor("points", points, *shapes)
    reference = arguments.tensor("reference", reference, *shapes, dtype=points.dtype)
    if points.shape[:-2] != reference.shape[:-2]:
        raise ValueError(
            "points and reference must be two clouds or two batches of one size, got shapes "
            f"{tuple(points.shape)} and {tuple(reference.shape)}"
        )
    with optional.packages():
        from geomloss import SamplesLoss

    # As geomloss has it, but for points that all coincide, whose extent of 0 has no logarithm.
    all_points = torch.cat([points.flatten(0, -2), reference.flatten(0, -2)]).detach()
    extent = (all_points.amax(dim=0) - all_points.amin(dim=0)).norm().item()
    loss = SamplesLoss(
        "sinkhorn",
        p=2,
        blur=SINKHORN_BLUR,
        diameter=max(extent, SINKHORN_BLUR),
        scaling=SINKHORN_SCALING,
        backend="tensorized",
    )
    return loss(points.contiguous(), reference.contiguous())
