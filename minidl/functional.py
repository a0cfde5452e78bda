"""Every operation as a function: ``minidl.functional.relu(x)``, and the same as ``minidl.relu(x)``."""

from minidl.ops import *
