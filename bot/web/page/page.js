// Shows the service's server-sent events on the page. Inserts text only as text nodes, never as HTML.

import { Plot, SPAN_S } from "./plot.js";
import * as words from "./words.js";

const SILENCE_MS = 8000; // without an event for this time, the connection counts as lost
const AGAIN_MS = 3000;

const at = (id) => document.getElementById(id);
const plots = {
  speed: new Plot(at("speed-plot"), { kind: "area", least: 10, say: (v) => `${words.rate(v)} tokens/s`, what: "Speed" }),
  waiting: new Plot(at("waiting-plot"), {
    kind: "steps", least: 4, say: (v) => `${words.whole(v)} waiting`, what: "Requests that wait", scale: false,
  }),
  words: new Plot(at("words-plot"), { kind: "dots", least: 1, say: words.seconds, what: "Time to the first words" }),
};
let samples = [];
let version = null;
let received = Date.now();

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function show(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

// --- what each card shows -------------------------------------------------------------------------------------------

function showState(now) {
  const loading = now.loading;
  let [mood, text] = ["good", "Ready"];
  if (now.stopping) [mood, text] = ["busy", "Stopping"];
  else if (loading) {
    const what = loading.again ? "Restarting the engine" : `Loading ${loading.model}`;
    [mood, text] = ["busy", `${what}, ${words.share(loading.fraction)}`];
  } else if (now.unready) [mood, text] = ["bad", `Not ready: ${now.unready}`];
  else if (now.health.state !== "ready") [mood, text] = ["busy", words.name(now.health.state)];
  at("state").dataset.mood = mood;
  show("state", text);
  showReasons(now.stopping ? [] : now.health.reasons);
  const { running, waiting, more } = now.queue;
  const busy = running.length + waiting.length + more;
  document.title = mood === "good" ? (busy ? `${busy} in the queue · Inhouse` : "Inhouse") : `${text} · Inhouse`;
  const model = now.model ? `${now.model.name} on ${now.model.device}` : "no model";
  show("subtitle", `${model} · up for ${words.duration(now.sample ? now.sample.at - now.began : 0)}`);
}

function showReasons(reasons) {
  const list = at("reasons");
  list.hidden = !reasons.length;
  if ([...list.children].map((row) => row.textContent).join("\n") === reasons.map(words.name).join("\n")) return;
  list.replaceChildren(...reasons.map((reason) => node("li", {}, words.name(reason))));
}

function showPlots(now) {
  const values = (name) => samples.map((sample) => ({ at: sample.at, value: sample[name] }));
  plots.speed.draw(values("tokens_per_s"));
  plots.waiting.draw(values("waiting"));
  plots.words.draw(values("first_words_s"));
  const speed = now.sample ? now.sample.tokens_per_s : 0;
  const most = Math.max(0, ...samples.map((sample) => sample.tokens_per_s));
  show("speed", words.rate(speed));
  show("speed-note", most > 0 ? `peak of ten minutes: ${words.rate(most)}` : "idle for ten minutes");
  const waits = samples.map((sample) => sample.first_words_s).filter((value) => value !== null).sort((a, b) => a - b);
  const middle = waits[Math.floor((waits.length - 1) / 2)];
  const [figure, unit] = waits.length ? words.seconds(middle).split(" ") : [words.DASH, ""];
  show("words", figure);
  show("words-unit", unit && `${unit}, typical`);
  const longest = waits[waits.length - 1];
  show("words-note", waits.length ? `longest of ten minutes: ${words.seconds(longest)}` : "no questions in ten minutes");
}

// One row for requests with the same model, platform and attempt.
function requestRow(alike, lead, detail) {
  const request = alike[0];
  const again = request.attempt > 1 ? `, attempt ${request.attempt}` : "";
  const asked = `${words.name(request.platform)}, ${words.ago(Math.max(...alike.map((one) => one.asked_s)))}${again}`;
  const many = alike.length > 1 ? `${alike.length} × ${request.model} ` : `${request.model} `;
  return node("li", {}, node("b", {}, lead), node("span", {}, many, node("small", {}, asked)), node("i", {}, detail));
}

function groups(requests) {
  const found = new Map();
  for (const request of requests) {
    const key = JSON.stringify([request.model, request.platform, request.attempt]);
    found.set(key, [...(found.get(key) ?? []), request]);
  }
  return [...found.values()];
}

// Shows text in backticks as code.
function withCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? node("code", {}, part) : part));
}

function showQueue(queue) {
  const waiting = queue.waiting.length + queue.more;
  show("writing", words.whole(queue.running.length));
  show("waiting", words.whole(waiting));
  const rows = [
    ...groups(queue.running).map((alike) => requestRow(alike, "now", "being written")),
    ...queue.waiting.map((request) => requestRow(
      [request], words.ordinal(request.place), request.seconds === null ? "wait unknown" : words.about(request.seconds))),
  ];
  if (queue.more) rows.push(node("li", { class: "empty" }, `and ${words.whole(queue.more)} more`));
  if (!rows.length) rows.push(node("li", { class: "empty" }, `Empty. Up to ${words.whole(queue.limit)} may wait.`));
  at("queue").replaceChildren(...rows);
}

function bar(label, part, text) {
  const known = part !== null && Number.isFinite(part);
  const fill = node("span", { class: "fill" });
  if (known) fill.style.width = `${Math.min(100, part * 100)}%`;
  const level = part > 0.92 ? "high" : "fine";
  const meter = { class: "bar", "data-level": level, role: "meter", "aria-label": label, "aria-valuetext": text };
  if (known) Object.assign(meter, { "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(part * 100) });
  return node("div", { class: "measure" },
    node("span", {}, label), node("span", { class: "value" }, text), known ? node("div", meter, fill) : null);
}

function showModel({ model, loading, memory }) {
  const bars = [];
  show("model", model ? model.name : loading ? loading.model : "no model loaded");
  if (loading) {
    const left = loading.fraction >= 0.2 ? loading.taken_s / loading.fraction - loading.taken_s : null;
    show("model-note", `${loading.stage}${left === null ? "" : `, ${words.about(left)} left`}`);
    bars.push(bar("Loading", loading.fraction, words.share(loading.fraction)));
  } else if (model) {
    const many = model.batching ? `${words.whole(model.max_running)} answers at once` : "one answer at a time";
    const what = [many, ...model.abilities].join(", ");
    show("model-note", `${model.dtype}, window of ${words.whole(model.context_window)} tokens, ${what}`);
  } else show("model-note", "");
  if (memory.gpu_mb) {
    const text = `${words.megabytes(memory.gpu_used_mb)} of ${words.megabytes(memory.gpu_mb)}`;
    bars.push(bar("GPU", memory.gpu_used_mb / memory.gpu_mb, text));
  }
  if (model && model.kv_cache_mb) {
    const text = memory.cache_used === null ? words.megabytes(model.kv_cache_mb)
      : `${words.share(memory.cache_used)} of ${words.megabytes(model.kv_cache_mb)}`;
    bars.push(bar("KV cache", memory.cache_used, text));
  }
  if (model) bars.push(bar("Weights", null, words.megabytes(model.weights_mb)));
  const ofMemory = (mb) => (mb !== null && memory.ram_mb ? mb / memory.ram_mb : null);
  bars.push(bar("Engine's process", ofMemory(memory.engine_mb), words.megabytes(memory.engine_mb)));
  bars.push(bar("Service's process", ofMemory(memory.service_mb), words.megabytes(memory.service_mb)));
  at("memory").replaceChildren(...bars);
  show("hardware", [...memory.hardware, model ? model.note : ""].filter(Boolean).join("\n"));
}

function showServers(servers) {
  at("servers-card").hidden = !servers.length;
  at("servers").replaceChildren(...servers.map((server) => {
    const facts = [
      `${words.counted(server.running, "answer")} being written`,
      words.counted(server.requests, "request"),
      server.failures && words.counted(server.failures, "failure"),
    ];
    const detail = server.problem || facts.filter(Boolean).join(", ");
    return node("li", { "data-mood": server.problem ? "bad" : "good" },
      node("span", {}, `${server.kind} on ${server.name}`, node("small", {}, detail)),
      node("i", {}, server.problem ? "down" : "up"));
  }));
}

function showPlatforms(platforms) {
  at("platforms").replaceChildren(...platforms.map((platform) => {
    let [mood, text] = ["busy", platform.sessions ? "reconnecting" : "connecting"];
    if (platform.refusal) [mood, text] = ["bad", "stopped"];
    else if (platform.elsewhere) [mood, text] = ["good", "on another host"];
    else if (platform.connected) [mood, text] = ["good", "connected"];
    const facts = [
      words.counted(platform.sessions, "session"),
      platform.read_back && `${words.counted(platform.read_back, "message")} backfilled`,
      platform.errors && words.counted(platform.errors, "failed call"),
      platform.rate_limited && words.counted(platform.rate_limited, "rate limit"),
    ];
    const detail = platform.refusal || facts.filter(Boolean).join(", ");
    return node("li", {}, node("span", { class: "light", "data-mood": mood }),
      node("span", {}, words.name(platform.name), node("small", {}, detail)), node("i", {}, text));
  }));
}

function showTotals(totals) {
  const ends = totals.answers;
  const figures = [
    ["Answers", (ends.stop ?? 0) + (ends.length ?? 0)],
    ["Stopped", ends.abort ?? 0],
    ["Failed", ends.error ?? 0],
    ["Tokens in", totals.prompt_tokens],
    ["Tokens out", totals.generated_tokens],
    ["Engine restarts", totals.engine_restarts],
    ["Duplicates dropped", totals.redelivered],
  ].map(([label, value]) => [label, words.whole(value)]);
  figures.splice(5, 0, ["Read from cache", words.share(totals.cached_share)]);
  at("totals").replaceChildren(...figures.map(([label, value]) =>
    node("div", {}, node("dt", {}, label), node("dd", {}, value))));
}

function showErrors(errors, time) {
  const rows = errors.map((entry) => {
    const often = entry.times > 1 ? `, ${words.whole(entry.times)} times` : "";
    return node("li", {},
      node("span", { class: "light", "data-mood": entry.error ? "bad" : "busy" }),
      node("span", {}, ...withCode(entry.what), node("small", { class: "fix" }, ...withCode(entry.fix))),
      node("i", {}, `${entry.error ? "error" : "warning"}, ${entry.where}`,
        node("small", {}, `${words.ago(time - entry.at)}${often}`)));
  });
  if (!rows.length) rows.push(node("li", { class: "empty" }, "None since the start."));
  at("errors").replaceChildren(...rows);
}

function showNow(now) {
  if (version !== null && version !== now.version) return location.reload();
  version = now.version;
  const last = samples[samples.length - 1];
  if (now.sample && (!last || now.sample.at > last.at)) samples.push(now.sample);
  const time = now.sample ? now.sample.at : Date.now() / 1000;
  samples = samples.filter((sample) => sample.at > time - SPAN_S);
  showState(now);
  showPlots(now);
  showQueue(now.queue);
  showModel(now);
  showServers(now.servers);
  showPlatforms(now.platforms);
  showTotals(now.totals);
  showErrors(now.errors, time);
  show("version", `Inhouse ${now.version}`);
  show("lag", now.sample ? `event loop lag ${Math.round(now.sample.lag_s * 1000)} ms` : "");
  document.body.dataset.shown = "yes";
}

// --- the connection -------------------------------------------------------------------------------------------------

function isHere(here) {
  received = here ? Date.now() : received;
  const lost = at("lost");
  if (here) lost.hidden = true;
  else if (lost.hidden) {
    lost.textContent = "Inhouse does not answer, so this page is out of date. Reconnecting …";
    lost.hidden = false;
    at("state").dataset.mood = "unknown";
    show("state", "No connection");
  }
}

async function connectAgain() {
  try {
    const answer = await fetch("./", { method: "HEAD" });
    if (answer.status === 401) return location.reload(); // to the form that asks for the token
  } catch {
    // the server is not reachable yet
  }
  setTimeout(connect, AGAIN_MS);
}

function connect() {
  const events = new EventSource("events");
  const receive = (act) => (event) => {
    isHere(true);
    act(JSON.parse(event.data));
  };
  const silence = setInterval(() => Date.now() - received > SILENCE_MS && isHere(false), 1000);
  events.addEventListener("history", receive((past) => { samples = past.samples; }));
  events.addEventListener("now", receive(showNow));
  events.onerror = () => {
    isHere(false);
    if (events.readyState === EventSource.CLOSED) { // the server refused; the browser does not reconnect
      clearInterval(silence);
      connectAgain();
    }
  };
}

connect();
