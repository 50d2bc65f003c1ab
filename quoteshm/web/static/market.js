// What is known of the market: a row for each ticker, with or without a value. No DOM.

import { decimals } from "./format.js";

const BEYOND = Number.POSITIVE_INFINITY;

/** What is known of a ticker. Of its decimals, `placed` says for which quote they are. */
function rowOf(ticker) {
  return { ticker, quote: null, failure: "", isWanted: false, status: null, change: null, ratio: null, places: 2, size: 0, placed: null };
}

export class Market {
  /** @type {Map<string, object>} */
  rows = new Map();
  epoch = 0;
  freshnessMs = BEYOND;
  lastUpdateMs = 0;
  commits = 0;
  changes = 0;
  /** Grows when a ticker comes or goes. */
  membership = 0;
  #infoMs = 0; // when the daemon said who fails, by its clock
  #offset = 0; // of the daemon's clock to ours

  /** Now, by the daemon's clock. */
  now() {
    return Date.now() + this.#offset;
  }

  takeSnapshot(data) {
    this.epoch = data.epoch;
    this.freshnessMs = data.freshness_ms;
    if (!data.resumed) {
      for (const row of this.rows.values()) row.quote = row.change = row.ratio = null;
      this.membership += 1;
    }
    const { changes } = this;
    this.#apply(data.quotes);
    this.changes = changes; // what was there already has not come at any pace
    this.#forgetEmpty();
  }

  takeQuotes(event) {
    this.commits += 1 + event.skipped;
    this.epoch = event.epoch;
    this.#apply(event.data);
  }

  takeHeartbeat(event) {
    this.epoch = event.epoch;
    this.#offset = event.data.now_ms - Date.now();
    this.lastUpdateMs = Math.max(this.lastUpdateMs, event.data.last_update_ms);
  }

  /** Take in which tickers fail and why, and which are wanted. */
  takeInfo(info) {
    this.#offset = info.now_ms - Date.now();
    const failures = info.failures ?? {};
    const wanted = info.ticker_status ?? {};
    this.#infoMs = info.now_ms;
    for (const row of this.rows.values()) {
      row.status = Object.hasOwn(wanted, row.ticker) ? wanted[row.ticker] : null;
      row.failure = Object.hasOwn(failures, row.ticker) ? failures[row.ticker] : "";
      row.isWanted = Object.hasOwn(wanted, row.ticker);
    }
    for (const ticker of [...Object.keys(wanted), ...Object.keys(failures)]) {
      const row = this.rows.get(ticker) ?? this.#add(ticker);
      row.failure = Object.hasOwn(failures, ticker) ? failures[ticker] : "";
      row.status = Object.hasOwn(wanted, ticker) ? wanted[ticker] : null;
      row.isWanted = true;
    }
    this.#forgetEmpty();
  }

  #add(ticker) {
    const row = rowOf(ticker);
    this.rows.set(ticker, row);
    this.membership += 1;
    return row;
  }

  #forgetEmpty() {
    for (const row of this.rows.values()) {
      if (row.quote === null && row.failure === "" && !row.isWanted) {
        this.rows.delete(row.ticker);
        this.membership += 1;
      }
    }
  }

  #apply(quotes) {
    let latest = 0;
    let freshest = BEYOND; // the oldest confirmation that was still fresh
    for (const ticker in quotes) {
      const quote = quotes[ticker];
      let row = this.rows.get(ticker);
      if (quote === null) {
        if (row !== undefined) {
          row.quote = null;
          row.change = row.ratio = null;
          if (row.failure === "" && !row.isWanted) {
            this.rows.delete(ticker);
            this.membership += 1;
          }
        }
        continue;
      }
      row ??= this.#add(ticker);
      row.quote = quote;
      const before = quote.prev_close;
      if (before !== null && quote.price !== null) {
        row.change = quote.price - before;
        row.ratio = before === 0 ? null : (row.change / before) * 100;
      } else {
        row.change = row.ratio = null;
      }
      if (quote.updated_ms > latest) latest = quote.updated_ms;
      if (!quote.stale && quote.updated_ms < freshest) freshest = quote.updated_ms;
      this.changes += 1;
    }
    this.lastUpdateMs = Math.max(this.lastUpdateMs, latest);
    // The daemon's clock is not ours. It is past what it has confirmed, and not so far past it that
    // what it calls fresh would be stale; a heartbeat says it outright.
    const ours = Date.now();
    if (freshest !== BEYOND) {
      this.#offset = Math.min(this.#offset, freshest + this.freshnessMs - ours);
    }
    if (latest > 0) this.#offset = Math.max(this.#offset, latest - ours);
  }

  /**
   * Decimals for the prices of a row, worked out for those that are looked at. They do not become
   * fewer with a price that happens to be round, only with one of another size.
   */
  places(row) {
    const { quote } = row;
    if (row.placed === quote || quote === null) return row.places;
    const { price, open, high, low, prev_close: before } = quote;
    const size = price ? Math.floor(Math.log10(Math.abs(price))) : row.size;
    const places = decimals(price, open, high, low, before);
    row.places = size === row.size ? Math.max(row.places, places) : places;
    row.size = size;
    row.placed = quote;
    return row.places;
  }

  /** When a ticker is asked for next, by the daemon's clock; 0 where that is not known. */
  nextMs(row) {
    const wait = row.status?.next_attempt_s;
    return wait == null ? 0 : this.#infoMs + wait * 1000;
  }

  isStale(row, now) {
    const quote = row.quote;
    return quote !== null && (quote.stale || now - quote.updated_ms > this.freshnessMs);
  }

  /** Whether nobody asks for it, because its exchange is closed. */
  isClosed(row, now) {
    return (row.status?.market_opens_ms ?? 0) > now;
  }

  /** The state of a row: one of live, closed (its quote is stale, and why is known), stale, failing, waiting. */
  state(row, now) {
    if (row.failure !== "") return "failing";
    if (row.quote === null) return "waiting";
    if (!this.isStale(row, now)) return "live";
    return this.isClosed(row, now) ? "closed" : "stale";
  }

  /** The same in words. */
  words(row, now) {
    const state = this.state(row, now);
    return state === "failing" && this.isStale(row, now) ? "failing, stale" : state;
  }

  counts(now) {
    const counts = { all: 0, valued: 0, up: 0, down: 0, flat: 0, stale: 0, closed: 0, failing: 0, waiting: 0 };
    for (const row of this.rows.values()) {
      counts.all += 1;
      if (row.quote !== null) {
        counts.valued += 1;
        if (row.change > 0) counts.up += 1;
        else if (row.change < 0) counts.down += 1;
        else if (row.change !== null) counts.flat += 1;
        if (this.isStale(row, now)) {
          counts.stale += 1;
          if (this.isClosed(row, now)) counts.closed += 1;
        }
      } else if (row.failure === "") counts.waiting += 1;
      if (row.failure !== "") counts.failing += 1;
    }
    return counts;
  }
}
