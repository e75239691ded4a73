// Runs a verilated unit with a stream in and a stream out, clock by clock, for lib/silicon/verilate.py.
//
// Compiled together with the C++ that Verilator made of the unit (class Vunit). INPUTS and OUTPUTS list its data
// ports as X(name, width) X(name, width) ...; beside them it has clk_i, rst_ni, valid_i, ready_o, valid_o and ready_i.
// A run begins with a new model whose registers hold noise, so that what a reset forgets is seen.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "Vunit.h"
#include "verilated.h"

namespace {

#define X(port, width) true,
constexpr bool input_list[] = {INPUTS};
constexpr bool output_list[] = {OUTPUTS};
#undef X
constexpr size_t N_IN = sizeof input_list, N_OUT = sizeof output_list;

struct Offer {  // what the unit shows while it waits for ready_i
    bool valid = false;
    uint64_t value[N_OUT] = {};
};

}  // namespace

extern "C" {

// Run `clocks` clocks. valid, ready and reset (uint8, one a clock) say whether an item is offered, whether one is
// taken, and whether reset is low. items (n, N_IN) are offered in order. Written: results (capacity, N_OUT), and for
// each item and result the clock at which it was handed over. counts: items taken, results, and how often an offered
// result changed or vanished before it was taken. Results beyond the capacity are counted only.
void unit_run(const uint64_t *items, size_t n, const uint8_t *valid, const uint8_t *ready, const uint8_t *reset,
              size_t clocks, uint64_t seed, uint64_t *results, size_t capacity, int64_t *taken_at, int64_t *left_at,
              int64_t *counts) {
    VerilatedContext context;
    context.randReset(2);
    context.randSeed(static_cast<int>(seed));
    auto unit = std::make_unique<Vunit>(&context);
    size_t taken = 0, left = 0, broken = 0;
    Offer before;

    for (size_t clock = 0; clock < clocks; clock++) {
        unit->rst_ni = !reset[clock];
        unit->valid_i = valid[clock] && taken < n;
        unit->ready_i = ready[clock];
        const uint64_t *item = items + N_IN * (taken < n ? taken : 0);
#define X(port, width) unit->port = *item++ & (~uint64_t{0} >> (64 - width));  // bits above would leak into results
        if (n) {
            INPUTS
        }
#undef X
        unit->clk_i = 0;
        unit->eval();

        Offer now;
        now.valid = unit->valid_o && !reset[clock];
        uint64_t *value = now.value;
#define X(port, width) *value++ = unit->port;
        OUTPUTS
#undef X
        if (before.valid && !reset[clock]) {
            bool same = now.valid;
            for (size_t i = 0; i < N_OUT; i++) same = same && now.value[i] == before.value[i];
            broken += !same;
        }
        before = now;
        if (now.valid && ready[clock]) {
            if (left < capacity) {
                for (size_t i = 0; i < N_OUT; i++) results[N_OUT * left + i] = now.value[i];
                left_at[left] = static_cast<int64_t>(clock);
            }
            left++;
            before.valid = false;
        }
        if (unit->valid_i && unit->ready_o && !reset[clock]) taken_at[taken++] = static_cast<int64_t>(clock);

        unit->clk_i = 1;
        unit->eval();
    }
    unit->final();
    counts[0] = static_cast<int64_t>(taken);
    counts[1] = static_cast<int64_t>(left);
    counts[2] = static_cast<int64_t>(broken);
}
}
