// Data of the page: a description in JSON, and arrays that are compressed and written in base64.

const byId = (id) => document.getElementById(id);
const ARRAYS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function unpacked(name) {
  const element = byId(`array-${name}`);
  const packed = new Blob([fromBase64(element.textContent)]);
  element.remove(); // frees the text
  return new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

async function readData() {
  const data = JSON.parse(byId("meta").textContent);
  data.positions = new Uint16Array(await unpacked("positions"));
  data.rows = byId("array-rows") ? new Uint32Array(await unpacked("rows")) : null;
  for (const column of data.columns) column.codes = new ARRAYS[column.bytes](await unpacked(column.array));
  data.nameBytes = byId("array-names") ? await unpacked("names") : null;
  data.names = null;
  data.width = data.height = 1;
  for (let i = 0; i < data.cells; i++) {
    if (data.positions[2 * i] > data.width) data.width = data.positions[2 * i];
    if (data.positions[2 * i + 1] > data.height) data.height = data.positions[2 * i + 1];
  }
  return data;
}

// Names are decoded on first use, as few readers look at single cells.
function namesOf(data) {
  if (data.names === null) {
    data.names = data.nameBytes ? new TextDecoder().decode(data.nameBytes).split("\n") : [];
    data.nameBytes = null;
  }
  return data.names;
}

function nameOf(data, cell) {
  const names = namesOf(data);
  return names.length ? names[cell] : `Cell ${(data.rows ? data.rows[cell] : cell) + 1}`;
}

// Number of a cell in a column of numbers; null for a missing number.
function numberOf(column, cell) {
  const top = column.bytes === 1 ? 254 : 65534;
  const step = column.codes[cell];
  return step > top ? null : column.least + (step / top) * (column.largest - column.least);
}

function shown(number) {
  if (number === null) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return number.toExponential(2);
  return size >= 100 ? Math.round(number).toLocaleString("en") : String(Number(number.toPrecision(3)));
}

const counted = (number) => number.toLocaleString("en");
const cellsOf = (number) => `${counted(number)} ${number === 1 ? "cell" : "cells"}`;

function percentage(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "<0.1%";
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)}%`;
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
