// What a kernel is given: buffers that it owns during a call, or acquires itself, and cascades.
#ifndef STANDIN_BUFFERS_HPP
#define STANDIN_BUFFERS_HPP

#include "types.hpp"

namespace standin {

template <class T>
class Buffer {
public:
    explicit Buffer(Port& port) : port_(port), data_(port.count) {}

    T* data() {
        if (!held_) refuse(port_.owner + " uses a buffer that it has not acquired");
        return data_.data();
    }

    bool held() const { return held_; }

protected:
    void take() {
        if (held_) refuse(port_.owner + " acquires a buffer twice");
        held_ = true;
    }

    void give() {
        if (!held_) refuse(port_.owner + " releases a buffer that it has not acquired");
        held_ = false;
    }

    std::size_t bytes() const { return data_.size() * sizeof(T); }

    Port& port_;
    std::vector<T> data_;

private:
    bool held_ = false;
};

template <class T>
class Input : public Buffer<T> {
public:
    using Buffer<T>::Buffer;

    void acquire() {
        this->take();
        this->port_.channel->pop(this->data_.data(), this->bytes(), this->port_.owner);
    }

    void release() { this->give(); }
};

template <class T>
class Output : public Buffer<T> {
public:
    using Buffer<T>::Buffer;

    void acquire() { this->take(); }

    void release() {
        this->give();
        this->port_.channel->push(this->data_.data(), this->bytes());
    }
};

}  // namespace standin

namespace adf {

// The plain ones are acquired before a call and released after it by the runtime, the asynchronous ones by the kernel.
template <class T>
struct input_buffer : standin::Input<T> {
    using standin::Input<T>::Input;
};
template <class T>
struct input_async_buffer : standin::Input<T> {
    using standin::Input<T>::Input;
};
template <class T>
struct output_async_buffer : standin::Output<T> {
    using standin::Output<T>::Output;
};

}  // namespace adf

// Accumulators from one engine to its neighbour; the lanes are int64 here.
struct acc48 {};
struct acc80 {};

template <class T>
struct input_cascade {
    explicit input_cascade(standin::Port& port) : port(port) {}
    standin::Port& port;
};
template <class T>
struct output_cascade {
    explicit output_cascade(standin::Port& port) : port(port) {}
    standin::Port& port;
};

#endif
