// ---------------------------------------------------------------------------------------------
// page.js: what is chosen, and what clicks and keys do to it.
// ---------------------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

/** layer: number of the value that is shown; at: the chosen number in it, null when the lens is closed;
    weight: {constant, at} when the lens shows a weight's gradient instead. */
const state = { layer: 0, at: null, map: 0, mode: "forward", weight: null, zoom: null };

/** What the maps of a layer show in this direction: values, or gradients (null: there are none). */
function shownArray(v) {
  return state.mode === "forward" ? values[v].value : values[v].gradient;
}

// ------------------------------------------------------------------------------- choosing

function choose(layer, at = null) {
  state.layer = layer;
  state.weight = null;
  const { count } = layoutOf(values[layer].shape);
  if (at === null) at = state.at === null ? null : strongest(layer);
  state.at = at;
  state.map = at === null ? 0 : Math.floor(at / count);
  state.zoom = null;
  show();
}

function chooseWeight(constant, at) {
  state.mode = "backward";
  state.weight = { constant, at };
  show();
  lens.scrollIntoView({ block: "nearest" });
}

function closeLens() {
  if (state.weight) state.weight = null;
  else state.at = null;
  show();
}

function setMode(mode) {
  state.mode = mode;
  if (mode === "forward") state.weight = null;
  show();
}

/** Where a layer is opened: its largest number (gradient: the largest of either sign), which has something to show. */
function strongest(layer) {
  const array = shownArray(layer) ?? values[layer].value;
  const size = state.mode === "forward" ? (number) => number : Math.abs;
  let best = 0;
  array.all().forEach((number, i, all) => {
    if (size(number) > size(all[best])) best = i;
  });
  return best;
}

// ------------------------------------------------------------------------------- drawing

function show() {
  byId("forward").setAttribute("aria-pressed", state.mode === "forward");
  byId("backward").setAttribute("aria-pressed", state.mode === "backward");
  showStrip();
  showLayer();
  showLens();
}

function showStrip() {
  for (const card of strip.children) {
    const current = Number(card.dataset.layer) === state.layer;
    if (current && card.getAttribute("aria-current") !== "true") {
      const [left, right] = [card.offsetLeft - strip.offsetLeft, card.offsetLeft - strip.offsetLeft + card.offsetWidth];
      if (left < strip.scrollLeft || right > strip.scrollLeft + strip.clientWidth) strip.scrollLeft = left - 60;
    }
    card.setAttribute("aria-current", current);
    if (card.drawn && card.drawn !== state.mode + theme()) drawSoon(card); // only those in view
  }
}

/** Cards that wait to be drawn, one after the other, so that the page answers in between. */
const waiting = new Set();

function drawSoon(card) {
  waiting.add(card);
  if (waiting.size > 1) return;
  const next = () => {
    const [first] = waiting;
    if (first) drawCard(first);
    waiting.delete(first);
    if (waiting.size) setTimeout(next);
  };
  setTimeout(next);
}

/** The small picture of a layer: its first maps. Drawn when it comes into view. */
function drawCard(card) {
  const v = Number(card.dataset.layer);
  const canvas = card.querySelector("canvas");
  const layout = layoutOf(values[v].shape);
  const array = shownArray(v);
  card.drawn = state.mode + theme();
  if (!array) {
    const context = prepare(canvas, 100, 100);
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--quiet");
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText("no gradient", 50, 54);
    return;
  }
  const columns = Math.min(4, Math.ceil(Math.sqrt(layout.maps)));
  const cell = Math.min(96 / columns / layout.W, 100 / columns / layout.H, 24) - 3 / Math.max(layout.W, layout.H);
  drawMontage(canvas, array, layout, { columns, cell, limit: columns * columns });
}

function showLayer() {
  const v = state.layer;
  const { shape, maker } = values[v];
  const layout = layoutOf(shape);
  const array = shownArray(v);
  const what = state.mode === "forward" ? "values" : "gradients";
  byId("layer-name").textContent = `#${v} ${layerTitle(v)}`;
  const sentence = maker ? (maker.op in ACTIVATIONS && !WORDS[maker.op] ? `Each number x becomes ${ACTIVATIONS[maker.op].text}.` : (WORDS[maker.op]?.[1] ?? "")) : "The numbers that go into the model.";
  const weights = maker ? maker.inputs.filter((s) => s && s.kind === "parameter") : [];
  const sizes = weights.map((s) => `${s.name.split(".").pop()} ${s.shape.join("×")}`).join(", ");
  byId("layer-text").textContent = `${sentence} ${layout.axes.join(" × ") || "1"} ${sizeOf(layout.axes) === 1 ? "number" : "numbers"}${sizes ? `; weights: ${sizes}` : ""}.${inputsText(v)}`;
  byId("legend").hidden = byId("all-maps").hidden = !array;
  const map = byId("map");
  if (!array) {
    prepare(map, 300, 40);
    byId("map-name").textContent = "No gradient: the target does not depend on this layer";
    byId("here").textContent = "";
    return;
  }
  const largest = largestOf(array);
  byId("legend-low").textContent = full(-largest);
  byId("legend-high").textContent = `${full(largest)}  (${what})`;
  const bar = prepare(byId("legend-bar"), 160, 12);
  for (let k = 0; k < 160; k++) {
    bar.fillStyle = `rgb(${colour((k / 159) * 2 - 1, 1)})`;
    bar.fillRect(k, 0, 1, 12);
  }
  byId("all-maps").hidden = layout.maps === 1;
  const width = Math.max(200, byId("layer").clientWidth - 24);
  if (layout.maps > 1) {
    byId("montage-name").textContent = `All ${layout.maps} channels: click one`;
    const cell = Math.max(1, Math.floor(40 / layout.W));
    const montage = byId("montage");
    drawMontage(montage, array, layout, { columns: Math.floor(width / (layout.W * cell + 3)), cell, chosen: state.map });
    const { columns, height } = montage.geometry;
    const [box, top] = [montage.parentElement, Math.floor(state.map / columns) * height];
    if (top < box.scrollTop || top + height > box.scrollTop + box.clientHeight) box.scrollTop = top - height;
    montage.setAttribute("aria-label", `${layout.maps} maps of ${layout.H} by ${layout.W} ${what}`);
  }
  const cell = cellSize(layout, width);
  drawMap(map, array, state.map, layout, { cell, chosen: state.at ?? -1 });
  const named = layout.vector ? `${layout.count} ${layout.count === 1 ? what.slice(0, -1) : what}` : `Channel ${state.map}: ${layout.H} × ${layout.W} ${what}`;
  byId("map-name").textContent = `${named}: click a number`;
  map.setAttribute("aria-label", `${named} of ${layerTitle(v)}. Arrow keys move the chosen number.`);
  byId("here").textContent = state.at === null ? "Nothing chosen." : `${placeText(shape, state.at)} = ${full(array.get(state.at))}${answerName(v, state.at)}`;
  if (state.at !== null) keepInView(byId("map-scroll"), layout, cell);
}

function answerName(v, at) {
  return recording.classes && values[v].value.size === recording.classes.length ? ` (class ${className(at)})` : "";
}

function inputsText(v) {
  const read = values[v].maker ? values[v].maker.inputs.filter((s) => s && s.kind === undefined).map((s) => s.number) : [];
  return read.length && (read.length > 1 || read[0] !== v - 1) ? ` It reads ${read.map((n) => `#${n}`).join(" and ")}.` : "";
}

/** As large as fits, or what the zoom buttons say. */
function cellSize(layout, width) {
  const fitting = Math.max(4, Math.min(44, Math.floor(Math.min(width / layout.W, 460 / layout.H))));
  return (state.zoom ??= fitting);
}

function zoom(factor) {
  const layout = layoutOf(values[state.layer].shape);
  const most = Math.max(4, Math.min(60, Math.floor(4000 / Math.max(layout.W, layout.H))));
  state.zoom = Math.max(2, Math.min(most, Math.round((state.zoom ?? 16) * factor)));
  showLayer();
}

function keepInView(box, layout, cell) {
  const i = state.at % layout.count;
  const [x, y] = [(i % layout.W) * cell, Math.floor(i / layout.W) * cell];
  if (x < box.scrollLeft) box.scrollLeft = x;
  if (x + cell > box.scrollLeft + box.clientWidth) box.scrollLeft = x + cell - box.clientWidth + 8;
  if (y < box.scrollTop) box.scrollTop = y;
  if (y + cell > box.scrollTop + box.clientHeight) box.scrollTop = y + cell - box.clientHeight + 8;
}

function showLens() {
  if (state.weight) lens.replaceChildren(...backwardLens(constants[state.weight.constant], state.weight.at));
  else if (state.at === null)
    lens.replaceChildren(element("h2", { id: "lens-name" }, "The lens"), element("p", {}, "Click a number on the left: this shows which numbers it was made from, and how."));
  else if (state.mode === "backward") lens.replaceChildren(...backwardLens(values[state.layer], state.at));
  else if (state.layer === 0)
    lens.replaceChildren(
      ...head(`Input ${placeText(values[0].shape, state.at)}`, values[0].value.get(state.at), "A number of the image. Nothing made it; go on to the next layer, or switch to backward to see its gradient: which pixels matter for the answer."),
    );
  else lens.replaceChildren(...forwardLens(values[state.layer].maker, state.at));
}

// ------------------------------------------------------------------------------- the page around it

const strip = byId("strip");

function buildStrip() {
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) drawSoon(target);
      else {
        target.drawn = null; // drawn again when it comes back
        waiting.delete(target);
      }
    }
  }, { root: strip, rootMargin: "0px 300px" });
  values.forEach((value, v) => {
    const layout = layoutOf(value.shape);
    const step = value.maker;
    const card = element(
      "button",
      { class: step && !step.path ? "card added" : "card", type: "button", "data-layer": v, click: () => (state.layer !== v || state.weight) && choose(v), focus: () => state.layer !== v && choose(v) },
      element("span", { class: "picture" }, element("canvas", { "aria-hidden": "true" })),
      element("b", {}, step ? nameOf(step) : "input"),
      element("small", { title: step?.path ?? "" }, `#${v} ${step ? step.path || "(added)" : "of the model"}`),
      element("small", {}, layout.axes.join(" × ") || "1 number"),
      element("small", {}, inputsText(v).replace(" It reads ", "← ").replace(".", "").replace(" and ", " + ") || " "),
    );
    strip.append(card);
    watcher.observe(card);
  });
}

function buildHeader() {
  const image = layoutOf(values[0].shape);
  if (image.vector) byId("photo").remove();
  else drawPhoto(byId("photo"), 84);
  const output = values[recording.output];
  const last = steps.find((step) => step.op === "softmax" && !step.path && step.inputs[0] === output);
  const scores = last ? last.output.value.all() : null;
  if (scores) {
    const best = [...scores.keys()].sort((p, q) => scores[q] - scores[p]).slice(0, 3);
    byId("answer").textContent = `${recording.model} says: ${best.map((k) => `${className(k)} ${(100 * scores[k]).toFixed(1)} %`).join(", ")}`;
  } else byId("answer").textContent = `${recording.model}: an output of ${layoutOf(output.shape).axes.join(" × ")} numbers`;
  byId("target").textContent = `Backward follows ${targetText()}.`;
  const entries = [...recording.values.flatMap((e) => [e.value, e.gradient]), ...recording.constants.flatMap((e) => [e.value, e.gradient])].filter(Boolean);
  const kept = entries.filter((name) => name !== "computed");
  const sizes = [...values, ...constants].reduce((sum, s) => sum + (s.value.stored ? s.value.size : 0) + (s.gradient?.stored ? s.gradient.size : 0), 0);
  const dropped = (list, slot) => list.filter((s) => s[slot] && !s[slot].stored);
  const operations = [...new Set(dropped(values, "value").map((v) => WORDS[v.maker.op][0](v.maker)))];
  const [layers, weights] = [dropped(values, "gradient").length, dropped(constants, "gradient").length];
  const what = [operations.length && `the outputs of ${operations.join(", ")}`, layers && `the gradients of ${layers} of ${values.length} layers`, weights && `the gradients of ${weights} weights`].filter(Boolean);
  byId("stored").textContent =
    `Stored in this page, as minidl computed them (${recording.dtype}): ${kept.length} arrays with ${sizes.toLocaleString("en")} numbers, among them the image and all weights. ` +
    (what.length ? `Computed here from those, by the arithmetic that the lens shows: ${what.join(", ")}. ` : "") +
    "Batch normalisation and dropout run as in evaluation. Nothing is loaded from a network.";
}

byId("forward").addEventListener("click", () => setMode("forward"));
byId("backward").addEventListener("click", () => setMode("backward"));
byId("zoom-in").addEventListener("click", () => zoom(1.5));
byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
  show();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
byId("help-button").addEventListener("click", (event) => {
  byId("help").hidden = !byId("help").hidden;
  event.currentTarget.setAttribute("aria-expanded", !byId("help").hidden);
});

byId("montage").addEventListener("click", (event) => {
  const spot = montageAt(byId("montage"), layoutOf(values[state.layer].shape), event.offsetX, event.offsetY);
  if (!spot) return;
  state.weight = null;
  [state.map, state.at] = [spot.map, spot.i];
  show();
});

const underPointer = (event) => {
  const layout = layoutOf(values[state.layer].shape);
  const [w, h] = [Math.floor(event.offsetX / state.zoom), Math.floor(event.offsetY / state.zoom)];
  const i = h * layout.W + w;
  return w >= 0 && h >= 0 && w < layout.W && i < layout.count ? state.map * layout.count + i : null;
};
byId("map").addEventListener("click", (event) => {
  const at = underPointer(event);
  if (at === null || !shownArray(state.layer)) return;
  state.weight = null;
  state.at = at;
  show();
});
byId("map").addEventListener("pointermove", (event) => {
  const at = underPointer(event);
  const array = shownArray(state.layer);
  if (at !== null && array) byId("map").title = `${placeText(values[state.layer].shape, at)} = ${full(array.get(at))}`;
});

/** The neighbour of the chosen number; stays at the edges. */
function move(rows, columns) {
  const { W, H, count } = layoutOf(values[state.layer].shape);
  const i = (state.at ?? state.map * count) % count;
  const h = Math.max(0, Math.min(H - 1, Math.floor(i / W) + rows));
  const w = Math.max(0, Math.min(W - 1, (i % W) + columns));
  if (h * W + w < count) state.at = state.map * count + h * W + w;
  state.weight = null;
  show();
}

function changeMap(by) {
  const { maps, count } = layoutOf(values[state.layer].shape);
  const map = Math.max(0, Math.min(maps - 1, state.map + by));
  if (state.at !== null) state.at += (map - state.map) * count;
  state.map = map;
  state.weight = null;
  show();
}

const KEYS = {
  ArrowLeft: () => move(0, -1),
  ArrowRight: () => move(0, 1),
  ArrowUp: () => move(-1, 0),
  ArrowDown: () => move(1, 0),
  PageUp: () => changeMap(-1),
  PageDown: () => changeMap(1),
  "+": () => zoom(1.5),
  "-": () => zoom(1 / 1.5),
  b: () => setMode(state.mode === "forward" ? "backward" : "forward"),
  Escape: closeLens,
};
/** Inside of the lens, Enter follows a number and arrows go to its neighbours; true when the key was for the lens. */
function lensKey(key) {
  const here = document.activeElement;
  const cells = [...lens.querySelectorAll("td.link")];
  if (key === "Enter" && here === byId("map") && cells.length) cells[0].focus();
  else if (!cells.includes(here)) return false;
  else if (key === "Enter") {
    here.click();
    byId("map").focus();
  } else if (key === "Escape") byId("map").focus();
  else if (key === "ArrowLeft" || key === "ArrowRight") cells[cells.indexOf(here) + (key === "ArrowRight" ? 1 : -1)]?.focus();
  else if (key === "ArrowUp" || key === "ArrowDown") {
    const row = key === "ArrowDown" ? here.parentElement.nextElementSibling : here.parentElement.previousElementSibling;
    row?.cells[here.cellIndex]?.focus();
  } else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (lensKey(event.key)) return event.preventDefault();
  if (!KEYS[event.key]) return;
  if (event.key.startsWith("Arrow") && state.at === null) return; // then they scroll
  KEYS[event.key]();
  event.preventDefault();
});

let resizing = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(() => {
    state.zoom = null;
    show();
  });
});

buildHeader();
buildStrip();
state.at = 0;
choose(Math.min(1, values.length - 1));
