import { describe, expect, it } from "vitest";
import { bytesInWords, quantity, timeInWords } from "../src/core/quantities";

describe("bytes and times in words", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "0.98 KiB"],
    [1536, "1.50 KiB"],
    [999 * 1024, "999 KiB"],
    [12.34 * 2 ** 30, "12.3 GiB"],
    [2 ** 60, "1024 PiB"],
    [-2048, "−2.00 KiB"],
    [99.6 * 1024, "99.6 KiB"],
    [99.96 * 1024, "100 KiB"],
    [9.999 * 1024, "10.0 KiB"],
    [999.7 * 1024, "0.98 MiB"],
  ])("%d bytes are %s", (bytes, said) => {
    expect(bytesInWords(bytes)).toBe(said);
  });

  it.each([
    [0, 0, "0 µs"],
    [0.0123, 0.001, "12 ms"],
    [0.0123, 0.00001, "12.30 ms"],
    [71.5, 0.1, "71.5 s"],
    [5e-6, 1e-9, "5.000 µs"],
  ])("%d s in steps of %d s are %s", (seconds, step, said) => {
    expect(timeInWords(seconds, step)).toBe(said);
  });
});

describe("quantities in words", () => {
  it.each([
    [0, "us", "0 ns"],
    [0.25, "us", "250 ns"],
    [45.04, "us", "45.0 µs"],
    [1234.5, "us", "1.23 ms"],
    [999.99, "us", "1.00 ms"],
    [2.5e6, "us", "2.50 s"],
    [99.6 * 1024, "bytes", "99.6 KiB"],
    [2.41e9, "FLOP", "2.41 GFLOP"],
    [12, "FLOP", "12 FLOP"],
    [999.7, "", "1.00 k"],
    [-3, "", "−3"],
    [0.5, "%", "0.50 %"],
    [0.00123, "", "0.00123"],
    [3e22, "FLOP", "3.00e+4 EFLOP"],
    [NaN, "us", ""],
    [Infinity, "bytes", ""],
  ])("%d %s are %s", (value, unit, said) => {
    expect(quantity(value, unit)).toBe(said);
  });

  it("never have more digits than three that count, nor an exponent where a unit fits", () => {
    for (let power = -2; power < 17; power += 0.013) {
      const value = 10 ** power;
      for (const unit of ["bytes", "us", "FLOP"]) {
        expect(quantity(value, unit)).toMatch(/^(\d{1,3}(\.\d{1,2})?|\d{4,} (s|PiB)|0\.00\d+) ?/);
        expect(quantity(value, unit)).not.toContain("e+");
        if (unit !== "us" || value < 1e9)
          expect(quantity(value, unit).replace(/^0\.0*|\D/g, "").length).toBeLessThan(5);
      }
    }
  });
});
