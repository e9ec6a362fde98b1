"""Clouds of points on a sphere and a torus, where the right answer of a diffusion model is known."""

import difflib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

SURFACES = ("sphere", "torus")
# Of the torus [length]; the sphere has radius 1.
MAJOR_RADIUS, MINOR_RADIUS = 1.0, 0.4

# The Sinkhorn loss measures with half the squared distance, resolves `SINKHORN_BLUR` [length] and
# gets there from the size of the clouds in steps of the factor `SINKHORN_SCALING`.
SINKHORN_BLUR = 0.05
SINKHORN_SCALING = 0.9


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

    box_length = None

    def __post_init__(self):
        if self.name not in SURFACES:
            close = difflib.get_close_matches(str(self.name), SURFACES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"surface must be one of {', '.join(SURFACES)}, got {self.name!r}{hint}"
            )
        if self.n_points < 1 or self.n_points != int(self.n_points):
            raise ValueError(
                f"n_points must be a whole number of at least 1, got {self.n_points}"
            )

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, None]:
        """Draw clouds of fresh points.

        Args:
            batch_size: number of clouds.
            generator: source of randomness; its device is where the points are made.

        Returns:
            (batch_size, n_points, 3) points [length], and None, for there is no condition.
        """
        shape, on = (batch_size, self.n_points), {"generator": generator, "device": generator.device}
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
        """
        if self.name == "sphere":
            return (points.norm(dim=-1) - 1).abs()
        from_circle = torch.hypot(points[..., :2].norm(dim=-1) - MAJOR_RADIUS, points[..., 2])
        return (from_circle - MINOR_RADIUS).abs()


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
        ValueError: clouds of another shape, empty or not finite.

    Source: MDDM appendix B; Feydy et al. 2019, eq. 3.  MDDM states neither the cost nor the blur.
    """
    for name, cloud in (("points", points), ("reference", reference)):
        if cloud.ndim not in (2, 3) or cloud.shape[-1] != 3 or 0 in cloud.shape:
            raise ValueError(
                f"{name} must have the shape (n, 3) or (batch, n, 3), got {tuple(cloud.shape)}"
            )
        if not torch.isfinite(cloud).all():
            raise ValueError(f"{name} must be finite; some coordinates are nan or infinite")
    if points.shape[:-2] != reference.shape[:-2]:
        raise ValueError(
            "points and reference must be two clouds or two batches of one size, got shapes "
            f"{tuple(points.shape)} and {tuple(reference.shape)}"
        )
    from geomloss import SamplesLoss

    loss = SamplesLoss(
        "sinkhorn", p=2, blur=SINKHORN_BLUR, scaling=SINKHORN_SCALING, backend="tensorized"
    )
    return loss(points.contiguous(), reference.contiguous())
