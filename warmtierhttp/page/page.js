"use strict";

// The page of warmtier stores. Everything comes from api/v1/events, the list of stores and the segments aside,
// which are asked for every few seconds while the page can be seen. Nothing is loaded from anywhere else.

// ---- what changes the store ----

let running = null; // AbortController of a compaction asked for here
let seen = false; // running was seen to run
let cancelled = null; // one was, here, and its end has not been told yet: the end of the last one known then, milliseconds
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
    const answer = await fetch(about(address), { method: "POST", headers, signal });
    if (answer.status !== 401) return { status: answer.status, body: await answer.json() };
    if (!await askForToken(wrong)) return null;
    token = $("token").value;
    sessionStorage.setItem("warmtier-token", token);
  }
}

async function compact() {
  running = new AbortController();
  seen = false;
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
    if (error.name === "AbortError") {
      // What it had done by then comes with its end, which another connection may bring.
      cancelled = compactions.length > 0 ? Date.parse(compactions.at(-1).end) : 0;
      say("Compaction cancelled.");
    } else {
      say(seen ? "The connection was lost, and the server ends a compaction that nobody waits for. What it had finished stays." :
        "Not compacted: the server does not answer.", true);
    }
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
    say("Not maintained: the server does not answer.", true);
  }
  $("run").disabled = stale;
}

async function verify() {
  $("verify").disabled = true;
  say("Verifying: everything is read.");
  try {
    const answer = await post("api/v1/maintenance/verify");
    if (answer != null && answer.status === 200) {
      sayVerified(answer.body);
    } else if (answer != null) {
      sayError("Not verified", answer);
    } else {
      say("");
    }
  } catch (error) {
    say("Not verified: the server does not answer.", true);
  }
  $("verify").disabled = stale;
}

function sayVerified(r) {
  const read = `${count(r.records)} records in ${count(r.segments)} segments read, ${bytes(r.bytes_read)} in ` +
    `${seconds(r.duration_seconds)}`;
  if (r.finding_count === 0) { say(`Verified: ${read}. Nothing is wrong.`); return; }
  const f = r.findings[0];
  say(`Verified: ${read}. ${count(r.finding_count)} ${r.finding_count === 1 ? "finding" : "findings"}, first: ` +
    `${f.file} at offset ${count(f.offset)}: ${f.problem}`, true);
}

function sayError(what, { body }) {
  const figures = body.needed_bytes == null ? "" :
    ` (needs ${bytes(body.needed_bytes)}, may take ${bytes(body.available_bytes)})`;
  say(`${what}: ${body.error}${figures}`, true);
}

// tellCancelled says what a cancelled compaction had done, which is all rounds that it had finished.
function tellCancelled(c) {
  cancelled = null;
  say("Compaction cancelled: " + (c.bytes_copied > 0 || c.bytes_reclaimed > 0 ?
    `the rounds that it had finished stay, ${bytes(c.bytes_reclaimed)} given back.` : "nothing has changed."));
}

// ---- what comes in ----

let silence = 5000; // milliseconds without a sample, of which there is one each second: then nobody answers
let heard = 0; // when something last came in
let stale = false; // what is shown is of the past
let chosen = null; // name of the store, null for the only one

// about adds the store to an address.
const about = (address) => (chosen == null ? address : address + "?store=" + encodeURIComponent(chosen));

// setStale greys what is shown when the server is gone, and says since when.
function setStale(gone) {
  if (gone !== stale) {
    stale = gone;
    document.body.classList.toggle("stale", gone);
    $("run").disabled = gone;
    $("verify").disabled = gone;
    showProgress(stats ? stats.compactions.progress : null);
  }
  $("connection").textContent = !gone ? "live" : heard > 0 ? "no connection" : "connecting";
  $("connection").className = "badge " + (!gone ? "on" : heard > 0 ? "off" : "");
  $("gone").hidden = !gone || heard === 0;
  if (!gone || heard === 0) return;
  $("gone").textContent = `The server does not answer. What you see is of ${clock(new Date(heard))}, ` +
    `${span((Date.now() - heard) / 1000)} ago. The page tries again.`;
}

function hear() {
  heard = Date.now();
  setStale(false);
}

let asking = false;

async function askForSegments() {
  if (asking || document.hidden || stale || heard === 0) return;
  asking = true;
  try {
    const answer = await fetch(about("api/v1/segments"));
    if (answer.ok) {
      segments = (await answer.json()).segments;
      drawMap();
    }
  } catch {
    // The event stream says that the server is gone.
  }
  asking = false;
}

// askForStores fills the list of stores; false when nobody answers.
async function askForStores() {
  try {
    const answer = await fetch("api/v1/stores");
    const { stores } = await answer.json();
    const names = stores.map((s) => s.name);
    const asked = new URLSearchParams(location.search).get("store");
    if (chosen == null && names.some((name) => name !== "")) chosen = names.includes(asked) ? asked : names[0];
    fillStores(stores, chosen);
    if (stores.length === 0) say("This server has no stores.");
    return stores.length > 0;
  } catch {
    return false;
  }
}

async function connect() {
  if (!await askForStores()) { setTimeout(connect, 2000); return; }
  for (const what of ["stats", "segments"]) $(what + "-link").href = about("api/v1/" + what);
  const source = new EventSource(about("api/v1/events"));
  source.onopen = () => askForStores(); // another server may have taken the place of the first
  source.onerror = () => {
    setStale(true);
    if (source.readyState === EventSource.CLOSED) { setTimeout(connect, 2000); source.close(); }
  };
  const on = (name, what) => source.addEventListener(name, (e) => { hear(); what(JSON.parse(e.data)); });
  on("samples", (m) => {
    columns = m.columns;
    if (m.reset || past.length !== columns.length) past = columns.map(() => []);
    for (const sample of m.samples) sample.forEach((v, i) => past[i].push(v));
    for (const list of past) list.splice(0, Math.max(0, list.length - 3600));
    drawCharts();
    drawTimeline();
    if (m.reset) askForSegments();
  });
  on("stats", (s) => {
    stats = s;
    fillTiles();
    fillMemory();
    fillMaintenance();
    fillStore();
    showProgress(s.compactions.progress);
  });
  on("compactions", (m) => {
    compactions = (m.reset ? [] : compactions).concat(m.compactions || []).slice(-200);
    const last = compactions.findLast((c) => c.result.includes("cancelled"));
    if (last && cancelled != null && Date.parse(last.end) > cancelled) tellCancelled(last);
    fillCompactions();
    drawCharts();
    drawTimeline();
  });
  on("progress", (p) => {
    if (stats) { stats.compactions.progress = p; stats.compactions.in_progress = p != null; }
    if (p && running) seen = true;
    showProgress(p);
    if (p) askForSegments();
  });
}

function drawAll() { drawCharts(); drawMap(); drawTimeline(); }

makeCharts();
chooseLatency("get");
connect();
setInterval(askForSegments, 2000);
setInterval(() => { if (!document.hidden && !stale && !$("stores").hidden) askForStores(); }, 5000);
setInterval(() => { if (stale || heard > 0 && Date.now() - heard > silence) setStale(true); }, 1000);
$("latency-choice").addEventListener("click", (e) => { if (e.target.dataset.of) chooseLatency(e.target.dataset.of); });
$("compact").addEventListener("click", compact);
$("run").addEventListener("click", maintain);
$("verify").addEventListener("click", verify);
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
