/** What views draw on: the same few strokes on a canvas and in an SVG file. */

export interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export interface Surface {
  box(box: Box, radius: number, fill: string | null, stroke: string | null, lineWidth: number): void;
  /** A curve from one point to another that leaves and arrives vertically. */
  wire(x1: number, y1: number, x2: number, y2: number, stroke: string, lineWidth: number): void;
  /** Straight lines from point to point, x and y in turn. */
  line(points: readonly number[], stroke: string, lineWidth: number): void;
  /** What lies inside of straight lines from point to point, x and y in turn. */
  area(points: readonly number[], fill: string): void;
  /** Text, its middle at `y`, cut off to `maxWidth`. */
  text(
    text: string,
    x: number,
    y: number,
    size: number,
    fill: string,
    maxWidth: number,
    bold?: boolean,
  ): void;
}

export const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

/** Text cut to a width, by the mean width of a character: measuring each would cost more than drawing it. */
export function clipped(text: string, size: number, maxWidth: number): string {
  const room = Math.floor(maxWidth / (size * 0.54));
  return text.length <= room ? text : room < 2 ? "" : `${text.slice(0, room - 1)}…`;
}

export class CanvasSurface implements Surface {
  constructor(readonly context: CanvasRenderingContext2D) {}

  box(box: Box, radius: number, fill: string | null, stroke: string | null, lineWidth: number): void {
    const { context } = this;
    context.beginPath();
    if (radius > 0.5) context.roundRect(box.x, box.y, box.width, box.height, radius);
    else context.rect(box.x, box.y, box.width, box.height);
    if (fill !== null) {
      context.fillStyle = fill;
      context.fill();
    }
    if (stroke !== null) {
      context.strokeStyle = stroke;
      context.lineWidth = lineWidth;
      context.stroke();
    }
  }

  wire(x1: number, y1: number, x2: number, y2: number, stroke: string, lineWidth: number): void {
    const { context } = this;
    const bend = bendOf(y1, y2);
    context.beginPath();
    context.moveTo(x1, y1);
    context.bezierCurveTo(x1, y1 + bend, x2, y2 - bend, x2, y2);
    context.strokeStyle = stroke;
    context.lineWidth = lineWidth;
    context.stroke();
  }

  line(points: readonly number[], stroke: string, lineWidth: number): void {
    const { context } = this;
    context.beginPath();
    for (let at = 0; at < points.length; at += 2) context.lineTo(points[at] ?? 0, points[at + 1] ?? 0);
    context.strokeStyle = stroke;
    context.lineWidth = lineWidth;
    context.stroke();
  }

  area(points: readonly number[], fill: string): void {
    const { context } = this;
    context.beginPath();
    for (let at = 0; at < points.length; at += 2) context.lineTo(points[at] ?? 0, points[at + 1] ?? 0);
    context.fillStyle = fill;
    context.fill();
  }

  text(text: string, x: number, y: number, size: number, fill: string, maxWidth: number, bold = false): void {
    const shown = clipped(text, size, maxWidth);
    if (shown === "") return;
    this.context.font = `${bold ? "600 " : ""}${size}px ${FONT}`;
    this.context.textBaseline = "middle";
    this.context.fillStyle = fill;
    this.context.fillText(shown, x, y);
  }
}

export class SvgSurface implements Surface {
  readonly #parts: string[] = [];

  constructor(
    readonly width: number,
    readonly height: number,
    readonly background: string,
  ) {}

  box(box: Box, radius: number, fill: string | null, stroke: string | null, lineWidth: number): void {
    this.#parts.push(
      `<rect x="${n(box.x)}" y="${n(box.y)}" width="${n(box.width)}" height="${n(box.height)}" rx="${n(radius)}" ` +
        `fill="${fill ?? "none"}" stroke="${stroke ?? "none"}" stroke-width="${n(lineWidth)}"/>`,
    );
  }

  wire(x1: number, y1: number, x2: number, y2: number, stroke: string, lineWidth: number): void {
    const bend = bendOf(y1, y2);
    this.#parts.push(
      `<path d="M${n(x1)} ${n(y1)}C${n(x1)} ${n(y1 + bend)} ${n(x2)} ${n(y2 - bend)} ${n(x2)} ${n(y2)}" ` +
        `fill="none" stroke="${stroke}" stroke-width="${n(lineWidth)}"/>`,
    );
  }

  line(points: readonly number[], stroke: string, lineWidth: number): void {
    this.#parts.push(
      `<polyline points="${points.map(n).join(" ")}" fill="none" stroke="${stroke}" stroke-width="${n(lineWidth)}"/>`,
    );
  }

  area(points: readonly number[], fill: string): void {
    this.#parts.push(`<polygon points="${points.map(n).join(" ")}" fill="${fill}"/>`);
  }

  text(text: string, x: number, y: number, size: number, fill: string, maxWidth: number, bold = false): void {
    const shown = clipped(text, size, maxWidth);
    if (shown === "") return;
    this.#parts.push(
      `<text x="${n(x)}" y="${n(y)}" font-size="${n(size)}" fill="${fill}" dominant-baseline="central"` +
        `${bold ? ' font-weight="600"' : ""}>${escaped(shown)}</text>`,
    );
  }

  /** The whole picture. */
  toString(): string {
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${n(this.width)}" height="${n(this.height)}" ` +
      `viewBox="0 0 ${n(this.width)} ${n(this.height)}" font-family="${escaped(FONT)}">` +
      `<rect width="100%" height="100%" fill="${this.background}"/>${this.#parts.join("")}</svg>`
    );
  }
}

function bendOf(y1: number, y2: number): number {
  return Math.min(40, Math.max(8, Math.abs(y2 - y1) / 2));
}

function n(value: number): string {
  return Number.isFinite(value) ? String(Math.round(value * 100) / 100) : "0";
}

/** Text for XML: markup as entities, and without what XML cannot hold. */
export function escaped(text: string): string {
  return Array.from(text.toWellFormed(), (character) => {
    const code = character.codePointAt(0) ?? 0;
    if ((code < 32 && ![9, 10, 13].includes(code)) || code === 0xfffe || code === 0xffff) return "\ufffd";
    return "&<>\"'".includes(character) ? `&#${code};` : character;
  }).join("");
}
