// Formats numbers and durations for display. Pure functions; null becomes a dash.

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const DASH = "–";

export function whole(value) {
  return value === null || value === undefined ? DASH : number.format(value);
}

export function share(value) {
  return value === null || value === undefined ? DASH : `${Math.round(value * 100)} %`;
}

// 7.4 -> '7.4', 38.2 -> '38'
export function rate(value) {
  return value < 10 && value > 0 ? value.toFixed(1) : whole(value);
}

// 0.84 -> '0.8 s', 42 -> '42 s', 200 -> '3 min', 9000 -> '2.5 h', 200000 -> '2.3 days'
export function seconds(value) {
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${(value / 3600).toFixed(1)} h`;
  return `${(value / 86400).toFixed(1)} days`;
}

// Formats an estimated duration, rounded.
export function about(value) {
  if (value < 10) return `about ${Math.max(1, Math.round(value))} s`;
  if (value < 90) return `about ${Math.round(value / 5) * 5} s`;
  return `about ${Math.round(value / 60)} min`;
}

// Like seconds(), but without tenths: 4 -> '4 s'
export function duration(value) {
  return value < 9.95 ? `${Math.round(value)} s` : seconds(value);
}

export function ago(value) {
  return value < 3 ? "just now" : `${duration(value)} ago`;
}

export function megabytes(value) {
  if (value === null || value === undefined) return DASH;
  return value < 1000 ? `${whole(value)} MB` : `${(value / 1024).toFixed(1)} GB`;
}

// With a capital: 'discord' -> 'Discord'
export function name(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}

export function ordinal(value) {
  const teens = value % 100 >= 11 && value % 100 <= 13;
  return `${value}${teens ? "th" : { 1: "st", 2: "nd", 3: "rd" }[value % 10] ?? "th"}`;
}

export function counted(value, noun) {
  return `${whole(value)} ${noun}${value === 1 ? "" : "s"}`;
}
