"""Pictures of data, training and models, as matplotlib figures.

Every function returns a ``matplotlib.figure.Figure`` that belongs to the caller: ``figure.savefig("curves.png")``.
Nothing is shown and no setting of matplotlib is touched. A notebook shows a figure that is the last value of
a cell once ``%matplotlib inline`` has run. Only ``graph`` returns text, for Graphviz and Mermaid.
"""

from minidl.viz.convolution import im2col, receptive_field
from minidl.viz.curves import learning_curves
from minidl.viz.explain import activation_maximisation, grad_cam, occlusion, saliency
from minidl.viz.graph import Graph, graph
from minidl.viz.images import image_grid, worst_mistakes
from minidl.viz.layers import feature_maps, filters
from minidl.viz.matrix import confusion_matrix
from minidl.viz.roofline import roofline
from minidl.viz.training import histograms, loss_surface

__all__ = [
    "Graph",
    "activation_maximisation",
    "confusion_matrix",
    "feature_maps",
    "filters",
    "grad_cam",
    "graph",
    "histograms",
    "im2col",
    "image_grid",
    "learning_curves",
    "loss_surface",
    "occlusion",
    "receptive_field",
    "roofline",
    "saliency",
    "worst_mistakes",
]
