"""Pictures of data, training and models, as matplotlib figures.

Every function returns a ``matplotlib.figure.Figure`` that belongs to the caller: ``figure.savefig("curves.png")``.
Nothing is shown and no setting of matplotlib is touched. A notebook shows a figure that is the last value of
a cell once ``%matplotlib inline`` has run.
"""

from minidl.viz.curves import learning_curves
from minidl.viz.images import image_grid, worst_mistakes
from minidl.viz.layers import feature_maps, filters
from minidl.viz.matrix import confusion_matrix

__all__ = ["confusion_matrix", "feature_maps", "filters", "image_grid", "learning_curves", "worst_mistakes"]
