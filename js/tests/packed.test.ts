import { deflateSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { MalformedData, unpack } from "../src/core/packed";
import { python } from "./python";

/** What Python packs, by the code that the package uses. */
function packedByPython(code: string): string {
  return python(`from deepseek_lab.views._packed import Packer\n${code}\nprint(packer.base64(), end="")`);
}

/** A table from a header and bodies, as nobody who is honest would write it. */
function forged(header: unknown, ...bodies: number[][]): string {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return deflateSync(Buffer.concat([length, text, ...bodies.map((body) => Buffer.from(body))])).toString(
    "base64",
  );
}

describe("what Python packs", () => {
  it("is read as it was written", async () => {
    const table = await unpack(
      packedByPython(`
packer = Packer(4)
packer.text("op", ["relu", "<b>", "relu", "\\ud800 ü 漢"])
packer.integers("line", [0, -7, 2**47, -(2**47)])
packer.floats("time", [0.5, float("nan"), float("-inf"), 1e30])
packer.references("inputs", [[], [0], [0, 1, 3], []])
packer.lists("curve", [[], [0.5, float("nan")], [-3], []])
packer.names("name", ["linear_1", "linear_7", "007", "12"])
packer.names("other", ["", "x", "linear_99999999999999999999", "a\\n0"])
`),
    );
    expect(table.names("name")).toEqual(["linear_1", "linear_7", "007", "12"]);
    expect(table.names("other")).toEqual(["", "x", "linear_99999999999999999999", "a\n0"]);
    const op = table.text("op");
    expect([...op.codes].map((code) => op.words[code])).toEqual(["relu", "<b>", "relu", "\ud800 ü 漢"]);
    expect([...table.integers("line")]).toEqual([0, -7, 2 ** 47, -(2 ** 47)]);
    const time = [...table.floats("time")];
    expect(time.slice(0, 3)).toEqual([0.5, NaN, -Infinity]);
    expect(time[3]).toBeCloseTo(1e30, -24);
    const curve = table.lists("curve");
    expect([...curve.starts]).toEqual([0, 0, 2, 3, 3]);
    expect([...curve.values]).toEqual([0.5, NaN, -3]);
    const inputs = table.references("inputs");
    expect([...inputs.starts]).toEqual([0, 0, 1, 4, 4]);
    expect([...inputs.values]).toEqual([0, 0, 1, 3]);
  });

  it("may be an empty table", async () => {
    const table = await unpack(packedByPython(`packer = Packer(0)\npacker.text("op", [])`));
    expect(table.rows).toBe(0);
    expect(table.text("op").codes.length).toBe(0);
  });
});

const header = (...columns: unknown[]): unknown => ({ schema: 1, rows: 2, columns });

describe("data that is not what it should be", () => {
  it.each([
    ["no base64", "%%%"],
    ["no deflated data", Buffer.from("hello").toString("base64")],
    ["nothing", ""],
    ["cut off", deflateSync(Buffer.from([9, 0, 0, 0, 1])).toString("base64")],
    ["a header that is no JSON", forged("{")],
    ["a header that is a list", forged([])],
    ["a newer schema", forged({ schema: 2, rows: 0, columns: [] })],
    ["rows that are no number", forged({ schema: 1, rows: "2", columns: [] })],
    ["too many rows", forged({ schema: 1, rows: 1e9, columns: [] })],
    ["a negative number of rows", forged({ schema: 1, rows: -1, columns: [] })],
    ["columns that are no list", forged({ schema: 1, rows: 0, columns: { length: 1 } })],
    ["a column of an unknown type", forged(header({ name: "x", type: "__proto__", bytes: 0 }))],
    ["a column longer than the data", forged(header({ name: "x", type: "int", bytes: 99 }))],
    ["words that are no text", forged(header({ name: "x", type: "text", bytes: 0, words: [{}] }))],
  ])("%s is told", async (_, text) => {
    await expect(unpack(text)).rejects.toThrow(MalformedData);
  });

  it.each([
    ["a word that is not there", { name: "x", type: "text", bytes: 2, words: ["a"] }, [0, 1], "text"],
    [
      "a name that is not there",
      { name: "x", type: "numbered", bytes: 4, words: ["a"] },
      [0, 1, 0, 0],
      "names",
    ],
    ["a body that is too short", { name: "x", type: "int", bytes: 1 }, [0], "integers"],
    ["a body that is too long", { name: "x", type: "int", bytes: 3 }, [0, 0, 0], "integers"],
    ["a number without an end", { name: "x", type: "int", bytes: 12 }, Array(12).fill(255), "integers"],
    ["a row that is not there", { name: "x", type: "ragged", bytes: 3 }, [1, 0, 9], "references"],
    ["more references than data", { name: "x", type: "ragged", bytes: 2 }, [127, 127], "references"],
    ["lists that are cut off", { name: "x", type: "lists", bytes: 6 }, [1, 1, 0, 0, 0, 0], "lists"],
    ["lists of more than there is", { name: "x", type: "lists", bytes: 2 }, [127, 127], "lists"],
    ["floats that are cut off", { name: "x", type: "float", bytes: 7 }, Array(7).fill(0), "floats"],
    ["another type", { name: "x", type: "float", bytes: 8 }, Array(8).fill(0), "text"],
    ["another name", { name: "y", type: "float", bytes: 8 }, Array(8).fill(0), "floats"],
  ] as const)("%s is told", async (_, column, body, method) => {
    const table = await unpack(forged(header(column), [...body]));
    expect(() => table[method]("x")).toThrow(MalformedData);
  });

  it("that unfolds to more than is allowed is not kept", async () => {
    const bomb = deflateSync(Buffer.alloc(1 << 24)).toString("base64");
    await expect(unpack(bomb, 1 << 20)).rejects.toThrow("more than 1 MB");
  });

  it("names the way out where a newer version wrote it", async () => {
    await expect(unpack(forged({ schema: 7, rows: 0, columns: [] }))).rejects.toThrow(
      "pip install -U deepseek_lab",
    );
  });
});
