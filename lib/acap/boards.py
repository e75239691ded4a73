"""The devices that a design can be made for: what each offers, and where the figure comes from.

AMD's data sheets and the architecture manual AM009 (VCK190's AI Engines and their interface tiles), AM020 (VEK280's),
DS962 (U250); the clocks and the bandwidth are those that EQ-ViT used.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import BookError


@dataclass(frozen=True)
class Board:
    """One device. ``macs`` are multiply-accumulates a cycle and engine, by (activation bits, weight bits)."""

    name: str
    engines: int  # AI Engines
    rows: int  # of the array they form; columns = engines / rows
    macs: dict[tuple[int, int], int]
    engine_ghz: float
    memory: int  # bytes beside each engine
    ports_in: int  # 128-bit streams from programmable logic (PL) to the engines
    ports_out: int
    pl_ghz: float
    buffers: int  # bytes of block and ultra RAM
    dsps: int
    off_chip: float  # bytes a nanosecond, peak
    family: str = "versal"

    @property
    def port(self) -> float:
        """Bytes a nanosecond of one stream: 16 at the PL's clock, or 4 at the engines', whichever is less."""
        return min(16 * self.pl_ghz, 4 * self.engine_ghz)

    @property
    def columns(self) -> int:
        return self.engines // self.rows

    def macs_at(self, activation_bits: int, weight_bits: int) -> int:
        """Return the multiply-accumulates a cycle of one engine; BookError for widths it does not have."""
        try:
            return self.macs[activation_bits, weight_bits]
        except KeyError:
            known = ", ".join(f"A{a}W{w}" for a, w in self.macs)
            raise BookError(
                f"{self.name} does not multiply {activation_bits} by {weight_bits} bits; it has {known}"
            ) from None


VCK190 = Board(
    "vck190",
    engines=400,
    rows=8,
    macs={(32, 32): 8, (16, 16): 32, (16, 8): 64, (8, 8): 128},
    engine_ghz=1.0,
    memory=32 * 1024,
    ports_in=156,  # 39 interface tiles: 8 x 64 bits in, 6 x 64 out
    ports_out=117,
    pl_ghz=0.230,
    buffers=967 * 4608 + 463 * 36864,  # 36 Kbit and 288 Kbit each
    dsps=1968,
    off_chip=25.6,
)
BOARDS = {board.name: board for board in (VCK190,)}


def board(name: str) -> Board:
    """Return a board by its name; BookError that lists the known ones."""
    try:
        return BOARDS[name]
    except KeyError:
        raise BookError(f"the board {name!r} is unknown; choose one of {', '.join(BOARDS)}") from None
