"""One sentence instead of a traceback: what is wrong, and how to mend it."""

from __future__ import annotations

import sys
from typing import Callable, NoReturn


class BookError(Exception):
    """Bad input. The message is one sentence that names what is wrong and how to mend it."""


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command's ``main`` and exit: 0 when it returns, 130 on Ctrl-C, 2 when something is wrong.

    What is wrong is a BookError, or the system's own sentence (a full disk, a folder not writable).
    """
    try:
        main()
    except (BookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {interrupt}" if interrupt.args else "interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
