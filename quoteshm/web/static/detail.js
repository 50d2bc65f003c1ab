// One ticker: its quote, its candles, and the bar that is forming, live.

import { factsOf, text } from "./facts.js";
import * as format from "./format.js";
import { paced } from "./pace.js";

const BARS_AT_MOST = 20_000;
const TABLE_BARS = 20;
const SOON_MS = 5_000; // what is known of it is as old

const by = (id) => document.getElementById(id);

export class Detail {
  #market;
  #wire;
  #ticker = "";
  #interval = "";
  #intervals = [];
  #chart = null;
  #loading = 0; // counts, so that only the newest answer is shown
  #isLoaded = false;
  #isAsking = false;
  #isBehind = false;
  #facts = factsOf(by("detail-facts"));
  #drawPaced = paced(() => this.draw());
  #followPaced = paced(() => this.#follow());

  constructor({ market, wire, chose, missing }) {
    this.#market = market;
    this.#wire = wire;
    this.chose = chose;
    this.missing = missing;
    by("zoom-in").addEventListener("click", () => this.#chart?.zoom(0.6));
    by("zoom-out").addEventListener("click", () => this.#chart?.zoom(1 / 0.6));
    by("zoom-all").addEventListener("click", () => this.#chart?.all());
    by("bars").addEventListener("toggle", () => this.#table());
    by("chart").addEventListener("keydown", (event) => {
      const act = {
        "+": () => this.#chart.zoom(0.6),
        "=": () => this.#chart.zoom(0.6),
        "-": () => this.#chart.zoom(1 / 0.6),
        0: () => this.#chart.all(),
        ArrowLeft: () => this.#chart.pan(-0.1),
        ArrowRight: () => this.#chart.pan(0.1),
        End: () => this.#chart.last(this.#chart.inView),
      }[event.key];
      if (act === undefined || this.#chart === null || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      act();
    });
  }

  get ticker() {
    return this.#ticker;
  }

  get chart() {
    return this.#chart;
  }

  /** Say which intervals the daemon keeps. */
  setIntervals(intervals) {
    if (intervals.join() === this.#intervals.join()) return;
    this.#intervals = intervals;
    if (this.#interval !== "" && !intervals.includes(this.#interval)) {
      this.#refuse(this.#interval); // an address of another time
      this.load();
    }
    by("intervals").replaceChildren(
      ...intervals.map((interval) => {
        const label = document.createElement("label");
        const radio = document.createElement("input");
        radio.type = "radio";
        radio.name = "interval";
        radio.value = interval;
        radio.addEventListener("change", () => this.chose(this.#ticker, interval));
        const words = document.createElement("span");
        words.textContent = interval;
        label.append(radio, words);
        return label;
      }),
    );
    this.#checkInterval();
  }

  /** Show the first interval instead of one that is not kept, and say so. */
  #refuse(interval) {
    this.#interval = "";
    text("interval-note", `The daemon keeps no bars of ${interval}; these are of ${this.#intervals[0]}.`);
    by("interval-note").hidden = false;
    this.missing(this.#ticker);
  }

  #checkInterval() {
    for (const radio of by("intervals").querySelectorAll("input")) {
      radio.checked = radio.value === (this.#interval || this.#intervals[0]);
    }
  }

  /** Show a ticker; an empty name is none. */
  open(ticker, interval) {
    if (ticker === this.#ticker && interval === this.#interval) return;
    this.#ticker = ticker;
    this.#interval = interval;
    by("detail").hidden = ticker === "";
    by("interval-note").hidden = true;
    if (ticker === "") return;
    const isKept = interval === "" || this.#intervals.length === 0 || this.#intervals.includes(interval);
    if (!isKept) this.#refuse(interval);
    this.#checkInterval();
    this.draw();
    this.load();
  }

  /** Get the whole series anew. */
  async load() {
    if (this.#ticker === "") return;
    const loading = (this.#loading += 1);
    this.#isLoaded = false;
    this.#note("Loading the bars …");
    try {
      const drawing = import("./chart.js");
      const asked = { ticker: this.#ticker, last: BARS_AT_MOST };
      if (this.#interval !== "") asked.interval = this.#interval;
      const history = await this.#wire.request("get_history", asked);
      const { Chart } = await drawing;
      if (loading !== this.#loading) return;
      this.#chart ??= new Chart(by("chart"), (bar) => this.#read(bar));
      this.#chart.show(history);
      this.#isLoaded = true;
      this.#note(history.time.length === 0 ? "No bars of this interval yet." : "");
      this.#describe(history);
    } catch (error) {
      if (loading !== this.#loading) return;
      this.#chart?.clear();
      this.#read(undefined);
      const isCut = error.code === "CLOSED";
      const isFailing = this.#market.rows.get(this.#ticker)?.failure; // which is said above already
      const why = isFailing ? "No bars yet." : `No bars: ${error.message}`;
      this.#note(isCut ? "The bars come with the connection." : why);
    }
  }

  /** The connection is there (again). */
  connected() {
    if (this.#ticker === "") return;
    if (this.#isLoaded && this.#chart.bars.length > 0) this.#follow();
    else this.load();
  }

  /** The quote of some tickers has changed: perhaps of this one. */
  changed(quotes) {
    if (this.#ticker === "" || !Object.hasOwn(quotes, this.#ticker)) return;
    this.#drawPaced();
    if (this.#isLoaded) this.#followPaced();
    else if (by("plot-note").textContent.startsWith("No bars")) this.load();
  }

  /** Get the bar that is forming, and those that came after the last one known; one try at a time. */
  async #follow() {
    if (this.#ticker === "" || !this.#isLoaded) return; // it was left meanwhile
    if (this.#isAsking) {
      this.#isBehind = true;
      return;
    }
    const last = this.#chart.bars.at(-1);
    if (last === undefined) {
      this.load();
      return;
    }
    this.#isAsking = true;
    const loading = this.#loading;
    try {
      const asked = { ticker: this.#ticker, since: last.ms };
      if (this.#interval !== "") asked.interval = this.#interval;
      const history = await this.#wire.request("get_history", asked);
      if (loading === this.#loading) {
        // Its window may have moved on, past what we have.
        if (history.time[0] !== last.ms && history.time.length > 0) this.load();
        else {
          this.#chart.update(history);
          this.#chart.reread();
          this.#describe(history);
        }
      }
    } catch {
      // it is asked for again with the next change
    } finally {
      this.#isAsking = false;
      if (this.#isBehind) {
        this.#isBehind = false;
        this.#followPaced();
      }
    }
  }

  restated(series) {
    if (series === null || series.some((one) => one.ticker === this.#ticker)) this.load();
  }

  paint() {
    this.#chart?.paint();
  }

  /** Write what the quote says. */
  draw() {
    if (this.#ticker === "") return;
    const row = this.#market.rows.get(this.#ticker);
    const now = this.#market.now();
    text("detail-title", this.#ticker);
    const quote = row?.quote ?? null;
    by("detail").dataset.way = row?.change > 0 ? "up" : row?.change < 0 ? "down" : "flat";
    const badge = by("detail-state");
    const isOff = this.#wire.state !== "live";
    const state = isOff ? "off" : row === undefined ? "waiting" : this.#market.state(row, now);
    if (badge.dataset.state !== state) badge.dataset.state = state;
    const words = row === undefined ? "unknown" : this.#market.words(row, now);
    text("detail-state", isOff ? (words === "live" ? "disconnected" : `${words}, disconnected`) : words);
    const places = row === undefined ? 2 : this.#market.places(row);
    text("detail-price", format.price(quote?.price, places));
    text("detail-currency", quote?.currency ?? "");
    text("detail-change", quote === null || row.change == null ? "" : `${format.signed(row.change, places)}  ${format.percent(row.ratio)}`);
    text("detail-when", this.#when(row, quote, now));
    this.#hint(row);
    const trouble = row === undefined ? "" : row.failure;
    by("detail-trouble").hidden = trouble === "";
    text("detail-trouble", trouble === "" ? "" : `It fails${this.#tries(row)}: ${trouble}`);
    this.#facts([
      ["Open", format.price(quote?.open, places)],
      ["High", format.price(quote?.high, places)],
      ["Low", format.price(quote?.low, places)],
      ["Close before", format.price(quote?.prev_close, places)],
      ["Volume", format.count(quote?.volume)],
      ["Source", quote?.source ?? format.NONE],
      ["Next attempt", this.#next(row, now)],
    ]);
  }

  /** Symbols have capitals, and people forget them. */
  #hint(row) {
    const upper = this.#ticker.toUpperCase();
    const isLike = row === undefined && this.#market.rows.has(upper);
    by("detail-like").hidden = !isLike;
    text("detail-like", isLike ? upper : "");
    if (isLike) by("detail-like").href = `#${encodeURIComponent(upper)}`;
  }

  #when(row, quote, now) {
    if (row === undefined) {
      const isLike = this.#market.rows.has(this.#ticker.toUpperCase());
      return isLike ? "The daemon has no such ticker, but it has " : "The daemon has no such ticker.";
    }
    const opens = row.status?.market_opens_ms ?? 0;
    const closed = opens > now ? `Market closed until ${format.moment(opens)}. ` : "";
    if (quote === null) return `${closed}No value yet.`;
    const confirmed = format.age(now - quote.updated_ms);
    return `${closed}Price of ${format.moment(quote.ts_epoch_ms)}, confirmed ${confirmed} ago`;
  }

  #tries(row) {
    const attempts = row.status?.attempts ?? 0;
    return attempts > 1 ? `, ${format.count(attempts)} attempts so far` : "";
  }

  /** When it is asked for next: of one that does not exist, that is the end of its quarantine. */
  #next(row, now) {
    if (row === undefined || this.#wire.state !== "live") return format.NONE;
    const at = row.status?.quarantined_until_ms ?? this.#market.nextMs(row);
    if (at === 0) return format.NONE;
    return at - now < SOON_MS ? "soon" : `in ${format.age(at - now)}`;
  }

  #note(words) {
    by("plot-note").hidden = words === "";
    text("plot-note", words);
  }

  #read(bar) {
    if (bar === undefined) {
      text("reading", "");
      return;
    }
    const way = bar.close < bar.open ? "down" : "up";
    if (by("reading").dataset.way !== way) by("reading").dataset.way = way;
    const { open, high, low, close } = bar;
    const four = [["O", open], ["H", high], ["L", low], ["C", close]];
    const said = four.map(([name, value]) => `${name}\u00a0${format.price(value, this.#chart.places)}`).join("  ");
    text("reading", `${this.#chart.when(bar.time)}   ${said}   V\u00a0${format.volume(bar.volume)}`);
  }

  #describe(history) {
    const bars = this.#chart.bars;
    const last = bars.at(-1);
    by("chart").setAttribute(
      "aria-label",
      last === undefined
        ? `${this.#ticker}: no bars`
        : `${this.#ticker}, candles of ${history.interval}: ${bars.length} bars from ${this.#chart.when(bars[0].time)} to ${this.#chart.when(last.time)}, last close ${format.price(last.close, this.#chart.places)}. Plus and minus zoom, the arrows move.`,
    );
    this.#table();
  }

  #table() {
    if (!by("bars").open || this.#chart === null) return;
    const rows = this.#chart.bars.slice(-TABLE_BARS).reverse();
    by("bar-rows").replaceChildren(
      ...rows.map((bar) => {
        const row = document.createElement("tr");
        const time = document.createElement("th");
        time.scope = "row";
        time.textContent = this.#chart.when(bar.time);
        row.append(time);
        for (const value of [bar.open, bar.high, bar.low, bar.close]) row.insertCell().textContent = format.price(value, this.#chart.places);
        row.insertCell().textContent = format.volume(bar.volume);
        return row;
      }),
    );
  }
}
