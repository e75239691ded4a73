// Runs the verilated board (class Vunit, of hw/boards/ulx3s/board.sv) with a serial line at its pins, for
// lib/silicon/board.py. Bytes to send wait in a queue and become levels of rx_i; levels of tx_o become bytes again.
// The other end's clock may be off: a bit lasts `period` clocks of the board, not always a whole number.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>

#include "Vunit.h"
#include "verilated.h"

namespace {

constexpr double BITS = 10;     // of a byte on the line: start, data, stop
constexpr uint64_t RESET = 4;  // clocks

struct Board {
    VerilatedContext context;
    std::unique_ptr<Vunit> unit;
    std::deque<uint8_t> queue;
    double period;
    double sent = BITS;       // bits of the byte being sent that are over
    uint32_t sending = 1;     // its bits, the start bit lowest; ones when nothing is sent
    double heard = BITS;      // bits of the byte being received that are over
    int bits_heard = 0;       // how many of them have been sampled
    uint32_t hearing = 0;     // their levels
    uint64_t reset_in = RESET;  // clocks to the end of a reset
    uint64_t quiet = 0;       // clocks since a byte was last sent or received

    Board(double period, uint64_t seed) : period(period) {
        context.randReset(2);
        context.randSeed(static_cast<int>(seed));
        unit = std::make_unique<Vunit>(&context);
        unit->clk_i = 0;
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
        if (sent >= BITS && !queue.empty()) {
            sending = static_cast<uint32_t>(queue.front()) << 1 | 1u << 9;
            queue.pop_front();
            sent = sent < BITS + 1 / period ? sent - BITS : 0;  // back to back: the fraction of a clock is kept
        }
        unit->rx_i = sent >= BITS || (sending >> static_cast<int>(sent) & 1);
        if (sent < BITS) quiet = 0;
        if (sent < BITS + 1) sent += 1 / period;
    }

    // Returns whether a byte has been received, which is then in `hearing`.
    bool listen() {
        if (heard >= BITS) {
            if (unit->tx_o) return false;
            heard = 0;
        }
        quiet = 0;
        if (heard >= bits_heard + 0.5) {
            hearing = hearing >> 1 | static_cast<uint32_t>(unit->tx_o) << 9;
            bits_heard++;
        }
        heard += 1 / period;
        if (bits_heard < BITS) return false;
        bits_heard = 0;
        heard = BITS;  // the middle of the stop bit is the end, as for the board
        bool good = !(hearing & 1) && (hearing >> 9 & 1);
        hearing = hearing >> 1 & 0xff;
        return good;
    }
};

}  // namespace

extern "C" {

Board *board_new(double period, uint64_t seed) { return new Board(period, seed); }

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
