// msgpack for the messages of explorer/protocol.py: nil, booleans, numbers, text, bytes, lists and maps.

export const VERSION = 1;

const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: true });

/** A message as bytes. `fields` are those of the dataclass of this type. */
export function encode(type, fields = {}) {
  const out = [];
  write(out, { v: VERSION, type, ...fields });
  return new Uint8Array(out);
}

function write(out, value) {
  if (value === null || value === undefined) out.push(0xc0);
  else if (typeof value === "boolean") out.push(value ? 0xc3 : 0xc2);
  else if (typeof value === "number") writeNumber(out, value);
  else if (typeof value === "string") writeText(out, value);
  else if (Array.isArray(value)) {
    writeHead(out, value.length, 0x90, 0xdc);
    for (const entry of value) write(out, entry);
  } else {
    const entries = Object.entries(value);
    writeHead(out, entries.length, 0x80, 0xde);
    for (const [key, entry] of entries) {
      writeText(out, key);
      write(out, entry);
    }
  }
}

function writeHead(out, length, small, large) {
  if (length < 16) out.push(small | length);
  else out.push(large, length >> 8, length & 255);
}

function writeNumber(out, value) {
  if (Number.isInteger(value) && value >= 0 && value < 128) {
    out.push(value);
    return;
  }
  const view = new DataView(new ArrayBuffer(9));
  if (Number.isSafeInteger(value)) {
    view.setUint8(0, 0xd3);
    view.setBigInt64(1, BigInt(value));
  } else {
    view.setUint8(0, 0xcb);
    view.setFloat64(1, value);
  }
  out.push(...new Uint8Array(view.buffer));
}

function writeText(out, value) {
  const bytes = utf8.encode(value);
  if (bytes.length < 32) out.push(0xa0 | bytes.length);
  else out.push(0xda, bytes.length >> 8, bytes.length & 255);
  out.push(...bytes);
}

/** The value in an ArrayBuffer. Bytes inside it are views, not copies. Throws a RangeError where it is cut short. */
export function decode(buffer) {
  const reader = new Reader(buffer);
  const value = reader.value();
  if (reader.at !== buffer.byteLength) throw new RangeError("something follows the message");
  return value;
}

class Reader {
  constructor(buffer) {
    this.buffer = buffer;
    this.view = new DataView(buffer);
    this.at = 0;
  }

  /** The next number, read by the DataView method `get…` of that name. */
  number(kind, size) {
    const value = this.view[`get${kind}`](this.at);
    this.at += size;
    return value;
  }

  bytes(length) {
    const value = new Uint8Array(this.buffer, this.at, length);
    this.at += length;
    return value;
  }

  text(length) {
    return text.decode(this.bytes(length));
  }

  list(length) {
    return Array.from({ length }, () => this.value());
  }

  map(length) {
    const value = {};
    for (let i = 0; i < length; i++) {
      const key = this.value();
      value[key] = this.value();
    }
    return value;
  }

  value() {
    const head = this.number("Uint8", 1);
    if (head < 0x80) return head;
    if (head < 0x90) return this.map(head & 15);
    if (head < 0xa0) return this.list(head & 15);
    if (head < 0xc0) return this.text(head & 31);
    if (head >= 0xe0) return head - 256;
    return this.long(head);
  }

  long(head) {
    switch (head) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.bytes(this.number("Uint8", 1));
      case 0xc5: return this.bytes(this.number("Uint16", 2));
      case 0xc6: return this.bytes(this.number("Uint32", 4));
      case 0xca: return this.number("Float32", 4);
      case 0xcb: return this.number("Float64", 8);
      case 0xcc: return this.number("Uint8", 1);
      case 0xcd: return this.number("Uint16", 2);
      case 0xce: return this.number("Uint32", 4);
      case 0xcf: return Number(this.number("BigUint64", 8));
      case 0xd0: return this.number("Int8", 1);
      case 0xd1: return this.number("Int16", 2);
      case 0xd2: return this.number("Int32", 4);
      case 0xd3: return Number(this.number("BigInt64", 8));
      case 0xd9: return this.text(this.number("Uint8", 1));
      case 0xda: return this.text(this.number("Uint16", 2));
      case 0xdb: return this.text(this.number("Uint32", 4));
      case 0xdc: return this.list(this.number("Uint16", 2));
      case 0xdd: return this.list(this.number("Uint32", 4));
      case 0xde: return this.map(this.number("Uint16", 2));
      case 0xdf: return this.map(this.number("Uint32", 4));
      default: throw new RangeError(`no msgpack type 0x${head.toString(16)} in this protocol`);
    }
  }
}
