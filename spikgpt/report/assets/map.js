// The map: colours, view, nearest cell, and selections.

const GREY = [176, 176, 176];
// Dark blue to yellow, even in lightness and safe for colour-blind readers (viridis).
const RAMP = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const REACH = 10;
const PALE = 0.1;
// Cells of a draft, milliseconds of a frame above which moves are drawn as drafts, and pause before the whole picture.
const DRAFT = 150000;
const LONGEST_FRAME = 100;
const PAUSE = 200;

const rgb = (code) => [1, 3, 5].map((at) => parseInt(code.slice(at, at + 2), 16));

function rampColor(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  const [one, other] = [rgb(RAMP[low]), rgb(RAMP[low + 1])];
  return one.map((value, band) => Math.round(value + (at - low) * (other[band] - value)));
}

// Red, green and blue of each code of a column, grey for codes of missing numbers.
function colorTable(column) {
  if (column.kind === "categories") return Uint8Array.from(column.colors.flatMap(rgb));
  const top = column.bytes === 1 ? 254 : 65534;
  const table = new Uint8Array(3 * (top + 2));
  const span = column.high - column.low || 1;
  const shades = Array.from({ length: 256 }, (_, step) => rampColor(step / 255));
  for (let step = 0; step <= top; step++) {
    const value = column.least + (step / top) * (column.largest - column.least);
    table.set(shades[Math.min(Math.max(Math.round((255 * (value - column.low)) / span), 0), 255)], 3 * step);
  }
  table.set(GREY, 3 * (top + 1));
  return table;
}

class CellMap {
  constructor(data, canvas, renderer, names) {
    Object.assign(this, { data, canvas, renderer, names });
    this.chosen = new Set(); // values of the column that stand out
    this.selected = null; // 1 for each selected cell
    this.column = data.columns[0];
    this.colors = new Uint8Array(4 * data.cells);
    this.shuffled = this.shuffle();
    this.order = new Uint32Array(data.cells);
    this.pending = false;
    renderer.setPositions(data.positions);
    this.index();
  }

  // Draw the cells in a mixed order, the same at every visit, so that no group hides another.
  shuffle() {
    const order = Uint32Array.from({ length: this.data.cells }, (_, i) => i);
    let state = 42;
    for (let i = order.length - 1; i > 0; i--) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const other = Math.floor((state / 4294967296) * (i + 1));
      [order[i], order[other]] = [order[other], order[i]];
    }
    return order;
  }

  // Sort the cells into a grid, to find the nearest cell fast.
  index() {
    const { data } = this;
    this.side = Math.min(512, Math.max(8, Math.round(Math.sqrt(data.cells / 4))));
    this.step = (Math.max(data.width, data.height) + 1) / this.side;
    const bins = new Uint32Array(data.cells);
    this.starts = new Uint32Array(this.side * this.side + 1);
    for (let i = 0; i < data.cells; i++) {
      bins[i] = Math.floor(data.positions[2 * i + 1] / this.step) * this.side + Math.floor(data.positions[2 * i] / this.step);
      this.starts[bins[i] + 1]++;
    }
    for (let bin = 0; bin < this.side * this.side; bin++) this.starts[bin + 1] += this.starts[bin];
    const next = this.starts.slice();
    this.sorted = new Uint32Array(data.cells);
    for (let i = 0; i < data.cells; i++) this.sorted[next[bins[i]]++] = i;
  }

  isGrey(value) {
    return this.column.kind === "categories" && this.column.colors[value] === "#b0b0b0";
  }

  isBright(value) {
    return !this.chosen.size || this.chosen.has(value);
  }

  setColumn(column) {
    this.column = column;
    this.chosen.clear();
    this.names.set(this.data, column, (value) => this.isGrey(value));
    this.recolor();
  }

  recolor() {
    const { data, colors, shuffled, order, selected, chosen } = this;
    const { codes } = this.column;
    const table = colorTable(this.column);
    const full = Math.round(255 * (data.cells > 50000 ? 0.8 : 0.9));
    const faint = Math.round(255 * PALE);
    let pale = 0;
    let bright = data.cells;
    for (let at = data.cells - 1; at >= 0; at--) {
      const cell = shuffled[at];
      const code = codes[cell];
      const stands = selected ? selected[cell] : !chosen.size || chosen.has(code);
      colors[4 * cell] = table[3 * code];
      colors[4 * cell + 1] = table[3 * code + 1];
      colors[4 * cell + 2] = table[3 * code + 2];
      colors[4 * cell + 3] = stands ? full : faint;
      if (stands) order[--bright] = cell;
      else order[pale++] = cell;
    }
    this.renderer.setColors(colors, order);
    this.draw();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    const first = this.width === undefined;
    const zoomed = !first && this.view.zoom !== this.whole;
    [this.width, this.height] = [clientWidth, clientHeight];
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(clientWidth * this.ratio);
    this.canvas.height = Math.round(clientHeight * this.ratio);
    this.whole = Math.min(clientWidth / (1.1 * this.data.width), clientHeight / (1.1 * this.data.height));
    if (!zoomed) this.reset();
    this.draw();
  }

  reset() {
    this.view = { x: this.data.width / 2, y: this.data.height / 2, zoom: this.whole };
    this.draw();
  }

  get radius() {
    const usual = Math.sqrt((0.07 * this.width * this.height) / (Math.PI * this.data.cells));
    const least = this.data.cells < 5000 ? 2.2 : this.data.cells < 200000 ? 1.1 : 0.8;
    return Math.min(Math.min(Math.max(usual, least), 4) * (this.view.zoom / this.whole) ** 0.45, 9);
  }

  // Draw at the next frame. A draft of a move has fewer cells where a whole picture takes long.
  draw(draft = false) {
    this.draft = draft && (this.draft || !this.pending);
    if (this.pending || this.width === undefined) return;
    this.pending = true;
    requestAnimationFrame((start) => {
      this.pending = false;
      clearTimeout(this.later);
      const few = this.draft && this.slow;
      this.renderer.draw(this.view, this.width, this.height, this.ratio, this.radius, few ? DRAFT : this.data.cells);
      if (few) this.later = setTimeout(() => this.draw(), PAUSE);
      else if (this.data.cells > DRAFT) requestAnimationFrame((end) => (this.slow = end - start > LONGEST_FRAME));
      this.names.place(this.view, this.width, this.height, (value) => this.isBright(value));
      this.canvas.dataset.drawn = this.renderer.name;
      if (this.onDraw) this.onDraw();
    });
  }

  pan(dx, dy) {
    this.view.x -= dx / this.view.zoom;
    this.view.y += dy / this.view.zoom;
    this.keepInside();
    this.draw(true);
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const zoom = Math.min(Math.max(this.view.zoom * factor, this.whole / 2), this.whole * 400);
    const [left, top] = [(x - this.width / 2) / this.view.zoom, (y - this.height / 2) / this.view.zoom];
    const change = 1 - this.view.zoom / zoom;
    this.view.x += left * change;
    this.view.y -= top * change;
    this.view.zoom = zoom;
    this.keepInside();
    this.draw(true);
  }

  keepInside() {
    this.view.x = Math.min(Math.max(this.view.x, 0), this.data.width);
    this.view.y = Math.min(Math.max(this.view.y, 0), this.data.height);
  }

  screen(cell) {
    return [
      this.width / 2 + (this.data.positions[2 * cell] - this.view.x) * this.view.zoom,
      this.height / 2 - (this.data.positions[2 * cell + 1] - this.view.y) * this.view.zoom,
    ];
  }

  show(cell) {
    this.view = { x: this.data.positions[2 * cell], y: this.data.positions[2 * cell + 1], zoom: Math.max(this.view.zoom, 6 * this.whole) };
    this.draw();
  }

  // Cell nearest to a point of the canvas, within reach of the pointer; -1 for none.
  nearest(x, y) {
    const { data, view } = this;
    const cx = view.x + (x - this.width / 2) / view.zoom;
    const cy = view.y - (y - this.height / 2) / view.zoom;
    const reach = REACH / view.zoom;
    const bound = (value) => Math.min(Math.max(Math.floor(value / this.step), 0), this.side - 1);
    let [best, least] = [-1, reach * reach];
    for (let row = bound(cy - reach); row <= bound(cy + reach); row++) {
      const first = this.starts[row * this.side + bound(cx - reach)];
      const last = this.starts[row * this.side + bound(cx + reach) + 1];
      for (let at = first; at < last; at++) {
        const cell = this.sorted[at];
        if (!this.selected && this.chosen.size && !this.chosen.has(this.column.codes[cell])) continue;
        const [dx, dy] = [data.positions[2 * cell] - cx, data.positions[2 * cell + 1] - cy];
        const distance = dx * dx + dy * dy;
        if (distance < least) [best, least] = [cell, distance];
      }
    }
    return best;
  }

  // Select the cells within a polygon on the canvas, or all cells in view; only cells that stand out.
  select(polygon) {
    const [width, height] = [Math.ceil(this.width), Math.ceil(this.height)];
    let inside = null;
    if (polygon) {
      const context = make("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
      context.beginPath();
      for (const [x, y] of polygon) context.lineTo(x, y);
      context.fill();
      inside = context.getImageData(0, 0, width, height).data;
    }
    const selected = new Uint8Array(this.data.cells);
    let cells = 0;
    for (let cell = 0; cell < this.data.cells; cell++) {
      if (this.chosen.size && !this.chosen.has(this.column.codes[cell])) continue;
      const x = Math.floor(this.width / 2 + (this.data.positions[2 * cell] - this.view.x) * this.view.zoom);
      const y = Math.floor(this.height / 2 - (this.data.positions[2 * cell + 1] - this.view.y) * this.view.zoom);
      if (x < 0 || y < 0 || x >= width || y >= height) continue;
      if (inside && inside[4 * (y * width + x) + 3] < 128) continue;
      selected[cell] = 1;
      cells++;
    }
    this.selected = cells ? selected : null;
    this.recolor();
    return cells;
  }

  clear() {
    this.selected = null;
    this.recolor();
  }

  // Number of selected cells of each value of a column of categories.
  selectedCounts(column) {
    const counts = new Uint32Array(column.values.length);
    for (let cell = 0; cell < this.data.cells; cell++) if (this.selected[cell]) counts[column.codes[cell]]++;
    return counts;
  }
}
