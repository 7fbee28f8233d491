// Attention, part 3: every head at a glance, named by what it does, to choose from.

const GRIDS = {
  entropy: ["nats", "How spread a head looks: e to this power is the number of tokens."],
  distance: ["tokens", "How far away, on average, a head looks."],
  globalShare: ["", "How much of its attention a head gives to global tokens."],
};
const PICTURES = "The windows of each head: the document from left to right, offsets from top to bottom. A head is named " +
  "by what gets at least 30% of its attention; it is broad where it looks at 40% or more of what it can see, else mixed.";
// What the server says of them, with their pictures in colour.
let heads = null;

function describe(layer, head) {
  const [name, share] = heads.behaviour[layer][head];
  if (name === "broad") return `broad: spread over ${percent(share)} of the tokens it can see`;
  if (name === "mixed") return `mixed: at most ${percent(share)} of its attention goes to one kind of token`;
  return `${name}: ${percent(share)} of its attention`;
}

function chooseHead(layer, head) {
  state.layer = layer;
  state.head = head;
  ask("layer");
}

const isChosen = (layer, head) => String(layer === state.layer && head === state.head);

function cellOf(layer, head, words, ...content) {
  const attributes = { type: "button", title: words, "aria-label": words, "aria-pressed": isChosen(layer, head) };
  const button = make("button", { ...attributes, onclick: () => chooseHead(layer, head) }, ...content);
  Object.assign(button, { layer, head });
  return make("td", {}, button);
}

// A head's cell, empty until the server has said what the head does.
function headCell(layer, head, least, most) {
  const name = `Layer ${layer + 1}, head ${head + 1}`;
  if (!heads) return cellOf(layer, head, name);
  const about = describe(layer, head);
  if (state.grid === "pictures") {
    const label = make("span", {}, heads.behaviour[layer][head][0].replace(" token", ""));
    return cellOf(layer, head, `${name}: ${about}`, heads.pictures[layer][head].canvas, label);
  }
  const value = heads[state.grid][layer][head];
  const cell = cellOf(layer, head, `${name}: ${number(value)} ${GRIDS[state.grid][0]}; ${about}`);
  const shade = SHADES[Math.round((255 * (value - least)) / (most - least || 1))];
  cell.firstElementChild.style.background = `rgb(${shade})`;
  return cell;
}

function showGrid() {
  const isPictures = state.grid === "pictures";
  const flat = isPictures || !heads ? [0] : heads[state.grid].flat();
  const [least, most] = [Math.min(...flat), Math.max(...flat)];
  const all = cellOf(-1, -1, "Mean of all layers and heads", "all");
  const titles = state.view.dilations[0].map((_, head) => make("th", { scope: "col" }, `head ${head + 1}`));
  const rows = state.view.dilations.map((own, layer) => {
    const mean = cellOf(layer, -1, `Layer ${layer + 1}, mean of its heads`, `layer ${layer + 1}`);
    return make("tr", {}, mean, ...own.map((_, head) => headCell(layer, head, least, most)));
  });
  $("grid").classList.toggle("tiles", isPictures);
  $("grid").replaceChildren(make("tr", {}, all, ...titles), ...rows);
  const scale = heads ? ` All on one scale: yellow is ${number(heads.largest)} or more.` : "";
  const range = isPictures ? "" : ` From ${number(least)} (blue) to ${number(most)} (yellow) ${GRIDS[state.grid][0]}.`;
  $("grid-caption").textContent = (isPictures ? PICTURES + scale : GRIDS[state.grid][1] + range) + " Click a head to see it.";
}

// The same grid, when another head is chosen.
function markGrid() {
  for (const button of $("grid").querySelectorAll("button")) button.setAttribute("aria-pressed", isChosen(button.layer, button.head));
}

// The pictures are asked for when they come near: they are below the text.
const isNear = (node) => node.getBoundingClientRect().top < window.innerHeight + 200;
new IntersectionObserver((entries) => {
  if (state.view && !heads && entries.some((entry) => entry.isIntersecting)) ask("heads");
}, { rootMargin: "200px" }).observe($("grid"));

function takeHeads(value) {
  heads = { ...value, pictures: value.tiles.map((row) => row.map((tile) => coloured(tile, "root"))) };
  showGrid();
}

$("grid-of").addEventListener("change", () => { state.grid = $("grid-of").value; showGrid(); });
