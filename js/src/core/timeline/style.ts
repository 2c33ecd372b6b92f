/** How the timeline looks beside what all views share. */
export const STYLE = `
.dsl-timeline .dsl-picture{cursor:crosshair;touch-action:pan-y;min-height:150px}
.dsl-timeline .dsl-picture:focus-visible{outline-offset:-2px}
.dsl-timeline .dsl-bar .dsl-title{display:flex;flex-wrap:wrap;column-gap:10px;white-space:normal;
flex:1 1 220px;max-width:none}
.dsl-timeline .dsl-bar .dsl-title span{font-weight:400;color:var(--dsl-faint)}
.dsl-side{width:312px;flex:none;overflow:auto;border-left:1px solid var(--dsl-border);padding:6px 8px}
.dsl-side p{margin:0 0 6px;overflow-wrap:anywhere}
.dsl-side p:empty{margin:0}
.dsl-side .dsl-facts span{display:block;color:var(--dsl-faint)}
.dsl-timeline table{border-collapse:collapse;width:100%;font-size:12px;line-height:1.35}
.dsl-timeline th{font-weight:600;text-align:left;color:var(--dsl-faint);white-space:nowrap}
.dsl-timeline th,.dsl-timeline td{padding:2px 8px 2px 0;vertical-align:baseline}
.dsl-timeline td.dsl-number,.dsl-timeline th.dsl-number{text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}
.dsl-timeline tbody th{color:var(--dsl-text);font-weight:400;white-space:normal;overflow-wrap:anywhere}
.dsl-side tbody th{padding-left:18px;text-indent:-18px}
.dsl-side .dsl-hint{margin:6px 0 0;color:var(--dsl-faint);font-size:12px}
.dsl-timeline tfoot th,.dsl-timeline tfoot td{border-top:1px solid var(--dsl-border);color:var(--dsl-text)}
.dsl-side i{display:inline-block;width:11px;height:11px;border:1px solid var(--dsl-border);border-radius:3px;
margin-right:6px;vertical-align:-1px;forced-color-adjust:none}
.dsl-alive{flex:none;height:152px;display:flex;flex-direction:column;border-top:1px solid var(--dsl-border)}
.dsl-alive header{display:flex;gap:6px;align-items:center;padding:4px 8px;color:var(--dsl-faint);
background:var(--dsl-surface)}
.dsl-alive header p{margin:0 0 0 auto}
.dsl-alive .dsl-scroll{overflow:auto;padding:0 8px;flex:1 1 auto;min-height:0}
.dsl-alive thead th{position:sticky;top:0;background:var(--dsl-background)}
.dsl-alive td{overflow-wrap:anywhere;min-width:60px}
.dsl-alive td button{min-height:24px;padding:0 6px;text-align:left;max-width:260px;overflow:hidden;
text-overflow:ellipsis;white-space:nowrap}
.dsl-alive tr.dsl-told td{background:var(--dsl-surface);box-shadow:inset 0 -1px var(--dsl-accent)}
@media (max-width:720px){
.dsl-timeline{height:auto;min-height:100vh;overflow:auto}
.dsl-timeline .dsl-main{flex-direction:column}
.dsl-timeline .dsl-picture{flex:none;height:220px}
.dsl-side{width:auto;border-left:0;border-top:1px solid var(--dsl-border)}
.dsl-alive{height:auto;max-height:260px}}
@media (forced-colors:active){.dsl-alive tr.dsl-told td{outline:1px solid Highlight}}
`;
