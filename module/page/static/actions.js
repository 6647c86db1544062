// What an operator can do. Each action says what will happen, and then shows what
// did. The requests are those of the admin API.

import { el, icon } from "./dom.js";
import { active, millis, plural } from "./format.js";
import { openDialog, select } from "./dialog.js";

export const drillWords = {
  refuse: "it seems to refuse connections",
  silent: "it seems not to answer",
  reset: "it seems to accept connections and to reset them",
  slow: "connecting to it seems to take a second longer",
};

const p = (text) => el("p", { text });
const result = (...texts) => ({ content: texts.map((text) => (typeof text === "string" ? p(text) : text)) });

// post sends a request that changes something, and returns the response.
async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body ? JSON.stringify(body) : undefined,
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `status ${response.status}`);
  return answer;
}

const servicePath = (service) => "relay/services/" + encodeURIComponent(service.name);
const backendPath = (service, backend) => `${servicePath(service)}/backends/${encodeURIComponent(backend.address)}`;

function activeOn(backend) {
  const on = (network) => backend.networks?.find((n) => n.network === network)?.active ?? 0;
  return active(on("tcp"), on("udp"));
}

const durations = [["10s", "10 seconds"], ["30s", "30 seconds"], ["1m", "1 minute"], ["5m", "5 minutes"], ["15m", "15 minutes"], ["1h", "1 hour"]];

const onBackend = {
  test(service, backend) {
    openDialog({
      title: `Test ${backend.address}?`,
      content: [p(`The relay probes it now, on each of its addresses, as the health check of ${service.name} does, or with a TCP connect if there is none. The result changes nothing in the queue.`)],
      confirm: "Test",
      act: async () => testResult(await post(backendPath(service, backend) + "/test")),
    });
  },

  drain(service, backend) {
    const now = activeOn(backend);
    openDialog({
      title: `Drain ${backend.address}?`,
      content: [
        p(`It gets no new clients of ${service.name}. ` + (now === "no clients" ? "It has no clients now." : `Its ${now} continue until they end.`)),
        select("cut_after", "Cut the clients that are left", [["", "never"], ...durations.map(([value, text]) => [value, "after " + text])], ""),
        p("A drain lasts through reloads, but not through a restart."),
      ],
      confirm: "Drain",
      act: async (form) => {
        const limit = form.get("cut_after");
        const after = await post(backendPath(service, backend) + "/drain" + (limit ? "?cut_after=" + limit : ""));
        return result(`${after.address} gets no new clients. Still on it: ${active(after.active.tcp, after.active.udp)}.`);
      },
    });
  },

  resume(service, backend) {
    openDialog({
      title: `Resume ${backend.address}?`,
      content: [p(`It gets new clients of ${service.name} again when its turn in the queue comes. It is number ${backend.position} now.`)],
      confirm: "Resume",
      act: async () => {
        const after = await post(backendPath(service, backend) + "/resume");
        return result(`${after.address} gets new clients again. It is number ${after.position} in the queue, and ${after.state}.`);
      },
    });
  },

  drill(service, backend) {
    const faults = Object.entries(drillWords).map(([value, text], i) =>
      el("label", { class: "choice" }, el("input", { type: "radio", name: "fault", value, checked: i === 0 }), el("span", {}, el("b", { text: value }), " – " + text)));
    openDialog({
      title: `Drill ${backend.address}?`,
      content: [
        p(`New clients of ${service.name} that try it find a simulated fault, so the failover acts as if it were real. Clients that are on it already are not affected. The drill ends by itself.`),
        el("div", { class: "choices", role: "radiogroup", "aria-label": "Fault" }, ...faults),
        select("for", "For", durations, "1m"),
        el("label", { class: "choice" }, el("input", { type: "checkbox", name: "force" }), el("span", { text: "also if no other backend is available: new clients are refused then" })),
      ],
      confirm: "Start drill",
      danger: true,
      act: async (form) => drillResult(await post(backendPath(service, backend) + "/drill", { fault: form.get("fault"), for: form.get("for"), force: form.has("force") })),
    });
  },

  stop(service, backend) {
    openDialog({
      title: `End the drill of ${backend.address}?`,
      content: [p(`Connections to it are made as usual again. Strikes that it got in the drill stay until it succeeds, or until the queue is reset.`)],
      confirm: "End drill",
      act: async () => drillResult(await post(backendPath(service, backend) + "/drill/stop")),
    });
  },
};

const onService = {
  reset(service) {
    const order = service.backends.filter((b) => b.configured).sort((a, b) => a.configured - b.configured).map((b) => b.address);
    openDialog({
      title: `Reset the queue of ${service.name}?`,
      content: [p("The backends return to their configured order, and strikes and cooldowns are forgotten:"), el("ol", { class: "order" }, ...order.map((text) => el("li", { text }))), p("Active clients stay where they are. New ones get the first backend. Drains remain.")],
      confirm: "Reset",
      act: async () => {
        const after = await post(servicePath(service) + "/reset");
        return result("The order is now " + after.backends.filter((b) => b.position).map((b) => b.address).join(", ") + ".");
      },
    });
  },

  hold(service) {
    openDialog({
      title: `Hold new clients of ${service.name}?`,
      content: [p("New clients wait, and no backend is tried for them, until you release them or the time is up. Then they are served. Clients that have a backend are not affected."), select("for", "For at most", durations, "30s")],
      confirm: "Hold",
      act: async (form) => {
        const after = await post(`${servicePath(service)}/hold?for=${form.get("for")}`);
        return result(`New clients wait until ${new Date(after.held_until).toLocaleTimeString("en-GB")}.`);
      },
    });
  },

  release(service) {
    openDialog({
      title: `Release the clients of ${service.name}?`,
      content: [p(`The hold ends, and ${plural(service.held ?? 0, "waiting client")} and all new ones get a backend.`)],
      confirm: "Release",
      act: async () => {
        await post(servicePath(service) + "/release");
        return result("New clients are served again.");
      },
    });
  },
};

// actOnBackend opens the dialog of an action on a backend.
export const actOnBackend = (name, service, backend) => onBackend[name](service, backend);

// actOnService opens the dialog of an action on a service.
export const actOnService = (name, service) => onService[name](service);

// flush opens the dialog that flushes a name of the DNS cache, or all if it is "".
export function flush(host) {
  openDialog({
    title: host ? `Flush ${host}?` : "Flush all names?",
    content: [p((host ? "Its next use queries" : "The next use of each name queries") + " the DNS again. The old addresses stay in use if the query fails. Active clients stay where they are.")],
    confirm: "Flush",
    act: async () => {
      const after = await post("relay/dns/flush" + (host ? "?host=" + encodeURIComponent(host) : ""));
      return result(`Flushed ${plural(after.flushed, "name")} of ${after.known}.`);
    },
  });
}

// testAny opens the dialog that tests an address, which need not be in a config.
export function testAny(services) {
  const names = services.filter((s) => !s.shared && !s.removed).map((s) => [s.name, "as a backend of " + s.name]);
  openDialog({
    title: "Test an address",
    content: [
      p("The relay connects to it now. It need not be in a config, and nothing changes."),
      el("label", { class: "field" }, el("span", { text: "Address" }), el("input", { name: "address", type: "text", required: true, placeholder: "host:port", autocomplete: "off", spellcheck: "false", autocapitalize: "none" })),
      select("service", "Probe", [["", "TCP connect"], ...names], ""),
    ],
    confirm: "Test",
    act: async (form) => testResult(await post("relay/test", { address: form.get("address").trim(), service: form.get("service") || undefined })),
  });
}

// testResult shows a test.
function testResult(test) {
  const lines = test.dials.map((dial) =>
    el("li", { class: dial.ok ? "passed" : "failed" }, icon(dial.ok ? "ok" : "bad"),
      el("span", { text: `${dial.network.toUpperCase()} ${dial.address}: ` + (dial.ok ? `answered after ${millis(dial.latency_ms)}` : `failed after ${millis(dial.latency_ms)}: ${dial.error}`) })));
  for (const [network, reason] of Object.entries(test.untested ?? {})) lines.push(el("li", {}, icon("removed"), el("span", { text: `${network.toUpperCase()} not tested: ${reason}` })));
  const content = [el("p", {}, el("b", { text: test.backend + (test.ok ? " passed" : " failed") }), ` (${test.check})`)];
  if (test.error) content.push(p(test.error));
  content.push(el("ul", { class: "dials" }, ...lines));
  return { failed: !test.ok, content };
}

// drillResult shows what a drill has come to.
function drillResult(drill) {
  const happened = `So far: ${plural(drill.strikes, "strike")}, ${plural(drill.clients_moved, "client")} served by another backend, ${drill.clients_reset} reset, ${drill.clients_refused} refused.`;
  const ends = new Date(drill.ends).toLocaleTimeString("en-GB");
  return result(drill.running ? `The drill of ${drill.backend} runs until ${ends}.` : `The drill of ${drill.backend} has ended.`, happened);
}
