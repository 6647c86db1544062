// A service: a line that sums it up, and below it, if it is open, its queue.

import { el, icon, setClass, setIcon, setText, show } from "./dom.js";
import { amount, clock, count, plural, rate, span } from "./format.js";
import { now, tick } from "./clock.js";
import { Spark } from "./spark.js";
import { Queue, clients, entrance } from "./queue.js";
import { actOnService } from "./actions.js";
import { showJournal } from "./journal.js";

const levelWords = { ok: "works", notice: "note", warn: "problem", bad: "down" };
const levelIcons = { ok: "ok", notice: "notice", warn: "warn", bad: "bad" };
const refusals = { no_backend: "no backend left", max_connections: "too many connections", max_connections_per_ip: "too many from one address" };

// Card shows one service.
export class Card {
  constructor(page, id) {
    this.page = page;
    this.id = id;
    this.body = null; // built when the card is opened first
    this.symbol = icon("ok");
    this.word = el("span", { class: "word" });
    this.name = el("span", { class: "name" });
    this.listen = el("span", { class: "listen" });
    this.route = el("span", { class: "route" });
    this.load = el("span", { class: "load" });
    this.spark = new Spark("connections");
    this.button = el("button", { type: "button", class: "open", "aria-expanded": "false", onclick: () => this.page.toggle(this.id) },
      icon("open"), el("span", { class: "level" }, this.symbol, this.word), this.name);
    this.head = el("div", { class: "head" }, el("h2", {}, this.button), this.listen, this.route, this.load, this.spark.node);
    this.remarks = el("ul", { class: "problems" });
    this.remarks.hidden = true;
    this.node = el("article", { class: "service" }, this.head, this.remarks);
  }

  update(service, open) {
    setClass(this.node, `service level-${service.level}` + (open ? " opened" : ""));
    setIcon(this.symbol, levelIcons[service.level]);
    setText(this.word, levelWords[service.level]);
    setText(this.name, service.name);
    setText(this.listen, (service.listen ?? []).join(" · "));
    const first = Object.values(entrance(service));
    setText(this.route, first.length ? "→ " + [...new Set(first)].join(", ") : "no backend works");
    const rates = service.rates;
    setText(this.load, `${count(clients(service).n)} active · ${rate(rates.connections ?? 0)}`);
    this.button.setAttribute("aria-expanded", String(open));
    this.updateRemarks(service);
    this.drawHistory();
    if (open && !this.body) {
      this.body = new Body(this.page, this.id);
      this.node.append(this.body.node);
    }
    if (this.body) {
      show(this.body.node, open);
      if (open) this.body.update(service);
    }
  }

  updateRemarks(service) {
    const texts = [...(service.problems ?? []), ...(service.notices ?? [])];
    const same = texts.length === this.remarks.children.length && texts.every((text, i) => this.remarks.children[i].textContent === text);
    if (same) return;
    const problems = service.problems?.length ?? 0;
    this.remarks.replaceChildren(...texts.map((text, i) =>
      el("li", { class: i < problems ? "problem" : "notice" }, icon(i < problems ? (service.level === "bad" ? "bad" : "warn") : "notice"), el("span", { text }))));
    show(this.remarks, texts.length > 0);
  }

  drawHistory() {
    const history = this.page.history(this.id);
    this.spark.draw(history.connections, (top) => `Connections in the last ten minutes, at most ${count(top)} in ten seconds`);
    this.body?.drawHistory(history);
  }
}

// Body is the part of a card that can be closed.
class Body {
  constructor(page, id) {
    this.page = page;
    this.id = id;
    this.charts = ["connections", "bytes", "failures"].map((kind) => {
      const chart = { kind, value: el("b"), peak: el("span", { class: "peak" }), spark: new Spark(kind) };
      const label = { connections: "Connections", bytes: "Traffic", failures: "Failures" }[kind];
      chart.node = el("div", { class: "chart" }, el("div", { class: "chart-head" }, el("span", { text: label }), chart.value), chart.spark.node, chart.peak);
      return chart;
    });
    this.queue = new Queue(page);
    this.facts = el("p", { class: "facts" });
    this.hold = el("p", { class: "hold" });
    this.why = el("ol", { class: "journal" });
    const act = (name) => () => actOnService(name, this.service);
    this.buttons = {
      reset: el("button", { type: "button", class: "action", onclick: act("reset") }, "Reset queue"),
      hold: el("button", { type: "button", class: "action", onclick: act("hold") }, "Hold clients"),
      release: el("button", { type: "button", class: "action strong", onclick: act("release") }, "Release clients"),
      journal: el("button", { type: "button", class: "action", onclick: () => showJournal(this.service) }, "Journal"),
    };
    this.node = el("div", { class: "body" },
      this.hold, this.queue.node, el("div", { class: "charts" }, ...this.charts.map((chart) => chart.node)),
      el("div", { class: "foot" }, this.facts, el("div", { class: "actions" }, ...Object.values(this.buttons))),
      this.why);
  }

  update(service) {
    this.service = service;
    this.queue.update(service);
    this.updateRates(service.rates);
    const facts = [clients(service).text];
    for (const [reason, n] of Object.entries(service.refused ?? {})) facts.push(`${plural(n, "client")} refused (${refusals[reason] ?? reason})`);
    if (service.held) facts.push(`${plural(service.held, "client")} held`);
    if (service.dropped) facts.push(`${plural(service.dropped, "datagram")} dropped`);
    if (service.evicted) facts.push(`${plural(service.evicted, "session")} evicted`);
    facts.push(service.check ? "health check: " + service.check : "no health check");
    setText(this.facts, facts.join(" · "));
    show(this.hold, Boolean(service.held_until));
    if (service.held_until) tick(this.hold, () => `New clients are held for another ${span(service.held_until - now())}. ${plural(service.held ?? 0, "client")} waiting.`);
    else tick(this.hold, null);
    const possible = !service.shared && !this.page.readOnly;
    const focused = Object.values(this.buttons).includes(document.activeElement) && document.activeElement;
    show(this.buttons.reset, possible);
    show(this.buttons.hold, possible && !service.held_until);
    show(this.buttons.release, possible && Boolean(service.held_until));
    show(this.buttons.journal, !service.shared);
    if (focused && focused.hidden) this.buttons.journal.focus();
    this.updateWhy();
    this.drawHistory(this.page.history(this.id));
  }

  // updateWhy shows the latest entries of the service's journal.
  updateWhy() {
    const entries = this.page.entries(this.id).slice(0, 3);
    const key = entries.map((e) => e.at + e.text).join();
    if (this.whyKey === key) return;
    this.whyKey = key;
    this.why.replaceChildren(...entries.map((e) => el("li", {}, el("time", { text: clock(e.at) }), " ", el("span", { text: e.text }))));
    show(this.why, entries.length > 0);
  }

  updateRates(rates) {
    const [connections, bytes, failures] = this.charts;
    setText(connections.value, rate(rates.connections ?? 0));
    setText(bytes.value, `↑ ${amount(rates.up ?? 0)}/s  ↓ ${amount(rates.down ?? 0)}/s`);
    setText(failures.value, rate(rates.failures ?? 0));
  }

  drawHistory(history) {
    const inWords = { connections: (n) => count(n) + " connections", bytes: amount, failures: (n) => count(n) + " failures" };
    for (const chart of this.charts) {
      const words = inWords[chart.kind];
      chart.spark.draw(history[chart.kind], (top) => {
        const peak = top ? `peak ${words(top)} in 10 s` : "none in 10 minutes";
        setText(chart.peak, peak);
        return `${chart.kind} in the last ten minutes: ${peak}`;
      });
    }
  }
}

