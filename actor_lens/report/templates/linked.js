/* The linked page: one layer and one prompt, and every panel follows. Numbers are stored; text from
   outside reaches the page as text only. */
(function () {
"use strict";
const $ = (id) => document.getElementById(id);
const lens = JSON.parse($("lens").textContent);
const kinds = { f8: Float64Array, f4: Float32Array };
const unpacked = (one) =>
  new kinds[one.dtype](Uint8Array.from(atob(one.bdata), (c) => c.charCodeAt(0)).buffer);
const list = (one) => (one && one.bdata ? Array.from(unpacked(one)) : one || []);
const values = unpacked(lens.values), origins = unpacked(lens.origins);
const after = lens.after && unpacked(lens.after);
const nPrompts = lens.prompts.length, nLayers = origins.length;
const raw = (layer, prompt) => values[layer * nPrompts + prompt];
const height = (layer, prompt) => Math.fround(raw(layer, prompt) - origins[layer]);
const across = ["layers", "scores", "outcomes"]; // panels whose x axis is that of the layers
const plots = {}, shapes = {};
let layer = lens.layer, chosen = null, waiting = 0;

/* ---- Drawing ---- */

function points(name) { // places of the traces whose points are prompts, and the prompts of each
  const places = [], prompts = [];
  lens.figures[name].data.forEach((trace, place) => {
    if (trace.meta.kind === "points") { places.push(place); prompts.push(list(trace.customdata)); }
  });
  return { places, prompts };
}

function draw(name, figure) {
  const plot = $("plot-" + name);
  figure.data.forEach((trace) => {
    if (trace.meta && trace.meta.kind === "points")
      trace.text = list(trace.customdata).map((prompt) => lens.hovers[prompt]);
  });
  Plotly.newPlot(plot, figure.data, figure.layout, lens.config);
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
  if (across.includes(name)) goTo(Math.round(point.x));
  else if (name === "tokens") goTo(point.y);
  else if (name === "prompts" || name === "moved") {
    const prompt = Number(point.customdata);
    choose(prompt === chosen ? null : prompt);
  }
}

/* ---- The layer ---- */

function goTo(to) {
  layer = Math.min(nLayers - 1, Math.max(0, Number(to)));
  $("layer").value = layer;
  const note = lens.notes[layer];
  $("where").textContent = "layer " + layer + (note ? ": " + note : "");
  movePrompts();
  [...across, "tokens"].forEach((name) => plots[name] && mark(name));
  if (after) { // once the panels above are on the screen, and only for the last of several layers
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => { waiting = requestAnimationFrame(moveShifts); });
  }
  $("words").replaceChildren(...lens.words[layer].map((row) => {
    const line = document.createElement("tr");
    row.forEach((text, column) => {
      const cell = line.appendChild(document.createElement(column ? "td" : "th"));
      cell.textContent = text;
      if (column) cell.className = "num"; else cell.scope = "row";
    });
    return line;
  }));
  aboutPrompt();
}

function movePrompts() {
  const { places, prompts } = points("prompts");
  const y = prompts.map((own) => own.map((prompt) => height(layer, prompt)));
  Plotly.update(plots.prompts, { y }, { "title.text": "Prompts at layer " + layer }, places);
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
  ["prompts", "moved"].filter((name) => plots[name]).forEach((name) => {
    const { places, prompts } = points(name);
    const selectedpoints = prompts.map((own) => (none ? null : own.flatMap((one, at) => one === prompt ? [at] : [])));
    Plotly.restyle(plots[name], { selectedpoints }, places);
  });
  aboutPrompt();
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
  let timer = null;
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
$("layer").addEventListener("input", (event) => goTo(event.target.value));
$("before").addEventListener("click", () => goTo(layer - 1));
$("next").addEventListener("click", () => goTo(layer + 1));
document.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.target.closest("input, select, pre, .scroll") || !(event.key in moves)) return;
  goTo(layer + moves[event.key]);
});
goTo(layer);
if (plots.training) replay();
})();
