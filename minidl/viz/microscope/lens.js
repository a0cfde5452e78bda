// ---------------------------------------------------------------------------------------------
// lens.js: how one number is made. Forward: the numbers an operation read, their products and the sum.
// Backward: everything a gradient is the sum of. Nothing here is prepared: the sums are computed when they
// are shown, and compared with what minidl computed.
// ---------------------------------------------------------------------------------------------

/** An element. Attributes that are functions are listeners; texts become text, never markup. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Names of operations for people, and what they do in a sentence. */
const WORDS = {
  conv2d: [(s) => `convolution ${s.inputs[1].shape[2]}×${s.inputs[1].shape[3]}`, "Each number is a small window of the input times a kernel of weights, all products added up."],
  linear: [() => "fully connected", "Each number is all numbers of the input, each times its own weight, added up."],
  max_pool2d: [(s) => `max pooling ${s.params.kernel_size.join("×")}`, "Each number is the largest one of a window."],
  avg_pool2d: [(s) => `average pooling ${s.params.kernel_size.join("×")}`, "Each number is the mean of a window."],
  adaptive_avg_pool2d: [() => "average pooling", "Each number is the mean of a window; here the windows divide the whole map."],
  adaptive_max_pool2d: [() => "max pooling", "Each number is the largest one of a window; the windows divide the whole map."],
  batch_norm: [() => "batch normalisation", "Each channel is shifted and scaled, with mean and variance collected in training."],
  group_norm: [() => "group normalisation", "Groups of channels are shifted and scaled to mean 0 and variance 1, then scaled by weights."],
  instance_norm: [() => "instance normalisation", "Each channel is shifted and scaled to mean 0 and variance 1."],
  layer_norm: [() => "layer normalisation", "Rows are shifted and scaled to mean 0 and variance 1, then scaled by weights."],
  relu: [() => "ReLU", "Negative numbers become 0, all others stay."],
  softmax: [() => "softmax", "Any numbers become shares (probabilities) that sum to 1."],
  log_softmax: [() => "log softmax", "The logarithm of the softmax."],
  cross_entropy: [() => "loss: cross-entropy", "−log of the probability that the model gives to the right class."],
  reshape: [() => "reshape (flatten)", "The same numbers in another shape; nothing is computed."],
  add: [() => "sum", "Two results are added, number by number."],
  subtract: [() => "difference", "One result minus another, number by number."],
  multiply: [() => "product", "Two results are multiplied, number by number."],
  divide: [() => "quotient", "One result over another, number by number."],
};

function nameOf(step) {
  return WORDS[step.op] ? WORDS[step.op][0](step) : step.op.replaceAll("_", " ");
}

/** A layer is a value with the step that made it; layer 0 is the image. */
function layerTitle(v) {
  if (v === 0) return "input";
  const step = values[v].maker;
  return `${nameOf(step)}${step.path ? ` · ${step.path}` : ""}`;
}

function sourceName(source) {
  if (source.kind === "number") return "number";
  return source.name ?? `#${source.number}`;
}

/** What is followed back, in words. */
function targetText() {
  const target = recording.target;
  if (!target) return "nothing: the output does not depend on the input through recorded operations";
  if (target.kind === "loss") return `the cross-entropy loss for class ${className(target.label)}`;
  const output = values[recording.output];
  return `output ${placeText(output.shape, target.index)}${recording.classes ? `, the score of class ${className(target.index)}` : ""}`;
}

function className(k) {
  return recording.classes ? `“${recording.classes[k]}”` : String(k);
}

// ------------------------------------------------------------------------------- building blocks

const lens = document.getElementById("lens");

/** The line that spells out what the pointer is on. */
function say(text) {
  const line = lens.querySelector(".hover");
  if (line) line.textContent = text;
}

/** A cell's attributes: what it says under the pointer, and where a click leads. */
function active(spot) {
  const link = spot.go ?? null;
  return {
    class: [spot.class, link ? "link" : ""].filter(Boolean).join(" ") || null,
    pointerenter: () => say(spot.text),
    focus: () => say(spot.text),
    tabindex: link ? -1 : null, // Enter on the map leads here, see lensKey
    "aria-label": link ? spot.text : null,
    click: link ?? (() => say(spot.text)),
    title: spot.text,
  };
}

/** A small table of numbers in colours. numbers[k] null: outside. spot(k) gives {text, go, class}. */
function cellTable(caption, numbers, columns, largest, spot) {
  const table = element("table", { class: "cells", "aria-label": caption });
  for (let k = 0; k < numbers.length; k += columns) {
    const row = element("tr");
    for (let j = k; j < Math.min(k + columns, numbers.length); j++) {
      const number = numbers[j];
      const cell = element("td", active({ ...spot(j), class: number === null ? "outside" : spot(j).class }));
      cell.dataset.k = j;
      if (number === null) cell.textContent = "0";
      else {
        const back = colour(number, largest);
        cell.style.background = `rgb(${back})`;
        cell.style.color = inkOn(back);
        cell.textContent = short(number);
        cell.dataset.value = number;
      }
      row.append(cell);
    }
    table.append(row);
  }
  return element("figure", {}, element("figcaption", {}, caption), table);
}

/** The same as a picture, for tables too large to print: the pointer reads the numbers. */
function cellPicture(caption, numbers, columns, largest, spot) {
  const rows = Math.ceil(numbers.length / columns);
  const cell = Math.max(2, Math.min(12, Math.floor(180 / columns)));
  const layout = { maps: 1, H: rows, W: columns, count: numbers.length, axes: [], vector: false };
  const canvas = element("canvas", { class: "heat", role: "img", "aria-label": `${caption}, ${rows} by ${columns} numbers` });
  const array = { all: () => numbers.map((number) => number ?? 0), largest };
  drawMap(canvas, array, 0, layout, { cell });
  const at = (event) => Math.min(numbers.length - 1, Math.floor(event.offsetY / cell) * columns + Math.min(columns - 1, Math.floor(event.offsetX / cell)));
  canvas.addEventListener("pointermove", (event) => say(spot(at(event)).text));
  canvas.addEventListener("click", (event) => spot(at(event)).go?.());
  return element("figure", {}, element("figcaption", {}, caption), canvas);
}

/**
 * Sums of products as pictures: per group a table of first factors, one of second factors, one of products.
 * groups: {name, cells: [{a, b, text, goA, goB} or null], total}; the largest groups come first.
 */
function productGroups(groups, columns, captions) {
  const largest = (key) => Math.max(...groups.flatMap((group) => group.cells.map((cell) => (cell ? Math.abs(key(cell)) : 0))), 0);
  const scales = [largest((cell) => cell.a), largest((cell) => cell.b), largest((cell) => cell.a * cell.b)];
  const ordered = groups.length > 1 ? [...groups].sort((p, q) => Math.abs(q.total) - Math.abs(p.total)) : groups;
  const make = (group) => {
    const draw = group.cells.length <= 81 && columns <= 9 ? cellTable : cellPicture;
    const part = (k, number, go) =>
      draw(captions[k], group.cells.map((cell) => (cell ? number(cell) : null)), columns, scales[k], (j) => {
        const cell = group.cells[j];
        return cell ? { text: cell.text, go: go(cell) } : { text: group.outside ?? "outside of the image: counts as 0" };
      });
    return element(
      "div",
      { class: "products" },
      element("span", { class: "name" }, group.name),
      part(0, (cell) => cell.a, (cell) => cell.goA),
      element("span", { class: "sign" }, "×"),
      part(1, (cell) => cell.b, (cell) => cell.goB),
      element("span", { class: "sign" }, "="),
      part(2, (cell) => cell.a * cell.b, (cell) => cell.goA),
      element("span", { class: "subtotal" }, `Σ = ${full(group.total)}`),
    );
  };
  const body = element("div", {});
  // The same place in all three tables of a group is marked together.
  body.addEventListener("pointerover", (event) => {
    for (const hot of body.querySelectorAll(".hot")) hot.classList.remove("hot");
    const { k } = event.target.dataset;
    if (k !== undefined) for (const cell of event.target.closest(".products").querySelectorAll(`td[data-k="${k}"]`)) cell.classList.add("hot");
  });
  more(body, ordered, 6, make, groups.length > 1 ? "largest sums first" : "");
  return body;
}

/** A sum as a list: columns of numbers, the largest part first. rows: {cells: [{text, go}], size, say}. */
function termTable(heads, rows) {
  const body = element("tbody");
  const table = element("table", { class: "terms" }, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))), body);
  const holder = element("div", {}, table);
  const ordered = [...rows].sort((p, q) => q.size - p.size);
  const make = (row) =>
    element(
      "tr",
      { pointerenter: () => say(row.say) },
      ...row.cells.map((cell) => element("td", cell.go ? { class: "link", click: cell.go, tabindex: -1, focus: () => say(row.say) } : {}, cell.text)),
    );
  more(holder, ordered, 20, make, rows.length > 1 ? "largest first" : "", body);
  return holder;
}

/** The first few of many, and a button for the rest. */
function more(holder, items, count, make, order, target = holder) {
  target.append(...items.slice(0, count).map(make));
  if (items.length > count) {
    const button = element("button", { type: "button" }, `Show all ${items.length} (${order})`);
    button.addEventListener("click", () => {
      target.append(...items.slice(count).map(make));
      button.remove();
    });
    holder.append(button);
  }
}

/** The end of every lens: does the sum of this page agree with the number of minidl? */
function check(sum, array, i) {
  const shown = array.get(i);
  if (!array.stored) return element("p", { class: "check" }, "This number is not stored: the page computed it from the numbers around it.");
  const off = Math.abs(sum - shown);
  const same = off === 0 || off <= 2e-4 * Math.max(Math.abs(shown), (array.largest ?? 0) * 1e-2, 1e-6) || (Number.isNaN(sum) && Number.isNaN(shown));
  const rounding = off === 0 ? "" : ` They differ by ${full(off)}: minidl rounds to float32, in another order.`;
  const text = same ? `✓ This page gets ${full(sum)}, minidl computed ${full(shown)}.` : `This page gets ${full(sum)}, but minidl computed ${full(shown)}.`;
  return element("p", { class: "check", "data-sum": sum, "data-shown": shown }, text + rounding);
}

function head(title, number, note) {
  return [
    element(
      "div",
      { class: "lens-head" },
      element("h2", { id: "lens-name" }, title),
      element("button", { type: "button", "aria-label": "Close the lens", click: closeLens }, "✕"),
    ),
    element("p", { class: "result", id: "result", "data-value": number }, full(number)),
    note ? element("p", { class: "quiet" }, note) : null,
  ].filter(Boolean);
}

const hoverLine = (text) => element("p", { class: "hover", "aria-live": "polite" }, text);

/** A click leads to the number a factor came from: a value, or a weight and its gradient. */
function goTo(source, i) {
  if (source.kind === undefined) return () => choose(source.number, i);
  return source.kind === "parameter" ? () => chooseWeight(source.number, i) : null;
}

// ------------------------------------------------------------------------------- forward

/** The lens for number i of a step's output. */
function forwardLens(step, i) {
  const y = step.output.value;
  const place = placeText(step.output.shape, i);
  const parts = [...head(`${layerTitle(step.number + 1)}: output ${place}`, y.get(i), extraName(step, i))];
  if (!step.known) {
    parts.push(element("p", {}, "This page shows the numbers of this operation, but does not know its arithmetic. It read:"), sources(step));
    return parts;
  }
  const view = FORWARD[step.op] ?? FORWARD[step.op in ACTIVATIONS ? "activation" : step.op.endsWith("norm") ? "norm" : step.op.includes("max_pool") ? "max" : "mean"];
  const { formula, filled, hint, body } = view(step, i);
  parts.push(element("p", { class: "formula" }, formula), element("p", { class: "filled", id: "filled" }, filled));
  parts.push(hoverLine(hint ?? "Point at a number to see its product. Click it to go to where it came from; a weight leads to its gradient."));
  parts.push(body, check(OPERATIONS[step.op].compute(step, i), y, i));
  return parts;
}

/** The class that a number of the output stands for. */
function extraName(step, i) {
  const size = step.output.value.size;
  return recording.classes && size === recording.classes.length ? `Class ${className(i)}` : "";
}

/** Buttons to what a step read. */
function sources(step) {
  const list = step.inputs.filter((source) => source && source.kind === undefined);
  return element("p", { class: "links" }, ...list.map((s) => element("button", { type: "button", click: () => choose(s.number, 0) }, `#${s.number} ${layerTitle(s.number)}`)));
}

/** Sum and bias as text, as in "0.3519 + 0.0123 = 0.3642". */
function sumText(count, sum, bias, total) {
  return `${count} products: ${full(sum)}${bias === null ? "" : ` + bias ${inSum(bias)} = ${full(total)}`}`;
}

const FORWARD = {
  conv2d(step, i) {
    const [x, w, b] = step.inputs;
    const { O, CG, KH, KW, OH, OW } = convolution(step);
    const o = Math.floor(i / (OH * OW)) % O;
    const groups = Array.from({ length: CG }, () => ({ cells: [], total: 0 }));
    let sum = 0;
    convolutionTerms(step, i, (at, weight) => {
      const group = groups[Math.floor(weight / (KH * KW)) % CG];
      const factor = w.value.get(weight);
      const weightName = `w${placeText(w.shape, weight)}`;
      if (at < 0) {
        const text = `padding · ${weightName} = 0 · ${inSum(factor)} = 0`;
        return group.cells.push({ a: 0, b: factor, padding: true, text, goB: goTo(w, weight) });
      }
      const pixel = x.value.get(at);
      group.channel ??= Math.floor(at / (x.shape[2] * x.shape[3])) % x.shape[1];
      group.first ??= at;
      group.last = at;
      group.total += pixel * factor;
      sum += pixel * factor;
      const text = `x${placeText(x.shape, at)} · ${weightName} = ${full(pixel)} · ${inSum(factor)} = ${full(pixel * factor)}`;
      group.cells.push({ a: pixel, b: factor, text, goA: goTo(x, at), goB: goTo(w, weight) });
    });
    groups.forEach((group, c) => (group.name = `input channel ${group.channel ?? c}`));
    const bias = b ? b.value.get(o) : null;
    const body = element("div", {}, windowPicture(step, groups), productGroups(groups, KW, ["input window", `kernel ${o}`, "products"]));
    return {
      formula: `y[o, h, w] = Σ x[c, h', w'] · w[o, c, kh, kw]${b ? " + b[o]" : ""}`,
      filled: sumText(CG * KH * KW, sum, bias, sum + (bias ?? 0)),
      body,
    };
  },

  linear(step, i) {
    const [x, w, b] = step.inputs;
    const [O, I] = w.shape;
    const o = i % O;
    const row = Math.floor(i / O) * I;
    let sum = 0;
    const rows = Array.from({ length: I }, (_, k) => {
      const [a, weight] = [x.value.get(row + k), w.value.get(o * I + k)];
      sum += a * weight;
      return {
        size: Math.abs(a * weight),
        say: `x[${k}] · w[${o}, ${k}] = ${full(a)} · ${inSum(weight)} = ${full(a * weight)}`,
        cells: [{ text: String(k) }, { text: full(a), go: goTo(x, row + k) }, { text: full(weight), go: goTo(w, o * I + k) }, { text: full(a * weight) }],
      };
    });
    const bias = b ? b.value.get(o) : null;
    return {
      formula: `y[o] = Σ x[k] · w[o, k]${b ? " + b[o]" : ""}`,
      filled: sumText(I, sum, bias, sum + (bias ?? 0)),
      body: termTable(["k", "input x", "weight w", "product"], rows),
    };
  },

  max(step, i) {
    const x = step.inputs[0];
    const { seen, width } = poolWindow(step, i);
    const won = winner(step, seen);
    const numbers = seen.map((at) => x.value.get(at));
    const spot = (k) => ({ text: `x${placeText(x.shape, seen[k])} = ${full(numbers[k])}${seen[k] === won ? ", the largest" : ""}`, go: goTo(x, seen[k]), class: seen[k] === won ? "won" : "" });
    return { formula: "y = max of the window", filled: `max of ${seen.length} numbers = ${full(x.value.get(won))}`, body: windowTable(step, seen, numbers, width, spot), hint: "The framed number wins; backward it gets the whole gradient." };
  },

  mean(step, i) {
    const x = step.inputs[0];
    const { seen, width, divisor } = poolWindow(step, i);
    const numbers = seen.map((at) => x.value.get(at));
    const sum = numbers.reduce((a, b) => a + b, 0);
    const spot = (k) => ({ text: `x${placeText(x.shape, seen[k])} = ${full(numbers[k])}`, go: goTo(x, seen[k]) });
    return { formula: "y = sum of the window / n", filled: `${full(sum)} / ${divisor} = ${full(sum / divisor)}`, body: windowTable(step, seen, numbers, width, spot) };
  },

  norm(step, i) {
    const x = step.inputs[0];
    const n = normaliser(step, i);
    const number = x.value.get(i);
    const residual = step.inputs[5] ? input(step, 5, i) : 0;
    const line = (name, numberText, source, at) =>
      element("div", {}, `${name} = ${numberText}  `, source && goTo(source, at) ? element("button", { type: "button", click: goTo(source, at) }, source.kind ? "its gradient" : "go there") : "");
    const standard = (number - n.mean) / n.std;
    const body = element(
      "div",
      { class: "parts" },
      line("x", full(number), x, i),
      line("mean", `${full(n.mean)}${n.members ? ` of ${n.members.length} numbers` : ` of channel ${n.channel}, collected in training`}`),
      line("variance", full(n.variance)),
      line("(x − mean) / √(variance + ε)", `(${full(number)} − ${inSum(n.mean)}) / ${full(n.std)} = ${full(standard)}`),
      step.inputs[n.weight] ? line("scale (a weight)", full(n.scale), step.inputs[n.weight], n.at) : "",
      step.inputs[n.bias] ? line("shift (a bias)", full(n.shift), step.inputs[n.bias], n.at) : "",
      residual ? line("residual that is added", full(residual), step.inputs[5], i) : "",
    );
    return {
      formula: "y = (x − mean) / √(variance + ε) · scale + shift",
      filled: `${full(standard)} · ${inSum(n.scale)} + ${inSum(n.shift)}${residual ? ` + ${inSum(residual)}` : ""} = ${full(standard * n.scale + n.shift + residual)}`,
      body,
      hint: "The same scale and shift hold for the whole channel.",
    };
  },

  activation(step, i) {
    const x = step.inputs[0];
    const number = x.value.get(i);
    const { text, f } = ACTIVATIONS[step.op];
    const body = element("div", {}, curve((v) => f(v, step.params), number), element("p", { class: "links" }, element("button", { type: "button", click: goTo(x, i) }, `x = ${full(number)}: go there`)));
    return { formula: text, filled: `x = ${full(number)}  →  y = ${full(f(number, step.params))}`, body, hint: "The curve is the function, the dot this number." };
  },

  softmax(step, i) {
    const x = step.inputs[0];
    const { members, largest, total } = shares(step, i, step.op === "cross_entropy" ? 1 : step.params.axis);
    const rows = members.map((at, k) => {
      const power = Math.exp(x.value.get(at) - largest);
      const name = recording.classes && members.length === recording.classes.length ? recording.classes[k] : String(k);
      return {
        size: power,
        say: `e^(${full(x.value.get(at))} − ${inSum(largest)}) = ${full(power)}; share ${full(power)} / ${full(total)} = ${full(power / total)}`,
        cells: [{ text: name }, { text: full(x.value.get(at)), go: goTo(x, at) }, { text: full(power) }, { text: full(power / total) }],
      };
    });
    const mine = Math.exp(x.value.get(i) - largest);
    const log = step.op === "log_softmax";
    return {
      formula: log ? "y_i = log(e^x_i / Σ e^x_j)" : "y_i = e^x_i / Σ e^x_j (the largest x is taken off first: the same, without overflow)",
      filled: `${log ? "log " : ""}${full(mine)} / ${full(total)} = ${full(log ? Math.log(mine / total) : mine / total)}`,
      body: termTable(["class", "x", "e^(x − largest)", "share"], rows),
      hint: "Point at a row to see its share computed.",
    };
  },

  cross_entropy(step) {
    const label = input(step, 1, 0);
    const { share } = shares(step, 0, 1);
    const view = FORWARD.softmax({ ...step, params: { axis: 1 } }, label);
    return { ...view, formula: "loss = −log(share of the label), share_i = e^x_i / Σ e^x_j", filled: `−log(${full(share(label))}) = ${full(-Math.log(share(label)))}, label ${className(label)}` };
  },

  reshape(step, i) {
    const x = step.inputs[0];
    const button = element("button", { type: "button", click: goTo(x, i) }, `go to x${placeText(x.shape, i)}`);
    return { formula: "y = x, in another shape", filled: `x${placeText(x.shape, i)} = ${full(x.value.get(i))}`, body: element("p", { class: "links" }, button), hint: "Row by row, channel by channel." };
  },
};
FORWARD.log_softmax = FORWARD.softmax;
for (const op of ["add", "subtract", "multiply", "divide"])
  FORWARD[op] = (step, i) => {
    const at = [0, 1].map((which) => broadcast(step, which, i));
    const numbers = at.map((k, which) => input(step, which, k));
    const { sign } = OPERATIONS[op];
    const buttons = step.inputs.map((source, which) => {
      const title = source.kind === undefined ? `#${source.number} ${layerTitle(source.number)}` : sourceName(source);
      return element("button", { type: "button", click: goTo(source, at[which]) ?? (() => {}) }, `${full(numbers[which])} from ${title}`);
    });
    return {
      formula: `y = a ${sign} b`,
      filled: `${full(numbers[0])} ${sign} ${inSum(numbers[1])} = ${full(OPERATIONS[op].compute(step, i))}`,
      body: element("p", { class: "links" }, ...buttons),
      hint: op === "add" ? "Where ways through the network meet, their results are added: so a block only learns what to add to its input." : "Click a part to go there.",
    };
  };

/** The window of a pooling as a table, or as a picture when it is large, and where it lies. */
function windowTable(step, seen, numbers, width, spot) {
  const largest = largestOf(step.inputs[0].value);
  const table = (numbers.length <= 81 && width <= 9 ? cellTable : cellPicture)("input window", numbers, width, largest, spot);
  return element("div", {}, windowPicture(step, [{ first: seen[0], last: seen.at(-1), total: 1 }]), table);
}

/** The input channel that counts most, with the window framed. */
function windowPicture(step, groups) {
  const x = step.inputs[0];
  const seen = groups.filter((group) => group.first !== undefined);
  if (!seen.length) return "";
  const group = seen.reduce((p, q) => (Math.abs(q.total) > Math.abs(p.total) ? q : p));
  const layout = layoutOf(x.shape);
  const cell = Math.max(2, Math.min(8, Math.floor(150 / layout.W)));
  const start = Math.floor(group.first / layout.count);
  const [first, last] = [group.first % layout.count, group.last % layout.count];
  const [h, w] = [Math.floor(first / layout.W), first % layout.W];
  const box = { h, w, rows: Math.floor(last / layout.W) - h + 1, columns: (last % layout.W) - w + 1 };
  const canvas = element("canvas", { role: "img", "aria-label": `Input channel ${start}, the window at row ${h}, column ${w} framed` });
  drawMap(canvas, x.value, start, layout, { cell, box });
  return element("figure", { class: "window" }, element("figcaption", { class: "quiet" }, `channel ${start} of the input, the window framed`), canvas);
}

/** A function as a curve, with the point of this number on it. */
function curve(f, x) {
  const [width, height] = [260, 130];
  const reach = Math.max(3, Math.abs(Number.isFinite(x) ? x : 0) * 1.2);
  const canvas = element("canvas", { role: "img", "aria-label": `The function from ${full(-reach)} to ${full(reach)}; a dot at x = ${full(x)}` });
  const context = prepare(canvas, width, height);
  const points = Array.from({ length: width + 1 }, (_, k) => f((k / width) * 2 * reach - reach));
  const [low, high] = [Math.min(...points, 0), Math.max(...points, 0)];
  const at = (y) => height - 8 - ((y - low) / (high - low || 1)) * (height - 16);
  const style = getComputedStyle(document.documentElement);
  context.strokeStyle = style.getPropertyValue("--line");
  context.strokeRect(0, at(0), width, 0);
  context.strokeRect(width / 2, 0, 0, height);
  context.beginPath();
  points.forEach((y, k) => (k ? context.lineTo(k, at(y)) : context.moveTo(k, at(y))));
  context.strokeStyle = style.getPropertyValue("--accent");
  context.lineWidth = 2;
  context.stroke();
  context.beginPath();
  context.arc(((x + reach) / (2 * reach)) * width, at(f(x)), 5, 0, 7);
  context.fillStyle = style.getPropertyValue("--positive");
  context.fill();
  return canvas;
}

// ------------------------------------------------------------------------------- backward

/** All parts of the gradient of number i of a value or constant, by the step that they came through. */
function contributions(source, i) {
  const found = [];
  for (const { step, which } of source.readers) {
    if (step.output.gradient === null) continue;
    if (!step.known) {
      found.push({ step, which, parts: null, total: 0 });
      continue;
    }
    const parts = [];
    OPERATIONS[step.op].backward(step, which, i, (out, factor, from, cell) => parts.push({ out, factor, from, cell, gy: step.output.gradient.get(out) }));
    found.push({ step, which, parts, total: parts.reduce((sum, part) => sum + part.gy * part.factor, 0) });
  }
  return found;
}

/** The lens for the gradient of number i of a value (source is one of values) or of a weight (one of constants). */
function backwardLens(source, i) {
  const weight = source.kind !== undefined;
  const place = placeText(source.shape, i);
  const name = weight ? `${source.name}${place}` : `${layerTitle(source.number)}${place ? `: ${place}` : ""}`;
  if (!source.gradient) {
    const parts = head(`${name}: no gradient`, source.value.get(i), "");
    parts.push(element("p", {}, recording.target ? "The target does not depend on this number, so it gets no gradient." : "This run has no target to follow back."));
    return parts;
  }
  const gradient = source.gradient.get(i);
  const grows = `Its value is ${full(source.value.get(i))}. If it grew by a little ε, the target (${targetText()}) would change by about ${full(gradient)} · ε.`;
  const parts = head(`Gradient of ${name}`, gradient, grows);
  if (weight) parts.push(element("p", { class: "links" }, element("button", { type: "button", click: () => choose(state.layer, state.at) }, "← back to the layer")));
  const seeds = recording.target.kind === "loss" ? 0 : recording.target.index;
  const isTarget = !weight && source.number === recording.target.value;
  const found = contributions(source, i);
  let sum = isTarget && i === seeds ? 1 : 0;
  for (const { total } of found) sum += total;
  if (isTarget) parts.push(element("p", { class: "filled", id: "filled" }, i === seeds ? "This is the target itself: its gradient is 1." : "The target is another number of this output: the gradient here is 0."));
  else parts.push(element("p", { class: "formula" }, "gradient = Σ (gradient of each later number it went into) · (how much that number changes with this one)"));
  if (found.length) {
    if (!isTarget) parts.push(element("p", { class: "filled", id: "filled" }, partsText(found, sum)));
    parts.push(hoverLine("Point at a number to see its product; click it to go there."));
    for (const one of found) parts.push(...readerView(source, one, found.length));
  } else if (!isTarget) parts.push(element("p", {}, "No later number depends on it."));
  if (found.every(({ parts: known }) => known !== null)) parts.push(check(sum, source.gradient, i));
  if (!weight && source.maker) parts.push(...weightMaps(source.maker, i));
  return parts;
}

/** "9 products: 0.5", or where the ways of several operations meet "0.2 + 0.3 = 0.5". */
function partsText(found, sum) {
  if (found.length > 1) return `${found.map(({ total }) => inSum(total)).join(" + ")} = ${full(sum)}`;
  const count = found[0].parts?.length;
  return count === undefined ? "" : `${count} product${count === 1 ? "" : "s"}: ${full(sum)}`;
}

/** The chain rule of an operation, for each of its inputs; t is the target. */
const CHAIN = {
  conv2d: [
    "∂t/∂x[c, h, w] = Σ ∂t/∂y[o, h', w'] · w[o, c, kh, kw], over all windows that see the pixel",
    "∂t/∂w[o, c, kh, kw] = Σ ∂t/∂y[o, h, w] · x[c, h', w'], over all places of the window",
    "∂t/∂b[o] = Σ ∂t/∂y[o, h, w], over all places",
  ],
  linear: ["∂t/∂x[k] = Σ ∂t/∂y[o] · w[o, k]", "∂t/∂w[o, k] = ∂t/∂y[o] · x[k]", "∂t/∂b[o] = ∂t/∂y[o]"],
  softmax: ["∂t/∂x_i = Σ ∂t/∂y_j · y_j (1 if i = j, else 0; minus y_i)"],
  cross_entropy: ["∂loss/∂x_i = share_i − (1 for the label, else 0)"],
  batch_norm: { 0: "∂t/∂x = ∂t/∂y · scale / √(variance + ε)", 3: "∂t/∂scale = Σ ∂t/∂y · (x − mean) / √(variance + ε)", 4: "∂t/∂shift = Σ ∂t/∂y" },
  add: ["∂t/∂a = ∂t/∂y: a sum hands its gradient on to both", "∂t/∂b = ∂t/∂y: a sum hands its gradient on to both"],
  max_pool2d: ["the number that won its window gets the window's gradient, the others 0"],
  avg_pool2d: ["∂t/∂x = Σ ∂t/∂y / n, over the windows that see x"],
  adaptive_avg_pool2d: ["∂t/∂x = Σ ∂t/∂y / n, over the windows that see x"],
};

/** The parts that came through one step: as tables of products for convolutions, as a list otherwise. */
function readerView(source, { step, which, parts, total }, count) {
  const rule = CHAIN[step.op]?.[which] ?? (ACTIVATIONS[step.op] ? `∂t/∂x = ∂t/∂y · derivative, which is ${ACTIVATIONS[step.op].slopeText}` : "");
  const heading = element("h3", {}, `${count > 1 ? "Part: " : ""}through ${layerTitle(step.number + 1)}`);
  const title = element("div", {}, heading, element("p", { class: "formula" }, rule));
  if (parts === null) return [title, element("p", {}, "This page does not know the derivative of this operation; the gradient is the one that minidl computed.")];
  const y = step.output;
  const back = (part) => goTo(y, part.out);
  const factorSource = step.inputs[which === 0 ? 1 : 0];
  if (step.op === "conv2d" && which < 2) {
    const { KH, KW, OH, OW } = convolution(step);
    const [columns, size] = which === 0 ? [KW, KH * KW] : [OW, OH * OW];
    const groups = new Map();
    for (const part of parts) {
      const channel = Math.floor(part.out / (OH * OW));
      if (!groups.has(channel)) groups.set(channel, { name: `output channel ${channel}`, cells: Array(size).fill(null), total: 0, outside: "no product here" });
      const group = groups.get(channel);
      const names = which === 0 ? ["w", "weight"] : ["x", "input"];
      const text = `gradient of y${placeText(y.shape, part.out)} · ${names[0]}${placeText(factorSource.shape, part.from)} = ${full(part.gy)} · ${inSum(part.factor)} = ${full(part.gy * part.factor)}`;
      group.cells[part.cell % size] = { a: part.gy, b: part.factor, text, goA: back(part), goB: goTo(factorSource, part.from) };
      group.total += part.gy * part.factor;
    }
    if (!groups.size) return [title, element("p", {}, "No window sees this number.")];
    return [title, productGroups([...groups.values()], columns, ["gradients that arrive", which === 0 ? "weights" : "input numbers", "products"])];
  }
  const slope = step.op === "linear" && which < 2 ? (which === 0 ? "weight" : "input x") : "derivative";
  const rows = parts.map((part) => ({
    size: Math.abs(part.gy * part.factor),
    say: `gradient of y${placeText(y.shape, part.out)} · derivative = ${full(part.gy)} · ${inSum(part.factor)} = ${full(part.gy * part.factor)}`,
    cells: [
      { text: placeText(y.shape, part.out) || "y" },
      { text: full(part.gy), go: back(part) },
      { text: full(part.factor), go: part.from >= 0 ? goTo(factorSource, part.from) : null },
      { text: full(part.gy * part.factor) },
    ],
  }));
  return [title, termTable(["into y", "its gradient", slope, "product"], rows), element("p", { class: "subtotal" }, `Σ = ${full(total)}`)];
}

/** The gradients of the weights that output number i was made with; a click shows what one is the sum of. */
function weightMaps(step, i) {
  const views = [];
  step.inputs.forEach((source) => {
    if (!source || source.kind !== "parameter" || !source.gradient) return;
    const rowed = source.shape.length > 1;
    const row = rowed ? sizeOf(source.shape.slice(1)) : 1;
    const inner = step.op === "conv2d" || step.op.endsWith("norm") ? sizeOf(step.output.shape.slice(2)) : 1;
    const own = step.op === "layer_norm" ? i % source.value.size : Math.floor(i / inner) % source.shape[0];
    const count = row;
    const start = own * row;
    if (!rowed) {
      const button = element("button", { type: "button", click: goTo(source, own) }, `${source.name}${placeText(source.shape, own)}: gradient ${full(source.gradient.get(own))}`);
      views.push(element("p", { class: "links" }, button));
      return;
    }
    const layout = layoutOf([1, ...source.shape.slice(1)]);
    const canvas = element("canvas", { class: "heat", role: "img", "aria-label": `Gradients of the weights of row ${own}` });
    const numbers = Array.from({ length: count }, (_, k) => source.gradient.get(start + k));
    const array = { all: () => numbers };
    const cell = layout.vector ? 10 : Math.max(6, Math.min(16, Math.floor(60 / layout.W)));
    drawMontage(canvas, array, layout, { columns: Math.max(1, Math.floor((lens.clientWidth - 40) / (layout.W * cell + 3))), cell });
    const at = (event) => montageAt(canvas, layout, event.offsetX, event.offsetY);
    canvas.addEventListener("pointermove", (event) => {
      const spot = at(event);
      if (spot) canvas.title = `${source.name}${placeText(source.shape, start + spot.i)}: gradient ${full(numbers[spot.i])}`;
    });
    canvas.addEventListener("click", (event) => {
      const spot = at(event);
      if (spot) chooseWeight(source.number, start + spot.i);
    });
    views.push(element("p", { class: "quiet" }, `${source.name}, the part that makes this channel: click a weight to see what its gradient is the sum of`), canvas);
  });
  return views.length ? [element("h3", {}, "Gradients of this layer's weights"), ...views] : [];
}
