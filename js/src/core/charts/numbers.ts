/** Numbers as they are written, and where the marks of an axis stand. */

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** The shortest decimal that stands for the number, in single precision where it was stored so. */
export function exact(value: number, single: boolean): string {
  if (!single || !Number.isFinite(value) || Number.isInteger(value)) return String(value);
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return String(short);
  }
  return String(value);
}

/** A number to read: six digits, thousands in groups; nothing where there is none. */
export function said(value: number): string {
  if (Number.isNaN(value)) return "";
  const size = Math.abs(value);
  if (size === Infinity) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && size < 1e15) return GROUPED.format(value).replace("-", "−");
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(4) : value.toPrecision(6);
  return trimmed(text).replace("-", "−").replace("e-", "e−").replace("e+", "e");
}

/** Without zeros at the end of the fraction. */
function trimmed(text: string): string {
  const [mantissa = "", exponent] = text.split("e");
  const short = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
  return exponent === undefined ? short : `${short}e${exponent}`;
}

/** A step of 1, 2 or 5 times a power of ten that is at least `least`. */
export function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  const factor = [1, 2, 5, 10].find((one) => one * power >= least * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/** At most about `count` marks from `low` to `high`; none where there is no room between them. */
export function ticks(low: number, high: number, count: number): number[] {
  const range = high - low;
  if (!(range > 0) || !Number.isFinite(range) || count < 1) return [];
  const step = niceStep(range / count);
  const first = Math.ceil(low / step - 1e-9);
  const found: number[] = [];
  // Counted, not added up: an addition that changes nothing would never end.
  for (let at = 0; at <= count + 1; at++) {
    const value = (first + at) * step;
    if (value > high + step * 1e-9) break;
    if (value !== found.at(-1)) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  }
  return found;
}

/** Marks of a logarithmic axis: powers of ten, with 2 and 5 between them where few fit. */
export function logTicks(low: number, high: number, count: number): number[] {
  if (!(low > 0) || !(high > low) || !Number.isFinite(high)) return [];
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.max(1, Math.ceil((last - first) / Math.max(1, count)));
  const factors = (last - first) * 3 <= count * 1.5 && every === 1 ? [1, 2, 5] : [1];
  const found: number[] = [];
  for (let power = first; power <= last; power += every) {
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) found.push(value);
    }
  }
  return found.length < 2 ? ticks(low, high, count) : found;
}

/** What stands at a mark, as short as it can be. */
export function tickLabel(value: number): string {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size < 1e-3 || size >= 1e6) {
    return trimmed(value.toExponential(3)).replace("-", "−").replace("e-", "e−").replace("e+", "e");
  }
  return String(Number(value.toPrecision(8))).replace("-", "−");
}

/** The least and the greatest of the finite numbers; undefined where there are none. */
export function extent(values: ArrayLike<number>): readonly [number, number] | undefined {
  let [low, high] = [Infinity, -Infinity];
  for (let at = 0; at < values.length; at++) {
    const value = values[at] ?? NaN;
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : undefined;
}
