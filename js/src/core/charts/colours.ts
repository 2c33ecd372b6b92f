/** Colours that stand for values: told apart for kinds, from one end to the other for numbers. */

import type { Palette } from "../theme";

export type Rgb = readonly [number, number, number];

const LIGHT_SERIES = [
  "#0b62c4", "#b3410e", "#1a7f37", "#8250df", "#bf3989", "#0a7a83", "#7d5a00", "#cf222e", "#57606a", "#3d4ec4",
] as const; // prettier-ignore
const DARK_SERIES = [
  "#6fb1ff", "#ff9e64", "#56d364", "#c297ff", "#ff80bf", "#4fd1d9", "#e3b341", "#ff7b72", "#a4acb5", "#9aa5ff",
] as const; // prettier-ignore
export const SERIES = LIGHT_SERIES.length;

/** A colour for the thing with a number, three to one against the background; they repeat after `SERIES`. */
export function seriesColour(index: number, palette: Palette): string {
  return (palette.dark ? DARK_SERIES : LIGHT_SERIES)[index % SERIES] ?? palette.accent;
}

// Viridis at ten places (van der Walt and Smith 2015): even steps of lightness, told apart by the colour-blind.
const SEQUENTIAL = "4401544828783e498931688e26828e1f9e8935b7796ece58b5de2bfde725";
// ColorBrewer's RdBu; on dark ground the middle is dark, so that zero recedes there too.
const DIVERGING_LIGHT =
  "053061" + "2166ac" + "67a9cf" + "d1e5f0" + "f7f7f7" + "fddbc7" + "ef8a62" + "b2182b" + "67001f";
const DIVERGING_DARK =
  "a6d3ff" + "6fb1ff" + "3f78bd" + "2b4468" + "23272d" + "5f3a2a" + "b0643a" + "ff9e64" + "ffd3b0";

function stops(text: string): Rgb[] {
  return (text.match(/.{6}/g) ?? []).map((hex) => {
    const number = parseInt(hex, 16);
    return [number >> 16, (number >> 8) & 255, number & 255];
  });
}

const STEPS = 256;
/** Stops of the sequential ramp that stand out from light and from dark ground, for points that lie on it. */
const ON_LIGHT = [0, 7] as const;
const ON_DARK = [3, 10] as const;

/** Colours from one end to the other, `STEPS` of them: 0xAABBGGRR, as image data holds them. */
export class Ramp {
  readonly #stops: readonly Rgb[];
  readonly packed = new Uint32Array(STEPS);

  constructor(
    readonly kind: "sequential" | "diverging" | "points",
    palette: Palette,
  ) {
    this.#stops = stops(kind !== "diverging" ? SEQUENTIAL : palette.dark ? DIVERGING_DARK : DIVERGING_LIGHT);
    if (kind === "points") {
      // More stands out more: bright on dark ground, dark on light ground.
      this.#stops = palette.dark ? this.#stops.slice(...ON_DARK) : this.#stops.slice(...ON_LIGHT).reverse();
    }
    for (let step = 0; step < STEPS; step++) {
      const [r, g, b] = this.at(step / (STEPS - 1));
      this.packed[step] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
  }

  /** The colour at a share from 0 to 1. */
  at(share: number): Rgb {
    const place = Math.min(1, Math.max(0, Number.isNaN(share) ? 0 : share)) * (this.#stops.length - 1);
    const low = Math.min(this.#stops.length - 2, Math.floor(place));
    const [from, to] = [this.#stops[low] ?? [0, 0, 0], this.#stops[low + 1] ?? [0, 0, 0]];
    const mix = (channel: 0 | 1 | 2): number =>
      Math.round(from[channel] + (to[channel] - from[channel]) * (place - low));
    return [mix(0), mix(1), mix(2)];
  }

  /** The colour at a share as image data holds it. */
  packedAt(share: number): number {
    return this.packed[Math.round(Math.min(1, Math.max(0, share)) * (STEPS - 1))] ?? 0;
  }

  css(share: number): string {
    return `rgb(${this.at(share).join(" ")})`;
  }

  /** The whole ramp as a background. */
  gradient(): string {
    const parts = this.#stops.map((_, at) => this.css(at / (this.#stops.length - 1)));
    return `linear-gradient(to right, ${parts.join(", ")})`;
  }
}

/** A colour in hexadecimal as image data holds it. */
export function packedColour(hex: string): number {
  const number = parseInt(hex.slice(1), 16);
  return ((255 << 24) | ((number & 255) << 16) | (number & 0xff00) | (number >> 16)) >>> 0;
}
