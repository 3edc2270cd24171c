// A layer of a Llama or Qwen2 over the tokens of a packed batch, forward and backward; called by zero/cpu/layers.py.
//
// The tokens of prompts and of responses lie in one row of M (zero/cpu/packing.py). A segment is a stretch of it whose
// tokens see a prefix, lying elsewhere, and those of the segment up to themselves. All matrices are row by row; the weights are
// those of torch, [out, in].

#include "tiles.h"
#include <algorithm>

namespace {

constexpr Int DEEP = 256, TALL = 16 * ROWS;  // of a block: its panel stays in the first cache, its rows in the second
constexpr Int BROAD = 64 * ROWS * WIDTH;  // rows and columns that are packed at once: whole tiles, whole panels
constexpr Int QUERIES = 24;                  // of a block of attention

struct Matrix {
    const float *at;
    Int down, along;  // from row to row, from column to column: one of them is 1
};

// b's rows [k0, k0 + deep) as panels [n / PANEL][deep][PANEL], zeros beyond n.
void pack_right(Int n, Int k0, Int deep, Matrix b, float *to) {
    for (Int c = 0; c < n; c += PANEL, to += deep * PANEL) {
        const float *from = b.at + k0 * b.down + c * b.along;
        const Int wide = std::min(PANEL, n - c);
        if (wide < PANEL) memset(to, 0, 4 * deep * PANEL);
        for (Int i = 0; b.along == 1 && i < deep; i++) memcpy(to + i * PANEL, from + i * b.down, 4 * wide);
        for (Int j = 0; b.along != 1 && j < wide; j++)
            for (Int i = 0; i < deep; i++) to[i * PANEL + j] = from[j * b.along + i];
    }
}

// a's columns [k0, k0 + deep), which lie one by one in memory, as [m / ROWS][deep][ROWS].
void pack_left(Int m, Int k0, Int deep, Matrix a, float *to) {
    for (Int i = 0; i < deep; i++) {
        const float *from = a.at + (k0 + i) * a.along;
        Int r = 0;
        for (; r + ROWS <= m; r += ROWS) memcpy(to + r * deep + i * ROWS, from + r, 4 * ROWS);
        if (r < m) memcpy(to + r * deep + i * ROWS, from + r, 4 * (m - r));
    }
}

constexpr Int PRODUCT_ROOM = DEEP * (2 * BROAD + PANEL + ROWS) + TALL * PANEL;  // floats of working memory for `multiply`

// y[m, n] (+)= a[m, k] b[k, n] for at most BROAD rows and columns
void multiply_block(Int m, Int n, Int k, Matrix a, Matrix b, float *y, Int ldy, Into into, float *work) {
    float *right = work, *left = right + DEEP * (BROAD + PANEL), *edge = left + DEEP * (BROAD + ROWS);
    for (Int k0 = 0; k0 < k; k0 += DEEP, into = ADD) {
        const Int deep = std::min(DEEP, k - k0);
        pack_right(n, k0, deep, b, right);
        if (a.along != 1) pack_left(m, k0, deep, a, left);
        for (Int r = 0; r < m; r += TALL)
            for (Int c = 0; c < n; c += PANEL) {
                const Int tall = std::min(TALL, m - r), wide = std::min(PANEL, n - c), ld = wide < PANEL ? PANEL : ldy;
                const float *panel = right + c * deep;
                const Into how = wide < PANEL ? SET : into;
                float *to = wide < PANEL ? edge : y + r * ldy + c;
                if (a.along == 1)
                    column(tall, a.at + r * a.down + k0, a.down, 1, panel, to, ld, deep, how);
                else
                    for (Int t = 0; t < tall; t += ROWS)
                        tiles<ROWS>(std::min<Int>(ROWS, tall - t), left + (r + t) * deep, 1, ROWS, panel, to + t * ld, ld, deep, how);
                for (Int i = 0; wide < PANEL && i < tall; i++)
                    for (Int j = 0; j < wide; j++)
                        y[(r + i) * ldy + c + j] = edge[i * PANEL + j] + (into == ADD ? y[(r + i) * ldy + c + j] : 0);
            }
    }
}

// y[m, n] (+)= a[m, k] b[k, n]
void multiply(Int m, Int n, Int k, Matrix a, Matrix b, float *y, Int ldy, Into into, float *work) {
    for (Int c = 0; c < n; c += BROAD)
        for (Int r = 0; r < m; r += BROAD)
            multiply_block(std::min(BROAD, m - r), std::min(BROAD, n - c), k, {a.at + r * a.down, a.down, a.along},
                           {b.at + c * b.along, b.down, b.along}, y + r * ldy + c, ldy, into, work);
}

// y = x / sqrt(mean(x^2) + eps) * gain
void norm(Int rows, Int n, const float *x, const float *gain, float eps, float *y) {
    for (const float *end = x + rows * n; x < end; x += n, y += n) {
        Vector squares = {};
        for (Int i = 0; i < n; i += WIDTH) squares += load(x + i) * load(x + i);
        const float by = 1 / std::sqrt(sum(squares) / n + eps);
        for (Int i = 0; i < n; i += WIDTH) store(y + i, load(x + i) * by * load(gain + i));
    }
}

// Of what dy does to y = norm(x): dx += ..., and dgain += ..., unless it is null.
void norm_back(Int rows, Int n, const float *x, const float *gain, float eps, const float *dy, float *dx, float *dgain) {
    for (const float *end = x + rows * n; x < end; x += n, dy += n, dx += n) {
        Vector squares = {}, along = {};
        for (Int i = 0; i < n; i += WIDTH) {
            squares += load(x + i) * load(x + i);
            along += load(dy + i) * load(gain + i) * load(x + i);
        }
        const float by = 1 / std::sqrt(sum(squares) / n + eps), less = sum(along) * by * by * by / n;
        for (Int i = 0; i < n; i += WIDTH) {
            store(dx + i, load(dx + i) + load(dy + i) * load(gain + i) * by - load(x + i) * less);
            if (dgain) store(dgain + i, load(dgain + i) + load(dy + i) * load(x + i) * by);
        }
    }
}

}  // namespace

extern "C" {

struct TrainShape {
    Int tokens, hidden, inner, heads, kv, dim, segments, longest;  // longest: the most positions that a token sees
    const Int *segment;                                            // [segments, 4]: first, count, first of prefix, its count
    const float *turn;                                             // [M, D]: D/2 cosines, D/2 sines
    float eps;
};

struct TrainWeights {  // or their gradients, null where none is wanted
    float *norm, *qkv, *bias, *out, *mlp_norm, *gate_up, *down;
};

struct TrainKept {  // between forward and backward: x and mid [M, hidden], qkv [M, (heads + 2 kv) D], logsum [M, heads],
    float *x, *qkv, *logsum, *mixed, *mid, *gated;  // mixed [M, heads D], gated [3, M, inner]: see `gate`
};

// Floats of working memory.
Int train_room(const TrainShape *s) {
    const Int attention = 3 * up(s->longest) * s->dim + 2 * QUERIES * (up(s->longest) + s->dim);
    const Int rows = s->hidden + 3 * s->inner + (2 * s->heads + 2 * s->kv) * s->dim;
    return std::max(PRODUCT_ROOM, attention) + s->tokens * rows;
}

extern const Int product_room = PRODUCT_ROOM;

// y[m, n] = a[m, k] b[k, n], each given by its address and its steps from row to row and from column to column.
void train_multiply(Int m, Int n, Int k, const float *a, Int a_down, Int a_along, const float *b, Int b_down, Int b_along, float *y,
                    float *work) {
    multiply(m, n, k, {a, a_down, a_along}, {b, b_down, b_along}, y, n, SET, work);
}

}

namespace {

// The keys or values of a segment's positions, at `offset` of a token, as panels: of positions [blocks][D][PANEL], or of
// dimensions [D / PANEL][positions][PANEL].
struct Seen {
    const TrainShape &s;
    const Int *segment;
    const float *qkv;
    Int ld;

    Int count() const { return segment[1] + segment[3]; }
    Int token(Int t) const { return t < segment[3] ? segment[2] + t : segment[0] + t - segment[3]; }

    void by_position(Int offset, float *to) const {
        for (Int t = 0; t < count(); t++)
            for (Int d = 0; d < s.dim; d++)
                to[t / PANEL * PANEL * s.dim + d * PANEL + t % PANEL] = qkv[token(t) * ld + offset + d];
    }
    void by_dimension(Int offset, float *to) const {
        for (Int t = 0; t < count(); t++)
            for (Int d = 0; d < s.dim; d += PANEL) memcpy(to + d * count() + t * PANEL, qkv + token(t) * ld + offset + d, 4 * PANEL);
    }
};

void attention(const TrainShape &s, const TrainKept &kept, float *work) {
    const Int ld = (s.heads + 2 * s.kv) * s.dim, shared = s.heads / s.kv, wide = s.heads * s.dim;
    for (Int n = 0; n < s.segments; n++) {
        const Seen seen = {s, s.segment + 4 * n, kept.qkv, ld};
        const Int first = seen.segment[0], own = seen.segment[1], prefix = seen.segment[3];
        float *keys = work, *values = keys + up(seen.count()) * s.dim, *scores = values + up(seen.count()) * s.dim;
        for (Int g = 0; g < s.kv; g++) {
            seen.by_position((s.heads + g) * s.dim, keys);
            seen.by_dimension((s.heads + s.kv + g) * s.dim, values);
            for (Int h = g * shared; h < (g + 1) * shared; h++)
                for (Int i = 0; i < own; i += QUERIES) {
                    const Int rows = std::min(QUERIES, own - i), end = prefix + i + rows, blocks = up(end);
                    const float *q = kept.qkv + (first + i) * ld + h * s.dim;
                    for (Int t = 0; t < end; t += PANEL) column(rows, q, ld, 1, keys + t * s.dim, scores + t, blocks, s.dim, SET);
                    for (Int r = 0; r < rows; r++) {
                        const Int length = end - rows + r + 1;
                        kept.logsum[(first + i + r) * s.heads + h] = softmax(scores + r * blocks, length);
                        for (Int t = length; t < end; t++) scores[r * blocks + t] = 0;
                    }
                    float *y = kept.mixed + (first + i) * wide + h * s.dim;
                    for (Int d = 0; d < s.dim; d += PANEL) column(rows, scores, blocks, 1, values + d * seen.count(), y + d, wide, end, SET);
                }
        }
    }
}

// dqkv += what dmixed does.
void attention_back(const TrainShape &s, const TrainKept &kept, const float *dmixed, float *dqkv, float *work) {
    const Int ld = (s.heads + 2 * s.kv) * s.dim, shared = s.heads / s.kv, wide = s.heads * s.dim, dim = s.dim;
    for (Int n = 0; n < s.segments; n++) {
        const Seen seen = {s, s.segment + 4 * n, kept.qkv, ld};
        const Int first = seen.segment[0], own = seen.segment[1], prefix = seen.segment[3], most = up(seen.count());
        float *keys = work, *turned = keys + most * dim, *values = turned + most * dim;
        float *p = values + most * dim, *dp = p + QUERIES * most, *q_panels = dp + QUERIES * most, *d_panels = q_panels + QUERIES * dim;
        for (Int g = 0; g < s.kv; g++) {
            seen.by_position((s.heads + g) * dim, keys);
            seen.by_dimension((s.heads + g) * dim, turned);
            seen.by_position((s.heads + s.kv + g) * dim, values);
            for (Int h = g * shared; h < (g + 1) * shared; h++)
                for (Int i = 0; i < own; i += QUERIES) {
                    const Int rows = std::min(QUERIES, own - i), end = prefix + i + rows, blocks = up(end), at = first + i;
                    const float *q = kept.qkv + at * ld + h * dim, *dy = dmixed + at * wide + h * dim, *y = kept.mixed + at * wide + h * dim;
                    for (Int t = 0; t < end; t += PANEL) {
                        column(rows, q, ld, 1, keys + t * dim, p + t, blocks, dim, SET);
                        column(rows, dy, wide, 1, values + t * dim, dp + t, blocks, dim, SET);
                    }
                    for (Int r = 0; r < rows; r++) {  // p = softmax, dp = what goes back through it
                        const Int length = end - rows + r + 1;
                        float *pr = p + r * blocks, *dr = dp + r * blocks;
                        const float less = kept.logsum[(at + r) * s.heads + h];
                        Vector both = {};
                        for (Int d = 0; d < dim; d += WIDTH) both += load(dy + r * wide + d) * load(y + r * wide + d);
                        const float mean = sum(both);
                        for (Int t = 0; t < length; t += WIDTH) {
                            const Vector e = exponential(load(pr + t) - less);
                            store(pr + t, e);
                            store(dr + t, e * (load(dr + t) - mean));
                        }
                        for (Int t = length; t < blocks; t++) pr[t] = dr[t] = 0;
                        for (Int d = 0; d < dim; d += PANEL) {
                            memcpy(q_panels + d * rows + r * PANEL, q + r * ld + d, 4 * PANEL);
                            memcpy(d_panels + d * rows + r * PANEL, dy + r * wide + d, 4 * PANEL);
                        }
                    }
                    const Int before = std::min(prefix, end);
                    float *to = dqkv + (s.heads + g) * dim, *old = to + seen.segment[2] * ld, *young = to + first * ld;
                    for (Int d = 0; d < dim; d += PANEL) {
                        column(rows, dp, blocks, 1, turned + d * seen.count(), dqkv + at * ld + h * dim + d, ld, end, SET);
                        column(before, dp, 1, blocks, q_panels + d * rows, old + d, ld, rows, ADD);
                        column(end - before, dp + before, 1, blocks, q_panels + d * rows, young + d, ld, rows, ADD);
                        column(before, p, 1, blocks, d_panels + d * rows, old + s.kv * dim + d, ld, rows, ADD);
                        column(end - before, p + before, 1, blocks, d_panels + d * rows, young + s.kv * dim + d, ld, rows, ADD);
                    }
                }
        }
    }
}

// qkv of the rows: queries also scaled by 1/sqrt(D). Back, if `way` is -1.
void turn_all(const TrainShape &s, float *qkv, float way) {
    const Int ld = (s.heads + 2 * s.kv) * s.dim;
    const float scale = 1 / std::sqrt((float)s.dim);
    for (Int r = 0; r < s.tokens; r++, qkv += ld) {
        turn(qkv, s.turn + r * s.dim, s.heads + s.kv, s.dim, way);
        for (Int i = 0; i < s.heads * s.dim; i += WIDTH) store(qkv + i, load(qkv + i) * scale);
    }
}

// From gate and up [M, 2 inner] the three of `gated`: y = silu(gate) up, dy / dgate, dy / dup.
void gate(const TrainShape &s, const float *gate_up, float *y) {
    float *by_gate = y + s.tokens * s.inner, *by_up = by_gate + s.tokens * s.inner;
    for (Int r = 0; r < s.tokens; r++, gate_up += 2 * s.inner, y += s.inner, by_gate += s.inner, by_up += s.inner)
        for (Int i = 0; i < s.inner; i += WIDTH) {
            const Vector g = load(gate_up + i), up = load(gate_up + s.inner + i), open = 1.0f / (1.0f + exponential(-g));
            store(y + i, g * open * up);
            store(by_gate + i, up * open * (1.0f + g * (1.0f - open)));
            store(by_up + i, g * open);
        }
}

}  // namespace

extern "C" {

// y[M, hidden] of kept.x, and what the way back needs.
void train_forward(const TrainShape *shape, const TrainWeights *w, const TrainKept *kept, float *y, float *work) {
    const TrainShape &s = *shape;
    const Int m = s.tokens, n = s.hidden, queries = s.heads * s.dim, ld = queries + 2 * s.kv * s.dim;
    float *h = work, *gate_up = h + m * n, *rest = gate_up + m * 2 * s.inner;
    norm(m, n, kept->x, w->norm, s.eps, h);
    for (Int r = 0; w->bias && r < m; r++) memcpy(kept->qkv + r * ld, w->bias, 4 * ld);
    multiply(m, ld, n, {h, n, 1}, {w->qkv, 1, n}, kept->qkv, ld, w->bias ? ADD : SET, rest);
    turn_all(s, kept->qkv, 1);
    attention(s, *kept, rest);
    memcpy(kept->mid, kept->x, 4 * m * n);
    multiply(m, n, queries, {kept->mixed, queries, 1}, {w->out, 1, queries}, kept->mid, n, ADD, rest);
    norm(m, n, kept->mid, w->mlp_norm, s.eps, h);
    multiply(m, 2 * s.inner, n, {h, n, 1}, {w->gate_up, 1, n}, gate_up, 2 * s.inner, SET, rest);
    gate(s, gate_up, kept->gated);
    memcpy(y, kept->mid, 4 * m * n);
    multiply(m, n, s.inner, {kept->gated, s.inner, 1}, {w->down, 1, s.inner}, y, n, ADD, rest);
}

// dx of kept.x from dy, both [M, hidden], and the gradients `d` of the weights: those of norms and biases are added.
void train_backward(const TrainShape *shape, const TrainWeights *w, const TrainKept *kept, const float *dy, float *dx,
                    const TrainWeights *d, float *work) {
    const TrainShape &s = *shape;
    const Int m = s.tokens, n = s.hidden, inner = s.inner, queries = s.heads * s.dim, ld = queries + 2 * s.kv * s.dim;
    float *h = work, *slope = h + m * n, *both = slope + m * inner, *dmixed = both + m * 2 * inner, *dqkv = dmixed + m * queries;
    float *rest = dqkv + m * ld;
    // The MLP.
    const float *by_gate = kept->gated + m * inner, *by_up = by_gate + m * inner;
    if (d->down) multiply(n, inner, m, {dy, 1, n}, {kept->gated, inner, 1}, d->down, inner, SET, rest);
    multiply(m, inner, n, {dy, n, 1}, {w->down, inner, 1}, slope, inner, SET, rest);
    for (Int r = 0; r < m; r++)
        for (Int i = 0; i < inner; i += WIDTH) {
            const Vector of = load(slope + r * inner + i);
            store(both + r * 2 * inner + i, of * load(by_gate + r * inner + i));
            store(both + r * 2 * inner + inner + i, of * load(by_up + r * inner + i));
        }
    norm(m, n, kept->mid, w->mlp_norm, s.eps, h);
    if (d->gate_up) multiply(2 * inner, n, m, {both, 1, 2 * inner}, {h, n, 1}, d->gate_up, n, SET, rest);
    multiply(m, n, 2 * inner, {both, 2 * inner, 1}, {w->gate_up, n, 1}, h, n, SET, rest);
    memcpy(dx, dy, 4 * m * n);
    norm_back(m, n, kept->mid, w->mlp_norm, s.eps, h, dx, d->mlp_norm);
    // Attention.
    if (d->out) multiply(n, queries, m, {dx, 1, n}, {kept->mixed, queries, 1}, d->out, queries, SET, rest);
    multiply(m, queries, n, {dx, n, 1}, {w->out, queries, 1}, dmixed, queries, SET, rest);
    memset(dqkv, 0, 4 * m * ld);
    attention_back(s, *kept, dmixed, dqkv, rest);
    turn_all(s, dqkv, -1);
    for (Int r = 0; d->bias && r < m; r++)
        for (Int i = 0; i < ld; i += WIDTH) store(d->bias + i, load(d->bias + i) + load(dqkv + r * ld + i));
    norm(m, n, kept->x, w->norm, s.eps, h);
    if (d->qkv) multiply(ld, n, m, {dqkv, 1, ld}, {h, n, 1}, d->qkv, n, SET, rest);
    multiply(m, n, ld, {dqkv, ld, 1}, {w->qkv, n, 1}, h, n, SET, rest);
    norm_back(m, n, kept->x, w->norm, s.eps, h, dx, d->norm);
}

// Of each row of logits [M, V] / temperature: the log-probability of ids, the entropy, and the logarithm of the sum of exponentials.
void train_logprobs(Int rows, Int vocabulary, const float *logits, const Int *ids, float temperature, float *picked, float *entropy,
                    float *logsum) {
    for (Int r = 0; r < rows; r++, logits += vocabulary) {
        const float highest = largest(logits, vocabulary);
        float last[WIDTH];
        Vector total = {}, mean = {};
        for (Int t = 0; t < vocabulary; t += WIDTH) {
            const float *at = logits + t;
            if (t + WIDTH > vocabulary) {
                for (int i = 0; i < WIDTH; i++) last[i] = t + i < vocabulary ? at[i] : -INFINITY;
                at = last;
            }
            const Vector z = held((load(at) - highest) / temperature, -87.0f, 0.0f), e = exponential(z);
            total += e;
            mean += e * z;
        }
        const float all = sum(total), log_all = std::log(all);
        logsum[r] = highest / temperature + log_all;
        picked[r] = (logits[ids[r]] - highest) / temperature - log_all;
        entropy[r] = log_all - sum(mean) / all;
    }
}

// Replaces the logits by what the slopes of picked, and of entropy unless that is null, do to them.
void train_logprobs_back(Int rows, Int vocabulary, float *logits, const Int *ids, float temperature, const float *entropy,
                         const float *logsum, const float *dpicked, const float *dentropy) {
    for (Int r = 0; r < rows; r++, logits += vocabulary) {
        const float d = dpicked[r] / temperature, e = dentropy ? dentropy[r] / temperature : 0;
        float last[WIDTH];
        for (Int t = 0; t < vocabulary; t += WIDTH) {
            const bool whole = t + WIDTH <= vocabulary;
            float *at = whole ? logits + t : last;
            if (!whole) memcpy(last, logits + t, 4 * (vocabulary - t));
            const Vector logp = held(load(at) / temperature - logsum[r], -87.0f, INFINITY), p = exponential(logp);
            store(at, p * (-d - e * (logp + entropy[r])));
            if (!whole) memcpy(logits + t, last, 4 * (vocabulary - t));
        }
        logits[ids[r]] += d;
    }
}

}
