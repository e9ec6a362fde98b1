"""Graphs of ONNX, put together from the parts that networks are made of."""

import numpy as np
from torch import Tensor, nn

from mddm import __version__
from mddm.layers import Gaussians

# Of the operators, and of the file: what runtimes since 2022 understand.
_OPERATORS, _FORMAT = 17, 8


class Graph:
    """Inputs, nodes and weights, as they are added one after the other.

    Nodes are known by the names of their outputs.  Numbers in the place of a name become weights:
    of single precision, where they are no integers.

    Args:
        onnx: the package of that name.
    """

    def __init__(self, onnx):
        self.onnx, self.inputs, self.nodes, self.weights = onnx, [], [], []

    def take(self, name: str, shape: tuple, kind: int | None = None) -> str:
        """Add an input, of single precision by default; return its name."""
        kind = self.onnx.TensorProto.FLOAT if kind is None else kind
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))
        return name

    def add(self, operator: str, *inputs, output: str = "", **attributes) -> str:
        """Add a node; return the name of its output."""
        return self.add_several(operator, *inputs, names=[output], **attributes)[0]

    def add_several(self, operator: str, *inputs, names: list[str], **attributes) -> list[str]:
        """Add a node of several outputs; return their names, made up where they are empty."""
        names = [name or f"{operator}{len(self.nodes)}_{i}" for i, name in enumerate(names)]
        given = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(self.onnx.helper.make_node(operator, given, names, **attributes))
        return names

    def constant(self, values) -> str:
        """Add weights, of single precision where they are no integers; return their name."""
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        values = np.asarray(values)
        if values.dtype.kind != "i":
            values = values.astype(np.float32)
        name = f"weight{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def split(self, whole: str, sizes: list[int]) -> list[str]:
        """Take features apart."""
        names = [""] * len(sizes)
        return self.add_several("Split", whole, np.array(sizes), names=names, axis=-1)

    def join(self, *parts: str) -> str:
        """Put features side by side."""
        return self.add("Concat", *parts, axis=-1)

    def reshape(self, value: str, *shape: int) -> str:
        """Give another shape; of its numbers 0 keeps a size, and -1 takes what is left."""
        return self.add("Reshape", value, np.array(shape))

    def axis(self, value: str, at: int) -> str:
        """Add an axis of length 1."""
        return self.add("Unsqueeze", value, np.array([at]))

    def turn(self, value: str, *order: int) -> str:
        """Put the axes in another order."""
        return self.add("Transpose", value, perm=order)

    def times(self, features: str, weight: Tensor) -> str:
        """Add a linear map without a bias."""
        return self.add("MatMul", features, weight.T)

    def linear(self, features: str, layer: nn.Linear, output: str = "") -> str:
        """Add a linear map."""
        return self.add("Add", self.times(features, layer.weight), layer.bias, output=output)

    def sequence(self, features: str, layers: nn.Sequential) -> str:
        """Add linear maps, and what is between them."""
        for layer in layers:
            if isinstance(layer, nn.Linear):
                features = self.linear(features, layer)
            elif isinstance(layer, nn.ReLU):
                features = self.add("Relu", features)
            else:
                features = self.silu(features)
        return features

    def silu(self, features: str) -> str:
        """Add features times their sigmoid."""
        return self.add("Mul", features, self.add("Sigmoid", features))

    def norm(self, features: str, layer: nn.LayerNorm) -> str:
        """Add a normalisation."""
        given = (features, layer.weight, layer.bias)
        return self.add("LayerNormalization", *given, axis=-1, epsilon=layer.eps)

    def gaussians(self, value: str, layer: Gaussians) -> str:
        """Spread (..., 1) numbers over Gaussians."""
        apart = self.add("Sub", value, layer.centers)
        return self.bell(apart, -(layer.width**-2), -80.0)

    def bell(self, apart: str, curvature, least: float) -> str:
        """Add exp(curvature apart^2), of an exponent that ends where numbers are too small."""
        exponent = self.add("Mul", self.add("Mul", apart, apart), curvature)
        return self.add("Exp", self.add("Max", exponent, least))

    def model(self, output: str, shape: tuple):
        """Make the model of what was added."""
        make = self.onnx.helper
        ends = [make.make_tensor_value_info(output, self.onnx.TensorProto.FLOAT, shape)]
        return make.make_model(
            make.make_graph(self.nodes, "mddm", self.inputs, ends, self.weights),
            opset_imports=[make.make_opsetid("", _OPERATORS)],
            ir_version=_FORMAT,
            producer_name="mddm",
            producer_version=__version__,
        )
