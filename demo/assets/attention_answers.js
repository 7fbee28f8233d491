// Attention, part 8: what the server sends.

function takeDocument(value) {
  state.view = unpack(value.document);
  Object.assign(state, { direction: "to", measure: "links", unit: "token" });
  Object.assign(state, { source: value.source, model: value.model, hasLens: value.hasLens });
  $("direction").value = "to";
  $("measure").value = "links";
  isGlobal = new Set(value.document.globals);
  ({ spans, blocks } = layOut(text, state.view));
  lit = [];
  tiles = null;
  documentNumber += 1;
  $("lens").replaceChildren();
  $("lens-caption").textContent = "";
  offerUnits();
  for (const place of isGlobal) spans[place].classList.add("global");
  const time = value.seconds ? `, read in ${value.seconds} s` : "";
  $("status").textContent = `${spans.length.toLocaleString()} tokens${time}. ${value.cut}`;
  element.querySelector(".viewer").hidden = false;
}

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
  const wanted = { token: state.token, last: state.last, layer: state.layer, head: state.head };
  if (!isLate) element.querySelector(".viewer").removeAttribute("aria-busy");
  // A document that the Analyse button brings has no number: answers on the one before it are late from now on.
  if (value.kind === "document" && !value.number) asked += 1;
  if (value.kind === "lens") { showLens(value); return; }
  if (value.kind === "page") { save("attention.html", new Blob([value.page], { type: "text/html" })); return; }
  if (value.kind === "document") takeDocument(value);
  if (value.kind !== "links") {
    sent = { band: value.band, fromGlobal: value.fromGlobal, toGlobal: value.toGlobal };
    colourPictures();
    received = weightsOf(value.received);
    takeFlow(value.flow);
  }
  state.layer = value.layer;
  state.head = value.head;
  if (value.kind === "layer") $("measure").value = state.measure = "links";
  links = value.links;
  weights = weightsOf(links.weights);
  attention = links.attention ? weightsOf(links.attention) : null;
  Object.assign(state, { token: links.token, last: links.last });
  if (value.kind === "document") Object.assign(state, { anchor: links.token, focus: links.token });
  showSelection();
  if (value.kind === "document") bring(state.token);
  light();
  showChoices();
  showPanel();
  if (value.kind !== "links") showGrid();
  if (value.kind === "document" && isNear($("grid"))) ask("heads");
  drawAll();
  if (isLate && value.kind !== "page") {
    // Something else was chosen while this came: ask for it again, of what is shown now.
    Object.assign(state, value.kind === "document" ? wanted : { token: wanted.token, last: wanted.last });
    ask(value.kind === "document" ? "layer" : state.measure);
  }
  if ($("lens-box").open && !isLate && isOneToken() && state.hasLens) ask("lens");
  keepAddress(value.kind);
  element.dataset.shown = String(Number(element.dataset.shown ?? 0) + 1);
}

watch("value", onValue);
onValue();
