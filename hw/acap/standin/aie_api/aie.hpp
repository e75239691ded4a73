// A stand-in for AMD's AI Engine API (UG1529): the vectors, accumulators and functions that the generated kernels use.
//
// It computes what they compute on an AI Engine of the first generation, and nothing else: shapes of mmul that this
// generation lacks do not compile, accumulators hold 48 or 80 bits and refuse more, and rounding and saturation are off
// (floor, wrap) until a kernel sets them, as they are after an engine's reset.
#ifndef STANDIN_AIE_HPP
#define STANDIN_AIE_HPP

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>

#include "../adf.h"

namespace aie {

enum class rounding_mode { floor, positive_inf };
enum class saturation_mode { none, saturate };

namespace detail {
inline thread_local rounding_mode rounding = rounding_mode::floor;  // a control register; a thread is an engine here
inline thread_local saturation_mode saturation = saturation_mode::none;
}  // namespace detail

inline void set_rounding(rounding_mode mode) { detail::rounding = mode; }
inline void set_saturation(saturation_mode mode) { detail::saturation = mode; }

template <class T, unsigned N>
struct vector {
    static_assert(N * sizeof(T) == 16 || N * sizeof(T) == 32 || N * sizeof(T) == 64 || N * sizeof(T) == 128,
                  "vectors have 128, 256, 512 or 1024 bits");
    std::array<T, N> lanes{};

    template <unsigned M>
    vector<T, M> extract(unsigned part) const {
        vector<T, M> some;
        std::copy_n(lanes.begin() + part * M, M, some.lanes.begin());
        return some;
    }

    template <unsigned M>
    void insert(unsigned part, const vector<T, M>& some) {
        std::copy_n(some.lanes.begin(), M, lanes.begin() + part * M);
    }

    template <unsigned M>
    vector<T, M> grow_replicate() const {
        vector<T, M> many;
        for (unsigned i = 0; i < M; ++i) many.lanes[i] = lanes[i % N];
        return many;
    }

    vector<int16, N> unpack() const {
        static_assert(std::is_same_v<T, int8>, "only bytes are unpacked here");
        vector<int16, N> wide;
        std::copy(lanes.begin(), lanes.end(), wide.lanes.begin());
        return wide;
    }
};

template <unsigned N, class T>
vector<T, N> load_v(const T* from) {
    vector<T, N> value;
    std::copy_n(from, N, value.lanes.begin());
    return value;
}

template <class T, unsigned N>
void store_v(T* to, const vector<T, N>& value) {
    std::copy(value.lanes.begin(), value.lanes.end(), to);
}

template <class T, unsigned N>
vector<T, N> broadcast(T value) {
    vector<T, N> all;
    all.lanes.fill(value);
    return all;
}

template <class T, unsigned N>
vector<T, N> zeros() {
    return broadcast<T, N>(0);
}

template <class Tag, unsigned N>
struct accum {
    using Lane = std::conditional_t<std::is_same_v<Tag, acc48>, int64, __int128>;
    std::array<Lane, N> lanes{};

    void add(unsigned lane, Lane value) {
        constexpr int bits = std::is_same_v<Tag, acc48> ? 48 : 80;
        lanes[lane] += value;
        if (lanes[lane] >= Lane(1) << (bits - 1) || lanes[lane] < -(Lane(1) << (bits - 1))) {
            standin::refuse("an accumulator overflows");
        }
    }

    template <class T>
    void from_vector(const vector<T, N>& value, int shift = 0) {
        for (unsigned i = 0; i < N; ++i) lanes[i] = Lane(value.lanes[i]) << shift;
    }

    // Shift, round, saturate.
    template <class T>
    vector<T, N> to_vector(int shift = 0) const {
        if (shift < 0 || shift > 62) standin::refuse("an accumulator is shifted by less than 0 or more than 62");
        vector<T, N> value;
        for (unsigned i = 0; i < N; ++i) {
            Lane x = lanes[i];
            if (shift > 0 && detail::rounding == rounding_mode::positive_inf) x += Lane(1) << (shift - 1);
            x >>= shift;
            if (detail::saturation == saturation_mode::saturate) {
                x = std::clamp<Lane>(x, std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
            }
            value.lanes[i] = static_cast<T>(x);
        }
        return value;
    }
};

template <unsigned N>
struct mask {
    std::array<bool, N> lanes{};
};

template <class T, unsigned N>
mask<N> ge(const vector<T, N>& a, std::common_type_t<T> b) {
    mask<N> found;
    for (unsigned i = 0; i < N; ++i) found.lanes[i] = a.lanes[i] >= b;
    return found;
}

// Lanes of b where the mask is set, of a elsewhere.
template <class T, unsigned N>
vector<T, N> select(const vector<T, N>& a, const vector<T, N>& b, const mask<N>& where) {
    vector<T, N> chosen;
    for (unsigned i = 0; i < N; ++i) chosen.lanes[i] = where.lanes[i] ? b.lanes[i] : a.lanes[i];
    return chosen;
}

namespace detail {
template <class T, unsigned N, class Function>
vector<T, N> each(const vector<T, N>& a, Function function) {
    vector<T, N> result;
    for (unsigned i = 0; i < N; ++i) result.lanes[i] = function(a.lanes[i], i);
    return result;
}
}  // namespace detail

template <class T, unsigned N>
vector<T, N> downshift(const vector<T, N>& a, unsigned by) {
    return detail::each(a, [by](T x, unsigned) { return static_cast<T>(x >> by); });
}

template <class T, unsigned N>
vector<T, N> sub(const vector<T, N>& a, std::common_type_t<T> b) {
    return detail::each(a, [b](T x, unsigned) { return static_cast<T>(x - b); });
}

// Sums of vectors wrap, whatever the saturation.
template <unsigned N>
vector<int32, N> add(const vector<int32, N>& a, const vector<int32, N>& b) {
    return detail::each(a, [&b](int32 x, unsigned i) { return static_cast<int32>(int64(x) + b.lanes[i]); });
}

template <class T, unsigned N>
vector<T, N> min(const vector<T, N>& a, std::common_type_t<T> b) {
    return detail::each(a, [b](T x, unsigned) { return std::min(x, b); });
}

template <class T, unsigned N>
vector<T, N> max(const vector<T, N>& a, std::common_type_t<T> b) {
    return detail::each(a, [b](T x, unsigned) { return std::max(x, b); });
}

template <unsigned N>
accum<acc80, N> mul(const vector<int32, N>& a, const vector<int32, N>& b) {
    accum<acc80, N> product;
    for (unsigned i = 0; i < N; ++i) product.add(i, __int128(a.lanes[i]) * b.lanes[i]);
    return product;
}

// A matrix product of one tile, A (M x K) by B (K x N), all row-major.
template <unsigned M, unsigned K, unsigned N, class TypeA, class TypeB>
class mmul {
    static constexpr bool bytes = std::is_same_v<TypeA, int8> && std::is_same_v<TypeB, int8>;
    static constexpr bool mixed = std::is_same_v<TypeA, int16> && std::is_same_v<TypeB, int8>;
    static constexpr unsigned shape = M * 10000 + K * 100 + N;
    static_assert((bytes && (shape == 40804 || shape == 41604 || shape == 80804 || shape == 20808 || shape == 40808)) ||
                      (mixed && (shape == 40404 || shape == 80404 || shape == 40804 || shape == 40408)),
                  "AI Engines of the first generation have no mmul of this shape");

public:
    static constexpr unsigned size_A = M * K, size_B = K * N, size_C = M * N;

    mmul() = default;
    explicit mmul(const accum<acc48, size_C>& from) : sum_(from), set_(true) {}

    void mul(const vector<TypeA, size_A>& a, const vector<TypeB, size_B>& b) {
        sum_ = {};
        set_ = true;
        mac(a, b);
    }

    void mac(const vector<TypeA, size_A>& a, const vector<TypeB, size_B>& b) {
        if (!set_) standin::refuse("mmul accumulates onto nothing; begin with mul, or with an accumulator");
        for (unsigned row = 0; row < M; ++row) {
            for (unsigned column = 0; column < N; ++column) {
                int64 total = 0;
                for (unsigned k = 0; k < K; ++k) total += int64(a.lanes[row * K + k]) * b.lanes[k * N + column];
                sum_.add(row * N + column, total);
            }
        }
    }

    template <class T>
    vector<T, size_C> to_vector(int shift = 0) const {
        return sum_.template to_vector<T>(shift);
    }

    accum<acc48, size_C> to_accum() const { return sum_; }

private:
    accum<acc48, size_C> sum_;
    bool set_ = false;
};

}  // namespace aie

#endif
