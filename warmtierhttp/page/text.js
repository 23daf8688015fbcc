"use strict";

// What is written on the page.

function fillTiles() {
  const s = stats, last = (name) => (past[columns.indexOf(name)] || []).at(-1);
  const tiles = [
    ["Memories", count(s.memories)], ["Live", bytes(s.live_bytes)], ["Dead", bytes(s.dead_bytes)],
    ["Fragmentation", percent(s.fragmentation_ratio)], ["Mapped", bytes(s.mapped_bytes)],
    ["Reads / s", count(last("gets_per_second"))], ["Writes / s", count(last("puts_per_second"))],
    ["Hits", s.operations.gets > 0 ? percent(1 - s.operations.misses / s.operations.gets) : "–"],
    ["Memory left", bytes(s.memory_left_bytes)],
    s.directory ? ["Disk left", bytes(s.disk_left_bytes)] : ["Index", bytes(s.index_bytes)],
  ];
  const list = $("tiles");
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
  $("next").textContent = m.next_cycle == null ? "never: background maintenance is switched off" :
    c.in_progress ? "after the compaction under way" :
    left <= 0 ? "now" : `in ${left < 120 ? Math.ceil(left) + " s" : span(left)}, at ${clock(new Date(m.next_cycle))}`;
  $("decision").textContent = m.cycles === 0 ? "none yet" : reasons[m.last_skipped] || "compacted";
  const skips = Object.entries(m.skips).filter(([, n]) => n > 0).map(([why, n]) => `${count(n)} ${why.replace("_", " ")}`);
  $("cycles").textContent = `${count(m.cycles)}, ${count(m.automatic_compactions)} compacted` +
    (skips.length > 0 ? `; skipped: ${skips.join(", ")}` : "");
  const sum = (what) => c.manual[what] + c.auto[what] + c.startup[what];
  $("results").textContent = `${count(sum("ok"))} done, ${count(sum("cancelled"))} cancelled, ${count(sum("failed"))} failed`;
  $("reclaimed").textContent = `${bytes(c.reclaimed_bytes)}, ${bytes(c.copied_bytes)} copied for it`;
  $("pause").textContent = c.max_swap_pause_seconds > 0 ? seconds(c.max_swap_pause_seconds) : "none yet";
  const w = stats.operations.write_wait_duration;
  $("waits").textContent = w.count === 0 ? "none" :
    `${count(w.count)} for memory, 99 % up to ${seconds(w.p99_seconds)}, longest ${seconds(w.max_seconds)}`;
}

// bad writes text into an element, in the colour of trouble if it is some.
function bad(id, text, trouble) {
  $(id).textContent = text;
  $(id).classList.toggle("bad", Boolean(trouble));
}

function fillStore() {
  const s = stats, opened = new Date(s.opened), ago = (Date.parse(s.time) - opened) / 1000;
  $("name").textContent = s.name || "";
  document.title = (s.name ? s.name + " · " : "") + "warmtier";
  $("about").textContent = `${s.directory || "in memory"} · version ${s.version} · opened ${moment(opened)}`;
  $("directory").textContent = s.directory || "none: the store is in memory, and gone with the process";
  $("opened").textContent = `${moment(opened)}, ${span(ago)} ago` + (s.directory ? `; took ` +
    `${seconds(s.recovery.duration_seconds)}, ${s.recovery.clean ? "had been closed cleanly" :
      count(s.recovery.records) + " records read"}` : "");
  bad("writes", s.closed ? "no: the store is closed" : s.sync.failure ? "no: " + s.sync.failure : "taken",
    s.closed || s.sync.failure);
  for (const e of document.querySelectorAll(".facts .disk")) e.hidden = !s.directory;
  $("unsynced").textContent = s.unsynced_bytes > 0 ? bytes(s.unsynced_bytes) + ", a power loss would take it" : "nothing";
  const f = s.sync;
  bad("flushes", `${count(f.syncs)}` + (f.syncs > 0 ? `, 99 % up to ${seconds(f.duration.p99_seconds)}` : "") +
    (f.errors > 0 ? `; ${count(f.errors)} failed` : "; none failed"), f.errors > 0);
  $("disk-left").textContent = bytes(s.disk_left_bytes);
  $("memory-left").textContent = bytes(s.memory_left_bytes) + (s.max_bytes > 0 ? `; the budget leaves ` +
    bytes(Math.max(0, s.max_bytes - s.mapped_bytes - s.spare_bytes)) : "");
  const o = s.operations;
  $("loads").textContent = o.loads + o.load_errors === 0 ? "none" :
    `${count(o.loads)}, 99 % up to ${seconds(o.load_duration.p99_seconds)}; ` +
    (o.load_errors > 0 ? `${count(o.load_errors)} failed` : "none failed");
  $("dropped").textContent = o.expired + o.evicted === 0 ? "none" :
    `${count(o.expired)} expired, ${count(o.evicted)} evicted`;
  $("pins").textContent = count(s.pinned_readers) + (s.retired_bytes > 0 ? `, hold ${bytes(s.retired_bytes)}` : "");
  fillAlerts();
}

// fillAlerts says what needs somebody to look at it.
function fillAlerts() {
  const s = stats, list = [];
  if (s.closed) list.push("The store is closed.");
  if (s.sync.failure) list.push("The store takes no more writes: a flush failed that may have lost data. Look at the disk, then open the store again.");
  else if (s.sync.errors > 0) list.push(`${count(s.sync.errors)} flushes failed since the store was opened. The log says why.`);
  const damaged = s.operations.corrupt_records;
  if (damaged > 0) list.push(`Reads met damaged records ${count(damaged)} times. Verify names them.`);
  if (s.recovery.records_lost > 0) list.push(`A repair gave up ${count(s.recovery.records_lost)} records when the store was opened.`);
  if (s.unreturned_mappings > 0) list.push(`The system did not take back ${count(s.unreturned_mappings)} mappings: the process is near vm.max_map_count.`);
  $("alerts").hidden = list.length === 0;
  if ($("alerts").textContent === list.join("")) return; // so that it is not read out again
  $("alerts").replaceChildren(...list.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
}

// fillStores shows the choice of stores, where there is one.
function fillStores(list, chosen) {
  const element = (name, kind, text) => {
    const e = document.createElement(name);
    e.className = kind;
    if (text != null) e.textContent = text;
    return e;
  };
  $("stores").hidden = list.length < 2;
  $("stores").replaceChildren(...list.map((s) => {
    const a = element("a", "");
    a.href = "?store=" + encodeURIComponent(s.name);
    if (s.name === chosen) a.setAttribute("aria-current", "page");
    const bar = element("div", "bar"), whole = Math.max(s.max_bytes, s.mapped_bytes, 1);
    for (const [kind, n] of [["live", s.live_bytes], ["dead", s.dead_bytes],
      ["room", Math.max(0, s.mapped_bytes - s.live_bytes - s.dead_bytes)]]) {
      const part = element("i", "part " + kind);
      part.style.width = 100 * n / whole + "%";
      bar.append(part);
    }
    a.append(element("b", "", s.name),
      element("span", s.ready ? "state" : "state off", !s.ready ? s.reason : s.compacting ? "compacting" : "ready"),
      element("span", "", count(s.memories) + " memories"),
      element("span", "state", bytes(s.mapped_bytes) + (s.max_bytes > 0 ? " of " + bytes(s.max_bytes) : "")), bar);
    return a;
  }));
}

const triggers = { manual: "manual", auto: "automatic", startup: "at startup" };
const results = { ok: "done", cancelled: "cancelled", failed: "failed" };
const each = (names, words) => names.split("+").map((name) => words[name] || name).join(" + ");

function fillCompactions() {
  const body = $("compactions").tBodies[0];
  const rows = compactions.slice(-8).reverse().map((c) => {
    const row = document.createElement("tr");
    const cells = [
      ["Ended", clock(new Date(c.end))], ["Trigger", each(c.trigger, triggers) + (c.count > 1 ? ` × ${c.count}` : "")],
      ["Result", each(c.result, results)], ["Took", seconds(c.duration_seconds)], ["Given back", bytes(c.bytes_reclaimed)],
      ["Copied", bytes(c.bytes_copied)], ["Swap pause", seconds(c.swap_pause_seconds)],
    ];
    for (const [name, value] of cells) {
      const cell = document.createElement("td");
      cell.dataset.name = name;
      cell.textContent = value;
      if (name === "Result" && c.result !== "ok") cell.className = c.result.includes("failed") ? "bad" : "soft";
      row.append(cell);
    }
    return row;
  });
  body.replaceChildren(...rows);
  $("past").hidden = rows.length === 0;
  $("no-compactions").hidden = rows.length > 0;
}

// showProgress shows the compaction that the server says is under way: one that was asked for and not accepted
// yet, for want of the token, is none.
function showProgress(p) {
  const runs = p != null || stats != null && stats.compactions.in_progress;
  $("progress").hidden = !runs;
  $("compact").disabled = runs || running != null || stale;
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
