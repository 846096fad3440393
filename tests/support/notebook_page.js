// What the browser tests ask of a notebook's page; it is there before the page's own scripts.
// The notebook application is window.jupyterapp, which the server is told to expose.

(() => {
  const REDRAWN = [
    "plotly_afterplot",
    "plotly_restyle",
    "plotly_relayout",
    "plotly_update",
    "plotly_redraw",
    "plotly_animated",
  ];

  // ---- Notebook ----

  const app = () => window.jupyterapp;
  const notebook = () => app()?.shell?.currentWidget ?? null;
  const done = { all: true, cell: true };

  function run(command, part) {
    done[part] = false;
    app()
      .commands.execute(command)
      .finally(() => (done[part] = true));
  }

  function outputsOf(cell) {
    return cell.model.type === "code" ? cell.model.outputs.toJSON() : [];
  }

  function ready(cells) {
    const open = notebook();
    const kernel = open?.sessionContext?.session?.kernel;
    return (
      open?.content?.widgets?.length >= cells &&
      kernel?.status === "idle" &&
      kernel.connectionStatus === "connected"
    );
  }

  function errors() {
    return notebook()
      .content.widgets.flatMap(outputsOf)
      .filter((output) => output.output_type === "error")
      .map((output) => `${output.ename}: ${output.evalue}`);
  }

  async function runNewCell(code) {
    const content = notebook().content;
    content.activeCellIndex = content.widgets.length - 1;
    await app().commands.execute("notebook:insert-cell-below");
    content.activeCell.model.sharedModel.setSource(code);
    run("notebook:run-cell", "cell");
  }

  function lastOutput() {
    return outputsOf(notebook().content.widgets.at(-1))
      .map((output) => output.text ?? output.data?.["text/plain"] ?? "")
      .flat()
      .join("");
  }

  // ---- Figure ----

  function figure() {
    const found = document.querySelectorAll(".js-plotly-plot");
    if (found.length !== 1) throw new Error(`expected one plotly figure, found ${found.length}`);
    return found[0];
  }

  // Drawn, and in a widget of ours as wide as its place: it is 700 pixels wide before it has one.
  function drawn() {
    const found = document.querySelectorAll(".js-plotly-plot");
    const gd = found.length === 1 ? found[0] : null;
    if (!gd?._fullLayout || !gd.calcdata?.length) return false;
    const { width, height } = gd.getBoundingClientRect();
    const fits = !gd.closest(".actor-lens") || Math.abs(width - gd._fullLayout.width) <= 1;
    return height > 0 && fits;
  }

  // Numbers reach the page as typed arrays, which JSON spells out as objects.
  const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);

  function traces() {
    const gd = figure();
    return gd._fullData.map((trace, index) => ({
      index,
      name: trace.name ?? "",
      type: trace.type,
      meta: gd.data[index].meta ?? {},
      visible: trace.visible === true,
    }));
  }

  function values(trace, field) {
    const found = field.split(".").reduce((part, name) => part?.[name], figure()._fullData[trace]);
    return JSON.parse(JSON.stringify(found ?? null, plain));
  }

  // How many marks of a scatter trace or images of a heatmap are in the drawing.
  function marks(trace) {
    const gd = figure();
    const { uid, type, xaxis, yaxis } = gd._fullData[trace];
    const subplot = gd._fullLayout._plots[xaxis + yaxis]?.plot.node();
    const wanted =
      type === "heatmap" ? ".heatmaplayer image" : `.trace${uid} .point, .trace${uid} .js-line`;
    return subplot?.querySelectorAll(wanted).length ?? 0;
  }

  // Panels with a visible trace that has marks, seen at one moment: traces come and go while a
  // layer is trained.
  function markedPanels() {
    const marked = traces().filter(({ visible, index }) => visible && marks(index));
    return [...new Set(marked.map(({ meta }) => meta.panel))];
  }

  // Where a data point is, in pixels from the figure's upper left corner.
  function pixel(trace, point) {
    const full = figure()._fullData[trace];
    const at = Array.isArray(point) ? point : [point, point];
    const [x, y] = ["x", "y"].map((letter, i) => {
      const axis = figure()._fullLayout[full[`${letter}axis`].replace(letter, `${letter}axis`)];
      const place = axis.d2p(full[letter][at[i]]);
      if (!(place >= 0 && place <= axis._length))
        throw new Error(`point ${at} of trace ${trace} is outside its panel (${letter}: ${place})`);
      return axis._offset + place;
    });
    return { x, y };
  }

  // Plotly looks for the point under the mouse every 50 ms at most, and takes a press for the one
  // that it found last. A second press within its time for a double click would be one.
  const STILL = 100;
  let lastMove = 0;
  window.addEventListener("pointermove", () => (lastMove = Date.now()), { capture: true });

  function pressable() {
    const gd = figure();
    const pause = Date.now() - (gd._mouseDownTime ?? 0);
    return Date.now() - lastMove > STILL && pause > gd._context.doubleClickDelay;
  }

  // ---- Redrawing ----

  // All that a panel shows, as text: its traces, its axes' ranges, and what is drawn over it.
  function looks() {
    const gd = figure();
    const found = {};
    gd.data.forEach((trace, index) => {
      const full = gd._fullData[index];
      const axes = [full.xaxis, full.yaxis];
      const over = [...(gd.layout.shapes ?? []), ...(gd.layout.annotations ?? [])].filter((one) =>
        axes.some((axis) => [one.xref, one.yref].some((ref) => ref?.split(" ")[0] === axis)),
      );
      const ranges = axes.map(
        (axis) => axis && gd._fullLayout[axis.replace(/^[xy]/, "$&axis")]?.range,
      );
      const panel = trace.meta?.panel ?? "";
      found[panel] = (found[panel] ?? "") + JSON.stringify([trace, over, ranges], plain);
    });
    return found;
  }

  let watched = null;

  // From now on note when the figure and the widgets around it change after the mouse is released
  // or a key is pressed.
  function watch() {
    watched?.end();
    const gd = figure();
    const seen = { start: null, figure: null, widgets: null, painted: null, frames: 0 };
    const changed = (what) => {
      if (seen.start === null) return;
      seen[what] = performance.now();
      seen.frames += 1;
      // What changed before a frame is on the screen when the task after that frame runs.
      requestAnimationFrame(() =>
        setTimeout(() => {
          seen.frames -= 1;
          seen.painted = performance.now();
        }),
      );
    };
    const redrawn = () => changed("figure");
    const begun = (event) => (seen.start ??= event.timeStamp);
    const outside = ({ target }) => {
      const element = target.nodeType === Node.ELEMENT_NODE ? target : target.parentElement;
      return element?.closest(".jupyter-widgets") && !gd.contains(element);
    };
    const observer = new MutationObserver((records) => {
      if (records.some(outside)) changed("widgets");
    });
    REDRAWN.forEach((name) => gd.on(name, redrawn));
    const beginnings = ["mouseup", "keydown"];
    beginnings.forEach((kind) => window.addEventListener(kind, begun, { capture: true }));
    observer.observe(document.body, {
      subtree: true,
      childList: true,
      characterData: true,
      attributes: true,
    });
    seen.before = looks();
    seen.end = () => {
      observer.disconnect();
      beginnings.forEach((kind) => window.removeEventListener(kind, begun, { capture: true }));
      REDRAWN.forEach((name) => gd.removeListener(name, redrawn));
      watched = null;
    };
    watched = seen;
  }

  function unchanged(panels) {
    const now = looks();
    const { before } = watched;
    return panels.filter((panel) => now[panel] === undefined || now[panel] === before[panel]);
  }

  // The times of the last changes once all these panels look otherwise and nothing has changed
  // for a while; false before.
  function settled(panels, quiet) {
    const { start, figure: redrawn, widgets, painted, frames } = watched;
    if (redrawn === null || frames) return false;
    if (performance.now() - Math.max(redrawn, widgets ?? 0) < quiet) return false;
    if (unchanged(panels).length) return false;
    watched.end();
    return {
      figure: redrawn - start,
      widgets: widgets === null ? null : widgets - start,
      painted: painted - start,
    };
  }

  // ---- Live painting ----

  const painted = [];

  // From now on note when the figure has drawn each `batch_update` of Python, in seconds of the clock
  // that Python's time.time() reads. The figure marks what Python told it to draw.
  function recordUpdates() {
    painted.length = 0;
    figure().on("plotly_update", (event) => {
      if (event?.data?.[0]?._doNotReportToPy) painted.push(Date.now() / 1000);
    });
  }

  // ---- Clicks ----

  let lastClick = null;
  window.addEventListener("click", () => (lastClick = Date.now() / 1000), { capture: true });

  window.harness = {
    done,
    drawn,
    errors,
    lastClick: () => lastClick,
    lastOutput,
    marks,
    markedPanels,
    painted: () => painted,
    pixel,
    pressable,
    ready,
    recordUpdates,
    restartKernel: () => notebook().sessionContext.session.kernel.restart(),
    runAll: () => run("notebook:run-all-cells", "all"),
    runNewCell,
    save: () => app().commands.execute("docmanager:save").then(() => null),
    settled,
    traces,
    unchanged,
    values,
    watch,
  };
})();
