/** How the run view looks, beside what all views share. */
export const STYLE = `
.dsl-run{height:auto;min-height:0;max-height:100vh}
.dsl-run .dsl-body{overflow:auto;padding:8px 10px 10px;min-height:0}
.dsl-run .dsl-phase{display:inline-flex;align-items:center;gap:6px;color:var(--dsl-faint)}
.dsl-run .dsl-phase::before{content:"";width:9px;height:9px;border-radius:50%;background:var(--dsl-faint)}
.dsl-run[data-phase=live] .dsl-phase::before{background:var(--dsl-accent)}
.dsl-run[data-phase=stopping] .dsl-phase::before{background:#c77700}
.dsl-run[data-phase=lost] .dsl-phase::before{background:#c0362c}
@media (prefers-reduced-motion:no-preference){
.dsl-run[data-phase=live][data-beat=true] .dsl-phase::before{opacity:.4}}
.dsl-run .dsl-stop{border-color:#c0362c;font-weight:600}
.dsl-run .dsl-progress{display:flex;gap:6px 14px;align-items:center;flex-wrap:wrap;color:var(--dsl-faint);
margin:0 0 6px}
.dsl-run progress{flex:1 1 200px;min-width:120px;height:10px;accent-color:var(--dsl-accent)}
.dsl-run h3{font-size:13px;margin:8px 0 2px;font-weight:600}
.dsl-run h3 small{font-weight:400;color:var(--dsl-faint);margin-left:8px;font-size:12px}
.dsl-run .dsl-scroll{overflow-x:auto}
.dsl-run table{border-collapse:collapse;font-size:12px;width:100%}
.dsl-run th,.dsl-run td{text-align:left;padding:3px 10px 3px 0;border-bottom:1px solid var(--dsl-border);
vertical-align:top;white-space:nowrap}
.dsl-run td.dsl-why{white-space:normal;color:var(--dsl-faint);min-width:180px;overflow-wrap:anywhere}
.dsl-run .dsl-number{text-align:right;font-variant-numeric:tabular-nums}
.dsl-run tr.dsl-won td:nth-child(-n+2){font-weight:600}
.dsl-run .dsl-span{display:inline-block;position:relative;width:120px;height:12px;vertical-align:-2px;
margin-right:8px;border-bottom:1px solid var(--dsl-border)}
.dsl-run .dsl-span i{position:absolute;top:3px;height:6px;min-width:3px;border-radius:3px;background:var(--dsl-wire)}
.dsl-run .dsl-span b{position:absolute;top:0;height:12px;width:1px;background:var(--dsl-text)}
.dsl-run tr.dsl-won .dsl-span i{background:#2f8f4e}
.dsl-run tr.dsl-refused .dsl-span i,.dsl-run tr.dsl-failed .dsl-span i{background:#c0362c}
.dsl-run .dsl-share{width:64px}
.dsl-run .dsl-share[hidden]{display:none}
.dsl-run .dsl-no-device :is(th,td):nth-child(9){display:none}
.dsl-run tr.dsl-late th,.dsl-run tr.dsl-late td.dsl-why{color:var(--dsl-text);font-weight:600}
.dsl-run tr.dsl-late{box-shadow:inset 3px 0 #c77700}
.dsl-run tr.dsl-dead{box-shadow:inset 3px 0 #c0362c}
.dsl-run tr:is(.dsl-late,.dsl-dead) th{padding-left:8px}
.dsl-run ul{margin:2px 0;padding-left:18px}
.dsl-run li{overflow-wrap:anywhere}
.dsl-run .dsl-curves{display:flex;flex-wrap:wrap;gap:8px 14px;margin:4px 0}
.dsl-run .dsl-curves:empty{display:none}
`;
