"""The devices that a design can be made for: what each offers, and where the figure comes from.

AMD's data sheets and the architecture manual AM009 (VCK190's AI Engines and their interface tiles), AM020 (VEK280's),
DS962 (U250); the clocks and the bandwidth are those that EQ-ViT used.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import BookError


@dataclass(frozen=True, order=True)
class Widths:
    """Bits of activations and of weights; ordered from the cheapest."""

    activations: int
    weights: int

    def __str__(self) -> str:
        return f"A{self.activations}W{self.weights}"


INT8 = Widths(8, 8)


@dataclass(frozen=True)
class Board:
    """One device. ``macs`` are multiply-accumulates a cycle and engine, by the widths of their factors."""

    name: str
    engines: int  # AI Engines
    rows: int  # of the array they form; columns = engines / rows
    macs: dict[Widths, int]
    engine_ghz: float
    memory: int  # bytes beside each engine
    ports_in: int  # 128-bit streams from programmable logic (PL) to the engines
    ports_out: int
    pl_ghz: float
    buffers: int  # bytes of block and ultra RAM
    dsps: int
    off_chip: float  # bytes a nanosecond, peak

    @property
    def port(self) -> float:
        """Bytes a nanosecond of one stream: 16 at the PL's clock, or 4 at the engines', whichever is less."""
        return min(16 * self.pl_ghz, 4 * self.engine_ghz)

    @property
    def columns(self) -> int:
        return self.engines // self.rows

    def macs_at(self, widths: Widths) -> int:
        """Return the multiply-accumulates a cycle of one engine; BookError for widths it does not multiply."""
        if widths not in self.macs:
            raise BookError(f"{self.name} does not multiply {widths}; choose one of {', '.join(map(str, self.macs))}")
        return self.macs[widths]


VCK190 = Board(
    "vck190",
    engines=400,
    rows=8,
    macs={INT8: 128, Widths(16, 16): 32, Widths(32, 32): 8},
    engine_ghz=1.0,
    memory=32 * 1024,
    ports_in=156,  # 39 interface tiles: 8 x 64 bits in, 6 x 64 out
    ports_out=117,
    pl_ghz=0.230,
    buffers=967 * 4608 + 463 * 36864,  # 36 Kbit and 288 Kbit each
    dsps=1968,
    off_chip=25.6,
)
# A second generation of engines, for a what-if. AMD gives engines, memories, clocks and widths; that streams and the
# PL's clock are as on the VCK190, in proportion to the array's columns, is assumed.
VEK280 = Board(
    "vek280",
    engines=304,
    rows=8,
    macs={Widths(8, 4): 512, INT8: 256, Widths(16, 16): 64},
    engine_ghz=1.0,
    memory=64 * 1024,
    ports_in=118,
    ports_out=88,
    pl_ghz=0.230,
    buffers=600 * 4608 + 264 * 36864,
    dsps=1312,
    off_chip=102.4,
)
# A plain FPGA, Alveo U250: an "engine" here is 64 of its 12,288 DSPs with the memory beside them, at the 250 MHz of the
# paper's design; two products of INT8 fit one DSP. Its streams are wires, so nothing but the engines' own width
# limits them.
U250 = Board(
    "u250",
    engines=176,  # 92 % of the DSPs: the rest is for what lies between
    rows=8,
    macs={INT8: 128, Widths(16, 16): 64},
    engine_ghz=0.250,
    memory=128 * 1024,  # a share of 54 MB on chip
    ports_in=10_000,
    ports_out=10_000,
    pl_ghz=0.250,
    buffers=16 * 2**20,
    dsps=12_288 - 176 * 64,
    off_chip=77.0,
)
BOARDS = {board.name: board for board in (VCK190, VEK280, U250)}


def board(name: str) -> Board:
    """Return a board by its name; BookError that lists the known ones."""
    try:
        return BOARDS[name]
    except KeyError:
        raise BookError(f"the board {name!r} is unknown; choose one of {', '.join(BOARDS)}") from None
