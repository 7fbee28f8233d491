// What all viewers share: weights from bytes, colours, the text as spans, downloads.

const INK = () => getComputedStyle(element).getPropertyValue("color");
const LOCAL = "230, 97, 0";
const GLOBAL = "124, 92, 196";

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
  return { ...view, starts: integers(view.starts), stops: integers(view.stops) };
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

function save(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A picture with its title, caption and colour scale, on white, for papers and slides.
function savePicture(name, canvas, title, caption, largest) {
  const scale = window.devicePixelRatio || 1;
  const sheet = make("canvas", { width: canvas.width + 40 * scale, height: canvas.height + 110 * scale });
  const paint = sheet.getContext("2d");
  paint.fillStyle = "#fff";
  paint.fillRect(0, 0, sheet.width, sheet.height);
  paint.scale(scale, scale);
  paint.fillStyle = "#111";
  paint.font = "600 15px system-ui, sans-serif";
  paint.fillText(title, 20, 26);
  paint.font = "12px system-ui, sans-serif";
  paint.fillText(caption, 20, 46, canvas.width / scale);
  paint.drawImage(canvas, 20, 58, canvas.width / scale, canvas.height / scale);
  const below = 58 + canvas.height / scale + 14;
  if (largest) {
    for (let step = 0; step < 256; step += 1) {
      paint.fillStyle = `rgb(${SHADES[step]})`;
      paint.fillRect(20 + step * 0.6, below, 1, 10);
    }
    paint.fillStyle = "#111";
    paint.fillText(`weight 0 to ${number(largest)}, square root scale`, 184, below + 10);
  }
  sheet.toBlob((blob) => save(name, blob));
}

function fit(canvas, height) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth || 300;
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

// A picture's shades -> a coloured canvas, and the weight at each pixel.
function coloured(view) {
  if (!view.height) return null;
  const shades = bytesOf(view.shades);
  const canvas = make("canvas", { width: view.width, height: view.height });
  const picture = new ImageData(view.width, view.height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let place = 0; place < shades.length; place += 1) pixels[place] = PIXELS[shades[place]];
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return { view, canvas, at: (x, y) => view.largest * (shades[y * view.width + x] / 255) ** 2 };
}

const whenRedrawn = [];
new ResizeObserver(() => whenRedrawn.forEach((redraw) => redraw())).observe(element);
new MutationObserver(() => whenRedrawn.forEach((redraw) => redraw()))
  .observe(document.body, { attributeFilter: ["class"] });
