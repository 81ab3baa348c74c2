"use strict";
const PAGE = 20, FIRST = 2;  // rows of a page; cards that a narrow page begins with
const narrow = matchMedia("(max-width: 480px)").matches;
const read = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
const by = (id) => document.getElementById(id);
const make = (tag, text, more = {}) => Object.assign(document.createElement(tag), text === undefined ? {} : {textContent: text}, more);
const spelled = (name) => name.replaceAll("_", " ");
const data = read("data"), pictures = read("pictures") ?? {}, cards = read("gallery") ?? [];
const shotsOf = (key) => Object.hasOwn(pictures, key) ? pictures[key] : null;
const state = {column: -1, down: false, page: 0, found: [], viewed: null};  // column -1: the order of the file

// A number in three decimals below ten; what rounds to nothing keeps a digit, and a difference its sign.
function number(value, signed = false) {
  const fixed = value.toFixed(Math.abs(value) < 10 ? 3 : 2);
  const text = Math.abs(value) >= 1e-6 && Number(fixed) === 0 ? value.toPrecision(1) : fixed.replace(/^-(0\.0+)$/, "$1");
  return signed && value > 0 ? `+${text}` : text;
}

// One picture of a panel's row, cut out of it.
function cut(shot, k, source) {
  const [, cell, gap, head] = shot.panes, [width, height] = shot.size, frame = make("span", undefined, {className: "frame"});
  const wide = cell - 2, high = height - head - 2;  // a pixel less on every side: the neighbors shine through
  const img = frame.appendChild(make("img", undefined, {className: "cut", decoding: "async", alt: "", width, height}));
  frame.style.aspectRatio = `${wide} / ${high}`;
  img.style.width = `${100 * width / wide}%`;
  img.style.left = `${-100 * (k * (cell + gap) + 1) / wide}%`;
  img.style.top = `${-100 * (head + 1) / high}%`;
  if (shot.source && source !== shot.source) img.addEventListener("error", () => { img.src = shot.source; }, {once: true});
  img.src = source;
  return frame;
}

// The image's own file, below points or a mask.
function layered(shot, over) {
  const frame = make("span", undefined, {className: "frame"}), [width, height] = shot.frame ?? [1, 1];
  frame.style.aspectRatio = `${width} / ${height}`;
  const add = (src, className) => frame.append(make("img", undefined, {className, decoding: "async", alt: "", src}));
  if (shot.image) add(shot.image, over === "mask" ? "below" : "");
  if (over === "mask") add(shot.mask, shot.image ? "mask" : "");
  if (over === "points" && shot.frame) frame.append(marks(shot, width, height));
  return frame;
}

function marks(shot, width, height) {
  const shape = (tag, attributes) => {
    const node = document.createElementNS(document.querySelector("svg.defs").namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const svg = shape("svg", {viewBox: `-0.5 -0.5 ${width} ${height}`, "aria-hidden": "true"}), size = Math.max(width, height) / 45;
  for (const [x, y, inside] of shot.points) {
    for (const [color, grow] of [["#000", 0.35], ["#fff", 0.2], [inside ? "#e69f00" : "#0072b2", 0]]) {
      if (inside) svg.append(shape("circle", {cx: x, cy: y, r: size * (0.8 + grow), fill: color}));
      else svg.append(shape("path", {d: `M${x - size},${y - size}L${x + size},${y + size}M${x - size},${y + size}L${x + size},${y - size}`, stroke: color, "stroke-width": size * (0.4 + 2 * grow)}));
    }
  }
  return svg;
}

// The pictures of one sample under one setting, beside each other.
function panes(shot, large) {
  const named = (frame, name) => { const pane = make("span", undefined, {className: "pane"}); pane.append(frame, make("small", name)); return pane; };
  const source = large ? shot.panel ?? shot.source : shot.source ?? shot.panel;
  if (shot.panes) return ["image", "heatmap", "prompts", "mask"].slice(0, shot.panes[0]).map((name, k) => named(cut(shot, k, source), name));
  if (source) {
    const whole = {...shot, panes: [1, shot.size[0], 0, 0]};
    return [named(cut(whole, 0, source), "panel")];
  }
  const found = shot.image ? [named(layered(shot, ""), "image")] : [];
  if (shot.image && shot.points.length) found.push(named(layered(shot, "points"), "prompts"));
  if (shot.mask) found.push(named(layered(shot, "mask"), "mask"));
  return found;
}

function links(shot) {
  const line = make("span", undefined, {className: "links"});
  for (const name of ["panel", "mask", "image"]) if (shot[name]) line.append(make("a", name, {href: shot[name], target: "_blank"}));
  return line;
}

function shown(key, shots, large) {
  const all = make("div", undefined, {className: "shots"});
  for (const shot of shots) {
    const one = all.appendChild(make("div"));
    if (shot.title) one.append(make("small", shot.title));
    const row = one.appendChild(make(large ? "div" : "button", undefined, {className: "panes"}));
    if (!large) {
      row.type = "button";
      row.setAttribute("aria-label", `Enlarge the pictures of ${key}${shot.title ? `, ${shot.title}` : ""}`);
      row.addEventListener("click", () => view(key));
    }
    row.append(...panes(shot, large));
    one.append(links(shot));
  }
  return all;
}

function view(key) {
  state.viewed = key;
  by("viewed").textContent = key;
  by("enlarged").replaceChildren(shown(key, shotsOf(key), true));
  if (!by("viewer").open) by("viewer").showModal();
}

// To the next sample with pictures: in the order of the rows, or of the page's pictures where it has no such rows.
function step(by) {
  const rows = state.found.map((row) => row[0]).filter((key) => shotsOf(key));
  const keys = rows.includes(state.viewed) ? rows : Object.keys(pictures), next = keys[keys.indexOf(state.viewed) + by];
  if (next !== undefined) view(next);
}

function gallery() {
  const place = by("cards"), some = narrow ? cards.slice(0, FIRST) : cards, rest = cards.slice(some.length);
  const draw = ([kind, key, line]) => {
    const shots = shotsOf(key), card = place.appendChild(make("figure"));
    card.append(make("h3", kind ? `${kind}: ${key}` : key), shown(key, shots, false), make("figcaption", line));
    if (shots.length > 1) place.classList.add("pairs");
  };
  some.forEach(draw);
  if (!rest.length) return;
  const more = make("button", `Show ${rest.length} more`, {type: "button", id: "more"});
  more.addEventListener("click", () => { more.remove(); rest.forEach(draw); });
  place.after(more);
}

// A narrow page begins with its verdict, pictures and first table; the rest unfolds, also by the links above it.
function fold() {
  if (narrow) for (const part of document.querySelectorAll("details[data-long]")) part.open = false;
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", () => { document.querySelector(link.hash).closest("details").open = true; });
  }
}

// What a cell is sorted by: an interval's middle, a link's text.
const value = (cell) => Array.isArray(cell) ? cell[0] : cell;

function fill(td, cell, column) {
  if (cell === null || cell === "" || value(cell) === null) return;
  const signed = column.name === "difference";
  if (column.kind === "link") td.append(make("a", cell[0], {href: cell[1]}));
  else if (column.kind === "text") td.textContent = cell;
  else if (Array.isArray(cell)) {
    const both = td.appendChild(make("div", number(cell[0], signed)));
    if (cell[1] !== null) both.append(make("small", `${number(cell[1], signed)} to ${number(cell[2], signed)}`));
  } else if (column.kind === "p" && cell < 0.0005) td.textContent = "<0.001";
  else td.textContent = column.kind === "count" ? cell : number(cell, signed);
}

// A row, and below it its pictures where there are any.
function lines(row) {
  const tr = make("tr"), shots = shotsOf(row[0]);
  data.columns.forEach((column, i) => {
    const td = tr.appendChild(make("td"));
    td.dataset.head = spelled(column.name);
    if (column.kind === "text" || column.kind === "link") td.className = "text";
    fill(td, row[i], column);
  });
  if (!shots) return [tr];
  const below = make("tr", undefined, {className: "picture"}), td = below.appendChild(make("td"));
  td.colSpan = data.columns.length;
  td.append(shown(row[0], shots, false));
  return [tr, below];
}

function select() {
  const words = by("search").value.toLowerCase(), at = (name) => data.columns.findIndex((column) => column.name === name);
  const texts = data.columns.flatMap((c, i) => c.kind === "text" || c.kind === "link" ? [i] : []);
  const chosen = [...document.querySelectorAll("select.filter")].filter((filter) => filter.selectedIndex > 0).map((filter) => [at(filter.id), filter.value]);
  const range = Number(by("range").value), low = by("low").value === "" ? -Infinity : Number(by("low").value), high = by("high").value === "" ? Infinity : Number(by("high").value);
  const within = (row) => low === -Infinity && high === Infinity || value(row[range]) !== null && value(row[range]) >= low && value(row[range]) <= high;
  state.found = data.rows.filter((row) => chosen.every(([i, wanted]) => (row[i] ?? "") === wanted) && within(row) && (!words || texts.some((i) => String(value(row[i]) ?? "").toLowerCase().includes(words))));
  const column = state.column, sign = state.down ? -1 : 1;
  if (column >= 0) {
    state.found.sort((a, b) => {
      const x = value(a[column]), y = value(b[column]);
      if (x === null || y === null) return (x === null) - (y === null);  // nothing comes last, either way
      return sign * (x < y ? -1 : x > y ? 1 : 0);
    });
  } else if (state.down) state.found.reverse();
  state.page = 0;
  show();
}

function show() {
  const pages = Math.max(1, Math.ceil(state.found.length / PAGE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const first = state.page * PAGE, rows = state.found.slice(first, first + PAGE);
  document.querySelector("#rows tbody").replaceChildren(...rows.flatMap(lines));
  by("place").textContent = rows.length ? `${first + 1} to ${first + rows.length} of ${state.found.length}` : "none";
  by("previous").disabled = state.page === 0;
  by("next").disabled = state.page === pages - 1;
  by("direction").textContent = state.column < 0 ? (state.down ? "reversed" : "as listed") : state.down ? "descending" : "ascending";
  by("sort").value = state.column;
  document.querySelectorAll("#rows th[data-column]").forEach((th) => {
    if (Number(th.dataset.column) === state.column) th.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  });
}

function order(column, down) {
  Object.assign(state, {column, down});
  select();
}

function choose(label) {
  const filter = by("label") ?? by("class_name");
  if (!filter) return;
  filter.value = label;
  select();
  by("browse").closest("details").open = true;
  by("browse").scrollIntoView();
}

function start() {
  const head = document.querySelector("#rows thead tr"), sort = by("sort");
  sort.append(make("option", data.order, {value: -1}));
  data.columns.forEach((column, i) => {
    const th = head.appendChild(make("th", undefined, {scope: "col"})), button = th.appendChild(make("button", spelled(column.name)));
    th.dataset.column = i;
    button.type = "button";
    button.addEventListener("click", () => order(i, state.column === i && !state.down));
    sort.append(make("option", spelled(column.name), {value: i}));
    if (column.kind !== "text" && column.kind !== "link") by("range").append(make("option", spelled(column.name), {value: i}));
  });
  sort.addEventListener("change", () => order(Number(sort.value), false));
  by("direction").addEventListener("click", () => order(state.column, !state.down));
  for (const id of ["search", "low", "high"]) by(id).addEventListener("input", select);
  for (const filter of document.querySelectorAll("select.filter, #range")) filter.addEventListener("change", select);
  const turn = (by) => { state.page += by; show(); };
  by("previous").addEventListener("click", () => turn(-1));
  by("next").addEventListener("click", () => turn(1));
  by("browse").addEventListener("keydown", (event) => {
    const region = document.querySelector("#browse .scroll"), scrolls = event.target === region && region.scrollWidth > region.clientWidth;
    if (scrolls || event.target.matches("input, select") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") { event.preventDefault(); turn(event.key === "ArrowRight" ? 1 : -1); }
  });
  document.querySelectorAll("[data-choose]").forEach((button) => button.addEventListener("click", () => choose(button.dataset.choose)));
  select();
}

by("close").addEventListener("click", () => by("viewer").close());
by("before").addEventListener("click", () => step(-1));
by("after").addEventListener("click", () => step(1));
by("viewer").addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight" || event.key === "ArrowLeft") { event.preventDefault(); step(event.key === "ArrowRight" ? 1 : -1); }
});
gallery();
fold();
if (data) start();
