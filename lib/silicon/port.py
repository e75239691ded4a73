"""A serial port by its path, with the standard library alone; and what any line between host and board must offer."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios
import tty
from typing import Protocol

from lib.errors import BookError

BAUD = 3_000_000


class Line(Protocol):
    """Bytes to a board and back; ``name`` says in a message which line it is."""

    name: str

    def write(self, data: bytes) -> None: ...

    def read(self, seconds: float) -> bytes:
        """Return what arrives next, at least one byte, or nothing when so many seconds pass in silence."""
        ...


class SerialPort:
    """A ``Line`` over a terminal device, 8N1 without flow control, held by one program at a time.

    Raises BookError for a path that is missing, no serial port, not permitted or in use, and when it is unplugged.
    """

    def __init__(self, path: str | os.PathLike[str], baud: int = BAUD) -> None:
        self.name = os.fspath(path)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise BookError(f"{self.name} cannot be opened: {_why(error)}") from None
        try:
            self._claim()
            self._set_up(baud)
        except BaseException:
            os.close(self._file)
            raise

    def _claim(self) -> None:
        """Take the port for this program alone: flock among those that ask, TIOCEXCL against those that do not."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.ioctl(self._file, termios.TIOCEXCL)
        except BlockingIOError:
            raise BookError(f"{self.name} is in use by another program; end it, or choose another port") from None
        except OSError:
            raise BookError(f"{self.name} is no serial port; give a device such as /dev/ttyUSB0") from None

    def _set_up(self, baud: int) -> None:
        speed = getattr(termios, f"B{baud}", None)
        if speed is None:
            raise BookError(f"this system offers no rate of {baud} baud; choose one that termios names")
        try:
            tty.setraw(self._file)
            settings = termios.tcgetattr(self._file)
            settings[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
            settings[4] = settings[5] = speed
            termios.tcsetattr(self._file, termios.TCSANOW, settings)
            termios.tcflush(self._file, termios.TCIOFLUSH)  # whatever an earlier program left
        except termios.error as error:
            raise BookError(f"{self.name} cannot be set to {baud} baud ({error.args[-1]}); check the adapter") from None

    def write(self, data: bytes) -> None:
        """Send all bytes, waiting as long as the port takes; BookError when it takes nothing for a second."""
        while data:
            if not select.select([], [self._file], [], 1.0)[1]:
                raise BookError(f"{self.name} takes no bytes; check that no flow control is in the way")
            try:
                data = data[os.write(self._file, data) :]
            except OSError as error:
                raise self._lost(error) from None

    def read(self, seconds: float) -> bytes:
        if not select.select([self._file], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self._file, 4096)
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise self._lost(OSError(errno.EIO, os.strerror(errno.EIO)))
        return data

    def _lost(self, error: OSError) -> BookError:
        return BookError(f"{self.name} was lost ({error.strerror}); plug the board in again and start anew")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> SerialPort:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _why(error: OSError) -> str:
    """Say what is wrong with a path and how to mend it."""
    known = {
        errno.ENOENT: "there is no such port; plug the board in, and look for /dev/ttyUSB*",
        errno.EACCES: "you may not use it; join the group that owns it (often dialout)",
        errno.EBUSY: "another program uses it; end that program, or choose another port",
    }
    return known.get(error.errno, f"{error.strerror}; give a device such as /dev/ttyUSB0")
