// Types per layer and kind: a table of colours, moved through with the arrow keys.

// From few bits, warm, to many, cold.
const COLOURS = ["#9e0142", "#d53e4f", "#f46d43", "#fdae61", "#fee08b", "#e6f598", "#abdda4",
  "#66c2a5", "#3288bd", "#5e4fa2"];
const typeBits = data.types.map((name, type) => bitsOfType(type));
const leastBits = Math.min(...typeBits.filter((bits) => bits !== undefined));
const mostBits = Math.max(...typeBits.filter((bits) => bits !== undefined));

// On a logarithmic scale: from 2 bits to 3 matters more than from 8 to 9.
function colourOf(bits) {
  const range = Math.log(mostBits / leastBits) || 1;
  const place = (Math.log(bits / leastBits) / range) * (COLOURS.length - 1);
  const clipped = Math.min(Math.max(place, 0), COLOURS.length - 1);
  const index = Math.min(Math.floor(clipped), COLOURS.length - 2);
  const channel = (colour, n) => parseInt(colour.slice(1 + 2 * n, 3 + 2 * n), 16);
  const mixed = [0, 1, 2].map((n) => {
    const low = channel(COLOURS[index], n), high = channel(COLOURS[index + 1], n);
    return Math.round(low + (high - low) * (clipped - index));
  });
  const isLight = 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2] > 130;
  return { back: `rgb(${mixed.join(" ")})`, text: isLight ? "#000" : "#fff" };
}

function layerName(tensor) {
  return tensor.layer ?? NO_LAYER;
}

function columnNames() {
  const layers = data.tensors.map((tensor) => tensor.layer).filter((layer) => layer != null);
  const hasNone = data.tensors.some((tensor) => tensor.layer == null);
  return [...(hasNone ? [NO_LAYER] : []), ...[...new Set(layers)].sort((a, b) => a - b)];
}

function drawLegend(list) {
  const types = data.types.map((name, type) => ({ name, bits: typeBits[type] }));
  for (const { name, bits } of types.filter((one) => one.bits).sort((a, b) => a.bits - b.bits)) {
    const item = document.createElement("li"), colour = document.createElement("span");
    colour.style.background = colourOf(bits).back;
    item.append(colour, `${name}, ${bits.toFixed(2)}`);
    list.append(item);
  }
}

// Makes the empty table. Returns its cells: each with its tensors, its place, and its element.
function makeCells(table) {
  const columns = columnNames(), cells = [];
  const groups = grouped((tensor) => JSON.stringify([tensor.kind, layerName(tensor)]));
  const head = table.tHead.insertRow();
  for (const name of ["layer", ...columns]) head.append(headCell("col", name));
  kinds.forEach((kind, row) => {
    const line = table.tBodies[0].insertRow();
    line.append(headCell("row", kind));
    columns.forEach((layer, column) => {
      const element = line.insertCell();
      element.setAttribute("role", "gridcell");
      const tensors = groups.get(JSON.stringify([kind, layer]));
      if (tensors) cells.push({ element, tensors, row, column, kind, layer });
    });
  });
  return cells;
}

function headCell(scope, text) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = text;
  return cell;
}

function fillCell(cell, types) {
  const { bits } = total(cell.tensors, types), colour = colourOf(bits);
  const where = cell.layer === NO_LAYER ? cell.kind : `layer ${cell.layer}, ${cell.kind}`;
  const list = cell.tensors.map((n) => `${data.tensors[n].name}: ${data.types[types[n]]}`);
  cell.element.textContent = bits >= 9.95 ? bits.toFixed(0) : bits.toFixed(1);
  cell.element.style.background = colour.back;
  cell.element.style.color = colour.text;
  cell.summary = `${where}: ${bits.toFixed(2)} bits per weight. ${list.join(", ")}.`;
  cell.element.title = [`${where}: ${bits.toFixed(2)} bits per weight`, ...list].join("\n");
  cell.element.setAttribute("aria-label", cell.summary);
}

const ARROWS = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
};

// The next cell in a direction, over gaps; undefined at the edge.
function neighbour(cells, from, key) {
  const [down, right] = ARROWS[key];
  const ahead = cells.filter((cell) =>
    down ? cell.column === from.column && (cell.row - from.row) * down > 0
      : cell.row === from.row && (cell.column - from.column) * right > 0);
  const distance = (cell) => Math.abs(cell.row - from.row) + Math.abs(cell.column - from.column);
  return ahead.sort((one, other) => distance(one) - distance(other))[0];
}

// Makes the grid. Returns what fills it with the types of a file.
function drawGrid(table, legend, detail) {
  drawLegend(legend);
  const cells = makeCells(table);
  let current = cells[0];
  const enter = (cell) => {
    current.element.tabIndex = -1;
    current = cell;
    current.element.tabIndex = 0;
    detail.textContent = current.summary;
  };
  for (const cell of cells) {
    cell.element.tabIndex = cell === current ? 0 : -1;
    cell.element.addEventListener("focus", () => enter(cell));
    cell.element.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS)) return;
      event.preventDefault();
      neighbour(cells, cell, event.key)?.element.focus();
    });
  }
  return (types) => {
    for (const cell of cells) fillCell(cell, types);
    detail.textContent = current.summary;
  };
}
