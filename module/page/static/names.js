// The DNS cache.

import { el, icon, show } from "./dom.js";
import { span } from "./format.js";
import { now, tick } from "./clock.js";
import { flush } from "./actions.js";

const words = { fresh: "fresh", stale: "stale", none: "not resolved" };
const icons = { fresh: "ok", stale: "cooling", none: "bad" };

// shown bounds the list; the search finds the others.
const shown = 40;

// Names shows the names of the DNS caches, those with a problem first.
export class Names {
  constructor(page, node, empty, all) {
    this.page = page;
    this.node = node;
    this.empty = empty;
    this.all = all;
    all.addEventListener("click", () => flush(""));
  }

  update(names) {
    show(this.empty, names.length === 0);
    show(this.all, names.length > 0 && !this.page.readOnly);
    const order = ["none", "stale", "fresh"];
    const rank = (name) => order.indexOf(name.source) - (name.error ? 0.5 : 0);
    const sorted = [...names].sort((a, b) => rank(a) - rank(b));
    const focused = this.node.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this.node.replaceChildren(...sorted.slice(0, shown).map((name) => this.row(name)));
    if (names.length > shown) this.node.append(el("li", { class: "rest", text: `and ${names.length - shown} more, all of them no worse` }));
    if (focused) this.node.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  }

  row(name) {
    const age = el("span", { class: "age" });
    if (name.resolved)
      tick(age, () => {
        const left = name.expires ? `, ${span(name.expires - now())} left` : "";
        return `answer ${span(now() - name.resolved)} old${left}`;
      });
    return el("li", { class: "source-" + name.source },
      el("div", { class: "host-line" }, el("span", { class: "host", text: name.host }),
        el("span", { class: "state" }, icon(icons[name.source]), el("span", { text: words[name.source] }))),
      el("div", { class: "host-more" }, el("span", { class: "ips", text: (name.ips ?? []).join(", ") || "no addresses" }), age),
      name.error ? el("p", { class: "failure", text: name.error }) : null,
      this.page.readOnly ? null : el("button", { type: "button", class: "action", "aria-label": "Flush " + name.host, onclick: () => flush(name.host) }, "Flush"));
  }
}
