/** How the graph looks beside what all views share. */
export const STYLE = `
.dsl-panes{display:flex;flex-wrap:wrap;flex:1 1 auto;min-width:0}
.dsl-pane{display:flex;flex-direction:column;flex:1 1 280px;min-width:0;min-height:0;
box-shadow:-1px -1px var(--dsl-border)}
.dsl-graph [hidden]{display:none}
.dsl-pane>button{border:0;border-bottom:1px solid var(--dsl-border);border-radius:0;text-align:left;
background:var(--dsl-surface);color:var(--dsl-faint);flex:none;overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}
.dsl-pane>button[aria-pressed=true]{color:var(--dsl-text);font-weight:600;
box-shadow:inset 0 -2px var(--dsl-accent)}
.dsl-graph .dsl-pane>button:focus-visible{outline-offset:-2px}
.dsl-legend .dsl-range{width:84px}
.dsl-legend i{forced-color-adjust:none}
.dsl-broken{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:center;margin:0;padding:5px 8px;flex:none;
border-bottom:1px solid var(--dsl-border);border-left:4px solid var(--dsl-alarm);overflow-wrap:anywhere}
`;
