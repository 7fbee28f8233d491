// Compare, part 2: how the two sides look.

const MOST_ROWS = 16;
const isGlobalLink = (side, place) => {
  const { globals, token } = sides[side];
  return globals.has(place) || globals.has(token);
};

function light(side, largest) {
  const { spans, weights, lit } = sides[side];
  for (const span of lit) span.style.background = "";
  sides[side].lit = spans.filter((span, place) => {
    const share = weights[place] / largest;
    if (share <= 0.004) return false;
    const colour = isGlobalLink(side, place) ? GLOBAL : LOCAL;
    span.style.background = `rgba(${colour}, ${(0.06 + 0.54 * Math.sqrt(share)).toFixed(3)})`;
    return true;
  });
}

function drawMap(side, largest) {
  const { spans, weights, token } = sides[side];
  const height = 48;
  const { paint, width } = fit($(`map-${side}`), height);
  const most = new Map();
  weights.forEach((weight, place) => {
    const x = Math.floor(((place + 0.5) / spans.length) * width);
    if (weight > (most.get(x)?.weight ?? 0)) most.set(x, { weight, place });
  });
  const thick = Math.max(1, width / spans.length);
  for (const [x, { weight, place }] of most) {
    paint.fillStyle = `rgb(${isGlobalLink(side, place) ? globalInk() : LOCAL})`;
    const tall = Math.max(1, height * Math.sqrt(weight / largest));
    paint.fillRect(x, height - tall, thick, tall);
  }
  paint.fillStyle = INK();
  if (token >= 0) paint.fillRect(((token + 0.5) / spans.length) * width, 0, 1.5, height);
}

const largestOf = () => Math.max(...sides.map(({ weights }) => weights.reduce((most, one) => Math.max(most, one), 0))) || 1;

function drawAll() {
  if (!sides[0].weights) return;
  // One scale for both: the same colour is the same weight.
  for (const side of SIDES) drawMap(side, largestOf());
}
whenRedrawn.push(drawAll);

function showPair() {
  for (const side of SIDES) {
    const { spans, token } = sides[side];
    light(side, largestOf());
    $(`text-${side}`).querySelectorAll(".chosen").forEach((span) => span.classList.remove("chosen", "first", "last"));
    if (token < 0) continue;
    spans[token].classList.add("chosen", "first", "last");
    const [own, frame] = [spans[token].getBoundingClientRect(), $(`text-${side}`).getBoundingClientRect()];
    const isSeen = own.top >= frame.top + 10 && own.bottom <= frame.bottom - 10;
    if (!isSeen) $(`text-${side}`).scrollTop += own.top - frame.top - frame.height / 2;
  }
  drawAll();
  showDifferences();
}

// Each token once: those on the left with their counterparts, and those that are on the right alone.
function differences() {
  const [left, right] = sides;
  const rows = Array.from(left.weights, (weight, place) => {
    const partner = left.partners[place];
    return { left: place, right: partner, values: [weight, partner < 0 ? 0 : right.weights[partner]] };
  });
  right.weights.forEach((weight, place) => {
    if (right.partners[place] < 0) rows.push({ left: -1, right: place, values: [0, weight] });
  });
  return rows;
}

function showDifferences() {
  const isPair = sides.every(({ token }) => token >= 0);
  const rows = differences();
  const size = (one) => Math.abs(one.values[1] - one.values[0]);
  const apart = rows.reduce((sum, one) => sum + size(one), 0) / 2;
  const names = sides.map(({ view, token }) => (token < 0 ? "nothing" : `“${nameOf(view, token)}” at ${token.toLocaleString()}`));
  $("apart").textContent = isPair ? `Left ${names[0]}, right ${names[1]}.` +
    ($("direction").value === "to" ? ` ${percent(apart)} of the attention goes elsewhere.` : "")
    : `Left ${names[0]}, right ${names[1]}: this token is on one side only.`;
  $("said").textContent = $("apart").textContent;
  rows.sort((one, other) => size(other) - size(one));
  $("rows").replaceChildren(...rows.slice(0, MOST_ROWS).filter(size).map((one) => {
    const side = one.left >= 0 ? 0 : 1;
    const place = side ? one.right : one.left;
    const go = make("button", { type: "button", onclick: () => choose(side, place) }, nameOf(sides[side].view, place));
    const only = one.left < 0 ? " (right only)" : one.right < 0 ? " (left only)" : "";
    const change = one.values[1] - one.values[0];
    const cells = [...one.values.map(number), `${change > 0 ? "+" : ""}${number(change)}`];
    return make("tr", {}, make("td", {}, go, only), ...cells.map((cell) => make("td", {}, cell)));
  }));
}

function showChanges(rows) {
  const most = Math.max(...rows.flat()) || 1;
  const cell = (value, layer, head) => {
    const words = `Layer ${layer + 1}, head ${head + 1}: ${percent(value)} of the attention goes elsewhere`;
    const choose_ = () => {
      for (const side of SIDES) { chooseHead(side, "layer", layer); chooseHead(side, "head", head); }
      ask("pair");
    };
    const button = make("button", { type: "button", title: words, "aria-label": words, onclick: choose_ });
    button.style.background = `rgb(${SHADES[Math.round((255 * value) / most)]})`;
    return make("td", {}, button);
  };
  const heads = rows[0].map((_, head) => make("th", { scope: "col" }, `head ${head + 1}`));
  const lines = rows.map((row, layer) =>
    make("tr", {}, make("th", { scope: "row" }, `layer ${layer + 1}`), ...row.map((value, head) => cell(value, layer, head))));
  $("grid").replaceChildren(make("tr", {}, make("td"), ...heads), ...lines);
  $("changes-caption").textContent = `The mean difference between what a token and its counterpart look at, from 0 (blue) to ` +
    `${percent(most)} (yellow). Click a head to see it on both sides.`;
}

function takeDocuments(value) {
  const there = unpack({ starts: value.partners, stops: value.partners }).starts;
  const back = new Int32Array(value.sides[1].numTokens).fill(-1);
  there.forEach((other, place) => { if (other >= 0) back[other] = place; });
  SIDES.forEach((side) => {
    const view = unpack(value.sides[side]);
    const { spans } = layOut($(`text-${side}`), view);
    Object.assign(sides[side], { view, spans, lit: [], partners: side ? back : there, globals: new Set(view.globals) });
    $(`title-${side}`).textContent = `${side ? "Right" : "Left"}: ${view.model}`;
    sides[side].partners.forEach((other, place) => { if (other < 0) spans[place].classList.add("edited"); });
    for (const place of view.globals) spans[place].classList.add("global");
    offer(side);
  });
  sides[0].token = value.opening;
  sides[1].token = there[value.opening];
  const edits = sides.map(({ partners }) => partners.filter((other) => other < 0).length);
  $("status").textContent = `${edits[0]} tokens are on the left only, ${edits[1]} on the right only. Read in ${value.seconds} s.`;
  $("grid").replaceChildren();
  element.querySelector(".viewer").hidden = false;
}

function take(value) {
  if (!value?.kind) return;
  for (const kind of ["gone", "failed"]) $(kind).hidden = value.kind !== kind;
  $("failed").textContent = value.message ?? "";
  if (!$("gone").hidden || !$("failed").hidden || value.number < asked) return;
  // Other documents are kept from now on.
  if (value.kind === "read") { ask("documents"); return; }
  if (value.kind === "changes") showChanges(value.rows);
  else {
    if (value.kind === "documents") takeDocuments(value);
    value.weights.forEach((packed, side) => { sides[side].weights = weightsOf(packed); });
    showPair();
  }
  element.dataset.shown = String(Number(element.dataset.shown ?? 0) + 1);
}

watch("value", () => take(props.value));
take(props.value);
