// The page: what the wire tells goes to the market, and from there to what shows it.

import { Daemon } from "./daemon.js";
import { Detail } from "./detail.js";
import { text } from "./facts.js";
import * as format from "./format.js";
import { Market } from "./market.js";
import { Sparklines } from "./sparklines.js";
import { Table } from "./table.js";
import { Wire } from "./wire.js";

const INFO_MS = 5_000;
const BIG_INFO_MS = 15_000; // where it names thousands of tickers
const BIG = 1_000;
const SAY_AFTER_MS = 600;
const KEPT_TOKEN = "quoteshm-token";

const by = (id) => document.getElementById(id);

const url = new URL("/wire", location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
const wire = new Wire(url.href);
const market = new Market();
const sparklines = new Sparklines(wire, () => table.draw());
const table = new Table({ market, sparklines, open: (ticker) => go(ticker, interval), say });
const detail = new Detail({ market, wire, chose: go, missing: forgetInterval });
const daemon = new Daemon({ market, wire });

let link = { state: "connecting", why: "", retryAt: 0 };
let everLive = false;
let interval = "";
let standing = ["", false]; // what the daemon's badge and the top of the page say
let infoTimer = 0;
let saying = 0;

// -- what is said aloud: changes of state, and what a hand has asked for ---------------------

function say(words) {
  clearTimeout(saying);
  saying = setTimeout(() => text("said", words), SAY_AFTER_MS);
}

// -- the wire ---------------------------------------------------------------------------------

wire.addEventListener("state", ({ detail: now }) => {
  const before = link.state;
  link = now;
  daemon.setLive(now.state === "live");
  clearTimeout(infoTimer);
  if (now.state === "live") {
    everLive = true;
    askInfo();
    detail.connected();
    table.reorder();
  }
  if (now.state === "unauthorized") {
    keepToken(null);
    const form = by("token-form");
    if (now.why !== "") text("token-text", `The daemon says: ${now.why}.`);
    form.hidden = false;
    by("token").value = "";
    by("token").focus();
  }
  if (now.state !== before) {
    if (now.state === "live") say("Connected");
    else if (now.state === "waiting" && before === "live") say("Disconnected");
    else if (now.state === "unauthorized") say("This daemon wants a token");
  }
  drawState();
  detail.draw();
});

wire.addEventListener("snapshot", ({ detail: data }) => {
  market.takeSnapshot(data);
  if (!data.resumed || data.restated === null) sparklines.forgetAll();
  restated(data.restated);
  table.reorder();
  table.changed();
  detail.draw();
});

wire.addEventListener("quotes", ({ detail: event }) => {
  market.takeQuotes(event);
  table.changed();
  detail.changed(event.data);
});

wire.addEventListener("restated", ({ detail: event }) => restated(event.data));
wire.addEventListener("heartbeat", ({ detail: event }) => market.takeHeartbeat(event));

function restated(series) {
  if (series === null) sparklines.forgetAll();
  else for (const one of series) sparklines.forget(one.ticker);
  if (series === null || series.length > 0) detail.restated(series);
}

async function askInfo() {
  try {
    const info = await wire.request("get_info");
    info.takenAt = performance.now();
    daemon.take(info);
    market.takeInfo(info);
    detail.setIntervals(Object.keys(info.intervals));
    table.changed();
    drawState();
  } catch {
    // the next one will tell
  }
  const wait = market.rows.size > BIG ? BIG_INFO_MS : INFO_MS;
  clearTimeout(infoTimer);
  if (wire.state === "live") infoTimer = setTimeout(askInfo, wait);
}

// -- what is seen of it -----------------------------------------------------------------------

const WORDS = { connecting: "Connecting", live: "Live", waiting: "Disconnected", unauthorized: "Locked" };

function drawState() {
  const counts = market.counts(market.now());
  const state = link.state;
  document.body.dataset.link = state;
  by("link").dataset.state = state;
  standing = daemon.standing(counts);
  const [word, isTrouble] = standing;
  by("link").dataset.trouble = String(state === "live" && isTrouble);
  text("link-word", state === "live" && word !== "" ? `${WORDS.live}, ${word}` : WORDS[state]);
  const info = daemon.info;
  text("from", info === null ? "" : `${info.source} · ${location.host}`);
  text("n-all", format.count(counts.all));
  text("n-stale", format.count(counts.stale));
  text("n-failing", format.count(counts.failing));
  const isThere = counts.valued > 0;
  text("n-up", isThere ? format.count(counts.up) : format.NONE);
  text("n-down", isThere ? format.count(counts.down) : format.NONE);
  text("n-flat", isThere ? format.count(counts.flat) : format.NONE);
  const last = market.lastUpdateMs;
  text("last-update", last === 0 ? format.NONE : `${format.age(market.now() - last)} ago`);
  by("token-form").hidden = state !== "unauthorized";
  drawNotice(last);
  drawBlank(counts);
}

function drawNotice(last) {
  const notice = by("notice");
  const isOff = everLive && (link.state === "waiting" || link.state === "connecting");
  notice.hidden = !isOff;
  if (!isOff) return;
  const left = Math.ceil((link.retryAt - Date.now()) / 1000);
  const trying = link.state === "connecting" ? "Trying now …" : `Trying again in ${Math.max(1, left)} s.`;
  const why = link.why === "" ? "" : `: ${link.why}`;
  const held = last === 0 ? "" : ` The values are the last ones heard, of ${format.moment(last)}.`;
  text("notice-text", `Disconnected${why}.${held} ${trying}`);
  by("notice-button").disabled = link.state === "connecting";
}

function drawBlank(counts) {
  const blank = by("blank");
  const [title, words, button] = blankWords(counts);
  blank.hidden = title === "";
  text("blank-title", title);
  text("blank-text", words);
  by("blank-button").hidden = button === "";
  text("blank-button", button);
  by("grid").classList.toggle("loading", link.state === "connecting" && !everLive);
}

function blankWords(counts) {
  if (link.state === "unauthorized") return ["", "", ""];
  if (!everLive) {
    if (link.state === "connecting") return ["Connecting to the daemon …", "", ""];
    const left = Math.max(1, Math.ceil((link.retryAt - Date.now()) / 1000));
    return ["No connection", `${sentence(link.why)} Trying again in ${left} s.`, "Try now"];
  }
  if (table.shown > 0) return ["", "", ""];
  if (counts.all === 0) {
    const trouble = daemon.trouble();
    const why = trouble === "" ? "The daemon has published nothing so far; its first refresh may still be under way." : `The daemon says: ${trouble}`;
    return ["No tickers yet", why, ""];
  }
  const filter = by("filter").value.trim();
  const show = document.querySelector("input[name=show]:checked").value;
  const kind = show === "all" ? "" : `${show} `;
  if (filter !== "") return ["No match", `No ${kind}ticker has “${filter}” in it.`, "Clear the filter"];
  if (show === "stale") return ["Nothing is stale", "Every value was confirmed within the freshness window.", "Show all"];
  if (show === "failing") return ["Nothing is failing", "No ticker has an error.", "Show all"];
  return ["", "", ""];
}

function sentence(words) {
  return words === "" ? "" : `${words[0].toUpperCase()}${words.slice(1)}.`;
}

by("notice-button").addEventListener("click", () => wire.retry());
by("blank-button").addEventListener("click", () => {
  if (!everLive) wire.retry();
  else clearFilter();
});

function clearFilter() {
  by("filter").value = "";
  document.querySelector("input[name=show][value=all]").checked = true;
  table.setFilter("");
  table.setShow("all");
  requestAnimationFrame(drawState);
}

function tick() {
  const rates = daemon.rates();
  text("rate", rates === null || link.state !== "live" ? format.NONE : format.count(rates.quotes));
  drawState();
  daemon.draw(link.state === "live" ? rates : null, standing);
  detail.draw();
  table.changed();
  table.look();
}

setInterval(tick, 1000);

// -- filter ------------------------------------------------------------------------------------

by("filter").addEventListener("input", () => {
  table.setFilter(by("filter").value);
  requestAnimationFrame(() => {
    drawState();
    say(`${format.count(table.shown)} tickers`);
  });
});

by("show").addEventListener("change", (event) => {
  table.setShow(event.target.value);
  requestAnimationFrame(() => {
    drawState();
    say(`${format.count(table.shown)} tickers`);
  });
});

by("filter").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "Enter") {
    event.preventDefault();
    table.hasten();
    table.focus();
    by("grid").dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
    if (event.key === "Enter" && table.shown === 1) by("grid").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
  }
});

// -- which ticker is open: the address says it, so that it can be kept, sent, and left by Back -----

function go(ticker, chosen) {
  const name = encodeURIComponent(ticker);
  const wanted = chosen ? `#${name}@${encodeURIComponent(chosen)}` : `#${name}`;
  if (location.hash === wanted) showPlace();
  else location.hash = wanted;
}

/** The address names bars that are not kept: it is to say what is shown. */
function forgetInterval(ticker) {
  history.replaceState(history.state, "", `#${encodeURIComponent(ticker)}`);
  interval = "";
}

function leave() {
  const { ticker } = detail;
  const wasSheet = !by("daemon").hidden && document.body.dataset.sheet === "daemon";
  document.body.dataset.sheet = "";
  if (location.hash !== "" || wasSheet) history.replaceState(null, "", location.pathname + location.search);
  showPlace();
  if (ticker !== "") table.activate(ticker);
  if (wasSheet && ticker === "") by("daemon-button").focus();
  else table.focus();
}

function showPlace() {
  const [name, chosen] = location.hash.slice(1).split("@");
  let ticker = "";
  try {
    ticker = decodeURIComponent(name);
    interval = chosen === undefined ? "" : decodeURIComponent(chosen);
  } catch {
    ticker = "";
  }
  const was = detail.ticker;
  detail.open(ticker, interval);
  table.setOpened(ticker);
  by("daemon").hidden = ticker !== "";
  if (ticker !== "") document.body.dataset.sheet = "detail";
  else if (document.body.dataset.sheet === "detail") document.body.dataset.sheet = "";
  document.title = ticker === "" ? "quoteshm" : `${ticker} · quoteshm`;
  if (ticker !== "" && ticker !== was) {
    say(`${ticker} opened`);
    if (matchMedia("(max-width: 900px)").matches) by("detail").focus();
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is for tickers
  table.focus();
});
addEventListener("hashchange", showPlace);
by("detail-close").addEventListener("click", leave);
by("daemon-close").addEventListener("click", leave);
by("daemon-button").addEventListener("click", () => {
  // Back leads to where it was opened from, as it does from a ticker.
  if (document.body.dataset.sheet !== "daemon") history.pushState({ sheet: "daemon" }, "", location.pathname + location.search);
  showPlace();
  document.body.dataset.sheet = "daemon";
  by("daemon").focus();
});
addEventListener("popstate", arrive);

/** Show what the history says; where the page begins, that is what it was reloaded with. */
function arrive() {
  if (history.state?.sheet === "daemon") document.body.dataset.sheet = "daemon";
  else if (document.body.dataset.sheet === "daemon") document.body.dataset.sheet = "";
  showPlace();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target instanceof HTMLInputElement && event.target.type !== "radio";
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    by("filter").focus();
    by("filter").select();
  } else if (event.key === "Escape") {
    if (event.target === by("filter") && by("filter").value !== "") clearFilter();
    else if (event.target === by("filter")) table.focus();
    else if (detail.ticker !== "" || document.body.dataset.sheet === "daemon") leave();
    else if (table.filter !== "") clearFilter();
  }
});

// -- token -------------------------------------------------------------------------------------

function keepToken(token) {
  try {
    if (token === null) sessionStorage.removeItem(KEPT_TOKEN);
    else sessionStorage.setItem(KEPT_TOKEN, token);
  } catch {
    // it is asked for again
  }
}

by("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = by("token").value;
  keepToken(token);
  by("token").value = "";
  wire.authorize(token);
});

// -- theme -------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];

function theme() {
  return document.documentElement.dataset.theme ?? "auto";
}

function drawTheme() {
  const now = theme();
  text("theme-word", now[0].toUpperCase() + now.slice(1));
  by("theme-button").setAttribute("aria-label", `Theme: ${now === "auto" ? "as the system" : now}`);
  detail.paint();
}

by("theme-button").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("quoteshm-theme", next);
  } catch {
    // it lasts as long as the page
  }
  drawTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTheme);

// -- begin -------------------------------------------------------------------------------------

drawTheme();
arrive();
drawState();
let kept = null;
try {
  kept = sessionStorage.getItem(KEPT_TOKEN);
} catch {
  // none
}
if (kept === null) wire.start();
else wire.authorize(kept);
