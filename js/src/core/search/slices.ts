/** For each range a small plot of values by what it was. */

import { Axis, roomy } from "../charts/plane";
import { tickLabel, ticks } from "../charts/numbers";
import type { Box, Surface } from "../surface";
import { Dots, drawDots, type Plot } from "./dots";
import { legendOf, NEAR, noteOf, Picture } from "./picture";
import { Places } from "./places";
import { byImportance, type RangeAxis, rangeAxis } from "./ranges";
import { valuedWith } from "./ranking";
import { colourOf, isShown, type Look, lookOf, type Stage } from "./stage";
import { words } from "./words";

const SIZE = { width: 230, height: 150 };
const GAP = 10;
const LEFT = 44;
const MOST = 16;

/** Those that run have no values yet. The later ones are on top. */
const LOOKS: readonly Look[] = ["small", "stopped", "whole"];

/** Trials of one look. */
interface Part {
  readonly look: Look;
  readonly rows: readonly number[];
  readonly heights: readonly number[];
}

/** Where trials stand in one of the plots; looked up only when somebody points at it. */
class Slice {
  #places: Places | undefined;

  constructor(
    readonly axis: RangeAxis,
    readonly inner: Box,
    readonly parts: readonly Part[],
  ) {}

  get places(): Places {
    if (this.#places === undefined) {
      const { axis, inner, parts } = this;
      const made = new Places(parts.reduce((sum, { rows }) => sum + rows.length, 0));
      for (const { rows, heights } of parts) {
        rows.forEach((row, at) => {
          const share = axis.share(row);
          if (Number.isNaN(share)) return;
          made.add(row, inner.x + share * inner.width, inner.y + (1 - (heights[at] ?? 0)) * inner.height);
        });
      }
      this.#places = made;
    }
    return this.#places;
  }
}

export class Slices extends Picture {
  #slices: Slice[] = [];
  /** The slice in which keys move. */
  #current = 0;

  constructor(stage: Stage) {
    super(stage, words.slices, words.sliceKeys, { height: SIZE.height, wide: true, open: true });
  }

  override draw(): void {
    this.#fit();
    super.draw();
  }

  /** As high as the slices need below each other. */
  #fit(): void {
    if (this.size.width === 0) return; // not laid out yet
    const columns = this.#columns(this.size.width);
    const shown = Math.min(MOST, this.stage.state.trials.params.length);
    const height = `${Math.max(1, Math.ceil(shown / columns)) * (SIZE.height + GAP)}px`;
    if (this.plot.style.height !== height) this.plot.style.height = height;
  }

  #columns(width: number): number {
    return Math.max(1, Math.floor((width + GAP) / (SIZE.width + GAP)));
  }

  protected paint(
    surface: Surface,
    width: number,
    height: number,
  ): { note: string; legend: readonly Node[] } {
    this.#fit();
    const { state, palette, metric } = this.stage;
    const places = byImportance(state);
    const columns = this.#columns(width);
    const across = (width - GAP * (columns - 1)) / columns;
    const { rows, values, span } = valuedWith(state, metric);
    const [low, high] = roomy(...span, false);
    const share = (value: number): number => Math.min(1, Math.max(0, (value - low) / (high - low)));
    const parts = this.#partsOf(rows, values, share);
    const plots: Plot[] = [];
    this.#slices = [];
    places.slice(0, MOST).forEach((place, at) => {
      const axis = rangeAxis(state, place);
      if (axis === undefined) return;
      const left = (at % columns) * (across + GAP);
      const top = Math.floor(at / columns) * (SIZE.height + GAP);
      const inner = { x: left + LEFT, y: top + 6, width: across - LEFT - 8, height: SIZE.height - 44 };
      const y = new Axis(low, high, false, inner.y + inner.height, inner.y);
      this.#frame(surface, inner, y, axis.marks);
      surface.text(axis.name, inner.x, inner.y + inner.height + 28, 12, palette.text, inner.width, true);
      const groups = parts.map(({ look, rows: some, heights }) => {
        const dots = new Dots(colourOf(look, palette), look === "whole" ? 2.5 : 1.8, some.length);
        for (let one = 0; one < some.length; one++) {
          const along = axis.share(some[one] ?? 0);
          if (Number.isNaN(along)) continue;
          dots.add(inner.x + along * inner.width, inner.y + (1 - (heights[one] ?? 0)) * inner.height);
        }
        return dots;
      });
      plots.push({ inner, groups });
      this.#slices.push(new Slice(axis, inner, parts));
    });
    drawDots(surface, plots, { width, height });
    this.#current = Math.min(this.#current, Math.max(0, this.#slices.length - 1));
    const more = places.length - MOST;
    const name = words.value(state.metrics[metric] ?? "", state.direction(metric));
    const order: readonly Look[] = ["whole", "small", "stopped"];
    return {
      note: noteOf([name, more > 0 ? words.more(more) : "", places.length === 0 ? words.empty : ""]),
      legend: order
        .filter((look) => parts.some((part) => part.look === look))
        .map((look) => legendOf(colourOf(look, palette), words.looks[look])),
    };
  }

  /** Rows that are shown, by their look, with how high each stands. */
  #partsOf(rows: Uint32Array, values: Float64Array, share: (value: number) => number): Part[] {
    const { state } = this.stage;
    const found = new Map<Look, { rows: number[]; heights: number[] }>(
      LOOKS.map((look) => [look, { rows: [], heights: [] }]),
    );
    for (let at = 0; at < rows.length; at++) {
      const row = rows[at] ?? 0;
      const part = isShown(this.stage, row) ? found.get(lookOf(state, row)) : undefined;
      part?.rows.push(row);
      part?.heights.push(share(values[at] ?? NaN));
    }
    return Array.from(found, ([look, part]) => ({ look, ...part })).filter((part) => part.rows.length > 0);
  }

  #frame(surface: Surface, inner: Box, y: Axis, marks: readonly (readonly [number, string])[]): void {
    const { palette } = this.stage;
    surface.box(inner, 0, null, palette.border, 1);
    for (const tick of ticks(y.low, y.high, 4)) {
      const at = y.pixel(tick);
      const label = tickLabel(tick);
      surface.line([inner.x, at, inner.x + inner.width, at], palette.border, 0.5);
      surface.text(
        label,
        Math.max(inner.x - LEFT, inner.x - 5 - 6.4 * label.length),
        at,
        11,
        palette.faint,
        LEFT,
      );
    }
    const room = inner.width / Math.max(1, marks.length);
    for (const [share, label] of marks) {
      const wide = Math.min(room, 6.4 * label.length);
      const wish = inner.x + share * inner.width - wide / 2;
      const at = Math.min(inner.x + inner.width - wide, Math.max(inner.x - 4, wish));
      surface.text(label, at, inner.y + inner.height + 11, 11, palette.faint, room);
    }
  }

  protected emphasise(surface: Surface, row: number): void {
    for (const { places } of this.#slices) {
      const at = places.of(row);
      if (at === undefined) continue;
      const box = { x: at[0] - 5, y: at[1] - 5, width: 10, height: 10 };
      surface.box(box, 5, null, this.stage.palette.text, 2);
    }
  }

  protected near(x: number, y: number): number {
    for (const [number, { inner, places }] of this.#slices.entries()) {
      if (y < inner.y - NEAR || y > inner.y + inner.height + NEAR) continue;
      const found = places.near(x, y);
      if (found < 0) continue;
      this.#current = number;
      return found;
    }
    return -1;
  }

  protected follow(key: string, row: number): number | undefined {
    if (key === "PageDown" || key === "PageUp") {
      const count = Math.max(1, this.#slices.length);
      this.#current = (this.#current + (key === "PageDown" ? 1 : count - 1)) % count;
      return row;
    }
    return this.#slices[this.#current]?.places.follow(key, row);
  }
}
