/** Whole trials by two metrics, with the Pareto front. */

import { Axis, frame, innerOf, roomy } from "../charts/plane";
import type { Surface } from "../surface";
import { Dots, drawDots } from "./dots";
import { legendOf, noteOf, Picture } from "./picture";
import { Places } from "./places";
import { front, spanOf } from "./ranking";
import { colourOf, isShown, type Stage } from "./stage";
import { words } from "./words";

export class Front extends Picture {
  #places = new Places(0);

  constructor(stage: Stage) {
    super(stage, words.front, words.dotKeys, { height: 280, wide: true, open: true });
  }

  /** The two metrics: the one that is shown and the next one. */
  get metrics(): readonly [number, number] {
    const { metric, state } = this.stage;
    return [metric, (metric + 1) % state.metrics.length];
  }

  protected paint(
    surface: Surface,
    width: number,
    height: number,
  ): { note: string; legend: readonly Node[] } {
    const { state, palette } = this.stage;
    const { trials } = state;
    const inner = innerOf(width, height);
    const [a, b] = this.metrics;
    const results: number[] = [];
    for (let row = 0; row < trials.count; row++) {
      const placed = Number.isFinite(trials.value(row, a)) && Number.isFinite(trials.value(row, b));
      if (placed && trials.isResult(row)) results.push(row);
    }
    const [x, y] = [a, b].map((metric, axis) => {
      const values = Float64Array.from(results, (row) => trials.value(row, metric));
      const span = roomy(...spanOf(values, state.direction(metric) === "max"), false);
      return axis === 0
        ? new Axis(...span, false, inner.x, inner.x + inner.width)
        : new Axis(...span, false, inner.y + inner.height, inner.y);
    }) as [Axis, Axis];
    const label = (metric: number): string =>
      words.value(state.metrics[metric] ?? "", state.direction(metric));
    frame(surface, inner, [x, y], [label(a), label(b)], palette);
    const inX = (at: number): number => Math.min(inner.x + inner.width, Math.max(inner.x, at));
    const inY = (at: number): number => Math.min(inner.y + inner.height, Math.max(inner.y, at));
    const best = front(state, a, b);
    const onFront = new Set(best);
    const places = (this.#places = new Places(results.length));
    const [others, ringed] = [
      new Dots(colourOf("whole", palette), 3),
      new Dots(colourOf("best", palette), 4),
    ];
    for (const row of results) {
      if (!isShown(this.stage, row)) continue;
      const [px, py] = [inX(x.pixel(trials.value(row, a))), inY(y.pixel(trials.value(row, b)))];
      (onFront.has(row) ? ringed : others).add(px, py);
      places.add(row, px, py);
    }
    const steps: number[] = [];
    for (const row of best) {
      const [px, py] = [inX(x.pixel(trials.value(row, a))), inY(y.pixel(trials.value(row, b)))];
      if (steps.length > 0) steps.push(px, steps.at(-1) ?? py);
      steps.push(px, py);
    }
    if (steps.length > 2) surface.line(steps, colourOf("best", palette), 1);
    drawDots(surface, [{ inner, groups: [others, ringed] }], { width, height });
    return {
      note: noteOf([results.length === 0 ? words.empty : ""]),
      legend: [
        legendOf(colourOf("best", palette), words.front),
        legendOf(colourOf("whole", palette), words.looks.whole),
      ],
    };
  }

  protected emphasise(surface: Surface, row: number): void {
    const at = this.#places.of(row);
    if (at === undefined) return;
    const box = { x: at[0] - 7, y: at[1] - 7, width: 14, height: 14 };
    surface.box(box, 7, null, this.stage.palette.text, 2);
  }

  protected near(x: number, y: number): number {
    return this.#places.near(x, y);
  }

  protected follow(key: string, row: number): number | undefined {
    return this.#places.follow(key, row);
  }
}
