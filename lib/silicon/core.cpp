// Runs a verilated core token by token, for lib/silicon/simulate.py.
//
// Compiled together with the C++ that Verilator made of hw/rtl/core.sv (class Vunit), with its parameter VOCAB.
// PROBES, if given, lists signals inside of it as X(name) X(name) ..., of at most 64 bits each.
// Registers and memories start as noise, so that what a reset or an image forgets is seen.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "Vunit.h"
#ifdef PROBES
#include "Vunit___024root.h"
#endif
#include "verilated.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif

namespace {

constexpr uint8_t IDLE = 0;

struct Core {
    VerilatedContext context;
    std::unique_ptr<Vunit> unit;
    int64_t clock = 0;  // since the core was made
    uint64_t noise = 1;

    explicit Core(uint64_t seed) {
        context.randReset(2);
        context.randSeed(static_cast<int>(seed));
        unit = std::make_unique<Vunit>(&context);
        unit->load_valid_i = unit->token_valid_i = unit->logit_ready_i = 0;
        reset();
    }

    ~Core() { unit->final(); }

    void settle() {  // outputs follow inputs
        unit->clk_i = 0;
        unit->eval();
    }

    void tick() {
        unit->clk_i = 1;
        unit->eval();
        clock++;
    }

    void reset() {
        unit->rst_ni = 0;
        for (int i = 0; i < 2; i++) {
            settle();
            tick();
        }
        unit->rst_ni = 1;
    }

    bool chance(uint32_t share) {  // true in share of 256 cases
        noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
        return (noise >> 32 & 255) < share;
    }
};

struct Step {  // of a token; clocks count from the one in which it was taken, and are -1 where there is none
    int64_t taken;     // clock of the core's life
    int64_t complete;  // the last logit is in the buffer
    int64_t ready;     // the next token can be taken
    int64_t argmax;
    int64_t bad;
};

}  // namespace

extern "C" {

void *core_new(uint64_t seed) { return new Core(seed); }

void core_free(void *core) { delete static_cast<Core *>(core); }

#if VM_COVERAGE
void core_cover(void *core, const char *file) { static_cast<Core *>(core)->context.coveragep()->write(file); }
#endif

void core_reset(void *core) { static_cast<Core *>(core)->reset(); }

void core_load(void *handle, const uint32_t *address, const uint64_t *data, size_t n) {
    Core &core = *static_cast<Core *>(handle);
    for (size_t i = 0; i < n + 256; i++) {  // some more: a word walks from bank to bank
        core.unit->load_valid_i = i < n;
        if (i < n) core.unit->load_address_i = address[i], core.unit->load_data_i = data[i];
        core.settle();
        core.tick();
    }
}

// Feed n tokens. offer, accept: the share of clocks, of 256, in which a token is offered and a logit taken. Written:
// steps (n) and logits (n, VOCAB). trace, if not null: for each clock from a token's being taken on, up to `capacity`,
// the phase and the probes. At most `limit` clocks a token. Returns the tokens finished: fewer than n when the limit
// was met, which leaves the core in the middle of a token.
size_t core_run(void *handle, const uint8_t *tokens, size_t n, uint32_t offer, uint32_t accept, uint64_t seed,
                Step *steps, int16_t *logits, uint64_t *trace, size_t capacity, int64_t limit) {
    Core &core = *static_cast<Core *>(handle);
    Vunit &unit = *core.unit;
    core.noise = seed * 2 + 1;
    for (size_t i = 0; i < n; i++) {
        Step &step = steps[i] = {-1, -1, -1, -1, 0};
        unit.token_i = tokens[i];
        bool worked = false;
        size_t count = 0;
        for (int64_t end = core.clock + limit;; core.tick()) {
            if (core.clock == end) return i;
            unit.token_valid_i = step.taken < 0 && core.chance(offer);
            unit.logit_ready_i = core.chance(accept);
            core.settle();
            int64_t since = core.clock - step.taken;
            if (step.taken < 0) {
                if (unit.token_valid_i && unit.token_ready_o) step.taken = core.clock;
                continue;
            }
            if (trace && static_cast<size_t>(since) <= capacity) {
                *trace++ = unit.phase_o;
#ifdef PROBES
#define X(name) *trace++ = unit.rootp->name;
                PROBES
#undef X
#endif
            }
            if (since == 1 && unit.bad_token_o) step.bad = 1;
            if (unit.logit_valid_o && unit.logit_ready_i && count < VOCAB) {
                logits[VOCAB * i + count++] = static_cast<int16_t>(unit.logit_o);
                if (unit.logit_last_o) step.argmax = count == VOCAB ? unit.argmax_o : -2;
            }
            // The phase shows two clocks late that the logits are complete.
            worked = worked || unit.phase_o != IDLE;
            if (worked && unit.phase_o == IDLE && step.complete < 0) step.complete = since - 2;
            if (unit.token_ready_o && step.ready < 0) step.ready = since;
            if (step.ready >= 0 && (step.complete >= 0 || step.bad)) break;
        }
        unit.token_valid_i = 0;
    }
    return n;
}
}
