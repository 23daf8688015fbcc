"use strict";

// How figures are written.

const $ = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

function bytes(n) {
  if (n == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (Math.abs(n) >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i === 0 ? n.toFixed(0) : n.toFixed(Math.abs(n) < 100 ? 1 : 0)) + " " + units[i];
}

function seconds(s) {
  if (s == null) return "–";
  if (s === 0) return "0";
  const short = (n) => (n < 10 ? n.toFixed(1) : n.toFixed(0));
  if (s < 1e-6) return short(s * 1e9) + " ns";
  if (s < 1e-3) return short(s * 1e6) + " µs";
  if (s < 1) return short(s * 1e3) + " ms";
  if (s < 120) return short(s) + " s";
  return Math.floor(s / 60) + " min " + Math.round(s % 60) + " s";
}

function count(n) {
  if (n == null) return "–";
  if (n >= 1e7) return (n / 1e6).toFixed(1) + " M";
  return Math.round(n).toLocaleString("en");
}

const percent = (r, digits = 1) => (r == null ? "–" : (100 * r).toFixed(digits) + " %");
const clock = (date) => date.toLocaleTimeString("en-GB");

const day = (date) => date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });

// moment is the time of date, with the day unless that is today.
function moment(date) {
  const same = date.toDateString() === new Date().toDateString();
  return (same ? "" : day(date) + ", ") + clock(date);
}

// span is a long duration in words, to the unit that matters.
function span(s) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (s >= 2 * length) return Math.floor(s / length) + " " + unit;
  }
  return Math.max(0, Math.floor(s)) + " s";
}
