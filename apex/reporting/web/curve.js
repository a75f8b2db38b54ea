// The frontier as a drawing, as wide as the page is.

const MARGIN = { left: 52, right: 12, top: 10, bottom: 36 };
const ASPECT = 0.5, LEAST_HEIGHT = 240;

function svgElement(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Where a size and a KL divergence lie in a drawing of this width.
function scales(width) {
  const height = Math.max(ASPECT * width, LEAST_HEIGHT);
  const sizes = [...files, ...data.marks, ...data.measured].map((point) => point.bytes);
  const kls = [...files, ...data.marks].map((point) => point.kl).filter((kl) => kl > 0);
  if (!kls.length) kls.push(1e-5); // everything is predicted to be equal
  const top = Math.max(...kls, ...data.measured.map((file) => file.kl)) * 1.2;
  const bottom = Math.max(Math.min(...kls), top * 1e-5) / 1.2;
  const first = Math.min(...sizes), last = Math.max(...sizes, first + 1);
  const inner = {
    width: width - MARGIN.left - MARGIN.right,
    height: height - MARGIN.top - MARGIN.bottom,
  };
  const share = (kl) => Math.log(Math.max(kl, bottom) / bottom) / Math.log(top / bottom);
  return {
    width, height, first, last, top, bottom,
    x: (bytes) => MARGIN.left + (inner.width * (bytes - first)) / (last - first),
    y: (kl) => MARGIN.top + inner.height * (1 - share(kl)),
    bytes: (x) => Math.round(first + ((last - first) * (x - MARGIN.left)) / inner.width),
  };
}

// Round numbers between two, about so many of them.
function linearTicks(first, last, count) {
  const rough = (last - first) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((size) => size >= rough);
  const ticks = [];
  for (let n = Math.ceil(first / step); n * step <= last; n++) ticks.push(n * step);
  return ticks;
}

function logTicks(bottom, top) {
  const ticks = [], isLong = top / bottom > 1000;
  for (let power = Math.floor(Math.log10(bottom)); 10 ** power <= top; power++) {
    for (const n of isLong ? [1] : [1, 2, 5]) ticks.push(Number(`${n}e${power}`));
  }
  return ticks.filter((tick) => tick >= bottom && tick <= top);
}

function drawAxes(svg, at) {
  const right = at.width - MARGIN.right, bottom = at.height - MARGIN.bottom;
  const ends = [at.first / unit.bytes, at.last / unit.bytes];
  for (const tick of linearTicks(...ends, Math.max(at.width / 110, 2))) {
    const x = at.x(tick * unit.bytes), label = String(Number(tick.toPrecision(6)));
    const where = { class: "axis", x, y: bottom + 15, "text-anchor": "middle" };
    svg.append(svgElement("line", { class: "tick", x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
    svg.append(svgElement("text", where, label));
  }
  for (const tick of logTicks(at.bottom, at.top)) {
    const y = at.y(tick);
    const where = { class: "axis", x: MARGIN.left - 5, y: y + 4, "text-anchor": "end" };
    svg.append(svgElement("line", { class: "tick", x1: MARGIN.left, x2: right, y1: y, y2: y }));
    svg.append(svgElement("text", where, tick));
  }
  const middle = (MARGIN.left + right) / 2;
  const where = { class: "axis", x: middle, y: at.height - 4, "text-anchor": "middle" };
  svg.append(svgElement("text", where, `file size, ${unit.name}`));
}

// The best file of a size is the largest that is not above it, so the line is a stair.
function linePath(at) {
  const corners = files.map((file, number) => {
    const x = at.x(file.bytes).toFixed(1), y = at.y(file.kl).toFixed(1);
    return number ? `H${x}V${y}` : `M${x},${y}`;
  });
  return corners.join("");
}

function drawPoint(svg, at, point, shape, title) {
  const x = at.x(point.bytes), y = at.y(point.kl);
  const shapes = {
    tier: ["rect", { x: x - 4, y: y - 4, width: 8, height: 8 }],
    "file-type": ["path", { d: `M${x - 5},${y + 4}h10l-5,-9z` }],
    measured: ["path", { d: `M${x - 6},${y}l6,-6l6,6l-6,6z` }],
    knee: ["circle", { cx: x, cy: y, r: 5 }],
  };
  const [name, attributes] = shapes[shape];
  const element = svgElement(name, { class: shape, ...attributes });
  element.append(svgElement("title", {}, title));
  svg.append(element);
}

function overlaps(one, other) {
  return one.x < other.x + other.width && other.x < one.x + one.width &&
    one.y < other.y + other.height && other.y < one.y + one.height;
}

// Where a name may be, seen from its point, the best place first.
const NAME_PLACES = [
  [8, 4, "start"], [0, -8, "middle"], [6, -8, "start"], [8, 14, "start"], [-8, -6, "end"],
  [-8, 4, "end"], [12, -16, "start"], [-6, -18, "end"], [0, -20, "middle"], [20, -10, "start"],
  [-8, 16, "end"], [0, 18, "middle"],
];

// A name beside its point, where there is room for it; the table has all names.
function drawName(svg, at, mark, taken, line) {
  const label = svgElement("text", { class: shapeOf(mark) }, mark.name);
  svg.append(label);
  const move = ([dx, dy, anchor]) => {
    label.setAttribute("x", at.x(mark.bytes) + dx);
    label.setAttribute("y", at.y(mark.kl) + dy);
    label.setAttribute("text-anchor", anchor);
    return label.getBBox();
  };
  const isFree = (box, others) => box.x >= MARGIN.left && box.x + box.width <= at.width &&
    box.y >= 0 && !others.some((other) => overlaps(box, other));
  const place = NAME_PLACES.find((one) => isFree(move(one), [...taken, ...line])) ??
    NAME_PLACES.find((one) => isFree(move(one), taken));
  if (place) taken.push(move(place));
  else label.remove();
}

function shapeOf(mark) {
  return mark.kind === "tier" ? "tier" : "file-type";
}

function around(x, y, size) {
  return { x: x - size / 2, y: y - size / 2, width: size, height: size };
}

// The line as small boxes, which names stay off where they can.
function lineBoxes(at) {
  const boxes = [];
  for (let x = at.x(smallest.bytes); x < at.x(largest.bytes); x += 4) {
    boxes.push(around(x, at.y(files[fileAt(at.bytes(x))].kl), 4));
  }
  return boxes;
}

function drawMarks(svg, at) {
  const line = lineBoxes(at), points = [...data.marks, ...data.measured];
  const taken = points.map((point) => around(at.x(point.bytes), at.y(point.kl), 10));
  for (const step of data.knees) {
    const file = files[step + 1];
    const title = `knee: ${sizeText(file.bytes)}, predicted KL ${klText(file.kl)}`;
    drawPoint(svg, at, file, "knee", title);
  }
  for (const mark of data.marks) {
    const title = `${mark.name}: ${sizeText(mark.bytes)}, predicted KL ${klText(mark.kl)}`;
    drawPoint(svg, at, mark, shapeOf(mark), title);
  }
  for (const file of data.measured) {
    const title = `${file.name}: ${sizeText(file.bytes)}, measured KL ${klText(file.kl)}`;
    drawPoint(svg, at, file, "measured", title);
  }
  for (const mark of data.marks) drawName(svg, at, mark, taken, line);
}

// Draws everything but the chosen size. Returns what moves the marker to a file.
function drawCurve(place, choose) {
  const at = scales(Math.max(place.clientWidth, 200));
  const svg = svgElement("svg", { role: "img", width: at.width, height: at.height });
  place.replaceChildren(svg);
  drawAxes(svg, at);
  svg.append(svgElement("path", { class: "line", d: linePath(at) }));
  drawMarks(svg, at);
  const ends = { y1: MARGIN.top, y2: at.height - MARGIN.bottom };
  const cursor = svgElement("line", { class: "cursor", ...ends });
  const marker = svgElement("circle", { class: "chosen", r: 7 });
  svg.append(cursor, marker);
  svg.addEventListener("click", (event) => {
    choose(at.bytes(event.clientX - svg.getBoundingClientRect().left));
  });
  return (file) => {
    const x = at.x(file.bytes);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    marker.setAttribute("cx", x);
    marker.setAttribute("cy", at.y(file.kl));
    const label = `Predicted KL divergence against file size; chosen: ${sizeText(file.bytes)}, ` +
      `predicted KL ${klText(file.kl)}`;
    svg.setAttribute("aria-label", label);
  };
}
