/** Elements without markup: names and strings from a notebook only ever become text. */

type Attributes = Readonly<Record<string, string | number | boolean | undefined>>;

/** A new element. `true` sets an attribute without a value, `false` and undefined leave it out. */
export function element<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== undefined && value !== false) made.setAttribute(key, String(value));
  }
  made.append(...children);
  return made;
}

/** Have an element say something; one that says it already is left alone. */
export function write(where: HTMLElement, text: string): void {
  if (where.textContent !== text) where.textContent = text;
}

/** A button with a name for those who cannot see its sign. */
export function button(sign: string, label: string, pressed: () => void): HTMLButtonElement {
  const made = element("button", { type: "button", "aria-label": label, title: label }, sign);
  made.addEventListener("click", pressed);
  return made;
}

/** Let the user save a file. */
export function download(name: string, data: Blob): void {
  const link = element("a", { download: name });
  link.href = URL.createObjectURL(data);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
