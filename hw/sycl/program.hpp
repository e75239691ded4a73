// What the SYCL programs share: a queue, binary files, and one sentence when something is wrong.
//
// A program is one source with two ways to its device, told apart by FPGA:
//   icpx (oneAPI up to 2025.0), with -DFPGA_EMULATOR or -DFPGA_HARDWARE: the kernel header is compiled in;
//   plain g++, which has no SYCL front end: the runtime compiles the header's text while the program runs.
#ifndef PROGRAM_HPP
#define PROGRAM_HPP

#include <charconv>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <sycl/sycl.hpp>

#if defined(FPGA_EMULATOR) || defined(FPGA_HARDWARE)
#define FPGA
#include <sycl/ext/intel/fpga_extensions.hpp>
#endif

// Bad input: the message is one sentence that says what is wrong and how to mend it.
struct Refusal : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Run a program's body; exit status 0, 2 after a Refusal, 1 after anything else.
template <typename Body>
int run(Body body) {
    try {
        body();
        return 0;
    } catch (const Refusal &refusal) {
        std::cerr << "error: " << refusal.what() << '\n';
        return 2;
    } catch (const std::exception &failure) {
        std::cerr << "failure: " << failure.what() << '\n';
        return 1;
    }
}

inline sycl::queue open_queue() {
    try {
#if defined(FPGA_EMULATOR)
        return sycl::queue{sycl::ext::intel::fpga_emulator_selector_v};
#elif defined(FPGA_HARDWARE)
        return sycl::queue{sycl::ext::intel::fpga_selector_v};
#else
        return sycl::queue{sycl::cpu_selector_v};
#endif
    } catch (const sycl::exception &) {
        throw Refusal("SYCL finds no device; set OCL_ICD_FILENAMES to the runtime's libintelocl.so and "
                      "LD_LIBRARY_PATH to its folder");
    }
}

#ifndef FPGA
// Compile the kernel header of that name, which lies beside this file, with an entry point added, for the queue's
// device. Each definition is a compiler option such as -DROWS=64.
inline sycl::kernel compile_kernel(const sycl::queue &queue, const std::string &header, const std::string &entry,
                                   const std::vector<std::string> &definitions) {
    namespace experimental = sycl::ext::oneapi::experimental;
    const auto path = std::filesystem::path(__FILE__).parent_path() / header;
    std::ifstream file(path);
    if (!file) throw Refusal(path.string() + " cannot be read; restore it and build the program again");
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    auto source = experimental::create_kernel_bundle_from_source(
        queue.get_context(), experimental::source_language::sycl, "#include <sycl/sycl.hpp>\n" + text + entry);
    const experimental::build_options options{definitions};
    return experimental::build(source, experimental::properties{options}).ext_oneapi_get_kernel("entry");
}
#endif

// Read a file of raw numbers, in this machine's byte order. count: how many it must hold; 0 for any number but none.
template <typename Number>
std::vector<Number> read_numbers(const std::string &path, std::size_t count = 0) {
    std::error_code error;
    const auto bytes = std::filesystem::file_size(path, error);
    if (error) throw Refusal(path + " cannot be read (" + error.message() + "); check the path");
    if (count == 0 && (bytes == 0 || bytes % sizeof(Number) != 0))
        throw Refusal(path + " holds " + std::to_string(bytes) + " bytes; give it whole numbers of " +
                      std::to_string(sizeof(Number)) + " bytes, at least one");
    if (count != 0 && bytes != count * sizeof(Number))
        throw Refusal(path + " holds " + std::to_string(bytes) + " bytes where " +
                      std::to_string(count * sizeof(Number)) + " are expected; write it in the size that was named");
    std::vector<Number> numbers(bytes / sizeof(Number));
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char *>(numbers.data()), static_cast<std::streamsize>(bytes));
    if (!file) throw Refusal(path + " cannot be read to its end; check its permissions");
    return numbers;
}

template <typename Number>
void write_numbers(const std::string &path, const std::vector<Number> &numbers) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char *>(numbers.data()),
               static_cast<std::streamsize>(numbers.size() * sizeof(Number)));
    file.close();
    if (!file) throw Refusal(path + " cannot be written; check its folder and the space left");
}

// Read a command line's integer, which must lie from low to high.
inline std::int64_t read_integer(const std::string &name, const std::string &text, std::int64_t low,
                                 std::int64_t high) {
    std::int64_t value = 0;
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end || value < low || value > high)
        throw Refusal(name + " is '" + text + "'; give an integer from " + std::to_string(low) + " to " +
                      std::to_string(high));
    return value;
}

#endif
