// Attention, part 1: what is shown, and the text.

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
  // As fine as the canvas can show it: on most screens a quarter of what there is.
  const { width: columns, height: rows } = $("band");
  const question = { ask: what, token, layer, head, direction, columns, rows };
  // What runs the model waits in another line than what is read from what is kept.
  trigger(["gradient", "global"].includes(what) ? "submit" : "click", question);
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
