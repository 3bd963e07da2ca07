// Labels the cells of a CSV file: node annotate.mjs REFERENCE_FOLDER COUNTS.csv LABELS.csv
//
// The first row of COUNTS.csv has an empty field and the genes (symbols or Ensembl ids). Each further row has the name of a
// cell and its raw counts. The script needs only the files of the reference; export/README.md describes them.

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

// Alignment: match each column with the gene of the same symbol, or of the same Ensembl id without its version.
const geneIndex = new Map();
genes.symbols.forEach((symbol, gene) => geneIndex.set(symbol, gene));
genes.ensembl_ids.forEach((id, gene) => id && !geneIndex.has(id) && geneIndex.set(id, gene));
const indexOf = (name) => geneIndex.get(name) ?? geneIndex.get(name.replace(/^(ENSG\d{11})\.\d+$/, "$1")) ?? -1;

// 3: log errors only, without warnings about inputs that have a default value.
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
    columns = fields.map(indexOf);
    columns.forEach((gene) => gene >= 0 && (found[gene] = 1));
    const share = found.reduce((sum, value) => sum + value, 0);
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
