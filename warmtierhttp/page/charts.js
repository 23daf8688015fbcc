"use strict";

// What is known of the past, and how it is drawn.

let columns = []; // their names
let past = []; // a list for each column, as uPlot takes it
let compactions = [];
let stats = null;
let segments = [];

// ---- charts ----

const charts = [];
const chartHeight = 230;

// chart draws columns (names of them) in an element. nothing is what it says when they are empty.
function chart(element, series, format, scale, increments, nothing) {
  const axis = {
    stroke: () => colour("soft"), grid: { stroke: () => colour("grid"), width: 1 },
    ticks: { stroke: () => colour("grid"), width: 1 }, font: "12px system-ui, sans-serif",
  };
  const plot = new uPlot({
    width: Math.max(200, element.clientWidth), height: chartHeight, padding: [8, 30, 0, 0],
    cursor: { drag: { setScale: false, x: false, y: false } },
    scales: { x: { range: () => visible() }, y: scale },
    axes: [
      { ...axis, size: 34, splits: timeTicks, values: (_, ticks) => ticks.map((t) => timeLabel(t)) },
      { ...axis, size: 72, incrs: increments, ...(scale.distr === 3 ? { splits: decades, filter: (_, ticks) => ticks } : {}),
        values: (_, ticks) => ticks.map(format) },
    ],
    series: [
      { label: "at", value: (u, t) => {
        const at = t == null ? u.data[0][u.data[0].length - 1] : t;
        return at == null ? "–" : clock(new Date(at * 1000));
      } },
      ...series.map((s) => ({
        label: s.label, stroke: () => colour(s.colour), width: 2, points: { show: false }, spanGaps: false,
        fill: s.fill ? () => colour(s.colour) + "22" : undefined,
        value: (u, v, i, at) => format(at == null ? u.data[i][u.data[i].length - 1] : v),
      })),
    ],
    hooks: { drawClear: [markCompactions] },
  }, [[], ...series.map(() => [])], element);
  const empty = document.createElement("p");
  empty.className = "nothing";
  empty.textContent = nothing;
  element.append(empty);
  const made = { plot, element, empty, columns: series.map((s) => s.column) };
  charts.push(made);
  new ResizeObserver(() => {
    const width = element.clientWidth;
    if (width > 0 && width !== plot.width) plot.setSize({ width, height: chartHeight });
  }).observe(element);
  return made;
}

const timeSteps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
const labelWidth = 68; // CSS pixels of a time, with room beside it

// timeTicks are round times, as many as have room for a label.
function timeTicks(u, _, from, to) {
  const most = Math.max(2, Math.floor(u.bbox.width / (window.devicePixelRatio || 1) / labelWidth));
  return roundTimes(from, to, most);
}

function roundTimes(from, to, most) {
  const step = timeSteps.find((s) => (to - from) / s <= most) || 3600;
  const zone = -60 * new Date(to * 1000).getTimezoneOffset(); // full hours are those of the clock on the wall
  const list = [];
  for (let t = Math.ceil((from + zone) / step) * step - zone; t <= to; t += step) list.push(t);
  return list;
}

function timeLabel(t) {
  const d = new Date(t * 1000);
  const two = (n) => String(n).padStart(2, "0");
  const short = two(d.getHours()) + ":" + two(d.getMinutes());
  const [from, to] = visible();
  return to - from <= 300 ? short + ":" + two(d.getSeconds()) : short;
}

const leastShown = 10; // seconds

// visible is the part of time that is shown: up to the last sample, and no longer than there is a past, so that
// a short one is not a sliver.
function visible() {
  const times = past[0] || [];
  const last = times.length ? times[times.length - 1] : Date.now() / 1000;
  const first = times.length ? Math.min(times[0], last - leastShown) : last - leastShown;
  return [Math.max(last - Number($("window").value), first), last];
}

// markCompactions shades the time of each compaction, also of the one under way.
function markCompactions(u) {
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  const shade = (from, to, name) => {
    const a = Math.max(left, u.valToPos(from, "x", true));
    const b = Math.min(left + width, Math.max(u.valToPos(to, "x", true), a + 2 * devicePixelRatio));
    if (!(b > a)) return;
    u.ctx.fillStyle = colour(name) + "30";
    u.ctx.fillRect(a, top, b - a, height);
    u.ctx.fillStyle = colour(name) + "b0"; // most are shorter than a pixel
    u.ctx.fillRect(b - devicePixelRatio, top, devicePixelRatio, height);
  };
  for (const c of compactions) {
    const end = Date.parse(c.end) / 1000;
    shade(end - c.duration_seconds, end, triggerColour(c));
  }
  const p = stats && stats.compactions.progress;
  if (p) shade(visible()[1] - p.elapsed_seconds, visible()[1], "compacting");
  u.ctx.restore();
}

const fromZero = (least) => ({ range: (_, min, max) => [0, Math.max(least, (max || 0) * 1.08)] });
// Percentiles lie factors apart.
const logarithmic = {
  distr: 3,
  range: (_, min, max) => [10 ** Math.floor(Math.log10(min || 1e-6)), 10 ** Math.ceil(Math.log10((max || 1e-5) * 1.01))],
};
function decades(u, _, min, max) {
  const list = [];
  for (let v = min; v <= max * 1.01; v *= 10) list.push(v);
  return list;
}
const binary = [1, 2, 5].flatMap((n) => [0, 10, 20, 30, 40].flatMap((e) => [1, 10, 100].map((m) => n * m * 2 ** e)))
  .sort((a, b) => a - b);

function makeCharts() {
  chart($("bytes"), [
    { label: "live", column: "live_bytes", colour: "live", fill: true },
    { label: "dead", column: "dead_bytes", colour: "dead" },
  ], bytes, fromZero(1024), binary, "");
  chart($("fragmentation"), [
    { label: "dead / total", column: "fragmentation_ratio", colour: "orange", fill: true },
  ], (r) => percent(r, 0), { range: [0, 1] }, undefined, "");
  latency = chart($("latency"), [
    { label: "p50", column: "get_p50_seconds", colour: "blue" },
    { label: "p99", column: "get_p99_seconds", colour: "violet" },
    { label: "p99.9", column: "get_p999_seconds", colour: "orange" },
  ], seconds, logarithmic, undefined, "None was measured in the time shown.");
  chart($("operations"), [
    { label: "reads", column: "gets_per_second", colour: "blue" },
    { label: "writes", column: "puts_per_second", colour: "live" },
    { label: "deletions", column: "deletes_per_second", colour: "dead" },
  ], count, fromZero(10), undefined, "");
}

let latency = null; // the chart of it

// what is measured of each kind of operation.
const latencies = {
  get: "last 10 s, one in 256",
  put: "last minute, one in 256",
  load: "last minute, every one",
  sync: "last minute, every one",
};

function chooseLatency(of) {
  for (const button of $("latency-choice").children) {
    button.setAttribute("aria-pressed", String(button.dataset.of === of));
  }
  $("latency-of").textContent = latencies[of];
  latency.columns = ["p50", "p99", "p999"].map((q) => `${of}_${q}_seconds`);
  drawCharts();
}

function drawCharts() {
  const [from] = visible();
  const times = past[0] || [];
  let begin = times.findIndex((t) => t >= from);
  if (begin > 0) begin--; // the line comes from outside
  for (const c of charts) {
    const wanted = [times, ...c.columns.map((name) => past[columns.indexOf(name)] || [])];
    const shown = wanted.map((list) => list.slice(Math.max(0, begin)));
    c.plot.setData(shown);
    c.empty.hidden = c.empty.textContent === "" || shown.slice(1).some((list) => list.some((v) => v != null));
  }
}

// ---- canvases of our own ----

// prepare makes a canvas as large as it is shown, and returns what to draw on, in CSS pixels.
function prepare(canvas, height) {
  const width = canvas.clientWidth, scale = window.devicePixelRatio || 1;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.clearRect(0, 0, width, height);
  return { context, width };
}

let layout = { size: 22, perRow: 1, group: 1 };
const maxMapHeight = 360;

function drawMap() {
  const canvas = $("map"), width = canvas.clientWidth;
  let size = 26, group = 1;
  const rows = () => Math.ceil(Math.ceil(segments.length / group) / Math.max(1, Math.floor(width / size)));
  while (size > 8 && rows() * size > maxMapHeight) size--;
  while (rows() * size > maxMapHeight) group++;
  layout = { size, group, perRow: Math.max(1, Math.floor(width / size)) };
  const { context } = prepare(canvas, Math.max(size, rows() * size));
  for (let i = 0; i * group < segments.length; i++) {
    const cell = together(segments.slice(i * group, (i + 1) * group));
    const x = (i % layout.perRow) * size, y = Math.floor(i / layout.perRow) * size;
    drawCell(context, cell, x + 1, y + 1, size - 2);
  }
  const are = (state) => count(segments.filter((s) => s.state === state).length);
  $("segments-count").textContent = `${are("active")} active, ${are("sealed")} sealed, ${are("compacting")} compacting, ` +
    `${are("retired")} retired` + (group > 1 ? `; ${group} in each cell` : "");
  if (segments.length === 0) $("map-text").textContent = "None yet: the first write makes one.";
  else if ($("map-text").textContent.startsWith("None yet")) $("map-text").textContent = "\u00a0";
}

// together is what a cell shows of several segments.
function together(list) {
  return {
    first: list[0].segment, last: list[list.length - 1].segment, state: list[0].state, age: list[0].age_seconds,
    live: list.reduce((n, s) => n + s.live_bytes, 0), dead: list.reduce((n, s) => n + s.dead_bytes, 0),
    pins: list.reduce((n, s) => n + s.pins, 0), states: new Set(list.map((s) => s.state)),
  };
}

function drawCell(context, cell, x, y, size) {
  const total = cell.live + cell.dead;
  const ratio = total > 0 ? cell.dead / total : 0;
  context.fillStyle = total > 0 ? `hsl(${140 * (1 - ratio)} ${60 + 5 * ratio}% ${40 + 8 * ratio}%)` : colour("empty");
  context.fillRect(x, y, size, size);
  const state = ["compacting", "active", "retired"].find((name) => cell.states.has(name));
  if (state == null && cell.pins === 0) return;
  const width = size > 12 ? 3 : 2;
  const outline = (name, thick, dashes) => {
    context.strokeStyle = colour(name);
    context.lineWidth = thick;
    context.setLineDash(dashes);
    context.strokeRect(x + width / 2, y + width / 2, size - width, size - width);
  };
  outline("card", width + 2, []); // so that it stands out from any green or red
  if (state != null) outline(state, width, state === "retired" ? [2, 2] : []);
  if (cell.pins > 0) outline("pinned", width, [4, 3]);
  context.setLineDash([]);
}

function showCell(e) {
  const column = Math.floor(e.offsetX / layout.size), line = Math.floor(e.offsetY / layout.size);
  const at = (line * layout.perRow + column) * layout.group;
  const list = column < layout.perRow ? segments.slice(at, at + layout.group) : [];
  if (list.length === 0) { $("map-text").textContent = "\u00a0"; return; }
  const c = together(list);
  const name = c.first === c.last ? `segment ${c.first}` : `segments ${c.first} to ${c.last}`;
  $("map-text").textContent = `${name}: ${[...c.states].join(", ")}, ${bytes(c.live)} live, ${bytes(c.dead)} dead, ` +
    `${c.pins} pins, ${seconds(c.age)} old`;
}

// triggerColour is the colour of a compaction; several that ended together have the worst of their results.
function triggerColour(c) {
  if (c.result.includes("failed")) return "dead";
  if (c.result.includes("cancelled")) return "cancelled";
  return { auto: "live", startup: "violet" }[c.trigger] || "blue";
}

function drawTimeline() {
  const height = 110, foot = 20;
  const { context, width } = prepare($("timeline"), height);
  const [from, to] = visible();
  const x = (t) => (t - from) / (to - from) * width;
  const shown = compactions.filter((c) => Date.parse(c.end) / 1000 >= from);
  const most = Math.max(1, ...shown.map((c) => c.bytes_reclaimed));
  context.font = "12px system-ui, sans-serif";
  context.strokeStyle = colour("line");
  context.beginPath();
  context.moveTo(0, height - foot + .5);
  context.lineTo(width, height - foot + .5);
  context.stroke();
  context.fillStyle = colour("soft");
  for (const t of roundTimes(from, to, Math.max(2, Math.floor(width / (2 * labelWidth))))) {
    const label = timeLabel(t), room = context.measureText(label).width;
    context.fillText(label, Math.min(width - room, Math.max(0, x(t) - room / 2)), height - 4);
  }
  let free = -1; // where the last label ends
  for (const c of shown) {
    const end = Date.parse(c.end) / 1000, right = x(end), left = Math.min(x(end - c.duration_seconds), right - 4);
    const tall = Math.max(6, (height - foot - 20) * Math.max(0, c.bytes_reclaimed) / most);
    context.fillStyle = colour(triggerColour(c));
    context.fillRect(left, height - foot - tall, right - left, tall);
    const label = bytes(c.bytes_reclaimed), room = context.measureText(label).width;
    const at = Math.min(width - room, Math.max(0, left));
    if (at < free) continue;
    context.fillStyle = colour("text");
    context.fillText(label, at, height - foot - tall - 5);
    free = at + room + 6;
  }
  const ended = shown.reduce((n, c) => n + c.count, 0);
  const words = ended === 1 ? "1 in the time shown" : count(ended) + " in the time shown";
  $("compactions-count").textContent = compactions.length > 0 ? words : "";
  $("timeline").setAttribute("aria-label", "Timeline of compactions: " + words);
}
