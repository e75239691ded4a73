// One element of c = a + b, int32 that wraps around: what a work item of the vector addition does.
#ifndef VECTOR_ADD_KERNEL_HPP
#define VECTOR_ADD_KERNEL_HPP

#include <cstddef>
#include <cstdint>

// There is no loop: the range of work items takes its place. An FPGA compiler makes one pipeline of this body, two
// loads, an adder and a store, and sends a work item into it each clock cycle. The last group of items may reach
// beyond the vectors, hence the comparison.
template <typename Input, typename Output>
void vector_add(const Input &a, const Input &b, const Output &c, std::size_t count, std::size_t i) {
    if (i < count)  // unsigned, since C++ leaves the overflow of a signed sum undefined
        c[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a[i]) + static_cast<std::uint32_t>(b[i]));
}

#endif
