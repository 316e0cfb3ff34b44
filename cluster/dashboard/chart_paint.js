// What is painted on a chart beyond its curves: direct labels with the last value, and marks where something happened.
// Also the thin curve of a list. No state of its own: a view is {points, marks, xMax, log, options} as charts.js keeps it.

const AXIS_ROOM = 58; // px left of the plot, for "60,000"
const LETTER = 6.8; // px of an average letter of a label
export const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
export const SERIES_COLOURS = ["--accent", "--second", "--third", "--fourth", "--fifth", "--sixth"];

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** What a log scale cannot show is left out. */
export const drawable = (view, value) => (view.log && !(value > 0) ? null : value);

/** px right of the plot that the labels need beyond the room that the curve still has to grow into. */
export function labelRoom(view, u) {
  const inner = u.width - AXIS_ROOM;
  const needed = view.points.map((series, i) => {
    const last = lastDrawable(view, series);
    if (!last) return 0;
    const { label, format } = view.options.series[i];
    const words = (label.length + 1 + format(last[1]).length) * LETTER + 14;
    const share = u.zoomed ? 1 : last[0] / Math.max(view.xMax ?? 0, last[0], 1);
    return share > 0 ? inner - (inner - words) / share : 0;
  });
  return Math.min(inner / 2, Math.max(12, ...needed));
}

export function drawMarks(view, u) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  ctx.save();
  startText(ctx);
  ctx.strokeStyle = ctx.fillStyle = colour("--quiet");
  ctx.font = FONT.replace("12px", `${11 * ratio}px`);
  ctx.setLineDash([2 * ratio, 3 * ratio]);
  let textEnd = -Infinity;
  for (const mark of view.marks) {
    const x = u.valToPos(mark.x, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    if (x < textEnd) continue;
    ctx.fillText(mark.label, x + 4 * ratio, bbox.top + 11 * ratio);
    textEnd = x + ctx.measureText(mark.label).width + 8 * ratio;
  }
  ctx.restore();
}

export function drawLabels(view, u) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  const labels = view.points
    .map((series, i) => lastLabel(view, u, series, i))
    .filter(Boolean)
    .sort((a, b) => a.y - b.y);
  labels.forEach((labelled, i) => {
    labelled.textY = Math.max(
      Math.min(labelled.y + 4 * ratio, bbox.top + bbox.height - 4 * ratio),
      i ? labels[i - 1].textY + 14 * ratio : bbox.top + 8 * ratio,
    );
  });
  ctx.save();
  startText(ctx);
  ctx.font = FONT.replace("12px", `${12 * ratio}px`);
  const textX = Math.max(...labels.map(({ x }) => x)) + 8 * ratio;
  for (const { x, y, textY, text, hue } of labels) {
    ctx.fillStyle = hue;
    ctx.beginPath();
    ctx.arc(x, y, 3.5 * ratio, 0, 2 * Math.PI);
    ctx.fill();
    ctx.fillText(text, textX, textY);
  }
  ctx.restore();
}

function startText(ctx) {
  ctx.textAlign = "left"; // the axes leave their own
  ctx.textBaseline = "alphabetic";
}

const lastDrawable = (view, series) => series.findLast(([, value]) => drawable(view, value) !== null);

function lastLabel(view, u, series, i) {
  const last = lastDrawable(view, series);
  if (!last) return null;
  const [x, y] = [u.valToPos(last[0], "x", true), u.valToPos(last[1], "y", true)];
  if (x < u.bbox.left - 1 || x > u.bbox.left + u.bbox.width + 1) return null;
  const { label, format } = view.options.series[i];
  return { x, y, text: `${label} ${format(last[1])}`, hue: colour(SERIES_COLOURS[i]) };
}

/** A thin curve without axes for a line of a list; points: [[x, value], ...]. */
export function sparkline(points, words) {
  const SVG = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 90 22");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", words);
  const drawn = points.filter(([, value]) => Number.isFinite(value));
  if (drawn.length < 2) return svg;
  const [xs, ys] = [drawn.map((p) => p[0]), drawn.map((p) => p[1])];
  const scale = (v, min, max, size) => (max > min ? ((v - min) / (max - min)) * size : size / 2);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const across = (x) => (2 + scale(x, xs[0], xs.at(-1), 86)).toFixed(1);
  const up = (y) => (20 - scale(y, low, high, 18)).toFixed(1);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", drawn.map(([x, y]) => `${across(x)},${up(y)}`).join(" "));
  svg.append(line);
  return svg;
}
