import js from "@eslint/js";
import ts from "typescript-eslint";

export default ts.config(
  { ignores: ["node_modules", "dist", "lib", ".yarn", "tests/.explore.mjs"] },
  js.configs.recommended,
  ...ts.configs.strict,
  {
    files: ["**/*.mjs"],
    rules: { "no-undef": "off" }, // parts of these files run in the browser
  },
);
