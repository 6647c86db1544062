// The live page. It gets the state of all services as server-sent events, and draws
// once a frame what has changed.

import { place, placeVisibly, setClass, setIcon, setText, show } from "./dom.js";
import { clock, count, plural } from "./format.js";
import { sync } from "./clock.js";
import { History } from "./spark.js";
import { Card } from "./service.js";
import { clients } from "./queue.js";
import { Journal } from "./journal.js";
import { Names } from "./names.js";
import { testAny } from "./actions.js";

const id = (name) => document.getElementById(name);

const openUpTo = 12; // with more services, only those with a problem are open at first
const openProblems = 6;
const pageSize = 100; // services that are listed at once
const drawingTime = 12; // milliseconds of one frame for services; the others follow in the next frames
const glideUpTo = 40; // listed services
const entriesKept = 200;
const silentAfter = 12000; // milliseconds without an event: not connected
const announceAfter = 4000; // between two announcements to screen readers
const rankOf = { bad: 0, warn: 1, notice: 2, ok: 3 };

class Page {
  services = new Map(); // by id
  order = []; // ids, as the server lists them
  histories = new Map();
  journal = []; // the newest first
  readOnly = true;
  cards = new Map();
  opened = new Map(); // ids that the user has opened or closed
  dirty = new Set(); // ids of services that changed since the last drawing
  redraw = { list: false, histories: false };
  limit = pageSize;
  query = "";
  problemsOnly = false;
  lastEvent = 0;
  lostSince = 0;
  timings = []; // of the last events, in milliseconds: for measurements

  constructor() {
    this.journalView = new Journal(id("journal"), id("journal-empty"));
    this.namesView = new Names(this, id("names"), id("names-empty"), id("flush-all"));
    id("search").addEventListener("input", (event) => this.show({ query: event.target.value.trim().toLowerCase() }));
    id("show-all").addEventListener("click", () => this.show({ problemsOnly: false }));
    id("show-problems").addEventListener("click", () => this.show({ problemsOnly: true }));
    id("more").addEventListener("click", () => this.show({ limit: this.limit + pageSize }));
    id("test-any").addEventListener("click", () => testAny(this.order.map((n) => this.services.get(n))));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || id("dialog").open) return;
      event.preventDefault();
      id("search").focus();
    });
    this.connect();
    setInterval(() => this.checkConnection(), 1000);
  }

  // connect opens the stream. The browser connects again by itself, unless the
  // server answers with an error: then this does it.
  connect() {
    this.stream = new EventSource("events");
    const on = (name, handle) => this.stream.addEventListener(name, (event) => {
      const began = performance.now();
      this.lastEvent = Date.now();
      handle(JSON.parse(event.data));
      this.spent = (this.spent ?? 0) + performance.now() - began;
      this.schedule();
    });
    on("hello", (hello) => this.greet(hello));
    on("state", (state) => this.replace(state));
    on("update", (update) => this.apply(update));
    on("sample", (sample) => this.sample(sample));
    this.stream.onerror = () => {
      if (this.stream.readyState !== EventSource.CLOSED) return;
      setTimeout(() => this.connect(), 2000);
    };
  }

  greet(hello) {
    this.readOnly = Boolean(hello.read_only);
    document.body.classList.toggle("read-only", this.readOnly);
    setText(id("who"), (this.readOnly ? "read-only, " : "") + hello.operator + (hello.version ? " · " + hello.version : ""));
    show(id("test-any"), !this.readOnly);
    this.checkConnection();
  }

  replace(state) {
    this.services.clear();
    this.histories.clear();
    for (const [n, view] of Object.entries(state.history ?? {})) this.histories.set(Number(n), new History(view));
    this.journal = [];
    this.names = [];
    document.body.classList.remove("waiting");
    this.redraw.histories = true;
    this.apply({ ...state, journal: [] });
    for (const service of this.services.values()) this.dirty.add(service.id);
    this.journal = (state.journal ?? []).reverse();
    this.journalView.reset(this.journal, (n) => this.services.get(n)?.name ?? "");
  }

  apply(update) {
    sync(update.now);
    for (const service of update.services ?? []) {
      this.services.set(service.id, service);
      this.dirty.add(service.id);
    }
    if (update.order) {
      this.order = update.order;
      const known = new Set(this.order);
      for (const n of [...this.services.keys()]) if (!known.has(n)) this.services.delete(n);
      for (const n of [...this.cards.keys()]) if (!known.has(n)) this.cards.delete(n);
      for (const n of [...this.histories.keys()]) if (!known.has(n)) this.histories.delete(n);
    }
    if (update.services || update.order) this.redraw.list = true;
    if (update.journal?.length) {
      this.journal = [...[...update.journal].reverse(), ...this.journal].slice(0, entriesKept);
      this.journalView.add(update.journal, (n) => this.services.get(n)?.name ?? "");
      for (const e of update.journal) this.dirty.add(e.service);
    }
    if (update.names) {
      this.names = update.names;
      this.namesView.update(this.names);
    }
  }

  sample(sample) {
    sync(sample.now);
    for (const n of this.order) {
      const step = sample.steps[n];
      if (step || this.histories.has(n)) this.history(n).shift(...(step ?? [0, 0, 0]));
    }
    this.redraw.histories = true;
  }

  // history returns the history of a service.
  history(n) {
    let history = this.histories.get(n);
    if (!history) {
      history = new History();
      this.histories.set(n, history);
    }
    return history;
  }

  // entries returns the journal of a service as far as the page has it, the newest first.
  entries(n) {
    return this.journal.filter((e) => e.service === n);
  }

  toggle(n) {
    this.opened.set(n, !this.isOpen(n));
    this.dirty.add(n);
    this.redraw.list = true;
    this.schedule();
  }

  isOpen(n) {
    return this.opened.get(n) ?? (this.order.length <= openUpTo || this.openByItself?.has(n) || false);
  }

  // show changes what is listed.
  show(change) {
    Object.assign(this, { limit: pageSize }, change);
    this.redraw.list = true;
    this.schedule();
  }

  schedule() {
    if (this.frame) return;
    // A page in the background gets no frames. It is drawn when it is looked at.
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      const began = performance.now();
      this.draw();
      this.timings.push((this.spent ?? 0) + performance.now() - began);
      if (this.timings.length > 500) this.timings.shift();
      this.spent = 0;
      if (this.redraw.list) this.schedule();
      else if (!this.ready && this.order.length) this.ready = performance.now();
    });
  }

  draw() {
    const { list, histories } = this.redraw;
    this.redraw = { list: false, histories: false };
    if (histories) for (const card of this.cards.values()) if (card.node.isConnected) card.drawHistory();
    if (list || this.dirty.size) this.drawList();
  }

  // drawList draws the services that match the search, those with problems first.
  drawList() {
    const all = this.order.map((n) => this.services.get(n)).filter(Boolean);
    const problems = all.filter((s) => s.level === "bad" || s.level === "warn");
    this.openByItself = new Set(problems.slice(0, openProblems).map((s) => s.id));
    setText(id("count-all"), count(all.length));
    setText(id("count-problems"), count(problems.length));
    id("show-all").setAttribute("aria-pressed", String(!this.problemsOnly));
    id("show-problems").setAttribute("aria-pressed", String(this.problemsOnly));
    const matching = (this.problemsOnly ? problems : all).filter((s) => this.matches(s));
    matching.sort((a, b) => rankOf[a.level] - rankOf[b.level]); // stable: the server's order within a level
    const shown = matching.slice(0, this.limit);
    const { nodes, late } = this.drawCards(shown);
    this.dirty = late;
    if (nodes.length < shown.length || late.size) this.redraw.list = true;
    document.body.classList.toggle("many", all.length > openUpTo);
    if (nodes.length > glideUpTo) place(id("list"), nodes);
    else placeVisibly(id("list"), nodes);
    const rest = matching.length - shown.length;
    show(id("more"), rest > 0);
    if (rest > 0) setText(id("more"), `Show ${Math.min(rest, pageSize)} more of ${count(rest)}`);
    show(id("empty"), matching.length === 0);
    setText(id("empty"), all.length === 0 ? "This config has no relay." : this.problemsOnly && !this.query ? "No problems." : "No service or backend matches.");
    this.summarize(all, problems);
  }

  // drawCards draws the services that need it, as many as fit in a frame. It returns
  // the elements to list, and the ids of the services that are to be drawn later.
  // Services that were never drawn are not listed until they are.
  drawCards(shown) {
    const deadline = performance.now() + drawingTime;
    const nodes = [];
    const late = new Set();
    for (const service of shown) {
      const open = this.isOpen(service.id);
      let card = this.cards.get(service.id);
      if (!card || this.dirty.has(service.id) || !card.node.isConnected || card.wasOpen !== open) {
        if (performance.now() > deadline) {
          if (!card) break;
          late.add(service.id);
        } else {
          if (!card) {
            card = new Card(this, service.id);
            this.cards.set(service.id, card);
          }
          card.update(service, open);
          card.wasOpen = open;
        }
      }
      nodes.push(card.node);
    }
    return { nodes, late };
  }

  matches(service) {
    if (!this.query) return true;
    return service.name.toLowerCase().includes(this.query)
      || service.backends.some((b) => b.address.toLowerCase().includes(this.query) || b.ips?.some((ip) => ip.includes(this.query)))
      || (service.listen ?? []).some((text) => text.includes(this.query));
  }

  // summarize says at a glance whether anything is wrong.
  summarize(all, problems) {
    const bad = all.filter((s) => s.level === "bad");
    const warn = all.filter((s) => s.level === "warn");
    const notices = all.filter((s) => s.level === "notice");
    const level = bad.length ? "bad" : warn.length ? "warn" : "ok";
    const parts = [];
    if (bad.length === 1) parts.push(`${bad[0].name}: ${bad[0].problems[0]}`);
    else if (bad.length) parts.push(`${count(bad.length)} services have no working backend`);
    if (warn.length === 1) parts.push(`${warn[0].name}: ${warn[0].problems[0]}`);
    else if (warn.length) parts.push(`${count(warn.length)} services have a problem`);
    const line = parts.join(" · ") || (all.length ? "All is well" : "No services");
    const total = all.reduce((sum, s) => sum + clients(s).n, 0);
    const more = [plural(all.length, "service"), plural(total, "active client")];
    if (problems.length === 0 && notices.length) more.push(notices.length === 1 ? `${notices[0].name}: ${notices[0].notices[0]}` : `${count(notices.length)} services with a drain, drill, hold or strike`);
    const held = all.reduce((sum, s) => sum + (s.held ?? 0), 0);
    if (held) more.push(plural(held, "client") + " held");
    const unresolved = (this.names ?? []).filter((name) => name.source === "none").length;
    if (unresolved) more.push(plural(unresolved, "name does", "names do") + " not resolve");
    setClass(id("summary"), "summary level-" + level);
    setIcon(id("summary").firstElementChild, level);
    setText(id("summary-line"), line);
    setText(id("summary-more"), more.join(" · "));
    document.title = (level === "ok" ? "" : level === "bad" ? "✕ " : "! ") + line + " · Relay";
    this.announce(line);
  }

  // announce reads the summary to screen readers, when it has changed and not too
  // often.
  announce(line) {
    this.toAnnounce = line;
    if (this.announcing) return;
    setText(id("announce"), line);
    this.announcing = setTimeout(() => {
      this.announcing = 0;
      if (id("announce").textContent !== this.toAnnounce) this.announce(this.toAnnounce);
    }, announceAfter);
  }

  // checkConnection shows whether what is on the page is of now.
  checkConnection() {
    const lost = this.stream.readyState !== EventSource.OPEN || Date.now() - this.lastEvent > silentAfter;
    if (!lost) {
      this.lostSince = 0;
      this.lostShown = false;
      document.body.classList.remove("stale");
      setText(id("link-text"), "live");
      if (id("lost").textContent) id("lost").replaceChildren();
      return;
    }
    this.lostSince ||= Date.now();
    setText(id("link-text"), "connecting");
    // A reload of the config ends the stream for half a second.
    if (Date.now() - this.lostSince < 3000 || this.lostShown) return;
    this.lostShown = true;
    document.body.classList.add("stale");
    if (Date.now() - this.lastEvent > silentAfter && this.stream.readyState === EventSource.OPEN) {
      this.stream.close();
      this.connect();
    }
    id("lost").replaceChildren(`Not connected. What you see is of ${clock(this.lastEvent || Date.now())}.`);
  }
}

window.relayPage = new Page();
