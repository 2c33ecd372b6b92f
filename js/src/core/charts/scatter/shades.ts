/** What points are coloured by, and what the colours mean. */

import type { Palette } from "../../theme";
import { packedColour, Ramp, SERIES, seriesColour } from "../colours";
import { clip } from "../../clip";
import type { Column } from "../columns";
import { extent, said } from "../numbers";
import { swatch } from "../parts";
import { element } from "../../dom";
import { words } from "../words";
import type { Density, Shade } from "./points";

/** Kinds with a colour of their own; all others share the last one. */
const KINDS = SERIES - 1;

export class Shading {
  readonly shade: Shade;
  readonly #names: readonly string[] = [];
  readonly #range: readonly [number, number] = [0, 1];
  readonly #ramp: Ramp;

  constructor(
    readonly column: Column | undefined,
    readonly palette: Palette,
  ) {
    if (column === undefined) this.shade = { by: "nothing" };
    else if (column.kind === "number") {
      this.shade = { by: "number", values: column.values };
      this.#range = extent(column.values) ?? [0, 1];
    } else {
      const counts = new Uint32Array(column.words.length);
      for (const code of column.codes) counts[code] = (counts[code] ?? 0) + 1;
      const ranked = [...counts.keys()].sort((a, b) => (counts[b] ?? 0) - (counts[a] ?? 0));
      const kept = ranked.slice(0, KINDS);
      const kindOf = new Uint8Array(column.words.length).fill(KINDS);
      kept.forEach((code, kind) => (kindOf[code] = kind));
      this.#names = kept.map((code) => clip(column.words[code] ?? "", 40) || words.missing);
      if (ranked.length > KINDS) this.#names = [...this.#names, words.others(ranked.length - KINDS)];
      this.shade = {
        by: "kind",
        kinds: column.codes.length === 0 ? new Uint8Array() : mapped(column.codes, kindOf),
        count: SERIES,
      };
    }
    const [low, high] = this.#range;
    this.#ramp = new Ramp(low < 0 && high > 0 ? "diverging" : "points", palette);
  }

  /** The colour of a point by itself. */
  of(row: number): string {
    const { shade, palette } = this;
    if (shade.by === "kind") return seriesColour(shade.kinds[row] ?? 0, palette);
    if (shade.by === "nothing") return seriesColour(0, palette);
    const value = shade.values[row] ?? NaN;
    return Number.isFinite(value) ? this.#ramp.css(this.#share(value)) : palette.wire;
  }

  /** The colour of a cell that holds points. */
  ofCell(cells: Density, cell: number): string {
    if (cells.kinds !== undefined) return seriesColour(cells.kinds[cell] ?? 0, this.palette);
    const share = this.#shareOf(cells, cell);
    return Number.isNaN(share) ? this.palette.wire : this.#ramp.css(share);
  }

  /** The same as image data holds it, for many cells. */
  packedOf(cells: Density): Uint32Array {
    const kinds = Array.from({ length: SERIES }, (_, kind) => packedColour(seriesColour(kind, this.palette)));
    const none = packedColour(this.palette.wire);
    const made = new Uint32Array(cells.counts.length);
    for (let cell = 0; cell < made.length; cell++) {
      if (cells.counts[cell] === 0) continue;
      const share = cells.kinds === undefined ? this.#shareOf(cells, cell) : 0;
      if (cells.kinds !== undefined) made[cell] = kinds[cells.kinds[cell] ?? 0] ?? none;
      else made[cell] = Number.isNaN(share) ? none : this.#ramp.packedAt(share);
    }
    return made;
  }

  /** Where a cell's value lies between the ends of the colours; NaN where it has none. */
  #shareOf(cells: Density, cell: number): number {
    if (cells.sums !== undefined) {
      const valued = cells.valued?.[cell] ?? 0;
      return valued === 0 ? NaN : this.#share((cells.sums[cell] ?? 0) / valued);
    }
    return cells.largest > 1 ? Math.log(cells.counts[cell] ?? 1) / Math.log(cells.largest) : 1;
  }

  /** What the colours mean; `cells` where points are counted. */
  legend(cells: Density | undefined): Node[] {
    if (this.shade.by === "kind") {
      return this.#names.map((name, kind) =>
        element("span", {}, swatch(seriesColour(kind, this.palette)), name),
      );
    }
    const ramp = (low: string, high: string, name: string): Node => {
      const strip = element("span", { class: "dsl-ramp", "aria-hidden": "true" });
      strip.style.background = this.#ramp.gradient();
      return element("span", {}, `${name} ${low}`, strip, high);
    };
    if (this.shade.by === "number") {
      const bound = this.#bound();
      return [ramp(said(bound[0]), said(bound[1]), this.column?.label ?? "")];
    }
    return cells === undefined ? [] : [ramp("1", said(cells.largest), words.density)];
  }

  /** Around zero where there are values on both sides of it. */
  #bound(): readonly [number, number] {
    const [low, high] = this.#range;
    if (this.#ramp.kind !== "diverging") return [low, high];
    const most = Math.max(-low, high);
    return [-most, most];
  }

  #share(value: number): number {
    const [low, high] = this.#bound();
    return high > low ? (value - low) / (high - low) : 0.5;
  }
}

function mapped(codes: Uint32Array, kindOf: Uint8Array): Uint8Array {
  return Uint8Array.from(codes, (code) => kindOf[code] ?? 0);
}
