/** How outputs, the panel and the toggle look in JupyterLab, by its own variables. */
export const STYLE = `
.dsl-output{padding:4px 0}
.dsl-output .dsl-summary,.dsl-comparison .dsl-summary{margin:0 0 4px;font-weight:600;white-space:pre-wrap;
font-size:var(--jp-content-font-size1,14px);color:var(--jp-content-font-color1)}
.dsl-output .dsl-note{margin:0 0 4px;padding:4px 8px;border-left:3px solid var(--jp-warn-color1,#b26a00);
font-size:var(--jp-ui-font-size1);color:var(--jp-ui-font-color1)}
.dsl-panel{padding:8px 10px;overflow:auto;background:var(--jp-layout-color1);color:var(--jp-ui-font-color1);
font-size:var(--jp-ui-font-size1)}
.dsl-panel h2{font-size:inherit;font-weight:600;margin:2px 0 8px}
.dsl-panel ul{list-style:none;margin:0 0 8px;padding:0}
.dsl-panel li{padding:6px 0;border-bottom:1px solid var(--jp-border-color2)}
.dsl-panel .dsl-hint{color:var(--jp-ui-font-color1);border:0}
.dsl-panel .dsl-head{display:flex;gap:6px;align-items:flex-start}
.dsl-panel input{width:16px;height:16px;margin:4px}
.dsl-panel button{font:inherit;cursor:pointer;min-height:24px;border:1px solid var(--jp-border-color1);border-radius:4px;
background:var(--jp-layout-color2);color:var(--jp-ui-font-color1);padding:2px 8px}
.dsl-panel button:disabled{opacity:.6;cursor:default}
.dsl-panel .dsl-open{border:0;background:none;text-align:left;padding:2px;overflow-wrap:anywhere}
.dsl-panel .dsl-open:hover{text-decoration:underline}
.dsl-panel .dsl-actions{display:flex;gap:6px;margin:4px 0 0 30px}
.dsl-panel :focus-visible,.dsl-toggle:focus-visible{outline:2px solid var(--jp-brand-color1);outline-offset:1px}
.dsl-study{display:flex;flex-direction:column;background:var(--jp-layout-color1)}
.dsl-study .jp-IFrame{flex:1;position:relative}
.dsl-study .dsl-note{margin:10px;color:var(--jp-ui-font-color1)}
.dsl-comparison{display:flex;gap:10px;padding:10px;overflow:auto;background:var(--jp-layout-color1)}
.dsl-side{flex:1 1 0;min-width:0;display:flex;flex-direction:column;gap:10px}
.dsl-toggle{font:inherit;font-size:12px;min-height:24px;padding:0 8px;cursor:pointer;white-space:nowrap;border-radius:4px;
border:1px solid var(--jp-border-color1);background:var(--jp-layout-color1);color:var(--jp-ui-font-color1)}
.dsl-toggle[aria-pressed=true]{background:var(--jp-brand-color1);border-color:var(--jp-brand-color1);
color:var(--jp-ui-inverse-font-color1,#fff)}
.dsl-toggle[data-state=failed]{border-color:var(--jp-error-color1)}
.dsl-status{padding:0 6px;line-height:24px;font-size:var(--jp-ui-font-size1)}
`;
