import importlib.util
from pathlib import Path

import pytest
import torch

from mddm import edges, noise
from mddm.bragg import BraggDenoiser
from mddm.encoding import PotentialConditioning, encode
from mddm.family import Family
from mddm.geometry import nearest_neighbors
from mddm.layers import Gaussians

BOX = 10.0


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "benchmarks" / "call.py"
    spec = importlib.util.spec_from_file_location("call", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inputs():
    # A crystal and a gas, in noise.
    corner = torch.cartesian_prod(*[torch.arange(5)] * 3).float()
    crystal, draw = 2 * torch.cat([corner, corner + 0.5]), torch.Generator().manual_seed(0)
    positions = torch.stack([crystal, BOX * torch.rand(250, 3, generator=draw)])
    eps, sigma = torch.randn(2, 250, 3, generator=draw), torch.tensor([0.05, 0.3])
    x_t = noise.add_noise(positions, sigma[:, None, None], eps, BOX)
    return x_t, sigma, torch.tensor([[3.0, 2.0, 0.02], [9.0, 0.7, 0.05]]), BOX


def network(**told):
    torch.manual_seed(1)
    return BraggDenoiser(channels=16, n_layers=2, n_fields=3, n_waves=40, **told)


@torch.no_grad()
def test_a_call_is_what_its_formulas_say(script, inputs):
    denoiser = network().eval()
    out = denoiser(*inputs)
    with script.plain():
        expected = denoiser(*inputs)
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * expected.std().item())


@torch.no_grad()
def test_so_it_is_where_potentials_are_told(script, inputs):
    denoiser = network(conditioning=PotentialConditioning()).eval()
    x_t, sigma, *_ = inputs
    families = (Family("lennard-jones"), Family("opp", {"k": 9.0, "phi": 0.7}))
    told = torch.stack([encode(family.at({}), 0.05) for family in families])
    out = denoiser(x_t, sigma, told, BOX)
    with script.plain():
        expected = denoiser(x_t, sigma, told, BOX)
    # In a range of distances a polynomial stands for what is told.
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


def test_gradients_are_those_of_the_formulas(script, inputs):
    denoiser, (x_t, sigma, condition, box) = network().double(), inputs
    x_t = x_t.double().requires_grad_()
    gradients = []
    weights = [x_t, *denoiser.parameters()]
    for way in (script.plain, torch.enable_grad):
        with way():
            out = denoiser(x_t, sigma, condition, box)
            gradients.append(torch.autograd.grad((out * x_t.detach()).sum(), weights))
    largest = max(plain.abs().max().item() for plain in gradients[0])
    for plain, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-11 * largest)


@pytest.mark.parametrize("ranges", ["_narrow_ranges", "_one_range"])
def test_any_ranges_give_the_same_sums(script, inputs, ranges, monkeypatch):
    # On a GPU there is one range.
    monkeypatch.setattr(edges, "_narrow_ranges", getattr(edges, ranges))
    radial, filter_ = Gaussians(0.0, 2.2, 16), torch.nn.Linear(144, 5)
    # Neighbours on top of each other, and far beyond the last Gaussian.
    x_t = inputs[0].clone()
    x_t[:, 1], x_t[:, 2] = x_t[:, 0], x_t[:, 2] + 50
    graph, sent = nearest_neighbors(x_t, 8, None), torch.randn(2, 250, 5)
    sent.requires_grad_()
    sums = edges.Edges(*graph, radial).collect(sent, filter_)
    expected = script.PlainEdges(*graph, radial).collect(sent, filter_)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
    weights = (sent, *filter_.parameters())
    found, right = (torch.autograd.grad(each.square().sum(), weights) for each in (sums, expected))
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)
    # Half precision, where a GPU has it, is that of products of matrices.
    with torch.autocast("cpu", torch.bfloat16):
        sums = edges.Edges(*graph, radial).collect(sent, filter_)
    half = torch.autograd.grad(sums.square().sum(), weights)
    assert sums.dtype == torch.float32
    for each, exact in zip((sums, *half), (expected, *right), strict=True):
        assert (each - exact).norm() < 0.02 * exact.norm()
