/** Names of tabs by kind of view; others go by their title. */
const TABS: ReadonlyMap<string, string> = new Map([
  ["run", "Run"],
  ["search", "Search"],
  ["graph", "Graph"],
  ["timeline", "Memory"],
  ["table", "Table"],
]);

/** Sentences that all views share, in one place, so that they can be said in another language. */

export const words = {
  tab: (kind: string, title: string): string => {
    const name = TABS.get(kind);
    const said = name === undefined ? title : kind === "graph" && title !== "" ? `${name}: ${title}` : name;
    return said.length > 60 ? `${said.slice(0, 59)}…` : said;
  },
  saveSvg: "Save as SVG",
  savePng: "Save as PNG",
  copy: "Copy",
  copyLabel: "Copy the text",
  copied: "copied",
  notCopied: "the browser does not allow it: select the text and copy it",
  later: "The kernel is busy with a cell: the run stops when that cell has ended.",
  unheard: "The kernel is busy and hears no more than Stop meanwhile: nothing was changed.",
  versions: (kernel: string, page: string): string =>
    `The kernel has deepseek_lab ${kernel} and this page's extension is of ${page}: what it shows may be incomplete. ` +
    `Run pip install "deepseek-lab==${kernel}" where Jupyter runs, and load the page again.`,
  unreadable: (why: string): string => `This view cannot be shown: ${why}.`,
};
