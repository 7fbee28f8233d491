// Attention, part 6: the view in the page's address, to share it.

const SHARED = ["sample", "policy", "globals", "question", "model", "tokens", "layer", "head", "token", "last", "unit",
  "direction", "measure"];
// What an address asks for, until the document is there.
let pending = null;

const sourceOf = () => ({
  ...state.source,
  model: state.model,
  // What stands before an empty line is the question.
  text: state.source.question ? state.view.text.slice(state.source.question.length + 2) : state.view.text,
  policy: "chosen",
  globals: [...isGlobal],
});

function addressOf() {
  const { layer, head, token, last, unit, direction, measure, source, model } = state;
  const url = new URL(window.location.href);
  for (const name of SHARED) url.searchParams.delete(name);
  // A document of one's own is not in the address: whoever opens it has to bring it.
  const of = source.sample ? { sample: source.sample } : { tokens: spans.length };
  const globals = source.policy === "chosen" ? [...isGlobal].join(",") : "";
  const shared = { ...of, policy: source.policy, globals, question: source.question, model };
  Object.assign(shared, { layer, head, token, last, unit, direction, measure });
  for (const [name, value] of Object.entries(shared)) if (value !== "") url.searchParams.set(name, value);
  return url;
}

function keepAddress(kind) {
  if (kind === "document" && documentNumber === 1 && openAddress()) return;
  if (kind === "document" && pending) {
    if (fitsAddress()) { applyAddress(); return; }
    pending = null;
  }
  if (kind === "layer" && pending?.measure) {
    $("measure").value = state.measure = pending.measure;
    pending = null;
    if (state.measure !== "links") ask(state.measure);
  }
  if (!pending) window.history.replaceState(null, "", addressOf());
}

// Asks for what the address names; whether there was something to ask for.
function openAddress() {
  const given = new URLSearchParams(window.location.search);
  if (!given.has("token")) return false;
  pending = Object.fromEntries(SHARED.map((name) => [name, given.get(name) ?? ""]));
  const isShown = ["sample", "policy", "question", "model"].every((name) =>
    pending[name] === (name === "model" ? state.model : state.source[name]));
  if (!pending.sample) {
    $("status").textContent = `The link that you opened is to a document of ${pending.tokens} tokens, which is not part ` +
      "of the link. Paste it and analyse it to see the view.";
  } else if (isShown) applyAddress();
  else {
    const { sample, policy, question, model } = pending;
    const globals = pending.globals ? pending.globals.split(",").map(Number) : [];
    ask("restore", { sample, policy, question, model, globals });
  }
  return true;
}

const fitsAddress = () => (pending.sample ? pending.sample === state.source.sample : Number(pending.tokens) === spans.length);

function applyAddress() {
  const whole = (name, least, most) => Math.min(Math.max(Math.trunc(Number(pending[name])) || 0, least), most);
  const has = (name, values) => (values.includes(pending[name]) ? pending[name] : values[0]);
  state.layer = pending.layer === "" ? -1 : whole("layer", -1, state.view.windows.length - 1);
  state.head = pending.head === "" ? -1 : whole("head", -1, state.view.dilations[0].length - 1);
  state.unit = has("unit", ["token", ...Object.keys(state.view.units)]);
  state.direction = has("direction", ["to", "from"]);
  pending.measure = has("measure", Object.keys(MEASURES));
  $("unit").value = state.unit;
  $("direction").value = state.direction;
  state.token = whole("token", 0, spans.length - 1);
  state.last = whole("last", state.token, spans.length - 1);
  Object.assign(state, { anchor: state.token, focus: state.last });
  showSelection();
  bring(state.token);
  ask("layer");
}

$("link").addEventListener("click", async () => {
  const address = addressOf().href;
  try {
    await navigator.clipboard.writeText(address);
    $("said").textContent = $("link").textContent = "The link is copied";
  } catch {
    // Not allowed, or the page is not served safely: the address bar has it, too.
    window.prompt("The link to this view:", address);
  }
  setTimeout(() => { $("link").textContent = "Copy a link to this view"; }, 2000);
});
