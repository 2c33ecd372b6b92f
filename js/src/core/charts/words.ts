/** Every sentence that tables and charts say, in one place, so that it can be said in another language. */

const count = (value: number): string => value.toLocaleString("en");
const many = (value: number, noun: string): string => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

export const words = {
  table: "Table",
  scatter: "Scatter plot",
  lines: "Line chart",
  heatmap: "Heat map",
  rows: (value: number): string => many(value, "row"),
  rowsOf: (shown: number, total: number): string => `${count(shown)} of ${many(total, "row")}`,
  rowsSelected: (value: number): string => `${many(value, "row")} selected`,
  points: (value: number): string => many(value, "point"),
  emptyTable: "The table has no rows.",
  emptyChart: "There is nothing to draw: no row has a number for both axes. Choose other columns.",
  emptyLines: "There is nothing to draw yet: no row has arrived.",
  noColumns: "the table has no columns of text or numbers",
  tooFewNumbers: "a scatter plot needs at least one column of numbers",
  noneMatch: "No row matches the filter. Clear it to see all rows.",
  missing: "missing",
  best: "best",
  filter: "Filter: text, or column>3",
  filterHelp: "Words must all occur; comparisons are column>3, column<=0.5, column=text, column=missing",
  notNumber: (column: string): string => `${column} holds numbers: write ${column}>3, or ${column}=missing`,
  columns: "Columns",
  showTable: "Rows",
  showTableHelp: "Show the rows as a table below the picture",
  copy: "Copy",
  copyHelp: "Copy the rows that show, for a spreadsheet",
  copied: (value: number): string => `${many(value, "row")} copied`,
  notCopied: "The browser did not let it be copied. Save it as CSV instead.",
  saveCsv: "Save the rows that show as CSV",
  savePng: "Save as PNG",
  grid: (title: string): string =>
    `${title}: arrow keys move, Enter on a heading sorts, Enter on a cell selects its row, Ctrl+C copies the cell`,
  sortable: "Sort by this column",
  zoomIn: "Zoom in",
  zoomOut: "Zoom out",
  fit: "Show all",
  xAxis: "x",
  yAxis: "y",
  colour: "Colour",
  noColour: "none",
  others: (value: number): string => many(value, "other"),
  density: "points at a place",
  logX: "log x",
  logY: "log y",
  scatterKeys:
    "Left and right go through the points by x, up and down by y; Space marks a corner of a box and Space again " +
    "selects what is in it, Enter selects a point, plus and minus zoom, Escape clears",
  scatterHint: "Drag a box, or press Space at two points, to list the rows in it. Ctrl and the wheel zoom.",
  corner: "Corner set: go to the opposite point and press Space.",
  cellCorner: "Corner set: go to the opposite cell and press Space.",
  zoomToSelection: "Zoom to selection",
  clearSelection: "Clear selection",
  front: (value: number, x: string, y: string): string =>
    `Pareto front of ${x} and ${y}: ${many(value, "point")}`,
  onFront: "on the Pareto front",
  notOnLog: (value: number): string =>
    `${many(value, "value")} at or below 0 cannot show on a logarithmic axis`,
  linesKeys:
    "Cursor along x: left and right move, Page Up and Page Down in larger steps, plus and minus zoom",
  linesHint: "Drag to zoom, double click to show all. Arrow keys move the cursor.",
  series: "Series",
  toggle: (name: string): string => `Show ${name}`,
  smoothing: "Smoothing",
  decimated: (value: number): string =>
    `${many(value, "row")} in sight: each pixel shows the least and the greatest of its values`,
  heatmapKeys:
    "Arrow keys move from cell to cell, Space marks a corner and Space again zooms to the cells between, plus and " +
    "minus zoom, Escape shows all",
  heatmapHint:
    "Drag over cells to zoom to them, or press Space at two corners. Arrow keys read cell by cell.",
  cell: (row: string, column: string, value: string): string => `${row}, ${column}: ${value}`,
  poolMean: "each pixel shows the mean of its cells",
  poolMax: "each pixel shows the value of its cells that is furthest from 0",
  pool: "Pixels show",
  mean: "mean",
  max: "extreme",
  inSight: (rows: number, columns: number): string => `${count(rows)} × ${count(columns)} cells`,
  twinCut: (rows: number, columns: number): string =>
    `The table shows the first ${count(rows)} rows and ${count(columns)} columns of what is in sight; zoom to others.`,
  rowLabel: "row",
  hatched: "missing: hatched",
  around: "around 0",
  emptyHeatmap: "The matrix is empty.",
  cut: (shown: number, total: number, how: string): string => {
    const ways: Readonly<Record<string, string>> = {
      first: "the first ones",
      even: "evenly chosen",
      extremes: "the least and the greatest of each stretch",
      mean: "means of blocks",
      max: "the extremes of blocks",
    };
    const way = Object.hasOwn(ways, how) ? `, ${ways[how] ?? ""}` : "";
    return `${count(shown)} of ${count(total)} are kept here${way}, so that the notebook stays small.`;
  },
};
