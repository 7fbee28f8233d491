// Attention, part 3: every head at a glance, named by what it does, to choose from.

const GRIDS = {
  entropy: ["nats", "How spread a head looks: e to this power is the number of tokens."],
  distance: ["tokens", "How far away, on average, a head looks."],
  globalShare: ["", "How much of its attention a head gives to global tokens."],
};
const PICTURES = "The windows of each head: the document from left to right, offsets from top to bottom. A head is named " +
  "by what gets at least 30% of its attention; it is broad where it looks at 40% or more of what it can see, else mixed.";
let tiles = null;

function describe(layer, head) {
  const [name, share] = state.view.behaviour[layer][head];
  if (name === "broad") return `broad: spread over ${percent(share)} of the tokens it can see`;
  if (name === "mixed") return `mixed: at most ${percent(share)} of its attention goes to one kind of token`;
  return `${name}: ${percent(share)} of its attention`;
}

function chooseHead(layer, head) {
  state.layer = layer;
  state.head = head;
  ask("layer");
}

function cellOf(layer, head, words, ...content) {
  const isChosen = layer === state.layer && head === state.head;
  const attributes = { type: "button", title: words, "aria-label": words, "aria-pressed": String(isChosen) };
  return make("td", {}, make("button", { ...attributes, onclick: () => chooseHead(layer, head) }, ...content));
}

function pictureCell(layer, head) {
  const words = `Layer ${layer + 1}, head ${head + 1}: ${describe(layer, head)}`;
  const label = make("span", {}, state.view.behaviour[layer][head][0].replace(" token", ""));
  const picture = tiles?.[layer][head].canvas;
  return cellOf(layer, head, words, ...(picture ? [picture] : []), label);
}

function shadedCell(layer, head, least, most) {
  const value = state.view[state.grid][layer][head];
  const shade = SHADES[Math.round((255 * (value - least)) / (most - least || 1))];
  const words = `Layer ${layer + 1}, head ${head + 1}: ${number(value)} ${GRIDS[state.grid][0]}; ${describe(layer, head)}`;
  const cell = cellOf(layer, head, words);
  cell.firstElementChild.style.background = `rgb(${shade})`;
  return cell;
}

function showGrid() {
  const isPictures = state.grid === "pictures";
  const flat = isPictures ? [0] : state.view[state.grid].flat();
  const [least, most] = [Math.min(...flat), Math.max(...flat)];
  const heads = state.view.behaviour[0].map((_, head) => make("th", { scope: "col" }, `head ${head + 1}`));
  const all = cellOf(-1, -1, "Mean of all layers and heads", "all");
  const rows = state.view.behaviour.map((row, layer) => {
    const mean = cellOf(layer, -1, `Layer ${layer + 1}, mean of its heads`, `layer ${layer + 1}`);
    const own = (_, head) => (isPictures ? pictureCell(layer, head) : shadedCell(layer, head, least, most));
    return make("tr", {}, mean, ...row.map(own));
  });
  $("grid").classList.toggle("tiles", isPictures);
  $("grid").replaceChildren(make("tr", {}, all, ...heads), ...rows);
  const scale = tiles ? ` All on one scale: yellow is ${number(tiles.largest)} or more.` : "";
  const range = isPictures ? "" : ` From ${number(least)} (blue) to ${number(most)} (yellow) ${GRIDS[state.grid][0]}.`;
  $("grid-caption").textContent = (isPictures ? PICTURES + scale : GRIDS[state.grid][1] + range) + " Click a head to see it.";
}

// The pictures are asked for when they come near: they are below the text.
const isNear = (node) => node.getBoundingClientRect().top < window.innerHeight + 200;
new IntersectionObserver((entries) => {
  if (state.view && !tiles && entries.some((entry) => entry.isIntersecting)) ask("heads");
}, { rootMargin: "200px" }).observe($("grid"));

function takeTiles(value) {
  tiles = value.tiles.map((row) => row.map((tile) => coloured(tile, "root")));
  tiles.largest = value.largest;
  showGrid();
}

$("grid-of").addEventListener("change", () => { state.grid = $("grid-of").value; showGrid(); });
