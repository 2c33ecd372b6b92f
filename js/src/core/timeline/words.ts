/** Every sentence that the timeline says. */

const count = (number: number, noun: string): string =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

export const words = {
  timeline: "Memory over time",
  tools: "Tools of the timeline",
  picture: "Cursor in time",
  keys:
    "Left and right move the cursor, with Shift they select a range; Page Up and Page Down move further, comma and " +
    "full stop go from event to event, P goes to the peak. Plus and minus zoom, 0 shows all, Enter shows the place " +
    "in other views, Escape ends the selection.",
  hint:
    "Click sets the cursor, drag selects a range, Ctrl and the wheel zoom. The thin line is the least within a pixel, " +
    "the areas are the most.",
  stackBy: "Stack by",
  category: "category",
  module: "module",
  levels: (levels: number): string => (levels === 1 ? "module" : `module, ${levels} levels`),
  zoomIn: "Zoom in, into the selected range if there is one",
  zoomOut: "Zoom out",
  all: "Show all",
  earlier: "Show what was earlier",
  later: "Show what was later",
  begin: "Let the range begin at the cursor",
  end: "Let the range end at the cursor",
  peak: "Go to the peak",
  summary: (bytes: string, time: string, events: string): string => `peak ${bytes} at ${time}, ${events}`,
  events: (number: number): string => count(number, "event"),
  foldedEvents: (number: number): string => `${count(number, "event")}, folded`,
  folded: (events: string, rows: number): string =>
    `${events} are folded to ${count(rows, "row")}: peaks and totals are exact, what came and went between two rows is ` +
    `only counted.`,
  empty: "Nothing was recorded: no memory was allocated or freed.",
  nothingThere: "Nothing is there at this time.",
  noCategory: "no category",
  noModule: "outside of modules",
  others: "others",
  total: "total",
  atCursor: "at cursor",
  atPeak: "at peak",
  series: "What memory holds, at the cursor and at the peak",
  allocated: (bytes: string): string => `${bytes} allocated`,
  freed: (bytes: string): string => `${bytes} freed`,
  start: "before the first event",
  rangeIs: (from: string, to: string): string => `${from} to ${to}`,
  rangeSays: (allocated: string, freed: string, peak: string, at: string, events: string): string =>
    `${allocated} allocated, ${freed} freed, at most ${peak} at ${at}; ${events}`,
  peakLabel: (bytes: string): string => `peak ${bytes}`,
  outOfMemory: "out of memory",
  alive: "Alive",
  aliveList: "Blocks by place, largest first",
  aliveAt: { peak: "at the peak", cursor: "at the cursor" },
  bytes: "bytes",
  share: "share",
  blocks: "blocks",
  operator: "operator",
  place: "place",
  show: (where: string): string => `Show ${where} in other views`,
  more: (groups: number, bytes: string): string => `… and ${count(groups, "more row")}, ${bytes} in all`,
  highlighted: (module: string, bytes: string, peak: string): string =>
    `${module}: ${bytes} at the cursor, ${peak} at the peak`,
  value: (time: string, total: string, where: string): string =>
    `${time}, ${total}${where === "" ? "" : `, ${where}`}`,
  exactly: (bytes: number): string => count(bytes, "byte"),
};
