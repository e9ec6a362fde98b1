import math

import pytest
import torch

from mddm import fourier

BOX = 7.0


@pytest.fixture(scope="module")
def system():
    draw = torch.Generator().manual_seed(0)
    positions = BOX * torch.rand(2, 50, 3, generator=draw)
    whole = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3).float()
    vectors = (2 * math.pi / BOX * whole).expand(2, -1, -1)
    phase = 6 * torch.rand(2, len(whole), generator=draw)
    amplitudes = torch.randn(2, len(whole), 5, generator=draw)
    return positions, (vectors, phase, amplitudes[..., :3], amplitudes[..., 3:])


@pytest.fixture
def by_fft(monkeypatch):
    pytest.importorskip("finufft")
    monkeypatch.setattr(fourier, "N_PARTICLES", 1)
    monkeypatch.setattr(fourier, "_N_WAVES", 1)


def check_particles(positions, tolerance):
    found = fourier.of_particles(positions, 3, BOX)
    assert found.shape == (2, 7, 7, 4)
    # In small parts, and in double precision.
    for place in [(0, 0, 0), (-3, 2, 1), (3, -1, 3), (1, 0, 0), (-2, -2, 2)]:
        angle = 2 * math.pi / BOX * positions.double() @ torch.tensor(place).double()
        expected = torch.polar(torch.ones_like(angle), angle).sum(dim=1)
        x, y, z = place
        assert (found[:, x + 3, y + 3, z] - expected).abs().max() < tolerance * 50**0.5


def check_waves(positions, waves, tolerance):
    vectors, phase, cosines, sines = waves
    with torch.no_grad():
        found = fourier.of_waves(positions, *waves, BOX)
    angle = positions.double() @ vectors.double().transpose(1, 2) - phase.double()[:, None]
    expected = torch.cat([angle.cos() @ cosines.double(), angle.sin() @ sines.double()], dim=-1)
    assert found.shape == (2, 50, 5) and found.dtype == torch.float32
    assert (found - expected).abs().max() < tolerance * expected.std()


def test_sums_are_those_of_their_formulas(system, monkeypatch):
    monkeypatch.setattr(fourier, "_AT_ONCE", 1500)
    check_particles(system[0], 1e-5)
    check_waves(*system, 1e-5)


def test_so_they_are_by_a_non_uniform_fft(system, by_fft):
    check_particles(system[0], 1e-3)
    check_waves(*system, 1e-3)
    # Any image of a particle will do.
    check_particles(system[0] - 3 * BOX, 1e-3)


def test_gradients_are_never_lost_to_it(system, by_fft):
    positions, (vectors, phase, cosines, sines) = system
    weights = cosines.clone().requires_grad_()
    fourier.of_waves(positions, vectors, phase, weights, sines, BOX).sum().backward()
    assert weights.grad.abs().max() > 0


def test_that_it_is_not_installed_is_said(system, monkeypatch):
    expected = fourier.of_particles(system[0], 2, BOX)
    monkeypatch.setattr(fourier, "N_PARTICLES", 1)
    monkeypatch.setattr(fourier, "finufft", None)
    with pytest.warns(UserWarning, match="50 particles grows as the square.*pip install finufft"):
        assert fourier.of_particles(system[0], 2, BOX).equal(expected)
