/**
 * Numbers that only ever become more, and the least and greatest of any stretch of them in logarithmic time: of every
 * 16 numbers the places of the least and the greatest are kept, of every 16 of those again, and so on.
 */

const FAN = 16;
const BITS = 4;
const FIRST_ROOM = 1024;
/** The place of the least or greatest of numbers that are all missing. */
export const NOWHERE = 0xffffffff;

export class Growing {
  #values = new Float64Array(FIRST_ROOM);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  at(index: number): number {
    return this.#values[index] ?? NaN;
  }

  push(value: number): void {
    if (this.#length === this.#values.length) {
      const larger = new Float64Array(2 * this.#length);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.#length++] = value;
  }

  /** The first place in sorted numbers that holds at least `value`. */
  firstFrom(value: number): number {
    let [low, high] = [0, this.#length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#values[middle] ?? 0) < value) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Places of extremes, growing as the numbers below them do. */
class Level {
  low = new Uint32Array(FIRST_ROOM);
  high = new Uint32Array(FIRST_ROOM);
  length = 0;

  grow(): void {
    if (this.length === this.low.length) {
      const larger = [new Uint32Array(2 * this.length), new Uint32Array(2 * this.length)] as const;
      larger[0].set(this.low);
      larger[1].set(this.high);
      [this.low, this.high] = larger;
    }
    this.low[this.length] = NOWHERE;
    this.high[this.length] = NOWHERE;
    this.length++;
  }
}

export class Pyramid {
  readonly values = new Growing();
  readonly #levels: Level[] = [];

  get length(): number {
    return this.values.length;
  }

  /** Append a number; what is not finite counts as missing. */
  push(value: number): void {
    const place = this.values.length;
    this.values.push(Number.isFinite(value) ? value : NaN);
    for (
      let level = 0, block = place >>> BITS;
      level === 0 || place >= FAN ** level;
      level++, block >>>= BITS
    ) {
      const kept = (this.#levels[level] ??= new Level());
      if (kept.length === 0 && level > 0) this.#found(kept, level);
      while (kept.length <= block) kept.grow();
      if (Number.isFinite(value)) this.#take(kept, block, place);
    }
  }

  /** A level that comes to be when the one below it has its second block takes that one's first. */
  #found(kept: Level, level: number): void {
    const below = this.#levels[level - 1];
    kept.grow();
    for (let block = 0; block < Math.min(FAN, below?.length ?? 0); block++) {
      for (const place of [below?.low[block] ?? NOWHERE, below?.high[block] ?? NOWHERE]) {
        if (place !== NOWHERE) this.#take(kept, 0, place);
      }
    }
  }

  #take(kept: Level, block: number, place: number): void {
    const value = this.values.at(place);
    const [low, high] = [kept.low[block] ?? NOWHERE, kept.high[block] ?? NOWHERE];
    if (low === NOWHERE || value < this.values.at(low)) kept.low[block] = place;
    if (high === NOWHERE || value > this.values.at(high)) kept.high[block] = place;
  }

  /** Places of the least and the greatest number from `start` up to, not including, `end`. */
  extremes(start: number, end: number): readonly [number, number] {
    let [low, high] = [NOWHERE, NOWHERE];
    const take = (least: number, greatest: number): void => {
      if (least !== NOWHERE && (low === NOWHERE || this.values.at(least) < this.values.at(low))) low = least;
      if (greatest !== NOWHERE && (high === NOWHERE || this.values.at(greatest) > this.values.at(high)))
        high = greatest;
    };
    const single = (place: number): void => {
      if (!Number.isNaN(this.values.at(place))) take(place, place);
    };
    let [from, to] = [start, Math.min(end, this.length)];
    while (from < to && from % FAN !== 0) single(from++);
    while (from < to && to % FAN !== 0) single(--to);
    for (let level = 0; from < to; level++) {
      [from, to] = [from >>> BITS, to >>> BITS];
      const kept = this.#levels[level];
      const above = this.#levels[level + 1] !== undefined;
      const block = (at: number): void => take(kept?.low[at] ?? NOWHERE, kept?.high[at] ?? NOWHERE);
      while (from < to && (!above || from % FAN !== 0)) block(from++);
      while (from < to && to % FAN !== 0) block(--to);
    }
    return [low, high];
  }
}
