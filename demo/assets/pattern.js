// The pattern: the pattern for few tokens, altered by sliders.

const $ = (name) => element.querySelector(`[data-part="${name}"]`);
const SLIDERS = ["tokens", "window", "dilation", "globals", "layers"];
let row = 20;

function settings() {
  const read = (name) => Number($(name).value);
  const tokens = read("tokens");
  const count = Math.min(read("globals"), tokens);
  const globals = new Set(Array.from({ length: count }, (_, index) => Math.floor((index * tokens) / count)));
  const [window, dilation, layers] = ["window", "dilation", "layers"].map(read);
  return { tokens, window, dilation, layers, globals, causal: $("causal").checked };
}

// 0 nothing, 1 by the window, 2 because one of the two is global.
function kind(query, key, { window: wide, dilation, globals, causal }) {
  if (causal && key > query) return 0;
  if (globals.has(query) || globals.has(key)) return 2;
  const apart = Math.abs(query - key);
  return apart % dilation === 0 && apart <= (wide / 2) * dilation ? 1 : 0;
}

// What each token knows of after so many layers.
function reached(one) {
  const places = Array.from({ length: one.tokens }, (_, place) => place);
  const direct = places.map((query) => places.map((key) => kind(query, key, one) > 0));
  let known = direct;
  for (let layer = 1; layer < one.layers; layer += 1) {
    known = direct.map((keys) => {
      const all = new Array(one.tokens).fill(false);
      keys.forEach((is, key) => { if (is) known[key].forEach((too, place) => { if (too) all[place] = true; }); });
      return all;
    });
  }
  return known;
}

// A pair's colour: by its kind, or, where it is none, by whether the key is reached through layers.
const colourOf = (what, isReached) => {
  const colours = { 1: `rgb(${LOCAL})`, 2: `rgb(${globalInk()})`, reached: "rgba(0, 114, 178, .35)" };
  return colours[what || (isReached && "reached")] ?? "rgba(128, 128, 128, .12)";
};

function draw() {
  const one = settings();
  row = Math.min(row, one.tokens - 1);
  const size = Math.min($("pattern").clientWidth || 300, 620);
  const { paint } = fit($("pattern"), size);
  const cell = size / one.tokens;
  const known = reached(one);
  const gap = cell > 6 ? 1 : 0.3;
  let pairs = 0;
  for (let query = 0; query < one.tokens; query += 1) {
    for (let key = 0; key < one.tokens; key += 1) {
      const what = kind(query, key, one);
      if (what) pairs += 1;
      paint.fillStyle = colourOf(what, known[query][key]);
      paint.fillRect(key * cell, query * cell, cell - gap, cell - gap);
    }
  }
  paint.strokeStyle = INK();
  paint.lineWidth = 2;
  paint.strokeRect(1, row * cell, size - 2, cell);
  for (const name of SLIDERS) $(`${name}-out`).textContent = $(name).value;
  explain(one, known[row].filter(Boolean).length, pairs);
}
whenRedrawn.push(draw);

function explain(one, count, pairs) {
  const own = Array.from({ length: one.tokens }, (_, key) => kind(row, key, one));
  const seen = own.filter(Boolean).length;
  const [near, far] = [1, 2].map((wanted) => own.filter((what) => what === wanted).length);
  const some = `looks at ${near} tokens in its window and ${far} global ones`;
  const how = one.globals.has(row) ? "is global and looks at all tokens" : some;
  const who = `Token ${row}${one.causal ? ", looking back only," : ""}`;
  const through = ` Through ${one.layers} layers its state draws on ${count} of ${one.tokens} tokens.`;
  $("explained").textContent = `${who} ${how}: ${seen} of ${one.tokens}.${one.layers > 1 ? through : ""}`;
  const full = one.tokens ** 2;
  const part = `${full.toLocaleString()} in full attention (${percent(pairs / full)})`;
  $("cost").textContent = `${pairs.toLocaleString()} pairs are computed of ${part}. At 4,096 tokens, a window of 512 ` +
    "and one global token: 2.0 of 16.8 million pairs (12%); twice the length is twice the work, not four times.";
}

for (const name of [...SLIDERS, "causal"]) $(name).addEventListener("input", draw);
$("pattern").addEventListener("pointermove", (event) => {
  row = Math.max(0, Math.floor((event.offsetY / $("pattern").clientHeight) * settings().tokens));
  draw();
});
$("pattern").addEventListener("keydown", (event) => {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  row = Math.max(0, row + step);
  draw();
});
$("save").addEventListener("click", () => {
  const { tokens, window, dilation, globals, causal } = settings();
  const caption = `${tokens} tokens, window ${window}, dilation ${dilation}, ${globals.size} global`;
  saveCanvas("pattern", $("pattern"), "Attention pattern", `${caption}${causal ? ", causal" : ""}`, draw);
});
draw();
