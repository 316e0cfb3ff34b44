// Curves: uPlot draws them; here are direct labels instead of a legend, marks, keys, a log switch and a table.
// Drag to zoom, double-click (or 0) to see all, arrow keys read values.

import { colour, drawable, drawLabels, drawMarks, FONT, labelRoom, SERIES_COLOURS } from "./chart_paint.js";
import { figure } from "./format.js";
import { h, setText } from "./elements.js";

const HEIGHT = 190;
const MAX_ROWS = 200; // of the table

/**
 * chart({title, note, x, series: [{label, format}], zero, top, log}): a card whose `update(points, marks, xMax)` takes
 * for each series an array of [x, value], and marks [{x, label}].
 */
export function chart(options) {
  const view = { options, points: [], marks: [], xMax: null, log: false, plot: null };
  const readout = h("output.readout", { "aria-live": "polite" });
  const place = h("div.plot", {
    tabindex: "0",
    role: "group",
    "aria-roledescription": "chart",
    "aria-label": `${options.title}: arrow keys read values, 0 shows all`,
    on: { keydown: (event) => onKey(view, event), blur: () => hideCursor(view) },
  });
  const empty = h("p.quiet.plot-empty", {}, "No figures yet.");
  const tableBody = h(
    "details.figures",
    { on: { toggle: () => fillTable(view, tableBody) } },
    h("summary", {}, "as a table"),
  );
  const logSwitch =
    options.log &&
    h(
      "button.small",
      {
        type: "button",
        "aria-pressed": "false",
        on: { click: () => toggleLog(view, logSwitch) },
      },
      "log",
    );
  const element = h(
    "section.card.chart",
    { "aria-label": options.title },
    h("h2", {}, options.title, " ", h("span.note", {}, options.note ?? ""), logSwitch),
    place,
    readout,
    tableBody,
  );
  Object.assign(view, { place, readout, empty, tableBody });
  place.append(empty);
  element.update = (points, marks = [], xMax = null) => update(view, points, marks, xMax);
  element.destroy = () => destroy(view);
  watch(view);
  return element;
}

function watch(view) {
  view.theme = matchMedia("(prefers-color-scheme: dark)");
  view.rebuild = () => {
    view.plot?.destroy();
    view.plot = null;
    draw(view);
  };
  view.theme.addEventListener("change", view.rebuild);
  view.sizes = new ResizeObserver(() => {
    if (view.plot && view.place.clientWidth) view.plot.setSize({ width: view.place.clientWidth, height: HEIGHT });
    else draw(view);
  });
  view.sizes.observe(view.place);
}

function destroy(view) {
  view.theme.removeEventListener("change", view.rebuild);
  view.sizes.disconnect();
  view.plot?.destroy();
}

function update(view, points, marks, xMax) {
  const before = JSON.stringify([view.points, view.marks, view.xMax]);
  Object.assign(view, { points, marks, xMax });
  if (JSON.stringify([points, marks, xMax]) === before) return;
  draw(view);
  fillTable(view, view.tableBody);
}

function draw(view) {
  const any = view.points.some((series) => series.length);
  view.empty.hidden = any;
  if (!any || !view.place.clientWidth) return;
  const data = aligned(view);
  if (!view.plot) {
    view.plot = new uPlot(plotOptions(view), data, view.place);
    return;
  }
  const zoomed = view.plot.zoomed;
  view.plot.setData(data, !zoomed);
  if (zoomed) view.plot.redraw();
}

/** One column of x and one of each series; series keep their own x. */
function aligned(view) {
  const tables = view.points.map((series) => [series.map((p) => p[0]), series.map((p) => drawable(view, p[1]))]);
  return tables.length === 1 ? tables[0] : uPlot.join(tables);
}

function plotOptions(view) {
  const { options } = view;
  const axis = { stroke: colour("--quiet"), font: FONT, ticks: { show: false }, border: { show: false } };
  return {
    width: view.place.clientWidth,
    height: HEIGHT,
    padding: [10, (u) => labelRoom(view, u), 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false, setScale: true } },
    scales: {
      x: { time: false, range: (u, min, max) => xRange(view, u, min, max) },
      y: view.log ? { distr: 3 } : { range: (u, min, max) => yRange(options, min, max) },
    },
    axes: [
      {
        ...axis,
        size: 26,
        gap: 4,
        space: 70,
        grid: { show: false },
        values: (u, ticks) => ticks.map((t) => figure(t, 6)),
      },
      {
        ...axis,
        size: 52,
        gap: 6,
        space: 42,
        grid: { stroke: colour("--line"), width: 1 },
        values: (u, ticks) => ticks.map((t) => (t === null ? "" : figure(t))),
      },
    ],
    series: [
      {},
      ...options.series.map((series, i) => ({
        label: series.label,
        stroke: colour(SERIES_COLOURS[i]),
        width: 2,
        spanGaps: true,
        points: {
          show: (u) => u.data[i + 1].filter((v) => v !== null && v !== undefined).length < 3,
          size: 6,
          fill: colour(SERIES_COLOURS[i]),
        },
      })),
    ],
    hooks: {
      draw: [
        (u) => {
          drawMarks(view, u);
          drawLabels(view, u);
        },
      ],
      setCursor: [(u) => readValue(view, u)],
      setSelect: [
        (u) => {
          u.zoomed = true;
        },
      ],
      init: [
        (u) =>
          u.over.addEventListener("dblclick", () => {
            u.zoomed = false;
          }),
      ],
    },
  };
}

function xRange(view, u, min, max) {
  if (u.zoomed) return [min, max];
  const from = Math.min(0, min ?? 0);
  return [from, Math.max(view.xMax ?? 0, max ?? 0, from + 1)];
}

function yRange(options, min, max) {
  if (min === null || min === undefined) return [0, 1];
  const low = options.zero ? 0 : min;
  const high = options.top ?? max;
  const room = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
  return [options.zero ? 0 : low - room, options.top ? Math.max(options.top, max) : high + room];
}

function readValue(view, u) {
  const { idx } = u.cursor;
  if (idx === null || idx === undefined) return setText(view.readout, "");
  const values = view.options.series
    .map((series, i) => [series, lastUpTo(u.data[i + 1], idx)])
    .filter(([, value]) => value !== undefined)
    .map(([series, value]) => `${series.label} ${series.format(value)}`);
  return setText(view.readout, `${view.options.x} ${figure(u.data[0][idx], 6)}: ${values.join(", ")}`);
}

/** The newest value of a line at or before a place: lines have points at places of their own. */
const lastUpTo = (column, idx) => column.slice(0, idx + 1).findLast((value) => value !== null && value !== undefined);

function onKey(view, event) {
  const u = view.plot;
  if (!u || event.ctrlKey || event.metaKey || event.altKey) return;
  const last = u.data[0].length - 1;
  const now = u.cursor.idx ?? last + 1;
  const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
  if (event.key === "0") {
    u.zoomed = false;
    u.setData(u.data, true);
  } else if (next === undefined) return;
  else {
    const idx = Math.max(0, Math.min(last, next));
    u.setCursor({ left: u.valToPos(u.data[0][idx], "x"), top: 10 });
  }
  event.preventDefault();
}

function hideCursor(view) {
  view.plot?.setCursor({ left: -10, top: -10 });
  setText(view.readout, "");
}

function toggleLog(view, button) {
  view.log = !view.log;
  button.setAttribute("aria-pressed", String(view.log));
  view.rebuild();
}

function fillTable(view, details) {
  if (!details.open) return;
  const { options } = view;
  const rows = view.points.flatMap((series, i) =>
    series.slice(-MAX_ROWS).map(([x, value]) => [options.series[i], x, value]),
  );
  details.querySelector(".scroll")?.remove();
  details.append(
    h(
      "div.scroll.tall",
      { tabindex: "0" },
      h(
        "table",
        {},
        h("caption.unseen", {}, `${options.title}, the newest ${MAX_ROWS} of each line`),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "line"),
            h("th.number", { scope: "col" }, options.x),
            h("th.number", { scope: "col" }, "value"),
          ),
        ),
        h(
          "tbody",
          {},
          rows
            .reverse()
            .map(([series, x, value]) =>
              h(
                "tr",
                {},
                h("td", {}, series.label),
                h("td.number", {}, figure(x, 6)),
                h("td.number", {}, series.format(value)),
              ),
            ),
        ),
      ),
    ),
  );
}
