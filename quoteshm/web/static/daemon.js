// The daemon's own state, in words: what it says of itself, and what is measured here.

import { factsOf, text } from "./facts.js";
import * as format from "./format.js";

const LISTED = 30;
const OVER_MS = 10_000;

const by = (id) => document.getElementById(id);

export class Daemon {
  #market;
  #wire;
  #info = null;
  #isLive = false;
  #putOffMs = 0;
  #seen = []; // [time, commits, changes, bytes], of the last seconds
  #source = factsOf(by("source-facts"));
  #traffic = factsOf(by("traffic-facts"));
  #segment = factsOf(by("segment-facts"));

  constructor({ market, wire }) {
    this.#market = market;
    this.#wire = wire;
  }

  take(info) {
    this.#info = info;
    // Where all tickers are left alone for a while, nothing is asked before the first of them is due.
    const waits = Object.values(info.ticker_status ?? {}).map((one) => one.next_attempt_s ?? 0);
    this.#putOffMs = waits.reduce((least, one) => Math.min(least, one), waits[0] ?? 0) * 1000;
    this.#list(info);
  }

  setLive(isLive) {
    this.#isLive = isLive;
    if (!isLive) this.#seen = [];
  }

  get info() {
    return this.#info;
  }

  /** Commits, quotes and bytes a second, of the last ten. */
  rates() {
    const now = performance.now();
    const { commits, changes } = this.#market;
    this.#seen.push([now, commits, changes, this.#wire.received.bytes]);
    while (this.#seen.length > 2 && now - this.#seen[0][0] > OVER_MS) this.#seen.shift();
    const first = this.#seen[0];
    const seconds = (now - first[0]) / 1000;
    if (seconds < 0.5) return null;
    return {
      commits: (commits - first[1]) / seconds,
      quotes: (changes - first[2]) / seconds,
      bytes: (this.#wire.received.bytes - first[3]) / seconds,
    };
  }

  /** What is wrong with the whole of it, in words; empty if nothing is. */
  trouble() {
    return this.#info?.error ?? "";
  }

  /** How it fares, in a word or two, and whether that is bad; no word where there is nothing to say. */
  standing({ all, valued, stale, closed, failing }) {
    if (this.trouble() !== "") return ["in trouble", true];
    if (all > 0 && failing === all) return ["all failing", true];
    // Why they are stale comes with what it says of itself.
    if (this.#info === null || valued === 0 || stale < valued) return ["", false];
    return closed === stale ? ["all closed", false] : ["all stale", true];
  }

  draw(rates, [word, isTrouble]) {
    const info = this.#info;
    const badge = by("daemon-state");
    const trouble = this.trouble();
    const state = !this.#isLive ? "off" : isTrouble ? "failing" : "live";
    if (badge.dataset.state !== state) badge.dataset.state = state;
    text("daemon-state", !this.#isLive ? "not connected" : isTrouble ? word : word === "" ? "running" : `running, ${word}`);
    by("daemon-trouble").hidden = trouble === "";
    text("daemon-trouble", trouble === "" ? "" : `The last refresh broke off: ${trouble}`);
    by("daemon").dataset.known = String(info !== null);
    if (info === null) return;
    const now = this.#market.now();
    const heard = this.#market.lastUpdateMs; // later than what it last said of itself
    this.#source([
      ["Source", info.source + (info.adjustment && info.adjustment !== "none" ? `, ${info.adjustment}` : "")],
      ["Refreshes every", seconds(info.refresh_s)],
      ["Next refresh", this.#next(now)],
      ["Last asked", ago(now, info.last_attempt_ms && Math.max(info.last_attempt_ms, heard))],
      ["Last answer", ago(now, info.last_success_ms && Math.max(info.last_success_ms, heard))],
      ["Stale after", seconds(info.freshness_ms / 1000)],
      ["Bars restated", info.bars && format.count(info.bars.restated)],
      ["Bars dropped", info.bars && format.count(info.bars.dropped)],
    ]);
    const { clients } = info;
    const { subscriptions } = info;
    this.#traffic([
      ["Clients", clients === undefined ? undefined : format.count(clients)],
      ["Subscriptions", subscriptions === undefined ? undefined : format.count(subscriptions)],
      ["Commits a second", rate(rates?.commits)],
      ["Quotes a second", rate(rates?.quotes)],
      ["To this page", rates === null ? format.NONE : `${format.bytes(rates.bytes)}/s`],
    ]);
    this.#segment([
      ["Epoch", format.count(this.#market.epoch)],
      ["Tickers", `${format.count(info.counts.tickers)} of ${format.count(info.counts.capacity)}`],
      ["Series", Object.entries(info.intervals).map(([name, bars]) => `${name}\u00a0×\u00a0${format.count(bars)}`).join(", ")],
      ["Name", info.shm_name ?? "none: network only"],
      ["Instance", info.instance.slice(0, 8)],
      ["Up for", this.#isLive ? format.age(info.uptime_s * 1000 + (performance.now() - info.takenAt)) : format.NONE],
      ["Process", String(info.pid)],
      ["Version", info.quoteshm],
    ]);
  }

  #next(now) {
    const { last_attempt_ms, refresh_s: every, takenAt } = this.#info;
    const asked = last_attempt_ms && Math.max(last_attempt_ms, this.#market.lastUpdateMs);
    if (!this.#isLive) return format.NONE;
    if (!asked) return "as soon as it can";
    const putOff = this.#putOffMs - (performance.now() - takenAt);
    const ms = Math.max(asked + every * 1000 - now, putOff);
    if (every <= 5 && putOff <= 0) return `within ${seconds(every)}`;
    return ms > 0 ? `in ${format.age(ms + 999)}` : "now";
  }

  #list(info) {
    const failing = Object.entries(info.failures ?? {});
    by("failing").hidden = failing.length === 0;
    by("failing-list").replaceChildren(
      ...failing.slice(0, LISTED).map(([ticker, why]) => {
        const item = document.createElement("li");
        const link = document.createElement("a");
        link.href = `#${encodeURIComponent(ticker)}`;
        link.textContent = ticker;
        const words = document.createElement("span");
        const status = info.ticker_status?.[ticker];
        const next = status?.next_attempt_s;
        words.textContent = why + (next > 0 && !why.includes("next try") ? `, next try in ${format.age(next * 1000)}` : "");
        item.append(link, words);
        return item;
      }),
    );
    const more = failing.length - LISTED;
    text("failing-more", more > 0 ? `and ${format.count(more)} more` : "");
  }
}

function rate(value) {
  if (value == null) return format.NONE;
  return value < 10 ? value.toFixed(1) : format.count(value);
}

function seconds(value) {
  if (value === undefined) return undefined;
  return value < 120 ? `${Number(value.toPrecision(3))} s` : format.age(value * 1000);
}

function ago(now, ms) {
  if (ms === undefined) return undefined;
  return ms === null ? "never" : `${format.age(now - ms)} ago`;
}
