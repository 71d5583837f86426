// Draws a ten-minute plot as SVG that fills its element: area, steps or dots, a scale, and the value under the pointer.
// Points are [{at, value}], sorted by time; value is null where nothing was measured.

const SVG = "http://www.w3.org/2000/svg";
export const SPAN_S = 600;
const GAP_S = 10; // samples further apart than this belong to different runs
const LEFT = 34;
const BOTTOM = 18;
const TOP = 8;

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// The smallest round number >= value whose half is round, too.
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 3, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= value - 1e-9);
}

export class Plot {
  // kind: 'area', 'steps' or 'dots'; least: minimum top of the scale; say: formats a value; what: the plot's name.
  constructor(place, { kind, least, say, what, scale = true }) {
    Object.assign(this, { place, kind, least, say, what, scale });
    this.points = [];
    this.svg = shape("svg", { role: "img" });
    this.readout = document.createElement("output");
    this.readout.setAttribute("aria-hidden", "true");
    place.replaceChildren(this.svg, this.readout);
    new ResizeObserver(() => this.draw(this.points)).observe(place);
    place.addEventListener("pointermove", (event) => this.point(event.offsetX));
    place.addEventListener("pointerleave", () => this.point(null));
  }

  draw(points) {
    this.points = points;
    this.width = this.place.clientWidth;
    this.height = this.place.clientHeight;
    if (!this.width || !this.height) return;
    this.left = this.scale ? LEFT : 0;
    this.floor = this.height - (this.scale ? BOTTOM : 2);
    this.end = points.length ? points[points.length - 1].at : Date.now() / 1000;
    const known = points.filter((point) => point.value !== null);
    this.top = niceTop(Math.max(this.least, ...known.map((point) => point.value)));
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.setAttribute("aria-label", this.summary(known));
    this.svg.replaceChildren(...(this.scale ? this.grid() : []), ...this.marks(known));
    this.marker = shape("line", { class: "marker", y1: TOP, y2: this.floor, visibility: "hidden" });
    this.svg.append(this.marker);
  }

  summary(known) {
    if (!known.length) return `${this.what}: nothing in the last ten minutes`;
    const values = known.map((point) => point.value);
    const last = this.say(values[values.length - 1]);
    return `${this.what} in the last ten minutes: last ${last}, at most ${this.say(Math.max(...values))}`;
  }

  x(at) {
    return this.left + (1 - (this.end - at) / SPAN_S) * (this.width - this.left - 4);
  }

  y(value) {
    return this.floor - (value / this.top) * (this.floor - TOP);
  }

  grid() {
    const nodes = [];
    for (const part of [0, 0.5, 1]) {
      const y = this.y(part * this.top);
      nodes.push(shape("line", { class: "grid", x1: this.left, x2: this.width, y1: y, y2: y }));
      const label = String(Number((part * this.top).toPrecision(3)));
      nodes.push(shape("text", { class: "scale", x: this.left - 6, y: y + 4, "text-anchor": "end" }, label));
    }
    const y = this.height - 3;
    nodes.push(shape("text", { class: "scale", x: this.left, y }, "10 min ago"));
    nodes.push(shape("text", { class: "scale", x: this.width - 4, y, "text-anchor": "end" }, "now"));
    return nodes;
  }

  marks(known) {
    if (this.kind === "dots") {
      return known.map((point) => shape("circle", { class: "dot", cx: this.x(point.at), cy: this.y(point.value), r: 3.5 }));
    }
    return this.runs(known).flatMap((run) => {
      const line = run
        .map((point, index) => {
          const [x, y] = [this.x(point.at).toFixed(1), this.y(point.value).toFixed(1)];
          if (!index) return `M${x} ${y}`;
          return this.kind === "steps" ? `H${x}V${y}` : `L${x} ${y}`;
        })
        .join("");
      const [first, last] = [this.x(run[0].at), this.x(run[run.length - 1].at)].map((x) => x.toFixed(1));
      return [
        shape("path", { class: "area", d: `${line}V${this.floor}H${first}Z` }),
        shape("path", { class: "line", d: first === last ? `${line}h0.1` : line }),
      ];
    });
  }

  runs(known) {
    const runs = [];
    for (const point of known) {
      const run = runs[runs.length - 1];
      if (run && point.at - run[run.length - 1].at <= GAP_S) run.push(point);
      else runs.push([point]);
    }
    return runs;
  }

  point(x) {
    const known = this.points.filter((point) => point.value !== null);
    if (x === null || !known.length || !this.marker) {
      this.readout.textContent = "";
      this.marker?.setAttribute("visibility", "hidden");
      return;
    }
    const near = known.reduce((best, point) =>
      Math.abs(this.x(point.at) - x) < Math.abs(this.x(best.at) - x) ? point : best);
    const place = this.x(near.at);
    this.marker.setAttribute("x1", place);
    this.marker.setAttribute("x2", place);
    this.marker.setAttribute("visibility", "visible");
    const time = new Date(near.at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
    this.readout.textContent = `${this.say(near.value)}, ${time}`;
  }
}
