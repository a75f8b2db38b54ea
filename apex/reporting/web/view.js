// The page: what is chosen, and where everything is shown.

const SLIDER_STEPS = 1000;
const element = (id) => document.getElementById(id);
let chosen = 0, fillGrid = null, moveMarker = null;

function show(id, value, text) {
  element(id).textContent = text;
  element(id).value = value;
}

// A row of a table; the first cell is its head.
function addRow(body, cells) {
  const row = body.insertRow();
  cells.forEach((content, index) => {
    const cell = index ? row.insertCell() : row.appendChild(headCell("row", ""));
    cell.append(content);
  });
}

// Chooses a size in bytes and shows the best file of at most that size.
function choose(bytes) {
  chosen = Math.min(bytes, Number.MAX_SAFE_INTEGER);
  const number = fileAt(chosen), file = files[number], types = typesOf(number);
  showChoice(number, file);
  showLimit();
  show("kl", file.kl, klText(file.kl));
  element("kl").title = `${file.kl} nats`;
  show("bytes", file.bytes, sizeText(file.bytes));
  element("exact").textContent = bytesText(file.bytes);
  const bits = (8 * file.bytes) / data.model.weights;
  show("bits", bits, bits.toFixed(3));
  element("compared").textContent = comparison(file);
  showNext(number, file);
  showKinds(file, types);
  fillGrid(types);
  moveMarker(file);
}

function showChoice(number, file) {
  const range = largest.bytes - smallest.bytes || 1;
  const within = Math.min(Math.max(chosen, smallest.bytes), largest.bytes);
  const slider = element("slider");
  slider.value = Math.round((SLIDER_STEPS * (within - smallest.bytes)) / range);
  slider.setAttribute("aria-valuetext", `${sizeText(file.bytes)}, predicted KL ${klText(file.kl)}`);
  if (document.activeElement !== element("size")) { // nobody is writing there
    element("size").value = Number((chosen / unit.bytes).toFixed(3));
  }
  element("smaller").disabled = number === 0;
  element("larger").disabled = number === files.length - 1;
}

function showLimit() {
  const note = element("limit");
  note.hidden = chosen >= smallest.bytes && chosen <= largest.bytes;
  note.textContent = chosen < smallest.bytes
    ? `No file is that small: the smallest, which is shown, has ${sizeText(smallest.bytes)}.`
    : `The largest file of the frontier, which is shown, has ${sizeText(largest.bytes)}.`;
}

function comparison(file) {
  if (!data.marks.length) return "";
  const mark = nearestMark(chosen);
  if (!mark) return "No tier and no file type is that small.";
  const name = `${mark.name} (${sizeText(mark.bytes)}, predicted KL ${klText(mark.kl)})`;
  if (!(mark.kl > 0)) return `The nearest of at most this size is ${name}.`;
  const ratio = (file.kl / mark.kl).toPrecision(2);
  return `The predicted KL is ${ratio} times that of ${name}, the nearest of at most this size.`;
}

function showNext(number, file) {
  const more = stride(), next = fileAt(file.bytes + more), body = element("changes").tBodies[0];
  const isLast = number === files.length - 1;
  body.replaceChildren();
  element("changes").hidden = next === number;
  if (next === number) {
    element("next").textContent = isLast ? "This is the largest file of the frontier."
      : `With ${roundText(more)} more nothing changes: the next file has ` +
        `${sizeText(files[number + 1].bytes)}.`;
    return;
  }
  const then = files[next], less = file.kl > 0 ? 100 * (1 - then.kl / file.kl) : 0;
  element("next").textContent = `With up to ${roundText(more)} more, ` +
    `predicted KL goes from ${klText(file.kl)} to ${klText(then.kl)}, ${less.toFixed(0)} % less; ` +
    `the file has ${sizeText(then.bytes)} then.`;
  for (const change of changes(number, next)) {
    addRow(body, [change.kind, sizeText(change.bytes), `${change.tensors} of ${change.of}`]);
  }
}

function showKinds(file, types) {
  const table = element("kinds"), body = table.tBodies[0];
  const share = (bytes) => `${((100 * bytes) / file.bytes).toFixed(1)} %`;
  let rest = file.bytes;
  body.replaceChildren();
  table.tFoot.replaceChildren();
  for (const kind of kinds) {
    const { bytes, bits } = total(byKind.get(kind), types);
    rest -= bytes;
    addRow(body, [kind, sizeText(bytes), share(bytes), bits.toFixed(3)]);
  }
  addRow(body, ["header and tensors that are not chosen", sizeText(rest), share(rest), ""]);
  const bits = (8 * file.bytes) / data.model.weights;
  addRow(table.tFoot, ["file", sizeText(file.bytes), share(file.bytes), bits.toFixed(3)]);
}

function showMarks() {
  const body = element("marks").tBodies[0];
  element("marks-section").hidden = !data.marks.length;
  for (const mark of [...data.marks].sort((one, other) => one.bytes - other.bytes)) {
    const button = document.createElement("button"), best = files[fileAt(mark.bytes)];
    button.type = "button";
    button.className = "name";
    button.textContent = mark.name;
    button.addEventListener("click", () => settle(mark.bytes));
    const isReached = best.bytes <= mark.bytes;
    const ratio = isReached && mark.kl > 0 ? (best.kl / mark.kl).toFixed(2) : NO_LAYER;
    const frontier = isReached ? klText(best.kl) : NO_LAYER;
    addRow(body, [button, sizeText(mark.bytes), klText(mark.kl), frontier, ratio]);
  }
  element("measured-section").hidden = !data.measured.length;
  for (const file of data.measured) {
    const kl = `${klText(file.kl)} ± ${klText(file.error)}`;
    addRow(element("measured").tBodies[0], [file.name, sizeText(file.bytes), kl]);
  }
}

function summarize() {
  const { name, architecture, layers, weights, source_bytes: source } = data.model;
  element("summary").textContent = `${name}: ${architecture}, ${counted(layers, "layer")}, ` +
    `${weights.toLocaleString("en")} weights, ${sizeText(source)} before it is quantized. ` +
    `Files of ${sizeText(smallest.bytes)} to ${sizeText(largest.bytes)}; all KL divergences are ` +
    `predicted${data.measured.length ? ", those under Measured excepted" : ""}.`;
  const words = [
    data.marks.some((mark) => mark.kind === "tier") && "squares are tiers",
    data.marks.some((mark) => mark.kind !== "tier") && "triangles are file types",
    data.measured.length && "diamonds are measured files",
    data.knees.length && "small circles are knees",
  ].filter(Boolean).join(", ");
  element("marked").textContent = words && `${words[0].toUpperCase()}${words.slice(1)}.`;
}

// Chooses a size and keeps it in the page's address, so that it can be passed on.
function settle(bytes) {
  choose(bytes);
  location.replace(`#bytes=${chosen}`);
}

// The size in the page's address; null where there is none.
function askedFor() {
  const match = /^#bytes=(\d+)$/.exec(location.hash);
  return match && Number(match[1]);
}

function atFirst() {
  const knee = data.knees[0];
  if (knee !== undefined) return files[knee + 1].bytes;
  return Math.round((smallest.bytes + largest.bytes) / 2);
}

function sliderBytes() {
  const share = element("slider").value / SLIDER_STEPS;
  return Math.round(smallest.bytes + share * (largest.bytes - smallest.bytes));
}

function numberBytes() {
  return Math.floor(Math.max(element("size").valueAsNumber, 0) * unit.bytes);
}

function redraw() {
  moveMarker = drawCurve(element("curve"), settle);
  moveMarker(files[fileAt(chosen)]);
}

function listen() {
  const move = (by) => settle(files[fileAt(chosen) + by].bytes);
  element("slider").addEventListener("input", () => choose(sliderBytes()));
  element("slider").addEventListener("change", () => settle(chosen));
  element("size").addEventListener("input", () => {
    if (Number.isFinite(numberBytes())) choose(numberBytes());
  });
  element("size").addEventListener("change", () => settle(chosen));
  element("smaller").addEventListener("click", () => move(-1));
  element("larger").addEventListener("click", () => move(1));
  window.addEventListener("hashchange", () => {
    if (askedFor() !== null) choose(askedFor());
  });
  window.addEventListener("resize", redraw);
}

element("page").hidden = false;
element("unit").textContent = unit.name;
summarize();
showMarks();
fillGrid = drawGrid(element("grid"), element("legend"), element("detail"));
redraw();
listen();
choose(askedFor() ?? atFirst());
