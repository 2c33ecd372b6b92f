/** The data of an output, checked: anybody may have written the notebook that it comes from. */

import { clip } from "./clip";
import type { Content } from "./view";

export const MIME = "application/vnd.deepseek-lab.v1+json";
const SCHEMA = 1;
const MAX_VIEWS = 32;

export interface Payload {
  readonly run: string;
  readonly version: string;
  readonly live: boolean;
  /** Whether the run is the loop of a cell that is running, so that interrupting the cell ends it and nothing else. */
  readonly inCell: boolean;
  readonly views: readonly Content[];
}

/** The payload, or a sentence that says why there is none. */
export function checkedPayload(data: unknown): Payload | string {
  if (!isRecord(data)) return "there is no data";
  const { schema, version, run, live, in_cell: inCell, views } = data;
  if (schema !== SCHEMA) {
    return typeof schema === "number" && schema > SCHEMA
      ? "this output was written by a newer version: pip install -U deepseek_lab, then restart JupyterLab"
      : "the data has no known schema";
  }
  if (!Array.isArray(views)) return "there are no views in it";
  const found: Content[] = [];
  for (const view of views.slice(0, MAX_VIEWS) as unknown[]) {
    if (!isRecord(view)) continue;
    const { kind, title, packed } = view;
    if (typeof kind !== "string" || typeof packed !== "string") continue;
    found.push({ kind, title: typeof title === "string" ? clip(title) : "", packed });
  }
  if (found.length === 0) return "there are no views in it";
  return {
    run: typeof run === "string" ? run : "",
    version: typeof version === "string" ? version : "",
    live: live === true,
    inCell: inCell === true,
    views: found,
  };
}

/** The first line of what a notebook keeps as text. */
export function firstLine(plain: unknown): string {
  return clip(asText(plain).split("\n", 1)[0] ?? "");
}

/** Text as notebooks keep it: whole, or as a list of its lines. */
export function asText(value: unknown): string {
  if (Array.isArray(value)) return value.filter((line) => typeof line === "string").join("");
  return typeof value === "string" ? value : "";
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
