// Speed: curves that grow while one measures.

const $ = (name) => element.querySelector(`[data-part="${name}"]`);
const COLOURS = {
  eager: "0, 114, 178",
  sdpa: "230, 97, 0",
  flex_attention: "0, 158, 115",
  transformers: "120, 120, 120",
};
const SHAPES = { eager: 4, sdpa: 0, flex_attention: 3, transformers: 5 };
let view = null;

function point(paint, x, y, corners) {
  paint.beginPath();
  if (!corners) paint.arc(x, y, 4, 0, 7);
  for (let corner = 0; corner < corners; corner += 1) {
    const angle = (2 * Math.PI * corner) / corners - Math.PI / 2;
    paint.lineTo(x + 5 * Math.cos(angle), y + 5 * Math.sin(angle));
  }
  paint.fill();
}

function plot(name, index, unit) {
  const height = 280;
  const { paint, width } = fit($(name), height);
  const curves = Object.entries(view.curves).map(([who, points]) => [who, points.filter((one) => one[index] > 0)]);
  const all = curves.flatMap(([, points]) => points);
  paint.fillStyle = paint.strokeStyle = INK();
  paint.font = "12px system-ui, sans-serif";
  if (!all.length) { paint.fillText("Nothing is measured yet.", 50, 40); return; }
  const [left, right, top, bottom] = [62, 104, 16, 34];
  const values = all.map((one) => one[index]);
  const [low, high] = [Math.min(...values) / 1.3, Math.max(...values) * 1.3];
  const lengths = [...new Set(all.map((one) => one[0]))].sort((one, other) => one - other);
  const [first, last] = [lengths[0] / 1.1, Math.max(lengths.at(-1), lengths[0] * 2) * 1.1];
  const x = (length) => left + (Math.log(length / first) / Math.log(last / first)) * (width - left - right);
  const y = (value) => height - bottom - (Math.log(value / low) / Math.log(high / low)) * (height - top - bottom);
  paint.globalAlpha = 0.25;
  for (const length of lengths) paint.fillRect(x(length), top, 1, height - top - bottom);
  const ticks = [0, 1, 2, 3].map((step) => low * 1.3 * (high / low / 1.69) ** (step / 3));
  for (const tick of ticks) paint.fillRect(left, y(tick), width - left - right, 1);
  paint.globalAlpha = 1;
  paint.textAlign = "center";
  for (const length of lengths) paint.fillText(length, x(length), height - bottom + 15);
  paint.fillText("tokens", (left + width - right) / 2, height - 4);
  paint.textAlign = "right";
  for (const tick of ticks) paint.fillText(`${number(tick)} ${unit}`, left - 5, y(tick) + 4);
  paint.textAlign = "left";
  const ends = [];
  for (const [who, points] of curves) {
    if (!points.length) continue;
    paint.fillStyle = paint.strokeStyle = `rgb(${COLOURS[who]})`;
    paint.lineWidth = 2;
    paint.beginPath();
    points.forEach((one) => paint.lineTo(x(one[0]), y(one[index])));
    paint.stroke();
    points.forEach((one) => point(paint, x(one[0]), y(one[index]), SHAPES[who]));
    ends.push({ who, x: x(points.at(-1)[0]) + 8, y: y(points.at(-1)[index]) + 4 });
  }
  // From the top down, no label closer to the one above it than a line of text.
  ends.sort((one, other) => one.y - other.y).reduce((above, end) => {
    end.y = Math.max(end.y, above + 14);
    paint.fillStyle = `rgb(${COLOURS[end.who]})`;
    paint.fillText(end.who, end.x, end.y);
    return end.y;
  }, 0);
}

function draw() {
  if (!view) return;
  plot("time", 1, "s");
  const hasMemory = Object.values(view.curves).some((points) => points.some((one) => one[2] !== null));
  $("memory-box").hidden = !hasMemory;
  if (hasMemory) plot("memory", 2, "MiB");
}
whenRedrawn.push(draw);

function onValue() {
  if (props.value?.stopped) { $("doing").textContent = "Stopped. What was measured is below."; return; }
  if (!props.value || !props.value.curves) return;
  view = props.value;
  element.querySelector(".viewer").hidden = false;
  element.querySelector(".progress i").style.width = `${100 * view.share}%`;
  element.querySelector(".progress").setAttribute("aria-valuenow", Math.round(100 * view.share));
  $("doing").textContent = `${percent(view.share)}: ${view.doing}`;
  $("notes").textContent = view.notes.join(" ");
  $("where").textContent = view.where;
  const names = Object.keys(view.curves);
  const lengths = [...new Set(Object.values(view.curves).flatMap((points) => points.map((one) => one[0])))];
  $("head").replaceChildren(make("th", {}, "tokens"), ...names.map((name) => make("th", {}, name)));
  const cell = (name, length) => {
    const one = view.curves[name].find((measured) => measured[0] === length);
    if (!one) return make("td", {}, "");
    const memory = one[2] === null ? "" : `, ${number(one[2])} MiB`;
    return make("td", {}, one[1] === null ? "failed" : `${number(one[1])} s${memory}`);
  };
  const rows = lengths.map((length) =>
    make("tr", {}, make("td", {}, length.toLocaleString()), ...names.map((name) => cell(name, length))));
  $("rows").replaceChildren(...rows);
  draw();
  element.dataset.shown = String(Number(element.dataset.shown ?? 0) + 1);
}

$("save").addEventListener("click", () => {
  saveCanvas("time", $("time"), "Time of a forward against length", view.where, draw);
  if ($("memory-box").hidden) return;
  saveCanvas("memory", $("memory"), "Memory of a forward against length", view.where, draw);
});
watch("value", onValue);
onValue();
