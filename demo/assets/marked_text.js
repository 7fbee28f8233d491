// A document with marks in it, shaded by the attention that led to them.

const $ = (name) => element.querySelector(`[data-part="${name}"]`);
const text = $("text");
const MARK = "0, 158, 115";
let view = null;
let spans = [];
let weights = null;
let chosen = 0;

function wordsOf(mark) {
  if (mark.replacement !== undefined) return mark.replacement;
  if (view.stops[mark.first] === undefined) return "";
  return Array.from(view.text).slice(view.starts[mark.first], view.stops[mark.last]).join("");
}

function shade(index) {
  weights = index === null || !view.shades[index] ? new Float32Array(spans.length) : weightsOf(view.shades[index]);
  const globals = view.globals ? new Set(view.globals) : null;
  const largest = weights.reduce((most, weight) => Math.max(most, weight), 0) || 1;
  spans.forEach((span, place) => {
    const share = weights[place] / largest;
    const colour = globals && !globals.has(place) ? LOCAL : GLOBAL;
    span.style.background = share > 0.01 ? `rgba(${colour}, ${(0.6 * Math.sqrt(share)).toFixed(3)})` : "";
  });
}

function mark() {
  view.marks.forEach((one, rank) => {
    for (let place = one.first; place <= one.last; place += 1) spans[place].classList.add("marked");
    spans[one.last].dataset.label = one.label;
    spans[one.first].dataset.mark = rank;
    if (one.replacement !== undefined) spans[one.first].textContent = one.replacement;
  });
}

function go(rank) {
  chosen = Math.min(Math.max(rank, 0), view.marks.length - 1);
  const one = view.marks[chosen];
  if (!one) return;
  element.querySelectorAll(".chosen").forEach((span) => span.classList.remove("chosen"));
  for (let place = one.first; place <= one.last; place += 1) spans[place].classList.add("chosen");
  shade(one.shade);
  const frame = text.getBoundingClientRect();
  text.scrollTop += spans[one.first].getBoundingClientRect().top - frame.top - frame.height / 3;
  $("said").textContent = `${wordsOf(one)}, ${one.label}, ${percent(one.score)}.`;
  $("rows").querySelectorAll("tr").forEach((row, index) => row.classList.toggle("current", index === chosen));
  draw();
}

function draw() {
  if (!view || !weights) return;
  const height = 56;
  const { paint, width } = fit($("map"), height);
  const column = (place) => ((place + 0.5) / spans.length) * width;
  const largest = weights.reduce((most, weight) => Math.max(most, weight), 0) || 1;
  const most = new Float32Array(Math.ceil(width));
  weights.forEach((weight, place) => { const x = Math.floor(column(place)); most[x] = Math.max(most[x], weight); });
  paint.fillStyle = `rgb(${view.globals ? LOCAL : globalInk()})`;
  const thick = Math.max(1, width / spans.length);
  most.forEach((weight, x) => {
    if (weight) paint.fillRect(x, height - (height - 10) * Math.sqrt(weight / largest), thick, height);
  });
  view.marks.forEach((one, rank) => {
    const [opacity, least, tall] = rank === chosen ? [1, 5, height] : [0.6, 2, 9];
    paint.fillStyle = `rgba(${MARK}, ${opacity})`;
    const left = column(one.first - 0.5);
    paint.fillRect(left, 0, Math.max(column(one.last + 0.5) - left, least), tall);
  });
}
whenRedrawn.push(draw);

function list() {
  $("head").replaceChildren(...["rank", ...view.columns].map((name) => make("th", {}, name)));
  const row = (...cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, ...[cell].flat())));
  const marks = view.marks.map((one, rank) => {
    const button = make("button", { type: "button", onclick: () => go(rank) }, wordsOf(one));
    const others = one.others ? [make("div", { class: "soft" }, one.others)] : [];
    return row(one.label, [button, ...others], percent(one.score));
  });
  const results = (view.results ?? []).map(([name, score], rank) => row(String(rank + 1), name, percent(score)));
  $("rows").replaceChildren(...marks, ...results);
  if (marks.length || results.length) return;
  $("rows").replaceChildren(make("tr", {}, make("td", { colspan: 3 }, "Nothing was found.")));
}

text.addEventListener("click", (event) => {
  const place = Number(event.target.dataset.place);
  const rank = view ? view.marks.findIndex((one) => one.first <= place && place <= one.last) : -1;
  if (rank >= 0) go(rank);
});
$("map").addEventListener("click", (event) => {
  const place = Math.floor((event.offsetX / event.target.clientWidth) * spans.length);
  if (!spans[place]) return;
  text.scrollTop += spans[place].getBoundingClientRect().top - text.getBoundingClientRect().top - text.clientHeight / 3;
});
$("map").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !view) return;
  event.preventDefault();
  go(chosen + step);
});
$("save").addEventListener("click", () => {
  saveCanvas("attention", $("map"), "Attention over the document", view.caption, draw);
});

function onValue() {
  if (!props.value || !props.value.text) return;
  view = unpack(props.value);
  element.querySelector(".viewer").hidden = false;
  ({ spans } = layOut(text, view));
  $("note").textContent = view.note;
  $("caption").textContent = `${view.caption} Green: what was found.`;
  chosen = 0;
  mark();
  shade(0);
  list();
  if (view.marks.length) go(0);
  draw();
  const [best] = view.results ?? [];
  if (best) $("said").textContent ||= `${best[0]}, ${percent(best[1])}`;
  element.dataset.shown = String(Number(element.dataset.shown ?? 0) + 1);
}

watch("value", onValue);
onValue();
