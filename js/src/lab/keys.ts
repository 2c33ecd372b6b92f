/** Keys inside of our outputs are our views': JupyterLab would take arrows for folding cells, letters for commands. */

/** What tells the registry of commands to leave a key alone; it looks at the focused element before its parents. */
const LEAVE = "data-lm-suppress-shortcuts";

/**
 * Keep plain keys in elements that match `places` from JupyterLab's commands; those with Ctrl, Alt or Meta stay its own.
 *
 * @returns What ends that.
 */
export function keepKeys(places: string): () => void {
  const pressed = (event: KeyboardEvent): void => {
    const { target } = event;
    if (!(target instanceof Element) || target.closest(places) === null) return;
    target.toggleAttribute(LEAVE, !event.ctrlKey && !event.metaKey && !event.altKey);
  };
  // The commands listen at the document while the event is on its way down: the window comes before.
  window.addEventListener("keydown", pressed, true);
  return () => window.removeEventListener("keydown", pressed, true);
}
