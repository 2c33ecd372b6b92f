/** How tables and charts look. Colours are those of `theme.ts`. */

/** What all four share: each of them may be the only one in its page. */
export const SHARED = `
.dsl-view button[aria-pressed=true]{border-color:var(--dsl-accent);box-shadow:inset 0 -2px var(--dsl-accent)}
.dsl-view [hidden]{display:none}
.dsl-view .dsl-note{margin:0;padding:3px 8px;color:var(--dsl-faint);font-size:12px;flex:none;
border-top:1px solid var(--dsl-border)}
.dsl-unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.dsl-plot{position:relative;flex:1 1 auto;min-height:0;min-width:0;overflow:hidden;touch-action:pan-y;
cursor:crosshair}
.dsl-plot:focus-visible{outline-offset:-2px}
.dsl-plot>canvas{position:absolute;inset:0;display:block}
.dsl-readout{flex:none;min-height:30px;max-height:76px;overflow:auto;padding:4px 8px;
border-top:1px solid var(--dsl-border);background:var(--dsl-surface);overflow-wrap:anywhere;
font-variant-numeric:tabular-nums}
.dsl-readout>span{margin-right:16px;display:inline-block}.dsl-readout i{display:inline-block;width:10px;
height:10px;border-radius:3px;margin-right:4px}
.dsl-band{position:absolute;border:1px solid var(--dsl-accent);background:var(--dsl-accent);opacity:.2;pointer-events:none}
.dsl-hint{color:var(--dsl-faint)}
.dsl-twin{flex:0 0 42%;min-height:0;display:flex;flex-direction:column;border-top:1px solid var(--dsl-border)}
.dsl-twin .dsl-grid{flex:1 1 auto}
.dsl-ramp{display:inline-block;width:160px;height:12px;border:1px solid var(--dsl-border);vertical-align:-2px;
margin:0 6px;forced-color-adjust:none}
.dsl-legend i,.dsl-readout i{forced-color-adjust:none}
.dsl-bar select{max-width:112px}
.dsl-bar input[type=checkbox]{width:18px;min-height:24px;margin:0}
.dsl-bar input[type=range]{width:90px;padding:0}
.dsl-grid{flex:1 1 auto;min-height:0;overflow:auto;position:relative;font-variant-numeric:tabular-nums}
.dsl-grid:focus-visible{outline-offset:-2px}
.dsl-ghead,.dsl-grow{display:grid;grid-template-columns:var(--dsl-columns);min-width:var(--dsl-width)}
.dsl-ghead{position:sticky;top:0;z-index:1;height:28px;background:var(--dsl-surface);font-weight:600;
border-bottom:1px solid var(--dsl-border);cursor:pointer}
.dsl-gbody{position:relative;min-width:var(--dsl-width)}
.dsl-grow{position:absolute;left:0;right:0;height:24px;border-bottom:1px solid var(--dsl-surface)}
.dsl-grow:hover{background:var(--dsl-surface)}
.dsl-grow.dsl-selected{background:var(--dsl-surface);box-shadow:inset 3px 0 var(--dsl-accent)}
.dsl-cell{position:relative;padding:0 8px;line-height:23px;white-space:nowrap;overflow:hidden;
text-overflow:ellipsis;unicode-bidi:isolate}
.dsl-ghead .dsl-cell{line-height:27px}
.dsl-cell.dsl-number{text-align:right}
.dsl-cell>span{position:relative;unicode-bidi:isolate}
.dsl-cell .dsl-unseen{position:absolute}
.dsl-cell .dsl-cellbar{position:absolute;left:0;top:3px;bottom:3px;background:var(--dsl-accent);opacity:.18}
.dsl-best{font-weight:600}.dsl-missing{color:var(--dsl-faint)}
.dsl-grid:focus-visible .dsl-active{outline:2px solid var(--dsl-accent);outline-offset:-2px}
.dsl-chooser{position:relative}
.dsl-chooser summary{border:1px solid var(--dsl-border);border-radius:4px;padding:2px 8px;min-height:26px;
background:var(--dsl-raised);cursor:pointer;color:var(--dsl-text)}
.dsl-chooser>div{position:absolute;right:0;top:30px;z-index:3;max-height:260px;width:240px;overflow:auto;padding:6px;
background:var(--dsl-raised);border:1px solid var(--dsl-border);border-radius:4px}
.dsl-chooser label{display:flex;min-height:26px;color:var(--dsl-text);
overflow-wrap:anywhere}
@media (forced-colors:active){.dsl-grow.dsl-selected{outline:2px solid Highlight;outline-offset:-2px}}
`;

/** The rules of uPlot's own style sheet that its canvas, cursor and selection need. */
export const LINES = `
.dsl-lines .uplot,.dsl-lines .uplot *{box-sizing:border-box}
.dsl-lines .uplot{position:absolute;inset:0;width:min-content}
.dsl-lines .u-wrap{position:relative;user-select:none}
.dsl-lines .u-over,.dsl-lines .u-under{position:absolute}
.dsl-lines .u-under{overflow:hidden}
.dsl-lines .uplot canvas{display:block;position:relative;width:100%;height:100%}
.dsl-lines .u-axis{position:absolute}
.dsl-lines .u-select{position:absolute;pointer-events:none;background:var(--dsl-accent);opacity:.15}
.dsl-lines .u-cursor-x,.dsl-lines .u-cursor-y{position:absolute;left:0;top:0;pointer-events:none;will-change:transform}
.dsl-lines .u-hz .u-cursor-x{height:100%;border-right:1px dashed var(--dsl-faint)}
.dsl-lines .u-off{display:none}
.dsl-lines .dsl-legend{max-height:66px;overflow:auto}
.dsl-lines .dsl-legend button{min-height:24px;padding:0 8px 0 4px;color:var(--dsl-text);max-width:260px;overflow:hidden;
text-overflow:ellipsis;white-space:nowrap}
.dsl-lines .dsl-legend button[aria-pressed=false]{color:var(--dsl-faint);text-decoration:line-through;box-shadow:none}
`;
