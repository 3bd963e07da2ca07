// Controls around the map.

function dot(code) {
  const element = make("span", { className: "dot" });
  element.style.backgroundColor = code;
  element.setAttribute("aria-hidden", "true");
  return element;
}

function announce(text) {
  byId("map-message").textContent = text;
  byId("map-message").hidden = !text;
}

class Legend {
  constructor(map, onChange) {
    Object.assign(this, { map, onChange });
  }

  show() {
    const { column } = this.map;
    byId("legend-title").replaceChildren(make("bdi", { textContent: column.name }));
    this.hint = make("p", { className: "hint", textContent: "Press Enter to search all labels and cells.", hidden: true });
    byId("legend").replaceChildren(column.kind === "categories" ? this.list(column) : this.ramp(column), this.hint);
  }

  list(column) {
    const list = make("ul");
    column.values.forEach((value, code) => {
      if (!column.counts[code]) return;
      const name = make("span", { className: "value", title: value }, make("bdi", { textContent: value }));
      const count = make("span", { className: "count", textContent: counted(column.counts[code]) });
      const button = make("button", { type: "button" }, dot(column.colors[code]), name, count);
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-label", `${value}, ${cellsOf(column.counts[code])}`);
      button.addEventListener("click", () => this.toggle(code, button));
      const item = make("li", {}, button);
      item.dataset.code = code;
      list.append(item);
    });
    return list;
  }

  toggle(code, button) {
    const { chosen } = this.map;
    if (chosen.has(code)) chosen.delete(code);
    else chosen.add(code);
    button.setAttribute("aria-pressed", String(chosen.has(code)));
    this.map.selected = null;
    this.map.recolor();
    this.onChange();
  }

  ramp(column) {
    const canvas = make("canvas", { width: 256, height: 1 });
    const context = canvas.getContext("2d");
    for (let step = 0; step < 256; step++) {
      context.fillStyle = `rgb(${rampColor(step / 255).join(",")})`;
      context.fillRect(step, 0, 1, 1);
    }
    const [low, high] = [shown(column.low), shown(column.high)];
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Colours from ${low} (dark blue) to ${high} (yellow)`);
    const ticks = make("div", { className: "ticks" }, make("span", { textContent: low }), make("span", { textContent: high }));
    const text = column.name === "Confidence" ? "Grey: Unknown cells, which have no confidence." : "Grey: no number.";
    return make("div", {}, canvas, ticks, make("p", { className: "hint", textContent: text }));
  }

  // A column has a value with cells that contains a text.
  has(column, text) {
    const wanted = text.toLocaleLowerCase();
    return column.values.some((value, code) => column.counts[code] && value.toLocaleLowerCase().includes(wanted));
  }

  // Show only the values that contain a text; return the buttons that are left.
  filter(text) {
    const wanted = text.trim().toLocaleLowerCase();
    const items = [...byId("legend").querySelectorAll("li")];
    const left = items.filter((item) => {
      const value = this.map.column.values[Number(item.dataset.code)];
      item.hidden = !value.toLocaleLowerCase().includes(wanted);
      return !item.hidden;
    });
    this.hint.hidden = !wanted || left.length > 0;
    return left;
  }
}

class Tooltip {
  constructor(map) {
    this.map = map;
    this.element = byId("tooltip");
    this.cell = -1;
  }

  facts(cell) {
    const { data, column: current } = this.map;
    const label = data.columns[0].values[data.columns[0].codes[cell]];
    const facts = [];
    data.columns.forEach((column, number) => {
      if (number >= data.own + 8 && column !== current) return;
      const value = column.kind === "categories" ? column.values[column.codes[cell]] : numberOf(column, cell);
      if (value === null || (number > 0 && column.labels && value === label && column !== current)) return;
      facts.push([column.name, typeof value === "number" ? shown(value) : value]);
    });
    return facts;
  }

  show(cell) {
    if (cell === this.cell) return;
    this.cell = cell;
    this.element.hidden = cell < 0;
    if (cell < 0) return;
    const list = make("dl");
    for (const [name, value] of this.facts(cell)) {
      list.append(make("dt", {}, make("bdi", { textContent: name })), make("dd", {}, make("bdi", { textContent: value })));
    }
    this.element.replaceChildren(make("b", {}, make("bdi", { textContent: nameOf(this.map.data, cell) })), list);
    const [x, y] = this.map.screen(cell);
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const left = x + 14 + width > this.map.width ? x - 14 - width : x + 14;
    const top = y + 14 + height > this.map.height ? y - 14 - height : y + 14;
    this.element.style.transform = `translate(${Math.max(2, Math.min(left, this.map.width - width - 2))}px, ${Math.max(2, top)}px)`;
  }
}

function showSelection(map) {
  const panel = byId("selection");
  panel.hidden = !map.selected;
  if (!map.selected) return;
  const columns = [map.data.columns[0]];
  if (map.column.kind === "categories" && map.column !== columns[0]) columns.push(map.column);
  const total = map.selected.reduce((sum, one) => sum + one, 0);
  const clear = make("button", { type: "button", textContent: "Clear" });
  clear.addEventListener("click", () => {
    map.clear();
    showSelection(map);
    map.canvas.focus();
  });
  const head = make("div", { className: "head" }, make("h3", { textContent: `${cellsOf(total)} selected` }), clear);
  const tables = columns.map((column) => {
    const counts = map.selectedCounts(column);
    const rows = [...counts.keys()].filter((code) => counts[code]).sort((one, other) => counts[other] - counts[one]);
    const names = make("tr", {}, make("th", { scope: "col" }, make("bdi", { textContent: column.name })));
    for (const title of ["Cells", "Share"]) names.append(make("th", { scope: "col", className: "number", textContent: title }));
    const body = rows.map((code) => {
      const value = make("th", { scope: "row" }, dot(column.colors[code]), make("bdi", { textContent: column.values[code] }));
      const cells = make("td", { className: "number", textContent: counted(counts[code]) });
      return make("tr", {}, value, cells, make("td", { className: "number", textContent: percentage(counts[code] / total) }));
    });
    return make("table", {}, make("thead", {}, names), make("tbody", {}, ...body));
  });
  panel.replaceChildren(head, ...tables);
}

function followPointer(map, tooltip) {
  const { canvas } = map;
  const polygon = byId("outline").firstElementChild;
  const fingers = new Map();
  let [outline, moved, apart] = [null, false, 0];
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    moved = false;
    tooltip.show(-1);
    if (fingers.size === 1 && (canvas.classList.contains("lasso") || event.shiftKey)) outline = [at(event)];
    canvas.classList.toggle("moving", !outline);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const before = fingers.get(event.pointerId);
    if (!before) {
      tooltip.show(map.nearest(x, y));
      return;
    }
    if (Math.hypot(x - before[0], y - before[1]) < (moved ? 0 : 3)) return;
    moved = true;
    fingers.set(event.pointerId, [x, y]);
    if (outline) {
      outline.push([x, y]);
      polygon.setAttribute("points", outline.map((point) => point.join(",")).join(" "));
    } else if (fingers.size === 1) {
      map.pan(x - before[0], y - before[1]);
    } else {
      const [one, other] = [...fingers.values()];
      const distance = Math.hypot(one[0] - other[0], one[1] - other[1]);
      if (apart) map.zoom(distance / apart, (one[0] + other[0]) / 2, (one[1] + other[1]) / 2);
      apart = distance;
    }
  });
  const end = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    apart = 0;
    canvas.classList.remove("moving");
    polygon.setAttribute("points", "");
    if (outline && event.type === "pointerup" && outline.length > 2) {
      announce(map.select(outline) ? "" : "No cell lies within the outline.");
      showSelection(map);
    } else if (!moved && event.type === "pointerup") {
      tooltip.show(map.nearest(...at(event)));
    }
    outline = null;
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", (event) => {
    // A finger leaves after each tap, and the facts stay.
    if (event.pointerType !== "touch") tooltip.show(-1);
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      // Without Ctrl or focus the wheel scrolls the page.
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
      event.preventDefault();
      map.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002) * (event.ctrlKey ? 3 : 1)), ...at(event));
    },
    { passive: false },
  );
}

function selectView(map) {
  announce(map.select(null) ? "" : "No cell is in view.");
  showSelection(map);
}

function clearAll(map) {
  map.chosen.clear();
  for (const button of byId("legend").querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
  map.clear();
  showSelection(map);
  byId("ring").hidden = true;
  map.onDraw = null;
}

function followKeys(map) {
  const step = 60;
  const actions = new Map([
    ["ArrowLeft", () => map.pan(step, 0)],
    ["ArrowRight", () => map.pan(-step, 0)],
    ["ArrowUp", () => map.pan(0, step)],
    ["ArrowDown", () => map.pan(0, -step)],
    ["+", () => map.zoom(1.4)],
    ["=", () => map.zoom(1.4)],
    ["-", () => map.zoom(1 / 1.4)],
    ["0", () => map.reset()],
    ["Enter", () => selectView(map)],
    ["Escape", () => clearAll(map)],
  ]);
  map.canvas.addEventListener("keydown", (event) => {
    const action = actions.get(event.key);
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
}

function follow(map, legend, tooltip) {
  const select = byId("color-by");
  const groups = [make("optgroup", { label: "SpikGPT" }), make("optgroup", { label: "Query" })];
  map.data.columns.forEach((column, number) => {
    groups[number < map.data.own ? 0 : 1].append(make("option", { value: String(number), textContent: column.name }));
  });
  select.append(...groups.filter((group) => group.children.length));
  const find = byId("find");
  const colorBy = (column) => {
    map.setColumn(column);
    find.value = "";
    legend.show();
    if (map.selected) showSelection(map);
  };
  select.addEventListener("change", () => colorBy(map.data.columns[Number(select.value)]));
  const lasso = byId("lasso");
  lasso.addEventListener("click", () => {
    const on = map.canvas.classList.toggle("lasso");
    lasso.setAttribute("aria-pressed", String(on));
  });
  byId("select-view").addEventListener("click", () => selectView(map));
  byId("zoom-in").addEventListener("click", () => map.zoom(1.4));
  byId("zoom-out").addEventListener("click", () => map.zoom(1 / 1.4));
  byId("reset").addEventListener("click", () => map.reset());
  find.addEventListener("input", () => {
    announce("");
    legend.filter(find.value);
  });
  find.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !find.value.trim()) return;
    announce("");
    const wanted = find.value.trim();
    let [first] = legend.filter(wanted);
    const other = first ? null : map.data.columns.find((column) => column.labels && legend.has(column, wanted));
    if (other) {
      select.value = String(map.data.columns.indexOf(other));
      colorBy(other);
      find.value = wanted;
      [first] = legend.filter(wanted);
    }
    if (first) {
      first.firstElementChild.click();
      return;
    }
    const names = namesOf(map.data);
    let cell = names.indexOf(wanted);
    if (cell < 0) cell = names.findIndex((name) => name.includes(wanted));
    announce(cell < 0 ? "No label and no cell has this name." : "");
    if (cell < 0) return;
    map.found = cell;
    map.show(cell);
    tooltip.show(-1);
    map.onDraw = () => {
      const [x, y] = map.screen(cell);
      byId("ring").hidden = false;
      byId("ring").style.left = `${x}px`;
      byId("ring").style.top = `${y}px`;
      if (map.found === cell) tooltip.show(cell);
      map.found = -1;
    };
  });
}

async function start() {
  if (!window.DecompressionStream) {
    announce("The map needs a browser of 2023 or newer. All other parts of this report are complete.");
    return;
  }
  const data = await readData();
  byId("map-app").hidden = false;
  let canvas = byId("canvas");
  let renderer = null;
  try {
    renderer = WebGLPoints.on(canvas);
  } catch {
    // A canvas that WebGL holds gives no other context.
    const fresh = canvas.cloneNode();
    canvas.replaceWith(fresh);
    canvas = fresh;
  }
  if (!renderer) {
    announce("This browser offers no WebGL, so the map is drawn without it. All functions work; large maps move slowly.");
    renderer = CanvasPoints.on(canvas);
  }
  const map = new CellMap(data, canvas, renderer, new MapNames(byId("map-labels")));
  canvas.addEventListener("webglcontextlost", (event) => {
    event.preventDefault();
    announce("The graphics of the browser were reset. Reload the page to see the map.");
  });
  const tooltip = new Tooltip(map);
  const legend = new Legend(map, () => showSelection(map));
  map.resize();
  map.setColumn(data.columns[0]);
  legend.show();
  follow(map, legend, tooltip);
  followPointer(map, tooltip);
  followKeys(map);
  new ResizeObserver(() => map.resize()).observe(byId("stage"));
}

start();
