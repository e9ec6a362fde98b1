"""A pair potential as the condition of a network: what is made of U(r) for edges, waves and all.

A condition is a table: the temperature and what is asked for, and then U and -dU/dr at fixed
distances, in units of the potential's own scale, so that any potential will do and the unit of
energy makes no difference.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mddm import arguments
from mddm.condition import SIGMA_MAX, SIGMA_MIN, Conditioning
from mddm.potential import Smoothed, energy_scale

# Distances at which a potential is tabulated: every 0.02 up to the study's cut-off [length].
_R = torch.arange(1, 151, dtype=torch.float64) / 50
# Numbers of a condition: temperature, steps, what, energies, forces.
SIZE = 3 + 2 * len(_R)
# What can be asked for: what MD comes to from a random start, or the crystal that it may miss.
ANSWERS = ("anneal", "stable")
# MD steps of an anneal that says nothing else, and the shortest and longest that are known.
N_STEPS, _STEPS = 300_000, (3_000, 500_000)
# Temperatures of the study, in units of `potential.energy_scale`.
SCALED_TEMPERATURES = (0.005, 0.1)
# Scales at which edges are told energies and forces; caps of the energies that waves are told.
ENERGIES, FORCES, CAPS = (0.15, 0.6, 2.4), (1.0, 4.0, 16.0), (1.0, 4.0)
# What is told of an edge is no sharper than this, even without noise [length].
SHARPEST = 0.03
# Periods of the waves that a jitter adds to a potential, and how many of them [length].
_PERIODS, _N_WAVES = (0.4, 2.0), 6
# Every so many distances the whole is told, from this one on [length].
_EVERY, _FIRST = 4, 0.86


def encode(
    potential: Smoothed, temperature: float, n_steps: int = N_STEPS, what: str = ANSWERS[0]
) -> Tensor:
    """Make of a potential and a temperature the condition that `PotentialConditioning` takes.

    Args:
        potential: of one system; beyond r = 3 it must have ended.
        temperature: [energy].
        n_steps: MD steps of the anneal that is asked for; slow ones find crystals.
        what: one of `ANSWERS`; of a stable crystal steps say nothing.

    Returns:
        (303,) float32: the temperature, the logarithm of the steps from -1 to 1, 0 or 1 for what
        is asked for, U and -dU/dr at 150 distances.  Energies are in units of
        `potential.energy_scale`.

    Raises:
        TypeError, ValueError: no smoothed potential, one that reaches too far or does not vary at
            all, a temperature or steps that are not positive, or an unknown answer.
    """
    stable = arguments.choice("what", what, ANSWERS) == "stable"
    n_steps = arguments.whole("n_steps", n_steps, at_least=1)
    arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
    temperature = arguments.number("temperature", temperature, above=0)
    if potential.r_cut > _R[-1]:
        raise ValueError(
            f"potential must end at {_R[-1]:g}, as those of training do, and ends at "
            f"{potential.r_cut:g}; smooth it with r_cut={_R[-1]:g}"
        )
    scale = energy_scale(potential)
    if scale == 0:
        raise ValueError("potential must vary with the distance")
    # A force is a step where a table ends, and zero beyond.
    inside = _R <= potential.r_cut
    told = [each(_R).where(inside, 0) / scale for each in (potential.energy, potential.force)]
    low, high = (math.log(end) for end in _STEPS)
    pace = 0.0 if stable else 2 * (math.log(n_steps) - low) / (high - low) - 1
    numbers = torch.tensor([temperature / scale, pace, float(stable)], dtype=torch.float64)
    return torch.cat([numbers, *told]).float()


class PotentialConditioning(Conditioning):
    """What `condition.Conditioning` is for numbers, for a potential and a temperature.

    Args:
        ranges: the range of "temperature", in units of `potential.energy_scale`.
        sigma_min, sigma_max: noise levels [length] where the diffusion fraction is 0 and 1.
        n_levels: Gaussians that `spread` turns the diffusion fraction into.

    Attributes:
        n_globals: numbers that it makes of condition and noise level: the logarithm of the
            temperature, steps and what is asked for, U at a few distances, the diffusion fraction.
        n_features: numbers that `spread` makes of those.
        n_edge, n_wave: numbers that it tells of every edge and wave.

    Raises:
        TypeError, ValueError: other ranges, not 0 < sigma_min < sigma_max, or fewer than two
            Gaussians.
    """

    n_edge, n_wave = len(ENERGIES) + len(FORCES), len(CAPS)

    def __init__(
        self,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        sigma_min: float = SIGMA_MIN,
        sigma_max: float = SIGMA_MAX,
        n_levels: int = 8,
    ):
        told = {"temperature": SCALED_TEMPERATURES} if ranges is None else ranges
        super().__init__(told, sigma_min, sigma_max, n_levels)
        if set(self.ranges) != {"temperature"} or self.ranges["temperature"][0] <= 0:
            raise ValueError(
                f"ranges must be that of a temperature above 0 beside a potential, got {ranges!r}"
            )
        self.register_buffer("r", _R.float(), persistent=False)
        # A number, for which a GPU need not be waited for.
        self.step = self.r[0].item()
        first = int((_R >= _FIRST).nonzero()[0])
        self.whole = slice(first, None, _EVERY)
        self.n_globals = 4 + len(_R[self.whole])
        self.n_features = self.n_globals - 1 + n_levels

    def forward(self, condition: Tensor | None, sigma: Tensor) -> Tensor:
        """Put together what is told about the whole system.

        Args:
            condition: (batch, 303), each as `encode` makes it.
            sigma: (batch,) noise levels [length], positive.

        Returns:
            (batch, n_globals).

        Raises:
            TypeError, ValueError: no condition, or an argument of another shape, not finite or not
                positive.
        """
        sigma = arguments.sigma(sigma, ("batch",))
        numbers, energy, _ = self._parts(condition, len(sigma))
        low, high = (math.log(end) for end in self.ranges["temperature"])
        warmth = 2 * (numbers[:, :1].log() - low) / (high - low) - 1
        whole = torch.tanh(energy[:, self.whole] / CAPS[0])
        told = [warmth, numbers[:, 1:], whole, self._fraction(sigma)]
        return torch.cat(told, dim=1).to(sigma)

    def of_edges(self, condition: Tensor, sigma: Tensor, r: Tensor, system: Tensor) -> Tensor:
        """Tell what potential and force are at distances, on average over the particles' noise.

        Both ends of an edge have noise, of twice the variance together; of a distance r that was
        r' before, the density is (r' / r) (N(r' - r) - N(r' + r)) with the normal density N.

        Args:
            condition: (batch, 303).
            sigma: (batch,) noise levels [length].
            r: (n, m) distances [length].
            system: (n,) whose they are, from 0 to batch - 1.

        Returns:
            (n, m, n_edge): energies and forces, each squashed by tanh at three scales.
        """
        _, energy, force = self._parts(condition, len(sigma))
        squashed = [(energy, scale) for scale in ENERGIES] + [(force, scale) for scale in FORCES]
        known = torch.stack([torch.tanh(each / scale) for each, scale in squashed], dim=-1).to(r)
        spread = (2 * sigma.square() + SHARPEST**2).sqrt()[system, None, None].to(r)
        before, step = self.r.to(r), self.step
        r = r[..., None].clamp(min=step)

        def density(apart):
            return (-(apart / spread).square() / 2).clamp(min=-40).exp()

        kernel = before / r * (density(before - r) - density(before + r))
        # What lies beyond the table is zero.
        return step / (spread * math.sqrt(2 * math.pi)) * kernel @ known[system]

    def of_waves(self, condition: Tensor, q: Tensor) -> Tensor:
        """Tell what the potential, capped at the core, contributes to the energy of waves.

        Args:
            condition: (batch, 303).
            q: (batch, n_waves) lengths of wave vectors [1 / length].

        Returns:
            (batch, n_waves, n_wave): asinh of the Fourier transform of U, at two caps.
        """
        _, energy, _ = self._parts(condition, len(q))
        capped = torch.stack([cap * torch.tanh(energy / cap) for cap in CAPS], dim=-1)
        phase = q[..., None] * self.r
        kernel = 4 * math.pi * self.r[0] * self.r.square() * torch.sinc(phase / math.pi)
        return torch.asinh(kernel @ capped)

    def jittered(self, condition: Tensor, amount: float, generator: torch.Generator) -> Tensor:
        """Add a little smooth function of the distance to each potential, another one each time.

        Potentials that differ by so little have the same structures, as a rule.  A network that is
        trained so does not know the potentials of its data by heart, and finds its way from them to
        others.

        Args:
            condition: (batch, 303).
            amount: standard deviation of what is added near r = 0, from where it falls to zero at
                the end of the table, in units of the potential's scale.
            generator: of what is added, on the device of the condition.

        Returns:
            (batch, 303).
        """
        numbers, energy, force = self._parts(condition, len(condition))
        on = {"device": condition.device, "generator": generator}
        height, period, phase = torch.rand(3, len(condition), _N_WAVES, 1, **on)
        height = (2 * height - 1) * math.sqrt(6 / _N_WAVES)
        low, high = (math.log(end) for end in _PERIODS)
        angle = 2 * math.pi * (self.r / (low + (high - low) * period).exp() + phase)
        added = (height * angle.cos()).sum(dim=1) * (1 - (self.r / self.r[-1]) ** 4) * amount
        (slope,) = torch.gradient(added, spacing=self.step, dim=1)
        return torch.cat([numbers, energy + added, force - slope], dim=1).to(condition)

    def _parts(self, condition: Tensor | None, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        if condition is None:
            raise ValueError(
                "condition must be a potential and a temperature of each system, as "
                "encoding.encode makes it; got None"
            )
        n = len(self.r)
        condition = arguments.tensor("condition (potential)", condition, (batch, SIZE))
        return condition.to(self.r).split([SIZE - 2 * n, n, n], dim=1)


# What a network can be told of a system, and the part of it that understands that.
CONDITIONINGS = {"numbers": Conditioning, "potential": PotentialConditioning}
