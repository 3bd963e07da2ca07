// Names on the map: each at the densest place of its cells, and never over another name.

const GRID = 56;
// Rounds in which a name moves to the middle of the cells around it, and their reach as a share of the map.
const ROUNDS = 4;
const AROUND = 0.12;
const LONGEST_NAME = 26;
const MOST_NAMES = 200;
// Largest share of the map that names may cover; the rest appears on zooming in.
const MOST_COVERED = 0.14;

// Middle of the densest group of each value of a column, or null for a value without cells: [{ x, y, cells }].
function densestPlaces(data, column) {
  const size = column.values.length;
  const counts = new Uint32Array(size * GRID * GRID);
  const width = (data.width + 1) / GRID;
  const height = (data.height + 1) / GRID;
  const span = Math.max(width, height);
  for (let i = 0; i < data.cells; i++) {
    const column_ = Math.floor(data.positions[2 * i] / span);
    const row = Math.floor(data.positions[2 * i + 1] / span);
    counts[(column.codes[i] * GRID + row) * GRID + column_]++;
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
  let places = column.values.map((_, value) => ({ x: ((best[value] % GRID) + 0.5) * span, y: (Math.floor(best[value] / GRID) + 0.5) * span }));
  for (let round = 0; round < ROUNDS; round++) places = centred(data, column, places);
  return places.map((place, value) => (column.counts[value] ? { ...place, cells: column.counts[value] } : null));
}

// Mean position of the cells around each place.
function centred(data, column, places) {
  const reach = AROUND * Math.max(data.width, data.height);
  const sums = places.map(() => [0, 0, 0]);
  for (let i = 0; i < data.cells; i++) {
    const place = places[column.codes[i]];
    const [x, y] = [data.positions[2 * i], data.positions[2 * i + 1]];
    if (Math.abs(x - place.x) > reach || Math.abs(y - place.y) > reach) continue;
    const sum = sums[column.codes[i]];
    sum[0]++;
    sum[1] += x;
    sum[2] += y;
  }
  return places.map((place, value) => {
    const [cells, x, y] = sums[value];
    return cells ? { x: x / cells, y: y / cells } : place;
  });
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
      name.width = Math.ceil(name.element.offsetWidth) + 6;
      name.height = Math.ceil(name.element.offsetHeight) + 2;
    }
  }

  // Put each name where it covers no other; a name without room is not shown.
  place(view, width, height, isBright) {
    const boxes = [];
    let covered = 0;
    for (const name of this.names) {
      const x = width / 2 + (name.x - view.x) * view.zoom;
      const y = height / 2 - (name.y - view.y) * view.zoom;
      let chosen = null;
      const fits = covered + name.width * name.height <= MOST_COVERED * width * height;
      if (fits && isBright(name.value) && x > 0 && y > 0 && x < width && y < height) {
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
      covered += name.width * name.height;
      name.element.style.transform = `translate(${Math.round(chosen[0] + 3)}px, ${Math.round(chosen[1] + 1)}px)`;
    }
  }
}
