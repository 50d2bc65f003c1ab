// Candles and volume of one series, on lightweight-charts. Colours are those of the style sheet.

import {
  CandlestickSeries,
  CrosshairMode,
  HistogramSeries,
  TickMarkType,
  createChart,
} from "./lightweight-charts.js";
import { decimals, price } from "./format.js";

const FEW = 3; // bars, of which each has its whole date on the axis
const DAILY = /^\d+(d|wk|mo)$/;

function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  probe.style.forcedColorAdjust = "none"; // or all of them are one
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

export class Chart {
  #element;
  #chart;
  #candles;
  #volumes;
  #zone = "UTC";
  #isDaily = true;
  #bars = []; // {ms, time, open, high, low, close, volume}
  #colours = {};
  places = 2; // decimals of its prices
  #under = -1; // the bar under the pointer
  #tell = () => undefined;

  /** `read(bar)` is called with the bar under the pointer, or the last one. */
  constructor(element, read) {
    this.#element = element;
    this.#chart = createChart(element, {
      autoSize: true,
      crosshair: { mode: CrosshairMode.Normal },
      layout: { attributionLogo: false, fontFamily: getComputedStyle(document.body).fontFamily, fontSize: 11 },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.12, bottom: 0.24 } },
      timeScale: {
        borderVisible: false,
        rightOffset: 3,
        minBarSpacing: 0.2,
        tickMarkFormatter: (time, type) => this.#tick(time, type),
      },
      localization: { timeFormatter: (time) => this.when(time) },
      handleScale: { axisPressedMouseMove: true },
    });
    this.#candles = this.#chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.#volumes = this.#chart.addSeries(HistogramSeries, {
      priceScaleId: "volume",
      priceFormat: { type: "volume" },
      lastValueVisible: false,
      priceLineVisible: false,
    });
    this.#chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.#chart.subscribeCrosshairMove((at) => {
      this.#under = at.logical === undefined ? -1 : Math.round(at.logical);
      this.reread();
    });
    this.#tell = read;
    this.paint();
  }

  get bars() {
    return this.#bars;
  }

  /** Tell of the bar that is read, as it is now. */
  reread() {
    this.#tell(this.#bars[this.#under] ?? this.#bars.at(-1));
  }

  /** Take the colours of the theme. */
  paint() {
    const [ink, faint, line, up, down] = ["--ink-2", "--ink-3", "--line", "--up", "--down"].map(colour);
    this.#colours = { up: colour("--up-soft"), down: colour("--down-soft") };
    this.#chart.applyOptions({
      layout: { background: { type: "solid", color: colour("--surface") }, textColor: ink },
      grid: { vertLines: { color: "transparent" }, horzLines: { color: line } },
      crosshair: {
        vertLine: { color: faint, labelBackgroundColor: colour("--label") },
        horzLine: { color: faint, labelBackgroundColor: colour("--label") },
      },
    });
    this.#candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    this.#volumes.setData(this.#bars.map((bar) => this.#volume(bar)));
  }

  /** Show a series from scratch. */
  show(history) {
    this.#isDaily = DAILY.test(history.interval);
    this.#setZone(history.time_zone);
    this.#bars = this.#read(history);
    const last = this.#bars.at(-1);
    this.places = last === undefined ? 2 : decimals(last.open, last.high, last.low, last.close);
    const formatter = (value) => price(value, this.places);
    this.#candles.applyOptions({ priceFormat: { type: "custom", minMove: 10 ** -this.places, formatter } });
    this.#chart.applyOptions({ timeScale: { timeVisible: !this.#isDaily, secondsVisible: false } });
    this.#candles.setData(this.#bars);
    this.#volumes.setData(this.#bars.map((bar) => this.#volume(bar)));
    this.#chart.priceScale("right").applyOptions({ autoScale: true });
    this.last(Math.min(120, Math.round(this.#element.clientWidth / 4.5)));
    this.#under = -1;
    this.reread();
  }

  /** Take in the last bar as it is now, and what came after it. */
  update(history) {
    for (const bar of this.#read(history)) {
      const last = this.#bars.at(-1);
      if (last !== undefined && bar.ms < last.ms) continue;
      if (last !== undefined && bar.ms === last.ms) this.#bars[this.#bars.length - 1] = bar;
      else this.#bars.push(bar);
      this.#candles.update(bar);
      this.#volumes.update(this.#volume(bar));
    }
  }

  clear() {
    this.#bars = [];
    this.#candles.setData([]);
    this.#volumes.setData([]);
  }

  /** Show so many bars, the newest. */
  last(count) {
    const end = this.#bars.length;
    const from = Math.max(-1, end - count);
    this.#chart.timeScale().setVisibleLogicalRange({ from, to: end + 2 });
  }

  all() {
    this.#chart.timeScale().setVisibleLogicalRange({ from: -1, to: this.#bars.length + 1 });
  }

  /** Show so many times as many bars; the right edge stays. */
  zoom(factor) {
    const range = this.#chart.timeScale().getVisibleLogicalRange();
    if (range === null) return;
    const width = Math.min(this.#bars.length + 4, Math.max(8, (range.to - range.from) * factor));
    this.#chart.timeScale().setVisibleLogicalRange({ from: range.to - width, to: range.to });
  }

  /** Move by a part of what is seen. */
  pan(part) {
    const range = this.#chart.timeScale().getVisibleLogicalRange();
    if (range === null) return;
    const by = (range.to - range.from) * part;
    this.#chart.timeScale().setVisibleLogicalRange({ from: range.from + by, to: range.to + by });
  }

  /** How many bars are in view. */
  get inView() {
    const range = this.#chart.timeScale().getVisibleLogicalRange();
    return range === null ? 0 : Math.round(range.to - range.from);
  }

  /** A bar's time, where its exchange is. */
  when(time) {
    if (typeof time === "string") return this.#days.full.format(new Date(`${time}T00:00:00Z`));
    if (typeof time === "object") return this.#days.full.format(Date.UTC(time.year, time.month - 1, time.day));
    return this.#times.full.format(time * 1000);
  }

  #days = formats("UTC", true);
  #times = formats("UTC", false);
  #dates = isoDates("UTC");

  #setZone(zone) {
    try {
      this.#dates = isoDates(zone || "UTC");
      this.#zone = zone || "UTC";
    } catch {
      this.#zone = "UTC"; // one that this browser does not know
      this.#dates = isoDates("UTC");
    }
    this.#times = formats(this.#zone, false);
  }

  #tick(time, type) {
    const isDay = typeof time !== "number";
    const ms = !isDay ? time * 1000 : typeof time === "string" ? Date.parse(`${time}T00:00:00Z`) : Date.UTC(time.year, time.month - 1, time.day);
    const those = isDay ? this.#days : this.#times;
    // So few have no month or year beside them that would say which day it is.
    if (this.#bars.length <= FEW) return isDay ? those.full.format(ms) : those.moment.format(ms);
    if (type === TickMarkType.Year) return those.year.format(ms);
    if (type === TickMarkType.Month) return those.month.format(ms);
    if (type === TickMarkType.DayOfMonth) return those.day.format(ms);
    return those.time.format(ms);
  }

  #read(history) {
    const { time, open, high, low, close, volume } = history;
    const bars = [];
    let before;
    for (let i = 0; i < time.length; i += 1) {
      // A day is named by its date at the exchange, whatever the summer does to its midnight.
      const at = this.#isDaily ? this.#dates.format(time[i]) : time[i] / 1000;
      if (at === before || open[i] === null || close[i] === null) continue;
      before = at;
      bars.push({ ms: time[i], time: at, open: open[i], high: high[i] ?? open[i], low: low[i] ?? open[i], close: close[i], volume: volume[i] });
    }
    return bars;
  }

  #volume(bar) {
    const color = bar.close < bar.open ? this.#colours.down : this.#colours.up;
    return { time: bar.time, value: bar.volume ?? 0, color };
  }
}

function formats(timeZone, isDaily) {
  const make = (options) => new Intl.DateTimeFormat(undefined, { timeZone, ...options });
  return {
    full: make(isDaily ? { dateStyle: "medium" } : { year: "numeric", month: "short", day: "numeric", hour: "numeric", minute: "2-digit", timeZoneName: "short" }),
    moment: make({ month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false }),
    year: make({ year: "numeric" }),
    month: make({ month: "short" }),
    day: make({ day: "numeric", month: isDaily ? undefined : "short" }),
    time: make({ hour: "2-digit", minute: "2-digit", hour12: false }),
  };
}

function isoDates(timeZone) {
  return new Intl.DateTimeFormat("sv-SE", { timeZone, year: "numeric", month: "2-digit", day: "2-digit" });
}
