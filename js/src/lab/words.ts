/** What the plugins say, beside the views. */

const TABS: ReadonlyMap<string, string> = new Map([
  ["run", "Run"],
  ["graph", "Graph"],
  ["timeline", "Memory"],
  ["table", "Table"],
]);

export const words = {
  tab: (kind: string, title: string): string => {
    const name = TABS.get(kind);
    const said = name === undefined ? title : kind === "graph" && title !== "" ? `${name}: ${title}` : name;
    return said.length > 60 ? `${said.slice(0, 59)}…` : said;
  },
};
