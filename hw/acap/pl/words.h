// What streams between PL kernels and engines carry: words of 128 bits, sixteen bytes or four sums of 32 bits.
#ifndef WORDS_H
#define WORDS_H

#include <ap_int.h>
#include <hls_stream.h>

typedef ap_uint<128> word;
typedef ap_uint<8> byte_t;

const int LANES = 16;  // bytes of a word
const int ROWS = 8;    // of a window of an engine

inline byte_t get(const word& w, int lane) {
#pragma HLS inline
    return w.range(8 * lane + 7, 8 * lane);
}

inline void put(word& w, int lane, byte_t value) {
#pragma HLS inline
    w.range(8 * lane + 7, 8 * lane) = value;
}

// A byte as the int8 that it stands for.
inline ap_int<8> as_signed(byte_t value) {
#pragma HLS inline
    ap_int<8> result;
    result.range(7, 0) = value;
    return result;
}

inline byte_t as_byte(ap_int<8> value) {
#pragma HLS inline
    return value.range(7, 0);
}

// x / 2^shift, rounded to the nearest, halves upwards. W has to hold x and 2^shift.
template <int W>
ap_int<W> shift_round(ap_int<W> x, int shift) {
#pragma HLS inline
    const ap_int<W> half = (ap_int<W>(1) << shift) >> 1;
    return ap_int<W>(x + half) >> shift;
}

template <int W>
ap_int<W> clamp(ap_int<W> x, int least, int most) {
#pragma HLS inline
    return x < least ? ap_int<W>(least) : x > most ? ap_int<W>(most) : x;
}

#endif
