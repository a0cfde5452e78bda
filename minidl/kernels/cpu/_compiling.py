"""What goes on beside Numba's compiling: counting, a line that explains the wait, and a rest for the garbage collector.

Numba tells its listeners when it begins to compile a function and when it is done, and does one at a time. Loading a kernel
from the disk cache is no compiling, so nothing here runs then.
"""

from __future__ import annotations

import gc
import logging
from time import perf_counter

from numba.core.event import Event, Listener, register

__all__ = ["compiling"]

NOTICEABLE = 0.3  # seconds of compiling in a process before it is worth a line

_ONCE = "once; this takes 5 to 20 seconds (minidl doctor --warmup does it ahead of time)."
_EACH_TIME = "as in every process: there is no folder to keep them in."

logger = logging.getLogger("minidl")


class Compiling(Listener):
    """How many kernels this process has compiled, and in how many seconds.

    The line is a warning of the logger "minidl": on stderr, unless a program has arranged its logging otherwise.
    ``logging.getLogger("minidl").setLevel("ERROR")`` silences it.
    """

    def __init__(self) -> None:
        self.kernels = 0  # those that Python called; what they call is compiled with them
        self.seconds = 0.0
        self.told = False
        self.cached = True  # whether compiled kernels are kept on disk
        self._depth = 0
        self._since = 0.0
        self._collects = False

    def on_start(self, event: Event) -> None:
        """A function, or one that it calls, is going to be compiled."""
        if self._depth == 0:
            if not str(event.data["dispatcher"].py_func.__module__).startswith("minidl."):
                return  # the user's own
            self._since, self._collects = perf_counter(), gc.isenabled()
            gc.disable()  # it would look through Numba's many objects again and again, for 7 % of the time
        self._depth += 1
        if not self.told and self.seconds + perf_counter() - self._since > NOTICEABLE:
            self.told = True
            logger.warning("minidl: compiling kernels for this machine, %s", _ONCE if self.cached else _EACH_TIME)

    def on_end(self, event: Event) -> None:
        """The function is compiled, or compiling it has failed."""
        if self._depth == 0:
            return
        self._depth -= 1
        if self._depth == 0:
            self.kernels += 1
            self.seconds += perf_counter() - self._since
            if self._collects:
                gc.enable()


compiling = Compiling()
register("numba:compile", compiling)
