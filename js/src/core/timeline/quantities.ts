/** Bytes and times in words. */

const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** `1.21 GiB`: three digits that count. */
export function bytesInWords(bytes: number): string {
  let value = Math.abs(bytes);
  let unit = 0;
  while (value >= 1000 && unit < BYTES.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 ? 0 : value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${bytes < 0 ? "−" : ""}${value.toFixed(digits)} ${BYTES[unit] ?? ""}`;
}

/** `12.345 ms`: as many digits as tell times apart that are `step` seconds apart. */
export function timeInWords(seconds: number, step = Math.abs(seconds) / 1000): string {
  const size = Math.max(Math.abs(seconds), step);
  const [factor, unit] = size >= 1 ? [1, "s"] : size >= 1e-3 ? [1e3, "ms"] : [1e6, "µs"];
  const apart = step * factor;
  const digits = apart > 0 ? Math.min(6, Math.max(0, Math.ceil(-Math.log10(apart) - 1e-9))) : 0;
  return `${(seconds * factor).toFixed(digits)} ${unit}`;
}
