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
const even = new Intl.NumberFormat(undefined, { notation: "compact", minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });

const MOST_DECIMALS = 12;

/**
 * Decimals that suit prices that stand together: as many as they have, up to six digits that count
 * (four of what costs less than one), and no fewer than cents.
 */
export function decimals(...prices) {
  let most = 2;
  for (const price of prices) {
    if (price == null || price === 0) continue;
    const [digits, power] = price.toExponential(Math.abs(price) >= 1 ? 5 : 3).split("e");
    const [, places = ""] = digits.split(".");
    most = Math.max(most, places.replace(/0+$/, "").length - Number(power));
  }
  return Math.min(most, MOST_DECIMALS);
}

export function price(value, places = decimals(value)) {
  return value == null ? NONE : digits(places).format(value);
}

export function signed(value, places = decimals(value)) {
  if (value == null) return NONE;
  const text = digits(places).format(Math.abs(value));
  if (Number(value.toFixed(places)) === 0) return text;
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
  if (value == null) return NONE;
  return (value < 1000 ? compact : even).format(value); // 48.0M, so that it keeps its width
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

const time = { hour: "numeric", minute: "2-digit", second: "2-digit", timeZoneName: "short" };
const clock = new Intl.DateTimeFormat(undefined, time);
const full = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", ...time });

/** A moment: its time alone if it was within half a day, with its date otherwise. */
export function moment(ms) {
  if (!ms) return NONE;
  return (Math.abs(Date.now() - ms) < 43_200_000 ? clock : full).format(ms);
}
