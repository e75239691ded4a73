"""Frames on the serial line between host and board: bytes that say by themselves whether they arrived whole.

    START, kind, sequence number, length, ``length`` bytes of payload, CRC-32 of all but START, lowest byte first

``hw/boards/ulx3s/frames.sv`` lists the kinds and what their payloads hold. Numbers are little-endian.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

from lib.errors import BookError

START = 0xA5
MOST = 255  # bytes of payload
HEADER = 4  # bytes before the payload
CHECK = 4  # bytes behind it
VERSION = 1  # of the protocol, as hello reports it
MOST_LOGITS = 120  # in one reply


class Kind(IntEnum):
    """What the host asks for; a reply has REPLY added."""

    HELLO = 1
    RESET = 2
    LOAD = 3
    MODEL = 4
    TOKEN = 5
    LOGITS = 6
    STATUS = 7


REPLY = 0x80


class Status(IntEnum):
    """What became of a request."""

    DONE = 0
    OUT_OF_STEP = 1  # a token for another position than the next
    NO_MODEL = 2
    BAD_TOKEN = 3  # outside the vocabulary
    MALFORMED = 4  # an unknown kind, or a length that does not fit it
    READ_ONLY = 5  # the model is the bitstream's


@dataclass(frozen=True)
class Frame:
    kind: int
    sequence: int
    payload: bytes


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes on the line; BookError for a payload that is too long."""
    if len(frame.payload) > MOST:
        raise BookError(f"a payload of {len(frame.payload)} bytes fits no frame; {MOST} is the most, so split it")
    body = bytes([frame.kind, frame.sequence, len(frame.payload)]) + frame.payload
    return bytes([START]) + body + zlib.crc32(body).to_bytes(CHECK, "little")


class Decoder:
    """Finds the frames among the bytes of a line, whatever lies between and before them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take what arrived and return the frames that are whole with it."""
        self._buffer += data
        frames = []
        while (start := self._buffer.find(START)) >= 0:
            del self._buffer[:start]
            if len(self._buffer) < HEADER or len(self._buffer) < (end := HEADER + self._buffer[3] + CHECK):
                return frames  # the rest is on its way, or the length is garbage: see flush
            body, check = self._buffer[1 : end - CHECK], self._buffer[end - CHECK : end]
            if zlib.crc32(body) == int.from_bytes(check, "little"):
                frames.append(Frame(body[0], body[1], bytes(body[3:])))
                del self._buffer[:end]
            else:
                del self._buffer[0]  # not a frame's start; there may be one inside
        self._buffer.clear()
        return frames

    def flush(self) -> list[Frame]:
        """Forget the beginning of a frame that did not go on; return the frames that lay behind it."""
        frames = []
        while self._buffer:
            del self._buffer[0]
            frames += self.feed(b"")
        return frames
