/** Where in time the places are of which other views speak. */

import { isInside, type Place } from "../view";
import type { TimelineData } from "./data";

/**
 * The state that the first allocation of a place led to: of its line in its module, else of its module, else of its
 * line; 0 where there is none.
 */
export function stateOf(data: TimelineData, { file, line, module }: Place): number {
  const fits = data.contexts.map((context) => {
    const onLine = file !== "" && line > 0 && context.file === file && context.line === line;
    return (isInside(context.module, module) ? 2 : 0) + (onLine ? 1 : 0);
  });
  const best = fits.reduce((most, one) => Math.max(most, one), 0);
  let first = 0;
  for (let row = 0; best > 0 && row < data.rows; row++) {
    if (fits[data.context[row] ?? 0] !== best) continue;
    if ((data.delta[row] ?? 0) > 0) return row + 1;
    first ||= row + 1;
  }
  return first;
}
