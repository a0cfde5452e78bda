"use strict";
// ---------------------------------------------------------------------------------------------
// numbers.js: the stored numbers.
//
// The page holds a recording (JSON: which operations ran, on which values) and arrays. An array lies
// in chunks of text (base64), which are turned into numbers when somebody first asks for one of them.
// Everything else on this page reads numbers through two functions of an array: get(i) and all().
// ---------------------------------------------------------------------------------------------

const recording = JSON.parse(document.getElementById("recording").textContent);
const KINDS = { float32: Float32Array, float64: Float64Array };

/** An array that is stored in the page. Flat: the number at [c, h, w] is number (c H + h) W + w. */
class Stored {
  constructor(name, shape) {
    this.name = name;
    this.shape = shape;
    this.size = sizeOf(shape);
    this.chunk = recording.arrays[name].chunk;
    this.kind = KINDS[recording.arrays[name].dtype];
    this.chunks = [];
    this.stored = true;
  }
  /** One number; decodes only the chunk it lies in. */
  get(i) {
    const k = Math.floor(i / this.chunk);
    return (this.chunks[k] ??= this.decode(k))[i - k * this.chunk];
  }
  decode(k) {
    const text = atob(document.getElementById(`${this.name}-${k}`).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new this.kind(bytes.buffer);
  }
  /** All numbers, as a typed array. */
  all() {
    if (!this.whole) {
      this.whole = new this.kind(this.size);
      for (let k = 0; k * this.chunk < this.size; k++) this.whole.set((this.chunks[k] ??= this.decode(k)), k * this.chunk);
    }
    return this.whole;
  }
}

/** An array that the page computes from others when somebody asks for it: whole, or number by number. */
class Computed {
  constructor(shape, compute) {
    this.shape = shape;
    this.size = sizeOf(shape);
    this.compute = compute; // (first, last) -> the numbers from first up to, but not with, last
    this.stored = false;
  }
  get(i) {
    return this.whole ? this.whole[i] : this.compute(i, i + 1)[0];
  }
  all() {
    return (this.whole ??= this.compute(0, this.size));
  }
}

/** A plain number among an operation's inputs, as in x * 2. */
class Single {
  constructor(number) {
    this.shape = [];
    this.size = 1;
    this.number = number;
    this.stored = true;
  }
  get() {
    return this.number;
  }
  all() {
    return [this.number];
  }
}

function sizeOf(shape) {
  return shape.reduce((product, n) => product * n, 1);
}

/** What a value or a constant holds; gradientOf gives null where the target does not depend on it. */
const values = recording.values.map((entry, v) => ({
  number: v,
  shape: entry.shape,
  maker: null, // the step that computed it; null for the image
  readers: [], // {step, which}: the steps that read it, and as which of their inputs
  value: entry.value === "computed" ? new Computed(entry.shape, (first, last) => computeValue(v, first, last)) : new Stored(entry.value, entry.shape),
  gradient: gradientArray(entry, (first, last) => computeGradient(values[v], first, last)),
}));

const constants = recording.constants.map((entry, c) => ({
  number: c,
  name: entry.name,
  kind: entry.kind,
  shape: entry.shape,
  readers: [],
  value: new Stored(entry.value, entry.shape),
  gradient: gradientArray(entry, (first, last) => computeGradient(constants[c], first, last)),
}));

function gradientArray(entry, compute) {
  if (entry.gradient === null) return null;
  return entry.gradient === "computed" ? new Computed(entry.shape, compute) : new Stored(entry.gradient, entry.shape);
}

/** The operations, with their inputs in place of the inputs' numbers. */
const steps = recording.steps.map((entry, s) => {
  const step = { ...entry, number: s, output: values[entry.output] };
  step.inputs = entry.inputs.map((read, which) => {
    if (read === null) return null;
    if (read[0] === "number") return { value: new Single(Number(read[1])), gradient: null, shape: [], readers: [], kind: "number" };
    const source = (read[0] === "value" ? values : constants)[read[1]];
    source.readers.push({ step, which });
    return source;
  });
  step.output.maker = step;
  return step;
});

/** The numbers of a step's input, get(which, i). */
function input(step, which, i) {
  return step.inputs[which].value.get(i);
}

/** Numbers of a value that is not stored: the operation, once for each of them. */
function computeValue(v, first, last) {
  const step = values[v].maker;
  const numbers = new KINDS[recording.dtype](last - first);
  for (let i = first; i < last; i++) numbers[i - first] = OPERATIONS[step.op].compute(step, i);
  return numbers;
}

/** Gradients of a value or constant that are not stored: for each number the sum over all that it went into. */
function computeGradient(source, first, last) {
  const sums = new Float64Array(last - first);
  for (const { step, which } of source.readers) {
    const arriving = step.output.gradient;
    if (arriving === null) continue;
    const gy = arriving.all();
    const backward = OPERATIONS[step.op].backward;
    for (let i = first; i < last; i++) {
      let sum = 0;
      backward(step, which, i, (out, factor) => {
        sum += gy[out] * factor;
      });
      sums[i - first] += sum;
    }
  }
  return KINDS[recording.dtype].from(sums);
}
