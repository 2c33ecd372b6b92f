/**
 * Tables as they travel: columns of bytes, deflated, in base64. `views/_packed.py` writes them.
 *
 * After inflating: the length of the header in four bytes, the header as JSON, then the columns one after the other.
 * All of it comes from a file that anybody may have written, so nothing is believed before it was checked.
 */

import { clip } from "./clip";

/** Data that cannot be read; the message says what is wrong with it, in words for the user. */
export class MalformedData extends Error {
  override readonly name = "MalformedData";

  /** Names in the message may be as long as they like. */
  constructor(message: string) {
    super(clip(message));
  }
}

/** Words by number: row `i` holds `words[codes[i]]`. */
export interface TextColumn {
  readonly words: readonly string[];
  readonly codes: Uint32Array;
}

/** Lists of numbers: row `i` holds `values[starts[i]]` up to, not including, `values[starts[i + 1]]`. */
export interface RaggedColumn {
  readonly starts: Uint32Array;
  readonly values: Int32Array;
}

/** Lists of numbers of any kind: row `i` holds `values[starts[i]]` up to, not including, `values[starts[i + 1]]`. */
export interface ListColumn {
  readonly starts: Uint32Array;
  readonly values: Float32Array;
}

const SCHEMA = 1;
/** Whether numbers are in memory as they travel. */
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
export const MAX_BYTES = 1 << 27;
/** Letters of base64 in which that much travels even where nothing was gained by deflating it. */
const MAX_TEXT = 1.4 * MAX_BYTES;
export const MAX_ROWS = 5_000_000;
/** Letters of all names of a numbered column together, each of which is a text of its own in memory. */
const MAX_NAMED = MAX_BYTES / 2;
/** Rows times columns: a byte of a column can become a number of eight. */
const MAX_CELLS = 8 * MAX_ROWS;
/** What a header may hold of lists and objects, and of what is in them: each takes many times its bytes in memory. */
const MAX_NESTS = 4_000_000;
const MAX_PARTS = 24_000_000;
const TYPES = ["text", "numbered", "int", "float", "ragged", "lists"] as const;
type ColumnType = (typeof TYPES)[number];

interface ColumnHeader {
  readonly name: string;
  readonly type: ColumnType;
  readonly bytes: number;
  readonly words: readonly string[];
}

/** A table of columns, each decoded when it is first asked for. */
export class Table {
  readonly #columns: ReadonlyMap<string, { header: ColumnHeader; body: Uint8Array }>;

  constructor(
    readonly rows: number,
    columns: ReadonlyMap<string, { header: ColumnHeader; body: Uint8Array }>,
    /** What belongs to no column, as it was found: to be checked by whoever reads it. */
    readonly meta: ReadonlyMap<string, unknown> = new Map(),
  ) {
    this.#columns = columns;
  }

  /** Names of the columns in their order. */
  get columns(): readonly string[] {
    return [...this.#columns.keys()];
  }

  /** Whether a column holds words rather than numbers. */
  isText(name: string): boolean {
    const type = this.#columns.get(name)?.header.type;
    return type === "text" || type === "numbered";
  }

  /** Whether a column holds one number a row. */
  isNumber(name: string): boolean {
    const type = this.#columns.get(name)?.header.type;
    return type === "int" || type === "float";
  }

  /** The numbers of a column, whole or in single precision. */
  numbers(name: string): Float64Array | Float32Array {
    return this.#columns.get(name)?.header.type === "int" ? this.integers(name) : this.floats(name);
  }

  /** Words by number, however they were packed. */
  words(name: string): TextColumn {
    if (this.#columns.get(name)?.header.type !== "numbered") return this.text(name);
    const codes = new Uint32Array(this.rows);
    const numbers = new Map<string, number>();
    this.names(name).forEach((word, row) => {
      const code = numbers.get(word) ?? numbers.size;
      if (code === numbers.size) numbers.set(word, code);
      codes[row] = code;
    });
    return { words: [...numbers.keys()], codes };
  }

  has(name: string): boolean {
    return this.#columns.has(name);
  }

  text(name: string): TextColumn {
    const { header, body } = this.#column(name, "text");
    const reader = new VarintReader(body, name);
    const codes = new Uint32Array(this.rows);
    for (let row = 0; row < this.rows; row++) {
      const code = reader.next();
      if (code >= header.words.length)
        throw new MalformedData(`column ${name} names a word that is not there`);
      codes[row] = code;
    }
    reader.end();
    return { words: header.words, codes };
  }

  /** Words that were packed as what stands before a number, and that number. */
  names(name: string): readonly string[] {
    const { header, body } = this.#column(name, "numbered");
    const reader = new VarintReader(body, name);
    const codes = new Uint32Array(this.rows);
    let length = 0;
    for (let row = 0; row < this.rows; row++) {
      const code = (codes[row] = reader.next());
      length += header.words[code]?.length ?? 0; // each row has a word of its own
      if (length > MAX_NAMED) throw new MalformedData(`column ${name} is too long`);
    }
    const last = new Float64Array(header.words.length);
    const made = Array.from(codes, (code) => {
      const stem = header.words[code];
      if (stem === undefined) throw new MalformedData(`column ${name} names a word that is not there`);
      const number = (last[code] = (last[code] ?? 0) + unzigzag(reader.next()));
      return number === 0 ? stem : `${stem}${number - 1}`;
    });
    reader.end();
    return made;
  }

  integers(name: string): Float64Array {
    const reader = new VarintReader(this.#column(name, "int").body, name);
    const values = new Float64Array(this.rows);
    let last = 0;
    for (let row = 0; row < this.rows; row++) {
      last += unzigzag(reader.next());
      values[row] = last;
    }
    reader.end();
    return values;
  }

  floats(name: string): Float32Array {
    const { body } = this.#column(name, "float");
    if (body.byteLength !== 4 * this.rows) throw new MalformedData(`column ${name} has the wrong length`);
    return singles(body);
  }

  /** A list of numbers for each row, at most so many in all. */
  lists(name: string, most = 4 * MAX_ROWS): ListColumn {
    const { body } = this.#column(name, "lists");
    const reader = new VarintReader(body, name);
    const starts = new Uint32Array(this.rows + 1);
    let total = 0;
    for (let row = 0; row < this.rows; row++) {
      total += reader.next();
      if (total > most) throw new MalformedData(`column ${name} is too long`);
      starts[row + 1] = total;
    }
    const rest = reader.rest();
    if (rest.byteLength !== 4 * total) throw new MalformedData(`column ${name} has the wrong length`);
    return { starts, values: singles(rest) };
  }

  /** Rows that each row refers to, at most so many in all; a reference to a row that is not there is an error. */
  references(name: string, most = 4 * MAX_ROWS): RaggedColumn {
    const reader = new VarintReader(this.#column(name, "ragged").body, name);
    const starts = new Uint32Array(this.rows + 1);
    let total = 0;
    for (let row = 0; row < this.rows; row++) {
      total += reader.next();
      if (total > most) throw new MalformedData(`column ${name} is too long`);
      starts[row + 1] = total;
    }
    const values = new Int32Array(total);
    for (let row = 0; row < this.rows; row++) {
      const end = starts[row + 1] ?? 0;
      for (let at = starts[row] ?? 0; at < end; at++) {
        const value = row - unzigzag(reader.next());
        if (value < 0 || value >= this.rows) {
          throw new MalformedData(`column ${name} refers to a row that is not there`);
        }
        values[at] = value;
      }
    }
    reader.end();
    return { starts, values };
  }

  #column(name: string, type: ColumnType): { header: ColumnHeader; body: Uint8Array } {
    const found = this.#columns.get(name);
    if (found === undefined) throw new MalformedData(`column ${name} is missing`);
    if (found.header.type !== type) throw new MalformedData(`column ${name} is not of type ${type}`);
    return found;
  }
}

/** Read a packed table. */
export async function unpack(text: string, maxBytes = MAX_BYTES): Promise<Table> {
  return decode(await inflate(fromBase64(text), maxBytes));
}

/** Bytes that were deflated, at most `maxBytes` of them. */
export async function inflate(packed: Uint8Array, maxBytes = MAX_BYTES): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    const stream = new Blob([new Uint8Array(packed)])
      .stream()
      .pipeThrough(new DecompressionStream("deflate"));
    const reader = stream.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.byteLength;
      if (size > maxBytes) {
        await reader.cancel();
        throw new MalformedData(`the data unfolds to more than ${Math.round(maxBytes / 1e6)} MB`);
      }
      chunks.push(value);
    }
  } catch (error) {
    if (error instanceof MalformedData) throw error;
    throw new MalformedData("the data is cut off or was changed");
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.byteLength;
  }
  return whole;
}

function fromBase64(text: string): Uint8Array {
  if (text.length > MAX_TEXT) throw new MalformedData("the data is too long");
  let binary: string;
  try {
    binary = atob(text);
  } catch {
    throw new MalformedData("the data is no base64");
  }
  const bytes = new Uint8Array(binary.length); // a loop: Uint8Array.from takes ten times as long
  for (let at = 0; at < bytes.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

function decode(bytes: Uint8Array): Table {
  if (bytes.byteLength < 4) throw new MalformedData("the data is empty");
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  if (4 + length > bytes.byteLength) throw new MalformedData("the data is cut off");
  checkParts(bytes.subarray(4, 4 + length));
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(4, 4 + length)));
  } catch {
    throw new MalformedData("the data has no readable header");
  }
  const { rows, columns, meta } = checkedHeader(header);
  const found = new Map<string, { header: ColumnHeader; body: Uint8Array }>();
  const bodies = bytes.slice(4 + length); // a copy: nobody needs the header's bytes any more
  let at = 0;
  for (const column of columns) {
    if (at + column.bytes > bodies.byteLength) throw new MalformedData(`column ${column.name} is cut off`);
    found.set(column.name, { header: column, body: bodies.subarray(at, at + column.bytes) });
    at += column.bytes;
  }
  return new Table(rows, found, meta);
}

/** Refuse JSON that would take many times its bytes. What is in quotes counts too: no honest header comes near. */
function checkParts(json: Uint8Array): void {
  const [comma, list, object] = [0x2c, 0x5b, 0x7b];
  let [nests, parts] = [0, 0];
  for (const byte of json) {
    if (byte === list || byte === object) nests++;
    else if (byte === comma) parts++;
  }
  if (nests > MAX_NESTS || parts > MAX_PARTS)
    throw new MalformedData("the data has more parts than can be kept");
}

function checkedHeader(header: unknown): {
  rows: number;
  columns: ColumnHeader[];
  meta: ReadonlyMap<string, unknown>;
} {
  if (!isRecord(header)) throw new MalformedData("the data has no readable header");
  const schema = header["schema"];
  if (schema !== SCHEMA) {
    throw new MalformedData(
      typeof schema === "number" && schema > SCHEMA
        ? `this view was written by a newer version (schema ${schema}, here ${SCHEMA}): pip install -U deepseek_lab`
        : "the data has no known schema",
    );
  }
  const rows = header["rows"];
  const columns = header["columns"];
  if (!isCount(rows) || rows > MAX_ROWS) throw new MalformedData("the data has no usable number of rows");
  if (!Array.isArray(columns) || columns.length > 256)
    throw new MalformedData("the data has no usable columns");
  if (rows * columns.length > MAX_CELLS) throw new MalformedData("the data has more cells than can be kept");
  const meta = header["meta"] ?? {};
  if (!isRecord(meta)) throw new MalformedData("the data has no readable header");
  return {
    rows,
    columns: columns.map((column) => checkedColumn(column, rows)),
    meta: new Map(Object.entries(meta)),
  };
}

function checkedColumn(column: unknown, rows: number): ColumnHeader {
  if (!isRecord(column)) throw new MalformedData("a column has no header");
  const { name, type, bytes, words = [] } = column;
  if (typeof name !== "string" || !isCount(bytes)) throw new MalformedData("a column has no readable header");
  const known = TYPES.find((one) => one === type);
  if (known === undefined) throw new MalformedData(`column ${name} is of an unknown type`);
  if (!Array.isArray(words) || !words.every((word) => typeof word === "string")) {
    throw new MalformedData(`column ${name} has words that are no text`);
  }
  if (words.length > rows) throw new MalformedData(`column ${name} has more words than rows`);
  return { name, type: known, bytes, words };
}

/** Numbers in single precision, the lowest byte first. */
function singles(body: Uint8Array): Float32Array {
  if (LITTLE_ENDIAN) return new Float32Array(body.slice().buffer);
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return Float32Array.from({ length: body.byteLength / 4 }, (_, row) => view.getFloat32(4 * row, true));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0;
}

/** 0, 1, 2, 3, 4 stand for 0, -1, 1, -2, 2. */
function unzigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}

/** Whole numbers up to 2^53, seven bits a byte, the lowest first. */
class VarintReader {
  #at = 0;

  constructor(
    readonly bytes: Uint8Array,
    readonly column: string,
  ) {}

  next(): number {
    let value = 0;
    let factor = 1;
    for (;;) {
      const byte = this.bytes[this.#at++];
      if (byte === undefined) throw new MalformedData(`column ${this.column} is cut off`);
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) break;
      factor *= 128;
      if (factor > 2 ** 49) throw new MalformedData(`column ${this.column} holds a number that is too large`);
    }
    return value;
  }

  /** What comes after the numbers that were read. */
  rest(): Uint8Array {
    return this.bytes.subarray(this.#at);
  }

  end(): void {
    if (this.#at !== this.bytes.byteLength) throw new MalformedData(`column ${this.column} is too long`);
  }
}
