import pytest
import torch

from mddm import onnx
from mddm.geometry import nearest_neighbors
from mddm.pbcconv import PBCConvDenoiser
from mddm.training import load_checkpoint

pytest.importorskip("onnx", reason="pip install onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")

SMALL = {"channels": 16, "n_layers": 2, "n_neighbors": 5}
SHAPES = [
    {"hidden_channels": 8, "first": "globals", "head_channels": 12},
    {"hidden_channels": None, "first": "learned", "head_channels": None},
]


def check_equal(denoiser, box_length=5.0):
    """Compare what runtime and package make of the same noise, in two sizes of system."""
    session = onnxruntime.InferenceSession(onnx.to_onnx(denoiser))
    torch.manual_seed(0)
    for n_particles in (40, 125):
        x_t = torch.rand(1, n_particles, 3) * box_length
        sigma = torch.tensor([0.1])
        condition = torch.tensor([[9.0, 0.75, 0.02]]) if denoiser.conditioning.ranges else None
        with torch.no_grad():
            expected = denoiser(x_t, sigma, condition, box_length)[0]
        edges = nearest_neighbors(x_t, denoiser.n_neighbors, box_length)
        neighbors, displacements = (part[0].numpy() for part in edges)
        told = denoiser.conditioning(condition, sigma).numpy()
        given = {"neighbors": neighbors, "displacements": displacements, "globals": told}
        (eps,) = session.run(["eps"], given)
        assert eps.shape == (n_particles, 3)
        torch.testing.assert_close(torch.from_numpy(eps), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=["mlp", "linear"])
def test_a_runtime_computes_what_the_network_does(shape):
    torch.manual_seed(1)
    check_equal(PBCConvDenoiser(**SMALL, **shape))


def test_a_runtime_computes_what_the_trained_network_does(root):
    denoiser, _ = load_checkpoint(root / "data" / "checkpoints" / "conditional-mddm.safetensors")
    check_equal(denoiser)
