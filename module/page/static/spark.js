// A chart of the last ten minutes: one bar for each ten seconds.

import { svg } from "./dom.js";

const steps = 60;
const width = 240;
const height = 36;

// Spark is the chart of one figure.
export class Spark {
  constructor(kind) {
    this.path = svg("path");
    this.node = svg("svg", { class: "spark spark-" + kind, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": "" },
      svg("path", { class: "base", d: `M0 ${height - 0.5}H${width}` }), this.path);
  }

  // draw draws the steps, the oldest first. describe turns the largest into words.
  draw(values, describe) {
    const top = Math.max(...values, 0);
    const bar = width / steps;
    let d = "";
    values.forEach((value, i) => {
      if (value <= 0) return;
      const tall = Math.max(2, (value / top) * (height - 3));
      d += `M${(i * bar + 0.5).toFixed(1)} ${height}v${-tall.toFixed(1)}h${(bar - 1).toFixed(1)}v${tall.toFixed(1)}z`;
    });
    if (this.path.getAttribute("d") !== d) this.path.setAttribute("d", d);
    const label = describe(top);
    if (this.node.getAttribute("aria-label") !== label) this.node.setAttribute("aria-label", label);
  }
}

const none = new Array(steps).fill(0);

// History holds the steps of one service.
export class History {
  constructor(view) {
    this.connections = view?.connections ?? none;
    this.bytes = view?.bytes ?? none;
    this.failures = view?.failures ?? none;
  }

  // shift adds a step and drops the oldest one.
  shift(connections, bytes, failures) {
    const add = (list, value) => (value || list !== none ? [...list.slice(1), value] : none);
    this.connections = add(this.connections, connections);
    this.bytes = add(this.bytes, bytes);
    this.failures = add(this.failures, failures);
  }
}
