// Attention, part 2: three canvases that share the document as their horizontal axis.

const column = (place, width) => ((place + 0.5) / spans.length) * width;

function bars(paint, width, height, values, colourOf, floor = height) {
  const largest = values.reduce((most, value) => Math.max(most, value), 0) || 1;
  const most = new Float32Array(Math.ceil(width));
  const whose = new Int32Array(most.length);
  values.forEach((value, place) => {
    const x = Math.min(Math.floor(column(place, width)), most.length - 1);
    if (value > most[x]) { most[x] = value; whose[x] = place; }
  });
  const thick = Math.max(1, width / spans.length);
  most.forEach((value, x) => {
    if (!value) return;
    paint.fillStyle = colourOf(whose[x]);
    const tall = Math.max(1, height * Math.sqrt(value / largest));
    paint.fillRect(x, floor - tall, thick, tall);
  });
}

function drawMap() {
  const height = 64;
  const { paint, width } = fit($("map"), height);
  const window_ = windowOf();
  if (window_ && state.measure === "links") {
    const [from, to] = [column(window_.first - 0.5, width), column(window_.last + 0.5, width)];
    paint.fillStyle = `rgba(${LOCAL}, .13)`;
    paint.fillRect(from, 0, to - from, height);
  }
  const negative = new Set(links.negative ?? []);
  const colourOf = (place) => `rgb(${negative.has(place) ? NEGATIVE : linkIsGlobal(place) ? globalInk() : LOCAL})`;
  if (attention) {
    const colourOfAttention = (place) =>
      `rgb(${isGlobal.has(place) || (isOneToken() && isGlobal.has(state.token)) ? globalInk() : LOCAL})`;
    bars(paint, width, height / 2 - 10, attention, colourOfAttention, height / 2);
    bars(paint, width, height / 2 - 4, weights, colourOf, height);
    paint.fillStyle = INK();
    paint.font = "11px system-ui, sans-serif";
    paint.textAlign = "right";
    paint.fillText("attention", width - 6, height / 2 - 16);
    paint.fillText(MEASURES[state.measure], width - 6, height - 16);
    paint.fillRect(0, height / 2, width, 0.5);
  } else {
    bars(paint, width, height * 0.45, received, () => "rgba(128, 128, 128, .55)", height);
    bars(paint, width, height - 8, weights, colourOf, height);
  }
  paint.fillStyle = `rgb(${globalInk()})`;
  for (const place of isGlobal) {
    const x = Math.min(Math.max(column(place, width), 5), width - 5);
    paint.beginPath();
    paint.moveTo(x - 4, 0);
    paint.lineTo(x + 4, 0);
    paint.lineTo(x, 7);
    paint.fill();
  }
  paint.fillStyle = INK();
  const [first, last] = [column(state.token, width) - 0.75, column(state.last, width) + 0.75];
  if (isOneToken()) paint.fillRect(first, 0, 1.5, height);
  else paint.fillRect(first, height - 4, last - first, 4);
  const seen = inSight();
  paint.strokeStyle = INK();
  paint.lineWidth = 1.5;
  const left = column(seen.first - 0.5, width);
  paint.strokeRect(left + 0.75, 0.75, Math.max(column(seen.last + 0.5, width) - left - 1.5, 4), height - 1.5);
}

// The first and the last token that the text shows. Blocks are looked for, not gone through: each asks for the layout.
function inSight() {
  const tokenAt = (height) => {
    let [low, high] = [0, blocks.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (blocks[middle].offsetTop <= height) low = middle;
      else high = middle - 1;
    }
    const { first, last, offsetTop, offsetHeight } = blocks[low];
    const share = Math.min(Math.max((height - offsetTop) / (offsetHeight || 1), 0), 1);
    return first + Math.round(share * (last - first));
  };
  return { first: tokenAt(text.scrollTop), last: tokenAt(text.scrollTop + text.clientHeight) };
}

function drawPicture(name, height) {
  const picture = pictures[name === "band" ? "band" : state.direction === "to" ? "fromGlobal" : "toGlobal"];
  const canvas = $(name);
  const { paint, width } = fit(canvas, height);
  paint.imageSmoothingEnabled = false;
  paint.fillStyle = `rgb(${SHADES[0]})`;
  paint.fillRect(0, 0, width, height);
  if (picture) {
    // The last column may stand for fewer tokens than the others.
    const share = spans.length / (picture.view.width * picture.view.tokensPerColumn);
    paint.drawImage(picture.canvas, 0, 0, picture.view.width * share, picture.view.height, 0, 0, width, height);
  }
  paint.fillStyle = "rgba(255, 255, 255, .8)";
  for (const place of new Set([state.token, state.last])) paint.fillRect(column(place, width) - 0.5, 0, 1, height);
  if (name === "band") {
    paint.fillStyle = "rgba(255, 255, 255, .35)";
    paint.fillRect(0, height / 2 - 0.5, width, 1);
  }
}

function drawAll() {
  if (!state.view || !weights || !pictures.band) return;
  drawMap();
  drawPicture("band", BAND_HEIGHT);
  const lines = (state.direction === "to" ? pictures.fromGlobal : pictures.toGlobal)?.view.height ?? 0;
  $("global-row").hidden = !lines;
  if (lines) drawPicture("global", Math.min(Math.max(lines * 16, 24), 128));
  drawFlow();
}
whenRedrawn.push(drawAll);

function showAxis() {
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * (spans.length - 1)));
  $("axis").replaceChildren(...marks.map((place) => make("span", {}, place.toLocaleString())));
}

// Which of `count` things lies at a share of the whole.
const within = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);

// What a canvas shows at a point, in words.
function readOut(name, event) {
  const frame = event.target.getBoundingClientRect();
  const place = within((event.clientX - frame.left) / frame.width, spans.length);
  const token = `“${nameOf(state.view, place)}” at ${place}`;
  if (name === "map") {
    return { place, words: `${token}: weight ${number(weights[place])}, receives ${number(received[place])} in all` };
  }
  const picture = pictures[name === "band" ? "band" : state.direction === "to" ? "fromGlobal" : "toGlobal"];
  if (!picture) return { place, words: token };
  const view = picture.view;
  const row = within((event.clientY - frame.top) / frame.height, view.height);
  const weight = picture.at(Math.min(Math.floor(place / view.tokensPerColumn), view.width - 1), row);
  if (name === "band") {
    const offset = view.firstRow - row * view.rowsPerPixel;
    return { place, words: `${token}, ${offset > 0 ? "+" : ""}${offset} tokens away: weight ${number(weight)}` };
  }
  const own = state.view.globals[row * view.rowsPerPixel];
  const names = `global “${nameOf(state.view, own)}” at ${own}`;
  const ends = state.direction === "to" ? [names, token] : [token, names];
  return { place, words: `${ends.join(" to ")}: ${number(weight)}` };
}

for (const name of ["map", "band", "global", "flow"]) {
  const canvas = $(name);
  const read = (event) => (name === "flow" ? readFlow(event) : readOut(name, event));
  canvas.addEventListener("pointermove", (event) => {
    if (!state.view) return;
    $("hover").textContent = read(event).words;
    if (name === "map" && event.buttons) bring(read(event).place);
  });
  canvas.addEventListener("pointerleave", () => { $("hover").textContent = ""; });
  canvas.addEventListener("click", (event) => { if (state.view) choose(read(event).place, true); });
  canvas.addEventListener("keydown", onKey);
}
let isDrawing = false;
text.addEventListener("scroll", () => {
  if (isDrawing || !weights) return;
  isDrawing = true;
  requestAnimationFrame(() => { isDrawing = false; drawMap(); });
});
