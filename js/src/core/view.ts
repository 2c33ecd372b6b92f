/** What every view is, whoever shows it: made for an element, gone when it is disposed of. */

export interface View {
  dispose(): void;
}
