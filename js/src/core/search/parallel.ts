/** A line a configuration through the values of its ranges, and for whole trials to the metric. */

import { tickLabel } from "../charts/numbers";
import { roomy } from "../charts/plane";
import { seriesColour } from "../charts/colours";
import type { Box, Surface } from "../surface";
import type { Palette } from "../theme";
import { type Line, drawLine, Lines } from "./lines";
import { legendOf, noteOf } from "./picture";
import { byImportance, type RangeAxis, rangeAxis } from "./ranges";
import { sampled, spanOf, standings } from "./ranking";
import { filterName, isShown, type Stage } from "./stage";
import { words } from "./words";

const MOST_AXES = 12;
/** Lines that are drawn: the best, and of the others some, evenly. */
const BEST = 60;
const OTHERS = 240;
/** Lines that stand out, at most. */
const MOST_BEST = 10;
/** Distance from an axis up to which a drag begins on it. */
const NEAR_AXIS = 20;

interface Axis {
  readonly x: number;
  readonly name: string;
  readonly range: RangeAxis | undefined;
  readonly marks: readonly (readonly [number, string])[];
  share(row: number): number;
  at(share: number): string;
}

/** The best few, the best quarter, the others: colour and width of each. */
function quarterLooks(palette: Palette): readonly (readonly [string, number])[] {
  return [
    [seriesColour(1, palette), 2],
    [seriesColour(0, palette), 1],
    [palette.border, 1],
  ];
}

export class Parallel extends Lines {
  #axes: readonly Axis[] = [];
  #inner: Box = { x: 0, y: 0, width: 1, height: 1 };

  constructor(stage: Stage) {
    super(stage, words.parallel, words.parallelKeys, { height: 280, wide: true, open: true });
  }

  protected paint(
    surface: Surface,
    width: number,
    height: number,
  ): { note: string; legend: readonly Node[] } {
    const { state, palette, metric } = this.stage;
    const all = standings(state, metric);
    const shown = all.filter((row) => isShown(this.stage, row));
    this.#inner = { x: 50, y: 44, width: Math.max(10, width - 100), height: Math.max(10, height - 64) };
    this.#axes = this.#axesOf(shown);
    const drawn = [...shown.subarray(0, BEST), ...sampled(shown.subarray(BEST), OTHERS)];
    const first = Math.max(1, Math.min(MOST_BEST, Math.round(0.05 * all.length)));
    const quarter = Math.max(first, Math.round(all.length / 4));
    const places = new Uint32Array(state.trials.count).fill(all.length);
    for (const [place, row] of all.entries()) places[row] = place;
    this.lines = drawn.map((row) => ({ row, points: this.#points(row) }));
    this.order = shown;
    const kinds: Line[][] = [[], [], []];
    for (const line of this.lines) {
      const place = places[line.row] ?? all.length;
      kinds[place < first ? 0 : place < quarter ? 1 : 2]?.push(line);
    }
    const looks = quarterLooks(palette);
    for (const kind of [2, 1, 0]) {
      const [colour, thick] = looks[kind] ?? [palette.wire, 1];
      for (const { points } of kinds[kind] ?? []) drawLine(surface, points, colour, thick);
    }
    for (const [number, axis] of this.#axes.entries()) this.#drawAxis(surface, axis, number);
    const note = [
      drawn.length < shown.length ? words.drawn(drawn.length, shown.length) : "",
      all.length === 0 ? words.empty : shown.length === 0 ? words.noneMatch : "",
    ];
    return {
      note: noteOf(note),
      legend: looks.map(([colour], kind) => legendOf(colour, words.quarters(first)[kind] ?? "", "line")),
    };
  }

  #axesOf(rows: Uint32Array): Axis[] {
    const { state, metric } = this.stage;
    const { trials } = state;
    const ranges = byImportance(state)
      .slice(0, MOST_AXES)
      .map((place) => rangeAxis(state, place))
      .filter((one) => one !== undefined);
    const whole = rows.filter((row) => trials.isWhole(row));
    const count = ranges.length + (whole.length > 0 ? 1 : 0);
    const xOf = (at: number): number =>
      this.#inner.x + (count > 1 ? (at * this.#inner.width) / (count - 1) : this.#inner.width / 2);
    const made: Axis[] = ranges.map((range, at) => ({
      x: xOf(at),
      name: range.name,
      range,
      marks: range.marks,
      share: (row) => range.share(row),
      at: (share) => range.at(share),
    }));
    if (whole.length > 0) {
      const values = Float64Array.from(whole, (row) => trials.value(row, metric));
      const [low, high] = roomy(...spanOf(values, state.direction(metric) === "max"), false);
      made.push({
        x: xOf(count - 1),
        name: state.metrics[metric] ?? "",
        range: undefined,
        marks: [0, 0.5, 1].map((share) => [
          share,
          tickLabel(Number((low + (high - low) * share).toPrecision(3))),
        ]),
        share: (row) => {
          const value = trials.value(row, metric);
          if (!trials.isWhole(row) || !Number.isFinite(value)) return NaN;
          return Math.min(1, Math.max(0, (value - low) / (high - low)));
        },
        at: (share) => String(Number((low + (high - low) * share).toPrecision(5))),
      });
    }
    return made;
  }

  #points(row: number): number[] {
    const { y, height } = this.#inner;
    return this.#axes.flatMap((axis) => [axis.x, y + (1 - axis.share(row)) * height]);
  }

  #drawAxis(surface: Surface, axis: Axis, number: number): void {
    const { palette } = this.stage;
    const { y, height, width } = this.#inner;
    const room = this.#axes.length > 1 ? width / (this.#axes.length - 1) - 6 : width;
    surface.line([axis.x, y, axis.x, y + height], palette.text, 1);
    const wide = Math.min(room, 6.9 * axis.name.length);
    const last = number === this.#axes.length - 1 && number > 0;
    const left = last ? Math.min(axis.x - wide / 2, this.#inner.x + width + 48 - wide) : axis.x - wide / 2;
    surface.text(axis.name, Math.max(2, left), 14, 12, palette.text, room, true);
    for (const [share, label] of axis.marks) {
      const at = y + (1 - share) * height;
      surface.line([axis.x - 3, at, axis.x + 3, at], palette.text, 1);
      const size = Math.min(room / 2, 6.4 * label.length);
      // Above the upper end and below the lower one, else beside the axis.
      const outer = share === 0 ? at + 11 : share === 1 ? at - 10 : undefined;
      if (outer !== undefined) {
        const beside = Math.min(axis.x - size / 2, this.#inner.x + width + 48 - size);
        surface.text(label, Math.max(2, beside), outer, 11, palette.faint, room);
      } else {
        surface.box(
          { x: axis.x + 4, y: at - 7, width: size + 4, height: 14 },
          2,
          palette.background,
          null,
          0,
        );
        surface.text(label, axis.x + 6, at, 11, palette.faint, room);
      }
    }
  }

  protected emphasise(surface: Surface, row: number): void {
    if (this.#axes.length > 0) drawLine(surface, this.#points(row), this.stage.palette.text, 2.5);
  }

  protected override readonly dragged = (
    from: readonly [number, number],
    to: readonly [number, number],
  ): void => {
    const { state } = this.stage;
    const axis = this.#axes.find((one) => Math.abs(one.x - from[0]) < NEAR_AXIS);
    if (axis === undefined) return;
    const { y, height } = this.#inner;
    const [a, b] = [from[1], to[1]].map((at) => Math.min(1, Math.max(0, 1 - (at - y) / height))) as [
      number,
      number,
    ];
    const [low, high] = [axis.at(Math.min(a, b)), axis.at(Math.max(a, b))];
    if (axis.range === undefined) {
      const metric = state.metrics[this.stage.metric] ?? "";
      this.stage.narrow(metric, low, high);
    } else {
      const name = filterName(state, axis.range.place);
      this.stage.narrow(
        name,
        axis.range.isChoice ? axis.at((a + b) / 2) : low,
        axis.range.isChoice ? "" : high,
      );
    }
  };
}
