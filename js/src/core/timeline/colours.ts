/** Colours of areas: three times as bright or as dark as the ground, whatever is beside them. */

import type { Palette } from "../theme";

const LIGHT = "#3b6fb6 #8a5bb5 #c76a12 #1f8a84 #c2476b #5b8c1e #8c6239 #2a83b3 #b0459a #857a15 #5d6f86".split(
  " ",
);
const DARK = "#6f9fe0 #b48ae0 #f0a14d #4fbdb5 #ee7f9d #96c856 #c49a6c #6cc0ee #de82c8 #c4b84a #9db0c4".split(
  " ",
);

/** The colour of a part of the stack; -1 is what is left over. */
export function colourOf(colour: number, palette: Palette): string {
  const colours = palette.dark ? DARK : LIGHT;
  const rest = palette.dark ? "#8d939c" : "#858b94";
  return colour < 0 ? rest : (colours[colour % colours.length] ?? rest);
}
