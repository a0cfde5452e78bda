"""ONNX Runtime: inference. The layers write an ONNX graph, one node per primitive."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cases import INFER, Case, first_weights
from benchmarks.peers import layers


class Edge:
    """The name of a value in the graph that is being written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __add__(self, other: Edge) -> Edge:
        return Ops.node("Add", self, other)


class Ops:
    """Primitives on (N, C, H, W) images: each adds a node and gives the name of its output."""

    nodes: list[Any] = []  # noqa: RUF012  # of the graph that is being written

    @classmethod
    def node(cls, kind: str, *inputs: Any, **attributes: Any) -> Edge:
        output = f"y{len(cls.nodes)}"
        cls.nodes.append(helper.make_node(kind, [edge.name for edge in inputs], [output], **attributes))
        return Edge(output)

    @classmethod
    def conv2d(cls, x: Edge, w: Edge, b: Edge | None, stride: int, padding: int) -> Edge:
        return cls.node("Conv", *([x, w] if b is None else [x, w, b]), strides=[stride] * 2, pads=[padding] * 4)

    @classmethod
    def linear(cls, x: Edge, w: Edge, b: Edge) -> Edge:
        return cls.node("Gemm", x, w, b, transB=1)

    @classmethod
    def max_pool2d(cls, x: Edge, k: int) -> Edge:
        return cls.node("MaxPool", x, kernel_shape=[k] * 2, strides=[k] * 2)

    @classmethod
    def avg_pool2d(cls, x: Edge, k: int) -> Edge:
        return cls.node("AveragePool", x, kernel_shape=[k] * 2, strides=[k] * 2)

    @classmethod
    def mean_pool(cls, x: Edge) -> Edge:
        return cls.node("GlobalAveragePool", x)

    @classmethod
    def relu(cls, x: Edge) -> Edge:
        return cls.node("Relu", x)

    @classmethod
    def tanh(cls, x: Edge) -> Edge:
        return cls.node("Tanh", x)

    @classmethod
    def flatten(cls, x: Edge) -> Edge:
        return cls.node("Flatten", x)


class BatchNorm2d(layers.Module):
    """Its own layer, as ONNX takes all four values in one node."""

    def __init__(self, c: int) -> None:
        super().__init__(weight=(c,), bias=(c,), running_mean=(c,), running_var=(c,))

    def forward(self, x: Edge) -> Edge:
        values = (getattr(self, name) for name in ("weight", "bias", "running_mean", "running_var"))
        return Ops.node("BatchNormalization", x, *values, epsilon=layers.EPS)


nn = layers.namespace(Ops)
nn.BatchNorm2d = BatchNorm2d


class OnnxRuntime:
    """Inference of whole models."""

    def __init__(self, threads: int) -> None:
        self.version = onnxruntime.__version__
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads

    def refuses(self, case: Case) -> str:
        """Nothing but inference."""
        return "" if INFER in case.targets else "inference only"

    def prepare(self, case: Case) -> OnnxTask:
        """A session over the written graph."""
        return OnnxTask(case, self.options)


class OnnxTask:
    """One graph."""

    def __init__(self, case: Case, options: Any) -> None:
        assert case.build is not None
        x, _ = case.inputs()
        model = case.build(nn)
        weights = first_weights(model.all_shapes())
        Ops.nodes = []
        model.bind({name: Edge(name) for name in weights})
        self.output = model(Edge("x")).name
        graph = helper.make_graph(
            Ops.nodes,
            case.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info(self.output, TensorProto.FLOAT, (case.batch, case.classes))],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        written = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        self.session = onnxruntime.InferenceSession(written.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.feed = {"x": x}
        self.measures = {INFER: self.infer}

    def infer(self) -> np.ndarray:
        return self.session.run(None, self.feed)[0]

    def check(self) -> dict[str, np.ndarray]:
        """The outputs."""
        return {"output": self.infer()}

    def reset(self) -> None:
        """Nothing changes."""
