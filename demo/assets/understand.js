// Understand: the pattern for few tokens, altered by sliders.

const $ = (name) => element.querySelector(`[data-part="${name}"]`);
let row = 20;

function settings() {
  const read = (name) => Number($(name).value);
  const tokens = read("tokens");
  const count = Math.min(read("globals"), tokens);
  const globals = new Set(Array.from({ length: count }, (_, index) => Math.floor((index * tokens) / Math.max(count, 1))));
  return { tokens, window: read("window"), dilation: read("dilation"), layers: read("layers"), globals, causal: $("causal").checked };
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
  const direct = Array.from({ length: one.tokens }, (_, query) => Array.from({ length: one.tokens }, (_, key) => kind(query, key, one) > 0));
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
      paint.fillStyle = what === 1 ? `rgb(${LOCAL})` : what === 2 ? `rgb(${GLOBAL})` : known[query][key] ? "rgba(0, 114, 178, .35)" : "rgba(128, 128, 128, .12)";
      paint.fillRect(key * cell, query * cell, cell - gap, cell - gap);
    }
  }
  paint.strokeStyle = INK();
  paint.lineWidth = 2;
  paint.strokeRect(1, row * cell, size - 2, cell);
  for (const name of ["tokens", "window", "dilation", "globals", "layers"]) $(`${name}-out`).textContent = $(name).value;
  explain(one, known[row].filter(Boolean).length, pairs);
}
whenRedrawn.push(draw);

function explain(one, count, pairs) {
  const own = Array.from({ length: one.tokens }, (_, key) => kind(row, key, one));
  const seen = own.filter(Boolean).length;
  const isGlobal = one.globals.has(row);
  const how = isGlobal ? "is global and looks at all tokens" : `looks at ${own.filter((what) => what === 1).length} tokens in its window and ${own.filter((what) => what === 2).length} global ones`;
  const deeper = one.layers > 1 ? ` Through ${one.layers} layers its state draws on ${count} of ${one.tokens} tokens.` : "";
  $("explained").textContent = `Token ${row}${one.causal ? ", looking back only," : ""} ${how}: ${seen} of ${one.tokens}.${deeper}`;
  $("cost").textContent = `${pairs.toLocaleString()} pairs are computed of ${(one.tokens ** 2).toLocaleString()} in full attention (${percent(pairs / one.tokens ** 2)}). At 4,096 tokens, a window of 512 and one global token: 2.0 of 16.8 million pairs (12%); twice the length is twice the work, not four times.`;
}

for (const name of ["tokens", "window", "dilation", "globals", "layers", "causal"]) $(name).addEventListener("input", draw);
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
$("save").addEventListener("click", () => savePicture("pattern.png", $("pattern"), "Attention pattern", `${$("tokens").value} tokens, window ${$("window").value}, dilation ${$("dilation").value}, ${$("globals").value} global${$("causal").checked ? ", causal" : ""}`, 0));
draw();
