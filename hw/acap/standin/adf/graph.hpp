// Kernels, ports, connections and constraints, and the running of a graph.
#ifndef STANDIN_GRAPH_HPP
#define STANDIN_GRAPH_HPP

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <tuple>
#include <utility>

#include "buffers.hpp"

namespace standin {

// How each kind of a kernel's argument becomes a port, and what is done with it around a call.
template <class Argument>
struct Traits;

template <class T>
struct Traits<adf::input_buffer<T>&> {
    using Object = adf::input_buffer<T>;
    static constexpr bool input = true, cascade = false, async = false;
    static constexpr std::size_t element = sizeof(T);
    static Object& pass(Object& object) { return object; }
    static void before(Object& object) { object.acquire(); }
    static void after(Object& object, const Port&) { object.release(); }
};

template <class T, class Kind, bool IsInput>
struct Async {
    using Object = Kind;
    static constexpr bool input = IsInput, cascade = false, async = true;
    static constexpr std::size_t element = sizeof(T);
    static Object& pass(Object& object) { return object; }
    static void before(Object&) {}
    static void after(Object& object, const Port& port) {
        if (object.held()) refuse(port.owner + " returns without releasing a buffer");
    }
};
template <class T>
struct Traits<adf::input_async_buffer<T>&> : Async<T, adf::input_async_buffer<T>, true> {};
template <class T>
struct Traits<adf::output_async_buffer<T>&> : Async<T, adf::output_async_buffer<T>, false> {};

template <class Kind, bool IsInput>
struct Cascade {
    using Object = Kind;
    static constexpr bool input = IsInput, cascade = true, async = false;
    static constexpr std::size_t element = 8;
    static Object* pass(Object& object) { return &object; }
    static void before(Object&) {}
    static void after(Object&, const Port&) {}
};
template <class T>
struct Traits<input_cascade<T>*> : Cascade<input_cascade<T>, true> {};
template <class T>
struct Traits<output_cascade<T>*> : Cascade<output_cascade<T>, false> {};

struct Node {
    std::string name = "a kernel";
    std::vector<std::unique_ptr<Port>> inputs, outputs;
    std::vector<Port*> order;  // of the arguments
    std::function<void(unsigned)> run;
    unsigned repetitions = 1, heap = 1024;  // AMD's default, as the stack's below
    double ratio = 0;
    std::string file;

    void rename(const std::string& to) {
        name = to;
        for (Port* port : order) port->owner = to;
    }
};

// A stream's end at PL. What is written to an input reaches every kernel that it is connected to.
struct Plio {
    std::string name;
    bool input = false;
    std::vector<Channel*> targets;
    Channel result;
};

enum class State { made, ready, running, ended };

struct Registry {
    std::vector<std::shared_ptr<Node>> nodes;
    std::map<std::string, std::shared_ptr<Plio>> plios;
    std::vector<std::unique_ptr<Channel>> channels;
    std::map<Node*, std::pair<int, int>> tiles;
    std::vector<std::thread> threads;
    State state = State::made;

    Channel* channel() {
        channels.push_back(std::make_unique<Channel>());
        return channels.back().get();
    }
};

inline Registry& registry() {
    static Registry one;
    return one;
}

template <class... Arguments, std::size_t... I>
void run_calls(void (*function)(Arguments...), Node& node, unsigned calls, std::index_sequence<I...>) {
    std::tuple<typename Traits<Arguments>::Object...> objects(
        typename Traits<Arguments>::Object(*node.order[I])...);
    for (unsigned call = 0; call < calls; ++call) {
        (Traits<Arguments>::before(std::get<I>(objects)), ...);
        function(Traits<Arguments>::pass(std::get<I>(objects))...);
        (Traits<Arguments>::after(std::get<I>(objects), *node.order[I]), ...);
    }
}

template <class Argument>
void add_port(Node& node) {
    using T = Traits<Argument>;
    auto port = std::make_unique<Port>();
    port->cascade = T::cascade;
    port->async = T::async;
    port->element = T::element;
    node.order.push_back(port.get());
    (T::input ? node.inputs : node.outputs).push_back(std::move(port));
}

}  // namespace standin

namespace adf {

struct stream {};
struct cascade {};
struct ratio {};
enum plio_width { plio_32_bits, plio_64_bits, plio_128_bits };

// A port by its place, k.in[1]; which one it is is looked up when it is connected.
struct port_ref {
    standin::Port* port = nullptr;
    standin::Plio* plio = nullptr;
};

class kernel {
public:
    struct ports {
        kernel* of;
        bool input;
        port_ref operator[](std::size_t i) const {
            auto& all = input ? of->node().inputs : of->node().outputs;
            if (i >= all.size()) standin::refuse(of->node().name + " has no such port");
            return {all[i].get(), nullptr};
        }
    };

    kernel() = default;
    kernel(const kernel& other) : node_(other.node_) {}
    kernel& operator=(const kernel& other) {
        node_ = other.node_;
        return *this;
    }

    template <class... Arguments>
    static kernel create(void (*function)(Arguments...)) {
        kernel made;
        made.node_ = std::make_shared<standin::Node>();
        (standin::add_port<Arguments>(*made.node_), ...);
        standin::Node* node = made.node_.get();
        node->run = [function, node](unsigned calls) {
            standin::run_calls(function, *node, calls, std::index_sequence_for<Arguments...>{});
        };
        standin::registry().nodes.push_back(made.node_);
        return made;
    }

    standin::Node& node() const {
        if (!node_) standin::refuse("a kernel is used before it is created");
        return *node_;
    }

    ports in{this, true}, out{this, false};

private:
    std::shared_ptr<standin::Node> node_;
};

template <bool IsInput>
class plio {
public:
    struct end {
        plio* of;
        port_ref operator[](std::size_t i) const {
            if (i != 0) standin::refuse(of->plio_->name + " has one port");
            return {nullptr, of->plio_.get()};
        }
    };

    plio() = default;
    plio(const plio& other) : plio_(other.plio_) {}
    plio& operator=(const plio& other) {
        plio_ = other.plio_;
        return *this;
    }

    static plio create(const std::string& name, plio_width, const std::string& /* a file, for AMD's simulators */) {
        plio made;
        made.plio_ = std::make_shared<standin::Plio>();
        made.plio_->name = name;
        made.plio_->input = IsInput;
        if (!standin::registry().plios.emplace(name, made.plio_).second) {
            standin::refuse("two streams are called " + name);
        }
        return made;
    }

    end in{this}, out{this};

private:
    std::shared_ptr<standin::Plio> plio_;
};
using input_plio = plio<true>;
using output_plio = plio<false>;

template <class Kind = stream>
struct connect {
    connect(port_ref from, port_ref to) {
        constexpr bool cascades = std::is_same_v<Kind, cascade>;
        for (standin::Port* port : {from.port, to.port}) {
            if (port && port->cascade != cascades) {
                standin::refuse("a cascade is connected to " + port->owner + " as a stream, or a stream as a cascade");
            }
            if (port && port->channel) standin::refuse("a port of " + port->owner + " is connected twice");
        }
        standin::Channel* channel = to.plio ? &to.plio->result : standin::registry().channel();
        if (from.port) from.port->channel = channel;
        if (to.port) to.port->channel = channel;
        if (from.plio) from.plio->targets.push_back(channel);
    }
};

struct tile {
    tile(int column, int row) : column(column), row(row) {}
    int column, row;
};

}  // namespace adf

namespace standin {

// What stands on the left of a constraint's "=".
struct DimensionsOf {
    Port* port;
    void operator=(std::initializer_list<unsigned> sizes) const {
        port->count = 1;
        for (unsigned size : sizes) port->count *= size;
    }
};
struct SourceOf {
    Node& node;
    void operator=(const std::string& file) const {
        node.file = file;
        node.rename(file.substr(0, file.rfind('.')));
    }
};
struct RatioOf {
    Node& node;
    void operator=(double share) const { node.ratio = share; }
};
struct RepetitionsOf {
    Node& node;
    void operator=(unsigned times) const { node.repetitions = times; }
};
struct HeapOf {
    Node& node;
    void operator=(unsigned bytes) const { node.heap = bytes; }
};
struct LocationOf {
    Node& node;
    void operator=(const adf::tile& at) const { registry().tiles[&node] = {at.column, at.row}; }
};

}  // namespace standin

namespace adf {

inline standin::DimensionsOf dimensions(port_ref port) { return {port.port}; }
inline standin::SourceOf source(kernel& of) { return {of.node()}; }
inline standin::HeapOf heap_size(kernel& of) { return {of.node()}; }
inline standin::RepetitionsOf repetition_count(kernel& of) { return {of.node()}; }
template <class Kind>
standin::RatioOf runtime(kernel& of) {
    static_assert(std::is_same_v<Kind, ratio>, "a kernel's share of its engine is runtime<ratio>");
    return {of.node()};
}
template <class Kind>
standin::LocationOf location(Kind& of) {
    return {of.node()};
}

class graph {
    static constexpr unsigned MEMORY = 32768, STACK = 1024;  // bytes of a tile, and of its engine's stack

public:
    // Check that the graph is whole; nothing runs yet.
    void init() {
        auto& all = standin::registry();
        if (all.state != standin::State::made) standin::refuse("a graph is initialised twice");
        for (const auto& node : all.nodes) check(*node);
        std::set<std::pair<int, int>> taken;
        for (const auto& [node, tile] : all.tiles) {
            if (!taken.insert(tile).second) standin::refuse(node->name + " is placed on a tile that another kernel has");
        }
        all.state = standin::State::ready;
    }

    // Start every kernel, `iterations` times its repetitions, and return.
    void run(unsigned iterations) {
        auto& all = standin::registry();
        if (all.state == standin::State::made) standin::refuse("a graph runs before init");
        if (all.state == standin::State::ended) standin::refuse("a graph runs after its end");
        if (all.state == standin::State::running) standin::refuse("a graph runs while it is running");
        all.state = standin::State::running;
        for (const auto& node : all.nodes) {
            all.threads.emplace_back([node, iterations] { node->run(iterations * node->repetitions); });
        }
    }

    // Wait until every kernel has made its calls.
    void wait() {
        auto& all = standin::registry();
        if (all.state != standin::State::running) standin::refuse("a graph is waited for that does not run");
        for (std::thread& thread : all.threads) thread.join();
        all.threads.clear();
        all.state = standin::State::ready;
    }

    void end() {
        wait();
        standin::registry().state = standin::State::ended;
    }

private:
    static void check(const standin::Node& node) {
        if (node.file.empty()) standin::refuse(node.name + " has no source");
        if (node.heap + STACK > MEMORY) standin::refuse(node.name + " has a heap that leaves its stack no room");
        if (!(node.ratio > 0 && node.ratio <= 1)) standin::refuse(node.name + " has no runtime ratio in 0 to 1");
        for (const standin::Port* port : node.order) {
            if (!port->channel) standin::refuse(node.name + " has a port that is not connected");
            if (!port->cascade && port->count == 0) standin::refuse(node.name + " has a buffer without dimensions");
        }
    }
};

}  // namespace adf

namespace standin {

// What AMD's simulators do with a stream's file, a test does here.
inline Plio& plio(const std::string& name, bool input) {
    const auto found = registry().plios.find(name);
    if (found == registry().plios.end() || found->second->input != input) refuse("there is no stream " + name);
    return *found->second;
}

inline void write(const std::string& name, const void* data, std::size_t size) {
    for (Channel* target : plio(name, true).targets) target->push(data, size);
}

inline void read(const std::string& name, void* data, std::size_t size) { plio(name, false).result.pop(data, size, name); }

// Bytes that were sent and not read by anyone.
inline std::size_t left() {
    std::size_t total = 0;
    for (const auto& channel : registry().channels) total += channel->left();
    return total;
}

}  // namespace standin

#endif
