/** Names and sentences as long as somebody reads them: a page that lays out megabytes of text hangs. */

export const MAX_NAME = 300;

/** The beginning of a text, without halves of characters. */
export function clip(text: string, most = MAX_NAME): string {
  return (text.length > most ? `${text.slice(0, most)}…` : text).toWellFormed();
}
