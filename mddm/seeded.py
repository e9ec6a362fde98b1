"""Samples that begin at a lattice of the potential's own, and not at uniform noise.

Where a network hardly sees which lattice a condition asks for, a search of all that fit the box
does (`lattices.stable`).  What is left to the network is what it knows best: how particles move
about their sites.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mddm import arguments, lattices, sampling
from mddm.crystal import Crystal
from mddm.noise import Denoiser
from mddm.potential import Smoothed

# How many of the lowest in free energy may be drawn.
_CANDIDATES = 12
# How much noise is added [length]; more destroys lattices that a network has not met.
NOISE = 0.15
# How far above the lowest in free energy the lattices lie that MD's crystals of the training
# conditions resemble most, by maximum likelihood [energy].
SPREAD = 0.05


def choose(
    potential: Smoothed,
    n_particles: int,
    box_length: float,
    temperature: float,
    seed: int = 0,
    *,
    spread: float = SPREAD,
) -> Crystal:
    """Draw one of the lattices of low free energy, the lower the likelier.

    Args:
        potential, n_particles, box_length, temperature: as for `lattices.stable`.
        seed: of the draw.
        spread: a lattice that lies so far above another is drawn 1 / e times as often [energy]; 0
            for the lowest.

    Returns:
        A stable one; the lowest in energy, where no lattice is.

    Raises:
        TypeError, ValueError, ImportError: as from `lattices.stable`, and for a negative `spread`.

    Source: this study.
    """
    spread = arguments.number("spread", spread, at_least=0)
    rng = np.random.default_rng(arguments.seed(seed))
    found = lattices.stable(
        potential, n_particles, box_length, temperature, _CANDIDATES if spread else 1
    )
    above = np.array([each.free_energy - found[0].free_energy for each in found if each.stable])
    if not spread or len(above) < 2:
        return found[0].crystal
    weights = np.exp(-above / spread)
    return found[rng.choice(len(above), p=weights / weights.sum())].crystal


def denoise(
    denoiser: Denoiser,
    sites: Tensor,
    sigmas: Tensor,
    generator: torch.Generator,
    condition: Tensor | None = None,
    box_length: float | None = None,
    top: float = NOISE,
) -> Iterator[sampling.Frame]:
    """Add noise to the sites of a lattice, and take it away by the reverse process.

    Args:
        denoiser, sigmas, generator, condition, box_length: see `sampling.Sampler`.
        sites: (batch, n_particles, 3) [length].
        top: how much noise is added; of `sigmas` those below it are walked down [length].

    Yields:
        Frames as from `sampling.Ancestral`, the first one of the sites with noise.

    Raises:
        TypeError, ValueError: as from `sampling.Ancestral`, and for a `top` that is not above zero.

    Source: this study.
    """
    top, generator = arguments.number("top", top, above=0), arguments.generator(generator)
    sites = arguments.positions(sites, name="sites")
    sigmas = sampling.check_levels(sigmas)
    walk = sampling.Walk(denoiser, sigmas, generator, condition, box_length)
    x_t, levels = walk.noised(sites, top)
    return sampling.Ancestral()(denoiser, x_t, levels, generator, condition, box_length)


def draw(
    denoiser: Denoiser,
    potential: Smoothed,
    n_particles: int,
    box_length: float,
    temperature: float,
    sigmas: Tensor,
    condition: Tensor,
    seed: int = 0,
    *,
    spread: float = SPREAD,
    device: torch.device | str = "cpu",
) -> Iterator[sampling.Frame]:
    """Draw one sample from a lattice of its condition: `choose`, then `denoise`.

    Args:
        denoiser, sigmas: as for `denoise`.
        potential, n_particles, box_length, temperature, spread: as for `choose`.
        condition: (1, n) what the network is told.
        seed: of the draw and of the noise.
        device: where to compute.

    Yields:
        Frames as from `denoise`.

    Raises:
        TypeError, ValueError, ImportError: as from both.
    """
    device = arguments.device(device)
    box = {"n_particles": n_particles, "box_length": box_length}
    crystal = choose(potential, **box, temperature=temperature, seed=seed, spread=spread)
    sites = torch.as_tensor(crystal.positions[None], device=device)
    generator = torch.Generator(device).manual_seed(seed)
    condition = arguments.conditions(condition, 1, "condition").to(device, torch.float32)
    return denoise(denoiser, sites, sigmas, generator, condition, box_length)
