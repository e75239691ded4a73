// matvec WEIGHT X Y ROWS COLUMNS MULTIPLIER SHIFT: an INT8 matrix-vector product, requantised to INT8.
//
// WEIGHT: raw int8 (ROWS, COLUMNS) row by row, X: raw int8 (COLUMNS,), Y: raw int8 (ROWS,), written. The rule of
// rounding is in matvec_kernel.hpp. To build and run it, see vector_add.cpp. A circuit has one shape: for icpx it is
// given with -DROWS=64 -DCOLUMNS=64, while the g++ program compiles its kernel for the shape of its command line.
#include "program.hpp"

#ifdef FPGA
#include "matvec_kernel.hpp"
class Matvec;  // the kernel's name in the reports
#if !defined(ROWS) || !defined(COLUMNS)
#error "give the shape of the circuit: -DROWS=64 -DCOLUMNS=64"
#endif
#endif

using Numbers = std::vector<std::int8_t>;
using Buffer = sycl::buffer<std::int8_t>;

constexpr std::int64_t MOST_ROWS = 16'384;  // with as many columns, indices stay within int32
constexpr std::int64_t MOST_COLUMNS = 131'071;  // 131,072 products of -128 and -128 make 2^31, one too many for int32

[[maybe_unused]] constexpr auto ENTRY = R"(
namespace experimental = sycl::ext::oneapi::experimental;
using In = sycl::accessor<std::int8_t, 1, sycl::access_mode::read>;
using Out = sycl::accessor<std::int8_t, 1, sycl::access_mode::write>;

extern "C" SYCL_EXT_ONEAPI_FUNCTION_PROPERTY((experimental::single_task_kernel))
void entry(In weight, In x, Out y, std::int32_t multiplier, std::int32_t shift) {
    matvec<ROWS, COLUMNS>(weight, x, y, multiplier, shift);
}
)";

Numbers multiply(Numbers &weight, Numbers &x, std::size_t rows, std::int32_t multiplier, std::int32_t shift) {
    Numbers y(rows);
    sycl::queue queue = open_queue();
#ifdef FPGA
    if (rows != ROWS || x.size() != COLUMNS)
        throw Refusal("this circuit has another shape; compile the program with your ROWS and COLUMNS");
#else
    const sycl::kernel kernel =
        compile_kernel(queue, "matvec_kernel.hpp", ENTRY,
                       {"-DROWS=" + std::to_string(rows), "-DCOLUMNS=" + std::to_string(x.size())});
#endif
    {
        Buffer weight_buffer{weight.data(), weight.size()}, x_buffer{x.data(), x.size()}, y_buffer{y.data(), rows};
        queue
            .submit([&](sycl::handler &handler) {
                const sycl::accessor w{weight_buffer, handler, sycl::read_only};
                const sycl::accessor in{x_buffer, handler, sycl::read_only};
                const sycl::accessor out{y_buffer, handler, sycl::write_only, sycl::no_init};
#ifdef FPGA
                // No two accessors share memory: without the promise the loads would wait for the stores.
                const auto body = [=]() [[intel::kernel_args_restrict]] {
                    matvec<ROWS, COLUMNS>(w, in, out, multiplier, shift);
                };
                handler.single_task<Matvec>(body);
#else
                handler.set_args(w, in, out, multiplier, shift);
                handler.single_task(kernel);
#endif
            })
            .wait_and_throw();
    }  // the buffers end here, and the product is back in its vector
    return y;
}

int main(int argc, char **argv) {
    return run([&] {
        if (argc != 8) throw Refusal("seven arguments are needed; run matvec WEIGHT X Y ROWS COLUMNS MULTIPLIER SHIFT");
        const auto rows = static_cast<std::size_t>(read_integer("ROWS", argv[4], 1, MOST_ROWS));
        const auto columns = static_cast<std::size_t>(read_integer("COLUMNS", argv[5], 1, MOST_COLUMNS));
        const auto multiplier = static_cast<std::int32_t>(read_integer("MULTIPLIER", argv[6], 1, INT32_MAX));
        const auto shift = static_cast<std::int32_t>(read_integer("SHIFT", argv[7], 0, 62));
        Numbers weight = read_numbers<std::int8_t>(argv[1], rows * columns);
        Numbers x = read_numbers<std::int8_t>(argv[2], columns);
        write_numbers(argv[3], multiply(weight, x, rows, multiplier, shift));
    });
}
