// The book's GPT on one or more CPU cores: the tuned baseline that every accelerator has to beat.
//
// It computes what lib/gpt.py computes: token and position embeddings, pre-norm blocks of causal attention
// and a 4x feed-forward with the exact GELU, a final LayerNorm, a head tied to the embedding, one token a
// step against a KV cache that is refilled by the rule of window_start. lib/cpu.py writes its .bin files.
//
//     gcc -std=c11 -O3 -ffp-contract=fast -march=native gpt.c -o gpt -lm -pthread      makes a program, to run
//     ./gpt pocket.bin "Once upon a time" 400 2                                        with two threads, and
//     gcc ... -DGPT_LIBRARY -fPIC -shared gpt.c -o libgpt.so ...                       a library for lib/cpu.py
//
// How it is fast. A step multiplies each weight once, so it can go no faster than weights arrive from the
// caches. In FP32, matrices lie in panels of 32 rows, input by input: a row of the result is a lane of a
// vector, nothing is summed across lanes, and the order of every sum is the one written here. Keys and values
// lie so too. In INT8 sums have no order to keep, and the compiler makes of a plain loop along a row the
// instruction for it (vpdpbusd with VNNI; without such an instruction INT8 is no faster than FP32). Panels and
// intrinsics were tried there, on a processor with AVX-512 VNNI and GCC 12.2: the products of a step of pocket
// took 12.6 us where the plain loop takes 14.2; not worth a second code path.
//
// -ffp-contract=fast makes one instruction of a product and a sum, which -std=c11 alone forbids. Raced in turns
// there, a token of pocket took a median of 79.7 us with it and 82.2 without in FP32, 49.8 and 51.4 in INT8.
//
// -ffast-math is left out on purpose. Sums are in vector form already, it would let the compiler assume
// that no NaN exists, so a broken model would pass for a sound one, and in a shared library built by GCC 12
// it would make every denormal of the host process zero, PyTorch's included.
//
// Shapes in the comments: C width, H heads, D = C/H, S block, V alphabet, R rows and K inputs of a matrix.
// "Padded" means rounded up to whole panels or vectors; padding holds zeros, so it can be computed along.

#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Floats in a vector: what fits a register. GCC takes wider vectors, and computes them through memory.
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

enum {
    PANEL = 32,            // rows of a matrix that are computed together
    ACROSS = PANEL / LANES,
    UNROLL = 8 / ACROSS,   // inputs in flight: eight sums at once hide the multiplier's latency
    DEPTH = 64,            // inputs are padded to a multiple of this: the most INT8 codes in a register
    TILE = 4 * LANES,      // positions whose keys lie together
    MAX_THREADS = 64,
};

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

static int padded(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// ---- Vectors: what C has no operator for. ----

static inline Vector splat(float x) { return x - (Vector){0}; }

static inline Vector load(const float *x) { return *(const Vector *)x; }

static inline void store(float *x, Vector v) { *(Vector *)x = v; }

static inline Vector select(Ints mask, Vector yes, Vector no) {
    return (Vector)((mask & (Ints)yes) | (~mask & (Ints)no));
}

static inline float total(Vector v) {
    float x[LANES];
    memcpy(x, &v, sizeof v);
    for (int half = LANES / 2; half > 0; half /= 2) // a tree: four additions deep, not fifteen
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}

static inline Vector greater(Vector a, Vector b) { return select(a <= b, b, a); } // a NaN in a wins

static inline float largest(Vector v) {
    float best = v[0];
    for (int i = 1; i < LANES; i++)
        best = v[i] <= best ? best : v[i];
    return best;
}

// ---- exp, erf and GELU. The polynomials were fitted for this file, to the smallest largest error. ----

// exp(x) to 1.2e-7 relative. x = n ln 2 + r with |r| <= ln 2 / 2; a polynomial gives exp(r), and n goes into
// the exponent's bits. Below -87 and above 88 x is held there; NaN stays NaN.
static inline Vector exponential(Vector x) {
    const float rounder = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer in the lowest bits
    x = select(x < -87.0f, splat(-87.0f), x);
    x = select(x > 88.0f, splat(88.0f), x);
    Vector shifted = x * 1.44269504f + rounder;
    Vector n = shifted - rounder;
    Vector r = x - n * 0.693359375f + n * 2.12194440e-4f; // ln 2 in two parts; the first has few bits: exact
    Vector p = r * 1.38144672e-3f + 8.36878084e-3f;
    p = p * r + 4.16683927e-2f;
    p = p * r + 1.66665196e-1f;
    p = p * r + 4.99999940e-1f;
    Vector power = (Vector)(((Words)shifted << 23) + 0x3f800000u); // 2^n
    return (p * r * r + r + 1.0f) * power;
}

// erfc(a) for a >= 0, as exp(-a q(a)): -log(erfc(a)) / a is so smooth that a polynomial of degree 8 gives
// erfc to 1.3e-7 absolute, and to 5e-5 relative in its tail, where 1 - erf would be all rounding.
static inline Vector erfc_of(Vector a) {
    a = select(a > 5.0f, splat(5.0f), a); // erfc(5) is 1.5e-12
    Vector q = a * -8.04382671e-6f + 1.06026688e-4f;
    q = q * a - 5.87950810e-4f;
    q = q * a + 1.57676032e-3f;
    q = q * a - 5.87817703e-5f;
    q = q * a - 1.92171428e-2f;
    q = q * a + 1.02799207e-1f;
    q = q * a + 6.36616111e-1f;
    q = q * a + 1.12837934f;
    return exponential(-a * q);
}

static inline Vector absolute(Vector x) { return (Vector)((Ints)x & 0x7fffffff); }

static inline Vector erf_of(Vector x) {
    Vector tail = erfc_of(absolute(x));
    return select(x < 0.0f, tail - 1.0f, 1.0f - tail);
}

// x times the share of a normal distribution below x, which is erfc(-x / sqrt 2) / 2.
static inline Vector gelu(Vector x) {
    Vector tail = 0.5f * erfc_of(absolute(x) * 0.707106781f);
    return x * select(x < 0.0f, tail, 1.0f - tail);
}

// ---- A matrix times a vector. ----

typedef struct {
    int rows, cols;
    float *weight; // FP32: (panels, K, 32), else NULL
    int8_t *code;  // INT8: (R padded, K padded), each -127 to 127
    float *scale;  // (R padded) a row's weights are its codes times its scale
    float *sum;    // (R padded) the sum of a row's codes
    float *bias;   // (R padded)
} Matrix;

// What a matrix multiplies. In INT8 x is also there as codes: x[i] is about low + step * code[i].
typedef struct {
    const float *x;      // (K padded)
    const uint8_t *code; // (K padded)
    float step, low;
} Input;

static int panels(const Matrix *m) { return (m->rows + PANEL - 1) / PANEL; }

// One panel in FP32: y (32) = bias (32) + x (K) times weight (K, 32).
static void panel_fp32(const float *restrict weight, const float *restrict x, int depth, const float *bias,
                       float *restrict y) {
    Vector sum[UNROLL][ACROSS] = {{{0}}};
    for (int i = 0; i < depth; i += UNROLL)
        for (int u = 0; u < UNROLL; u++)
            for (int v = 0; v < ACROSS; v++)
                sum[u][v] += x[i + u] * load(weight + (size_t)(i + u) * PANEL + v * LANES);
    for (int v = 0; v < ACROSS; v++) {
        for (int u = 1; u < UNROLL; u++)
            sum[0][v] += sum[u][v];
        store(y + v * LANES, sum[0][v] + load(bias + v * LANES));
    }
}

static int32_t dot(const uint8_t *restrict x, const int8_t *restrict code, int depth) {
    int32_t sum = 0;
    for (int i = 0; i < depth; i++)
        sum += x[i] * code[i];
    return sum;
}

// One panel in INT8. With x = low + step * code, a row is scale * (step * (codes . codes) + low * sum) + bias.
static void panel_int8(const Matrix *m, const Input *in, int depth, int first, float *restrict y) {
    int32_t dots[PANEL];
    for (int r = 0; r < PANEL; r++)
        dots[r] = dot(in->code, m->code + (size_t)(first + r) * depth, depth);
    for (int r = 0; r < PANEL; r++) {
        float real = in->step * (float)dots[r] + in->low * m->sum[first + r];
        y[r] = real * m->scale[first + r] + m->bias[first + r];
    }
}

// Compute the rows of the panels from first to last - 1; y is the whole result's (R padded).
static void multiply(const Matrix *m, const Input *in, int first, int last, float *y) {
    int depth = padded(m->cols, UNROLL);
    for (int p = first; p < last; p++) {
        if (m->weight)
            panel_fp32(m->weight + (size_t)p * depth * PANEL, in->x, depth, m->bias + p * PANEL, y + p * PANEL);
        else
            panel_int8(m, in, padded(m->cols, DEPTH), p * PANEL, y + p * PANEL);
    }
}

// ---- The model and those who compute it. ----

typedef struct {
    float *gain, *bias; // (C padded)
} Norm;

typedef struct {
    Norm norm1, norm2;
    Matrix *qkv;    // H of (3D, C): a head's q, k and v together, so that its thread can attend without waiting
    float *keys;    // (H, S padded / TILE, D, TILE): a tile's scores are then lanes of four vectors
    float *values;  // (H, S padded, D padded)
    Matrix out;     // (C, C)
    Matrix up;      // (4C, C)
    Matrix down;    // (C, 4C)
} Layer;

typedef struct Gpt Gpt;

// One thread's share of the work, and its own scratch.
typedef struct {
    Gpt *gpt;
    int index;
    pthread_t thread;
    float *normed;  // (C padded)
    uint8_t *code;  // (4C padded) the input of the matrix at hand
    float *rows;    // (4C padded) the rows it computed
    float *scores;  // (S padded)
} Worker;

struct Gpt {
    int layers, heads, width, block, vocab, int8; // width is C
    float *token;    // (V, C) for looking up
    float *position; // (S, C)
    Layer *layer;
    Matrix *qkv;     // (layers, H)
    Norm norm;
    Matrix head;     // (V, C) the token embedding in its second role
    float *stream;   // (C padded) the residual stream
    float *attended; // (C padded) all heads' results, side by side
    float *hidden;   // (4C padded)
    float *logits;   // (V padded)
    int *history;    // (S) the tokens in the cache
    int filled;      // how many there are
    int here;        // the position of the token at hand
    int wanted;      // whether its logits are
    void *arena;     // everything above

    int threads;
    Worker worker[MAX_THREADS];
    atomic_int arrived, phase; // the barrier
    atomic_int round;          // the gate: one round a token
    int closing;
    pthread_mutex_t lock;
    pthread_cond_t opened;
};

// Where thread index's share of count things begins; it ends where the next one's begins.
static int share(const Worker *w, int count, int index) { return count * index / w->gpt->threads; }

// One turn of a wait. Whoever waits spins for a microsecond or two, which is the usual wait on cores of one's
// own; then it yields, since the thread that is waited for may need this very core. Spinning for 2000 turns
// instead took 1,600 us a step, not 200, when other work left the two threads one core of a processor with
// AVX-512 VNNI (GCC 12.2).
static void wait_a_turn(int turn) {
    if (turn >= 50)
        sched_yield();
#if defined(__x86_64__)
    else
        __builtin_ia32_pause();
#elif defined(__aarch64__)
    else
        __asm__ volatile("yield");
#endif
}

// Wait for all threads, four times a layer.
static void barrier(Gpt *g) {
    if (g->threads == 1)
        return;
    int phase = atomic_load_explicit(&g->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&g->arrived, 1, memory_order_acq_rel) == g->threads - 1) {
        atomic_store_explicit(&g->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&g->phase, phase + 1, memory_order_release);
        return;
    }
    for (int turn = 0; atomic_load_explicit(&g->phase, memory_order_acquire) == phase; turn++)
        wait_a_turn(turn);
}

// ---- One token through the model. Every thread runs this; where it writes, no other reads or writes. ----

static const float *normalise(const Worker *w, const Norm *norm) {
    const Gpt *g = w->gpt;
    const int end = padded(g->width, LANES);
    Vector sum = {0}, squares = {0};
    for (int i = 0; i < end; i += LANES)
        sum += load(g->stream + i);
    float mean = total(sum) / (float)g->width;
    for (int i = 0; i < end; i += LANES)
        store(w->normed + i, load(g->stream + i) - mean);
    memset(w->normed + g->width, 0, (size_t)(end - g->width) * sizeof(float));
    for (int i = 0; i < end; i += LANES)
        squares += load(w->normed + i) * load(w->normed + i);
    float factor = 1.0f / sqrtf(total(squares) / (float)g->width + 1e-5f);
    for (int i = 0; i < end; i += LANES)
        store(w->normed + i, load(w->normed + i) * factor * load(norm->gain + i) + load(norm->bias + i));
    return w->normed;
}

// Make x (count) an input. In INT8 it gets 256 codes from its least value to its largest, 0 among them.
// Each thread quantises for itself: that is quicker than to wait for another.
static Input input(const Worker *w, const float *x, int count) {
    if (!w->gpt->int8)
        return (Input){.x = x};
    const int end = padded(count, LANES);
    Vector low = {0}, high = {0};
    for (int i = 0; i < end; i += LANES) {
        Vector v = load(x + i);
        low = -greater(-v, -low);
        high = greater(v, high);
    }
    float least = -largest(-low), range = largest(high) - least;
    float inverse = range > 0 ? 255.0f / range : 0.0f;
    for (int i = 0; i < end; i++)
        w->code[i] = (uint8_t)(int32_t)((x[i] - least) * inverse + 0.5f);
    return (Input){.x = x, .code = w->code, .step = range / 255.0f, .low = least};
}

// scores (S padded) = q (D) times each key, for whole tiles; those after the last position are not used.
static void score(const float *restrict q, const float *restrict keys, int tiles, int depth, float *restrict scores) {
    for (int tile = 0; tile < tiles; tile++, keys += (size_t)depth * TILE) {
        Vector sum[4] = {{0}};
        for (int d = 0; d < depth; d++)
            for (int v = 0; v < 4; v++)
                sum[v] += q[d] * load(keys + d * TILE + v * LANES);
        for (int v = 0; v < 4; v++)
            store(scores + tile * TILE + v * LANES, sum[v]);
    }
}

// Turn the first count scores into exp(score - largest score), those after them into 0; return their sum.
static float exponentials(float *scores, int count) {
    const int end = padded(count, TILE);
    for (int i = count; i < end; i++)
        scores[i] = -INFINITY;
    Vector best = splat(-INFINITY), sum = {0};
    for (int i = 0; i < end; i += LANES)
        best = greater(load(scores + i), best);
    float most = largest(best);
    for (int i = 0; i < end; i += LANES)
        store(scores + i, exponential(load(scores + i) - most));
    memset(scores + count, 0, (size_t)(end - count) * sizeof(float));
    for (int i = 0; i < end; i += LANES)
        sum += load(scores + i);
    return total(sum);
}

// One vector of the result: the sum of count values (LANES), stride apart, times their weights.
static Vector average(const float *weights, const float *values, int stride, int count) {
    Vector sum[4] = {{0}};
    for (int t = 0; t < count; t += 4) // weights past count are 0
        for (int u = 0; u < 4; u++)
            sum[u] += weights[t + u] * load(values + (size_t)(t + u) * stride);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// One head's attention: take in k and v at this position, look back with q, write y (D).
static void attend(const Worker *w, Layer *layer, int head, float *qkv, float *y) {
    const Gpt *g = w->gpt;
    const int D = g->width / g->heads, stride = padded(D, LANES), slots = padded(g->block, TILE), here = g->here;
    float *keys = layer->keys + (size_t)head * slots * D, *values = layer->values + (size_t)head * slots * stride;
    float *tile = keys + (size_t)(here / TILE) * D * TILE + here % TILE;
    for (int d = 0; d < D; d++) {
        tile[d * TILE] = qkv[D + d];
        qkv[d] /= sqrtf((float)D);
    }
    memcpy(values + (size_t)here * stride, qkv + 2 * D, (size_t)D * sizeof(float));
    score(qkv, keys, here / TILE + 1, D, w->scores);
    float sum = exponentials(w->scores, here + 1);
    for (int d = 0; d < D; d += LANES) {
        Vector part = average(w->scores, values + d, stride, here + 1) / sum;
        memcpy(y + d, &part, sizeof(float) * (size_t)(D - d < LANES ? D - d : LANES));
    }
}

// Multiply this thread's share of a matrix's rows into y and return where they begin and end.
static void own_rows(const Worker *w, const Matrix *m, const Input *in, float *y, int *begin, int *end) {
    int first = share(w, panels(m), w->index), last = share(w, panels(m), w->index + 1);
    multiply(m, in, first, last, y);
    *begin = first * PANEL;
    *end = last * PANEL;
}

static void add_to_stream(const Worker *w, const Matrix *m, const float *x) {
    Input in = input(w, x, m->cols);
    int begin, end;
    own_rows(w, m, &in, w->rows, &begin, &end);
    float *stream = w->gpt->stream;
    for (int i = begin; i < end; i += LANES)
        store(stream + i, load(stream + i) + load(w->rows + i));
    barrier(w->gpt);
}

static void attention(const Worker *w, Layer *layer) {
    Gpt *g = w->gpt;
    const int D = g->width / g->heads;
    Input in = input(w, normalise(w, &layer->norm1), g->width);
    for (int head = share(w, g->heads, w->index); head < share(w, g->heads, w->index + 1); head++) {
        multiply(&layer->qkv[head], &in, 0, panels(&layer->qkv[head]), w->rows);
        attend(w, layer, head, w->rows, g->attended + head * D);
    }
    barrier(g);
    add_to_stream(w, &layer->out, g->attended);
}

static void feed_forward(const Worker *w, Layer *layer) {
    Gpt *g = w->gpt;
    Input in = input(w, normalise(w, &layer->norm2), g->width);
    int begin, end;
    own_rows(w, &layer->up, &in, g->hidden, &begin, &end);
    for (int i = begin; i < end; i += LANES)
        store(g->hidden + i, gelu(load(g->hidden + i)));
    barrier(g);
    add_to_stream(w, &layer->down, g->hidden);
}

static void forward(const Worker *w) {
    Gpt *g = w->gpt;
    for (int l = 0; l < g->layers; l++) {
        attention(w, &g->layer[l]);
        feed_forward(w, &g->layer[l]);
    }
    if (g->wanted) {
        Input in = input(w, normalise(w, &g->norm), g->width);
        int begin, end;
        own_rows(w, &g->head, &in, g->logits, &begin, &end);
    }
    barrier(g);
}

// ---- The threads. They wait at a gate between tokens, and sleep there when no token comes. ----

static void wait_at_gate(Gpt *g, int seen) {
    for (int turn = 0; turn < 1000; turn++) {
        if (atomic_load_explicit(&g->round, memory_order_acquire) != seen)
            return;
        wait_a_turn(turn);
    }
    pthread_mutex_lock(&g->lock);
    while (atomic_load(&g->round) == seen)
        pthread_cond_wait(&g->opened, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void open_gate(Gpt *g) {
    pthread_mutex_lock(&g->lock);
    atomic_fetch_add_explicit(&g->round, 1, memory_order_release);
    pthread_mutex_unlock(&g->lock);
    pthread_cond_broadcast(&g->opened);
}

static void *work(void *worker) {
    const Worker *w = worker;
    for (int round = 0;; round++) {
        wait_at_gate(w->gpt, round);
        if (w->gpt->closing)
            return NULL;
        forward(w);
    }
}

static void run_token(Gpt *g, int token, int position, int wanted) {
    for (int i = 0; i < g->width; i++)
        g->stream[i] = g->token[(size_t)token * g->width + i] + g->position[(size_t)position * g->width + i];
    g->here = position;
    g->wanted = wanted;
    if (g->threads > 1)
        open_gate(g);
    forward(&g->worker[0]);
}

// Learned positions end at the block: when the cache is full, fill it again from its last half.
static void refill(Gpt *g) {
    const int half = g->block / 2;
    memmove(g->history, g->history + half, (size_t)half * sizeof *g->history);
    for (g->filled = 0; g->filled < half; g->filled++)
        run_token(g, g->history[g->filled], g->filled, 0);
}

// ---- Reading a model: a header, then the tensors in the order of read_tensors, all little-endian. ----

typedef struct {
    char magic[8];
    uint32_t version, checksum; // CRC-32 of all that follows
    uint32_t int8, layers, heads, width, block, vocab;
} Header;

static _Thread_local char message[512];

const char *gpt_message(void) { return message; }

static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
}

static uint32_t crc32(const unsigned char *data, size_t count) {
    uint32_t table[256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
    for (size_t i = 0; i < count; i++)
        crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xff];
    return ~crc;
}

static unsigned char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        say("%s cannot be opened; check the path", path);
        return NULL;
    }
    long end = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    unsigned char *data = end < 0 ? NULL : malloc((size_t)end + 1);
    rewind(file);
    *size = data ? fread(data, 1, (size_t)end, file) : 0;
    fclose(file);
    if (!data || *size != (size_t)end) {
        say("%s cannot be read whole; check that it is a file and that memory is left", path);
        free(data);
        return NULL;
    }
    return data;
}

static int shape_is_sound(const Header *h) {
    const uint32_t most = 1 << 14; // far above the book's models, far below an overflow
    return h->layers - 1 < most && h->heads - 1 < most && h->width - 1 < most && h->block - 1 < most &&
           h->vocab - 1 < most && h->int8 < 2 && h->width % h->heads == 0 && h->block % 2 == 0;
}

static size_t matrix_bytes(const Header *h, size_t rows, size_t cols) {
    return rows * (h->int8 ? 4 + cols : 4 * cols); // INT8 has a scale a row
}

static size_t payload_bytes(const Header *h) {
    size_t C = h->width;
    size_t matrices = matrix_bytes(h, 3 * C, C) + matrix_bytes(h, C, C) + matrix_bytes(h, 4 * C, C) +
                      matrix_bytes(h, C, 4 * C);
    size_t vectors = 4 * (4 * C + 3 * C + C + 4 * C + C); // two norms, four biases
    return matrix_bytes(h, h->vocab, C) + 4 * h->block * C + h->layers * (matrices + vectors) + 4 * 2 * C;
}

// Return whether data is a whole, undamaged model of this version, and say what is wrong if not.
static int is_sound(const char *path, const unsigned char *data, size_t size, Header *h) {
    if (size < sizeof *h || memcmp(data, "BOOKGPT", 8)) {
        say("%s is not one of this book's C models; write it with lib.cpu.pack", path);
        return 0;
    }
    memcpy(h, data, sizeof *h);
    if (h->version != 1) {
        say("%s is of version %u and this program reads version 1; write it again with lib.cpu.pack", path, h->version);
        return 0;
    }
    if (!shape_is_sound(h)) {
        say("%s has a damaged header, whose shape is no model's; write it again with lib.cpu.pack", path);
        return 0;
    }
    if (size != sizeof *h + payload_bytes(h)) {
        say("%s is truncated or too long, with %zu bytes for %zu; write it again with lib.cpu.pack", path, size,
            sizeof *h + payload_bytes(h));
        return 0;
    }
    size_t start = offsetof(Header, checksum) + sizeof h->checksum;
    if (crc32(data + start, size - start) != h->checksum) {
        say("%s is damaged: its checksum does not fit its contents; write it again with lib.cpu.pack", path);
        return 0;
    }
    return 1;
}

// Memory is laid out twice: first from address 0, to learn how much there is, then in the arena. What a
// step reads one after the other lies so, from 64-byte lines.
static void *place(uintptr_t *end, size_t bytes) {
    void *start = (void *)*end;
    *end += (bytes + 63) / 64 * 64;
    return start;
}

static float *place_floats(uintptr_t *end, size_t count) { return place(end, count * sizeof(float)); }

static void place_norm(uintptr_t *end, Norm *norm, int width) {
    norm->gain = place_floats(end, (size_t)padded(width, LANES));
    norm->bias = place_floats(end, (size_t)padded(width, LANES));
}

static void place_matrix(uintptr_t *end, Matrix *m, int rows, int cols, int int8) {
    size_t high = (size_t)padded(rows, PANEL);
    m->rows = rows;
    m->cols = cols;
    if (int8) {
        m->code = place(end, high * padded(cols, DEPTH));
        m->scale = place_floats(end, high);
        m->sum = place_floats(end, high);
    } else {
        m->weight = place_floats(end, high * padded(cols, UNROLL));
    }
    m->bias = place_floats(end, high);
}

static void place_layer(uintptr_t *end, const Gpt *g, Layer *layer) {
    const int C = g->width, D = C / g->heads, slots = padded(g->block, TILE);
    place_norm(end, &layer->norm1, C);
    for (int head = 0; head < g->heads; head++)
        place_matrix(end, &layer->qkv[head], 3 * D, C, g->int8);
    layer->keys = place_floats(end, (size_t)g->heads * slots * D);
    layer->values = place_floats(end, (size_t)g->heads * slots * padded(D, LANES));
    place_matrix(end, &layer->out, C, C, g->int8);
    place_norm(end, &layer->norm2, C);
    place_matrix(end, &layer->up, 4 * C, C, g->int8);
    place_matrix(end, &layer->down, C, 4 * C, g->int8);
}

static void place_all(uintptr_t *end, Gpt *g, int threads) {
    const size_t C = g->width, wide = padded(4 * g->width, DEPTH) + PANEL; // a head's 3D rows, padded, fit too
    for (int l = 0; l < g->layers; l++) {
        g->layer[l].qkv = g->qkv + (size_t)l * g->heads;
        place_layer(end, g, &g->layer[l]);
    }
    place_norm(end, &g->norm, g->width);
    place_matrix(end, &g->head, g->vocab, g->width, g->int8);
    g->token = place_floats(end, g->vocab * C);
    g->position = place_floats(end, g->block * C);
    g->stream = place_floats(end, wide);
    g->attended = place_floats(end, wide);
    g->hidden = place_floats(end, wide);
    g->logits = place_floats(end, (size_t)padded(g->vocab, PANEL));
    g->history = place(end, g->block * sizeof(int));
    for (int i = 0; i < threads; i++) {
        g->worker[i].normed = place_floats(end, wide);
        g->worker[i].code = place(end, wide);
        g->worker[i].rows = place_floats(end, wide);
        g->worker[i].scores = place_floats(end, (size_t)padded(g->block, TILE));
    }
}

static void read_floats(const unsigned char **data, float *x, size_t count) {
    memcpy(x, *data, count * sizeof(float));
    *data += count * sizeof(float);
}

static void read_norm(const unsigned char **data, Norm *norm, int width) {
    read_floats(data, norm->gain, (size_t)width);
    read_floats(data, norm->bias, (size_t)width);
}

// Where a file's row goes. All matrices keep their rows but qkv, whose file rows are all heads' q, all k, all v.
typedef struct {
    Matrix *matrix;
    int row;
} Place;

static Place row_place(Matrix *matrices, int heads, int row) {
    if (heads == 0)
        return (Place){matrices, row};
    int D = matrices->rows / 3, C = D * heads;
    return (Place){&matrices[row % C / D], row / C * D + row % D};
}

static void put_fp32(Place at, const unsigned char **data) {
    Matrix *m = at.matrix;
    float *lane = m->weight + (size_t)(at.row / PANEL) * padded(m->cols, UNROLL) * PANEL + at.row % PANEL;
    for (int i = 0; i < m->cols; i++)
        read_floats(data, lane + (size_t)i * PANEL, 1);
}

static void put_int8(Place at, const unsigned char **data) {
    Matrix *m = at.matrix;
    int8_t *code = m->code + (size_t)at.row * padded(m->cols, DEPTH);
    read_floats(data, &m->scale[at.row], 1);
    memcpy(code, *data, (size_t)m->cols);
    *data += m->cols;
    for (int i = 0; i < m->cols; i++)
        m->sum[at.row] += code[i];
}

static void read_weights(const unsigned char **data, Matrix *matrices, int heads, int rows, int int8) {
    for (int row = 0; row < rows; row++)
        (int8 ? put_int8 : put_fp32)(row_place(matrices, heads, row), data);
}

static void read_matrix(const unsigned char **data, Matrix *matrices, int heads, int rows, int int8) {
    read_weights(data, matrices, heads, rows, int8);
    for (int row = 0; row < rows; row++) {
        Place at = row_place(matrices, heads, row);
        read_floats(data, &at.matrix->bias[at.row], 1);
    }
}

// The token embedding is the head's weights; for looking up, its rows are kept as floats as well.
static void read_embedding(const unsigned char **data, Gpt *g) {
    const size_t C = g->width;
    const unsigned char *row = *data;
    read_weights(data, &g->head, 0, g->vocab, g->int8);
    for (int v = 0; v < g->vocab; v++)
        if (g->int8) {
            row += sizeof(float);
            for (size_t i = 0; i < C; i++)
                g->token[v * C + i] = (float)(int8_t)*row++ * g->head.scale[v];
        } else {
            read_floats(&row, g->token + v * C, C);
        }
}

static void read_tensors(const unsigned char *data, Gpt *g) {
    const int C = g->width;
    read_embedding(&data, g);
    read_floats(&data, g->position, (size_t)g->block * C);
    for (int l = 0; l < g->layers; l++) {
        Layer *layer = &g->layer[l];
        read_norm(&data, &layer->norm1, C);
        read_matrix(&data, layer->qkv, g->heads, 3 * C, g->int8);
        read_matrix(&data, &layer->out, 0, C, g->int8);
        read_norm(&data, &layer->norm2, C);
        read_matrix(&data, &layer->up, 0, 4 * C, g->int8);
        read_matrix(&data, &layer->down, 0, C, g->int8);
    }
    read_norm(&data, &g->norm, C);
}

// ---- The library. Every function but gpt_open takes what gpt_open returned. ----

void gpt_close(Gpt *g) {
    if (!g)
        return;
    g->closing = 1;
    open_gate(g);
    for (int i = 1; i < g->threads; i++)
        pthread_join(g->worker[i].thread, NULL);
    free(g->layer);
    free(g->qkv);
    free(g->arena);
    free(g);
}

// Forget all tokens. The cache is cleared too, so that not even a NaN of an earlier text can be met again.
void gpt_reset(Gpt *g) {
    const size_t D = g->width / g->heads, slots = (size_t)g->heads * padded(g->block, TILE);
    for (int l = 0; l < g->layers; l++) {
        memset(g->layer[l].keys, 0, slots * D * sizeof(float));
        memset(g->layer[l].values, 0, slots * padded((int)D, LANES) * sizeof(float));
    }
    g->filled = 0;
}

// Get the memory for a model of this shape; NULL if there is not enough.
static Gpt *allocate(const Header *h, int threads) {
    Gpt *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->opened, NULL);
    g->threads = 1; // those that gpt_close has to end are counted as they start
    g->layers = (int)h->layers, g->heads = (int)h->heads, g->width = (int)h->width;
    g->block = (int)h->block, g->vocab = (int)h->vocab, g->int8 = (int)h->int8;
    g->layer = calloc(h->layers, sizeof *g->layer);
    g->qkv = calloc((size_t)h->layers * h->heads, sizeof *g->qkv);
    uintptr_t bytes = 0;
    if (g->layer && g->qkv) {
        place_all(&bytes, g, threads);
        g->arena = aligned_alloc(64, bytes);
    }
    if (!g->arena) {
        gpt_close(g);
        return NULL;
    }
    memset(g->arena, 0, bytes);
    uintptr_t start = (uintptr_t)g->arena;
    place_all(&start, g, threads);
    return g;
}

// Start all threads but the first, which is whoever calls gpt_step. Return whether all started.
static int start_threads(Gpt *g, int threads) {
    for (int i = 0; i < threads; i++) {
        g->worker[i].gpt = g;
        g->worker[i].index = i;
    }
    for (int i = 1; i < threads; i++, g->threads++)
        if (pthread_create(&g->worker[i].thread, NULL, work, &g->worker[i]))
            return 0;
    return 1;
}

// Open a model for so many threads. Returns NULL, and gpt_message says why, if it cannot be used.
Gpt *gpt_open(const char *path, int threads) {
    if (threads < 1 || threads > MAX_THREADS) {
        say("%d threads were asked for; choose 1 to %d", threads, MAX_THREADS);
        return NULL;
    }
    Header h;
    size_t size;
    unsigned char *data = read_file(path, &size);
    if (!data)
        return NULL;
    Gpt *g = NULL;
    if (is_sound(path, data, size, &h)) {
        g = allocate(&h, threads);
        if (g)
            read_tensors(data + sizeof h, g);
        else
            say("%s needs more memory than there is; close other programs", path);
    }
    free(data);
    if (g && !start_threads(g, threads)) {
        say("the system does not start %d threads; ask for fewer", threads);
        gpt_close(g);
        return NULL;
    }
    return g;
}

// Write the model's shape: layers, heads, width, block, vocabulary, and 1 for INT8 or 0 for FP32.
void gpt_shape(const Gpt *g, int32_t shape[6]) {
    const int sizes[6] = {g->layers, g->heads, g->width, g->block, g->vocab, g->int8};
    for (int i = 0; i < 6; i++)
        shape[i] = sizes[i];
}

// Take the next token; return the logits (V) over the one after it, valid until the next call, or NULL if
// the token is outside the vocabulary.
const float *gpt_step(Gpt *g, int token) {
    if (token < 0 || token >= g->vocab) {
        say("the token %d is outside the vocabulary of 0 to %d; encode the text with lib.text", token, g->vocab - 1);
        return NULL;
    }
    if (g->filled == g->block)
        refill(g);
    g->history[g->filled] = token;
    run_token(g, token, g->filled, 1);
    g->filled++;
    return g->logits;
}

// The vector functions on their own, x to y (count, in place), for their tests: 0 exp, 1 erf, 2 GELU.
void gpt_function(int which, float *x, int count) {
    Vector (*const functions[])(Vector) = {exponential, erf_of, gelu};
    for (int i = 0; i < count; i++)
        x[i] = functions[which](splat(x[i]))[0];
}

// ---- The program. ----

#ifndef GPT_LIBRARY

// The book's alphabet, as in lib/text.py: newline, printable ASCII, and END, which no prompt can hold.
enum { END = 96, SYMBOLS = 97 };

static int symbol(unsigned char c) { return c == '\n' ? 0 : c >= 32 && c < 127 ? c - 31 : -1; }

static void print_symbol(int s) {
    if (s == END)
        fputs("<|endoftext|>", stdout);
    else
        putchar(s ? s + 31 : '\n');
}

static int likeliest(const float *logits, int count) {
    int best = 0;
    for (int i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Return whether the prompt fits the model, and say what is wrong if not.
static int fits(const Gpt *g, const char *prompt) {
    if (g->vocab != SYMBOLS) {
        say("the model has %d symbols and the book's alphabet %d; use the library for it", g->vocab, SYMBOLS);
        return 0;
    }
    size_t count = strlen(prompt);
    if (count < 1 || count > (size_t)g->block) {
        say("the prompt has %zu characters and the model takes 1 to %d; change it", count, g->block);
        return 0;
    }
    for (const char *c = prompt; *c; c++)
        if (symbol((unsigned char)*c) < 0) {
            say("the prompt holds the byte 0x%02X, outside the alphabet of newline and printable ASCII; replace it",
                (unsigned char)*c);
            return 0;
        }
    return 1;
}

static int whole_number(const char *text, long *value) {
    char *end;
    *value = strtol(text, &end, 10);
    return *text && !*end && *value >= 0 && *value <= 1000000000;
}

static int fail(Gpt *g) {
    fprintf(stderr, "error: %s\n", message);
    gpt_close(g);
    return 2;
}

static void generate(Gpt *g, const char *prompt, long length) {
    double start = seconds(), first = start;
    const float *logits = NULL;
    for (const char *c = prompt; *c; c++)
        logits = gpt_step(g, symbol((unsigned char)*c));
    for (long i = 0; i < length; i++) {
        int next = likeliest(logits, g->vocab);
        print_symbol(next);
        if (i == 0)
            first = seconds();
        if (i < length - 1)
            logits = gpt_step(g, next);
    }
    putchar('\n');
    if (length > 1)
        fprintf(stderr, "first character after %.3f ms, then %.0f characters/s, %s, threads: %d\n",
                1e3 * (first - start), (double)(length - 1) / (seconds() - first), g->int8 ? "INT8" : "FP32",
                g->threads);
}

int main(int count, char **words) {
    long length, threads = 1;
    if (count < 4 || count > 5 || !whole_number(words[3], &length) ||
        (count == 5 && !whole_number(words[4], &threads))) {
        fprintf(stderr, "usage: %s model.bin \"prompt\" length [threads]\n", words[0]);
        return 2;
    }
    Gpt *g = gpt_open(words[1], (int)threads);
    if (!g || !fits(g, words[2]))
        return fail(g);
    generate(g, words[2], length);
    gpt_close(g);
    return 0;
}

#endif
