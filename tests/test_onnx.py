import pytest
import torch

from mddm import checkpoint, encoding, formulas, onnx, waves
from mddm.bragg import BraggDenoiser
from mddm.condition import Conditioning
from mddm.geometry import nearest_neighbors
from mddm.pbcconv import PBCConvDenoiser
from mddm.potential import Smoothed

pytest.importorskip("onnx", reason="pip install onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")

NUMBERS = torch.tensor([[9.0, 0.75, 0.02]])
POTENTIAL = encoding.encode(Smoothed(formulas.make("morse")), 0.02)[None]
SMALL = {"channels": 16, "n_layers": 2, "n_neighbors": 5}
SHAPES = [
    {"hidden_channels": 8, "first": "globals", "head_channels": 12},
    {"hidden_channels": None, "first": "learned", "head_channels": None},
]


def noisy(n_particles, sigma=0.1, box_length=5.0):
    """A simple cubic lattice in noise, which has sites."""
    torch.manual_seed(0)
    n = round(n_particles ** (1 / 3))
    axis = (torch.arange(n) + 0.5) * box_length / n
    lattice = torch.cartesian_prod(axis, axis, axis)[None]
    return lattice + sigma * torch.randn(lattice.shape), torch.tensor([sigma])


def run(denoiser, given, x_t, sigma, condition, box_length=5.0):
    """Compare what runtime and package make of the same noise."""
    session = onnxruntime.InferenceSession(onnx.to_onnx(denoiser))
    with torch.no_grad():
        expected = denoiser(x_t, sigma, condition, box_length)[0]
    edges = nearest_neighbors(x_t, denoiser.n_neighbors, box_length)
    neighbors, displacements = (part[0] for part in edges)
    given = {"neighbors": neighbors, "displacements": displacements, **given}
    (eps,) = session.run(["eps"], {name: value.numpy() for name, value in given.items()})
    torch.testing.assert_close(torch.from_numpy(eps), expected, atol=1e-4, rtol=0)


def check_mddm(denoiser):
    condition = NUMBERS if denoiser.conditioning.ranges else None
    for n_particles in (27, 125):
        x_t, sigma = noisy(n_particles)
        told = denoiser.conditioning(condition, sigma)
        run(denoiser, {"globals": told}, x_t, sigma, condition)


@pytest.mark.parametrize("shape", SHAPES, ids=["mlp", "linear"])
def test_a_runtime_computes_what_the_network_does(shape):
    torch.manual_seed(1)
    check_mddm(PBCConvDenoiser(**SMALL, **shape))


def test_a_runtime_computes_what_the_trained_network_does(root):
    denoiser, _ = checkpoint.load(root / "data" / "checkpoints" / "conditional-mddm.safetensors")
    check_mddm(denoiser)


def check_bragg(denoiser, x_t, sigma, condition, box_length=5.0):
    """Return whether there were sites."""
    found = waves.strongest_waves(
        x_t, denoiser.n_waves, waves.Q_LONG, denoiser.q_max, box_length, long=True
    )
    sites, is_site = waves.find_sites(found, sigma, x_t.shape[1], box_length)
    way, certainty = waves.assign(x_t, sites, is_site, sigma, box_length)
    given = {
        "positions": x_t[0],
        "sigma": sigma[:, None],
        "vectors": found.vectors[0],
        "strength": found.strength[0, :, None],
        "phase": found.phase,
        "way": way[0],
        "certainty": certainty[0],
        "found": is_site.any(dim=1, keepdim=True).float(),
    }
    if condition.shape[1] == encoding.SIZE:
        given["condition"] = condition
    else:
        given["globals"] = denoiser.conditioning(condition, sigma)
    run(denoiser, given, x_t, sigma, condition, box_length)
    return bool(is_site.any())


@pytest.mark.parametrize(
    ("conditioning", "condition"),
    [(Conditioning(), NUMBERS), (encoding.PotentialConditioning(), POTENTIAL)],
    ids=["numbers", "potential"],
)
def test_a_runtime_computes_what_a_network_that_sees_waves_does(conditioning, condition):
    torch.manual_seed(1)
    small = {"channels": 8, "n_layers": 2, "n_neighbors": 5, "n_fields": 2, "n_waves": 20}
    denoiser = BraggDenoiser(**small, conditioning=conditioning).eval()
    assert check_bragg(denoiser, *noisy(125), condition)
    assert not check_bragg(denoiser, *noisy(64, sigma=2.0), condition)


def test_a_runtime_computes_what_the_network_told_potentials_does(root):
    path = root / "data" / "checkpoints" / "potential-bragg.safetensors"
    denoiser, _ = checkpoint.load(path)
    for level in (0.05, 1.0):
        check_bragg(denoiser, *noisy(216, level, 6.0), POTENTIAL, 6.0)


def test_a_network_without_sites_is_refused():
    with pytest.raises(ValueError, match="must see waves and sites"):
        onnx.to_onnx(BraggDenoiser(channels=4, n_layers=1, sites=False))
