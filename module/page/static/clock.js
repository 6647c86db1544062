// The clock of the page: it follows the server's, and redraws spans once a second.

import { setText } from "./dom.js";

let skew = 0; // the server's clock minus this one

// sync sets the clock by a time of the server.
export function sync(serverNow) {
  const measured = serverNow - Date.now();
  // An event that was late makes the server's clock look slow, so the largest value is right.
  if (Math.abs(measured - skew) > 2000 || measured > skew) skew = measured;
}

export const now = () => Date.now() + skew;

const ticking = new Map(); // elements to what they show

// tick makes an element show what text returns, now and every second, while it is
// on the page. No text ends that.
export function tick(node, text) {
  if (!text) {
    ticking.delete(node);
    return;
  }
  ticking.set(node, text);
  setText(node, text());
}

setInterval(() => {
  if (document.hidden) return;
  for (const [node, text] of ticking) {
    if (node.isConnected) setText(node, text());
    else ticking.delete(node);
  }
}, 1000);
