"""The computation graph of a tensor: what was computed from what, with shapes, modules and gradients."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np

from minidl.backend import Array, is_array, run_on, to_device, to_numpy
from minidl.errors import ArgumentError, DtypeError, GraphError
from minidl.io.weights import write_file
from minidl.nn import Module
from minidl.ops._arguments import describe, tensor
from minidl.tensor import Node, Parameter, Tensor

_COLOURS = {"op": "#ffffff", "parameter": "#fde4d0", "input": "#d9ecf7", "result": "#e3f1dc"}


@dataclass
class Vertex:
    """One box of the picture.

    Attributes:
        kind: "op", "parameter", "input" (a tensor that is no parameter) or "result".
        name: of the operation, or of the parameter.
        path: of the module that ran the operation.
        shape: of its result; None where nothing flowed back.
        gradient: mean size of the gradient of its result; None where none flowed back.
        inputs: the numbers of the vertices that it was computed from.
    """

    kind: str
    name: str
    path: str = ""
    shape: tuple[int, ...] | None = None
    gradient: float | None = None
    inputs: list[int] = field(default_factory=list)

    @property
    def block(self) -> str:
        """The path of the module that holds the layer; "" for none."""
        path = self.name.rpartition(".")[0] if self.kind == "parameter" else self.path
        return path.rpartition(".")[0]

    @property
    def lines(self) -> list[str]:
        """The texts in the box."""
        lines = [self.name]
        if self.path:
            lines.append(self.path)
        if self.shape is not None:
            lines.append(" x ".join(map(str, self.shape)) or "one number")
        if self.gradient is not None:
            lines.append(f"mean |gradient| {self.gradient:.2g}")
        return lines


class Graph:
    """A computation graph as text for Graphviz and Mermaid, and as a picture where Graphviz is installed.

    Attributes:
        vertices: the boxes, from the inputs to the result.

    >>> import minidl as md
    >>> x = md.ones(2, requires_grad=True)
    >>> print(md.viz.graph((x * 3).sum()).mermaid())
    flowchart TD
      v0["input<br/>2<br/>mean |gradient| 3"]:::input
      v1["multiply<br/>2<br/>mean |gradient| 1"]:::op
      v2["sum<br/>one number<br/>mean |gradient| 1"]:::result
      v0 --> v1
      v1 --> v2
      classDef input fill:#d9ecf7,stroke:#666666,color:#222222
      ...
    """

    def __init__(self, vertices: list[Vertex]) -> None:
        self.vertices = vertices

    def dot(self) -> str:
        """The graph in Graphviz's language, with a frame around each block: the layers of one module."""
        lines = ["digraph {", '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, color="#666666"]']
        lines.append('  edge [color="#666666"]')
        frames: dict[str, list[str]] = {}
        for i, vertex in enumerate(self.vertices):
            text = json.dumps("\n".join(vertex.lines), ensure_ascii=False)  # the same escapes as Graphviz's
            frames.setdefault(vertex.block, []).append(f'v{i} [label={text}, fillcolor="{_COLOURS[vertex.kind]}"]')
        for k, (path, boxes) in enumerate(frames.items()):
            if path and len(boxes) > 1:
                head = f'  subgraph cluster{k} {{ label={json.dumps(path)}; color="#cccccc"; fontname="Helvetica"; fontsize=10'
                lines += [head, *(f"    {box}" for box in boxes), "  }"]
            else:
                lines += [f"  {box}" for box in boxes]
        lines += [f"  v{j} -> v{i}" for i, vertex in enumerate(self.vertices) for j in vertex.inputs]
        return "\n".join([*lines, "}"])

    def mermaid(self) -> str:
        """The graph in Mermaid's language, which GitHub, GitLab and notebooks draw in Markdown."""
        lines = ["flowchart TD"]
        for i, vertex in enumerate(self.vertices):
            text = "<br/>".join(line.replace("&", "&amp;").replace('"', "&quot;") for line in vertex.lines)
            lines.append(f'  v{i}["{text}"]:::{vertex.kind}')
        lines += [f"  v{j} --> v{i}" for i, vertex in enumerate(self.vertices) for j in vertex.inputs]
        kinds = dict.fromkeys(vertex.kind for vertex in self.vertices)
        lines += [f"  classDef {kind} fill:{_COLOURS[kind]},stroke:#666666,color:#222222" for kind in kinds]
        return "\n".join(lines)

    def svg(self) -> str:
        """The graph as a picture, drawn by Graphviz.

        Raises:
            ArgumentError: Graphviz's program ``dot`` is not there, or fails.
        """
        program = shutil.which("dot")
        if program is None:
            hint = "Install it (apt install graphviz, brew install graphviz), or use mermaid() or dot()."
            raise ArgumentError.of("Graph.svg", "Graphviz's program dot", "none on the PATH", hint)
        result = subprocess.run([program, "-Tsvg"], input=self.dot(), capture_output=True, encoding="utf-8", check=False)
        if result.returncode:
            raise ArgumentError.of("Graph.svg", "a picture from dot", result.stderr.strip() or f"code {result.returncode}")
        return result.stdout

    def save(self, path: Any) -> None:
        """Write a file: Graphviz's text for .dot and .gv, Mermaid's for .mmd, the picture for .svg.

        Raises:
            ArgumentError: another ending, or see ``svg``.
        """
        makers = {".dot": self.dot, ".gv": self.dot, ".mmd": self.mermaid, ".svg": self.svg}
        target = Path(path)
        if target.suffix not in makers:
            raise ArgumentError.of("Graph.save", f"a path that ends in {', '.join(makers)}", repr(str(path)))
        write_file(target, makers[target.suffix]().encode())

    def __repr__(self) -> str:
        operations = sum(vertex.kind in ("op", "result") for vertex in self.vertices)
        return f"<Graph of {operations} operations>"


def graph(result: Tensor, model: Module | None = None) -> Graph:
    """The operations that a tensor was computed by, back to the tensors whose gradients are asked for.

    Each box has the operation, the module that ran it, the shape of its result and the mean size of the gradient there:
    of ``result`` if it is one number, else of the sum of its elements. Layers that ran fused are one box.

    Args:
        result: a tensor that records its graph, such as a loss before ``backward``.
        model: gives the parameters their names.

    Notes:
        Gradients are computed for the picture alone: no ``grad`` changes, no hook runs, and the graph stays for backward.
        Tensors without ``requires_grad``, such as images, are no part of it.

    Raises:
        GraphError: a tensor that records nothing, or whose graph a backward has freed.
        DtypeError: no tensor, or a model that is not a Module.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Linear(4, 3, rng=0), nn.ReLU())
    >>> picture = md.viz.graph(model(md.ones(2, 4)), model)
    >>> [(vertex.name, vertex.path, vertex.shape) for vertex in picture.vertices]
    [('0.weight', '', (3, 4)), ('0.bias', '', (3,)), ('linear_relu', '0', (2, 3))]
    """
    if not isinstance(result, Tensor):
        raise DtypeError.of("graph", "a tensor", describe(result))
    if model is not None and not isinstance(model, Module):
        raise DtypeError.of("graph", "model as a Module", describe(model))
    if not isinstance(result._node, Node):
        hint = "Was it computed under no_grad, or from tensors without requires_grad?"
        raise GraphError.of("graph", "a tensor that an operation recorded", "one that records nothing", hint)
    names = {id(p): name for name, p in model.named_parameters()} if model is not None else {}
    gradients = _gradients(result._node, result._array)
    nodes = sorted((n for n in gradients if isinstance(n, Node)), key=lambda node: node.sequence)
    numbers: dict[Any, int] = {}
    vertices: list[Vertex] = []
    for node in nodes:
        for edge in node.edges:
            if isinstance(edge, Tensor) and edge not in numbers:
                kind = "parameter" if isinstance(edge, Parameter) else "input"
                numbers[edge] = len(vertices)
                vertices.append(Vertex(kind, names.get(id(edge), kind), "", edge.shape, _mean_size(gradients.get(edge))))
        numbers[node] = len(vertices)
        kind = "result" if node is result._node else "op"
        g = gradients[node]
        shape = None if g is None else tuple(g.shape)
        inputs = [numbers[edge] for edge in node.edges if edge is not None]
        vertices.append(Vertex(kind, node.name, node.path, shape, _mean_size(g), inputs))
    return Graph(vertices)


@np.errstate(all="ignore")
def _gradients(root: Node, array: Array) -> dict[Any, Array | None]:
    """The gradient that arrives at each node and leaf below ``root``; nothing but the graph is read."""
    ones = np.ones(array.shape, array.dtype)
    found: dict[Any, Any] = {root: ones if isinstance(array, np.ndarray) else to_device(ones, str(tensor("", array).device))}
    waiting = [(-root.sequence, root)]
    while waiting:
        node = heappop(waiting)[1]
        if node.saved is None:
            raise GraphError.of(
                "graph", "a live graph", f"one that a backward has freed, at {node!r}", "Draw it before backward."
            )
        g = found[node]
        results = (None,) * len(node.edges) if g is None else run_on(g, node.function.backward, node, g)
        for edge, gx in zip(node.edges, results if type(results) is tuple else (results,)):
            if edge is None:
                continue
            if edge not in found and isinstance(edge, Node):
                heappush(waiting, (-edge.sequence, edge))
            before = found.get(edge)
            gx = np.asarray(gx) if isinstance(gx, np.generic) else gx
            found[edge] = (gx if before is None else before + gx) if is_array(gx) else before
    return found


def _mean_size(g: Array | None) -> float | None:
    return None if g is None or g.size == 0 else float(np.abs(to_numpy(g)).mean())
