"""Keeping Ctrl-C safe beside OpenVINO.

Asked for its devices, OpenVINO 2026.4 loads every plugin that it has and the drivers behind them, and one of these
gives the calling thread an alternate stack for signals, which is freed when the plugin is unloaded. Python runs
its handlers on that stack, so the next signal ends the process. So the thread's own stack is put back at once.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from typing import Iterator


class _Stack(ctypes.Structure):
    """Linux's ``stack_t``."""

    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def own_signal_stack() -> Iterator[None]:
    """Give the calling thread, at the end of the block, the alternate signal stack that it had at its start."""
    if not sys.platform.startswith("linux"):  # other systems lay the structure out otherwise
        yield
        return
    before, libc = _Stack(), ctypes.CDLL(None)
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
