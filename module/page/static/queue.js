// The queue of a service: its backends in the order in which clients try them.

import { el, icon, placeVisibly, setClass, setIcon, setText, show } from "./dom.js";
import { active, amount, clock, count, millis, span } from "./format.js";
import { now, tick } from "./clock.js";
import { actOnBackend, drillWords } from "./actions.js";

const words = { up: "up", struck: "one strike", down: "down", cooling: "cooling", draining: "draining", removed: "removed" };
const icons = { up: "ok", struck: "struck", down: "bad", cooling: "cooling", draining: "draining", removed: "removed" };

// entrance returns the address of the backend that new clients of a network get, by
// network.
export function entrance(service) {
  const first = {};
  for (const backend of service.backends)
    for (const n of backend.networks ?? [])
      if (!(n.network in first) && (n.state === "up" || n.state === "struck")) first[n.network] = backend.address;
  return first;
}

// Queue shows the backends of a service.
export class Queue {
  constructor(page) {
    this.page = page;
    this.rows = new Map();
    this.node = el("ol", { class: "queue" });
  }

  update(service) {
    const first = entrance(service);
    const networks = Object.keys(first);
    const all = new Set(service.backends.flatMap((b) => (b.networks ?? []).map((n) => n.network))).size;
    const list = service.backends.map((backend) => {
      let row = this.rows.get(backend.address);
      if (!row) {
        row = new Row(this.page);
        this.rows.set(backend.address, row);
      }
      const gets = networks.filter((n) => first[n] === backend.address);
      row.update(service, backend, gets, all);
      return row.node;
    });
    placeVisibly(this.node, list);
    for (const [address, row] of this.rows) if (!row.node.isConnected && !list.includes(row.node)) this.rows.delete(address);
    this.node.setAttribute("aria-label", "Queue of " + service.name);
  }
}

// Row shows one backend.
class Row {
  constructor(page) {
    this.page = page;
    this.lines = new Map();
    this.position = el("span", { class: "position" });
    this.address = el("span", { class: "address" });
    this.gets = el("span", { class: "gets" }, icon("arrow"), el("span"));
    this.more = el("span", { class: "more-address" });
    this.networks = el("div", { class: "networks" });
    this.drill = el("p", { class: "drill" }, icon("notice"), el("span"));
    this.failure = el("p", { class: "failure" });
    const act = (name) => () => actOnBackend(name, this.service, this.backend);
    this.buttons = {
      test: el("button", { type: "button", class: "action", onclick: act("test") }, "Test"),
      drain: el("button", { type: "button", class: "action", onclick: act("drain") }, "Drain"),
      resume: el("button", { type: "button", class: "action", onclick: act("resume") }, "Resume"),
      drill: el("button", { type: "button", class: "action", onclick: act("drill") }, "Drill"),
      stop: el("button", { type: "button", class: "action", onclick: act("stop") }, "End drill"),
    };
    this.node = el("li", { class: "backend" },
      this.position,
      el("div", { class: "what" }, el("div", { class: "name-line" }, this.address, this.gets), this.more),
      this.networks,
      el("div", { class: "actions" }, ...Object.values(this.buttons)),
      el("div", { class: "remarks" }, this.drill, this.failure));
  }

  update(service, backend, gets, networks) {
    this.service = service;
    this.backend = backend;
    setClass(this.node, `backend state-${backend.state}` + (gets.length ? " first" : ""));
    setText(this.position, backend.position ? String(backend.position) : "–");
    setText(this.address, backend.address);
    show(this.gets, gets.length > 0);
    if (gets.length) setText(this.gets.lastElementChild, gets.length === networks ? "new clients" : `new ${gets.join(", ").toUpperCase()} clients`);
    const more = [];
    if (backend.position && backend.configured && backend.position !== backend.configured) more.push("configured as number " + backend.configured);
    if (backend.ips?.length) more.push(backend.ips.join(", "));
    setText(this.more, more.join(" · "));
    show(this.more, more.length > 0);
    this.updateNetworks(backend);
    this.updateRemarks(backend);
    this.updateButtons(service, backend);
  }

  updateNetworks(backend) {
    const list = (backend.networks ?? []).map((n) => {
      let line = this.lines.get(n.network);
      if (!line) {
        line = new Line(n.network);
        this.lines.set(n.network, line);
      }
      line.update(n);
      return line.node;
    });
    if (list.length !== this.networks.children.length || list.some((node, i) => this.networks.children[i] !== node)) this.networks.replaceChildren(...list);
  }

  updateRemarks(backend) {
    show(this.drill, Boolean(backend.drill));
    if (backend.drill) tick(this.drill.lastElementChild, () => `Drill: ${drillWords[backend.drill] ?? backend.drill}` + (backend.drill_until ? `, ends in ${span(backend.drill_until - now())}` : ""));
    else tick(this.drill.lastElementChild, null);
    const failure = backend.failure;
    show(this.failure, Boolean(failure));
    if (failure) tick(this.failure, () => `Last failure ${span(now() - failure.at)} ago, at ${clock(failure.at)}: ${failure.text}`);
    else tick(this.failure, null);
  }

  updateButtons(service, backend) {
    const possible = !service.shared && !this.page.readOnly && backend.position > 0;
    const draining = backend.state === "draining";
    const visible = { test: possible, drain: possible && !draining, resume: possible && draining, drill: possible && !backend.drill, stop: possible && Boolean(backend.drill) };
    for (const [name, button] of Object.entries(this.buttons)) {
      const focused = document.activeElement === button;
      show(button, visible[name]);
      const label = `${button.textContent} ${backend.address}`;
      if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
      if (focused && !visible[name]) Object.values(this.buttons).find((other) => !other.hidden)?.focus();
    }
  }
}

// Line shows a backend on one network.
class Line {
  constructor(network) {
    this.symbol = icon("ok");
    this.word = el("span");
    this.state = el("span", { class: "state" }, this.symbol, this.word);
    this.figures = {};
    const figure = (name, unit) => {
      const value = el("b");
      const label = el("span", { text: unit });
      const node = el("span", { class: "figure figure-" + name }, value, " ", label);
      this.figures[name] = { node, value, label };
      return node;
    };
    this.network = el("span", { class: "network", text: network.toUpperCase() });
    this.node = el("div", { class: "line" }, this.network, this.state,
      figure("active", "active"), figure("total", "served"), figure("failed", "failed"),
      this.pair("traffic", ["↑", "from clients"], ["↓", "to clients"]), this.pair("connect", ["p50", "to connect"], ["p99", "to connect"]));
  }

  // pair returns the element of two figures. Each has a sign, and what a screen
  // reader reads in addition.
  pair(name, first, second) {
    const [one, other] = [first, second].map(([sign, words]) => ({ node: el("span", { class: "half" }, sign + " ", el("span", { class: "visually-hidden", text: words + " " })), value: el("b") }));
    one.node.append(one.value);
    other.node.append(other.value);
    const node = el("span", { class: "figure figure-" + name }, one.node, " ", other.node);
    this.figures[name] = { node, one: one.value, other: other.value };
    return node;
  }

  update(n) {
    setClass(this.state, "state state-word-" + n.state);
    setIcon(this.symbol, icons[n.state] ?? "removed");
    const word = (words[n.state] ?? n.state) + (n.by_check && (n.state === "down" || n.state === "struck") ? " (check)" : "") + (n.suspect ? " (suspect)" : "");
    if (n.state === "cooling") tick(this.word, () => `${word} ${span(n.cooling_until - now())}`);
    else if (n.state === "down" && n.down_since) tick(this.word, () => `${word} ${span(now() - n.down_since)}`);
    else {
      tick(this.word, null);
      setText(this.word, word);
    }
    this.state.title = n.suspect ? "another node has demoted it, and the next client here tries it briefly"
      : n.by_check ? "found by the health check, and ended only by a passed one" : "";
    const set = (name, value, quiet) => {
      setText(this.figures[name].value, value);
      setClass(this.figures[name].node, `figure figure-${name}` + (quiet ? " quiet" : ""));
    };
    set("active", count(n.active ?? 0), !n.active);
    set("total", count(n.connections ?? 0), !n.connections);
    set("failed", count(n.failures ?? 0), !n.failures);
    const setPair = (name, one, other, quiet) => {
      const pair = this.figures[name];
      setText(pair.one, one);
      setText(pair.other, other);
      setClass(pair.node, `figure figure-${name}` + (quiet ? " quiet" : ""));
    };
    setPair("traffic", amount(n.up ?? 0), amount(n.down ?? 0), !n.up && !n.down);
    setPair("connect", n.p50 ? millis(n.p50) : "–", n.p99 ? millis(n.p99) : "–", !n.p50);
  }
}

// clients are the active clients of a service, in words.
export function clients(service) {
  const sum = { tcp: 0, udp: 0 };
  for (const backend of service.backends) for (const n of backend.networks ?? []) sum[n.network] += n.active ?? 0;
  return { text: active(sum.tcp, sum.udp), n: sum.tcp + sum.udp };
}
