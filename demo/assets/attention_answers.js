// Attention, part 8: what the server sends.

function takeDocument(value) {
  state.view = unpack(value.document);
  Object.assign(state, { measure: "links", source: value.source, model: value.model, hasLens: value.hasLens });
  if (value.number === askedForNew) Object.assign(state, { direction: "to", unit: "token" });
  $("direction").value = state.direction;
  $("measure").value = "links";
  isGlobal = new Set(value.document.globals);
  ({ spans, blocks } = layOut(text, state.view));
  lit = new Map();
  heads = null;
  documentNumber += 1;
  $("lens").replaceChildren();
  $("lens-caption").textContent = "";
  offerUnits();
  showAxis();
  for (const place of isGlobal) spans[place].classList.add("global");
  const time = value.seconds ? `, read in ${value.seconds} s` : "";
  $("status").textContent = `${spans.length.toLocaleString()} tokens${time}. ${value.cut}`;
  element.querySelector(".viewer").hidden = false;
}

// What is kept on the server is another document from now on.
function takeNews({ isNew }) {
  ask("document", isNew ? START : {});
  if (isNew) askedForNew = asked;
}

function takeShown(value) {
  const isDocument = value.kind === "document";
  const isLate = value.number < asked;
  const wanted = { token: state.token, last: state.last, layer: state.layer, head: state.head };
  if (isDocument) takeDocument(value);
  if (value.kind !== "links") takePictures(value);
  state.layer = value.layer;
  state.head = value.head;
  if (value.kind === "layer") $("measure").value = state.measure = "links";
  links = value.links;
  weights = weightsOf(links.weights);
  attention = links.attention ? weightsOf(links.attention) : null;
  Object.assign(state, { token: links.token, last: links.last });
  if (isDocument) Object.assign(state, { anchor: links.token, focus: links.token });
  showSelection();
  if (isDocument) bring(state.token);
  light();
  if (isDocument) showGrid();
  if (value.kind !== "links") showChoices();
  showPanel();
  drawAll();
  if (isLate && value.number !== askedForNew) {
    // Something else was chosen while this came: ask for it again, of what is shown now.
    Object.assign(state, isDocument ? wanted : { token: wanted.token, last: wanted.last });
    ask(isDocument ? "layer" : state.measure);
  }
  if (isDocument && isNear($("grid"))) ask("heads");
  if ($("lens-box").open && !isLate && isOneToken() && state.hasLens) ask("lens");
  keepAddress(value.kind);
  element.dataset.shown = String(Number(element.dataset.shown ?? 0) + 1);
}

function takePictures(value) {
  sent = { band: value.band, fromGlobal: value.fromGlobal, toGlobal: value.toGlobal };
  colourPictures();
  received = weightsOf(value.received);
  takeFlow(value.flow);
}

// Whether something that was asked for later is shown already, or the answer is on a document that is not shown yet.
function isOutdated({ kind, number, links: found }) {
  if (kind === "document") return number < askedForNew;
  if (kind === "layer" && number < askedForPictures) return true;
  return (kind === "links" && number < asked) || found.weights.codes.length !== 4 * Math.ceil(spans.length / 3);
}

const TAKE = {
  gone: () => {},
  failed: () => {},
  heads: (value) => { if (value.number === documentNumber) takeHeads(value); },
  lens: showLens,
  page: (value) => save("attention.html", new Blob([value.page], { type: "text/html" })),
  read: takeNews,
};

function take(value) {
  if (!value?.kind) return;
  $("gone").hidden = value.kind !== "gone";
  $("failed").hidden = value.kind !== "failed";
  $("failed").textContent = value.message ?? "";
  if (!(value.number < asked)) element.querySelector(".viewer").removeAttribute("aria-busy");
  if (value.kind in TAKE) TAKE[value.kind](value);
  else if (!isOutdated(value)) takeShown(value);
}

watch("value", () => take(props.value));
take(props.value);
