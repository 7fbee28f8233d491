// Pictures as files: on white, with title, caption, axes and legend, for papers and slides.

const escaped = (words) => String(words).replace(/[&<>"]/g, (mark) => `&#${mark.charCodeAt(0)};`);
const label = (x, y, words, more = "") => `<text x="${x}" y="${y}" ${more}>${escaped(words)}</text>`;

// The colours as a bar with its ends and middle, or one key for each colour.
function legendOf({ legend, keys }, x, y) {
  if (legend) {
    const stops = RAMP.map((colour, index) => `<stop offset="${index / (RAMP.length - 1)}" stop-color="rgb(${colour})"/>`);
    const ticks = legend.ticks.map((tick, index) => label(x + 100 * index, y + 24, number(tick), 'text-anchor="middle"'));
    return `<defs><linearGradient id="ramp">${stops.join("")}</linearGradient></defs>` +
      `<rect x="${x}" y="${y}" width="200" height="10" fill="url(#ramp)"/>${ticks.join("")}` + label(x + 230, y + 10, legend.words);
  }
  return (keys ?? []).map(([colour, words], index) =>
    `<rect x="${x + 200 * index}" y="${y}" width="10" height="10" fill="rgb(${colour})"/>` +
    label(x + 200 * index + 16, y + 10, words)).join("");
}

// A sheet as SVG. `markup` or `canvas` is what it shows, in `width` times `height`; ticks are pairs of a share and a label.
function svgOf(sheet) {
  const { title, caption, width, height, markup, canvas, xTitle, yTitle, xTicks = [], yTicks = [] } = sheet;
  const [left, top] = [yTicks.length ? 90 : 20, 62];
  const below = top + height;
  const right = left + width;
  const image = canvas && `<image x="0" y="0" width="${width}" height="${height}" preserveAspectRatio="none" ` +
    `style="image-rendering: pixelated" href="${canvas.toDataURL()}"/>`;
  const columns = xTicks.map(([share, words]) => {
    const x = left + share * width;
    return `<path d="M${x} ${below}v5"/>` + label(x, below + 18, words, 'text-anchor="middle" stroke="none"');
  });
  const rows = yTicks.map(([share, words]) => {
    const y = top + share * height;
    return `<path d="M${left} ${y}h-5"/>` + label(left - 8, y + 4, words, 'text-anchor="end" stroke="none"');
  });
  const middle = top + height / 2;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${right + 30}" height="${below + 90}" font-family="sans-serif" font-size="12">` +
    `<rect width="100%" height="100%" fill="#fff"/><g fill="#111">` +
    label(20, 26, title, 'font-size="15" font-weight="600"') + label(20, 46, caption) +
    `<g transform="translate(${left} ${top})">${markup ?? image}</g>` +
    `<g stroke="#111"><rect x="${left}" y="${top}" width="${width}" height="${height}" fill="none"/>${columns.join("")}${rows.join("")}</g>` +
    (xTitle ? label((left + right) / 2, below + 36, xTitle, 'text-anchor="middle"') : "") +
    (yTitle ? label(24, middle, yTitle, `text-anchor="middle" transform="rotate(-90 24 ${middle})"`) : "") +
    legendOf(sheet, left, below + 52) + "</g></svg>";
}

// The same as PNG, twice as fine.
async function pngOf(svg) {
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await picture.decode();
  const canvas = make("canvas", { width: picture.width * 2, height: picture.height * 2 });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done));
}

async function savePicture(name, type, sheet) {
  const svg = svgOf(sheet);
  const blob = type === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : await pngOf(svg);
  save(`${name}.${type}`, blob);
}

// What a canvas of the page shows, as it is: for pictures that bring their own axes. Drawn for a light page.
function saveCanvas(name, canvas, title, caption, draw) {
  const isDark = document.body.classList.contains("dark");
  // On white the ink of a dark page could not be read.
  if (isDark) { document.body.classList.remove("dark"); draw(); }
  const copy = make("canvas", { width: canvas.width, height: canvas.height });
  copy.getContext("2d").drawImage(canvas, 0, 0);
  if (isDark) { document.body.classList.add("dark"); draw(); }
  const scale = window.devicePixelRatio || 1;
  savePicture(name, "png", { title, caption, canvas: copy, width: canvas.width / scale, height: canvas.height / scale });
}
