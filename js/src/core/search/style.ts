/** How the view of a search looks, beside what all views share. */
export const STYLE = `
.dsl-search{height:100vh;max-height:100vh}
.dsl-search .dsl-body{overflow:auto;padding:8px 10px 10px;min-height:0;flex:1 1 auto}
.dsl-search .dsl-phase{display:inline-flex;align-items:center;gap:6px;color:var(--dsl-faint)}
.dsl-search .dsl-phase::before{content:"";width:9px;height:9px;border-radius:50%;background:var(--dsl-faint)}
.dsl-search[data-phase=live] .dsl-phase::before{background:var(--dsl-accent)}
.dsl-search[data-phase=stopping] .dsl-phase::before{background:#c77700}
.dsl-search[data-phase=lost] .dsl-phase::before{background:#c0362c}
@media (prefers-reduced-motion:no-preference){
.dsl-search[data-phase=live][data-beat=true] .dsl-phase::before{opacity:.4}}
.dsl-search .dsl-stop{border-color:#c0362c;font-weight:600}
.dsl-search .dsl-progress{display:flex;gap:6px 14px;align-items:center;flex-wrap:wrap;color:var(--dsl-faint);
margin:0 0 6px}
.dsl-search progress{flex:1 1 160px;min-width:100px;max-width:420px;height:10px;accent-color:var(--dsl-accent)}
.dsl-search h3{font-size:13px;margin:8px 0 2px;font-weight:600}
.dsl-search h3 small,.dsl-search summary small{font-weight:400;color:var(--dsl-faint);margin-left:8px;font-size:12px}
.dsl-search p{margin:2px 0}
.dsl-search .dsl-top{display:flex;flex-wrap:wrap;gap:4px 40px;align-items:flex-start}
.dsl-search .dsl-apart{margin-left:12px}
.dsl-search .dsl-scroll{overflow-x:auto}
.dsl-search table{border-collapse:collapse;font-size:12px}
.dsl-search th,.dsl-search td{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid var(--dsl-border);
vertical-align:top;white-space:nowrap}
.dsl-search td.dsl-why{white-space:normal;min-width:180px;overflow-wrap:anywhere}
.dsl-search .dsl-number{text-align:right;font-variant-numeric:tabular-nums}
.dsl-search .dsl-interval{position:relative;max-width:420px;height:14px;margin:3px 0;
border-bottom:1px solid var(--dsl-border)}
.dsl-search .dsl-interval i{position:absolute;top:4px;height:6px;min-width:3px;border-radius:3px;background:var(--dsl-wire)}
.dsl-search .dsl-good i{background:#2f8f4e}
.dsl-search .dsl-interval b{position:absolute;left:50%;top:0;height:14px;width:1px;background:var(--dsl-text)}
.dsl-search .dsl-interval .dsl-middle{width:3px;top:2px;height:10px}
.dsl-panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(380px,100%),1fr));gap:2px 16px;
align-items:start}
.dsl-panel{min-width:0;margin:4px 0}
.dsl-panel.dsl-wide{grid-column:1/-1}
.dsl-panel summary{cursor:pointer;font-weight:600;padding:3px 0;min-height:24px}
.dsl-panel .dsl-foot{display:flex;gap:6px;align-items:flex-start}
.dsl-panel .dsl-legend{border:0;padding:3px 0;flex:1 1 auto}
.dsl-panel .dsl-foot button{font-size:11px;min-height:24px;padding:0 6px;color:var(--dsl-faint)}
.dsl-panel .dsl-legend i{border:0;background:var(--dsl-hue)}
.dsl-panel .dsl-legend .dsl-dot{border-radius:50%;width:10px;height:10px;vertical-align:-1px}
.dsl-panel .dsl-legend .dsl-line{width:18px;height:3px;border-radius:2px;vertical-align:3px}
.dsl-panel .dsl-legend .dsl-cross{background:none;width:auto;height:auto;vertical-align:0}
.dsl-panel .dsl-cross::before{content:"×";color:var(--dsl-hue);font-weight:700;font-style:normal}
.dsl-search .dsl-bars{width:100%}
.dsl-search .dsl-bars th{font-weight:400;max-width:180px;overflow:hidden;text-overflow:ellipsis;border:0}
.dsl-search .dsl-bars td{border:0}
.dsl-search .dsl-bars .dsl-bar-cell{width:100%;padding-top:7px}
.dsl-bars span{display:block;height:10px}
.dsl-bars i{display:block;height:10px;min-width:1px;border-radius:2px;background:var(--dsl-accent);forced-color-adjust:none}
.dsl-search .dsl-listing{height:300px;display:flex;flex-direction:column;border:1px solid var(--dsl-border)}
.dsl-search ul{margin:2px 0;padding-left:18px}
.dsl-search li{overflow-wrap:anywhere}
.dsl-search .dsl-readout{min-height:30px}
`;
