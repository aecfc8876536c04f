// SPDX-License-Identifier: MIT OR Apache-2.0
// Asks Perfetto's trace processor, as the Perfetto UI ships it (WebAssembly), about a trace:
//
//     node query.mjs UI_DIRECTORY TRACE < queries.sql > answers.jsonl
//
// A query ends with a semicolon at the end of a line. Each gives one line: {"columns": [...], "rows": [[...], ...]}. The engine talks
// to the UI through a MessagePort, in `TraceProcessorRpcStream` messages of protos/perfetto/trace_processor/trace_processor.proto;
// the numbers of fields below are from there. Exit code 1: the trace or a query was refused.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createContext, runInContext } from 'node:vm';
import { MessageChannel } from 'node:worker_threads';

const APPEND = 1, FINALIZE = 2, QUERY = 3;
const CHUNK_BYTES = 1 << 20;

// Protobuf, as much as is needed.
function varint(value) {
  const bytes = [];
  for (let rest = BigInt(value); ; rest >>= 7n) {
    if (rest < 128n) return Buffer.from([...bytes, Number(rest)]);
    bytes.push(Number(rest & 127n) | 128);
  }
}
const number = (field, value) => Buffer.concat([varint(field << 3), varint(value)]);
const bytes = (field, value) => Buffer.concat([varint((field << 3) | 2), varint(value.length), value]);

class Reader {
  constructor(buffer) { this.buffer = buffer; this.at = 0; }
  get more() { return this.at < this.buffer.length; }
  varint() {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      if (!this.more) throw new RangeError('the message is cut off');
      const byte = this.buffer[this.at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  }
  take(length) {
    this.at += length;
    return this.buffer.subarray(this.at - length, this.at);
  }
  // [field, value]: a BigInt, or bytes.
  field() {
    const tag = Number(this.varint());
    switch (tag & 7) {
      case 0: return [tag >> 3, this.varint()];
      case 1: return [tag >> 3, this.take(8)];
      case 2: return [tag >> 3, this.take(Number(this.varint()))];
      case 5: return [tag >> 3, this.take(4)];
      default: throw new Error(`wire type ${tag & 7}`);
    }
  }
  static *fields(buffer) {
    const reader = new Reader(buffer);
    while (reader.more) yield reader.field();
  }
}

// The engine, which believes that it is a worker of the UI.
function engine(directory) {
  const global = {
    TextDecoder, TextEncoder, URL, performance, setTimeout, clearTimeout, setInterval, clearInterval, queueMicrotask,
    crypto: globalThis.crypto, WorkerGlobalScope: class {}, location: { href: 'https://localhost/engine_bundle.js' },
    console: { log() {}, warn() {}, error: console.error, info() {}, debug() {} },
    // All that it fetches is its WebAssembly, which is beside it.
    XMLHttpRequest: class {
      open(method, path) { this.path = path; }
      send() { this.response = readFileSync(join(directory, String(this.path).split('/').pop())); }
    },
  };
  global.self = global;
  global.globalThis = global;
  global.Uint8Array = Uint8Array;
  global.ArrayBuffer = ArrayBuffer;
  const source = readFileSync(join(directory, 'engine_bundle.js'), 'utf8');
  runInContext(source, createContext(global), { filename: 'engine_bundle.js' });
  const { port1, port2 } = new MessageChannel();
  global.onmessage({ data: port2 });
  return port1;
}

// Without the line of the bundle that threw, which is all of the bundle.
process.on('uncaughtException', (error) => {
  console.error(String(error?.stack ?? error).split('\n').map((line) => line.slice(0, 300)).join('\n'));
  process.exit(1);
});

const [directory, trace] = process.argv.slice(2);
const port = engine(directory);
let arrived = Buffer.alloc(0);
let wanted = null;
const ready = [];
port.on('message', (data) => {
  arrived = Buffer.concat([arrived, data]);
  for (;;) {
    const reader = new Reader(arrived);
    let length;
    try { reader.varint(); length = Number(reader.varint()); } catch { return; }
    if (arrived.length < reader.at + length) return;
    const message = Buffer.from(reader.take(length));
    arrived = Buffer.from(arrived.subarray(reader.at));
    if (wanted) { const resolve = wanted; wanted = null; resolve(message); } else ready.push(message);
  }
});
const next = () => ready.length ? Promise.resolve(ready.shift()) : new Promise((resolve) => { wanted = resolve; });

let sequence = 0;
function ask(method, argument) {
  const parts = [number(1, sequence++), number(2, method)];
  if (argument) parts.push(argument);
  port.postMessage(new Uint8Array(bytes(1, Buffer.concat(parts))));
}
const text = (value) => Buffer.from(value).toString('utf8');

// The reply's fields; of results that carry an error, the error is thrown.
async function reply(result) {
  const message = await next();
  let body = null;
  for (const [field, value] of Reader.fields(message)) {
    if (field === 5) throw new Error(text(value));
    if (field === 4) throw new Error('the engine does not know this request');
    if (field === result) body = value;
  }
  for (const [field, value] of body ? Reader.fields(body) : []) {
    if (field === 2 && result === 201) throw new Error(text(value));
    if (field === 2 && result === 203) throw new Error(text(value));
    if (field === 1 && result === 212) throw new Error(text(value));
  }
  return body ?? Buffer.alloc(0);
}

function* cells(batch) {
  const kinds = [], integers = [], floats = [], blobs = [], strings = [];
  for (const [field, value] of Reader.fields(batch)) {
    if (field === 1) for (const reader = new Reader(value); reader.more;) kinds.push(Number(reader.varint()));
    if (field === 2) for (const reader = new Reader(value); reader.more;) integers.push(BigInt.asIntN(64, reader.varint()));
    if (field === 3) for (let at = 0; at < value.length; at += 8) floats.push(Buffer.from(value).readDoubleLE(at));
    if (field === 4) blobs.push(text(value));
    if (field === 5) strings.push(...text(value).split('\0').slice(0, -1));
  }
  for (const kind of kinds) {
    if (kind === 1) yield null;
    else if (kind === 2) {
      const value = integers.shift();
      yield Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
    } else if (kind === 3) yield floats.shift();
    else if (kind === 4) yield strings.shift();
    else yield blobs.shift();
  }
}

async function query(sql) {
  ask(QUERY, bytes(103, bytes(1, Buffer.from(sql))));
  let columns = [];
  const flat = [];
  for (let last = false; !last;) {
    for (const [field, value] of Reader.fields(await reply(203))) {
      if (field === 1) columns.push(text(value));
      if (field === 3) {
        flat.push(...cells(value));
        last = [...Reader.fields(value)].some(([field, value]) => field === 6 && value === 1n);
      }
    }
  }
  const rows = [];
  while (flat.length) rows.push(flat.splice(0, columns.length));
  return { columns, rows };
}

const content = readFileSync(trace);
for (let at = 0; at < content.length; at += CHUNK_BYTES) {
  ask(APPEND, bytes(101, content.subarray(at, at + CHUNK_BYTES)));
  await reply(201);
}
ask(FINALIZE);
await reply(212);
for (const sql of readFileSync(0, 'utf8').split(/;\s*(?:\n|$)/).filter((sql) => sql.trim())) {
  console.log(JSON.stringify(await query(sql)));
}
process.exit(0);
