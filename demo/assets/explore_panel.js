// Explore, part 3: the panel beside the text, the controls, and what the server sends.

const MEASURES = { links: "attention", rollout: "rollout", gradient: "gradient × input" };

function showPanel() {
  const name = nameOf(state.view, state.token);
  const total = links.local + links.global || 1;
  const shares = state.measure === "links" ? sharesOf(total) : {
    rollout: "Where its state comes from, through all layers up to the chosen one: half of each layer's state is attended to, half is its own.",
    gradient: "What the model's result for it depends on, by gradient × input: orange and purple speak for it, blue against.",
  }[state.measure];
  $("title").textContent = `“${name}” at ${state.token.toLocaleString()}${isGlobal.has(state.token) ? ", global" : ""}`;
  $("shares").textContent = shares;
  $("bar").hidden = state.measure !== "links";
  $("bar").firstElementChild.style.width = `${(100 * links.local) / total}%`;
  $("toggle").textContent = isGlobal.has(state.token) ? "Make it local again" : "Make it global";
  const rows = links.strongest.map(([place, weight, global_]) => {
    const offset = place - state.token;
    const go = make("button", { type: "button", onclick: () => choose(place, true) }, nameOf(state.view, place));
    const cells = [place.toLocaleString(), offset > 0 ? `+${offset}` : `${offset}`, number(weight)];
    if (attention) cells.push(number(attention[place]));
    return make("tr", { class: global_ ? "global" : "" }, make("td", {}, go, global_ ? " (global)" : ""), ...cells.map((cell) => make("td", {}, cell)));
  });
  $("heading").replaceChildren(...["token", "position", "offset", attention ? MEASURES[state.measure] : "weight", ...(attention ? ["attention"] : [])].map((name) => make("th", {}, name)));
  $("links").replaceChildren(...rows);
  $("said").textContent = `${name}, token ${state.token}. ${shares} Strongest: ${links.strongest.slice(0, 3).map(([place]) => nameOf(state.view, place)).join(", ")}.`;
}

function sharesOf(total) {
  const others = state.direction === "to" ? "Looks at" : "Is looked at by";
  const window_ = windowOf();
  if (!window_) return `${others} all ${spans.length.toLocaleString()} tokens: it is global.`;
  const size = window_.last - window_.first + 1;
  const counted = `${size.toLocaleString()} tokens in its window (${percent(links.local / total)} of the weight) and ${isGlobal.size} global token${isGlobal.size === 1 ? "" : "s"} (${percent(links.global / total)}).`;
  return `${others} ${counted} The window is ${percent(size / spans.length)} of the document.`;
}

const GRIDS = {
  entropy: ["entropy", "nats", "How spread a head looks: e to this power is the number of tokens."],
  distance: ["distance", "tokens", "How far away, on average, a head looks."],
  globalShare: ["global share", "", "How much of its attention a head gives to global tokens."],
};

function showGrid() {
  const values = state.view[state.grid];
  const [, unit, caption] = GRIDS[state.grid];
  const flat = values.flat();
  const [least, most] = [Math.min(...flat), Math.max(...flat)];
  const cell = (layer, head, words, style) =>
    make("td", {}, make("button", {
      type: "button", style, title: words, "aria-label": words,
      "aria-pressed": String(layer === state.layer && head === state.head),
      onclick: () => { state.layer = layer; state.head = head; ask("layer"); },
    }, style ? "" : layer < 0 ? "all" : head < 0 ? `${layer + 1}` : ""));
  const rows = values.map((row, layer) => make("tr", {}, cell(layer, -1, `Layer ${layer + 1}, mean of its heads`), ...row.map((value, head) => {
    const shade = Math.round((255 * (value - least)) / (most - least || 1));
    return cell(layer, head, `Layer ${layer + 1}, head ${head + 1}: ${number(value)} ${unit}`, `background: rgb(${SHADES[shade]})`);
  })));
  const head = make("tr", {}, cell(-1, -1, "Mean of all layers and heads"), make("td", { colspan: values[0].length }, "heads →"));
  $("grid").replaceChildren(head, ...rows);
  $("grid-caption").textContent = `${caption} From ${number(least)} (blue) to ${number(most)} (yellow) ${unit}. Click a head to see it.`;
}

function showChoices() {
  const options = (count, what) => [make("option", { value: -1 }, `mean of all ${count}`), ...Array.from({ length: count }, (_, index) => make("option", { value: index }, `${what} ${index + 1}`))];
  if ($("layer").options.length !== state.view.windows.length + 1) $("layer").replaceChildren(...options(state.view.windows.length, "layer"));
  if ($("head").options.length !== state.view.dilations[0].length + 1) $("head").replaceChildren(...options(state.view.dilations[0].length, "head"));
  $("layer").value = state.layer;
  $("head").value = state.head;
  const band = pictures.band.view;
  $("band-caption").textContent = `top: ${band.firstRow} tokens ahead, middle: itself, bottom: ${band.firstRow} behind`;
  $("global-caption").textContent = state.direction === "to" ? "what each global token looks at, a line for each" : "who looks at each global token, a line for each";
  $("scale").textContent = number(band.largest);
  const global_ = state.direction === "to" ? pictures.fromGlobal : pictures.toGlobal;
  $("scale-global").textContent = global_ ? number(global_.view.largest) : "0";
}

$("layer").addEventListener("change", () => { state.layer = Number($("layer").value); ask("layer"); });
$("head").addEventListener("change", () => { state.head = Number($("head").value); ask("layer"); });
$("direction").addEventListener("change", () => {
  state.direction = $("direction").value;
  $("measure").value = state.measure = "links";
  ask("links");
});
$("measure").addEventListener("change", () => { state.measure = $("measure").value; ask(state.measure); });
$("grid-of").addEventListener("change", () => { state.grid = $("grid-of").value; showGrid(); });
$("toggle").addEventListener("click", () => ask("global"));
$("save-page").addEventListener("click", () => ask("page"));
$("save-links").addEventListener("click", () => {
  const lines = Array.from(weights, (weight, place) => [place, JSON.stringify(nameOf(state.view, place)).replaceAll('\\"', '""'), weight, linkIsGlobal(place)].join(","));
  save("links.csv", new Blob([`position,token,weight,is_global\n${lines.join("\n")}\n`], { type: "text/csv" }));
});
for (const [name, title] of [["map", "Attention over the document"], ["band", "Attention in the windows"], ["global", "Attention of the global tokens"]]) {
  $(`save-${name}`).addEventListener("click", () => {
    const largest = name === "map" ? 0 : name === "band" ? pictures.band.view.largest : (pictures.fromGlobal?.view.largest ?? 0);
    const caption = { map: `“${nameOf(state.view, state.token)}” at ${state.token}; ${spans.length} tokens from left to right`, band: $("band-caption").textContent, global: $("global-caption").textContent }[name];
    savePicture(`${name}.png`, $(name), `${title} (layers: ${$("layer").selectedOptions[0].text}; heads: ${$("head").selectedOptions[0].text})`, caption, largest);
  });
}

// What the server sends

function onValue() {
  const value = props.value;
  if (!value || !value.kind) return;
  element.querySelector(".viewer").removeAttribute("aria-busy");
  if (value.kind === "page") { save("attention.html", new Blob([value.page], { type: "text/html" })); return; }
  if (value.kind === "document") {
    state.view = unpack(value.document);
    Object.assign(state, { direction: "to", measure: "links", token: value.links.token });
    $("direction").value = "to";
    $("measure").value = "links";
    isGlobal = new Set(value.document.globals);
    ({ spans, blocks } = layOut(text, state.view));
    lit = [];
    for (const place of isGlobal) spans[place].classList.add("global");
    $("status").textContent = `${spans.length.toLocaleString()} tokens, read in ${value.seconds} s. ${value.cut}`;
    element.querySelector(".viewer").hidden = false;
  }
  if (value.kind !== "links") {
    const [band, fromGlobal, toGlobal] = [value.band, value.fromGlobal, value.toGlobal].map(coloured);
    pictures = { band, fromGlobal, toGlobal };
    received = weightsOf(value.received);
  }
  state.layer = value.layer;
  state.head = value.head;
  if (value.kind === "layer") $("measure").value = state.measure = "links";
  links = value.links;
  weights = weightsOf(links.weights);
  attention = links.attention ? weightsOf(links.attention) : null;
  element.querySelectorAll(".chosen").forEach((span) => span.classList.remove("chosen"));
  state.token = links.token;
  spans[state.token].classList.add("chosen");
  if (value.kind === "document") bring(state.token);
  light();
  showChoices();
  showPanel();
  if (value.kind !== "links") showGrid();
  drawAll();
  element.dataset.shown = String(Number(element.dataset.shown ?? 0) + 1);
}

watch("value", onValue);
onValue();
