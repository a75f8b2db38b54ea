"use strict";
// What the data says about a size. No function here touches the page.

const data = JSON.parse(document.getElementById("data").textContent);
const KIB = 1024, MIB = 1024 ** 2, GIB = 1024 ** 3;
const NO_LAYER = "-";

// The files on the frontier, the smallest first: file 0 is the start, file i is what step i − 1
// makes of file i − 1.
const files = [
  { bytes: data.start.bytes, kl: data.start.kl },
  ...data.steps.map(([, , bytes, kl]) => ({ bytes, kl })),
];
const smallest = files[0], largest = files[files.length - 1];
const kinds = [...new Set(data.tensors.map((tensor) => tensor.kind))];
const unit = largest.bytes >= GIB ? { bytes: GIB, name: "GiB" } : { bytes: MIB, name: "MiB" };

// The number of the largest file of at most so many bytes; 0 where every file is larger.
function fileAt(bytes) {
  let low = 0, high = files.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (files[middle].bytes <= bytes) low = middle;
    else high = middle;
  }
  return low;
}

// The type number of every tensor in a file.
function typesOf(number) {
  const types = data.start.types.slice();
  for (const [tensor, type] of data.steps.slice(0, number)) types[tensor] = type;
  return types;
}

// Sizes of tensors, added up. list: numbers of tensors; types: those of a file.
function total(list, types) {
  let bytes = 0, weights = 0;
  for (const number of list) {
    bytes += data.tensors[number].bytes[types[number]];
    weights += data.tensors[number].weights;
  }
  return { bytes, weights, bits: (8 * bytes) / weights };
}

// Numbers of tensors by what a function says of each.
function grouped(key) {
  const groups = new Map();
  data.tensors.forEach((tensor, number) => {
    const name = key(tensor);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(number);
  });
  return groups;
}

const byKind = grouped((tensor) => tensor.kind);

// Bits per weight of a type, as the first tensor that can have it shows; undefined without one.
function bitsOfType(type) {
  const tensor = data.tensors.find((one) => one.bytes[type] != null);
  return tensor && (8 * tensor.bytes[type]) / tensor.weights;
}

// The largest tier or file type of at most so many bytes, of two of one size the better one.
function nearestMark(bytes) {
  const fitting = data.marks.filter((mark) => mark.bytes <= bytes);
  const isNearer = (one, best) =>
    !best || one.bytes > best.bytes || (one.bytes === best.bytes && one.kl < best.kl);
  return fitting.reduce((best, one) => (isNearer(one, best) ? one : best), null);
}

// A round number of bytes, such that about ten of them make the range of sizes.
function stride() {
  const range = largest.bytes - smallest.bytes;
  const round = [MIB, 10 * MIB, 100 * MIB, GIB, 10 * GIB, 100 * GIB];
  const sizes = round.flatMap((size) => [size, 2 * size, 5 * size]);
  return sizes.filter((size) => size <= range / 8).pop() ?? MIB;
}

// What differs between two files, by kind, what grows most first.
function changes(from, to) {
  const before = typesOf(from), after = typesOf(to);
  return kinds
    .map((kind) => {
      const all = byKind.get(kind);
      const bytes = total(all, after).bytes - total(all, before).bytes;
      const tensors = all.filter((number) => before[number] !== after[number]).length;
      return { kind, bytes, tensors, of: all.length };
    })
    .filter((change) => change.tensors)
    .sort((one, other) => other.bytes - one.bytes);
}

function sizeText(bytes) {
  const [scale, name] = bytes >= GIB ? [GIB, "GiB"] : bytes >= MIB ? [MIB, "MiB"] : [KIB, "KiB"];
  return `${(bytes / scale).toFixed(2)} ${name}`;
}

// Such as "5 MiB": a size that is a whole number of its unit.
function roundText(bytes) {
  return bytes >= GIB ? `${bytes / GIB} GiB` : `${bytes / MIB} MiB`;
}

function bytesText(bytes) {
  return `${bytes.toLocaleString("en")} bytes`;
}

function klText(kl) {
  return kl === 0 ? "0" : kl < 1e-6 ? kl.toExponential(2) : kl.toPrecision(3);
}

function counted(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}
