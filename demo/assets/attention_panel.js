// Attention, part 5: the panel beside the text, and the controls.

const MEASURES = { links: "attention", norm: "by norm", rollout: "rollout", gradient: "gradient × input" };
const EXPLAINED = {
  norm: "How much each token adds to its state in a layer: the weight, times the norm of what it carries (values " +
    "through the output projection, heads added up).",
  rollout: "Where its state comes from, through all layers up to the chosen one: half of each layer's state is " +
    "attended to, half is its own.",
  gradient: "What the model's result for it depends on, by gradient × input: orange and purple speak for it, blue " +
    "against.",
};

function showPanel() {
  const name = wordsOf(state.token, state.last);
  const total = links.local + links.global || 1;
  const isPlain = isOneToken() && state.unit === "token";
  const shares = isPlain ? EXPLAINED[state.measure] ?? sharesOf(total) : shareOfSelection();
  const suffix = isOneToken() && isGlobal.has(state.token) ? ", global" : "";
  const where = isOneToken() ? "" : ` to ${state.last.toLocaleString()}`;
  $("title").textContent = `“${name}” at ${state.token.toLocaleString()}${where}${suffix}`;
  $("shares").textContent = shares;
  $("bar").hidden = state.measure !== "links" || (!isPlain && state.direction === "from");
  $("toggle").hidden = $("lens-box").hidden = !isOneToken();
  $("lens-box").hidden ||= !state.hasLens;
  $("bar").firstElementChild.style.width = `${(100 * links.local) / total}%`;
  $("toggle").textContent = isGlobal.has(state.token) ? "Make it local again" : "Make it global";
  const rows = links.strongest.map(([place, end, weight, global_]) => {
    const offset = place > state.last ? place - state.last : Math.min(place - state.token, 0);
    const go = make("button", { type: "button", onclick: () => choose(place, true) }, wordsOf(place, end, 34));
    const cells = [place.toLocaleString(), offset > 0 ? `+${offset}` : `${offset}`, number(weight)];
    if (attention) cells.push(number(attention[place]));
    const first = make("td", {}, go, global_ ? " (global)" : "");
    return make("tr", { class: global_ ? "global" : "" }, first, ...cells.map((cell) => make("td", {}, cell)));
  });
  const measured = attention ? [MEASURES[state.measure], "attention"] : ["weight"];
  $("heading").replaceChildren(...[UNITS[state.unit], "position", "offset", ...measured].map((title) => make("th", {}, title)));
  $("links").replaceChildren(...rows);
  const strongest = links.strongest.slice(0, 3).map(([place, end]) => wordsOf(place, end));
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
  markGrid();
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
  const hidden = $("with-self").checked ? "" : "The weight of each token, or unit, on itself is left out.";
  const bars = [bar("weight in windows", pictures.band), ...(global_ ? [bar("of global tokens", global_)] : [])];
  if (flow) bars.push(bar(`between ${UNITS[state.unit]}s`, flowLegend()));
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
  // The norms go either way, the others from the selection alone.
  if (state.measure !== "norm") $("measure").value = state.measure = "links";
  showChoices();
  ask(state.measure);
});
$("measure").addEventListener("change", () => { state.measure = $("measure").value; ask(state.measure); });
$("scale").addEventListener("change", () => { colourPictures(); showLegend(); drawAll(); });
$("with-self").addEventListener("change", () => ask("layer"));
$("restore").addEventListener("click", () => ask("restore", sourceOf()));
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
$("lens-box").addEventListener("toggle", () => { if ($("lens-box").open) ask("lens"); });
$("masked").addEventListener("change", () => ask("lens"));
$("save-page").addEventListener("click", () => ask("page"));
$("save-links").addEventListener("click", () => {
  const lines = Array.from(weights, (weight, place) => {
    const token = JSON.stringify(nameOf(state.view, place)).replaceAll('\\"', '""');
    return [place, token, weight, linkIsGlobal(place)].join(",");
  });
  save("links.csv", new Blob([`position,token,weight,is_global\n${lines.join("\n")}\n`], { type: "text/csv" }));
});

function showLens(value) {
  if (value.token !== state.token) return;
  const count = value.rows.length - 1;
  const hidden = value.masked ? "with the token hidden from it" : "with the token in sight";
  $("lens-caption").textContent = `“${nameOf(state.view, value.token)}”, ${hidden}. Each layer's output, read with the head ` +
    "for the last one (the logit lens).";
  $("lens").replaceChildren(...value.rows.map((words, layer) => {
    const name = layer ? `layer ${layer}${layer === count ? ", the answer" : ""}` : "embeddings";
    const said = words.map(([word, share]) => `${word.trim() || JSON.stringify(word)} ${percent(share)}`).join(", ");
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, said));
  }));
}
