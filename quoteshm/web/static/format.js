// Numbers and times as people read them. A missing value is a dash, never a zero.

export const NONE = "–";
export const MINUS = "−";

const fixed = new Map();

function digits(n) {
  let format = fixed.get(n);
  if (format === undefined) {
    format = new Intl.NumberFormat(undefined, { minimumFractionDigits: n, maximumFractionDigits: n });
    fixed.set(n, format);
  }
  return format;
}

const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });

/** Decimals that suit a price: cents, and more for what costs less than one. */
export function decimals(price) {
  const size = Math.abs(price);
  if (size >= 1 || size === 0) return 2;
  return size >= 0.01 ? 4 : 6;
}

export function price(value) {
  return value == null ? NONE : digits(decimals(value)).format(value);
}

export function signed(value, like = value) {
  if (value == null) return NONE;
  const text = digits(decimals(like)).format(Math.abs(value));
  if (Number(value.toFixed(decimals(like))) === 0) return text;
  return (value > 0 ? "+" : MINUS) + text;
}

export function percent(value) {
  if (value == null) return NONE;
  const text = `${digits(2).format(Math.abs(value))}%`;
  if (Number(value.toFixed(2)) === 0) return text;
  return (value > 0 ? "+" : MINUS) + text;
}

export function count(value) {
  return value == null ? NONE : whole.format(value);
}

export function volume(value) {
  return value == null ? NONE : compact.format(value);
}

export function bytes(value) {
  if (value == null) return NONE;
  if (value < 1000) return `${whole.format(value)} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let size = value / 1000;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${digits(size < 10 ? 1 : 0).format(size)} ${units[unit]}`;
}

/** A length of time, in the largest unit that it has two of, or nearly. */
export function age(ms) {
  if (ms == null) return NONE;
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A moment: its time alone if it was within half a day, with its date otherwise. */
export function moment(ms) {
  if (!ms) return NONE;
  return (Math.abs(Date.now() - ms) < 43_200_000 ? clock : full).format(ms);
}
