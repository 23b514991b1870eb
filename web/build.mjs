// Bundles the page's script and style, with the licences of all libraries in them, into the folder that is its argument.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2];
if (!out) throw new Error("usage: node build.mjs FOLDER");

const result = await build({
  absWorkingDir: root, entryPoints: [join(root, "src/main.js")], bundle: true, minify: true, write: false, outdir: "out",
  format: "iife", target: ["chrome100", "firefox113", "safari16.4"], metafile: true, legalComments: "none", charset: "ascii",
  logLevel: "warning", conditions: ["style"],
});
const text = (suffix) => result.outputFiles.find((file) => file.path.endsWith(suffix)).text.trim();
const script = text(".js"), style = text(".css");
// What would end the element that holds it, or open a comment in it, has no place in either.
for (const bundle of [script, style]) {
  if (/<\/?(script|style)|<!--/i.test(bundle)) throw new Error("the bundle cannot stand inside of an HTML element");
}

const packages = new Set();
for (const input of Object.keys(result.metafile.inputs)) {
  const match = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
  if (match) packages.add(match[1]);
}
const licences = [...packages].sort().map((name) => {
  const folder = join(root, "node_modules", name);
  const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((each) => /^(licen[cs]e|copying)/i.test(each));
  const words = file ? readFileSync(join(folder, file), "utf8").trim() : `Licence: ${about.license}`;
  return `${name} ${about.version} (${about.license})\n\n${words}\n`;
});

if (!existsSync(out)) mkdirSync(out, { recursive: true });
for (const [name, content] of [["page.css", style], ["licences.txt", licences.join("\n\n")], ["page.js", script]]) {
  writeFileSync(join(out, `${name}.part`), content);
  renameSync(join(out, `${name}.part`), join(out, name));
}
