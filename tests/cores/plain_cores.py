"""One row at a time, in plain Python: the reference of every core.

Written from the equations of the sources, not from the code of the cores. A vector is a list, a
matrix a list of rows, a memory a tuple of them.
"""

from math import exp, tanh

from metarl_lib.cores import GRU, LSTM, SRWM, Backpropamine, MetODS


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def plus(*vectors):
    return [sum(numbers) for numbers in zip(*vectors, strict=True)]


def times(matrix, vector):
    return [dot(row, vector) for row in matrix]


def affine(linear, vector):
    """What an `nn.Linear` does."""
    result = times(linear.weight.tolist(), vector)
    return result if linear.bias is None else plus(result, linear.bias.tolist())


def squash(vector):
    return [tanh(z) for z in vector]


def sigmoid(z):
    return 1 / (1 + exp(-z))


def softmax(vector):
    powers = [exp(z) for z in vector]
    return [p / sum(powers) for p in powers]


def gates(cell, x, h):
    """(W_x x + b_x, W_h h + b_h) of each gate, in the order in which PyTorch stacks them."""
    from_x = plus(times(cell.weight_ih_l0.tolist(), x), cell.bias_ih_l0.tolist())
    from_h = plus(times(cell.weight_hh_l0.tolist(), h), cell.bias_hh_l0.tolist())
    n = len(h)
    return [(from_x[k : k + n], from_h[k : k + n]) for k in range(0, len(from_x), n)]


def gru(core, x, state):
    """Cho et al. (2014) as PyTorch documents it; gates in the order r, z, n."""
    (h,) = state
    (rx, rh), (zx, zh), (nx, nh) = gates(core.cell, x, h)
    new = []
    for i in range(len(h)):
        r, z = sigmoid(rx[i] + rh[i]), sigmoid(zx[i] + zh[i])
        new.append((1 - z) * tanh(nx[i] + r * nh[i]) + z * h[i])
    return new, (new,)


def lstm(core, x, state):
    """Hochreiter & Schmidhuber (1997) with a forget gate; gates in the order i, f, g, o."""
    h, c = state
    i, f, g, o = (plus(*pair) for pair in gates(core.cell, x, h))
    cell = [
        sigmoid(f[k]) * c[k] + sigmoid(i[k]) * tanh(g[k])
        for k in range(len(h))
    ]  # fmt: skip
    new = [sigmoid(o[k]) * tanh(cell[k]) for k in range(len(h))]
    return new, (new, cell)


def written_vector(core, v):
    """p(v), the rightmost vector of a write."""
    if core.write == "vanilla":
        return v
    if core.write == "linear":
        return affine(core.project, v)
    first, _, second = core.project
    return affine(second, squash(affine(first, v)))


def metods(core, x, state):
    """Chalvidal et al. (2022), equations 5 and 6, sums up to l = s − 1 as in Algorithm 1."""
    n, kappa, beta, alpha = (
        core.num_units,
        *(t.tolist() for t in (core.kappa, core.beta, core.alpha)),
    )
    if core.plasticity != "matrix":
        alpha = [[alpha] * n] * n
    vs, ws = [squash(affine(core.embed, x))], [state[0]]
    for s in range(1, core.depth + 1):
        v, w, p = vs[s - 1], ws[s - 1], written_vector(core, vs[s - 1])
        read = squash(times(w, v))
        vs.append(
            [
                sum(kappa[s - 1][k] * vs[k][i] for k in range(s)) + kappa[s - 1][s] * read[i]
                for i in range(n)
            ]
        )
        ws.append(
            [
                [
                    sum(beta[s - 1][k] * ws[k][i][j] for k in range(s))
                    + beta[s - 1][s] * alpha[i][j] * v[i] * p[j]
                    for j in range(n)
                ]
                for i in range(n)
            ]
        )
    return vs[-1], (ws[-1],)


def backpropamine(core, x, state):
    """Miconi et al. (2019) without retroactive modulation; H[i][j] is written by h[i] and h'[j]."""
    before, trace = state
    n, weight, alpha = core.num_units, core.weight.tolist(), core.alpha.tolist()
    given = affine(core.embed, x)
    h = [
        tanh(
            given[i] + sum((weight[i][j] + alpha[i][j] * trace[i][j]) * before[j] for j in range(n))
        )
        for i in range(n)
    ]
    eta = affine(core.fan_out, squash(affine(core.modulator, h)))
    written = [
        [max(-2.0, min(2.0, trace[i][j] + eta[i] * h[i] * before[j])) for j in range(n)]
        for i in range(n)
    ]
    return h, (h, written)


def srwm(core, x, state):
    """Irie et al. (2022), with one head and one learning rate."""
    (w,) = state
    n = core.num_units
    out = times(w, softmax(affine(core.embed, x)))
    y, k, q, rate = out[:n], softmax(out[n : 2 * n]), softmax(out[2 * n : 3 * n]), sigmoid(out[-1])
    change = [rate * (new - old) for new, old in zip(times(w, q), times(w, k), strict=True)]
    return y, ([plus(row, [c * kj for kj in k]) for row, c in zip(w, change, strict=True)],)


STEPS = {GRU: gru, LSTM: lstm, MetODS: metods, Backpropamine: backpropamine, SRWM: srwm}


def plain_start(core):
    """The memory of one row at the start of a life."""
    n = core.num_units
    zero = [0.0] * n
    if isinstance(core, GRU):
        return (zero,)
    if isinstance(core, LSTM):
        return zero, zero
    if isinstance(core, Backpropamine):
        return zero, [zero] * n
    if isinstance(core, SRWM):
        return (core.initial.tolist(),)
    return (core.start.tolist() if core.initial != "zero" else [zero] * n,)


def plain_scan(core, xs, state, resets):
    """Outputs `[T][B]` and final memories `[B]` of nested lists `xs`, `state` `[B]`, `resets`."""
    outputs, ends = [[] for _ in xs], []
    for b, memory in enumerate(state):
        for t, x in enumerate(xs):
            if resets is not None and resets[t][b]:
                memory = plain_start(core)
            y, memory = STEPS[type(core)](core, x[b], memory)
            outputs[t].append(y)
        ends.append(memory)
    return outputs, ends


def plain_pieces(resets):
    """(row, start, length) of all pieces between resets: row by row, then the longest first."""
    steps, pieces = len(resets), []
    for b in range(len(resets[0])):
        starts = [t for t in range(steps) if t == 0 or resets[t][b]]
        pieces += [(b, s, e - s) for s, e in zip(starts, [*starts[1:], steps], strict=True)]
    return sorted(pieces, key=lambda piece: -piece[2])  # stable
