// The integers' names on an engine, how the stand-in refuses, and how data wait for their readers.
#ifndef STANDIN_TYPES_HPP
#define STANDIN_TYPES_HPP

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

using int8 = std::int8_t;
using uint8 = std::uint8_t;
using int16 = std::int16_t;
using int32 = std::int32_t;
using int64 = std::int64_t;

namespace standin {

[[noreturn]] inline void refuse(const std::string& what) {
    std::fprintf(stderr, "stand-in: %s\n", what.c_str());
    std::fflush(stderr);
    std::_Exit(3);  // from whichever thread
}

// Bytes on their way from one writer to one reader, in order and without limit.
class Channel {
public:
    void push(const void* data, std::size_t size) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto* bytes = static_cast<const uint8*>(data);
        bytes_.insert(bytes_.end(), bytes, bytes + size);
        ready_.notify_all();
    }

    // Take `size` bytes, waiting for them; `who` is named if they do not come.
    void pop(void* data, std::size_t size, const std::string& who) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (!ready_.wait_for(lock, patience(), [&] { return bytes_.size() >= size; })) {
            refuse(who + " waits for data that do not come");
        }
        std::copy(bytes_.begin(), bytes_.begin() + size, static_cast<uint8*>(data));
        bytes_.erase(bytes_.begin(), bytes_.begin() + size);
    }

    std::size_t left() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return bytes_.size();
    }

private:
    static std::chrono::milliseconds patience() {
        const char* given = std::getenv("STANDIN_PATIENCE_MS");
        return std::chrono::milliseconds(given ? std::atoi(given) : 60000);
    }

    std::mutex mutex_;
    std::condition_variable ready_;
    std::deque<uint8> bytes_;
};

// One end of a connection, at a kernel.
struct Port {
    std::string owner;
    bool cascade = false;
    bool async = false;
    std::size_t element = 1;  // bytes
    std::size_t count = 0;    // elements of a buffer
    Channel* channel = nullptr;
};

}  // namespace standin

#endif
