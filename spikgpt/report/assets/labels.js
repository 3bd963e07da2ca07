// Names on the map: each at the densest place of its cells, and never over another name.

const GRID = 56;
const LONGEST_NAME = 26;
const MOST_NAMES = 150;

// Densest place of each value of a column, or null for a value without cells: [{ x, y, cells }].
function densestPlaces(data, column) {
  const size = column.values.length;
  const counts = new Uint32Array(size * GRID * GRID);
  const width = (data.width + 1) / GRID;
  const height = (data.height + 1) / GRID;
  const span = Math.max(width, height);
  const bin = new Uint16Array(data.cells);
  for (let i = 0; i < data.cells; i++) {
    const column_ = Math.floor(data.positions[2 * i] / span);
    const row = Math.floor(data.positions[2 * i + 1] / span);
    bin[i] = row * GRID + column_;
    counts[column.codes[i] * GRID * GRID + bin[i]]++;
  }
  const best = new Int32Array(size).fill(-1);
  for (let value = 0; value < size; value++) {
    let most = 0;
    const start = value * GRID * GRID;
    for (let row = 0; row < GRID; row++) {
      for (let at = 0; at < GRID; at++) {
        if (!counts[start + row * GRID + at]) continue;
        let cells = 0;
        for (let r = Math.max(0, row - 1); r <= Math.min(GRID - 1, row + 1); r++) {
          for (let c = Math.max(0, at - 1); c <= Math.min(GRID - 1, at + 1); c++) {
            cells += counts[start + r * GRID + c] * (r === row && c === at ? 2 : 1);
          }
        }
        if (cells > most) {
          most = cells;
          best[value] = row * GRID + at;
        }
      }
    }
  }
  const places = column.values.map(() => ({ x: 0, y: 0, cells: 0 }));
  for (let i = 0; i < data.cells; i++) {
    const value = column.codes[i];
    const apart = Math.abs((bin[i] % GRID) - (best[value] % GRID));
    if (apart > 1 || Math.abs(Math.floor(bin[i] / GRID) - Math.floor(best[value] / GRID)) > 1) continue;
    const place = places[value];
    place.cells++;
    place.x += (data.positions[2 * i] - place.x) / place.cells;
    place.y += (data.positions[2 * i + 1] - place.y) / place.cells;
  }
  return places.map((place, value) => (place.cells ? { ...place, cells: column.counts[value] } : null));
}

class MapNames {
  constructor(layer) {
    this.layer = layer;
    this.names = [];
  }

  // Show the names of a column of categories, the largest first; none for other columns.
  set(data, column, isGrey) {
    this.layer.replaceChildren();
    this.names = [];
    if (column.kind !== "categories" || column.values.length > MOST_NAMES) return;
    densestPlaces(data, column).forEach((place, value) => {
      if (!place || isGrey(value)) return;
      const text = column.values[value];
      const short = text.length > LONGEST_NAME ? `${text.slice(0, LONGEST_NAME - 1)}…` : text;
      const element = make("span", {}, make("bdi", { textContent: short }));
      this.layer.append(element);
      this.names.push({ element, value, ...place });
    });
    this.names.sort((one, other) => other.cells - one.cells);
    for (const name of this.names) {
      name.width = Math.ceil(name.element.offsetWidth) + 4;
      name.height = Math.ceil(name.element.offsetHeight);
    }
  }

  // Put each name where it covers no other; a name without room is not shown.
  place(view, width, height, isBright) {
    const boxes = [];
    for (const name of this.names) {
      const x = width / 2 + (name.x - view.x) * view.zoom;
      const y = height / 2 - (name.y - view.y) * view.zoom;
      let chosen = null;
      if (isBright(name.value) && x > 0 && y > 0 && x < width && y < height) {
        for (const [dx, dy] of [[0, 0], [0, -1], [0, 1], [0.5, 0], [-0.5, 0], [0.4, -1], [-0.4, -1], [0.4, 1], [-0.4, 1]]) {
          const left = Math.min(Math.max(x + dx * name.width - name.width / 2, 2), width - name.width - 2);
          const top = Math.min(Math.max(y + dy * name.height - name.height / 2, 2), height - name.height - 2);
          const box = [left, top, left + name.width, top + name.height];
          if (left >= 0 && boxes.every((other) => box[0] >= other[2] || other[0] >= box[2] || box[1] >= other[3] || other[1] >= box[3])) {
            chosen = box;
            break;
          }
        }
      }
      name.element.style.visibility = chosen ? "visible" : "hidden";
      if (!chosen) continue;
      boxes.push(chosen);
      name.element.style.transform = `translate(${Math.round(chosen[0] + 2)}px, ${Math.round(chosen[1])}px)`;
    }
  }
}
