"""Silence for libraries that announce themselves: what they log, warn, print and draw while they load or work."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import Iterator

from IPython.utils.capture import capture_output


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Hold back the named loggers and the root's below errors, all warnings, printing and progress bars.

    Loggers that a library sets up on the way (handlers on the root, its level) are undone at the end.
    """
    root = logging.getLogger()
    handlers, levels = list(root.handlers), {name: logging.getLogger(name).level for name in ("root", *loggers)}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), capture_output():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
