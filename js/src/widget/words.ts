/** What a live output says beside its views. */
export const words = {
  busy:
    "The kernel is busy and cannot hear this page. Use the notebook's own Stop or Interrupt button: the run ends, and " +
    "what was measured stays.",
};
