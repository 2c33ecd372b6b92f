/**
 * What each live output brings: the way to the module that the kernel has sent once, as another model's trait.
 *
 * A page keeps one module for all outputs, by the digest of its code.
 */

import type { AnyModel, RenderProps } from "@anywidget/types";

interface Traits extends Record<string, unknown> {
  /** `IPY_MODEL_` and the id of the model that has the code. */
  readonly library: string;
  readonly digest: string;
}

interface Library extends Record<string, unknown> {
  /** The module, deflated, in base64. */
  readonly code: string;
}

interface Module {
  render(props: RenderProps<Traits>): () => void;
}

const shared = globalThis as unknown as { deepseekLabModules?: Map<string, Promise<Module>> };
const modules = (shared.deepseekLabModules ??= new Map());

async function load(model: AnyModel<Traits>): Promise<Module> {
  const id = model.get("library").replace("IPY_MODEL_", "");
  const library = (await model.widget_manager.get_model(id)) as unknown as AnyModel<Library>;
  const bytes = Uint8Array.from(atob(library.get("code")), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const url = URL.createObjectURL(
    new Blob([await new Response(stream).arrayBuffer()], { type: "text/javascript" }),
  );
  try {
    return (await import(/* @vite-ignore */ url)) as Module;
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function render(props: RenderProps<Traits>): Promise<() => void> {
  const digest = props.model.get("digest");
  let found = modules.get(digest);
  if (found === undefined) {
    found = load(props.model);
    modules.set(digest, found);
    found.catch(() => modules.delete(digest));
  }
  return (await found).render(props);
}

export default { render };
