// Runs the verilated board (class Vunit, of hw/boards/ulx3s/board.sv) with a serial line at its pins, for
// lib/silicon/board.py. Bytes to send wait in a queue and become levels of rx_i; levels of tx_o become bytes again.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>

#include "Vunit.h"
#include "verilated.h"

namespace {

constexpr int BITS = 10;       // of a byte on the line: start, data, stop
constexpr uint64_t RESET = 4;  // clocks

struct Board {
    VerilatedContext context;
    std::unique_ptr<Vunit> unit;
    const int bit;              // clocks
    std::deque<uint8_t> queue;
    uint32_t sending = 0;       // bits of the byte on its way to the board, the one on the line lowest
    int left = 0;               // clocks that this byte still takes
    uint32_t hearing = 0;       // bits of the byte on its way from the board, the newest highest
    int heard = 0;              // clocks since its start bit began; 0: the line is idle
    uint64_t quiet = 0;         // clocks since a byte was on the line, in either direction
    uint64_t reset_in = RESET;  // clocks to the end of a reset

    Board(int bit, uint64_t seed) : bit(bit) {
        context.randReset(2);  // registers and memories hold noise
        context.randSeed(static_cast<int>(seed));
        unit = std::make_unique<Vunit>(&context);
        unit->rx_i = 1;
        for (uint64_t i = 0; i < 2 * RESET; i++) clock();
    }

    ~Board() { unit->final(); }

    void clock() {
        unit->rst_ni = reset_in == 0 || reset_in > RESET;
        if (reset_in) reset_in--;
        unit->clk_i = 0;
        unit->eval();
        unit->clk_i = 1;
        unit->eval();
    }

    void drive() {
        if (left == 0 && !queue.empty()) {
            sending = static_cast<uint32_t>(queue.front()) << 1 | 1u << (BITS - 1);
            queue.pop_front();
            left = BITS * bit;
        }
        unit->rx_i = left == 0 || (sending & 1);
        if (left == 0) return;
        quiet = 0;
        if (--left % bit == 0) sending >>= 1;
    }

    // Returns whether a byte has been received, which is then in `hearing`.
    bool listen() {
        if (heard == 0 && unit->tx_o) return false;
        quiet = 0;
        if (heard % bit == bit / 2) hearing = hearing >> 1 | static_cast<uint32_t>(unit->tx_o) << (BITS - 1);
        if (++heard <= (BITS - 1) * bit + bit / 2) return false;
        heard = 0;  // in the middle of the stop bit
        bool good = !(hearing & 1) && hearing >> (BITS - 1);
        hearing = hearing >> 1 & 0xff;
        return good;
    }
};

}  // namespace

extern "C" {

// bit: clocks of the board that a bit lasts.
Board *board_new(int bit, uint64_t seed) { return new Board(bit, seed); }

void board_delete(Board *board) { delete board; }

void board_send(Board *board, const uint8_t *bytes, size_t n) {
    board->queue.insert(board->queue.end(), bytes, bytes + n);
}

// Reset the board so many clocks from now, for RESET clocks. The line knows nothing of it.
void board_reset(Board *board, uint64_t delay) { board->reset_in = delay + RESET; }

// Run until bytes have been received and none has moved in either direction for `pause` clocks, or none has for
// `clocks` clocks, or `capacity` bytes are received. Returns their number; they are in `received`. *passed: clocks run.
size_t board_run(Board *board, uint64_t clocks, uint64_t pause, uint8_t *received, size_t capacity, uint64_t *passed) {
    size_t n = 0;
    board->quiet = *passed = 0;
    while (n < capacity && board->quiet < (n ? pause : clocks)) {
        board->quiet++;
        board->drive();
        board->clock();
        if (board->listen()) received[n++] = static_cast<uint8_t>(board->hearing);
        ++*passed;
    }
    return n;
}

int board_leds(const Board *board) { return board->unit->leds_o; }
}
