// Before optuna-dashboard's own script: where the study stands, and what a Jupyter server wants to see of writes.
(() => {
  const root = new URL("..", document.currentScript.src).pathname.replace(/\/$/, "");
  globalThis.studyRoot = root;
  const ask = globalThis.fetch;
  globalThis.fetch = (place, how = {}) => {
    const cookie = document.cookie.split("; ").find((one) => one.startsWith("_xsrf="));
    const writes = how.method !== undefined && how.method !== "GET";
    if (cookie === undefined || !writes || !String(place).startsWith(`${root}/`)) return ask(place, how);
    const headers = new Headers(how.headers);
    headers.set("X-XSRFToken", decodeURIComponent(cookie.slice("_xsrf=".length)));
    return ask(place, { ...how, headers });
  };
})();
