// One engine's share of a matrix product: rows of int8 by columns of int8, eight rows at a time.
//
// An engine stands at one place of a cascade along the inner side. The first one starts the sums, each passes them on
// in accumulators of 48 bits, and the last one rescales them to int8 and sends them out ("only" is a cascade of one).
// Left factors arrive in windows of eight rows, asynchronously: one call makes many windows and may hold weights all
// the while.
//
// Layouts. A window of left factors is a row of 8 x k tiles, a right factor columns of k x 4 tiles, one column of tiles
// after the other; a window of results TILES tiles of 8 x 4, all of a row where memory allows. Each tile is row-major,
// so every load is one whole vector.
#ifndef MM_H
#define MM_H

#include <adf.h>
#include <aie_api/aie.hpp>
#include <aie_api/aie_adf.hpp>

namespace mm {

constexpr unsigned ROWS = 8;     // of a window
constexpr unsigned COLUMNS = 4;  // of a tile of results
constexpr unsigned LANES = ROWS * COLUMNS;

// Return the encoder block of this call and count it. Calls come block after block, `calls` of them each: every engine
// so knows its weights without a parameter from the host, which would have to arrive between two calls of every engine.
inline unsigned next_block(unsigned& call, unsigned calls, unsigned depth) {
    const unsigned block = call / calls;
    call = call + 1 == calls * depth ? 0 : call + 1;
    return block;
}

// What a column's sums are brought to int8 with: (sum + bias) * multiplier / 2^shift.
struct Rescale {
    const int32* bias;
    const int32* multiplier;
    unsigned step;  // from one tile's constants to the next's: 4, or 0 where all columns share them
    int shift;
};

// int8 by int8.
template <unsigned K>
struct Bytes {
    using Tile = aie::mmul<ROWS, 8, COLUMNS, int8, int8>;
    static constexpr unsigned STEPS = K / 8;
    const int8* left(const int8* window) { return window; }
};

// Attention's shift counts of BITS bits by int8: a count c stands for 2^(LAST - 1 - c), the last one for nothing.
template <unsigned K, unsigned BITS>
struct Codes {
    using Tile = aie::mmul<ROWS, 4, COLUMNS, int16, int8>;
    static constexpr unsigned STEPS = K / 4;
    static constexpr int16 LAST = (1 << BITS) - 1;
    alignas(32) int16 powers[ROWS * K];

    // Decoded once a window, and used for every column. The vector unit shifts all lanes alike: lanes whose count has
    // the bit 8, 4, 2 or 1 take the shifted copy.
    const int16* left(const int8* window) {
        for (unsigned i = 0; i < ROWS * K; i += LANES) {
            aie::vector<int16, LANES> code = aie::load_v<LANES>(window + i).unpack();
            const auto none = aie::ge(code, LAST);
            auto power = aie::broadcast<int16, LANES>(1 << (LAST - 1));
            for (int bit = BITS - 1; bit >= 0; --bit) {
                const auto set = aie::ge(code, int16(1 << bit));
                power = aie::select(power, aie::downshift(power, 1 << bit), set);
                code = aie::select(code, aie::sub(code, int16(1 << bit)), set);
            }
            aie::store_v(powers + i, aie::select(power, aie::zeros<int16, LANES>(), none));
        }
        return powers;
    }
};

template <class Factor, class Left>
inline void multiply(typename Factor::Tile& sum, const Left* left, const int8* right, unsigned from) {
    using Tile = typename Factor::Tile;
    for (unsigned step = from; step < Factor::STEPS; ++step) {
        sum.mac(aie::load_v<Tile::size_A>(left + step * Tile::size_A),
                aie::load_v<Tile::size_B>(right + step * Tile::size_B));
    }
}

// The sums of a tile from nothing: `mul` clears the accumulator, so that no zeros have to be loaded.
template <class Factor, class Left>
inline typename Factor::Tile start(const Left* left, const int8* right) {
    using Tile = typename Factor::Tile;
    Tile sum;
    sum.mul(aie::load_v<Tile::size_A>(left), aie::load_v<Tile::size_B>(right));
    multiply<Factor>(sum, left, right, 1);
    return sum;
}

// ... and from the sums of the engine before.
template <class Factor, class Left>
inline typename Factor::Tile resume(const Left* left, const int8* right, input_cascade<acc48>* before) {
    typename Factor::Tile sum(readincr_v<LANES>(before));
    multiply<Factor>(sum, left, right, 0);
    return sum;
}

// A result to int8: eight lanes at a time, since a product of 32 by 32 bits has accumulators of 80.
template <class Tile>
inline void finish(const Tile& sum, const Rescale& to, unsigned tile, int8* result) {
    const aie::vector<int32, LANES> sums = sum.template to_vector<int32>(0);
    const auto bias = aie::load_v<COLUMNS>(to.bias + tile * to.step).template grow_replicate<8>();
    const auto multiplier = aie::load_v<COLUMNS>(to.multiplier + tile * to.step).template grow_replicate<8>();
    aie::vector<int32, LANES> scaled;
    for (unsigned i = 0; i < LANES / 8; ++i) {
        const auto product = aie::mul(aie::add(sums.template extract<8>(i), bias), multiplier);
        scaled.insert(i, aie::max(aie::min(product.template to_vector<int32>(to.shift), int32(127)), int32(-127)));
    }
    aie::accum<acc48, LANES> wide;  // the way from 32 bits to 8 leads through an accumulator
    wide.from_vector(scaled, 0);
    aie::store_v(result, wide.template to_vector<int8>(0));
}

// ... or as it is.
template <class Tile>
inline void finish(const Tile& sum, const Rescale&, unsigned, int32* result) {
    aie::store_v(result, sum.template to_vector<int32>(0));
}

// A half is rounded upwards, and what is too large becomes the largest. The engine's own registers say so; a graph may
// put other kernels beside this one, so each call sets them.
inline void set_rounding() {
    aie::set_rounding(aie::rounding_mode::positive_inf);
    aie::set_saturation(aie::saturation_mode::saturate);
}

template <unsigned STRIPES, unsigned N, unsigned TILES, class Factor, class Result>
inline void only(Factor& factor, adf::input_async_buffer<int8>& lhs, const int8* rhs, const Rescale& to,
                 adf::output_async_buffer<Result>& out) {
    set_rounding();
    for (unsigned stripe = 0; stripe < STRIPES; ++stripe) {
        lhs.acquire();
        const auto* left = factor.left(lhs.data());
        for (unsigned tile = 0; tile < N / COLUMNS; ++tile) {
            const int8* right = rhs + tile * Factor::STEPS * Factor::Tile::size_B;
            if (tile % TILES == 0) out.acquire();
            finish(start<Factor>(left, right), to, tile, out.data() + tile % TILES * LANES);
            if (tile % TILES == TILES - 1) out.release();
        }
        lhs.release();
    }
}

template <unsigned STRIPES, unsigned N, class Factor>
inline void first(Factor& factor, adf::input_async_buffer<int8>& lhs, const int8* rhs, output_cascade<acc48>* after) {
    for (unsigned stripe = 0; stripe < STRIPES; ++stripe) {
        lhs.acquire();
        const auto* left = factor.left(lhs.data());
        for (unsigned tile = 0; tile < N / COLUMNS; ++tile) {
            const int8* right = rhs + tile * Factor::STEPS * Factor::Tile::size_B;
            writeincr(after, start<Factor>(left, right).to_accum());
        }
        lhs.release();
    }
}

template <unsigned STRIPES, unsigned N, class Factor>
inline void middle(Factor& factor, adf::input_async_buffer<int8>& lhs, const int8* rhs, input_cascade<acc48>* before,
                   output_cascade<acc48>* after) {
    for (unsigned stripe = 0; stripe < STRIPES; ++stripe) {
        lhs.acquire();
        const auto* left = factor.left(lhs.data());
        for (unsigned tile = 0; tile < N / COLUMNS; ++tile) {
            const int8* right = rhs + tile * Factor::STEPS * Factor::Tile::size_B;
            writeincr(after, resume<Factor>(left, right, before).to_accum());
        }
        lhs.release();
    }
}

template <unsigned STRIPES, unsigned N, unsigned TILES, class Factor, class Result>
inline void last(Factor& factor, adf::input_async_buffer<int8>& lhs, const int8* rhs, input_cascade<acc48>* before,
                 const Rescale& to, adf::output_async_buffer<Result>& out) {
    set_rounding();
    for (unsigned stripe = 0; stripe < STRIPES; ++stripe) {
        lhs.acquire();
        const auto* left = factor.left(lhs.data());
        for (unsigned tile = 0; tile < N / COLUMNS; ++tile) {
            const int8* right = rhs + tile * Factor::STEPS * Factor::Tile::size_B;
            if (tile % TILES == 0) out.acquire();
            finish(resume<Factor>(left, right, before), to, tile, out.data() + tile % TILES * LANES);
            if (tile % TILES == TILES - 1) out.release();
        }
        lhs.release();
    }
}

}  // namespace mm

#endif
