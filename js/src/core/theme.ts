/** Colours, taken from the page around: JupyterLab's variables where there are any, else the system's light or dark. */

export interface Palette {
  readonly background: string;
  readonly surface: string;
  readonly raised: string;
  readonly text: string;
  readonly faint: string;
  readonly border: string;
  readonly wire: string;
  readonly accent: string;
  readonly dark: boolean;
}

const LIGHT: Palette = {
  background: "#ffffff",
  surface: "#f4f6f8",
  raised: "#ffffff",
  text: "#1b1f24",
  faint: "#57606a",
  border: "#c3cad2",
  wire: "#8b949e",
  accent: "#0b62c4",
  dark: false,
};
const DARK: Palette = {
  background: "#14171b",
  surface: "#1d2126",
  raised: "#262b31",
  text: "#e8eaed",
  faint: "#a4acb5",
  border: "#434b55",
  wire: "#6b7480",
  accent: "#6fb1ff",
  dark: true,
};

/** The colours that fit where an element stands. */
export function paletteOf(element: Element): Palette {
  const known = element.ownerDocument.body.dataset["jpThemeLight"];
  if (known !== undefined) return known === "false" ? DARK : LIGHT;
  const { body, documentElement: root, defaultView: view } = element.ownerDocument;
  // VS Code says it by a class, Colab by an attribute.
  if (/\bvscode-(light|high-contrast-light)\b/.test(body.className)) return LIGHT;
  if (/\bvscode-(dark|high-contrast)\b/.test(body.className)) return DARK;
  const colab = root.getAttribute("theme");
  if (colab === "dark" || colab === "light") return colab === "dark" ? DARK : LIGHT;
  return view?.matchMedia("(prefers-color-scheme: dark)").matches ? DARK : LIGHT;
}

/** Call back whenever the colours may have become others; returns what ends that. */
export function onThemeChange(element: Element, changed: () => void): () => void {
  const view = element.ownerDocument.defaultView;
  const query = view?.matchMedia("(prefers-color-scheme: dark)");
  query?.addEventListener("change", changed);
  const observer = new MutationObserver(changed);
  observer.observe(element.ownerDocument.body, {
    attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"],
  });
  return () => {
    query?.removeEventListener("change", changed);
    observer.disconnect();
  };
}

/** Set the colours as CSS variables for what is drawn by the page. */
export function applyPalette(element: HTMLElement, palette: Palette): void {
  for (const [name, value] of Object.entries(palette)) {
    if (typeof value === "string") element.style.setProperty(`--dsl-${name}`, value);
  }
  element.style.colorScheme = palette.dark ? "dark" : "light";
}

/** Tints for kinds of things: twelve hues that can be told apart, as a background for dark or for light text. */
export function tint(index: number, palette: Palette): string {
  const hue = (index * 137.5 + 205) % 360;
  return palette.dark ? `hsl(${hue} 32% 26%)` : `hsl(${hue} 62% 90%)`;
}

/** A shade for a share of the largest value, 0 to 1: pale to strong. */
export function heat(share: number, palette: Palette): string {
  const strength = Math.min(1, Math.max(0, share));
  return palette.dark
    ? `hsl(28 ${20 + 50 * strength}% ${18 + 15 * strength}%)`
    : `hsl(28 ${60 + 30 * strength}% ${97 - 32 * strength}%)`;
}

/** For what went wrong: a line around it, and with `pale` what lies behind its text. */
export function alarm(palette: Palette, pale = false): string {
  if (pale) return palette.dark ? "#4d2521" : "#fbe3e1";
  return palette.dark ? "#ff8a80" : "#b3261e";
}
