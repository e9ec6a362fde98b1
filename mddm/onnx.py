"""A trained network as ONNX, for programs that have no PyTorch: the page that samples is one.

What is left to such a program are the neighbours, and the vector g of `condition.Conditioning`.
"""

import numpy as np
from torch import Tensor, nn

from mddm import __version__, arguments, optional
from mddm.pbcconv import PBCConv, PBCConvDenoiser

# Of the operators, and of the file: what runtimes since 2022 understand.
_OPERATORS, _FORMAT = 13, 8


def to_onnx(denoiser: PBCConvDenoiser) -> bytes:
    """Write graph and weights of MDDM's network as an ONNX model.

    Its inputs are one configuration of any number of particles: `neighbors`, (n_particles,
    n_neighbors) int64, and `displacements`, (n_particles, n_neighbors, 3) [length], as
    `geometry.nearest_neighbors` finds them, and `globals`, (1, n_globals).  Its output is `eps`,
    (n_particles, 3).  All but the indices is float32.

    Args:
        denoiser: the network; on a CPU or not.

    Returns:
        The content of an `.onnx` file.

    Raises:
        TypeError: another network.
        ModuleNotFoundError: the package onnx is not installed.
    """
    arguments.instance("denoiser", denoiser, PBCConvDenoiser)
    with optional.packages():
        import onnx

    graph = _Graph(onnx)
    shared = denoiser.embedding
    features = "globals" if shared is None else graph.constant(shared[None])
    for number, layer in enumerate(denoiser.layers):
        # What the first layer knows of a particle, it knows of all.
        features = graph.add("Relu", graph.convolve(layer, features, alike=number == 0))
    if isinstance(denoiser.head, nn.Linear):
        graph.linear(features, denoiser.head, "eps")
    else:
        enter, _, leave = denoiser.head
        graph.linear(graph.add("Relu", graph.linear(features, enter)), leave, "eps")
    edges = ("n_particles", denoiser.n_neighbors)
    inputs = {
        "neighbors": (onnx.TensorProto.INT64, edges),
        "displacements": (onnx.TensorProto.FLOAT, (*edges, 3)),
        "globals": (onnx.TensorProto.FLOAT, (1, denoiser.conditioning.n_globals)),
    }
    outputs = {"eps": (onnx.TensorProto.FLOAT, ("n_particles", 3))}
    return graph.model(inputs, outputs).SerializeToString()


class _Graph:
    """Nodes and weights, as they are added one after the other."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.weights = onnx, [], []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes) -> str:
        """Add a node; return the name of its output."""
        output = output or f"{operator}{len(self.nodes)}"
        node = self.onnx.helper.make_node(operator, inputs, [output], **attributes)
        self.nodes.append(node)
        return output

    def constant(self, values: Tensor | np.ndarray) -> str:
        """Add weights; return their name."""
        if isinstance(values, Tensor):
            values = values.detach().float().cpu().numpy()
        name = f"weight{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def times(self, features: str, weight: Tensor) -> str:
        return self.add("MatMul", features, self.constant(weight.T))

    def linear(self, features: str, layer: nn.Linear, output: str = "") -> str:
        product = self.times(features, layer.weight)
        return self.add("Add", product, self.constant(layer.bias), output=output)

    def convolve(self, layer: PBCConv, features: str, alike: bool) -> str:
        """Add a convolution, computed as `PBCConv._dense` does."""
        along, own, other, common = layer.linear.weight.split(layer.sizes, dim=1)
        sent, kept = self.times(features, other), self.times(features, own - other)
        told = self.add("Add", self.times("globals", common), self.constant(layer.linear.bias))
        kept = self.add("Add", kept, told)
        if not alike:
            sent = self.add("Gather", sent, "neighbors")
        message = self.add("Add", self.times("displacements", along), sent)
        if layer.mix is None:
            return self.add("Add", self._strongest(message), kept)
        kept = self.add("Unsqueeze", kept, self.constant(np.array([1])))
        message = self.times(self.add("Relu", self.add("Add", message, kept)), layer.mix.weight)
        return self.add("Add", self._strongest(message), self.constant(layer.mix.bias))

    def _strongest(self, message: str) -> str:
        return self.add("ReduceMax", message, axes=[1], keepdims=0)

    def model(self, inputs: dict, outputs: dict):
        """Make the model of what was added; inputs and outputs are type and shape by name."""
        make = self.onnx.helper
        ends = (
            [make.make_tensor_value_info(name, *what) for name, what in named.items()]
            for named in (inputs, outputs)
        )
        return make.make_model(
            make.make_graph(self.nodes, "mddm", *ends, self.weights),
            opset_imports=[make.make_opsetid("", _OPERATORS)],
            ir_version=_FORMAT,
            producer_name="mddm",
            producer_version=__version__,
        )
