// ---------------------------------------------------------------------------------------------
// pictures.js: numbers as colours. Blue is negative, orange positive, the background zero: a pair
// that stays apart for every kind of colour blindness. Signs are also written wherever numbers are.
// ---------------------------------------------------------------------------------------------

const PALETTES = {
  light: { negative: [0, 94, 162], zero: [250, 250, 248], positive: [205, 82, 0], broken: [140, 140, 140] },
  dark: { negative: [86, 180, 240], zero: [30, 33, 38], positive: [245, 150, 40], broken: [140, 140, 140] },
};

function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

/** The colour of a number on a scale from -largest to largest; small numbers are lifted a little, so that they are seen. */
function colour(number, largest) {
  const palette = PALETTES[theme()];
  if (!Number.isFinite(number)) return palette.broken;
  const share = largest > 0 ? Math.min(Math.abs(number) / largest, 1) ** 0.7 : 0;
  const end = number < 0 ? palette.negative : palette.positive;
  return palette.zero.map((z, k) => Math.round(z + (end[k] - z) * share));
}

/** Black or white, whichever stands out more on a colour (WCAG 2). */
function inkOn([r, g, b]) {
  const linear = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 ? "#000" : "#fff";
}

/** The largest finite |number| of an array; what full colour means. */
function largestOf(array) {
  if (array.largest === undefined) {
    let largest = 0;
    for (const number of array.all()) {
      const size = Math.abs(number);
      if (size > largest && size < Infinity) largest = size;
    }
    array.largest = largest;
  }
  return array.largest;
}

/** How an array is drawn: as `maps` pictures of H rows and W columns. A vector is wrapped into rows. */
function layoutOf(shape) {
  const axes = shape.length > 1 && shape[0] === 1 ? shape.slice(1) : shape;
  if (axes.length < 2) {
    const count = sizeOf(axes);
    const W = count <= 16 ? count : count <= 64 ? 16 : count <= 1024 ? 32 : 64;
    return { maps: 1, H: Math.ceil(count / W), W, count, axes, vector: true };
  }
  const [H, W] = axes.slice(-2);
  return { maps: sizeOf(axes.slice(0, -2)), H, W, count: H * W, axes, vector: false };
}

/** Position i in words, as in Python: [channel, row, column]. */
function placeText(shape, i) {
  const { axes } = layoutOf(shape);
  if (axes.length === 0) return "";
  const place = [];
  for (let axis = axes.length - 1; axis >= 0; axis--) {
    place.unshift(i % axes[axis]);
    i = Math.floor(i / axes[axis]);
  }
  return `[${place.join(", ")}]`;
}

/** One map as a picture of one pixel per number, which is then drawn in any size. */
function mapImage(numbers, start, layout, largest) {
  const { H, W, count } = layout;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [W, H];
  const image = new ImageData(W, H);
  for (let i = 0; i < count; i++) {
    const [r, g, b] = colour(numbers[start + i], largest);
    image.data.set([r, g, b, 255], i * 4);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** A canvas of a size in CSS pixels, sharp on any screen; returns its context in CSS pixels. */
function prepare(canvas, width, height) {
  const density = Math.min(window.devicePixelRatio || 1, 2);
  [canvas.width, canvas.height] = [Math.round(width * density), Math.round(height * density)];
  [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
  const context = canvas.getContext("2d");
  context.scale(density, density);
  context.imageSmoothingEnabled = false;
  return context;
}

/** All maps side by side. Remembers its geometry on the canvas, for montageAt. */
function drawMontage(canvas, array, layout, { columns, cell, chosen = -1, limit = Infinity }) {
  const numbers = array.all();
  const largest = largestOf(array);
  const gap = 3;
  const [width, height] = [layout.W * cell + gap, layout.H * cell + gap];
  const count = Math.min(layout.maps, limit);
  columns = Math.max(1, Math.min(columns, count));
  const context = prepare(canvas, columns * width + gap, Math.ceil(count / columns) * height + gap);
  for (let m = 0; m < count; m++) {
    const [x, y] = [gap + (m % columns) * width, gap + Math.floor(m / columns) * height];
    context.drawImage(mapImage(numbers, m * layout.count, layout, largest), x, y, layout.W * cell, layout.H * cell);
    context.lineWidth = m === chosen ? 3 : 1;
    context.strokeStyle = m === chosen ? ring() : "rgba(128, 128, 128, 0.5)";
    context.strokeRect(x - 0.5, y - 0.5, layout.W * cell + 1, layout.H * cell + 1);
  }
  canvas.geometry = { columns, width, height, gap, cell, count };
}

/** The number under a point of a montage, as {map, i}; null between the maps. */
function montageAt(canvas, layout, x, y) {
  const { columns, width, height, gap, cell, count } = canvas.geometry;
  const [column, row] = [Math.floor((x - gap) / width), Math.floor((y - gap) / height)];
  const map = row * columns + column;
  const w = Math.floor((x - gap - column * width) / cell);
  const h = Math.floor((y - gap - row * height) / cell);
  if (column < 0 || column >= columns || row < 0 || map >= count || w < 0 || h < 0 || w >= layout.W || h >= layout.H) return null;
  return h * layout.W + w < layout.count ? { map, i: map * layout.count + h * layout.W + w } : null;
}

/** The colour of the frame around what is chosen. */
function ring() {
  return theme() === "dark" ? "#ffffff" : "#000000";
}

/** One map, large; numbers are written into the cells where there is room. `box` frames {h, w, rows, columns}. */
function drawMap(canvas, array, map, layout, { cell, chosen = -1, box = null }) {
  const numbers = array.all();
  const largest = largestOf(array);
  const start = map * layout.count;
  const context = prepare(canvas, layout.W * cell, layout.H * cell);
  context.drawImage(mapImage(numbers, start, layout, largest), 0, 0, layout.W * cell, layout.H * cell);
  if (cell >= 8) {
    context.strokeStyle = "rgba(128, 128, 128, 0.22)";
    context.beginPath();
    for (let k = 1; k < layout.W; k++) context.rect(k * cell, 0, 0, layout.H * cell);
    for (let k = 1; k < layout.H; k++) context.rect(0, k * cell, layout.W * cell, 0);
    context.stroke();
  }
  if (cell >= 30) {
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let i = 0; i < layout.count; i++) {
      context.fillStyle = inkOn(colour(numbers[start + i], largest));
      const text = short(numbers[start + i]);
      context.font = `${Math.min(13, cell / 3.4, (cell - 2) / (0.6 * text.length))}px system-ui, sans-serif`;
      context.fillText(text, ((i % layout.W) + 0.5) * cell, (Math.floor(i / layout.W) + 0.5) * cell);
    }
  }
  const frame = (w, h, columns, rows) => {
    context.lineWidth = 4;
    context.strokeStyle = theme() === "dark" ? "#000" : "#fff";
    context.strokeRect(w * cell, h * cell, columns * cell, rows * cell);
    context.lineWidth = 2;
    context.strokeStyle = ring();
    context.strokeRect(w * cell, h * cell, columns * cell, rows * cell);
  };
  if (box) frame(box.w, box.h, box.columns, box.rows);
  if (chosen >= start && chosen < start + layout.count) frame((chosen - start) % layout.W, Math.floor((chosen - start) / layout.W), 1, 1);
}

/** The image itself: grey or colours as they are from 0 to 1, else stretched from the lowest to the highest number. */
function drawPhoto(canvas, side) {
  const { maps, H, W } = layoutOf(values[0].shape);
  const numbers = values[0].value.all();
  let low = Infinity;
  let high = -Infinity;
  for (const number of numbers) [low, high] = [Math.min(low, number), Math.max(high, number)];
  if (low >= 0 && high <= 1) [low, high] = [0, 1];
  const image = new ImageData(W, H);
  for (let p = 0; p < H * W; p++)
    for (let k = 0; k < 4; k++)
      image.data[4 * p + k] = k === 3 ? 255 : (255 * (numbers[(maps === 3 ? k : 0) * H * W + p] - low)) / (high - low || 1);
  const small = document.createElement("canvas");
  [small.width, small.height] = [W, H];
  small.getContext("2d").putImageData(image, 0, 0);
  const scale = side / Math.max(H, W);
  prepare(canvas, W * scale, H * scale).drawImage(small, 0, 0, W * scale, H * scale);
}

// ------------------------------------------------------------------------------- numbers as text

/** A number to read: four digits. */
function full(number) {
  if (number === 0) return "0";
  if (!Number.isFinite(number)) return String(number).replace("-", "−").replace("Infinity", "∞");
  const size = Math.abs(number);
  const text = size >= 1e5 || size < 1e-3 ? number.toExponential(3) : String(Number(number.toPrecision(4)));
  return text.replaceAll("-", "−").replace(/e\+?(−?)(\d+)$/, "e$1$2");
}

/** A number for a small cell: about two digits, five characters. */
function short(number) {
  if (number === 0) return "0";
  if (!Number.isFinite(number)) return full(number);
  const size = Math.abs(number);
  const text = size >= 1000 || size < 0.00095 ? number.toExponential(0) : number.toFixed(size >= 9.95 ? 0 : size >= 0.0995 ? 2 : 3);
  return text.replaceAll("-", "−").replace("e+", "e").replace(/^(−?)0\./, "$1.");
}

/** A number as part of a sum: negative ones in brackets. */
function inSum(number) {
  return number < 0 ? `(${full(number)})` : full(number);
}
