// The journal: why the queues are in their current state.

import { el, icon } from "./dom.js";
import { clock } from "./format.js";
import { openDialog } from "./dialog.js";

const shown = 60;

const kinds = {
  strike: "struck", demotion: "bad", recovery: "ok", failback: "ok", local: "warn", drain: "draining", resume: "ok",
  hold: "cooling", release: "ok", drill: "notice", drill_ended: "notice", cut: "warn",
};

// entry returns the element of one entry. name is that of its service, "" to leave
// it out.
function entry(e, name) {
  return el("li", { class: "kind-" + e.kind },
    icon(kinds[e.kind] ?? "notice"), el("time", { datetime: new Date(e.at).toISOString(), text: clock(e.at) }),
    el("span", { class: "sentence" }, name ? el("b", { text: name }) : null, name ? " " : null, e.text));
}

// Journal shows the latest entries of all services, the newest first.
export class Journal {
  constructor(node, empty) {
    this.node = node;
    this.empty = empty;
  }

  // reset shows these entries, which have the newest first.
  reset(entries, nameOf) {
    this.node.replaceChildren(...entries.slice(0, shown).map((e) => entry(e, nameOf(e.service))));
    this.empty.hidden = entries.length > 0;
  }

  // add shows new entries, which have the oldest first.
  add(entries, nameOf) {
    for (const e of entries.slice(-shown)) {
      const node = entry(e, nameOf(e.service));
      node.classList.add("new");
      this.node.prepend(node);
    }
    while (this.node.children.length > shown) this.node.lastElementChild.remove();
    this.empty.hidden = true;
  }
}

// showJournal opens a dialog with all entries of a service.
export async function showJournal(service) {
  const list = el("ol", { class: "journal" });
  const status = el("p", { class: "empty", text: "Loading" });
  openDialog({ title: "Journal of " + service.name, wide: true, content: [status, list] });
  try {
    const response = await fetch("journal?service=" + encodeURIComponent(service.name));
    const body = await response.json();
    if (!response.ok) throw new Error(body.error);
    list.replaceChildren(...body.reverse().map((e) => entry(e, "")));
    status.textContent = body.length ? "The last 256 changes, the newest first." : "No changes yet: the queue is as configured.";
  } catch (error) {
    status.textContent = "The journal could not be loaded: " + error.message;
  }
}
