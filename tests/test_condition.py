"""Conditions: names, ranges, and what a network is told."""

from pathlib import Path

import pytest
import torch

from mddm import checkpoint, condition, encoding, noise
from mddm.bragg import BraggDenoiser
from mddm.condition import Conditioning
from mddm.family import Family
from mddm.pbcconv import PBCConvDenoiser, RadialDenoiser
from mddm.transolver import TransolverDenoiser

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"
NETWORKS = (
    (PBCConvDenoiser, {"channels": 8, "n_layers": 1, "hidden_channels": 4, "head_channels": 4}),
    (RadialDenoiser, {"channels": 8, "n_layers": 1}),
    (BraggDenoiser, {"channels": 8, "n_layers": 1, "n_fields": 2, "n_waves": 8}),
    (TransolverDenoiser, {"channels": 8, "n_layers": 1, "n_heads": 1, "n_slices": 2}),
)


def test_the_diffusion_fraction_is_t_over_the_number_of_steps_on_a_log_schedule():
    sigmas = noise.log_schedule(11, sigma_min=0.01, sigma_max=4.0)[1:]
    told = Conditioning({}, 0.01, 4.0)(None, sigmas)
    torch.testing.assert_close(told[:, 3], torch.linspace(0, 1, 11, dtype=torch.float64))
    assert told.shape == (11, 4) and (told[:, :3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_condition_is_scaled_from_its_ranges_to_minus_one_to_one(dtype):
    asked = torch.tensor([[1.0, 0.0, 0.01], [8.0, 3.0, 0.03], [15.0, 6.0, 0.05]], dtype=dtype)
    told = Conditioning(sigma_min=0.01, sigma_max=1.0)(asked, torch.full((3,), 0.1, dtype=dtype))
    expected = torch.tensor([[-1.0], [0.0], [1.0]], dtype=dtype).expand(3, 3)
    atol = 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(told[:, :3], expected, atol=atol, rtol=0)
    torch.testing.assert_close(told[:, 3], torch.full((3,), 0.5, dtype=dtype))


@pytest.mark.parametrize("n_numbers", [1, 5])
def test_conditions_may_be_of_any_numbers(n_numbers):
    ranges = {f"x{i}": (0.0, i + 1.0) for i in range(n_numbers)}
    conditioning = Conditioning(ranges)
    middle = torch.arange(n_numbers)[None] / 2 + 0.5
    globals_ = conditioning(middle, torch.ones(1))
    # Never fewer than the paper's.
    assert conditioning.n_globals == globals_.shape[1] == max(3, n_numbers) + 1
    assert globals_[0, :-1].eq(0).all()
    assert conditioning.spread(globals_).shape == (1, conditioning.n_features)
    assert conditioning.spread(globals_)[0, -8:].max() > 0.5
    for network, sizes in NETWORKS:
        eps = network(**sizes, conditioning=conditioning)(
            torch.rand(1, 30, 3), torch.ones(1), middle, None
        )
        assert eps.shape == (1, 30, 3)


@pytest.mark.parametrize(("network", "sizes"), NETWORKS)
def test_a_network_refuses_a_condition_of_another_kind_and_none(network, sizes):
    x_t, sigma, asked = torch.rand(2, 30, 3), torch.ones(2), torch.rand(2, 3)
    conditional = network(**sizes)
    single = network(**sizes, conditioning=Conditioning({}))
    assert conditional(x_t, sigma, asked, None).shape == single(x_t, sigma, None, None).shape
    with pytest.raises(ValueError, match=r"must be k, phi, temperature of each .* got None"):
        conditional(x_t, sigma, None, None)
    with pytest.raises(ValueError, match=r"k, phi, temperature\) must have the shape \(2, 3\)"):
        conditional(x_t, sigma, asked[:, :2], None)
    with pytest.raises(ValueError, match="has learned one structure"):
        single(x_t, sigma, asked, None)


def test_noise_levels_reach_half_the_box():
    assert condition.sigma_max(10.0) == condition.SIGMA_MAX == 5.0
    assert condition.sigma_max(None) == 3.0
    for wrong in ({"sigma_min": 0.0}, {"sigma_min": 6.0}, {"sigma_max": 0.001}):
        with pytest.raises(ValueError, match="sigma_m"):
            Conditioning(**wrong)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"k": (1.0, 1.0)}, "low < high"),
        ({"k": (2.0,)}, "shape"),
        ({"a b": (0.0, 1.0)}, "a word"),
        ({3: (0.0, 1.0)}, "a word"),
        ({"k": (0.0, float("nan"))}, "finite"),
        ([("k", (0.0, 1.0))], "Mapping"),
    ],
)
def test_ranges_that_are_none_are_refused(ranges, message):
    with pytest.raises((TypeError, ValueError), match=message):
        condition.take_ranges(ranges)


@pytest.mark.parametrize("path", sorted(CHECKPOINTS.glob("*.safetensors")), ids=lambda x: x.stem)
def test_trained_networks_know_what_they_were_told(path):
    denoiser, header = checkpoint.load(path)
    task = path.stem.split("-")[0]
    boxed = task not in ("sphere", "torus")
    scaled = {"temperature": encoding.SCALED_TEMPERATURES}
    ranges = {"conditional": condition.RANGES, "potential": scaled}.get(task, {})
    assert {name: tuple(ends) for name, ends in header["settings"]["ranges"].items()} == ranges
    assert header["n_particles"] == 1000 and header["box_length"] == (10.0 if boxed else None)
    told = encoding.encode(Family("opp", {"k": 6.6, "phi": 2.4}).at({}), 0.014)
    asked = {"conditional": torch.tensor([[6.6, 2.4, 0.014]]), "potential": told[None]}.get(task)
    x_t = torch.rand(1, 70, 3, generator=torch.Generator().manual_seed(0))
    assert denoiser(x_t, torch.full((1,), 0.1), asked, header["box_length"]).isfinite().all()
