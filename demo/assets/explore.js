// Explore: three canvases that share the document as their axis, and the document itself.

const state = { view: null, layer: -1, head: -1, direction: "to", measure: "links", token: 1, grid: "entropy" };
let spans = [];
let blocks = [];
let weights = null;
let attention = null;
let received = null;
let links = null;
let pictures = {};
let lit = [];
let isGlobal = new Set();

const $ = (name) => element.querySelector(`[data-part="${name}"]`);
const text = $("text");
const ask = (what) => {
  element.querySelector(".viewer").setAttribute("aria-busy", "true");
  const { token, layer, head, direction } = state;
  // What runs the model waits in another line than what is read from what is kept.
  trigger(["gradient", "global"].includes(what) ? "submit" : "click", { ask: what, token, layer, head, direction });
};

// The text

function choose(place, scroll) {
  state.token = Math.min(Math.max(place, 0), spans.length - 1);
  element.querySelectorAll(".chosen").forEach((span) => span.classList.remove("chosen"));
  spans[state.token].classList.add("chosen");
  if (scroll) bring(state.token);
  ask(state.measure);
}

function bring(place) {
  const span = spans[place];
  span.scrollIntoView({ block: "nearest" });
  const place_ = span.getBoundingClientRect();
  const frame = text.getBoundingClientRect();
  if (place_.top < frame.top + 20 || place_.bottom > frame.bottom - 20) {
    text.scrollTop += place_.top - frame.top - frame.height / 2;
  }
}

function light() {
  for (const span of lit) {
    span.style.background = "";
    span.classList.remove("edge-left", "edge-right");
  }
  const largest = weights.reduce((most, weight) => Math.max(most, weight), 0) || 1;
  const strong = [];
  weights.forEach((weight, place) => { if (weight > largest * 0.004) strong.push(place); });
  strong.sort((one, other) => weights[other] - weights[one]);
  const negative = new Set(links.negative ?? []);
  lit = strong.slice(0, 2500).map((place) => {
    const opacity = (0.08 + 0.82 * Math.sqrt(weights[place] / largest)).toFixed(3);
    const colour = negative.has(place) ? "0, 114, 178" : linkIsGlobal(place) ? GLOBAL : LOCAL;
    spans[place].style.background = `rgba(${colour}, ${opacity})`;
    return spans[place];
  });
  const window_ = windowOf();
  if (window_ && state.measure === "links") {
    spans[window_.first].classList.add("edge-left");
    spans[window_.last].classList.add("edge-right");
    lit.push(spans[window_.first], spans[window_.last]);
  }
}

const linkIsGlobal = (place) =>
  isGlobal.has(place) || (state.measure === "links" && state.direction === "from" && isGlobal.has(state.token));

// The farthest that the window of the chosen layers and heads goes; none for a global token, which sees everything.
function windowOf() {
  if (isGlobal.has(state.token)) return null;
  let reach = 0;
  state.view.windows.forEach((width, layer) => {
    if (state.layer >= 0 && layer !== state.layer) return;
    state.view.dilations[layer].forEach((step, head) => {
      if (state.head < 0 || head === state.head) reach = Math.max(reach, (width / 2) * step);
    });
  });
  const last = spans.length - 1;
  return { reach, first: Math.max(state.token - reach, 0), last: Math.min(state.token + reach, last) };
}

// The canvases

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
    paint.fillStyle = `rgba(${LOCAL}, .13)`;
    paint.fillRect(column(window_.first - 0.5, width), 0, column(window_.last + 0.5, width) - column(window_.first - 0.5, width), height);
  }
  const negative = new Set(links.negative ?? []);
  const colourOf = (place) => `rgb(${negative.has(place) ? "0, 114, 178" : linkIsGlobal(place) ? GLOBAL : LOCAL})`;
  if (attention) {
    bars(paint, width, height / 2 - 10, attention, (place) => `rgb(${isGlobal.has(place) ? GLOBAL : LOCAL})`, height / 2);
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
  paint.fillStyle = `rgb(${GLOBAL})`;
  for (const place of isGlobal) {
    const x = Math.min(Math.max(column(place, width), 5), width - 5);
    paint.beginPath();
    paint.moveTo(x - 4, 0);
    paint.lineTo(x + 4, 0);
    paint.lineTo(x, 7);
    paint.fill();
  }
  paint.fillStyle = INK();
  paint.fillRect(column(state.token, width) - 0.75, 0, 1.5, height);
  const seen = inSight();
  paint.strokeStyle = INK();
  paint.lineWidth = 1.5;
  const left = column(seen.first - 0.5, width);
  paint.strokeRect(left + 0.75, 0.75, Math.max(column(seen.last + 0.5, width) - left - 1.5, 4), height - 1.5);
}

function inSight() {
  const top = text.scrollTop;
  const bottom = top + text.clientHeight;
  let first = null;
  let last = 0;
  for (const block of blocks) {
    const from = block.offsetTop;
    const tall = block.offsetHeight || 1;
    if (from + tall < top || from > bottom) continue;
    const share = (y) => block.first + Math.round(((y - from) / tall) * (block.last - block.first));
    if (first === null) first = Math.max(share(top), block.first);
    last = Math.min(share(bottom), block.last);
  }
  return { first: first ?? 0, last: Math.max(last, first ?? 0) };
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
  paint.fillRect(column(state.token, width) - 0.5, 0, 1, height);
  if (name === "band") {
    paint.fillStyle = "rgba(255, 255, 255, .35)";
    paint.fillRect(0, height / 2 - 0.5, width, 1);
  }
}

function drawAll() {
  if (!state.view || !weights || !pictures.band) return;
  drawMap();
  drawPicture("band", 150);
  const lines = (state.direction === "to" ? pictures.fromGlobal : pictures.toGlobal)?.view.height ?? 0;
  $("global-row").hidden = !lines;
  if (lines) drawPicture("global", Math.min(Math.max(lines * 16, 24), 128));
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => make("span", {}, Math.round(share * (spans.length - 1)).toLocaleString()));
  $("axis").replaceChildren(...marks);
}
whenRedrawn.push(drawAll);

// What a canvas shows at a point, in words.
function readOut(name, event) {
  const frame = event.target.getBoundingClientRect();
  const place = Math.min(Math.max(Math.floor(((event.clientX - frame.left) / frame.width) * spans.length), 0), spans.length - 1);
  const token = `“${nameOf(state.view, place)}” at ${place}`;
  if (name === "map") return { place, words: `${token}: weight ${number(weights[place])}, receives ${number(received[place])} in all` };
  const picture = pictures[name === "band" ? "band" : state.direction === "to" ? "fromGlobal" : "toGlobal"];
  if (!picture) return { place, words: token };
  const view = picture.view;
  const row = Math.min(Math.max(Math.floor(((event.clientY - frame.top) / frame.height) * view.height), 0), view.height - 1);
  const weight = picture.at(Math.min(Math.floor(place / view.tokensPerColumn), view.width - 1), row);
  if (name === "band") {
    const offset = view.firstRow - row * view.rowsPerPixel;
    return { place, words: `${token}, ${offset > 0 ? "+" : ""}${offset} tokens away: weight ${number(weight)}` };
  }
  const own = state.view.globals[row * view.rowsPerPixel];
  const names = `global “${nameOf(state.view, own)}” at ${own}`;
  return { place, words: state.direction === "to" ? `${names} to ${token}: ${number(weight)}` : `${token} to ${names}: ${number(weight)}` };
}

for (const name of ["map", "band", "global"]) {
  const canvas = $(name);
  canvas.addEventListener("pointermove", (event) => {
    if (!state.view) return;
    $("hover").textContent = readOut(name, event).words;
    if (name === "map" && event.buttons) bring(readOut(name, event).place);
  });
  canvas.addEventListener("pointerleave", () => { $("hover").textContent = ""; });
  canvas.addEventListener("click", (event) => { if (state.view) choose(readOut(name, event).place, true); });
  canvas.addEventListener("keydown", onKey);
}
text.addEventListener("keydown", onKey);
text.addEventListener("click", (event) => {
  if (event.target.dataset.place !== undefined) choose(Number(event.target.dataset.place), false);
});
let isDrawing = false;
text.addEventListener("scroll", () => {
  if (isDrawing || !weights) return;
  isDrawing = true;
  requestAnimationFrame(() => { isDrawing = false; drawMap(); });
});

function onKey(event) {
  if (!state.view) return;
  const far = windowOf()?.reach || 64;
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -far, PageDown: far, Home: -spans.length, End: spans.length };
  if (!(event.key in steps)) return;
  event.preventDefault();
  choose(state.token + steps[event.key], true);
}

// The panel

const MEASURES = { links: "attention", rollout: "rollout", gradient: "gradient × input" };

function showPanel() {
  const name = nameOf(state.view, state.token);
  const total = links.local + links.global || 1;
  const shares = state.measure === "links" ? sharesOf(total) : {
    rollout: "Where its state comes from, through all layers up to the chosen one: half of each layer's state is attended to, half is its own.",
    gradient: "What the model's result for it depends on, by gradient × input: orange and purple speak for it, blue against.",
  }[state.measure];
  $("title").textContent = `“${name}” at ${state.token.toLocaleString()}${isGlobal.has(state.token) ? ", global" : ""}`;
  $("shares").textContent = shares;
  $("bar").hidden = state.measure !== "links";
  $("bar").firstElementChild.style.width = `${(100 * links.local) / total}%`;
  $("toggle").textContent = isGlobal.has(state.token) ? "Make it local again" : "Make it global";
  const rows = links.strongest.map(([place, weight, global_]) => {
    const offset = place - state.token;
    const go = make("button", { type: "button", onclick: () => choose(place, true) }, nameOf(state.view, place));
    const cells = [place.toLocaleString(), offset > 0 ? `+${offset}` : `${offset}`, number(weight)];
    if (attention) cells.push(number(attention[place]));
    return make("tr", { class: global_ ? "global" : "" }, make("td", {}, go, global_ ? " (global)" : ""), ...cells.map((cell) => make("td", {}, cell)));
  });
  $("heading").replaceChildren(...["token", "position", "offset", attention ? MEASURES[state.measure] : "weight", ...(attention ? ["attention"] : [])].map((name) => make("th", {}, name)));
  $("links").replaceChildren(...rows);
  $("said").textContent = `${name}, token ${state.token}. ${shares} Strongest: ${links.strongest.slice(0, 3).map(([place]) => nameOf(state.view, place)).join(", ")}.`;
}

function sharesOf(total) {
  const others = state.direction === "to" ? "Looks at" : "Is looked at by";
  const window_ = windowOf();
  if (!window_) return `${others} all ${spans.length.toLocaleString()} tokens: it is global.`;
  const size = window_.last - window_.first + 1;
  const counted = `${size.toLocaleString()} tokens in its window (${percent(links.local / total)} of the weight) and ${isGlobal.size} global token${isGlobal.size === 1 ? "" : "s"} (${percent(links.global / total)}).`;
  return `${others} ${counted} The window is ${percent(size / spans.length)} of the document.`;
}

const GRIDS = {
  entropy: ["entropy", "nats", "How spread a head looks: e to this power is the number of tokens."],
  distance: ["distance", "tokens", "How far away, on average, a head looks."],
  globalShare: ["global share", "", "How much of its attention a head gives to global tokens."],
};

function showGrid() {
  const values = state.view[state.grid];
  const [, unit, caption] = GRIDS[state.grid];
  const flat = values.flat();
  const [least, most] = [Math.min(...flat), Math.max(...flat)];
  const cell = (layer, head, words, style) =>
    make("td", {}, make("button", {
      type: "button", style, title: words, "aria-label": words,
      "aria-pressed": String(layer === state.layer && head === state.head),
      onclick: () => { state.layer = layer; state.head = head; ask("layer"); },
    }, style ? "" : layer < 0 ? "all" : head < 0 ? `${layer + 1}` : ""));
  const rows = values.map((row, layer) => make("tr", {}, cell(layer, -1, `Layer ${layer + 1}, mean of its heads`), ...row.map((value, head) => {
    const shade = Math.round((255 * (value - least)) / (most - least || 1));
    return cell(layer, head, `Layer ${layer + 1}, head ${head + 1}: ${number(value)} ${unit}`, `background: rgb(${SHADES[shade]})`);
  })));
  const head = make("tr", {}, cell(-1, -1, "Mean of all layers and heads"), make("td", { colspan: values[0].length }, "heads →"));
  $("grid").replaceChildren(head, ...rows);
  $("grid-caption").textContent = `${caption} From ${number(least)} (blue) to ${number(most)} (yellow) ${unit}. Click a head to see it.`;
}

function showChoices() {
  const options = (count, what) => [make("option", { value: -1 }, `mean of all ${count}`), ...Array.from({ length: count }, (_, index) => make("option", { value: index }, `${what} ${index + 1}`))];
  if ($("layer").options.length !== state.view.windows.length + 1) $("layer").replaceChildren(...options(state.view.windows.length, "layer"));
  if ($("head").options.length !== state.view.dilations[0].length + 1) $("head").replaceChildren(...options(state.view.dilations[0].length, "head"));
  $("layer").value = state.layer;
  $("head").value = state.head;
  const band = pictures.band.view;
  $("band-caption").textContent = `top: ${band.firstRow} tokens ahead, middle: itself, bottom: ${band.firstRow} behind`;
  $("global-caption").textContent = state.direction === "to" ? "what each global token looks at, a line for each" : "who looks at each global token, a line for each";
  $("scale").textContent = number(band.largest);
  const global_ = state.direction === "to" ? pictures.fromGlobal : pictures.toGlobal;
  $("scale-global").textContent = global_ ? number(global_.view.largest) : "0";
}

$("layer").addEventListener("change", () => { state.layer = Number($("layer").value); ask("layer"); });
$("head").addEventListener("change", () => { state.head = Number($("head").value); ask("layer"); });
$("direction").addEventListener("change", () => {
  state.direction = $("direction").value;
  $("measure").value = state.measure = "links";
  ask("links");
});
$("measure").addEventListener("change", () => { state.measure = $("measure").value; ask(state.measure); });
$("grid-of").addEventListener("change", () => { state.grid = $("grid-of").value; showGrid(); });
$("toggle").addEventListener("click", () => ask("global"));
$("save-page").addEventListener("click", () => ask("page"));
$("save-links").addEventListener("click", () => {
  const lines = Array.from(weights, (weight, place) => [place, JSON.stringify(nameOf(state.view, place)).replaceAll('\\"', '""'), weight, linkIsGlobal(place)].join(","));
  save("links.csv", new Blob([`position,token,weight,is_global\n${lines.join("\n")}\n`], { type: "text/csv" }));
});
const chosenWords = () => `${$("layer").selectedOptions[0].text}, ${$("head").selectedOptions[0].text}`;
for (const [name, title] of [["map", "Attention over the document"], ["band", "Attention in the windows"], ["global", "Attention of the global tokens"]]) {
  $(`save-${name}`).addEventListener("click", () => {
    const largest = name === "map" ? 0 : name === "band" ? pictures.band.view.largest : (pictures.fromGlobal?.view.largest ?? 0);
    const caption = { map: `“${nameOf(state.view, state.token)}” at ${state.token}; ${spans.length} tokens from left to right`, band: $("band-caption").textContent, global: $("global-caption").textContent }[name];
    savePicture(`${name}.png`, $(name), `${title} (layers: ${$("layer").selectedOptions[0].text}; heads: ${$("head").selectedOptions[0].text})`, caption, largest);
  });
}

// What the server sends

async function onValue() {
  const value = props.value;
  if (!value || !value.kind) return;
  element.querySelector(".viewer").removeAttribute("aria-busy");
  if (value.kind === "page") { save("attention.html", new Blob([value.page], { type: "text/html" })); return; }
  if (value.kind === "document") {
    state.view = unpack(value.document);
    Object.assign(state, { direction: "to", measure: "links", token: value.links.token });
    $("direction").value = "to";
    $("measure").value = "links";
    isGlobal = new Set(value.document.globals);
    ({ spans, blocks } = layOut(text, state.view));
    lit = [];
    for (const place of isGlobal) spans[place].classList.add("global");
    $("status").textContent = `${spans.length.toLocaleString()} tokens, read in ${value.seconds} s. ${value.cut}`;
    element.querySelector(".viewer").hidden = false;
  }
  if (value.kind !== "links") {
    const [band, fromGlobal, toGlobal] = await Promise.all([value.band, value.fromGlobal, value.toGlobal].map(coloured));
    pictures = { band, fromGlobal, toGlobal };
    received = weightsOf(value.received);
  }
  state.layer = value.layer;
  state.head = value.head;
  if (value.kind === "layer") $("measure").value = state.measure = "links";
  links = value.links;
  weights = weightsOf(links.weights);
  attention = links.attention ? weightsOf(links.attention) : null;
  element.querySelectorAll(".chosen").forEach((span) => span.classList.remove("chosen"));
  state.token = links.token;
  spans[state.token].classList.add("chosen");
  if (value.kind === "document") bring(state.token);
  light();
  showChoices();
  showPanel();
  if (value.kind !== "links") showGrid();
  drawAll();
  element.dataset.shown = String(Number(element.dataset.shown ?? 0) + 1);
}

watch("value", onValue);
onValue();
