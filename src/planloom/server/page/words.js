// How numbers, times and states are written. A state is never a colour alone: symbol and word go with it.

export const RUN_LOOKS = {
  running: ["running", "▶", "running"],
  waiting: ["blocked", "?", "waits for a person"],
  success: ["completed", "✓", "success"],
  partial: ["timed_out", "◐", "partial"],
  failed: ["failed", "✗", "failed"],
  cancelled: ["cancelled", "■", "cancelled"],
  limit_exceeded: ["failed", "◷", "limit exceeded"],
  paused: ["pending", "‖", "paused"],
};
export const STEP_LOOKS = {
  pending: ["○", "pending"], ready: ["◌", "ready"], running: ["▶", "running"], completed: ["✓", "completed"],
  failed: ["✗", "failed"], skipped: ["↷", "skipped"], cancelled: ["■", "cancelled"], timed_out: ["◷", "timed out"],
  blocked: ["?", "waits for a person"], lost: ["✗", "lost with its engine"],
};

/** A status as a class name; unknown words do not become one. */
export const stateClass = (status) => (status in STEP_LOOKS ? `s-${status}` : "s-pending");

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const ms = seconds * 1000;
  if (ms < 1) return `${ms.toFixed(1)} ms`;
  if (Math.round(ms) < 1000) return `${Math.round(ms)} ms`;
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  if (Math.round(seconds) < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function money(usd) {
  if (usd === null || usd === undefined) return "";
  if (usd === 0 || usd >= 0.01) return `$${usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  return `$${Number(usd.toPrecision(2))}`;
}

export const count = (number) => Number(number).toLocaleString("en");
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

export function clock(seconds) {
  return seconds === null || seconds === undefined ? "" : new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

export function moment(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const date = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export function ago(seconds) {
  const passed = Date.now() / 1000 - seconds;
  if (passed < 5) return "just now";
  if (passed < 90) return `${Math.round(passed)} s ago`;
  if (passed < 5400) return `${Math.round(passed / 60)} min ago`;
  return passed < 129600 ? `${Math.round(passed / 3600)} h ago` : `${Math.round(passed / 86400)} d ago`;
}

/** A value as people read it: a text as it is, anything else as JSON. */
export const valueText = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "");
