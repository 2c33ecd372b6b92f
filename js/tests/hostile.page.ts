/** Runs in the page: shows a payload in every way that there is, uses what it shows, and looks at what came of it. */

import { message, style } from "../src/core/kinds";
import { checkedPayload } from "../src/core/payload";
import { Tabs, TABS_STYLE } from "../src/core/tabs";
import { show } from "../src/page/index";
import { render } from "../src/widget/index";

/** What was found after a payload was shown. */
export interface Seen {
  readonly kind: string;
  /** Sentences that say why something cannot be shown. */
  readonly alerts: readonly string[];
  /** The beginning of what can be read. */
  readonly text: string;
  /** What must not be: elements and attributes of a payload's making, calls of `__hit`. */
  readonly wrong: readonly string[];
  readonly milliseconds: number;
}

/** All that views are made of; whatever else is in the page is a payload's. */
const ELEMENTS = new Set(
  (
    "b br button canvas dd details div dl dt h3 header i input label li option p pre progress section select small " +
    "span strong style summary table tbody td tfoot th thead tr ul"
  ).split(" "),
);
const DRAWN = new Set("svg rect path polyline polygon text circle line g".split(" "));
const LINKS = new Set(
  "href src srcdoc srcset action formaction data xlink:href background poster ping".split(" "),
);
const KEYS = "ArrowDown ArrowRight ArrowUp ArrowLeft End Home PageDown PageUp Enter + - P . Escape".split(
  " ",
);
/** No view says more than this at once: a page that lays out megabytes of text hangs. */
const MOST_TEXT = 600_000;
const MOST_MESSAGE = 400;
const SETTLE_MS = 6_000;

const wrong: string[] = [];
(window as unknown as { __hit: (what: unknown) => void }).__hit = (what) =>
  wrong.push(`executed: ${String(what)}`);
window.addEventListener("unhandledrejection", (event) => wrong.push(`a rejection: ${String(event.reason)}`));

/** Files that a view wanted to save; a test saves none. */
const files: Blob[] = [];
URL.createObjectURL = (made) => {
  if (made instanceof Blob) files.push(made);
  return "about:blank#file";
};
HTMLAnchorElement.prototype.click = () => undefined;
const keysOfObjects = Object.getOwnPropertyNames(Object.prototype).join();

/** As a page of its own, or in a frame, has it: as each of these kinds at once. */
export async function shown(text: string, kinds: readonly string[]): Promise<Seen[]> {
  return looked(kinds, async (host, kind) => {
    const view = await show(host, contentOf(text, kind));
    return () => view.dispose();
  });
}

/** As JupyterLab's renderer has it: behind tabs, each of which is chosen. */
export async function tabbed(text: string, kinds: readonly string[]): Promise<Seen[]> {
  return looked([kinds.join()], async (host) => {
    const payload = checkedPayload(dataOf(text, kinds));
    host.append(element("style", style() + TABS_STYLE));
    if (typeof payload === "string") {
      const view = message(host, payload);
      return () => view.dispose();
    }
    const tabs = new Tabs();
    host.append(tabs.element);
    await tabs.take(payload.views, { keepLive: false });
    for (const button of host.querySelectorAll<HTMLElement>("[role=tab]")) button.click();
    await tabs.live();
    await settled(host);
    await tabs.take(payload.views, { keepLive: true });
    return () => tabs.dispose();
  });
}

/** As a front end that has only widgets has it: what is saved, then news of it, then traits that are no such thing. */
export async function live(text: string, kinds: readonly string[]): Promise<Seen[]> {
  const view: unknown = JSON.parse(contentOf(text, "run"));
  const packed = typeof view === "object" && view !== null && "packed" in view ? view.packed : view;
  return looked([kinds.join()], async (host) => {
    const hears = new Map<string, () => void>();
    const traits: Record<string, unknown> = {
      payload: dataOf(text, kinds),
      packed,
      stopping: { toString: 1 },
    };
    const model = {
      get: (name: string) => traits[name],
      on: (name: string, hear: () => void) => hears.set(name, hear),
      off: (name: string) => hears.delete(name),
      send: () => undefined,
    };
    const end = render({ model, el: host } as unknown as Parameters<typeof render>[0]);
    await settled(host);
    for (const hear of hears.values()) hear();
    Object.assign(traits, { payload: { toString: 1 }, packed: ["<b>"], stopping: true });
    for (const hear of hears.values()) hear();
    await settled(host);
    return end;
  });
}

function element(name: string, text: string): HTMLElement {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

/** The data of an output, its one view once for each kind. */
function dataOf(text: string, kinds: readonly string[]): unknown {
  const data: unknown = JSON.parse(text);
  if (typeof data !== "object" || data === null || !("views" in data) || !Array.isArray(data.views))
    return data;
  const [first] = data.views as unknown[];
  const one = typeof first === "object" && first !== null && "kind" in first && first.kind === "@kind";
  if (one && data.views.length < 2) data.views = kinds.map((kind) => ({ ...(first as object), kind }));
  else if (one) for (const view of data.views as { kind: string }[]) view.kind = kinds[0] ?? "";
  return data;
}

/** What a page's own data would be: the first view. */
function contentOf(text: string, kind: string): string {
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch {
    return text;
  }
  const { schema, views } = (data ?? {}) as Record<string, unknown>;
  const first: unknown = schema === 1 && Array.isArray(views) ? views[0] : data;
  return JSON.stringify(first ?? null).replaceAll('"@kind"', JSON.stringify(kind));
}

/** Show something, once for each kind, use it, and look at what came of it. */
async function looked(
  kinds: readonly string[],
  make: (host: HTMLElement, kind: string) => Promise<() => void>,
): Promise<Seen[]> {
  const began = performance.now();
  wrong.length = files.length = 0;
  const hosts = kinds.map(() => document.body.appendChild(document.createElement("main")));
  const ends = await Promise.all(hosts.map((host, at) => make(host, kinds[at] ?? "")));
  await Promise.all(hosts.map(settled));
  const found = hosts.map((host, at) => read(host, kinds[at] ?? ""));
  if (hosts.length === 1) for (const host of hosts) use(host);
  await frames();
  for (const host of hosts) inspect(host);
  for (const file of files) await inspectFile(file);
  for (const end of ends) end();
  for (const host of hosts) host.remove();
  await frames();
  if (Object.getOwnPropertyNames(Object.prototype).join() !== keysOfObjects)
    wrong.push("objects have new keys");
  if (document.body.childElementCount > 0) wrong.push("something was left behind");
  return found.map((one) => ({ ...one, wrong: [...wrong], milliseconds: performance.now() - began }));
}

function read(host: HTMLElement, kind: string): Pick<Seen, "kind" | "alerts" | "text"> {
  const alerts = Array.from(host.querySelectorAll("[role=alert]"), (one) => one.textContent ?? "");
  for (const alert of alerts) {
    if (!/^This view cannot be shown: .{4}/s.test(alert)) wrong.push(`${kind}: a message that says nothing`);
    if (alert.length > MOST_MESSAGE) wrong.push(`${kind}: a message of ${alert.length} characters`);
  }
  const { length } = host.textContent ?? "";
  if (length > MOST_TEXT) wrong.push(`${kind}: ${length} characters at once`);
  return { kind, alerts, text: host.innerText.trim().slice(0, 200) };
}

function inspect(host: HTMLElement): void {
  for (const one of host.querySelectorAll("*")) {
    if (!ELEMENTS.has(one.localName)) wrong.push(`an element: ${one.localName}`);
    for (const { name, value } of one.attributes) {
      if (/^on/i.test(name) || LINKS.has(name)) wrong.push(`an attribute: ${name}`);
      if (name === "style" && /url\s*\(|expression|position:\s*fixed/i.test(value))
        wrong.push("a style of its own");
    }
  }
}

async function inspectFile(file: Blob): Promise<void> {
  const text = await file.slice(0, 5e6).text();
  if (file.type === "image/svg+xml" && file.size < 5e6) {
    const drawn = new DOMParser().parseFromString(text, "image/svg+xml");
    for (const one of drawn.querySelectorAll("*")) {
      if (!DRAWN.has(one.localName)) wrong.push(`an element of a file: ${one.localName}`);
      for (const { name } of one.attributes)
        if (/^on/i.test(name) || LINKS.has(name)) wrong.push(`an attribute of a file: ${name}`);
    }
  }
  if (file.type === "text/csv" && /(^|,|\r\n)"?[=@]/.test(text)) wrong.push("a formula in a file");
}

/** Everything that a reader could press, choose, type or point at. */
function use(host: HTMLElement): void {
  const all = <One extends HTMLElement>(query: string, most: number): One[] =>
    Array.from(host.querySelectorAll<One>(query)).slice(0, most);
  for (const box of all<HTMLInputElement>("input[type=search]", 2)) {
    for (const typed of ["constructor", '"__proto__">1 x=missing']) {
      box.value = typed;
      box.dispatchEvent(new Event("input"));
      box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
    }
    box.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  }
  for (const one of all("summary, [role=columnheader], [role=treeitem], [role=gridcell]", 12)) one.click();
  for (const one of all("button:not([role=tab])", 40)) one.click();
  for (const one of all<HTMLSelectElement>("select", 6)) {
    for (const option of [1, one.options.length - 1]) {
      one.selectedIndex = option;
      one.dispatchEvent(new Event("change"));
    }
  }
  for (const one of all("[tabindex='0']", 8)) {
    one.focus();
    for (const key of KEYS)
      one.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  }
  for (const one of all(".dsl-picture, .dsl-plot, .dsl-row", 4)) {
    const box = one.getBoundingClientRect();
    const at = { clientX: box.x + box.width / 3, clientY: box.y + box.height / 3, bubbles: true };
    for (const name of ["mouseover", "pointermove", "mousemove"])
      one.dispatchEvent(new PointerEvent(name, at));
    one.dispatchEvent(new WheelEvent("wheel", { ...at, ctrlKey: true, deltaY: -60, cancelable: true }));
  }
}

/** Until what was waiting for a frame has been drawn. */
const frames = (): Promise<unknown> => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

/** Until there is something to read. */
async function settled(host: HTMLElement): Promise<void> {
  const until = performance.now() + SETTLE_MS;
  while (host.innerText.trim() === "" && performance.now() < until) await frames();
  await frames();
}
