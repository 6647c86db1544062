// The dialog, which confirms an action and then shows its result.

import { el, icon } from "./dom.js";

const dialog = document.getElementById("dialog");
let opener = null; // the button that opened it

// The browser gives the focus back to the button that opened the dialog. If the
// action has hidden that button, the one that took its place gets it.
dialog.addEventListener("close", () => {
  if (opener?.isConnected && !opener.hidden) return;
  opener?.closest(".actions")?.querySelector("button:not([hidden])")?.focus();
});

// openDialog opens the dialog.
//
// title and content say what will happen. confirm is the word of the button that
// does it, and act does it: it returns the result as elements, or throws an error.
// Without confirm there is only a button that closes the dialog.
export function openDialog({ title, content = [], confirm, act, danger = false, wide = false }) {
  const result = el("div", { class: "result", role: "status" });
  const cancel = el("button", { type: "button", class: "action", onclick: () => dialog.close() }, confirm ? "Cancel" : "Close");
  const go = confirm ? el("button", { type: "submit", class: "action strong" + (danger ? " danger" : "") }, confirm) : null;
  const fields = el("fieldset", {}, ...content);
  const form = el("form", { method: "dialog", novalidate: true }, el("h2", { id: "dialog-title", text: title }), fields, result, el("div", { class: "actions" }, cancel, go));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!go) return dialog.close();
    if (!form.checkValidity()) return form.reportValidity();
    const values = new FormData(form); // before the fields are disabled, which leaves them out
    fields.disabled = true;
    go.disabled = true;
    result.className = "result";
    result.replaceChildren(el("p", { text: "Working" }));
    try {
      const shown = await act(values);
      result.className = "result " + (shown.failed ? "result-failed" : "result-done");
      result.replaceChildren(icon(shown.failed ? "bad" : "ok"), el("div", {}, ...shown.content));
      go.remove();
      cancel.textContent = "Close";
      cancel.focus();
    } catch (error) {
      result.className = "result result-failed";
      result.replaceChildren(icon("bad"), el("p", { text: "Not done: " + error.message }));
      fields.disabled = false;
      go.disabled = false;
      go.focus();
    }
  });
  if (!dialog.open) opener = document.activeElement;
  dialog.className = wide ? "wide" : "";
  dialog.replaceChildren(form);
  if (!dialog.open) dialog.showModal();
  (form.querySelector("fieldset input:not([type=radio]), fieldset select") ?? go ?? cancel).focus();
}

// select returns a labelled choice. options are pairs of value and text.
export function select(name, label, options, chosen) {
  return el("label", { class: "field" }, el("span", { text: label }),
    el("select", { name }, ...options.map(([value, text]) => el("option", { value, text, selected: value === chosen }))));
}
