/** Values by trial, with the best so far: small trials are pale, those that failed are crosses at the foot. */

import { Axis, frame, innerOf, roomy } from "../charts/plane";
import type { Surface } from "../surface";
import { Dots, drawCrosses, drawDashes, drawDots } from "./dots";
import { legendOf, noteOf, Picture } from "./picture";
import { Places } from "./places";
import { defaultsOf, records, valuedWith } from "./ranking";
import { colourOf, dotsOf, isShown, lookOf, type Stage } from "./stage";
import { words } from "./words";

/** Crosses that are drawn, at most. */
const CROSSES = 1_000;

export class History extends Picture {
  #places = new Places(0);

  constructor(stage: Stage) {
    super(stage, words.history, words.dotKeys, { height: 250, wide: true, open: true });
  }

  protected paint(
    surface: Surface,
    width: number,
    height: number,
  ): { note: string; legend: readonly Node[] } {
    const { state, palette, metric } = this.stage;
    const { trials } = state;
    const inner = innerOf(width, height);
    const { rows, values, span } = valuedWith(state, metric);
    const y = new Axis(...roomy(...span, false), false, inner.y + inner.height, inner.y);
    let [first, last] = [Infinity, -Infinity];
    for (let row = 0; row < trials.count; row++) {
      if (trials.purposeOf(row) === "repeat") continue;
      const number = trials.trial.get(row);
      if (number < first) first = number;
      if (number > last) last = number;
    }
    if (first > last) [first, last] = [0, 1];
    const x = new Axis(first - 0.5, last + 0.5, false, inner.x, inner.x + inner.width);
    const name = state.metrics[metric] ?? "";
    frame(surface, inner, [x, y], [words.column.trial, words.value(name, state.direction(metric))], palette);

    const places = (this.#places = new Places(trials.count));
    const clamp = (at: number): number => Math.min(inner.y + inner.height, Math.max(inner.y, at));
    const groups = dotsOf(palette, 2, 3);
    let beyond = 0;
    rows.forEach((row, at) => {
      if (!isShown(this.stage, row)) return;
      const [px, raw] = [x.pixel(trials.trial.get(row)), y.pixel(values[at] ?? NaN)];
      const py = clamp(raw);
      if (Math.abs(py - raw) > 1) beyond++;
      groups.get(lookOf(state, row))?.add(px, py);
      places.add(row, px, py);
    });
    const crosses = new Dots(colourOf("failed", palette), 3);
    for (let row = 0; row < trials.count; row++) {
      if (trials.statusOf(row) !== "failed" || trials.purposeOf(row) === "repeat") continue;
      if (!isShown(this.stage, row)) continue;
      const [px, py] = [x.pixel(trials.trial.get(row)), inner.y + inner.height - 5];
      crosses.add(px, py);
      places.add(row, px, py);
    }
    const defaults = defaultsOf(state);
    if (defaults >= 0) {
      const at = clamp(y.pixel(trials.value(defaults, metric)));
      drawDashes(surface, inner.x, inner.x + inner.width, at, palette.faint);
      surface.text(words.defaults, inner.x + 4, at - 8, 11, palette.faint, 80);
    }
    drawDots(surface, [{ inner, groups: [...groups.values()] }], { width, height });
    drawCrosses(surface, crosses.points.slice(-2 * CROSSES), crosses.colour);
    this.#drawBest(surface, x, y, inner.x + inner.width, clamp);
    const legend = [legendOf(colourOf("best", palette), words.looks.best, "line")];
    for (const [look, { count, colour }] of groups) {
      if (count > 0) legend.push(legendOf(colour, words.looks[look]));
    }
    if (crosses.count > 0) legend.push(legendOf(crosses.colour, words.looks.failed, "cross"));
    const note = [beyond > 0 ? words.beyond(beyond) : "", rows.length === 0 ? words.empty : ""];
    return { note: noteOf(note), legend };
  }

  #drawBest(surface: Surface, x: Axis, y: Axis, end: number, clamp: (at: number) => number): void {
    const { state, palette, metric } = this.stage;
    const path: number[] = [];
    for (const row of records(state, metric)) {
      const [px, py] = [
        x.pixel(state.trials.trial.get(row)),
        clamp(y.pixel(state.trials.value(row, metric))),
      ];
      if (path.length > 0) path.push(px, path.at(-1) ?? py);
      path.push(px, py);
    }
    if (path.length === 0) return;
    path.push(end, path.at(-1) ?? 0);
    surface.line(path, colourOf("best", palette), 2);
  }

  protected emphasise(surface: Surface, row: number): void {
    const at = this.#places.of(row);
    if (at === undefined) return;
    const box = { x: at[0] - 6, y: at[1] - 6, width: 12, height: 12 };
    surface.box(box, 6, null, this.stage.palette.text, 2);
  }

  protected near(x: number, y: number): number {
    return this.#places.near(x, y);
  }

  protected follow(key: string, row: number): number | undefined {
    return this.#places.follow(key, row);
  }
}
