// What all viewers share: weights from bytes, colours, the text as spans, downloads.

// The colour of the text, until the page turns dark or light.
let ink = null;
const INK = () => (ink ??= getComputedStyle(element).getPropertyValue("color"));
const LOCAL = "230, 97, 0";
// As a background behind words. As ink on a dark page it would be too dark: see `globalInk`.
const GLOBAL = "124, 92, 196";
const NEGATIVE = "0, 114, 178";
const globalInk = () => (document.body.classList.contains("dark") ? "183, 163, 245" : "109, 76, 184");

// Blue to yellow, even in brightness, told apart by readers of every colour vision.
const RAMP = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const SHADES = Array.from({ length: 256 }, (_, shade) => {
  const place = (shade / 255) * (RAMP.length - 1);
  const from = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[from].map((value, channel) => Math.round(value + (RAMP[from + 1][channel] - value) * (place - from)));
});

// The same as four bytes in one number, red first in memory.
const PIXELS = Uint32Array.from(SHADES, ([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function bytesOf(base64) {
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place += 1) bytes[place] = letters.charCodeAt(place);
  return bytes;
}

function weightsOf(view) {
  return Float32Array.from(bytesOf(view.codes), (code) => view.largest * (code / 255) ** 2);
}

function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 100 ? value.toFixed(0) : size >= 0.001 ? value.toPrecision(3) : value.toExponential(1);
}

function percent(share) {
  return share > 0 && share < 0.01 ? "<1%" : `${Math.round(share * 100)}%`;
}

// What was sent of a text, its positions unpacked.
function unpack(view) {
  const integers = (packed) => new Int32Array(bytesOf(packed).buffer);
  const units = Object.entries(view.units ?? {}).map(([name, packed]) => [name, integers(packed)]);
  return { ...view, starts: integers(view.starts), stops: integers(view.stops), units: Object.fromEntries(units) };
}

// The text as one span for each token, in blocks that the browser lays out only when they come into sight.
function layOut(container, view) {
  // Offsets count characters; strings count UTF-16 units.
  const characters = Array.from(view.text);
  const spans = [];
  const blocks = [];
  const all = document.createDocumentFragment();
  let block = null;
  let written = 0;
  const open = () => {
    block = make("div", { class: "block" });
    block.first = spans.length;
    blocks.push(block);
    all.append(block);
  };
  open();
  for (let place = 0; place < view.starts.length; place += 1) {
    const start = view.starts[place];
    const stop = view.stops[place];
    const isSpecial = stop <= start;
    if (!isSpecial && start > written) block.append(characters.slice(written, start).join(""));
    const own = isSpecial ? view.names[place] : characters.slice(Math.max(start, written), stop).join("");
    if (!isSpecial) written = Math.max(written, stop);
    const isBreak = !isSpecial && own !== "" && own.trim() === "" && own.includes("\n");
    const span = document.createElement("span");
    span.textContent = isBreak ? "¶" : own;
    if (isSpecial || isBreak) span.className = isBreak ? "break" : "special";
    span.dataset.place = place;
    spans.push(span);
    block.append(span);
    block.last = place;
    if (isBreak) open();
  }
  if (block.first === spans.length) { block.remove(); blocks.pop(); }
  container.replaceChildren(all);
  return { spans, blocks };
}

function nameOf(view, place) {
  if (view.stops[place] <= view.starts[place]) return view.names[place];
  const text = (view.characters ??= Array.from(view.text)).slice(view.starts[place], view.stops[place]).join("");
  return text.trim() === "" ? JSON.stringify(text).slice(1, -1) : text;
}

// Asks the server past the queue of what runs a model. The answer carries the question's number.
async function answerTo(question) {
  const { number } = question;
  try {
    return { ...await server.answer(question), number };
  } catch {
    return { kind: "failed", message: "The server did not answer. Try again, or reload the page.", number };
  }
}

function save(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The widths of canvases, until the viewer's changes: to ask for one makes the browser lay out what was changed before.
let widths = new WeakMap();
function widthOf(canvas) {
  if (!widths.get(canvas)) widths.set(canvas, canvas.clientWidth);
  return widths.get(canvas) || 300;
}

function fit(canvas, height) {
  const scale = window.devicePixelRatio || 1;
  const width = widthOf(canvas);
  canvas.style.height = `${height}px`;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const paint = canvas.getContext("2d");
  paint.setTransform(scale, 0, 0, scale, 0, 0);
  paint.clearRect(0, 0, width, height);
  return { paint, width };
}

// The part of the largest weight that a shade stands for is (shade / 255) squared. A scale says which part of the colours
// it gets; `end` is the weight of the last colour.
const SCALES = {
  root: () => ({ of: (share) => Math.sqrt(share), end: 1, words: "square root scale" }),
  clipped: (shades) => {
    const counts = new Uint32Array(256);
    for (const shade of shades) counts[shade] += 1;
    const seen = shades.length - counts[0];
    let [last, above] = [255, 0];
    while (last > 1 && above + counts[last] <= seen * 0.01) { above += counts[last]; last -= 1; }
    const end = (last / 255) ** 2;
    return { of: (share) => Math.sqrt(Math.min(share / end, 1)), end, words: "square root scale, the strongest 1% alike" };
  },
  logarithm: () => ({ of: (share) => Math.max(1 + Math.log10(share) / 4, 0), end: 1, words: "logarithmic scale" }),
};

// The weights, as parts of the largest, at the start, in the middle and at the end of the colours.
function ticksOf(name, scale) {
  return name === "logarithm" ? [1e-4, 1e-2, 1] : [0, scale.end / 4, scale.end];
}

// The pixel for each shade.
const coloursOf = (scale) => Uint32Array.from({ length: 256 }, (_, shade) =>
  PIXELS[shade ? Math.round(255 * scale.of((shade / 255) ** 2)) : 0]);

// A picture's shades -> a coloured canvas, and the weight at each pixel.
function coloured(view, name) {
  if (!view.height) return null;
  const shades = bytesOf(view.shades);
  const canvas = make("canvas", { width: view.width, height: view.height });
  const picture = new ImageData(view.width, view.height);
  const pixels = new Uint32Array(picture.data.buffer);
  const scale = SCALES[name](shades);
  const colours = coloursOf(scale);
  for (let place = 0; place < shades.length; place += 1) pixels[place] = colours[shades[place]];
  canvas.getContext("2d").putImageData(picture, 0, 0);
  const ticks = ticksOf(name, scale).map((share) => share * view.largest);
  return { view, canvas, ticks, words: scale.words, at: (x, y) => view.largest * (shades[y * view.width + x] / 255) ** 2 };
}

const whenRedrawn = [];
let viewerWidth = 0;
new ResizeObserver(() => {
  // What is drawn does not depend on how tall the viewer is.
  if (element.clientWidth === viewerWidth) return;
  viewerWidth = element.clientWidth;
  widths = new WeakMap();
  whenRedrawn.forEach((redraw) => redraw());
}).observe(element);
new MutationObserver(() => {
  ink = null;
  whenRedrawn.forEach((redraw) => redraw());
}).observe(document.body, { attributeFilter: ["class"] });
