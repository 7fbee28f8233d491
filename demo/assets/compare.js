// Compare, part 1: two documents side by side, and what is asked of them.

const $ = (name) => element.querySelector(`[data-part="${name}"]`);
const SIDES = [0, 1];
// Of each side: the document, its tokens on the page, the other side's token for each, and what is chosen.
const sides = SIDES.map(() => ({ view: null, spans: [], partners: null, weights: null, token: -1, layer: -1, head: -1 }));
let asked = 0;

async function ask(what) {
  asked += 1;
  const chosen = sides.map(({ token, layer, head }) => ({ token, layer, head }));
  take(await answerTo({ ask: what, sides: chosen, direction: $("direction").value, number: asked }));
}

function choose(side, place) {
  const own = sides[side];
  own.token = Math.min(Math.max(place, 0), own.spans.length - 1);
  sides[1 - side].token = own.partners[own.token];
  ask("pair");
}

function offer(side) {
  const { view } = sides[side];
  for (const [what, count] of [["layer", view.layers], ["head", view.heads]]) {
    const each = Array.from({ length: count }, (_, index) => make("option", { value: index }, `${index + 1}`));
    $(`${what}-${side}`).replaceChildren(make("option", { value: -1 }, `mean of all ${count}`), ...each);
    sides[side][what] = -1;
  }
}

// With linked sides the other one follows, as far as it has such a layer or head.
function chooseHead(side, what, value) {
  for (const one of $("linked").checked ? SIDES : [side]) {
    const box = $(`${what}-${one}`);
    if (value + 1 >= box.options.length) continue;
    sides[one][what] = value;
    box.value = value;
  }
}

for (const side of SIDES) {
  for (const what of ["layer", "head"]) {
    $(`${what}-${side}`).addEventListener("change", (event) => {
      chooseHead(side, what, Number(event.target.value));
      ask("pair");
    });
  }
  const text = $(`text-${side}`);
  text.addEventListener("click", (event) => {
    if (event.target.dataset.place !== undefined) choose(side, Number(event.target.dataset.place));
  });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(side, sides[side].token + step);
  });
}
$("direction").addEventListener("change", () => ask("pair"));
$("changes").addEventListener("click", () => ask("changes"));
