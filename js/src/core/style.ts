/** How views look. Colours are those of `theme.ts`. */
export const STYLE = `
.dsl-view{font:13px/1.45 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;color:var(--dsl-text);
background:var(--dsl-background);border:1px solid var(--dsl-border);border-radius:6px;overflow:hidden;
height:100vh;min-height:260px;display:flex;flex-direction:column;box-sizing:border-box;position:relative}
.dsl-view *{box-sizing:border-box}
.dsl-bar{display:flex;flex-wrap:wrap;gap:6px;align-items:center;padding:6px 8px;
border-bottom:1px solid var(--dsl-border);background:var(--dsl-surface)}
.dsl-bar .dsl-title{font-weight:600;margin-right:auto;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
max-width:50%}
.dsl-view button,.dsl-view input,.dsl-view select{font:inherit;color:var(--dsl-text);
background:var(--dsl-raised);border:1px solid var(--dsl-border);border-radius:4px;padding:2px 8px;min-height:26px}
.dsl-view button{cursor:pointer;min-width:28px}
.dsl-view button:hover{border-color:var(--dsl-accent)}
.dsl-view :focus-visible{outline:2px solid var(--dsl-accent);outline-offset:1px}
.dsl-bar input{width:190px}
.dsl-bar select{max-width:170px}
.dsl-bar label{display:flex;gap:4px;align-items:center;color:var(--dsl-faint)}
.dsl-hits{color:var(--dsl-faint)}
.dsl-main{display:flex;flex:1 1 auto;min-height:0}
.dsl-outline{width:270px;flex:none;overflow:auto;position:relative;border-right:1px solid var(--dsl-border)}
.dsl-outline .dsl-rows{position:relative}
.dsl-row{position:absolute;left:0;right:0;height:24px;line-height:24px;white-space:nowrap;overflow:hidden;
text-overflow:ellipsis;padding-right:8px;cursor:default}
.dsl-row .dsl-note{color:var(--dsl-faint);margin-left:6px}
.dsl-row.dsl-active{background:var(--dsl-surface);box-shadow:inset 2px 0 var(--dsl-accent)}
.dsl-row.dsl-selected{font-weight:600}
.dsl-row .dsl-sign{display:inline-block;width:16px;text-align:center;color:var(--dsl-faint)}
.dsl-picture{position:relative;flex:1 1 auto;min-width:0;overflow:hidden;cursor:grab;touch-action:none}
.dsl-picture.dsl-dragging{cursor:grabbing}
.dsl-picture canvas{position:absolute;display:block}
.dsl-picture .dsl-map{right:8px;bottom:8px;border:1px solid var(--dsl-border);border-radius:4px;
background:var(--dsl-background);cursor:pointer}
.dsl-bar,.dsl-legend,.dsl-detail{flex:none}
.dsl-detail{border-top:1px solid var(--dsl-border);padding:6px 8px;max-height:132px;overflow:auto;
background:var(--dsl-surface)}
.dsl-detail dl{display:flex;flex-wrap:wrap;gap:2px 22px;margin:2px 0 0}
.dsl-detail dl div{display:flex;gap:6px;align-items:baseline;max-width:100%}
.dsl-detail dt{color:var(--dsl-faint);flex:none}
.dsl-detail dd{margin:0;overflow-wrap:anywhere;min-width:0}
.dsl-detail .dsl-links button{min-height:24px;min-width:24px;padding:0 6px;margin:0 4px 2px 0}
.dsl-legend{display:flex;flex-wrap:wrap;gap:4px 10px;padding:4px 8px;border-top:1px solid var(--dsl-border);
color:var(--dsl-faint);font-size:12px}
.dsl-legend i{display:inline-block;width:12px;height:12px;border:1px solid var(--dsl-border);border-radius:3px;
margin-right:4px;vertical-align:-2px}
.dsl-message{padding:14px;color:var(--dsl-text)}
@media (max-width:640px){.dsl-outline{width:150px}.dsl-bar input{width:130px}}
@media (forced-colors:active){.dsl-row.dsl-active{outline:2px solid Highlight}}
`;
