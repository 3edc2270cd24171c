// One forward pass of a Llama or Qwen2 over tokens whose keys and values go into a cache; called by zero/cpu/decoder.py.
//
// Weights are kept as panels [out / PANEL, in, PANEL], and so is the cache of each row and key head: keys [blocks of PANEL
// positions][D][PANEL], values [D / PANEL][positions][PANEL]. Attention is then the same loop as the products.

#include "tiles.h"
#include <algorithm>

namespace {

// y[rows, panels * PANEL] (+)= x[rows, inner] w
void product(Int rows, const float *x, Int ldx, const float *w, float *y, Int ldy, Int inner, Int panels, Into into) {
    for (Int p = 0; p < panels; p++) column(rows, x, ldx, 1, w + p * inner * PANEL, y + p * PANEL, ldy, inner, into);
}

// y = x / sqrt(|x|^2 + n eps): RMS norm but for a gain of sqrt(n), which the weights hold. Rows are padded with zeros.
void normed(Int rows, const float *x, float *y, Int n, float eps) {
    const Int ld = up(n);
    for (const float *end = x + rows * ld; x < end; x += ld, y += ld) {
        Vector squares = {};
        for (Int i = 0; i < ld; i += WIDTH) squares += load(x + i) * load(x + i);
        const float by = 1 / std::sqrt(sum(squares) + n * eps);
        for (Int i = 0; i < ld; i += WIDTH) store(y + i, load(x + i) * by);
    }
}

}  // namespace

extern "C" {

extern const Int panel = PANEL;

struct DecodeLayer {
    const float *qkv, *bias, *out, *gate_up, *down;  // the gains of the norms are in them; bias may be null
};

struct DecodeModel {
    Int layers, hidden, inner, heads, kv, dim, positions, vocabulary;  // positions and vocabulary in whole panels
    const float *embed, *turn, *head;                                  // turn [positions, D]: D/2 cosines, D/2 sines
    const DecodeLayer *layer;
    float eps;
};

// Floats of working memory for so many tokens.
Int decode_room(const DecodeModel *m, Int tokens) {
    const Int ld = 2 * up(m->hidden) + up((m->heads + 2 * m->kv) * m->dim) + m->heads * m->dim + 2 * up(m->inner);
    return tokens * ld + m->heads / m->kv * m->positions;
}

// Tokens ids[M] at position[M] of the cache's rows slot[M]. The keys of all are stored before any of them looks back, and a
// token sees positions up to its own: a prompt may come in one call, in any order. logits [last, vocabulary] are those of the
// `last` last tokens. cache [layers, 2, slots, kv, positions * D].
void decode(const DecodeModel *m, float *cache, Int slots, const Int *ids, const Int *position, const Int *slot, Int tokens,
            Int last, float *work, float *logits) {
    const Int width = up(m->hidden), inner = up(m->inner), heads = m->heads, kv = m->kv, dim = m->dim, shared = heads / kv;
    const Int ld = up((heads + 2 * kv) * dim), one = m->positions * dim, all = slots * kv * one;
    float *x = work, *h = x + tokens * width, *qkv = h + tokens * width, *mixed = qkv + tokens * ld;
    float *gate = mixed + tokens * heads * dim, *scores = gate + tokens * 2 * inner;
    for (Int r = 0; r < tokens; r++) memcpy(x + r * width, m->embed + ids[r] * width, 4 * width);
    for (Int i = 0; i < m->layers; i++) {
        const DecodeLayer &w = m->layer[i];
        float *keys = cache + 2 * i * all, *values = keys + all;
        normed(tokens, x, h, m->hidden, m->eps);
        for (Int r = 0; w.bias && r < tokens; r++) memcpy(qkv + r * ld, w.bias, 4 * ld);
        product(tokens, h, width, w.qkv, qkv, ld, m->hidden, ld / PANEL, w.bias ? ADD : SET);
        for (Int r = 0; r < tokens; r++) {
            const float *k = qkv + r * ld + heads * dim, *v = k + kv * dim;
            const Int t = position[r];
            turn(qkv + r * ld, m->turn + t * dim, heads + kv, dim, 1);
            for (Int g = slot[r] * kv; g < (slot[r] + 1) * kv; g++, k += dim, v += dim) {
                for (Int d = 0; d < dim; d++) keys[g * one + t / PANEL * PANEL * dim + d * PANEL + t % PANEL] = k[d];
                for (Int d = 0; d < dim; d += PANEL) memcpy(values + g * one + d * m->positions + t * PANEL, v + d, 4 * PANEL);
            }
        }
        for (Int r = 0; r < tokens; r++)
            for (Int g = 0; g < kv; g++) {  // the queries of a token that share a key head
                const Int length = position[r] + 1, blocks = up(length), at = (slot[r] * kv + g) * one;
                const float *q = qkv + r * ld + g * shared * dim;
                float *y = mixed + (r * heads + g * shared) * dim;
                for (Int t = 0; t < blocks; t += PANEL) column(shared, q, dim, 1, keys + at + t * dim, scores + t, blocks, dim, SET);
                for (Int a = 0; a < shared; a++) softmax(scores + a * blocks, length);
                for (Int d = 0; d < dim; d += PANEL)
                    column(shared, scores, blocks, 1, values + at + d * m->positions, y + d, dim, length, SET);
            }
        product(tokens, mixed, heads * dim, w.out, x, width, heads * dim, width / PANEL, ADD);
        normed(tokens, x, h, m->hidden, m->eps);
        product(tokens, h, width, w.gate_up, gate, 2 * inner, m->hidden, 2 * inner / PANEL, SET);
        for (Int r = 0; r < tokens; r++)
            for (float *g = gate + r * 2 * inner, *end = g + inner; g < end; g += WIDTH)
                store(g, load(g) / (1.0f + exponential(-load(g))) * load(g + inner));
        product(tokens, gate, 2 * inner, w.down, x, width, m->inner, width / PANEL, ADD);
    }
    normed(last, x + (tokens - last) * width, h, m->hidden, m->eps);
    product(last, h, width, m->head, logits, m->vocabulary, m->hidden, m->vocabulary / PANEL, SET);
}

// Of each row of logits [N, ld] / temperature, the first `vocabulary` of them, a token by inverting the cumulative distribution at
// `uniform`, and its log-probability. ld is in whole panels; what lies beyond the vocabulary is overwritten.
void draw(float *logits, Int rows, Int vocabulary, Int ld, float temperature, const float *uniform, Int *token, float *logprob) {
    constexpr Int BLOCK = 64 * WIDTH;
    for (Int r = 0; r < rows; r++, logits += ld) {
        for (Int t = vocabulary; t < up(vocabulary); t++) logits[t] = -INFINITY;
        const float highest = largest(logits, vocabulary);
        const auto weights = [&](Int t) { return exponential((load(logits + t) - highest) / temperature); };
        const auto weight = [&](Int from) {
            Vector of = {};
            for (Int t = from; t < std::min(from + BLOCK, vocabulary); t += WIDTH) of += weights(t);
            return (double)sum(of);
        };
        double total = 0, before = 0;
        for (Int t = 0; t < vocabulary; t += BLOCK) total += weight(t);
        const double target = uniform[r] * total;
        Int block = 0, found = 0;
        for (; block + BLOCK < vocabulary; block += BLOCK) {
            const double own = weight(block);
            if (before + own > target) break;
            before += own;
        }
        for (Int t = block; t < std::min(block + BLOCK, vocabulary) && before <= target; t += WIDTH) {
            const Vector of = weights(t);
            for (int i = 0; i < WIDTH && before <= target; i++)
                if (of[i] > 1e-37f) before += of[i], found = t + i;  // the rest cannot be drawn, however the sums are rounded
        }
        token[r] = found;
        logprob[r] = (logits[found] - highest) / temperature - (float)std::log(total);
    }
}

}
