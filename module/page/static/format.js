// Figures and times in words.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "compact" });
const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

// count is a whole number: "12,345", and from a million on "1.23M".
export const count = (n) => (n < 1e6 ? whole.format(n) : short.format(n));

// amount is a number of bytes: "3.14 MB".
export function amount(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (n >= 999.5 && unit < units.length - 1) {
    n /= 1000;
    unit++;
  }
  return (unit === 0 || n >= 100 ? Math.round(n) : n.toPrecision(n >= 10 ? 3 : 2)) + " " + units[unit];
}

// rate is a number per second.
export const rate = (n) => (n >= 100 ? whole.format(n) : n >= 10 ? n.toFixed(0) : n > 0 ? n.toFixed(1) : "0") + "/s";

// millis is a time to connect.
export const millis = (ms) => (ms >= 1000 ? (ms / 1000).toPrecision(3) + " s" : (ms >= 100 ? ms.toFixed(0) : ms >= 1 ? ms.toPrecision(2) : ms.toFixed(2)) + " ms");

// span is a length of time, in its two largest units: "2m 07s".
export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return s + "s";
  if (s < 3600) return `${Math.floor(s / 60)}m ${String(s % 60).padStart(2, "0")}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
}

// clock is a time of day, with the date unless it is today.
export function clock(at) {
  const date = new Date(at);
  const time = clockFormat.format(date);
  return date.toDateString() === new Date().toDateString() ? time : dayFormat.format(date) + " " + time;
}

// plural is a number with its noun.
export const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

// active are numbers of clients on each network: "3 TCP connections and 1 UDP session".
export function active(tcp, udp) {
  const parts = [];
  if (tcp) parts.push(plural(tcp, "TCP connection"));
  if (udp) parts.push(plural(udp, "UDP session"));
  return parts.join(" and ") || "no clients";
}
