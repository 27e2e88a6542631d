"use strict";
// Sorting of tables, and the viewer of the test patients. All text goes in as text, never as markup.

const COLOURS = { true: "#56b4e9", predicted: "#e69f00", both: "#009e73", ignored: "#969696" };
const IGNORED = 1, TRUE = 2, PREDICTED = 4;

// --- tables ---------------------------------------------------------------------------------------------

function compareKeys(a, b) {
  const x = Number(a), y = Number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
}

function sortBy(table, column, direction) {
  const rows = [...table.tBodies[0].rows];
  const key = (row) => row.cells[column].dataset.key;
  // Where there is no value there is nothing to rank: such rows stay at the end either way.
  const ranked = rows.filter((row) => key(row) !== "").sort((a, b) => direction * compareKeys(key(a), key(b)));
  table.tBodies[0].append(...ranked, ...rows.filter((row) => key(row) === ""));
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.setAttribute("aria-sort", index !== column ? "none" : direction > 0 ? "ascending" : "descending");
  });
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    sortBy(head.closest("table"), head.cellIndex, direction);
  });
}

// --- slices ---------------------------------------------------------------------------------------------

function loadImage(uri) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture of this page cannot be decoded"));
    image.src = uri;
  });
}

async function loadSlice(slice, side) {
  const [picture, mask] = await Promise.all([loadImage(slice.picture), loadImage(slice.mask)]);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(mask, 0, 0);
  const pixels = context.getImageData(0, 0, side, side).data;
  const bits = new Uint8Array(side * side);
  for (let i = 0; i < bits.length; i++) bits[i] = pixels[4 * i] >> 5;
  return { picture, bits, side };
}

// The edges between pixels inside and outside, as a path: sharp at any size.
function tracedOutline(bits, side, zoom, isInside) {
  const path = new Path2D();
  const inside = (x, y) => x >= 0 && y >= 0 && x < side && y < side && Boolean(isInside(bits[y * side + x]));
  for (let y = 0; y <= side; y++) {
    for (let x = 0; x <= side; x++) {
      const here = inside(x, y);
      if (here !== inside(x, y - 1)) { path.moveTo(x * zoom, y * zoom); path.lineTo((x + 1) * zoom, y * zoom); }
      if (here !== inside(x - 1, y)) { path.moveTo(x * zoom, y * zoom); path.lineTo(x * zoom, (y + 1) * zoom); }
    }
  }
  return path;
}

function filledArea(bits, side, zoom, isInside) {
  const path = new Path2D();
  for (let i = 0; i < bits.length; i++) {
    if (isInside(bits[i])) path.rect((i % side) * zoom, Math.floor(i / side) * zoom, zoom, zoom);
  }
  return path;
}

function pattern(context, colour, draw) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = 2.5;
  draw(pen);
  return context.createPattern(tile, "repeat");
}

function hatching(context, colour) {
  return pattern(context, colour, (pen) => {
    pen.beginPath();
    for (const shift of [-8, 0, 8]) { pen.moveTo(shift - 1, 9); pen.lineTo(shift + 9, -1); }
    pen.stroke();
  });
}

function dotting(context, colour) {
  return pattern(context, colour, (pen) => {
    for (const [x, y] of [[2, 2], [6, 6]]) { pen.beginPath(); pen.arc(x, y, 1.9, 0, 7); pen.fill(); }
  });
}

function strokeOutline(context, slice, zoom, isInside, colour) {
  context.strokeStyle = colour;
  context.lineWidth = 3;
  context.lineCap = "square";
  context.stroke(tracedOutline(slice.bits, slice.side, zoom, isInside));
}

function drawIgnored(context, slice, zoom) {
  context.fillStyle = hatching(context, COLOURS.ignored);
  context.fill(filledArea(slice.bits, slice.side, zoom, (bit) => bit & IGNORED));
  context.lineWidth = 1.5;
  context.strokeStyle = COLOURS.ignored;
  context.stroke(tracedOutline(slice.bits, slice.side, zoom, (bit) => bit & IGNORED));
}

const DRAW = {
  picture: () => {},
  true: (context, slice, zoom) => strokeOutline(context, slice, zoom, (bit) => bit & TRUE, COLOURS.true),
  predicted: (context, slice, zoom) => strokeOutline(context, slice, zoom, (bit) => bit & PREDICTED, COLOURS.predicted),
  difference: (context, slice, zoom) => {
    const parts = [
      [(bit) => bit === (TRUE | PREDICTED), COLOURS.both, COLOURS.both + "80"],
      [(bit) => bit === TRUE, COLOURS.true, hatching(context, COLOURS.true)],
      [(bit) => bit === PREDICTED, COLOURS.predicted, dotting(context, COLOURS.predicted)],
    ];
    for (const [isInside, colour, fill] of parts) {
      context.fillStyle = fill;
      context.fill(filledArea(slice.bits, slice.side, zoom, isInside));
      context.lineWidth = 1.5;
      context.strokeStyle = colour;
      context.stroke(tracedOutline(slice.bits, slice.side, zoom, isInside));
    }
  },
};

function drawSlice(canvas, slice, what, size) {
  const zoom = Math.max(1, Math.round(size / slice.side));
  canvas.width = canvas.height = slice.side * zoom;
  const context = canvas.getContext("2d");
  context.drawImage(slice.picture, 0, 0, canvas.width, canvas.height);
  if (what !== "picture") drawIgnored(context, slice, zoom);
  DRAW[what](context, slice, zoom);
}

// --- the viewer -----------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function svgElement(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

class Viewer {
  constructor(root, viewings, words) {
    this.root = root;
    this.viewings = viewings;
    this.words = words;
    this.slider = root.querySelector("input[type=range]");
    this.cards = [...root.querySelectorAll(".card")];
    this.turn = 0;
    this.cards.forEach((card, index) => card.addEventListener("click", () => this.choose(index)));
    this.slider.addEventListener("input", () => this.show());
    this.listen(root.querySelector(".viewer"));
    this.choose(0);
    this.drawCards();
  }

  get viewing() { return this.viewings[this.index]; }

  choose(index) {
    this.index = index;
    this.cards.forEach((card, i) => card.setAttribute("aria-pressed", String(i === index)));
    this.root.querySelector(".viewer-name").textContent = this.viewing.patient;
    this.root.querySelector(".viewer-words").textContent = this.words[this.viewing.patient];
    this.slider.max = this.viewing.pictures.length - 1;
    this.slider.value = this.viewing.telling;
    this.drawProfile();
    this.show();
  }

  step(by) {
    const before = Number(this.slider.value);
    this.slider.value = before + by;
    if (Number(this.slider.value) === before) return false;
    this.show();
    return true;
  }

  listen(place) {
    place.addEventListener("keydown", (event) => {
      if (event.target === this.slider) return;
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (by) { event.preventDefault(); this.step(by); }
    });
    // At the first and the last slice the wheel moves the page again.
    place.querySelector(".panels").addEventListener("wheel", (event) => {
      if (event.deltaY && this.step(Math.sign(event.deltaY))) event.preventDefault();
    }, { passive: false });
  }

  async show() {
    const turn = ++this.turn;
    const { pictures, slices, side } = this.viewing;
    const position = Number(this.slider.value);
    this.root.querySelector(".viewer-slice").textContent = `slice ${pictures[position].at} of ${slices}`;
    this.slider.setAttribute("aria-valuetext", `slice ${pictures[position].at} of ${slices}`);
    this.root.querySelector(".profile .here")?.setAttribute("x", position);
    const slice = await loadSlice(pictures[position], side);
    if (turn !== this.turn) return; // a later one has been asked for meanwhile
    for (const canvas of this.root.querySelectorAll(".panel")) drawSlice(canvas, slice, canvas.dataset.panel, 480);
    this.root.dataset.shown = `${this.index}:${position}`;
  }

  drawProfile() {
    const { pictures } = this.viewing;
    const most = Math.max(1, ...pictures.flatMap((picture) => [picture.true, picture.predicted]));
    const chart = svgElement("svg", { viewBox: `0 0 ${pictures.length} 44`, preserveAspectRatio: "none" });
    chart.append(svgElement("rect", { class: "here", x: 0, y: 0, width: 1, height: 44 }));
    pictures.forEach((picture, index) => {
      const up = 21 * picture.true / most, down = 21 * picture.predicted / most;
      chart.append(svgElement("rect", { class: "true", x: index + 0.12, y: 21.5 - up, width: 0.76, height: up }));
      chart.append(svgElement("rect", { class: "predicted", x: index + 0.12, y: 22.5, width: 0.76, height: down }));
    });
    this.root.querySelector(".profile").replaceChildren(chart);
  }

  drawCards() {
    const draw = async (card) => {
      const viewing = this.viewings[Number(card.dataset.index)];
      drawSlice(card.querySelector("canvas"), await loadSlice(viewing.pictures[viewing.telling], viewing.side), "difference", 240);
    };
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((entry) => entry.isIntersecting)) { seen.unobserve(entry.target); draw(entry.target); }
    }, { rootMargin: "600px" });
    this.cards.forEach((card) => seen.observe(card));
    window.addEventListener("beforeprint", () => this.cards.forEach(draw));
  }
}

const viewer = document.getElementById("viewer");
if (viewer) {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  new Viewer(viewer, read("viewings"), read("viewing-words"));
}
