// llama.cpp as node-llama-cpp ships it, driven the way run.py drives the others: node llama_prebuilt.mjs FOLDER GGUF PROMPT GENERATED
// FOLDER has node_modules with node-llama-cpp.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import os from "node:os";

const [folder, gguf, prompt, generated] = process.argv.slice(2);
const entry = createRequire(pathToFileURL(folder + "/x.js")).resolve("node-llama-cpp");
const {getLlama} = await import(pathToFileURL(entry));
const start = performance.now();
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: gguf});
const context = await model.createContext({contextSize: Number(prompt) + Number(generated) + 8, batchSize: Number(prompt), threads: os.cpus().length});
const sequence = context.getSequence();
const ids = Array.from({length: Number(prompt)}, (_, i) => 100 + (i * 7919) % 40000);
let last = performance.now(), load, prefill, count = 0;
for await (const _ of sequence.evaluate([ids[0]], {temperature: 0, yieldEogToken: true})) break;
load = (performance.now() - start) / 1000;
await sequence.clearHistory();
last = performance.now();
for await (const _ of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
    if (count === 0) {
        prefill = Number(prompt) / ((performance.now() - last) / 1000);
        last = performance.now();
    }
    if (++count > Number(generated)) break;
}
const decode = Number(generated) / ((performance.now() - last) / 1000);
console.log(JSON.stringify({prefill, decode, load}));
process.exit(0);
