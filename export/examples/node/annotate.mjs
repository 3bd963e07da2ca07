// Labels the cells of a CSV file: node annotate.mjs REFERENCE_FOLDER COUNTS.csv LABELS.csv
//
// The first row of COUNTS.csv names the genes (symbols or Ensembl ids) after an empty field; each further row is a cell:
// its name, then its raw counts. Nothing of SpikGPT is used but the files of the reference and export/README.md.

import { createReadStream, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { InferenceSession, Tensor } from "onnxruntime-node";

const BATCH = 512;
const [folder, input, output] = process.argv.slice(2);
if (!output) {
  console.error("Usage: node annotate.mjs REFERENCE_FOLDER COUNTS.csv LABELS.csv");
  process.exit(2);
}

const read = (name) => JSON.parse(readFileSync(join(folder, name), "utf8"));
const labels = read("labels.json").map((row) => row.name);
const genes = read("genes.json");

// Alignment: a column belongs to the gene whose symbol or Ensembl id, without its version, it bears.
const places = new Map();
genes.symbols.forEach((symbol, gene) => places.set(symbol, gene));
genes.ensembl_ids.forEach((id, gene) => id && !places.has(id) && places.set(id, gene));
const placeOf = (name) => places.get(name) ?? places.get(name.replace(/^(ENSG\d{11})\.\d+$/, "$1")) ?? -1;

// 3: errors alone; that inputs with a default can be overridden is no cause for a warning.
const session = await InferenceSession.create(join(folder, "onnx", "model.onnx"), { logSeverityLevel: 3 });
const nGenes = genes.symbols.length;
const found = new Float32Array(nGenes);
const lines = [["cell", "label", "best_label", "confidence"].join(",")];
let columns = null;
let names = [];
let counts = new Float32Array(BATCH * nGenes);
let totals = new Float32Array(BATCH);

async function flush() {
  const cells = names.length;
  if (!cells) return;
  const result = await session.run({
    counts: new Tensor("float32", counts.subarray(0, cells * nGenes), [cells, nGenes]),
    total: new Tensor("float32", totals.subarray(0, cells), [cells]),
    found: new Tensor("float32", found, [nGenes]),
  });
  for (let cell = 0; cell < cells; cell++) {
    const label = Number(result.label.data[cell]);
    const best = totals[cell] > 0 ? labels[Number(result.best_label.data[cell])] : "Unknown";
    lines.push([names[cell], label < 0 ? "Unknown" : labels[label], best, result.confidence.data[cell]].join(","));
  }
  names = [];
  counts.fill(0);
  totals.fill(0);
}

for await (const line of createInterface({ input: createReadStream(input) })) {
  const [name, ...fields] = line.split(",");
  if (!columns) {
    columns = fields.map(placeOf);
    columns.forEach((gene) => gene >= 0 && (found[gene] = 1));
    const share = found.reduce((sum, one) => sum + one, 0);
    if (share < Math.min(nGenes, Math.max(50, Math.ceil(0.1 * nGenes)))) {
      console.error(`Found ${share} of the reference's ${nGenes} genes in ${input}; it needs human gene symbols or Ensembl ids.`);
      process.exit(2);
    }
    continue;
  }
  const cell = names.length;
  fields.forEach((field, column) => {
    const count = Number(field);
    totals[cell] += count;
    if (columns[column] >= 0) counts[cell * nGenes + columns[column]] += count;
  });
  names.push(name);
  if (names.length === BATCH) await flush();
}
await flush();
writeFileSync(`${output}.part`, lines.join("\n") + "\n");
renameSync(`${output}.part`, output);
