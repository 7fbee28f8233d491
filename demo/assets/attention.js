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
let lit = [];
let isGlobal = new Set();
// The numbers of the latest question, and of the latest that asked for other pictures.
let asked = 0;
let askedForPictures = 0;
// How many documents have been shown.
let documentNumber = 0;

const $ = (name) => element.querySelector(`[data-part="${name}"]`);
const text = $("text");
const ask = (what, more) => {
  element.querySelector(".viewer").setAttribute("aria-busy", "true");
  const { token, last, unit, layer, head, direction } = state;
  const withSelf = $("with-self").checked;
  // As fine as the canvas can show it: on most screens a quarter of what there is.
  const { width: columns, height: rows } = $("band");
  const isBeside = what === "heads" || what === "lens";
  // The pictures of the heads belong to a document, whatever else is chosen in it.
  if (!isBeside) asked += 1;
  if (what === "layer") askedForPictures = asked;
  const number_ = what === "heads" ? documentNumber : asked;
  const masked = $("masked").checked;
  const question = { ask: what, token, last, unit, layer, head, direction, columns, rows, withSelf, masked, number: number_ };
  if (what === "restore") Object.assign(question, more ?? sourceOf());
  // What runs the model waits in another line than what is read from what is kept.
  trigger(["gradient", "global", "restore", "lens"].includes(what) ? "submit" : "click", question);
};

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
    // Never so opaque that the word in front of it is hard to read.
    const opacity = 0.06 + 0.54 * Math.sqrt(weights[place] / largest);
    const colour = negative.has(place) ? NEGATIVE : linkIsGlobal(place) ? GLOBAL : LOCAL;
    const full = `rgba(${colour}, ${opacity.toFixed(3)})`;
    const faint = `rgba(${colour}, ${(opacity / 2).toFixed(3)})`;
    // Stripes, so that the two kinds differ by more than their hue.
    spans[place].style.background = linkIsGlobal(place) && !negative.has(place)
      ? `repeating-linear-gradient(135deg, ${full} 0 4px, ${faint} 4px 7px)` : full;
    return spans[place];
  });
  const window_ = windowOf();
  if (window_ && isOneToken() && state.measure === "links") {
    spans[window_.first].classList.add("edge-left");
    spans[window_.last].classList.add("edge-right");
    lit.push(spans[window_.first], spans[window_.last]);
  }
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
