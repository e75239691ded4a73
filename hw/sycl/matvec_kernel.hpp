// y = requantise(W x): an INT8 matrix-vector product as an FPGA kernel is written.
#ifndef MATVEC_KERNEL_HPP
#define MATVEC_KERNEL_HPP

#include <cstdint>

constexpr int LANES = 16;  // products side by side

// Bring a sum to the output's grid: sum * multiplier / 2^shift, rounded to the nearest integer, a half upwards
// (towards +infinity), clamped to int8. multiplier from 1 to 2^31 - 1 and shift from 0 to 62: nothing overflows.
inline std::int8_t requantise(std::int32_t sum, std::int32_t multiplier, int shift) {
    const std::int64_t half = (std::int64_t{1} << shift) >> 1;  // 0 where there is nothing to round
    // The shift is arithmetic, as of every compiler this meets: it rounds down, for negative sums too.
    const std::int64_t steps = (static_cast<std::int64_t>(sum) * multiplier + half) >> shift;
    return static_cast<std::int8_t>(steps < -128 ? -128 : steps > 127 ? 127 : steps);
}

// weight: int8 (Rows, Columns) row by row, x: int8 (Columns,), y: int8 (Rows,). Up to 131,071 columns of int8 products
// stay within int32.
//
// One work item runs it all (single_task), and the trip counts are known to the compiler: that is what makes a circuit
// of it. How icpx sees it, to be checked in its report:
// * `input` becomes memory on the chip, divided into banks so that LANES values are read in a cycle;
// * the loop over columns is unrolled LANES times: as many multipliers and an adder tree, fed by one wide load, since
//   a row's weights are neighbours; choose Columns a multiple of LANES, or a remainder costs logic;
// * it is pipelined, a new iteration each cycle (initiation interval 1): the only thing that one iteration needs from
//   the one before is the sum, and an integer addition fits a cycle. A float sum would not;
// * a row so takes about Columns / LANES cycles, the requantisation of one row overlapping the sum of the next.
// A CPU's compiler reads the same pragma and makes vector instructions of it.
template <int Rows, int Columns, typename Input, typename Output>
void matvec(const Input &weight, const Input &x, const Output &y, std::int32_t multiplier, int shift) {
    std::int8_t input[Columns];
    for (int column = 0; column < Columns; ++column) input[column] = x[column];
    for (int row = 0; row < Rows; ++row) {
        std::int32_t sum = 0;
#pragma unroll LANES
        for (int column = 0; column < Columns; ++column) sum += weight[row * Columns + column] * input[column];
        y[row] = requantise(sum, multiplier, shift);
    }
}

#endif
