// Attention, part 1: what is shown, and the text.

const state = {
  view: null, layer: -1, head: -1, direction: "to", measure: "links", unit: "token", token: 1, last: 1, grid: "pictures",
};
let spans = [];
let blocks = [];
let weights = null;
let attention = null;
let received = null;
let links = null;
let pictures = {};
let sent = {};
// What is coloured of the text: its spans, with their colours.
let lit = new Map();
let isGlobal = new Set();
// The numbers of the latest question, and of the latest that asked for other pictures.
let asked = 0;
let askedForPictures = 0;
// The number of the question for a document that was not shown before.
let askedForNew = 0;
// How many documents have been shown.
let documentNumber = 0;

const BAND_HEIGHT = 150;
const $ = (name) => element.querySelector(`[data-part="${name}"]`);
const text = $("text");
// What runs the model waits in a queue; what is read from what the server keeps is answered at once.
const RUNS_MODEL = ["gradient", "global", "restore", "lens"];
const START = { token: undefined, last: undefined, unit: "token", layer: -1, head: -1, direction: "to" };

async function ask(what, more = {}) {
  element.querySelector(".viewer").setAttribute("aria-busy", "true");
  const { token, last, unit, layer, head, direction } = state;
  const question = { ask: what, token, last, unit, layer, head, direction, masked: $("masked").checked, ...more };
  // The pictures of the heads belong to a document, whatever else is chosen in it.
  if (what !== "heads" && what !== "lens") asked += 1;
  question.number = what === "heads" ? documentNumber : asked;
  if (what === "layer" || what === "document") {
    askedForPictures = asked;
    Object.assign(question, pixels(), { withSelf: $("with-self").checked });
  }
  const answer = RUNS_MODEL.includes(what) ? { kind: "run" } : await answerTo(question);
  // The norms are read once the model has made them.
  if (answer.kind === "run") trigger("submit", question);
  else take(answer);
}

// As fine as the canvas can show it: on most screens a quarter of what there is.
function pixels() {
  const scale = window.devicePixelRatio || 1;
  const width = $("band").clientWidth || element.clientWidth || 1024;
  return { columns: Math.round(width * scale), rows: Math.round(BAND_HEIGHT * scale) };
}

// The text

const choose = (place, scroll) => select(place, place, scroll);

function bring(place) {
  // Twice: what comes into sight is laid out only then, and moves what lies below it. The page itself stays where it is.
  for (let turn = 0; turn < 2; turn += 1) {
    const own = spans[place].getBoundingClientRect();
    const frame = text.getBoundingClientRect();
    if (own.top >= frame.top + 20 && own.bottom <= frame.bottom - 20) return;
    text.scrollTop += own.top - frame.top - frame.height / 2;
  }
}

// The colours behind words: never so opaque that a word is hard to read.
const LEVELS = 32;
const backgrounds = (of) => Array.from({ length: LEVELS }, (_, level) => of(0.06 + (0.54 * level) / (LEVELS - 1)));
const plain = (colour) => backgrounds((opacity) => `rgba(${colour}, ${opacity.toFixed(3)})`);
const BACKGROUNDS = {
  local: plain(LOCAL),
  negative: plain(NEGATIVE),
  // Stripes, so that the two kinds of attention differ by more than their hue.
  global: backgrounds((opacity) => {
    const [full, faint] = [opacity, opacity / 2].map((one) => `rgba(${GLOBAL}, ${one.toFixed(3)})`);
    return `repeating-linear-gradient(135deg, ${full} 0 4px, ${faint} 4px 7px)`;
  }),
};
const MOST_LIT = 2500;

function light() {
  const largest = weights.reduce((most, weight) => Math.max(most, weight), 0) || 1;
  let strong = [];
  weights.forEach((weight, place) => { if (weight > largest * 0.004) strong.push(place); });
  if (strong.length > MOST_LIT) {
    strong.sort((one, other) => weights[other] - weights[one]);
    strong = strong.slice(0, MOST_LIT);
  }
  const negative = new Set(links.negative ?? []);
  const wanted = new Map(strong.map((place) => {
    const kind = negative.has(place) ? "negative" : linkIsGlobal(place) ? "global" : "local";
    return [spans[place], BACKGROUNDS[kind][Math.round((LEVELS - 1) * Math.sqrt(weights[place] / largest))]];
  }));
  // A span that keeps its colour is not painted again.
  for (const span of lit.keys()) if (!wanted.has(span)) span.style.background = "";
  for (const [span, background] of wanted) if (lit.get(span) !== background) span.style.background = background;
  lit = wanted;
  showEdges();
}

let edges = [];
function showEdges() {
  for (const span of edges) span.classList.remove("edge-left", "edge-right");
  const window_ = windowOf();
  const isShown = window_ && isOneToken() && state.measure === "links";
  edges = isShown ? [spans[window_.first], spans[window_.last]] : [];
  edges.forEach((span, side) => span.classList.add(side ? "edge-right" : "edge-left"));
}

const linkIsGlobal = (place) =>
  isGlobal.has(place) || (state.measure === "links" && isOneToken() && isGlobal.has(state.token));

// The farthest that the window of the chosen layers and heads goes; none for a global token, which sees everything.
function windowOf() {
  if (isOneToken() && isGlobal.has(state.token)) return null;
  let reach = 0;
  state.view.windows.forEach((width, layer) => {
    if (state.layer >= 0 && layer !== state.layer) return;
    state.view.dilations[layer].forEach((step, head) => {
      if (state.head < 0 || head === state.head) reach = Math.max(reach, (width / 2) * step);
    });
  });
  const end = spans.length - 1;
  return { reach, first: Math.max(state.token - reach, 0), last: Math.min(state.last + reach, end) };
}
