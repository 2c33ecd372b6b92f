/** Bytes, times and other quantities in words. */

const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const PREFIXES = ["", "k", "M", "G", "T", "P", "E"];
/** Microseconds to a unit. */
const TIMES = [
  [1e6, "s"],
  [1e3, "ms"],
  [1, "µs"],
  [1e-3, "ns"],
] as const;

/** `0.99`, `1.21`, `12.1`, `121`: three digits that count, of a number below a thousand. */
function threeDigits(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/** `1.21 GiB`: three digits that count. */
export function bytesInWords(bytes: number): string {
  let value = Math.abs(bytes);
  let unit = 0;
  while (value >= 999.5 && unit < BYTES.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${bytes < 0 ? "−" : ""}${unit === 0 ? value.toFixed(0) : threeDigits(value)} ${BYTES[unit] ?? ""}`;
}

/** `12.345 ms`: as many digits as tell times apart that are `step` seconds apart. */
export function timeInWords(seconds: number, step = Math.abs(seconds) / 1000): string {
  const size = Math.max(Math.abs(seconds), step);
  const [factor, unit] = size >= 1 ? [1, "s"] : size >= 1e-3 ? [1e3, "ms"] : [1e6, "µs"];
  const apart = step * factor;
  const digits = apart > 0 ? Math.min(6, Math.max(0, Math.ceil(-Math.log10(apart) - 1e-9))) : 0;
  return `${(seconds * factor).toFixed(digits)} ${unit}`;
}

/** `1.21 GFLOP`, `45.0 µs`, `3`: a number with its unit, three digits that count; nothing for what is no number. */
export function quantity(value: number, unit: string): string {
  if (!Number.isFinite(value)) return "";
  if (unit === "bytes") return bytesInWords(value);
  const sign = value < 0 ? "−" : "";
  let size = Math.abs(value);
  if (unit === "us") {
    const [factor, name] = TIMES.find(([least]) => size >= 0.9995 * least) ?? TIMES[3];
    return `${sign}${size === 0 ? "0" : threeDigits(size / factor)} ${name}`;
  }
  if (size < 999.5) {
    const said = Number.isInteger(size)
      ? String(size)
      : size < 0.01
        ? size.toPrecision(3)
        : threeDigits(size);
    return `${sign}${said}${unit === "" ? "" : ` ${unit}`}`;
  }
  let prefix = 0;
  while (size >= 999.5 && prefix < PREFIXES.length - 1) {
    size /= 1000;
    prefix++;
  }
  return `${sign}${size >= 999.5 ? size.toPrecision(3) : threeDigits(size)} ${PREFIXES[prefix] ?? ""}${unit}`;
}
