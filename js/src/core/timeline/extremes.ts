/** Where a long list of numbers is largest and smallest between any two places, without reading all between them. */

const SHIFT = 6;
const CHUNK = 1 << SHIFT;

/** For every 64 numbers, every 64 times 64 and so on, the index of the first largest and of the first smallest. */
export class Extremes {
  readonly #largest: Uint32Array[] = [];
  readonly #smallest: Uint32Array[] = [];

  constructor(readonly values: Float64Array) {
    let length = values.length;
    let below: [Uint32Array, Uint32Array] | null = null;
    while (length > CHUNK) {
      const chunks = Math.ceil(length / CHUNK);
      const large = new Uint32Array(chunks);
      const small = new Uint32Array(chunks);
      for (let chunk = 0; chunk < chunks; chunk++) {
        const end = Math.min(length, (chunk + 1) * CHUNK);
        let most = below === null ? chunk * CHUNK : (below[0][chunk * CHUNK] as number);
        let least = below === null ? most : (below[1][chunk * CHUNK] as number);
        for (let at = chunk * CHUNK + 1; at < end; at++) {
          const high = below === null ? at : (below[0][at] as number);
          const low = below === null ? at : (below[1][at] as number);
          if ((values[high] as number) > (values[most] as number)) most = high;
          if ((values[low] as number) < (values[least] as number)) least = low;
        }
        large[chunk] = most;
        small[chunk] = least;
      }
      this.#largest.push(large);
      this.#smallest.push(small);
      below = [large, small];
      length = chunks;
    }
  }

  /** The first index in `[from, to)` whose number is the largest there. */
  largest(from: number, to: number): number {
    return this.#find(from, to, this.#largest, 1);
  }

  /** The first index in `[from, to)` whose number is the smallest there. */
  smallest(from: number, to: number): number {
    return this.#find(from, to, this.#smallest, -1);
  }

  #find(from: number, to: number, levels: readonly Uint32Array[], sign: 1 | -1): number {
    const { values } = this;
    let best = from;
    const take = (index: number): void => {
      const more = sign * ((values[index] as number) - (values[best] as number));
      if (more > 0 || (more === 0 && index < best)) best = index;
    };
    let [first, end] = [from, to];
    for (let level = -1; ; level++) {
      const indices = levels[level];
      const above = levels[level + 1];
      if (above === undefined || end - first <= 2 * CHUNK) {
        for (let at = first; at < end; at++) take(indices === undefined ? at : (indices[at] as number));
        return best;
      }
      while ((first & (CHUNK - 1)) !== 0) {
        take(indices === undefined ? first : (indices[first] as number));
        first++;
      }
      while ((end & (CHUNK - 1)) !== 0) {
        end--;
        take(indices === undefined ? end : (indices[end] as number));
      }
      first >>= SHIFT;
      end >>= SHIFT;
    }
  }
}
