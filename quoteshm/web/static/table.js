// The market as a grid of rows, of which only those on the screen exist. What changes is written in
// place, a few times a second; the order is looked at again at most once a second, and not under a hand.

import * as format from "./format.js";
import { paced } from "./pace.js";

const BEYOND_VIEW = 6; // rows kept ready above and below
const SETTLED_MS = 120;
const REORDER_MS = 1_000;
const HAND_OFF_MS = 1_500;
const LIT_MS = 400; // how long a price that has moved is
const LONG = 9; // characters of a price that take smaller ones
const VERY_LONG = 10;
const SVG = "http://www.w3.org/2000/svg";
const STATES = { failing: 0, waiting: 1, stale: 2, closed: 3, live: 4 };
const REASONS = {
  stale: "not confirmed within the freshness window",
  closed: "its exchange is closed: this is the last value, and nobody asks for another",
};

const byName = new Intl.Collator("en", { numeric: true }).compare;

export const COLUMNS = [
  { key: "ticker", title: "Ticker", first: 1 },
  { key: "trend", title: "Trend", hint: "the last 40 bars" },
  { key: "price", title: "Price", first: -1, number: true },
  { key: "change", title: "Change", first: -1, number: true, hint: "against the close before" },
  { key: "ratio", title: "Change %", first: -1, number: true, hint: "against the close before" },
  { key: "volume", title: "Volume", first: -1, number: true },
  { key: "age", title: "Age", first: 1, number: true, hint: "since it was last confirmed" },
  { key: "state", title: "State", first: 1 },
];

export class Table {
  #grid = document.getElementById("grid");
  #head = document.getElementById("columns");
  #body = document.getElementById("rows");
  #sort = document.getElementById("sort");
  #direction = document.getElementById("direction");
  #market;
  #sparklines;
  #open;
  #say;
  #order = []; // rows of the market, filtered and sorted
  #pool = [];
  #height = 40;
  #active = -1;
  #opened = "";
  #key = "ticker";
  #sign = 1;
  #filter = "";
  #show = "all";
  #drawn = false; // whether a frame is asked for
  #isStale = true; // whether the order is
  #orderedAt = 0;
  #membership = -1;
  #touchedAt = -Infinity;
  #settling = 0;
  #reordering = 0;
  #unlighting = 0;
  #drawPaced = paced(() => this.draw());

  constructor({ market, sparklines, open, say }) {
    this.#market = market;
    this.#sparklines = sparklines;
    this.#open = open;
    this.#say = say;
    this.#makeHead();
    this.#grid.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#grid.addEventListener("keydown", (event) => this.#key_down(event));
    this.#grid.addEventListener("pointermove", () => (this.#touchedAt = performance.now()), { passive: true });
    this.#body.addEventListener("click", (event) => this.#clicked(event));
    new ResizeObserver(() => this.#resized()).observe(this.#grid);
    this.#resized();
  }

  get shown() {
    return this.#order.length;
  }

  get filter() {
    return this.#filter;
  }

  setFilter(text) {
    this.#filter = text.trim().toUpperCase();
    this.#grid.scrollTop = 0;
    this.#active = -1;
    this.reorder();
  }

  setShow(which) {
    this.#show = which;
    this.#grid.scrollTop = 0;
    this.#active = -1;
    this.reorder();
  }

  setOpened(ticker) {
    this.#opened = ticker;
    this.draw();
  }

  focus() {
    this.#grid.focus({ preventScroll: true });
  }

  /** Put a ticker where the keyboard is. */
  activate(ticker) {
    this.#active = this.#order.findIndex((row) => row.ticker === ticker);
    if (this.#active >= 0) this.#reveal(this.#active);
    this.draw();
  }

  /** Have what has changed written soon. */
  changed() {
    if (this.#membership !== this.#market.membership) this.reorder();
    else if (this.#key !== "ticker" || this.#show !== "all") this.#reorderLater();
    this.#drawPaced();
  }

  draw() {
    if (this.#drawn) return;
    this.#drawn = true;
    requestAnimationFrame(() => {
      this.#drawn = false;
      this.#draw();
    });
  }

  reorder() {
    this.#isStale = true;
    this.draw();
  }

  /** Have the order be right now, for a key that comes before the next frame. */
  hasten() {
    if (this.#isStale) this.#putInOrder();
  }

  #reorderLater() {
    if (this.#reordering !== 0) return;
    const now = performance.now();
    const wait = Math.max(this.#orderedAt + REORDER_MS, this.#touchedAt + HAND_OFF_MS) - now;
    if (wait <= 0) {
      this.reorder();
      return;
    }
    this.#reordering = setTimeout(() => {
      this.#reordering = 0;
      this.#reorderLater();
    }, wait);
  }

  // -- the order --------------------------------------------------------------------------

  #sortBy(key, sign) {
    this.#key = key;
    this.#sign = sign;
    for (const cell of this.#head.children) {
      if (cell.dataset.key === key) {
        cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      } else cell.removeAttribute("aria-sort");
    }
    this.#sort.value = key;
    this.#direction.textContent = sign > 0 ? "↑" : "↓";
    this.#direction.setAttribute("aria-label", sign > 0 ? "Ascending" : "Descending");
    this.#grid.scrollTop = 0;
    this.#active = -1;
    this.reorder();
  }

  #value(row, now) {
    const quote = row.quote;
    if (this.#key === "state") return STATES[this.#market.state(row, now)];
    if (quote === null) return null;
    if (this.#key === "price") return quote.price;
    if (this.#key === "volume") return quote.volume;
    if (this.#key === "age") return now - quote.updated_ms;
    return row[this.#key];
  }

  #putInOrder() {
    const now = this.#market.now();
    const active = this.#order[this.#active]?.ticker;
    const chosen = [];
    for (const row of this.#market.rows.values()) {
      if (this.#filter !== "" && !row.ticker.toUpperCase().includes(this.#filter)) continue;
      if (this.#show === "stale" && !this.#market.isStale(row, now)) continue;
      if (this.#show === "failing" && row.failure === "") continue;
      chosen.push(row);
    }
    if (this.#membership !== this.#market.membership || this.#names === undefined) {
      this.#membership = this.#market.membership;
      const names = [...this.#market.rows.keys()].sort(byName);
      this.#names = new Map(names.map((name, i) => [name, i]));
    }
    const names = this.#names;
    const sign = this.#sign;
    if (this.#key === "ticker") {
      chosen.sort((a, b) => sign * (names.get(a.ticker) - names.get(b.ticker)));
    } else {
      const keyed = chosen.map((row) => ({ row, value: this.#value(row, now), name: names.get(row.ticker) }));
      keyed.sort((a, b) => {
        if (a.value === b.value) return a.name - b.name;
        if (a.value === null) return 1; // what has no value comes last, either way
        if (b.value === null) return -1;
        return sign * (a.value - b.value);
      });
      for (let i = 0; i < keyed.length; i += 1) chosen[i] = keyed[i].row;
    }
    this.#order = chosen;
    this.#isStale = false;
    this.#orderedAt = performance.now();
    if (active !== undefined) this.#active = chosen.findIndex((row) => row.ticker === active);
    this.#body.style.height = `${chosen.length * this.#height}px`;
    this.#grid.setAttribute("aria-rowcount", String(chosen.length + 1));
    this.#settle();
  }

  #names;

  // -- drawing ----------------------------------------------------------------------------

  #resized() {
    // On a phone the heads are for those who hear them, and the list beside the filter sorts.
    const isNarrow = matchMedia("(max-width: 600px)").matches;
    for (const button of this.#head.querySelectorAll("button")) button.tabIndex = isNarrow ? -1 : 0;
    const height = Number.parseFloat(getComputedStyle(this.#grid).getPropertyValue("--row")) || 40;
    const wanted = Math.ceil(this.#grid.clientHeight / height) + 2 * BEYOND_VIEW;
    if (height !== this.#height) {
      this.#height = height;
      this.#isStale = true;
    }
    while (this.#pool.length < wanted) this.#pool.push(this.#makeRow(this.#pool.length));
    while (this.#pool.length > Math.max(wanted, 1)) this.#pool.pop().element.remove();
    for (const slot of this.#pool) slot.index = -1;
    this.draw();
    this.#settle();
  }

  #scrolled() {
    this.#touchedAt = performance.now();
    this.draw();
    this.#settle();
  }

  #first() {
    return Math.max(0, Math.floor(this.#grid.scrollTop / this.#height) - BEYOND_VIEW);
  }

  #draw() {
    if (this.#isStale) this.#putInOrder();
    const now = this.#market.now();
    const first = this.#first();
    const size = this.#pool.length;
    for (let i = first; i < first + size; i += 1) {
      const slot = this.#pool[i % size];
      const row = this.#order[i];
      if (row === undefined) this.#hide(slot);
      else this.#fill(slot, i, row, now);
    }
    const shown = this.#active >= first && this.#active < first + size;
    const id = shown && this.#active >= 0 ? this.#pool[this.#active % size].element.id : "";
    if (id !== (this.#grid.getAttribute("aria-activedescendant") ?? "")) {
      if (id === "") this.#grid.removeAttribute("aria-activedescendant");
      else this.#grid.setAttribute("aria-activedescendant", id);
    }
  }

  /** Ask for the sparklines on the screen that are missing, or that time has gone past. */
  look() {
    const first = Math.floor(this.#grid.scrollTop / this.#height);
    const count = Math.ceil(this.#grid.clientHeight / this.#height);
    this.#sparklines.want(this.#order.slice(first, first + count).filter((row) => row.quote !== null));
  }

  /** Once it stands still: ask for sparklines, and put the rows in order for those who hear them. */
  #settle() {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => {
      this.look();
      const slots = this.#pool.toSorted((a, b) => a.index - b.index);
      const inOrder = slots.every((slot, i) => this.#body.children[i] === slot.element);
      if (!inOrder) this.#body.append(...slots.map((slot) => slot.element));
    }, SETTLED_MS);
  }

  #hide(slot) {
    if (slot.row === null && slot.index === -1) return;
    slot.row = null;
    slot.index = -1;
    slot.element.hidden = true;
  }

  #fill(slot, index, row, now) {
    const element = slot.element;
    if (slot.index !== index) {
      slot.index = index;
      element.hidden = false;
      element.style.transform = `translateY(${index * this.#height}px)`;
      element.setAttribute("aria-rowindex", String(index + 2));
    }
    const isNew = slot.row !== row;
    slot.row = row;
    const quote = row.quote;
    const state = this.#market.state(row, now);
    put(slot, "ticker", row.ticker);
    name(slot, "ticker", row.ticker); // a long one is cut
    const places = this.#market.places(row);
    const shown = format.price(quote?.price, places);
    const change = format.signed(row.change, places);
    const length = Math.max(shown.length, change.length);
    put(slot, "price", shown);
    put(slot, "change", change);
    name(slot, "change", length > LONG ? change : "");
    mark(slot, "long", length > VERY_LONG ? "very" : length > LONG ? "yes" : "no");
    put(slot, "ratio", format.percent(row.ratio));
    put(slot, "volume", format.volume(quote?.volume));
    put(slot, "age", quote === null ? format.NONE : format.age(now - quote.updated_ms));
    put(slot, "state", this.#market.words(row, now));
    const path = quote === null ? "" : this.#sparklines.path(row.ticker, quote.price);
    if (slot.path !== path) {
      slot.path = path;
      slot.line.setAttribute("d", path);
    }
    const way = row.change > 0 ? "up" : row.change < 0 ? "down" : "flat";
    mark(slot, "way", way);
    mark(slot, "state", state);
    mark(slot, "active", index === this.#active ? "yes" : "no");
    const opened = row.ticker === this.#opened;
    if (slot.opened !== opened) {
      slot.opened = opened;
      element.setAttribute("aria-selected", String(opened));
    }
    name(slot, "state", row.failure || (REASONS[state] ?? ""));
    // A price that has moved is lit for a moment, one that has only come into view is not.
    const price = quote?.price ?? null;
    if (!isNew && price !== slot.price && price !== null && slot.price !== null) {
      mark(slot, "moved", price > slot.price ? "up" : "down");
      slot.movedAt = performance.now();
      this.#unlightLater();
    } else if (isNew) mark(slot, "moved", "new");
    else if (performance.now() - slot.movedAt >= LIT_MS) mark(slot, "moved", "no");
    slot.price = price;
  }

  #unlightLater() {
    if (this.#unlighting !== 0) return;
    this.#unlighting = setTimeout(() => {
      this.#unlighting = 0;
      this.draw();
    }, LIT_MS);
  }

  #makeRow(i) {
    const element = document.createElement("div");
    element.className = "row";
    element.id = `row-${i}`;
    element.setAttribute("role", "row");
    element.hidden = true;
    const slot = { element, index: -1, row: null, price: null, opened: null, path: "", movedAt: -Infinity, cells: {}, texts: {}, titles: {}, line: null };
    COLUMNS.forEach((column, at) => {
      const cell = document.createElement("div");
      cell.className = `cell ${column.key}${column.number ? " number" : ""}`;
      cell.setAttribute("role", column.key === "ticker" ? "rowheader" : "gridcell");
      cell.setAttribute("aria-colindex", String(at + 1));
      if (column.key === "trend") {
        const svg = document.createElementNS(SVG, "svg");
        svg.setAttribute("viewBox", "0 0 96 24");
        svg.setAttribute("preserveAspectRatio", "none");
        svg.setAttribute("aria-hidden", "true");
        slot.line = document.createElementNS(SVG, "path");
        svg.append(slot.line);
        cell.append(svg);
      } else {
        if (column.key === "state") {
          const dot = document.createElement("span");
          dot.className = "dot";
          dot.setAttribute("aria-hidden", "true");
          cell.append(dot);
        }
        const text = document.createElement("span");
        text.append(document.createTextNode(""));
        slot.cells[column.key] = text;
        cell.append(text);
      }
      element.append(cell);
    });
    this.#body.append(element);
    return slot;
  }

  #makeHead() {
    COLUMNS.forEach((column, at) => {
      const cell = document.createElement("div");
      cell.className = `cell ${column.key}${column.number ? " number" : ""}`;
      cell.setAttribute("role", "columnheader");
      cell.setAttribute("aria-colindex", String(at + 1));
      if (column.hint !== undefined) cell.title = column.hint;
      if (column.first === undefined) cell.textContent = column.title;
      else {
        cell.dataset.key = column.key;
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = column.title;
        button.addEventListener("click", () => this.#sortClicked(column));
        cell.append(button);
        this.#sort.append(new Option(column.title, column.key));
      }
      this.#head.append(cell);
    });
    this.#sort.addEventListener("change", () => {
      const column = COLUMNS.find((one) => one.key === this.#sort.value);
      this.#sortBy(column.key, column.first);
    });
    this.#direction.addEventListener("click", () => this.#sortBy(this.#key, -this.#sign));
    this.#sortBy("ticker", 1);
  }

  #sortClicked(column) {
    const sign = this.#key === column.key ? -this.#sign : column.first;
    this.#sortBy(column.key, sign);
    this.#say(`Sorted by ${column.title}, ${sign > 0 ? "ascending" : "descending"}`);
  }

  // -- hands ------------------------------------------------------------------------------

  #clicked(event) {
    const element = event.target.closest(".row");
    const slot = this.#pool.find((one) => one.element === element);
    if (slot === undefined || slot.row === null) return;
    this.#active = slot.index;
    this.#open(slot.row.ticker);
    this.draw();
  }

  #key_down(event) {
    if (event.target !== this.#grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.#grid.clientHeight / this.#height) - 2);
    const last = this.#order.length - 1;
    const from = this.#active;
    const moves = {
      ArrowDown: from < 0 ? Math.ceil(this.#grid.scrollTop / this.#height) : from + 1,
      ArrowUp: from < 0 ? Math.ceil(this.#grid.scrollTop / this.#height) : from - 1,
      PageDown: Math.max(from, 0) + page,
      PageUp: from - page,
      Home: 0,
      End: last,
    };
    if (Object.hasOwn(moves, event.key) && last >= 0) {
      event.preventDefault();
      this.#touchedAt = performance.now();
      this.#active = Math.min(last, Math.max(0, moves[event.key]));
      this.#reveal(this.#active);
      this.draw();
    } else if ((event.key === "Enter" || event.key === " ") && this.#order[from] !== undefined) {
      event.preventDefault();
      this.#open(this.#order[from].ticker);
    }
  }

  #reveal(index) {
    const head = this.#head.offsetHeight;
    const top = index * this.#height;
    const view = this.#grid.clientHeight - head;
    if (top < this.#grid.scrollTop) this.#grid.scrollTop = top;
    else if (top + this.#height > this.#grid.scrollTop + view) {
      this.#grid.scrollTop = top + this.#height - view;
    }
  }
}

function put(slot, key, text) {
  if (slot.texts[key] === text) return;
  slot.texts[key] = text;
  slot.cells[key].firstChild.data = text;
}

/** Say what a pointer is told. */
function name(slot, key, words) {
  if ((slot.titles[key] ?? "") === words) return;
  slot.titles[key] = words;
  slot.cells[key].parentElement.title = words;
}

function mark(slot, key, value) {
  if (slot.element.dataset[key] !== value) slot.element.dataset[key] = value;
}
