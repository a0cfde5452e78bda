// ---------------------------------------------------------------------------------------------
// arithmetic.js: every operation, one number at a time.
//
// OPERATIONS[name] has two functions:
//
//   compute(step, i)                 number i of the output
//   backward(step, which, i, visit)  the chain rule for number i of input `which`:
//                                    visit(out, factor, from, cell) for every output number `out` that it
//                                    went into, where factor = d output[out] / d input[i]. So
//                                    d target / d input[i] = sum of gradient[out] * factor.
//                                    `from` is the number of the other factor's array that the factor is
//                                    (a weight or a pixel), `cell` the place in the picture of the sum.
//
// Positions are flat: number ((n C + c) H + h) W + w of an array (N, C, H, W).
// ---------------------------------------------------------------------------------------------

const OPERATIONS = {};

// ------------------------------------------------------------------------------- convolution

/** The sizes of a convolution, by the letters of the formula. */
function convolution(step) {
  if (!step.sizes) {
    const [, C, H, W] = step.inputs[0].shape;
    const [O, CG, KH, KW] = step.inputs[1].shape; // CG: channels of a group
    const [N, , OH, OW] = step.output.shape;
    const [SH, SW] = step.params.stride;
    const [DH, DW] = step.params.dilation;
    const [[PH], [PW]] = step.params.padding; // above and to the left
    step.sizes = { N, C, H, W, O, CG, KH, KW, OH, OW, SH, SW, DH, DW, PH, PW, OG: O / step.params.groups };
  }
  return step.sizes;
}

/** visit(x, w) for every product of an output number; x is -1 in the padding, where the image counts as 0. */
function convolutionTerms(step, i, visit) {
  const { C, H, W, O, CG, KH, KW, OH, OW, SH, SW, DH, DW, PH, PW, OG } = convolution(step);
  const ow = i % OW;
  const oh = Math.floor(i / OW) % OH;
  const o = Math.floor(i / (OW * OH)) % O;
  const n = Math.floor(i / (OW * OH * O));
  const first = Math.floor(o / OG) * CG; // the first channel of the output's group
  let w = o * CG * KH * KW;
  for (let c = 0; c < CG; c++)
    for (let kh = 0; kh < KH; kh++)
      for (let kw = 0; kw < KW; kw++, w++) {
        const h = oh * SH + kh * DH - PH;
        const v = ow * SW + kw * DW - PW;
        const inside = h >= 0 && h < H && v >= 0 && v < W;
        visit(inside ? ((n * C + first + c) * H + h) * W + v : -1, w);
      }
}

OPERATIONS.conv2d = {
  compute(step, i) {
    const x = step.inputs[0].value.all();
    const w = step.inputs[1].value.all();
    let sum = 0;
    convolutionTerms(step, i, (a, b) => {
      if (a >= 0) sum += x[a] * w[b];
    });
    const { O, OH, OW } = convolution(step);
    return sum + (step.inputs[2] ? input(step, 2, Math.floor(i / (OH * OW)) % O) : 0);
  },
  backward(step, which, i, visit) {
    const { N, C, H, W, O, CG, KH, KW, OH, OW, SH, SW, DH, DW, PH, PW, OG } = convolution(step);
    if (which === 2) {
      // A bias is added to every pixel of its channel.
      for (let n = 0; n < N; n++)
        for (let p = 0; p < OH * OW; p++) visit((n * O + i) * OH * OW + p, 1, -1, p);
    } else if (which === 1) {
      // A weight meets one input pixel for every output pixel of its channel.
      const x = step.inputs[0].value.all();
      const kw = i % KW;
      const kh = Math.floor(i / KW) % KH;
      const c = Math.floor(i / (KW * KH)) % CG;
      const o = Math.floor(i / (KW * KH * CG));
      const channel = Math.floor(o / OG) * CG + c;
      for (let n = 0; n < N; n++)
        for (let oh = 0; oh < OH; oh++)
          for (let ow = 0; ow < OW; ow++) {
            const h = oh * SH + kh * DH - PH;
            const v = ow * SW + kw * DW - PW;
            if (h < 0 || h >= H || v < 0 || v >= W) continue;
            const from = ((n * C + channel) * H + h) * W + v;
            visit(((n * O + o) * OH + oh) * OW + ow, x[from], from, oh * OW + ow);
          }
    } else {
      // An input pixel meets every weight of the kernels that look at its channel, at most once each.
      const weights = step.inputs[1].value.all();
      const v = i % W;
      const h = Math.floor(i / W) % H;
      const channel = Math.floor(i / (W * H)) % C;
      const n = Math.floor(i / (W * H * C));
      const group = Math.floor(channel / CG);
      const c = channel % CG;
      for (let o = group * OG; o < (group + 1) * OG; o++)
        for (let kh = 0; kh < KH; kh++) {
          const oh = (h + PH - kh * DH) / SH;
          if (oh < 0 || oh >= OH || oh !== Math.floor(oh)) continue;
          for (let kw = 0; kw < KW; kw++) {
            const ow = (v + PW - kw * DW) / SW;
            if (ow < 0 || ow >= OW || ow !== Math.floor(ow)) continue;
            const from = ((o * CG + c) * KH + kh) * KW + kw;
            visit(((n * O + o) * OH + oh) * OW + ow, weights[from], from, ((o - group * OG) * KH + kh) * KW + kw);
          }
        }
    }
  },
};

// ------------------------------------------------------------------------------- fully connected

OPERATIONS.linear = {
  compute(step, i) {
    const [O, I] = step.inputs[1].shape;
    const row = Math.floor(i / O) * I;
    const o = i % O;
    let sum = 0;
    for (let k = 0; k < I; k++) sum += input(step, 0, row + k) * input(step, 1, o * I + k);
    return sum + (step.inputs[2] ? input(step, 2, o) : 0);
  },
  backward(step, which, i, visit) {
    const [O, I] = step.inputs[1].shape;
    const rows = step.output.value.size / O;
    if (which === 2) for (let r = 0; r < rows; r++) visit(r * O + i, 1, -1, r);
    else if (which === 1) {
      const o = Math.floor(i / I);
      for (let r = 0; r < rows; r++) visit(r * O + o, input(step, 0, r * I + (i % I)), r * I + (i % I), r);
    } else {
      const row = Math.floor(i / I) * O;
      for (let o = 0; o < O; o++) visit(row + o, input(step, 1, o * I + (i % I)), o * I + (i % I), o);
    }
  },
};

// ------------------------------------------------------------------------------- pooling

/** Per axis and output position: the input positions its window sees (those in the padding left out), and its divisor. */
function poolWindows(step) {
  if (step.windows) return step.windows;
  const p = step.params;
  const adaptive = step.op.startsWith("adaptive");
  step.windows = [0, 1].map((axis) => {
    const size = step.inputs[0].shape[2 + axis];
    const count = step.output.shape[2 + axis];
    const windows = [];
    for (let o = 0; o < count; o++) {
      const seen = [];
      let full; // what an average over the window divides by
      if (adaptive) {
        for (let k = Math.floor((o * size) / count); k < Math.ceil(((o + 1) * size) / count); k++) seen.push(k);
        full = seen.length;
      } else {
        const start = o * p.stride[axis] - p.padding[axis];
        const dilation = p.dilation ? p.dilation[axis] : 1;
        for (let k = 0; k < p.kernel_size[axis]; k++) {
          const at = start + k * dilation;
          if (at >= 0 && at < size) seen.push(at);
        }
        full = p.count_include_pad ? Math.min(start + p.kernel_size[axis], size + p.padding[axis]) - start : Math.max(seen.length, 1);
      }
      windows.push({ seen, full });
    }
    const readers = Array.from({ length: size }, () => []); // per input position: the windows that see it
    windows.forEach((window, o) => window.seen.forEach((at) => readers[at].push(o)));
    return { windows, readers, size, count };
  });
  return step.windows;
}

/** The window of output number i: the flat input positions, row by row, its width, and the divisor of its mean. */
function poolWindow(step, i) {
  const [rows, columns] = poolWindows(step);
  const row = rows.windows[Math.floor(i / columns.count) % rows.count];
  const column = columns.windows[i % columns.count];
  const plane = Math.floor(i / (rows.count * columns.count)) * rows.size * columns.size;
  const seen = [];
  for (const h of row.seen) for (const w of column.seen) seen.push(plane + h * columns.size + w);
  return { seen, width: column.seen.length, divisor: step.params.divisor_override || row.full * column.full };
}

/** Which position of a window has the largest number: the first of equal ones; a NaN beats all, and the last NaN wins. */
function winner(step, seen) {
  let best = seen[0];
  for (const at of seen) {
    const number = input(step, 0, at);
    if (number > input(step, 0, best) || number !== number) best = at;
  }
  return best;
}

function poolBackward(factorOf) {
  return (step, which, i, visit) => {
    const [rows, columns] = poolWindows(step);
    const w = i % columns.size;
    const h = Math.floor(i / columns.size) % rows.size;
    const plane = Math.floor(i / (columns.size * rows.size)) * rows.count * columns.count;
    for (const oh of rows.readers[h])
      for (const ow of columns.readers[w]) {
        const out = plane + oh * columns.count + ow;
        visit(out, factorOf(step, out, i), -1, 0);
      }
  };
}

const maxPool = {
  compute(step, i) {
    const { seen } = poolWindow(step, i);
    return seen.length ? input(step, 0, winner(step, seen)) : -Infinity;
  },
  backward: poolBackward((step, out, i) => (winner(step, poolWindow(step, out).seen) === i ? 1 : 0)),
};
const averagePool = {
  compute(step, i) {
    const { seen, divisor } = poolWindow(step, i);
    return seen.reduce((sum, at) => sum + input(step, 0, at), 0) / divisor;
  },
  backward: poolBackward((step, out) => 1 / poolWindow(step, out).divisor),
};
OPERATIONS.max_pool2d = OPERATIONS.adaptive_max_pool2d = maxPool;
OPERATIONS.avg_pool2d = OPERATIONS.adaptive_avg_pool2d = averagePool;

// ------------------------------------------------------------------------------- normalisation

/**
 * What number i is normalised with: y = (x - mean) / std * scale + shift.
 * `members` are the numbers that mean and std were taken of; null where they are fixed numbers of the model.
 * Number `at` of inputs `weight` and `bias` are scale and shift.
 */
function normaliser(step, i) {
  const shape = step.inputs[0].shape;
  const [batch, layer] = [step.op === "batch_norm", step.op === "layer_norm"];
  const inner = sizeOf(shape.slice(2));
  const channel = Math.floor(i / inner) % shape[1];
  const length = layer ? sizeOf(shape.slice(-step.params.axes)) : (shape[1] / (step.params.groups ?? shape[1])) * inner;
  const key = batch ? channel : Math.floor(i / length); // all numbers with this key share mean and std
  const statistics = (step.statistics ??= new Map());
  if (!statistics.has(key)) {
    let members = null;
    let [mean, variance] = [0, 0];
    if (batch && !step.params.training) [mean, variance] = [input(step, 1, channel), input(step, 2, channel)];
    else {
      members = [];
      for (let k = 0; k < step.inputs[0].value.size; k++)
        if ((batch ? Math.floor(k / inner) % shape[1] : Math.floor(k / length)) === key) members.push(k);
      mean = members.reduce((sum, k) => sum + input(step, 0, k), 0) / members.length;
      variance = members.reduce((sum, k) => sum + (input(step, 0, k) - mean) ** 2, 0) / members.length;
    }
    statistics.set(key, { mean, variance, std: Math.sqrt(variance + step.params.eps), members });
  }
  const { mean, variance, std, members } = statistics.get(key);
  const [weight, bias] = batch ? [3, 4] : [1, 2];
  const at = layer ? i % length : channel;
  const scale = step.inputs[weight] ? input(step, weight, at) : 1;
  const shift = step.inputs[bias] ? input(step, bias, at) : 0;
  return { mean, variance, std, scale, shift, members, at, channel, weight, bias };
}

const normalisation = {
  compute(step, i) {
    const { mean, std, scale, shift } = normaliser(step, i);
    return ((input(step, 0, i) - mean) / std) * scale + shift + (step.inputs[5] ? input(step, 5, i) : 0);
  },
  backward(step, which, i, visit) {
    if (which === 5) return visit(i, 1, -1, 0); // a residual that is added
    if (which > 0) {
      // A scale or a shift: it goes into all numbers of its channel (of its column, in a layer normalisation).
      const shape = step.inputs[0].shape;
      const layer = step.op === "layer_norm";
      const inner = layer ? 1 : sizeOf(shape.slice(2));
      const period = layer ? step.inputs[which].value.size : shape[1] * inner;
      for (let start = i * inner; start < step.output.value.size; start += period)
        for (let out = start; out < start + inner; out++) {
          const { mean, std, weight } = normaliser(step, out);
          visit(out, which === weight ? (input(step, 0, out) - mean) / std : 1, which === weight ? out : -1, 0);
        }
      return;
    }
    const { mean, std, scale, members } = normaliser(step, i);
    if (!members) return visit(i, scale / std, -1, 0);
    // x moves its own result, and through mean and std the results of all that share them.
    const mine = (input(step, 0, i) - mean) / std;
    for (const out of members) {
      const other = (input(step, 0, out) - mean) / std;
      visit(out, (normaliser(step, out).scale / std) * ((out === i ? 1 : 0) - 1 / members.length - (mine * other) / members.length), -1, 0);
    }
  },
};
OPERATIONS.batch_norm = OPERATIONS.group_norm = OPERATIONS.instance_norm = OPERATIONS.layer_norm = normalisation;

// ------------------------------------------------------------------------------- activations

/** The error function: its power series near 0, a continued fraction of 1 - erf further out. */
function erf(x) {
  if (Math.abs(x) < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 60; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let k = 60; k > 0; k--) fraction = k / 2 / (Math.abs(x) + fraction);
  return Math.sign(x) * (1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / (Math.abs(x) + fraction));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const bell = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const GELU = Math.sqrt(2 / Math.PI);

/** f: the function; slope: its derivative; text and slopeText: both as formulas; p holds the operation's parameters. */
const ACTIVATIONS = {
  relu: { text: "y = max(x, 0)", slopeText: "1 where x > 0, else 0", f: (x) => (x < 0 ? 0 : x), slope: (x) => (x > 0 ? 1 : 0) },
  leaky_relu: {
    text: "y = x where x > 0, else negative_slope · x",
    slopeText: "1 where x > 0, else negative_slope",
    f: (x, p) => (x > 0 ? x : x * p.negative_slope),
    slope: (x, p) => (x > 0 ? 1 : p.negative_slope),
  },
  elu: {
    text: "y = x where x > 0, else alpha · (e^x − 1)",
    slopeText: "1 where x > 0, else alpha · e^x",
    f: (x, p) => (x > 0 ? x : p.alpha * Math.expm1(x)),
    slope: (x, p) => (x > 0 ? 1 : p.alpha * Math.exp(x)),
  },
  sigmoid: { text: "y = 1 / (1 + e^−x)", slopeText: "y · (1 − y)", f: sigmoid, slope: (x) => sigmoid(x) * (1 - sigmoid(x)) },
  tanh: { text: "y = tanh(x)", slopeText: "1 − y²", f: Math.tanh, slope: (x) => 1 - Math.tanh(x) ** 2 },
  silu: {
    text: "y = x / (1 + e^−x)",
    slopeText: "s + x · s · (1 − s) with s = 1 / (1 + e^−x)",
    f: (x) => x * sigmoid(x),
    slope: (x) => sigmoid(x) + x * sigmoid(x) * (1 - sigmoid(x)),
  },
  hardswish: {
    text: "y = x · min(max(x + 3, 0), 6) / 6",
    slopeText: "0 for x ≤ −3, 1 for x ≥ 3, x/3 + 1/2 between",
    f: (x) => (x * Math.min(Math.max(x + 3, 0), 6)) / 6,
    slope: (x) => (x <= -3 ? 0 : x >= 3 ? 1 : x / 3 + 0.5),
  },
  softplus: {
    text: "y = log(1 + e^(beta x)) / beta",
    slopeText: "1 / (1 + e^(−beta x))",
    f: (x, p) => (x * p.beta > p.threshold ? x : Math.log1p(Math.exp(x * p.beta)) / p.beta),
    slope: (x, p) => (x * p.beta > p.threshold ? 1 : sigmoid(x * p.beta)),
  },
  gelu: {
    text: "y = x · Φ(x), Φ the normal distribution",
    slopeText: "Φ(x) + x · φ(x), φ the bell curve",
    f: (x, p) => (p.tanh ? (x / 2) * (1 + Math.tanh(GELU * (x + 0.044715 * x ** 3))) : (x / 2) * (1 + erf(x / Math.SQRT2))),
    slope(x, p) {
      if (!p.tanh) return (1 + erf(x / Math.SQRT2)) / 2 + x * bell(x);
      const t = Math.tanh(GELU * (x + 0.044715 * x ** 3));
      return (1 + t) / 2 + (x / 2) * (1 - t * t) * GELU * (1 + 3 * 0.044715 * x * x);
    },
  },
};

for (const [name, { f, slope }] of Object.entries(ACTIVATIONS))
  OPERATIONS[name] = {
    compute: (step, i) => f(input(step, 0, i), step.params),
    backward: (step, which, i, visit) => visit(i, slope(input(step, 0, i), step.params), -1, 0),
  };

// ------------------------------------------------------------------------------- softmax and loss

/** The positions that a softmax makes sum to 1 together with position i; the largest of their numbers; the sum of exponentials. */
function shares(step, i, axis) {
  const shape = step.inputs[0].shape;
  const stride = sizeOf(shape.slice(axis + 1));
  const start = i - (Math.floor(i / stride) % shape[axis]) * stride;
  const members = Array.from({ length: shape[axis] }, (_, k) => start + k * stride);
  const largest = Math.max(...members.map((k) => input(step, 0, k)));
  const total = members.reduce((sum, k) => sum + Math.exp(input(step, 0, k) - largest), 0);
  return { members, largest, total, share: (k) => Math.exp(input(step, 0, k) - largest) / total };
}

OPERATIONS.softmax = {
  compute: (step, i) => shares(step, i, step.params.axis).share(i),
  backward(step, which, i, visit) {
    const { members, share } = shares(step, i, step.params.axis);
    for (const out of members) visit(out, share(out) * ((out === i ? 1 : 0) - share(i)), -1, 0);
  },
};
OPERATIONS.log_softmax = {
  compute: (step, i) => Math.log(shares(step, i, step.params.axis).share(i)),
  backward(step, which, i, visit) {
    const { members, share } = shares(step, i, step.params.axis);
    for (const out of members) visit(out, (out === i ? 1 : 0) - share(i), -1, 0);
  },
};
OPERATIONS.cross_entropy = {
  compute(step) {
    const { largest, total } = shares(step, 0, 1);
    return Math.log(total) + largest - input(step, 0, input(step, 1, 0)); // -log of the label's share
  },
  backward: (step, which, i, visit) => visit(0, shares(step, i, 1).share(i) - (i === input(step, 1, 0) ? 1 : 0), -1, 0),
};

// ------------------------------------------------------------------------------- number by number

OPERATIONS.reshape = {
  compute: (step, i) => input(step, 0, i),
  backward: (step, which, i, visit) => visit(i, 1, -1, 0),
};

/** The number of an input that output number i reads, where axes of size 1 are repeated. */
function broadcast(step, which, i) {
  const shape = step.output.shape;
  const small = step.inputs[which].shape;
  if (step.inputs[which].value.size === step.output.value.size) return i;
  let at = 0;
  let stride = 1;
  for (let axis = 1; axis <= small.length; axis++) {
    const n = shape[shape.length - axis];
    if (small[small.length - axis] > 1) at += (i % n) * stride;
    stride *= small[small.length - axis];
    i = Math.floor(i / n);
  }
  return at;
}

function twoNumbers(sign, f, slopes) {
  return {
    sign,
    compute: (step, i) => f(input(step, 0, broadcast(step, 0, i)), input(step, 1, broadcast(step, 1, i))),
    backward(step, which, i, visit) {
      const factor = (out) => slopes[which](input(step, 0, broadcast(step, 0, out)), input(step, 1, broadcast(step, 1, out)));
      if (step.inputs[which].value.size === step.output.value.size) return visit(i, factor(i), -1, 0);
      for (let out = 0; out < step.output.value.size; out++) if (broadcast(step, which, out) === i) visit(out, factor(out), -1, 0);
    },
  };
}
OPERATIONS.add = twoNumbers("+", (a, b) => a + b, [() => 1, () => 1]);
OPERATIONS.subtract = twoNumbers("−", (a, b) => a - b, [() => 1, () => -1]);
OPERATIONS.multiply = twoNumbers("·", (a, b) => a * b, [(a, b) => b, (a) => a]);
OPERATIONS.divide = twoNumbers("/", (a, b) => a / b, [(a, b) => 1 / b, (a, b) => -a / (b * b)]);
