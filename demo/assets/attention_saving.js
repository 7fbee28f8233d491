// Attention, part 7: its pictures as files.

const TITLES = {
  map: "Attention over the document",
  band: "Attention in the windows",
  global: "Attention of the global tokens",
  flow: "Attention between units of the text",
};

// Bars of one colour as one path, as many as a picture of this width can tell apart.
function barPaths(values, kindOf, width, height, floor) {
  const largest = values.reduce((most, value) => Math.max(most, value), 0) || 1;
  const most = new Map();
  values.forEach((value, place) => {
    const x = Math.floor(column(place, width));
    if (value > (most.get(x)?.value ?? 0)) most.set(x, { value, kind: kindOf(place) });
  });
  const thick = Math.max(1, width / spans.length).toFixed(2);
  const paths = {};
  for (const [x, { value, kind }] of most) {
    const tall = (height * Math.sqrt(value / largest)).toFixed(2);
    paths[kind] = `${paths[kind] ?? ""}M${x} ${(floor - tall).toFixed(2)}h${thick}v${tall}h-${thick}z`;
  }
  return Object.entries(paths).map(([kind, path]) => `<path fill="rgb(${kind})" d="${path}"/>`).join("");
}

function mapMarkup(width, height) {
  const negative = new Set(links.negative ?? []);
  const kindOf = (place) => (negative.has(place) ? NEGATIVE : linkIsGlobal(place) ? GLOBAL : LOCAL);
  const [first, last] = [column(state.token, width) - 0.75, column(state.last, width) + 0.75];
  const marks = [...isGlobal].map((place) => {
    const x = column(place, width).toFixed(2);
    return `M${x - 3} 0h6l-3 6z`;
  }).join("");
  return barPaths(received, () => "170, 170, 170", width, height * 0.45, height) +
    barPaths(weights, kindOf, width, height - 12, height) +
    `<path fill="rgb(${GLOBAL})" d="${marks}"/><rect x="${first}" y="0" width="${last - first}" height="${height}" fill="none" stroke="#111"/>`;
}

const tokenTicks = () => [0, 0.25, 0.5, 0.75, 1].map((share) =>
  [share, Math.round(share * (spans.length - 1)).toLocaleString()]);

// What each picture is made of, for `savePicture`.
function sheetOf(name) {
  const [layers, heads] = ["layer", "head"].map((what) => $(what).selectedOptions[0].text);
  const selected = `“${wordsOf(state.token, state.last)}” at ${state.token}`;
  const sheet = { width: 960, height: 240, xTitle: "position in the document, in tokens", xTicks: tokenTicks() };
  sheet.title = `${TITLES[name]} (layers: ${layers}; heads: ${heads})`;
  if (name === "map") {
    const keys = [[LOCAL, "by its window"], [GLOBAL, "by global tokens (▾)"], ["170, 170, 170", "received from all"]];
    const largest = number(weights.reduce((most, weight) => Math.max(most, weight), 0));
    const way = state.direction === "to" ? "what it looks at" : "who looks at it";
    const caption = `${selected}: ${way}, by ${MEASURES[state.measure]}`;
    return { ...sheet, caption, height: 120, markup: mapMarkup(960, 120), keys, yTitle: "weight (root)", yTicks: [[0, largest], [1, "0"]] };
  }
  if (name === "flow") {
    const rows = tokenTicks();
    const { ticks, words } = flowLegend();
    const legend = { ticks, words: `weight, ${words}` };
    const caption = $("flow-caption").textContent;
    return { ...sheet, caption, height: 480, canvas: flow.picture(960, 480), legend, yTitle: "who looks", yTicks: rows };
  }
  const picture = name === "band" ? pictures.band : state.direction === "to" ? pictures.fromGlobal : pictures.toGlobal;
  const { view } = picture;
  const legend = { ticks: picture.ticks, words: `weight, ${picture.words}` };
  const caption = $(`${name}-caption`).textContent;
  const isBand = name === "band";
  const reach = view.firstRow;
  const yTicks = isBand ? [[0, `+${reach}`], [0.5, "0"], [1, `-${reach}`]]
    : [[0, state.view.globals[0]], [1, state.view.globals.at(-1)]].map(([share, place]) => [share, place.toLocaleString()]);
  const yTitle = isBand ? "offset, in tokens" : "global token";
  return { ...sheet, caption, canvas: picture.canvas, legend, yTitle, yTicks };
}

for (const button of element.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => savePicture(button.dataset.save, button.dataset.type, sheetOf(button.dataset.save)));
}
