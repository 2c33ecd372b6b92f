/** Canvases as large as their place, and pictures as files. */

import { button, download } from "./dom";
import { words } from "./words";

/** A canvas as large as its place, ready to be drawn on in CSS pixels. */
export function sized(
  canvas: HTMLCanvasElement,
  width: number,
  height: number,
  ratio: number,
): CanvasRenderingContext2D | null {
  const [across, down] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context?.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/** The picture on a canvas, as a file. */
export function pngOf(canvas: HTMLCanvasElement): Promise<Blob> {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob === null ? reject(new Error("no picture")) : resolve(blob)), "image/png");
  });
}

/** A name for a file by the title of what it holds. */
export function fileName(title: string, otherwise: string): string {
  return title.replace(/[^\w.-]+/g, "_").slice(0, 80) || otherwise;
}

/** Buttons that save a picture under a title. */
export function savers(
  title: string,
  otherwise: string,
  svg: () => string,
  png: () => Promise<Blob>,
): HTMLButtonElement[] {
  const file = fileName(title, otherwise);
  return [
    button("SVG", words.saveSvg, () => download(`${file}.svg`, new Blob([svg()], { type: "image/svg+xml" }))),
    button("PNG", words.savePng, () => void png().then((blob) => download(`${file}.png`, blob))),
  ];
}
