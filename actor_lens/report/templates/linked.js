/* The linked page: one layer and one prompt, and every panel follows; of several runs, the panels of
   those that are ticked. Numbers are stored; text from outside reaches the page as text only. */
(function () {
"use strict";
const stored = JSON.parse(document.getElementById("lens").textContent);
const kinds = { f8: Float64Array, f4: Float32Array };
const unpacked = (one) =>
  new kinds[one.dtype](Uint8Array.from(atob(one.bdata), (c) => c.charCodeAt(0)).buffer);
const list = (one) => (one && one.bdata ? Array.from(unpacked(one)) : one || []);
const across = ["layers", "scores", "outcomes"]; // panels whose x axis is that of the layers

function whole({ like, ...own }) { // what is the same in an earlier run is stored there only
  if (like === undefined) return own;
  const first = stored.lenses[like], figures = { ...own.figures };
  Object.keys(figures).forEach((name) => { figures[name] ??= first.figures[name]; });
  return { ...first, ...own, figures };
}

function rowOf(texts, kind) { // a table's row, whose first cell names it
  const line = document.createElement("tr");
  texts.forEach((text, column) => {
    const cell = line.appendChild(document.createElement(column ? "td" : "th"));
    cell.textContent = text;
    if (!column) cell.scope = "row"; else if (kind) cell.className = kind;
  });
  return line;
}

/* Draw a run's panels in the elements whose ids begin with "at"; the user's layer is "go"ne to. */
function link(lens, at, go) {
const $ = (id) => document.getElementById(at + id);
const values = unpacked(lens.values), origins = unpacked(lens.origins);
const after = lens.after && unpacked(lens.after);
const nPrompts = lens.prompts.length, nLayers = origins.length;
const raw = (layer, prompt) => values[layer * nPrompts + prompt];
const height = (layer, prompt) => Math.fround(raw(layer, prompt) - origins[layer]);
const plots = {}, shapes = {}, known = {};
let layer = lens.layer, chosen = null, waiting = 0, timer = null;

/* ---- Drawing ---- */

function points(name) { // places of the traces whose points are prompts, and the prompts of each
  if (known[name]) return known[name];
  const places = [], prompts = [];
  lens.figures[name].data.forEach((trace, place) => {
    if (trace.meta.kind === "points") { places.push(place); prompts.push(list(trace.customdata)); }
  });
  if (name === "prompts" && lens.boxes.length) { // the chosen one, if it is not among those drawn
    places.push(lens.figures.prompts.data.length);
    prompts.push([]);
  }
  return (known[name] = { places, prompts });
}

function draw(name, drawn) {
  const plot = $("plot-" + name), figure = structuredClone(drawn); // plotly changes what it draws
  figure.data.forEach((trace) => {
    if (trace.meta && trace.meta.kind === "points")
      trace.text = list(trace.customdata).map((prompt) => lens.hovers[prompt]);
  });
  if (name === "prompts" && lens.boxes.length) figure.data.push({ ...figure.data.at(-1), x: [], y: [] });
  Plotly.newPlot(plot, figure.data, figure.layout, stored.config);
  shapes[name] = figure.layout.shapes || [];
  if (!plots[name]) plot.on("plotly_click", (event) => click(name, event.points[0]));
  plots[name] = plot;
}

function mark(name) { // the chosen layer: a line, in a heatmap a frame around the row
  const line = { color: "#1f2933", width: 1.5, dash: "dot" };
  const place = name === "tokens"
    ? { type: "rect", xref: "x domain", x0: 0, x1: 1, y0: layer - 0.5, y1: layer + 0.5 }
    : { type: "line", x0: layer, x1: layer, xref: "x", y0: 0, y1: 1, yref: "paper" };
  Plotly.relayout(plots[name], { shapes: [...shapes[name], { ...place, line, name: "layer" }] });
}

function click(name, point) {
  if (across.includes(name)) go(Math.round(point.x));
  else if (name === "tokens") go(point.y);
  else if (name === "prompts" || name === "moved") {
    const prompt = Number(point.customdata);
    choose(prompt === chosen ? null : prompt);
  }
}

/* ---- The layer ---- */

function goTo(to) {
  layer = Math.min(nLayers - 1, to);
  const note = lens.notes[layer];
  $("numbers-title").textContent = "Numbers of layer " + layer + (note ? ": " + note : "");
  movePrompts();
  [...across, "tokens"].forEach((name) => plots[name] && mark(name));
  if (after) { // once the panels above are on the screen, and only for the last of several layers
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => { waiting = requestAnimationFrame(moveShifts); });
  }
  $("words").replaceChildren(...lens.words[layer].map((row) => rowOf(row, "num")));
  aboutPrompt();
}

function movePrompts() {
  const { places, prompts } = points("prompts"), boxes = lens.boxes[layer] || [];
  const y = prompts.map((own) => own.map((prompt) => height(layer, prompt)));
  const all = [...boxes.keys(), ...places]; // boxes are drawn behind the points
  Plotly.update(plots.prompts, { y: [...boxes, ...y] }, { "title.text": "Prompts at layer " + layer }, all);
}

function moveShifts() {
  const { places, prompts } = points("moved");
  const x = prompts.map((own) => own.map((prompt) => raw(layer, prompt)));
  const y = prompts.map((own) => own.map((prompt) => after[layer * nPrompts + prompt]));
  const here = values.subarray(layer * nPrompts, (layer + 1) * nPrompts);
  const ends = [here.reduce((a, b) => Math.min(a, b)), here.reduce((a, b) => Math.max(a, b))];
  const title = { "title.text": "Where each prompt moved, layer " + layer };
  Plotly.update(plots.moved, { x: [ends, ...x], y: [ends, ...y] }, title, [0, ...places]);
}

/* ---- The prompt ---- */

function choose(prompt) {
  chosen = prompt;
  $("prompt").value = prompt === null ? "" : prompt;
  const none = prompt === null;
  const all = Array.from({ length: none ? 0 : nLayers }, (_, at) => at);
  const lines = lens.figures.layers.data.findIndex((trace) => trace.meta.kind === "line");
  Plotly.restyle(plots.layers, {
    x: [all], y: [all.map((at) => height(at, prompt))], name: ["prompt " + prompt], showlegend: !none,
  }, [lines]);
  if (lens.boxes.length) drawAlone(none ? [] : [prompt]);
  ["prompts", "moved"].filter((name) => plots[name]).forEach((name) => {
    const { places, prompts } = points(name);
    const selectedpoints = prompts.map((own) => (none ? null : own.flatMap((one, at) => one === prompt ? [at] : [])));
    Plotly.restyle(plots[name], { selectedpoints }, places);
  });
  aboutPrompt();
}

function drawAlone(own) { // a prompt that is not among those drawn beside the boxes
  const { places, prompts } = points("prompts");
  if (prompts.slice(0, -1).some((drawn) => drawn.includes(own[0]))) own = [];
  prompts[prompts.length - 1] = own;
  const traces = lens.figures.prompts.data.filter((trace) => trace.meta.kind === "points");
  const at = Math.max(0, traces.findIndex((trace) => own.length && trace.name === lens.prompts[own[0]][1]));
  Plotly.restyle(plots.prompts, {
    x: [own.map(() => at)], y: [own.map((prompt) => height(layer, prompt))], customdata: [own],
    text: [own.map((prompt) => lens.hovers[prompt])],
    marker: [traces[at].marker], hovertemplate: traces[at].hovertemplate,
  }, [places.at(-1)]);
}

function aboutPrompt() {
  $("text").hidden = chosen === null;
  if (chosen === null) { $("about").textContent = ""; return; }
  const [text, label, category] = lens.prompts[chosen];
  $("text").textContent = text;
  const moved = after ? ", after the run " + (after[layer * nPrompts + chosen] - origins[layer]).toPrecision(3) : "";
  $("about").textContent = "prompt " + chosen + ", " + label + (category ? ", " + category : "")
    + "; projection at layer " + layer + ": " + height(layer, chosen).toPrecision(3) + moved;
}

/* ---- Training, step by step ---- */

function replay() {
  const curves = lens.figures.training.data.map((trace) => ({
    x: list(trace.x), y: list(trace.y), name: trace.meta.kind.replaceAll("_", " "),
  }));
  const plot = plots.training, still = {};
  Object.keys(plot.layout).filter((key) => /^[xy]axis/.test(key)).forEach((key) => {
    still[key + ".autorange"] = false; // the axes stay while the curves grow
  });
  Plotly.relayout(plot, still);
  const show = () => {
    const step = Number($("step").value);
    const ends = curves.map((curve) => curve.x.filter((x) => x <= step).length);
    Plotly.restyle(plot, {
      x: curves.map((curve, at) => curve.x.slice(0, ends[at])),
      y: curves.map((curve, at) => curve.y.slice(0, ends[at])),
    });
    const now = curves.flatMap((curve, at) => (ends[at] ? [curve.name + " " + curve.y[ends[at] - 1].toPrecision(3)] : []));
    $("at-step").textContent = [step, ...now].join("; ");
  };
  const stop = () => { clearInterval(timer); timer = null; $("play").textContent = "Play"; };
  $("play").addEventListener("click", () => {
    const slider = $("step"), last = Number(slider.max);
    if (timer) { stop(); return; }
    if (Number(slider.value) >= last) slider.value = 0;
    $("play").textContent = "Pause";
    timer = setInterval(() => {
      slider.value = Math.min(last, Number(slider.value) + Math.max(1, Math.round(last / 60)));
      show();
      if (Number(slider.value) >= last) stop();
    }, 100);
  });
  $("step").addEventListener("input", show);
  show();
}

/* ---- Begin ---- */

Object.keys(lens.figures).forEach((name) => draw(name, lens.figures[name]));
if (lens.tokens.length) {
  const menu = $("tokens");
  lens.tokens.forEach((one, place) => menu.add(new Option(one.prompt, place)));
  const show = () => { draw("tokens", lens.tokens[menu.value].figure); mark("tokens"); };
  menu.addEventListener("change", show);
  show();
}
lens.prompts.forEach(([text, label], place) =>
  $("prompt").add(new Option(label + ": " + text.slice(0, 90).replace(/\s+/g, " "), place)));
$("prompt").addEventListener("change", (event) => choose(event.target.value === "" ? null : Number(event.target.value)));
lens.replies.forEach((one) => {
  const line = rowOf([one.prompt, one.before, one.after]);
  const small = [one.about, ...["before", "after"].map((time) => one["faults_" + time] && "fault: " + one["faults_" + time])];
  small.forEach((text, column) => {
    const cell = line.cells[column], words = document.createElement("span");
    words.className = "user";
    words.dir = "auto";
    words.append(...cell.childNodes);
    cell.append(words);
    if (text) cell.appendChild(document.createElement("small")).textContent = text;
  });
  $("replies").append(line);
});
if (plots.training) replay();
return {
  goTo, nLayers,
  note: () => lens.notes[layer],
  end: () => { clearInterval(timer); cancelAnimationFrame(waiting); Object.values(plots).forEach(Plotly.purge); },
};
}

/* ---- The page ---- */

const $ = (id) => document.getElementById(id);
const bodies = document.querySelectorAll("template");
const boxes = [...document.querySelectorAll("#runs input")];
let shown = [], layer = null;

function goTo(to) {
  layer = Math.min($("layer").max, Math.max(0, Number(to)));
  $("layer").value = layer;
  shown.forEach((one) => one.goTo(layer));
  const note = shown.length === 1 ? shown[0].note() : "";
  $("where").textContent = "layer " + layer + (note ? ": " + note : "");
}

function show(runs) {
  shown.forEach((one) => one.end());
  $("main").replaceChildren(...runs.map((run) => bodies[run].content.cloneNode(true)));
  shown = runs.map((run) => link(whole(stored.lenses[run]), bodies[run].dataset.at, goTo));
  document.querySelector(".bar").hidden = !shown.length;
  if (!shown.length) return;
  $("layer").max = Math.max(...shown.map((one) => one.nLayers)) - 1;
  goTo(layer ?? stored.lenses[runs[0]].layer);
}

function sortRuns(head) {
  const heads = [...head.parentNode.cells], column = heads.indexOf(head);
  const sign = head.ariaSort === "ascending" ? -1 : 1, body = document.querySelector("#runs tbody");
  const value = (line) => line.cells[column].dataset.value;
  const lines = [...body.rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last
    return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  });
  heads.forEach((one) => one.removeAttribute("aria-sort"));
  head.ariaSort = sign > 0 ? "ascending" : "descending";
  body.append(...lines);
}

let ticked = boxes.filter((box) => !box.disabled).slice(0, 2);
ticked.forEach((box) => { box.checked = true; });
boxes.forEach((box) => box.addEventListener("change", () => {
  ticked = ticked.filter((one) => one !== box).concat(box.checked ? box : []).slice(-2);
  boxes.forEach((one) => { one.checked = ticked.includes(one); });
  show(ticked.map((one) => Number(one.value)));
}));
document.querySelectorAll("#runs th button").forEach((button) =>
  button.addEventListener("click", () => sortRuns(button.parentNode)));
$("layer").addEventListener("input", (event) => goTo(event.target.value));
$("before").addEventListener("click", () => goTo(layer - 1));
$("next").addEventListener("click", () => goTo(layer + 1));
document.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.target.closest("input, select, pre, .scroll") || !(event.key in moves)) return;
  goTo(layer + moves[event.key]);
});
show(boxes.length ? ticked.map((box) => Number(box.value)) : [0]);
})();
