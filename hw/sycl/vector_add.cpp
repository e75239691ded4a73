// vector_add A B C: read two files of raw int32, write their sum, int32 that wraps around.
//
// With g++ and the runtime from pip, in this folder (lib/sycl.py does it from any; PREFIX is the Python environment):
//   g++ -std=c++17 -isystem PREFIX/include vector_add.cpp -o vector_add -LPREFIX/lib -Wl,-rpath,PREFIX/lib -lsycl
//   export LD_LIBRARY_PATH=PREFIX/lib OCL_ICD_FILENAMES=PREFIX/lib/libintelocl.so
//   ./vector_add a.bin b.bin c.bin
// With icpx, in three stages: emulation, report, bitstream. The commands are STAGES in lib/sycl.py.
#include "program.hpp"

#ifdef FPGA
#include "vector_add_kernel.hpp"
class VectorAdd;  // the kernel's name in the reports
#endif

using Numbers = std::vector<std::int32_t>;
using Buffer = sycl::buffer<std::int32_t>;

constexpr std::size_t GROUP = 64;  // work items that start together

[[maybe_unused]] constexpr auto ENTRY = R"(
namespace experimental = sycl::ext::oneapi::experimental;
using In = sycl::accessor<std::int32_t, 1, sycl::access_mode::read>;
using Out = sycl::accessor<std::int32_t, 1, sycl::access_mode::write>;

extern "C" SYCL_EXT_ONEAPI_FUNCTION_PROPERTY((experimental::nd_range_kernel<1>))
void entry(In a, In b, Out c, std::size_t count) {
    vector_add(a, b, c, count, sycl::ext::oneapi::this_work_item::get_nd_item<1>().get_global_linear_id());
}
)";

Numbers add(Numbers &left, Numbers &right) {
    const std::size_t count = left.size();
    const sycl::nd_range<1> items{(count + GROUP - 1) / GROUP * GROUP, GROUP};
    Numbers sum(count);
    sycl::queue queue = open_queue();
#ifndef FPGA
    const sycl::kernel kernel = compile_kernel(queue, "vector_add_kernel.hpp", ENTRY, {});
#endif
    {
        Buffer a_buffer{left.data(), count}, b_buffer{right.data(), count}, c_buffer{sum.data(), count};
        queue
            .submit([&](sycl::handler &handler) {
                const sycl::accessor a{a_buffer, handler, sycl::read_only};
                const sycl::accessor b{b_buffer, handler, sycl::read_only};
                const sycl::accessor c{c_buffer, handler, sycl::write_only, sycl::no_init};
#ifdef FPGA
                // No two accessors share memory: without the promise the loads would wait for the stores.
                const auto body = [=](sycl::nd_item<1> item) [[intel::kernel_args_restrict]] {
                    vector_add(a, b, c, count, item.get_global_linear_id());
                };
                handler.parallel_for<VectorAdd>(items, body);
#else
                handler.set_args(a, b, c, count);
                handler.parallel_for(items, kernel);
#endif
            })
            .wait_and_throw();
    }  // the buffers end here, and the sum is back in its vector
    return sum;
}

int main(int argc, char **argv) {
    return run([&] {
        if (argc != 4) throw Refusal("three files are needed; run vector_add A B C");
        Numbers a = read_numbers<std::int32_t>(argv[1]);
        Numbers b = read_numbers<std::int32_t>(argv[2], a.size());
        write_numbers(argv[3], add(a, b));
    });
}
