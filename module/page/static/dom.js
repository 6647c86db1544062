// Helpers for building and changing elements. Nothing here parses HTML, so no name
// or error text can become markup.

const svgSpace = "http://www.w3.org/2000/svg";

// el returns a new element. attrs may have class, on* handlers, attributes, and
// text for its content.
export function el(tag, attrs = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// svg returns a new SVG element.
export function svg(tag, attrs = {}, ...children) {
  const node = document.createElementNS(svgSpace, tag);
  for (const [name, value] of Object.entries(attrs)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// icon returns one of the symbols of the page. It is decoration: a word stands
// next to it.
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: "#i-" + name }));
}

// setIcon changes the symbol of an icon.
export function setIcon(node, name) {
  const use = node.firstElementChild;
  if (use.getAttribute("href") !== "#i-" + name) use.setAttribute("href", "#i-" + name);
}

// setText changes the text of an element, if it is another one.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// setClass changes the classes of an element, if they are others.
export function setClass(node, text) {
  if (node.getAttribute("class") !== text) node.setAttribute("class", text);
}

// show hides or shows an element.
export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

// place makes nodes the children of a parent, in their order. It moves as few as
// possible, and does not take the focus away from a node that it moves.
export function place(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const node of nodes) {
    if (node === next) {
      next = next.nextElementSibling;
      continue;
    }
    if (node.isConnected && parent.moveBefore) {
      parent.moveBefore(node, next);
      continue;
    }
    const focused = node.contains(document.activeElement) ? document.activeElement : null;
    parent.insertBefore(node, next);
    focused?.focus({ preventScroll: true });
  }
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

// placeVisibly is place, and lets nodes glide from their old place to the new one.
export function placeVisibly(parent, nodes) {
  const same = nodes.length === parent.children.length && nodes.every((node, i) => parent.children[i] === node);
  if (same) return;
  if (still.matches || document.hidden) return place(parent, nodes);
  const before = new Map(nodes.filter((node) => node.isConnected).map((node) => [node, node.getBoundingClientRect().top]));
  place(parent, nodes);
  for (const [node, top] of before) {
    const shift = top - node.getBoundingClientRect().top;
    if (Math.abs(shift) < 1 || Math.abs(shift) > 2000) continue;
    node.animate([{ transform: `translateY(${shift}px)` }, { transform: "none" }], { duration: 450, easing: "cubic-bezier(.2,.7,.2,1)" });
  }
}
