/** The data of an output, checked: anybody may have written the notebook that it comes from. */

import type { Content } from "../core/view";

export const MIME = "application/vnd.deepseek-lab.v1+json";
const SCHEMA = 1;
const MAX_VIEWS = 32;

export interface Payload {
  readonly run: string;
  readonly version: string;
  readonly live: boolean;
  readonly views: readonly Content[];
}

/** The payload, or a sentence that says why there is none. */
export function checkedPayload(data: unknown): Payload | string {
  if (!isRecord(data)) return "there is no data";
  const { schema, version, run, live, views } = data;
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
    found.push({ kind, title: typeof title === "string" ? title.toWellFormed() : "", packed });
  }
  return {
    run: typeof run === "string" ? run : "",
    version: typeof version === "string" ? version : "",
    live: live === true,
    views: found,
  };
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
