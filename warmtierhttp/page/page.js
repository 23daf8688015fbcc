"use strict";

// The page of a warmtier store. Everything comes from api/v1/events, segments aside, which are asked for
// every two seconds while the page can be seen. Nothing is loaded from anywhere else.

const $ = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

// ---- how figures are written ----

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

// ---- what is known ----

let past = []; // a list for each column, as uPlot takes it
let compactions = [];
let stats = null;
let segments = [];

// ---- charts ----

const charts = [];
const chartHeight = 230;

// chart draws columns (numbers of them in past) in an element.
function chart(element, series, format, scale, increments) {
  const axis = {
    stroke: () => colour("soft"), grid: { stroke: () => colour("grid"), width: 1 },
    ticks: { stroke: () => colour("grid"), width: 1 }, font: "12px system-ui, sans-serif",
  };
  const plot = new uPlot({
    width: Math.max(200, element.clientWidth), height: chartHeight, padding: [8, 30, 0, 0],
    cursor: { drag: { setScale: false, x: false, y: false } },
    scales: { x: { range: () => visible() }, y: scale },
    axes: [
      { ...axis, size: 34, space: 72, values: (_, ticks) => ticks.map((t) => timeLabel(t)) },
      { ...axis, size: 72, incrs: increments, ...(scale.distr === 3 ? { splits: decades, filter: (_, ticks) => ticks } : {}),
        values: (_, ticks) => ticks.map(format) },
    ],
    series: [
      { value: (_, t) => (t == null ? "now" : clock(new Date(t * 1000))) },
      ...series.map((s) => ({
        label: s.label, stroke: () => colour(s.colour), width: 2, points: { show: false }, spanGaps: false,
        fill: s.fill ? () => colour(s.colour) + "22" : undefined,
        value: (u, v, i, at) => format(at == null ? u.data[i][u.data[i].length - 1] : v),
      })),
    ],
    hooks: { drawClear: [markCompactions] },
  }, [[], ...series.map(() => [])], element);
  charts.push({ plot, element, columns: series.map((s) => s.column) });
  new ResizeObserver(() => {
    const width = element.clientWidth;
    if (width > 0 && width !== plot.width) plot.setSize({ width, height: chartHeight });
  }).observe(element);
}

function timeLabel(t) {
  const d = new Date(t * 1000);
  const two = (n) => String(n).padStart(2, "0");
  const short = two(d.getHours()) + ":" + two(d.getMinutes());
  return Number($("window").value) <= 300 ? short + ":" + two(d.getSeconds()) : short;
}

// visible is the part of time that is shown, up to the last sample.
function visible() {
  const times = past[0] || [];
  const last = times.length ? times[times.length - 1] : Date.now() / 1000;
  return [last - Number($("window").value), last];
}

// markCompactions draws a line where a compaction ended.
function markCompactions(u) {
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.strokeStyle = colour("soft");
  u.ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
  u.ctx.lineWidth = devicePixelRatio;
  for (const c of compactions) {
    const x = Math.round(u.valToPos(Date.parse(c.end) / 1000, "x", true)) + .5;
    if (!(x >= left && x <= left + width)) continue;
    u.ctx.beginPath();
    u.ctx.moveTo(x, top);
    u.ctx.lineTo(x, top + height);
    u.ctx.stroke();
  }
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
  ], bytes, fromZero(1024), binary);
  chart($("fragmentation"), [
    { label: "dead / total", column: "fragmentation_ratio", colour: "orange", fill: true },
  ], (r) => percent(r, 0), { range: [0, 1] });
  chart($("latency"), [
    { label: "p50", column: "get_p50_seconds", colour: "blue" },
    { label: "p99", column: "get_p99_seconds", colour: "violet" },
    { label: "p99.9", column: "get_p999_seconds", colour: "orange" },
  ], seconds, logarithmic);
  chart($("operations"), [
    { label: "reads", column: "gets_per_second", colour: "blue" },
    { label: "writes", column: "puts_per_second", colour: "live" },
    { label: "deletions", column: "deletes_per_second", colour: "dead" },
  ], count, fromZero(10));
}

let columns = [];

function drawCharts() {
  const [from] = visible();
  const times = past[0] || [];
  let begin = times.findIndex((t) => t >= from);
  if (begin > 0) begin--; // the line comes from outside
  for (const c of charts) {
    const wanted = [times, ...c.columns.map((name) => past[columns.indexOf(name)] || [])];
    c.plot.setData(wanted.map((list) => list.slice(Math.max(0, begin))));
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
  const counts = stats ? stats.segments : null;
  $("segments-count").textContent = counts == null ? "" :
    `${count(counts.active)} active, ${count(counts.sealed)} sealed, ${count(counts.compacting)} compacting, ` +
    `${count(counts.retired)} retired` + (group > 1 ? `; ${group} in each cell` : "");
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

const triggerColour = (c) => (c.result !== "ok" ? "dead" : { auto: "live", startup: "violet" }[c.trigger] || "blue");

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
  const parts = width < 500 ? 2 : width < 1000 ? 4 : 8;
  for (let i = 0; i <= parts; i++) {
    const label = timeLabel(from + (to - from) * i / parts), room = context.measureText(label).width;
    context.fillText(label, Math.min(width - room, Math.max(0, width * i / parts - room / 2)), height - 4);
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
  const words = shown.length + " compactions in the time shown";
  $("timeline").setAttribute("aria-label", "Timeline of compactions: " + words);
}

// ---- text ----

function fillTiles() {
  const s = stats, last = (name) => (past[columns.indexOf(name)] || []).at(-1);
  const tiles = [
    ["Memories", count(s.memories)], ["Live", bytes(s.live_bytes)], ["Dead", bytes(s.dead_bytes)],
    ["Fragmentation", percent(s.fragmentation_ratio)], ["Mapped", bytes(s.mapped_bytes)],
    ["Index", bytes(s.index_bytes)], ["Reads / s", count(last("gets_per_second"))],
    ["Writes / s", count(last("puts_per_second"))],
    ["Hits", s.operations.gets > 0 ? percent(1 - s.operations.misses / s.operations.gets) : "–"],
    ["Pinned readers", count(s.pinned_readers)],
  ];
  if (s.operations.corrupt_records > 0) tiles.push(["Corrupt records", count(s.operations.corrupt_records)]);
  if (s.sync.errors > 0) tiles.push(["Failed flushes", count(s.sync.errors)]);
  const list = $("tiles");
  while (list.children.length > tiles.length) list.lastChild.remove();
  tiles.forEach(([name, value], i) => {
    let tile = list.children[i];
    if (tile == null) {
      tile = document.createElement("div");
      tile.append(document.createElement("dt"), document.createElement("dd"));
      list.append(tile);
    }
    tile.children[0].textContent = name;
    tile.children[1].textContent = value;
  });
}

// parts are what counts against the budget: classes in the style sheet, and words.
const parts = [
  ["live", "live records", "live_bytes"], ["dead", "dead records", "dead_bytes"],
  ["room", "room in segments", "room_bytes"], ["reserve", "kept for the next segments", "reserve_bytes"],
  ["index", "index", "index_bytes"], ["readers", "held by readers", "retired_bytes"],
  ["spare", "spare files", "spare_bytes"],
];

function fillMemory() {
  const s = stats, used = s.mapped_bytes + s.spare_bytes, whole = Math.max(s.max_bytes, used, 1);
  $("budget").textContent = s.max_bytes > 0 ?
    `${bytes(used)} of ${bytes(s.max_bytes)} used, ${percent(used / s.max_bytes)}` : `${bytes(used)}, without a bound`;
  const list = parts.map(([kind, words, field]) => [kind, words, s[field]]);
  if (s.max_bytes > 0) list.push(["free", "free", Math.max(0, s.max_bytes - used)]);
  const shown = list.filter(([, , n]) => n > 0);
  $("memory").replaceChildren(...shown.map(([kind, , n]) => {
    const part = document.createElement("div");
    part.className = "part " + kind;
    part.style.width = 100 * n / whole + "%";
    return part;
  }));
  $("memory-parts").replaceChildren(...shown.map(([kind, words, n]) => {
    const line = document.createElement("li"), box = document.createElement("span");
    box.className = "box part " + kind;
    line.append(box, ` ${words} ${bytes(n)}`);
    return line;
  }));
}

const reasons = {
  threshold: "did nothing: less of the store is dead than the threshold",
  size: "did nothing: the store is smaller than the least size",
  rate_limit: "did nothing: the last automatic compaction is recent, and little has died since",
  busy: "did nothing: another compaction was running",
  memory: "did nothing: memory is too short for the live bytes of any one segment",
};

function fillMaintenance() {
  const m = stats.maintenance, c = stats.compactions;
  const left = (Date.parse(m.next_cycle) - Date.parse(stats.time)) / 1000;
  $("next").textContent = m.next_cycle == null ? "never: the background cycle is switched off" :
    c.in_progress ? "a compaction is running" :
    `looks ${left > 0 ? "in " + Math.ceil(left) + " s" : "at once"}, at ${clock(new Date(m.next_cycle))}`;
  $("decision").textContent = m.cycles === 0 ? "none yet" : reasons[m.last_skipped] || "compacted";
  const skips = Object.entries(m.skips).filter(([, n]) => n > 0).map(([why, n]) => `${count(n)} ${why.replace("_", " ")}`);
  $("cycles").textContent = `${count(m.cycles)}, ${count(m.automatic_compactions)} compacted` +
    (skips.length > 0 ? `; skipped: ${skips.join(", ")}` : "");
  const sum = (what) => c.manual[what] + c.auto[what] + c.startup[what];
  $("results").textContent = `${count(sum("ok"))} done, ${count(sum("aborted"))} cancelled, ${count(sum("failed"))} failed`;
  $("reclaimed").textContent = `${bytes(c.bytes_reclaimed)}, ${bytes(c.bytes_copied)} copied`;
  $("pause").textContent = seconds(c.max_swap_pause_seconds);
  const w = stats.operations.write_wait_duration;
  $("waits").textContent = w.count === 0 ? "none" :
    `${count(w.count)} for memory, 99 % up to ${seconds(w.p99_seconds)}, longest ${seconds(w.max_seconds)}`;
}

function fillCompactions() {
  const body = $("compactions").tBodies[0];
  const rows = compactions.slice(-8).reverse().map((c) => {
    const row = document.createElement("tr");
    const cells = [
      ["Ended", clock(new Date(c.end))], ["Trigger", c.trigger + (c.count > 1 ? ` × ${c.count}` : "")],
      ["Result", c.result], ["Took", seconds(c.duration_seconds)], ["Given back", bytes(c.bytes_reclaimed)],
      ["Copied", bytes(c.bytes_copied)], ["Swap pause", seconds(c.swap_pause_seconds)],
    ];
    for (const [name, value] of cells) {
      const cell = document.createElement("td");
      cell.dataset.name = name;
      cell.textContent = value;
      if (name === "Result" && c.result !== "ok") cell.className = "bad";
      row.append(cell);
    }
    return row;
  });
  body.replaceChildren(...rows);
  $("past").hidden = rows.length === 0;
  $("no-compactions").hidden = rows.length > 0;
}

function showProgress(p) {
  $("progress").hidden = p == null && running == null;
  $("compact").disabled = p != null || running != null;
  $("cancel").hidden = running == null;
  if (p == null) { $("progress-bar").value = 0; $("progress-text").textContent = "Compacting"; return; }
  $("progress-bar").value = p.bytes_total > 0 ? Math.min(1, p.bytes_copied / p.bytes_total) : 0;
  $("progress-text").textContent = `Compacting: round ${p.round}, ${p.stage}; ${bytes(p.bytes_copied)} of ` +
    `${bytes(p.bytes_total)} copied, ${p.victims_done} of ${p.victims} segments given back, ${seconds(p.elapsed_seconds)}`;
}

function say(text, bad) {
  $("message").textContent = text;
  $("message").classList.toggle("bad", Boolean(bad));
  $("message").hidden = text === "";
}

// ---- what changes the store ----

let running = null; // AbortController of a compaction asked for here
let token = sessionStorage.getItem("warmtier-token") || "";

// askForToken resolves to false when there is none.
function askForToken(wrong) {
  const dialog = $("token-dialog");
  $("token-text").textContent = wrong ? "That is not the token of this service." :
    "Whatever changes the store needs the token of this service.";
  $("token").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "go");
  });
}

// post asks for the token when one is needed; null when there is none.
async function post(address, signal) {
  for (let wrong = token !== ""; ; wrong = true) {
    const headers = token === "" ? {} : { Authorization: "Bearer " + token };
    const answer = await fetch(address, { method: "POST", headers, signal });
    if (answer.status !== 401) return { status: answer.status, body: await answer.json() };
    if (!await askForToken(wrong)) return null;
    token = $("token").value;
    sessionStorage.setItem("warmtier-token", token);
  }
}

async function compact() {
  running = new AbortController();
  say("");
  showProgress(null);
  try {
    const answer = await post("api/v1/maintenance/compact", running.signal);
    if (answer != null && answer.status === 200) {
      const c = answer.body;
      say(`Compacted: ${bytes(c.bytes_reclaimed)} given back in ${seconds(c.duration_seconds)}, fragmentation ` +
        `${percent(c.fragmentation_before)} to ${percent(c.fragmentation_after)}, longest swap pause ` +
        `${seconds(c.max_swap_pause_seconds)}.`);
    } else if (answer != null) {
      sayError("Not compacted", answer);
    }
  } catch (error) {
    say(error.name === "AbortError" ? "Compaction cancelled: finished rounds stay." : "Not compacted: " + error.message,
      error.name !== "AbortError");
  }
  running = null;
  showProgress(stats ? stats.compactions.progress : null);
  askForSegments();
}

async function maintain() {
  $("run").disabled = true;
  say("");
  try {
    const answer = await post("api/v1/maintenance/run");
    if (answer != null && answer.status === 200) {
      const r = answer.body;
      say("Maintenance " + (r.compacted ? `compacted: ${bytes(r.compaction.bytes_reclaimed)} given back.` :
        (reasons[r.skipped] || "did nothing") + "."));
    } else if (answer != null) {
      sayError("Maintenance failed", answer);
    }
  } catch (error) {
    say("Maintenance failed: " + error.message, true);
  }
  $("run").disabled = false;
}

function sayError(what, { body }) {
  const figures = body.needed_bytes == null ? "" :
    ` (needs ${bytes(body.needed_bytes)}, may take ${bytes(body.available_bytes)})`;
  say(`${what}: ${body.error}${figures}`, true);
}

// ---- what comes in ----

let asking = false;

async function askForSegments() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch("api/v1/segments");
    if (answer.ok) {
      segments = (await answer.json()).segments;
      drawMap();
    }
  } catch {
    // The event stream says that the server is gone.
  }
  asking = false;
}

function connect() {
  const source = new EventSource("api/v1/events");
  const badge = (text, kind) => { $("connection").textContent = text; $("connection").className = "badge " + kind; };
  source.onopen = () => badge("live", "on");
  source.onerror = () => {
    badge("no connection", "off");
    if (source.readyState === EventSource.CLOSED) { setTimeout(connect, 5000); source.close(); }
  };
  const on = (name, what) => source.addEventListener(name, (e) => what(JSON.parse(e.data)));
  on("samples", (m) => {
    columns = m.columns;
    if (m.reset || past.length !== columns.length) past = columns.map(() => []);
    for (const sample of m.samples) sample.forEach((v, i) => past[i].push(v));
    for (const list of past) list.splice(0, Math.max(0, list.length - 3600));
    drawCharts();
    drawTimeline();
  });
  on("stats", (s) => {
    stats = s;
    fillTiles();
    fillMemory();
    fillMaintenance();
    showProgress(s.compactions.progress);
  });
  on("compactions", (m) => {
    compactions = (m.reset ? [] : compactions).concat(m.compactions || []).slice(-200);
    fillCompactions();
    drawTimeline();
  });
  on("progress", (p) => { if (stats) stats.compactions.progress = p; showProgress(p); if (p) askForSegments(); });
}

function drawAll() { drawCharts(); drawMap(); drawTimeline(); }

makeCharts();
connect();
askForSegments();
setInterval(askForSegments, 2000);
$("compact").addEventListener("click", compact);
$("run").addEventListener("click", maintain);
$("cancel").addEventListener("click", () => running && running.abort());
$("window").addEventListener("change", drawAll);
$("map").addEventListener("pointermove", showCell);
$("map").addEventListener("pointerleave", () => { $("map-text").textContent = "\u00a0"; });
$("token-form").addEventListener("submit", (e) => { e.preventDefault(); $("token-dialog").close("go"); });
$("token-cancel").addEventListener("click", () => $("token-dialog").close(""));
addEventListener("resize", () => { drawMap(); drawTimeline(); });
document.addEventListener("visibilitychange", askForSegments);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const c of charts) c.plot.redraw();
  drawAll();
});
