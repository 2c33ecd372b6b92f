/** What trials reported on their way; those that were stopped are fainter and end in a cross. */

import { Axis, frame, innerOf, roomy } from "../charts/plane";
import type { Surface } from "../surface";
import { drawCrosses } from "./dots";
import { drawLine, Lines } from "./lines";
import { legendOf, noteOf } from "./picture";
import { sampled, spanOf, standings } from "./ranking";
import { colourOf, isShown, type Look, lookOf, type Stage } from "./stage";
import type { Curve } from "./trials";
import { words } from "./words";

const BEST = 60;
const OTHERS = 140;
/** Points of one curve that are drawn. */
const POINTS = 200;

export class Curves extends Lines {
  #axes: readonly [Axis, Axis] | undefined;

  constructor(stage: Stage) {
    super(stage, words.curves, words.lineKeys, { height: 230, wide: false, open: true });
  }

  /** Whether a trial has reported more than once. */
  get any(): boolean {
    for (const curve of this.stage.state.trials.curves.values()) if (curve.values.length > 1) return true;
    return false;
  }

  protected paint(
    surface: Surface,
    width: number,
    height: number,
  ): { note: string; legend: readonly Node[] } {
    const { state, palette } = this.stage;
    const { trials } = state;
    const ranked = standings(state, 0);
    const places = new Map(Array.from(ranked, (row, place) => [row, place]));
    const rows = Uint32Array.from(
      [...trials.curves]
        .filter(
          ([row, curve]) =>
            curve.values.length > 1 && trials.purposeOf(row) !== "repeat" && isShown(this.stage, row),
        )
        .map(([row]) => row),
    ).sort((a, b) => (places.get(a) ?? Infinity) - (places.get(b) ?? Infinity) || a - b);
    const drawn = [...rows.subarray(0, BEST), ...sampled(rows.subarray(BEST), OTHERS)];
    const inner = innerOf(width, height);
    const axes = (this.#axes = this.#axesOf(drawn, width, height));
    const label = words.value(state.metrics[0] ?? "", state.direction(0));
    frame(surface, inner, axes, ["step", label], palette);
    this.order = rows;
    const best = ranked.find((row) => trials.isResult(row)) ?? -1;
    this.lines = drawn.map((row) => ({ row, points: this.#points(row) })).reverse();
    const ends: number[] = [];
    for (const { row, points } of this.lines) {
      const look = lookOf(state, row);
      if (row === best) continue;
      drawLine(
        surface,
        points,
        faint(look, colourOf(look, palette)),
        look === "whole" || look === "running" ? 1.2 : 1,
      );
      if (look === "stopped") ends.push(...points.slice(-2));
    }
    drawCrosses(surface, ends, colourOf("stopped", palette), 2.5);
    if (best >= 0) drawLine(surface, this.#points(best), colourOf("best", palette), 2);
    const used = new Set(drawn.map((row) => lookOf(state, row)));
    const order: Look[] = ["whole", "small", "stopped", "running"];
    return {
      note: noteOf([
        drawn.length < rows.length ? words.drawn(drawn.length, rows.length) : "",
        rows.length === 0 ? words.empty : "",
      ]),
      legend: [
        ...(best >= 0 ? [legendOf(colourOf("best", palette), words.bestCurve, "line")] : []),
        ...order
          .filter((look) => used.has(look))
          .map((look) =>
            legendOf(colourOf(look, palette), words.looks[look], look === "stopped" ? "cross" : "line"),
          ),
      ],
    };
  }

  #axesOf(rows: readonly number[], width: number, height: number): readonly [Axis, Axis] {
    const { state } = this.stage;
    const values: number[] = [];
    let [first, last] = [Infinity, -Infinity];
    for (const row of rows) {
      const curve = state.trials.curves.get(row);
      if (curve === undefined) continue;
      for (let at = 0; at < curve.values.length; at++) {
        values.push(curve.values[at] ?? NaN);
        const step = curve.steps[at] ?? NaN;
        if (Number.isFinite(step)) [first, last] = [Math.min(first, step), Math.max(last, step)];
      }
    }
    if (!(first < last)) [first, last] = first === last ? [first - 1, first + 1] : [0, 1];
    const span = roomy(...spanOf(Float64Array.from(values), state.direction(0) === "max"), false);
    const inner = innerOf(width, height);
    return [
      new Axis(first, last, false, inner.x, inner.x + inner.width),
      new Axis(...span, false, inner.y + inner.height, inner.y),
    ];
  }

  #points(row: number): number[] {
    const curve: Curve = this.stage.state.trials.curves.get(row) ?? { steps: [], values: [] };
    const axes = this.#axes;
    if (axes === undefined) return [];
    const [x, y] = axes;
    const [top, bottom] = [y.end, y.start];
    const count = Math.min(POINTS, curve.values.length);
    const points: number[] = [];
    for (let number = 0; number < count; number++) {
      const at = count < 2 ? 0 : Math.round((number * (curve.values.length - 1)) / (count - 1));
      const [step, value] = [curve.steps[at] ?? NaN, curve.values[at] ?? NaN];
      const finite = Number.isFinite(step) && Number.isFinite(value);
      points.push(
        finite ? x.pixel(step) : x.start,
        finite ? Math.min(bottom, Math.max(top, y.pixel(value))) : NaN,
      );
    }
    return points;
  }

  protected emphasise(surface: Surface, row: number): void {
    drawLine(surface, this.#points(row), this.stage.palette.text, 2.5);
  }
}

/** A colour that lets what lies below shine through. */
function faint(look: Look, colour: string): string {
  return look === "whole" || look === "running" ? colour : `${colour}88`;
}
