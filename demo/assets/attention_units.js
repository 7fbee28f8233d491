// Attention, part 4: selections larger than a token, and the attention between all units of the text.

let flow = null;

// The first tokens of the units, and where each unit ends.
const unitStarts = (name) => (name === "token" ? null : state.view.units[name]);
function unitOf(place, name = state.unit) {
  const starts = unitStarts(name);
  if (!starts) return { first: place, last: place, index: place };
  let [low, high] = [0, starts.length];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (starts[middle] <= place) low = middle;
    else high = middle;
  }
  return { first: starts[low], last: (starts[low + 1] ?? spans.length) - 1, index: low };
}

// Selects from one token to another, widened to whole units.
function select(from, to, scroll) {
  const limit = (place) => Math.min(Math.max(place, 0), spans.length - 1);
  const [one, other] = [limit(from), limit(to)];
  Object.assign(state, { anchor: one, focus: other });
  state.token = unitOf(Math.min(one, other)).first;
  state.last = unitOf(Math.max(one, other)).last;
  showSelection();
  if (scroll) bring(other);
  ask(state.measure);
}

let chosen = [];
function showSelection() {
  if (chosen[0] === spans[state.token] && chosen.at(-1) === spans[state.last]) return;
  for (const span of chosen) span.classList.remove("chosen", "first", "last");
  chosen = spans.slice(state.token, state.last + 1);
  for (const span of chosen) span.classList.add("chosen");
  spans[state.token].classList.add("first");
  spans[state.last].classList.add("last");
}

const isOneToken = () => state.token === state.last;

// The words of a stretch of tokens; the middle of a long one is left out.
function wordsOf(first, last, most = 60) {
  if (first === last) return nameOf(state.view, first);
  const view = state.view;
  if (state.unit === "part") return first === 1 ? "question" : "passage";
  const characters = (view.characters ??= Array.from(view.text));
  const words = characters.slice(view.starts[first], view.stops[last]).join("").trim().replace(/\s+/g, " ");
  return words.length > most ? `${words.slice(0, most - 12)} … ${words.slice(-10)}` : words;
}

function shareOfSelection() {
  const total = links.total || 1;
  const inside = links.own;
  const unit = state.unit === "token" ? "token" : UNITS[state.unit];
  if (state.measure !== "links") return `${EXPLAINED[state.measure]} Added up by ${unit}.`;
  const [global_, self] = [percent(links.global / total), percent(inside / total)];
  if (state.direction === "from") return `Of what looks at it, ${self} comes from inside. Means over each ${unit}.`;
  return `${self} of its attention stays inside, ${percent(1 - inside / total)} goes elsewhere; ${global_} of all goes to ` +
    `global tokens. Added up by ${unit}.`;
}

const UNITS = { token: "token", sentence: "sentence", paragraph: "paragraph", section: "section", part: "part" };

function offerUnits() {
  const names = ["token", ...Object.keys(state.view.units).filter((name) => state.view.units[name].length > 3)];
  const words = { part: "question or passage" };
  $("unit").replaceChildren(...names.map((name) => make("option", { value: name }, words[name] ?? UNITS[name])));
  if (!names.includes(state.unit)) state.unit = "token";
  $("unit").value = state.unit;
}

// The table of all units on the document's own axis: a row for each unit that looks, a column for each looked at.
const FLOW_HEIGHT = 260;
function drawFlow() {
  $("flow-row").hidden = !flow;
  if (!flow) return;
  const { paint, width } = fit($("flow"), FLOW_HEIGHT);
  paint.imageSmoothingEnabled = false;
  paint.drawImage(flow.picture(Math.round(width), FLOW_HEIGHT), 0, 0, width, FLOW_HEIGHT);
  const [from, to] = [column(state.token - 0.5, width), column(state.last + 0.5, width)];
  paint.strokeStyle = "rgba(255, 255, 255, .8)";
  paint.strokeRect(0.5, (from / width) * FLOW_HEIGHT, width - 1, Math.max(((to - from) / width) * FLOW_HEIGHT, 1));
  paint.strokeRect(from, 0.5, Math.max(to - from, 1), FLOW_HEIGHT - 1);
}

function takeFlow(view) {
  flow = null;
  if (!view) return;
  const { starts, together, unit } = view;
  const count = starts.length;
  const codes = bytesOf(view.weights.codes);
  const values = weightsOf(view.weights);
  // The unit of each of so many equal parts of the document.
  const along = (parts) => {
    const units = new Int32Array(parts);
    let own = 0;
    for (let part = 0; part < parts; part += 1) {
      const place = ((part + 0.5) / parts) * spans.length;
      while (own + 1 < count && starts[own + 1] <= place) own += 1;
      units[part] = own;
    }
    return units;
  };
  const picture = (width, height) => {
    const canvas = make("canvas", { width, height });
    const data = new ImageData(width, height);
    const pixels = new Uint32Array(data.data.buffer);
    const [columns, rows] = [along(width), along(height)];
    const colours = coloursOf(SCALES[$("scale").value](codes));
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) pixels[y * width + x] = colours[codes[rows[y] * count + columns[x]]];
    }
    canvas.getContext("2d").putImageData(data, 0, 0);
    return canvas;
  };
  const { largest } = view.weights;
  flow = { largest, codes, picture, starts, at: (one, other) => values[one * count + other] };
  const several = together > 1 ? `, ${together} ${UNITS[unit]}s together` : "";
  $("flow-name").textContent = `Between ${UNITS[unit]}s`;
  $("flow-caption").textContent = `a row for each ${UNITS[unit]} that looks, a column for each that is looked at${several}`;
}

// What the colours stand for, as of `coloured`.
function flowLegend() {
  const scale = SCALES[$("scale").value](flow.codes);
  const ticks = ticksOf($("scale").value, scale).map((share) => share * flow.largest);
  return { ticks, view: { largest: flow.largest }, words: scale.words };
}

function readFlow(event) {
  const frame = event.target.getBoundingClientRect();
  const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  const places = [y, x].map((share) => within(share, spans.length));
  const [one, other] = places.map((place) => flow.starts.findLastIndex((start) => start <= place));
  const names = places.map((place) => { const unit = unitOf(place); return wordsOf(unit.first, unit.last, 34); });
  return { place: places[0], words: `“${names[0]}” gives ${number(flow.at(one, other))} to “${names[1]}”` };
}

$("unit").addEventListener("change", () => {
  state.unit = $("unit").value;
  const { first } = unitOf(state.token);
  Object.assign(state, { token: state.unit === "token" ? state.anchor ?? first : first });
  state.last = unitOf(state.token).last;
  showSelection();
  ask("layer");
});

text.addEventListener("click", (event) => {
  const dragged = draggedOver();
  if (dragged) { select(...dragged, false); return; }
  const place = event.target.dataset.place;
  if (place !== undefined) select(event.shiftKey ? state.anchor : Number(place), Number(place), false);
});

// The first and the last token of what was dragged over with the mouse; null where nothing was.
function draggedOver() {
  const selection = document.getSelection();
  if (selection.isCollapsed) return null;
  const places = [selection.anchorNode, selection.focusNode].map((node) => {
    const parent = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
    return text.contains(parent) ? parent.closest("[data-place]")?.dataset.place : undefined;
  });
  selection.removeAllRanges();
  return places.includes(undefined) || places[0] === places[1] ? null : places.map(Number);
}

function onKey(event) {
  if (!state.view) return;
  const far = windowOf()?.reach || 64;
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -far, PageDown: far, Home: -spans.length, End: spans.length };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  if (event.shiftKey) { select(state.anchor, state.focus + step, true); return; }
  // From the edge of what is selected: to the next unit, not to the next token of this one.
  choose((step < 0 ? state.token : state.last) + step, true);
}
text.addEventListener("keydown", onKey);
