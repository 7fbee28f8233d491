// Attention, part 4: the panel beside the text, the controls, and what the server sends.

const MEASURES = { links: "attention", rollout: "rollout", gradient: "gradient × input" };
const EXPLAINED = {
  rollout: "Where its state comes from, through all layers up to the chosen one: half of each layer's state is " +
    "attended to, half is its own.",
  gradient: "What the model's result for it depends on, by gradient × input: orange and purple speak for it, blue " +
    "against.",
};

function showPanel() {
  const name = nameOf(state.view, state.token);
  const total = links.local + links.global || 1;
  const shares = EXPLAINED[state.measure] ?? sharesOf(total);
  const suffix = isGlobal.has(state.token) ? ", global" : "";
  $("title").textContent = `“${name}” at ${state.token.toLocaleString()}${suffix}`;
  $("shares").textContent = shares;
  $("bar").hidden = state.measure !== "links";
  $("bar").firstElementChild.style.width = `${(100 * links.local) / total}%`;
  $("toggle").textContent = isGlobal.has(state.token) ? "Make it local again" : "Make it global";
  const rows = links.strongest.map(([place, weight, global_]) => {
    const offset = place - state.token;
    const go = make("button", { type: "button", onclick: () => choose(place, true) }, nameOf(state.view, place));
    const cells = [place.toLocaleString(), offset > 0 ? `+${offset}` : `${offset}`, number(weight)];
    if (attention) cells.push(number(attention[place]));
    const first = make("td", {}, go, global_ ? " (global)" : "");
    return make("tr", { class: global_ ? "global" : "" }, first, ...cells.map((cell) => make("td", {}, cell)));
  });
  const measured = attention ? [MEASURES[state.measure], "attention"] : ["weight"];
  $("heading").replaceChildren(...["token", "position", "offset", ...measured].map((title) => make("th", {}, title)));
  $("links").replaceChildren(...rows);
  const strongest = links.strongest.slice(0, 3).map(([place]) => nameOf(state.view, place));
  $("said").textContent = `${name}, token ${state.token}. ${shares} Strongest: ${strongest.join(", ")}.`;
}

function sharesOf(total) {
  const others = state.direction === "to" ? "Looks at" : "Is looked at by";
  const window_ = windowOf();
  if (!window_) return `${others} all ${spans.length.toLocaleString()} tokens: it is global.`;
  const counted = [...isGlobal].filter((place) => window_.first <= place && place <= window_.last).length;
  const size = window_.last - window_.first + 1 - counted;
  const near = `${size.toLocaleString()} tokens in its window (${percent(links.local / total)} of the weight)`;
  const far = `${isGlobal.size} global token${isGlobal.size === 1 ? "" : "s"} (${percent(links.global / total)})`;
  return `${others} ${near} and ${far}. The window is ${percent(size / spans.length)} of the document.`;
}

function showChoices() {
  const offer = (what, count) => {
    if ($(what).options.length === count + 1) return;
    const each = Array.from({ length: count }, (_, index) => make("option", { value: index }, `${what} ${index + 1}`));
    $(what).replaceChildren(make("option", { value: -1 }, `mean of all ${count}`), ...each);
  };
  offer("layer", state.view.windows.length);
  offer("head", state.view.dilations[0].length);
  $("layer").value = state.layer;
  $("head").value = state.head;
  const band = pictures.band.view;
  $("band-caption").textContent = `top: ${band.firstRow} tokens ahead, middle: itself, bottom: ${band.firstRow} behind`;
  const looking = state.direction === "to" ? "what each global token looks at" : "who looks at each global token";
  $("global-caption").textContent = `${looking}, a line for each`;
  showLegend();
}

function showLegend() {
  const global_ = state.direction === "to" ? pictures.fromGlobal : pictures.toGlobal;
  const bar = (name, { ticks, view }) => {
    const [first, middle, last] = ticks.map(number);
    const more = ticks[2] < view.largest ? " or more" : "";
    return make("span", {}, `${name}: ${first} `, make("i", { class: "scale" }), ` ${last}${more} (middle: ${middle}) `);
  };
  const hidden = $("with-self").checked ? "" : "The weight of each token on itself is left out.";
  const bars = [bar("weight in windows", pictures.band), ...(global_ ? [bar("of global tokens", global_)] : [])];
  $("legend").replaceChildren(...bars, hidden);
}

// The pictures as the server sent them, in the colours that are chosen.
function colourPictures() {
  const scale = $("scale").value;
  for (const [name, view] of Object.entries(sent)) pictures[name] = coloured(view, scale);
}

$("layer").addEventListener("change", () => { state.layer = Number($("layer").value); ask("layer"); });
$("head").addEventListener("change", () => { state.head = Number($("head").value); ask("layer"); });
$("direction").addEventListener("change", () => {
  state.direction = $("direction").value;
  $("measure").value = state.measure = "links";
  ask("links");
});
$("measure").addEventListener("change", () => { state.measure = $("measure").value; ask(state.measure); });
$("scale").addEventListener("change", () => { colourPictures(); showLegend(); drawAll(); });
$("with-self").addEventListener("change", () => ask("layer"));
$("restore").addEventListener("click", () => ask("restore"));
// The token where a text occurs next after the selected one, from the start again after the end; -1 if nowhere.
function findText(wanted) {
  // Lower case may have another length in some scripts, and positions would be wrong.
  const lower = (words) => (words.toLowerCase().length === words.length ? words.toLowerCase() : words);
  const characters = (state.view.characters ??= Array.from(state.view.text));
  const whole = lower(state.view.text);
  const after = characters.slice(0, state.view.stops[state.token]).join("").length;
  const next = whole.indexOf(lower(wanted), after);
  const found = next < 0 ? whole.indexOf(lower(wanted)) : next;
  if (found < 0) return -1;
  const character = Array.from(state.view.text.slice(0, found)).length;
  return state.view.stops.findIndex((stop) => stop > character);
}

$("find").addEventListener("keydown", (event) => {
  const wanted = $("find").value.trim();
  if (event.key !== "Enter" || !wanted) return;
  event.preventDefault();
  const found = findText(wanted);
  $("find").setAttribute("aria-invalid", String(found < 0));
  if (found < 0) $("said").textContent = "This is not in the document.";
  else choose(found, true);
});
$("toggle").addEventListener("click", () => ask("global"));
$("save-page").addEventListener("click", () => ask("page"));
$("save-links").addEventListener("click", () => {
  const lines = Array.from(weights, (weight, place) => {
    const token = JSON.stringify(nameOf(state.view, place)).replaceAll('\\"', '""');
    return [place, token, weight, linkIsGlobal(place)].join(",");
  });
  save("links.csv", new Blob([`position,token,weight,is_global\n${lines.join("\n")}\n`], { type: "text/csv" }));
});

const TITLES = {
  map: "Attention over the document",
  band: "Attention in the windows",
  global: "Attention of the global tokens",
};
for (const [name, title] of Object.entries(TITLES)) {
  $(`save-${name}`).addEventListener("click", () => {
    const global_ = state.direction === "to" ? pictures.fromGlobal : pictures.toGlobal;
    const shown = { band: pictures.band, global: global_ }[name];
    const token = `“${nameOf(state.view, state.token)}” at ${state.token}`;
    const caption = shown ? $(`${name}-caption`).textContent : `${token}; ${spans.length} tokens from left to right`;
    const [layers, heads] = ["layer", "head"].map((what) => $(what).selectedOptions[0].text);
    const full = `${title} (layers: ${layers}; heads: ${heads})`;
    savePicture(`${name}.png`, $(name), full, caption, shown);
  });
}

// What the server sends

function onValue() {
  const value = props.value;
  if (!value || !value.kind) return;
  $("gone").hidden = value.kind !== "gone";
  if (value.kind === "gone") { element.querySelector(".viewer").removeAttribute("aria-busy"); return; }
  if (value.kind === "heads") {
    element.querySelector(".viewer").removeAttribute("aria-busy");
    if (value.number === documentNumber) takeTiles(value);
    return;
  }
  const isLate = value.number < asked;
  if ((value.kind === "links" && isLate) || (value.kind === "layer" && value.number < askedForPictures)) return;
  const wanted = { token: state.token, layer: state.layer, head: state.head };
  if (!isLate) element.querySelector(".viewer").removeAttribute("aria-busy");
  // A document that the Analyse button brings has no number: answers on the one before it are late from now on.
  if (value.kind === "document" && !value.number) asked += 1;
  if (value.kind === "page") { save("attention.html", new Blob([value.page], { type: "text/html" })); return; }
  if (value.kind === "document") {
    state.view = unpack(value.document);
    Object.assign(state, { direction: "to", measure: "links", token: value.links.token });
    $("direction").value = "to";
    $("measure").value = "links";
    isGlobal = new Set(value.document.globals);
    ({ spans, blocks } = layOut(text, state.view));
    lit = [];
    tiles = null;
    documentNumber += 1;
    for (const place of isGlobal) spans[place].classList.add("global");
    const time = value.seconds ? `, read in ${value.seconds} s` : "";
    $("status").textContent = `${spans.length.toLocaleString()} tokens${time}. ${value.cut}`;
    element.querySelector(".viewer").hidden = false;
  }
  if (value.kind !== "links") {
    sent = { band: value.band, fromGlobal: value.fromGlobal, toGlobal: value.toGlobal };
    colourPictures();
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
  if (value.kind === "document" && isNear($("grid"))) ask("heads");
  drawAll();
  if (isLate && value.kind !== "page") {
    // Something else was chosen while this came: ask for it again, of what is shown now.
    state.token = wanted.token;
    if (value.kind === "document") Object.assign(state, wanted);
    ask(value.kind === "document" ? "layer" : state.measure);
  }
  element.dataset.shown = String(Number(element.dataset.shown ?? 0) + 1);
}

watch("value", onValue);
onValue();
