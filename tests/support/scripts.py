"""Programs of interpreters that more than one test runs."""

from __future__ import annotations

NODE_WORK = """
const zlib = require('zlib'), crypto = require('crypto');
function work() {
  const text = JSON.stringify(Array.from({length: 2000}, (_, i) => ({i, s: 'x'.repeat(i % 50)})));
  zlib.gunzipSync(zlib.gzipSync(text));
  crypto.createHash('sha256').update(text).digest('hex');
  JSON.parse(text).map(x => Buffer.alloc(3000, x.i));
  zlib.deflate(text, () => {});
  setImmediate(work);
}
console.log('ready');
"""
"""Defines ``work()``, which goes on for ever once called."""
