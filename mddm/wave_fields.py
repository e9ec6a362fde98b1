"""Fields of the strongest waves of the density, which a network weighs."""

import torch
from torch import Tensor, nn

from mddm import fourier
from mddm.layers import Gaussians
from mddm.waves import Q_LONG, Q_MAX, Waves

# A perfect crystal of 1000 particles has log(1 + S) = 7.
LOG_S_MAX = 7.0


class WaveFields(nn.Module):
    """Where each particle lies in the strongest waves of the density.

    The waves attend to each other, as lengths and angles make a lattice together, and give each
    wave a weight in every field; how a wave lies to the box's axes is heard too, for a crystal has
    to fit the box.  A field's value at a particle is the sum of all weighted waves there, and its
    direction the sum of their weighted gradients.  Translations change nothing, and the order of
    the particles neither.

    Args:
        n_fields: fields.
        n_features: numbers that tell of condition and noise level, as
            `condition.Conditioning.spread` gives them.
        n_wave: numbers that the condition tells of each wave.
        q_max: length of the longest wave vector [1 / length].
        n_lengths: Gaussians that a wave vector's length is spread over.
        channels: features per wave.
        n_layers: layers of attention.

    Source: this study.  Reciprocal space in message passing: Kosmala et al. 2023 (Ewald message
    passing), with a filter that knows nothing of S.
    """

    def __init__(
        self,
        n_fields: int,
        n_features: int,
        n_wave: int = 0,
        q_max: float = Q_MAX,
        n_lengths: int = 240,
        channels: int = 48,
        n_layers: int = 2,
    ):
        super().__init__()
        self.n_out = 4 * n_fields
        self.length = Gaussians(0.0, q_max, n_lengths)
        self.strength = Gaussians(0.0, 1.0, 12)
        self.axes = Gaussians(0.0, 1.0, 10)
        n_told = len(self.strength.centers) + 3 * len(self.axes.centers)
        n_in = n_lengths + n_told + n_features + n_wave
        self.enter = nn.Sequential(nn.Linear(n_in, channels), nn.SiLU())
        self.angles = Gaussians(0.0, 1.0, 16)
        self.layers = nn.ModuleList(
            _WaveAttention(channels, len(self.angles.centers)) for _ in range(n_layers)
        )
        self.weigh = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, n_fields)
        )

    def forward(
        self,
        positions: Tensor,
        waves: Waves,
        features: Tensor,
        box_length: float,
        of_waves: Tensor | None = None,
    ) -> Tensor:
        """Compute the fields at every particle.

        Args:
            positions: (batch, n_particles, 3) [length].
            waves: of their density, as from `strongest_waves`.
            features: (batch, n_features) of condition and noise level.
            box_length: edge of the periodic cube [length].
            of_waves: (batch, n_waves, n_wave) of each wave, where the condition tells of it.

        Returns:
            (batch, n_particles, 4 n_fields): values, then directions.
        """
        vectors, strength, phase, _ = waves
        n_particles, length = positions.shape[1], vectors.norm(dim=-1, keepdim=True)
        unit = vectors / length
        common = features[:, None].expand(-1, vectors.shape[1], -1)
        # A crystal's peaks grow with the number of particles, and those of chance do not.
        known = 1 + (strength - 1) * min(1.0, _N_KNOWN / n_particles)
        seen = self.strength(known.log1p()[..., None] / LOG_S_MAX)
        # Invariant to permuting the axes.
        axes = self.axes(unit.abs().sort(dim=-1).values[..., None]).flatten(-2)
        told = [] if of_waves is None else [of_waves]
        features = self.enter(torch.cat([self.length(length), seen, axes, common, *told], dim=-1))
        # The amplitude of a wave, at most 1, in a crystal of any size.
        n_short = vectors.shape[1]
        if n_particles > _N_KNOWN:
            n_short = int((length[0] >= Q_LONG).sum())
        weights = self.weigh(self._attend(features, unit, n_short))
        weights = weights * (strength / n_particles).sqrt()[..., None]
        along = (weights[..., None] * unit[..., None, :]).flatten(2)
        amounts = (vectors, phase, weights, along)
        # Long waves, which come last, are many in a large box, and their vectors close together.
        if n_particles < fourier.N_PARTICLES or not 0 < n_short < vectors.shape[1]:
            return fourier.of_waves(positions, *amounts, box_length)
        short, long = (
            fourier.of_waves(positions, *(each[:, part] for each in amounts), box_length)
            for part in (slice(n_short), slice(n_short, None))
        )
        return short + long

    def _attend(self, features: Tensor, unit: Tensor, n_short: int) -> Tensor:
        """Let the waves attend to each other; of the long ones to as many as a known box has."""
        n_waves = features.shape[1]
        if n_waves - n_short <= _N_LONG:
            biases = self._biases((unit @ unit.transpose(1, 2)).abs())
            for layer, bias in zip(self.layers, biases, strict=True):
                features = layer(features, bias)
            return features
        # Evenly from their list, which is in the order of their vectors.
        long = torch.linspace(n_short, n_waves - 1, _N_LONG, device=unit.device).long()
        heeded = torch.cat([torch.arange(n_short, device=unit.device), long])
        known, towards = [features[:, heeded]], unit[:, heeded].transpose(1, 2)
        for layer, bias in zip(
            self.layers, self._biases((unit[:, heeded] @ towards).abs()), strict=True
        ):
            known.append(layer(known[-1], bias))
        found = []
        for some, along in zip(
            features.split(_N_AT_ONCE, 1), unit.split(_N_AT_ONCE, 1), strict=True
        ):
            biases = self._biases((along @ towards).abs())
            for layer, bias, heard in zip(self.layers, biases, known[:-1], strict=True):
                some = layer(some, bias, heard)
            found.append(some)
        return torch.cat(found, dim=1)

    def _biases(self, cosines: Tensor) -> list[Tensor]:
        """How much waves heed each other in each layer: (batch, n_heads, n_waves, n_heeded)."""

        def heed(angles):
            weight, bias = zip(
                *((layer.bias.weight, layer.bias.bias) for layer in self.layers), strict=True
            )
            # The long side last: twice as fast as the other way round.
            return torch.cat(weight) @ angles.flatten(0, -2).T + torch.cat(bias)[:, None]

        if torch.is_grad_enabled() or cosines.is_cuda:
            found = heed(self.angles(cosines[..., None]))
        else:
            # There are more pairs than a table needs entries.
            # In half precision the last entry would be rounded to one beyond.
            at = cosines.to(self.angles.centers).clamp(max=1).flatten() * (_N_ENTRIES - 2)
            below = at.int()
            entries = torch.arange(_N_ENTRIES).to(at) / (_N_ENTRIES - 2)
            table = heed(self.angles(entries[:, None]))
            found = table.index_select(1, below)
            found.addcmul_(table.diff(dim=1).index_select(1, below), at - below)
        return found.unflatten(1, cosines.shape).transpose(0, 1).chunk(len(self.layers), dim=1)


# A table of so many cosines is as exact as single precision.
_N_ENTRIES = 4097
# Networks have learned from so many particles, in whose box there are so many long waves.
_N_KNOWN, _N_LONG = 1000, 73
# So many of very many waves attend to others at once.
_N_AT_ONCE = 1024


class _WaveAttention(nn.Module):
    """Attention among waves; the angle between two of them says how much they heed each other."""

    def __init__(self, channels: int, n_angles: int, n_heads: int = 4):
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.project = nn.Linear(channels, 3 * channels)
        self.bias = nn.Linear(n_angles, n_heads)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, waves: Tensor, biases: Tensor, heeded: Tensor | None = None) -> Tensor:
        query, key, value = self._projected(waves)
        if heeded is not None:
            _, key, value = self._projected(heeded)
        heard = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=biases)
        waves = waves + self.out(heard.transpose(1, 2).flatten(2))
        return waves + self.mlp(self.norms[1](waves))

    def _projected(self, waves: Tensor) -> Tensor:
        projected = self.project(self.norms[0](waves)).unflatten(-1, (3, self.n_heads, -1))
        return projected.permute(2, 0, 3, 1, 4)
