// The last closes of the tickers that are on the screen: asked for a few at a time, newest wish
// first, and kept for a while.

const LENGTH = 40;
const AT_A_TIME = 4;
const KEPT_MS = 300_000;
const LEAST_MS = 5_000; // also where a new bar has begun since
const WIDTH = 96;
const HEIGHT = 24;
const MOST_KEPT = 5_000;

export class Sparklines {
  #wire;
  #changed;
  #closes = new Map(); // ticker -> {closes, forming, nextMs, quoteMs, at}
  #wishes = [];
  #asking = new Set();

  /** `changed(ticker)` is called when the closes of a ticker have come. */
  constructor(wire, changed) {
    this.#wire = wire;
    this.#changed = changed;
  }

  /** Say which rows are on the screen now; others are not asked for any more. */
  want(rows) {
    const now = performance.now();
    const isDue = ({ ticker, quote }) => {
      if (this.#asking.has(ticker)) return false;
      const known = this.#closes.get(ticker);
      if (known === undefined) return true;
      const { ts_epoch_ms: at } = quote;
      return now - known.at > (at >= known.nextMs && at > known.quoteMs ? LEAST_MS : KEPT_MS);
    };
    this.#wishes = rows.filter(isDue);
    this.#ask();
  }

  forget(ticker) {
    this.#closes.delete(ticker);
  }

  forgetAll() {
    this.#closes.clear();
  }

  #ask() {
    if (this.#wire.state !== "live") return;
    while (this.#asking.size < AT_A_TIME && this.#wishes.length > 0) {
      const { ticker, quote } = this.#wishes.shift();
      this.#asking.add(ticker);
      this.#fetch(ticker, quote?.ts_epoch_ms ?? 0);
    }
  }

  async #fetch(ticker, quoteMs) {
    try {
      const bars = await this.#wire.request("get_history", { ticker, last: LENGTH });
      const closes = bars.close.filter((close) => close !== null);
      const forming = bars.forming && bars.close.at(-1) !== null;
      const { time } = bars;
      const nextMs = time.length < 2 ? Infinity : 2 * time.at(-1) - time.at(-2); // when the next bar begins
      this.#keep(ticker, { closes, forming, nextMs, quoteMs, at: performance.now() });
      this.#changed(ticker);
    } catch (error) {
      // One without a history has no line; one that was cut off is asked for again.
      if (error.code !== "CLOSED") {
        this.#keep(ticker, { closes: [], forming: false, nextMs: Infinity, quoteMs, at: performance.now() });
      }
    } finally {
      this.#asking.delete(ticker);
      this.#ask();
    }
  }

  #keep(ticker, one) {
    if (this.#closes.size >= MOST_KEPT) this.#closes.delete(this.#closes.keys().next().value);
    this.#closes.set(ticker, one);
  }

  /** The line as an SVG path, its last point the price of now; empty while it is not known. */
  path(ticker, price) {
    const known = this.#closes.get(ticker);
    if (known === undefined || known.closes.length < 2) return "";
    const closes = known.forming && price != null ? [...known.closes.slice(0, -1), price] : known.closes;
    let low = Infinity;
    let high = -Infinity;
    for (const close of closes) {
      if (close < low) low = close;
      if (close > high) high = close;
    }
    const span = high - low || 1;
    const step = (WIDTH - 4) / (closes.length - 1);
    const middle = high === low ? HEIGHT / 2 : 0;
    let path = "";
    for (let i = 0; i < closes.length; i += 1) {
      const x = 2 + i * step;
      const y = middle || HEIGHT - 3 - ((closes[i] - low) / span) * (HEIGHT - 6);
      path += `${i === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    }
    return path;
  }
}
