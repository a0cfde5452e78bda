"""The microscope: one HTML page that shows every number of a model's run, forward and backward.

``record`` runs the model and keeps what every operation read and gave out; ``page`` decides what is stored and
writes the page. The page itself is plain JavaScript, read in this order: numbers.js (stored numbers, decoded on first
use), arithmetic.js (every operation, forward and backward, one number at a time), pictures.js (feature maps on
canvases), lens.js (how one number is made), page.js (layers, clicks and keys).
"""

from minidl.viz.microscope.page import Page, explain
from minidl.viz.microscope.record import Recording, Step, record

__all__ = ["Page", "Recording", "Step", "explain", "record"]
