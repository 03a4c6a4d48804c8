"use strict";
// The memory timeline: stacked areas over the allocator's events, read by pointer, finger and keyboard; figures as files.

const MEBIBYTE = 2 ** 20;
const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes = {}, text = "") {
  const drawn = ["svg", "path", "line", "rect", "circle", "g", "text"].includes(name);
  const element = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const mebibytes = (size) => (size / MEBIBYTE).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

// Undo the coding of timelines.json: pairs of moments since the last change and bytes added.
function unpack(task, categories) {
  const total = new Float64Array(task.moments);
  const live = categories.map((category) => {
    const bytes = new Float64Array(task.moments);
    let at = 0;
    for (const [gap, added] of task.changes[category] || []) bytes[at += gap] += added;
    for (let moment = 1; moment < task.moments; moment++) bytes[moment] += bytes[moment - 1];
    bytes.forEach((size, moment) => { total[moment] += size; });
    return bytes;
  });
  let peak = 0;
  total.forEach((size, moment) => { if (size > total[peak]) peak = moment; });
  let step = 0;
  const phases = task.phases.map(([start, name]) => {
    if (name === "forward") step += 1;
    return { start, name, step };
  });
  return { ...task, live, total, peak, phases };
}

function phaseAt(task, moment) {
  return task.phases.findLast((phase) => phase.start <= moment) || { name: "start", step: 0 };
}

const phaseName = ({ name, step }) => (step ? `${name}, step ${step}` : name);

function niceStep(most, count) {
  const rough = most / count, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

function timeline(root) {
  const { colours, dark, tasks } = JSON.parse(root.querySelector("script").textContent);
  const categories = Object.keys(colours);
  const margin = { left: 46, right: 14, top: 34, bottom: 40 };
  let task, cursor, from, to, shape, drawnWidth, highest = null, dragged = null;

  // the parts
  const select = make("select");
  const groups = new Map();
  tasks.forEach(({ method, task: name }, place) => {
    if (!groups.has(method)) groups.set(method, select.appendChild(make("optgroup", { label: method })));
    groups.get(method).append(make("option", { value: place }, `${method}: ${name}`));
  });
  const label = make("label", {}, "Task");
  label.append(select);
  const buttons = {};
  const controls = make("div", { class: "controls" });
  controls.append(label);
  for (const [name, text, act] of [
    ["in", "Zoom in", () => zoom(0.5)], ["out", "Zoom out", () => zoom(2)],
    ["reset", "Reset", () => show(0, task.moments - 1)], ["peak", "Go to peak", () => go(task.peak)],
  ]) {
    buttons[name] = make("button", { type: "button", "data-act": name }, text);
    buttons[name].addEventListener("click", act);
    controls.append(buttons[name]);
  }
  const same = make("input", { type: "checkbox" });
  const check = make("label", { class: "check" });
  check.append(same, "same scale for all tasks");
  controls.append(check);
  const chart = make("div", { class: "chart", role: "slider", tabindex: 0, "aria-label": "Moment of the timeline", "aria-valuemin": 0 });
  const picture = chart.appendChild(make("svg", { "aria-hidden": "true" }));
  const readout = make("div", { class: "readout" });
  const view = make("div", { class: "view" });
  const hint = make("p", { class: "keys" });
  hint.innerHTML = "Drag across to zoom, double-click to reset. With the chart in focus: <kbd>←</kbd> <kbd>→</kbd> one event, "
    + "<kbd>Page ↑</kbd> <kbd>Page ↓</kbd> a tenth, <kbd>Home</kbd> <kbd>End</kbd>, <kbd>+</kbd> <kbd>−</kbd> zoom, <kbd>0</kbd> reset, <kbd>P</kbd> peak.";
  view.append(chart, readout, hint);
  const details = make("details");
  details.append(make("summary", {}, "The same as a table"), document.querySelector(".hint").cloneNode(true), make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Timeline as a table" }));
  root.append(controls, view, details);

  // what is shown
  function choose(place) {
    task = unpack(tasks[place], categories);
    cursor = task.peak;
    chart.setAttribute("aria-valuemax", task.moments - 1);
    table();
    show(0, task.moments - 1);
  }

  function show(first, last) {
    const widest = task.moments - 1, width = clamp(Math.round(last - first), Math.min(8, widest), widest);
    from = clamp(Math.round(first), 0, widest - width);
    to = from + width;
    root.dataset.from = from;
    root.dataset.to = to;
    buttons.reset.disabled = buttons.out.disabled = width === widest;
    draw();
  }

  function zoom(factor, around = clamp(cursor, from, to)) {
    show(around - (around - from) * factor, around + (to - around) * factor);
  }

  function go(moment) {
    cursor = clamp(Math.round(moment), 0, task.moments - 1);
    if (cursor < from || cursor > to) show(cursor - (to - from) / 2, cursor + (to - from) / 2);
    else point();
  }

  const top = ({ total, peak, least_budget_bytes: least }) => Math.max(total[peak], least || 0);

  function draw() {
    const width = Math.max(240, chart.clientWidth), height = width < 600 ? 280 : 400;
    drawnWidth = chart.clientWidth;
    if (same.checked && highest === null) highest = Math.max(...tasks.map((other) => top(unpack(other, categories))));
    const most = 1.06 * (same.checked ? highest : top(task));
    const inside = { width: width - margin.left - margin.right, height: height - margin.top - margin.bottom };
    const x = (moment) => margin.left + inside.width * (moment - from) / Math.max(1, to - from);
    const y = (size) => margin.top + inside.height * (1 - size / most);
    shape = { x, y, inside, height };
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.setAttribute("height", height);
    picture.replaceChildren();
    const add = (name, attributes, text) => picture.appendChild(make(name, attributes, text));
    const line = (kind, x1, y1, x2, y2) => add("line", { class: kind, x1, y1, x2, y2 });
    const tick = niceStep(most / MEBIBYTE, 6);
    for (let size = 0; size * MEBIBYTE <= most; size += tick) {
      line("rule", margin.left, y(size * MEBIBYTE), width - margin.right, y(size * MEBIBYTE));
      add("text", { x: margin.left - 6, y: y(size * MEBIBYTE) + 4, "text-anchor": "end" }, String(+size.toPrecision(6)));
    }
    add("text", { x: 0, y: 12, class: "strong" }, "MiB");
    const below = new Float64Array(task.moments);
    categories.forEach((category, place) => {
      const live = task.live[place], low = [], high = [];
      for (let moment = from; moment <= to; moment++) {
        const right = x(Math.min(moment + 1, to)).toFixed(1), left = x(moment).toFixed(1);
        const [bottom, top] = [y(below[moment]).toFixed(1), y(below[moment] + live[moment]).toFixed(1)];
        high.push(`${left},${top} ${right},${top}`);
        low.push(`${right},${bottom} ${left},${bottom}`);
        below[moment] += live[moment];
      }
      add("path", { d: `M${high.join(" ")} ${low.reverse().join(" ")}Z`, fill: colours[category], class: "paint", style: `--dark:${dark[category]}`, "data-category": category });
    });
    const narrow = inside.width < 500;
    for (const { start, name, step } of task.phases) {
      if (name !== "forward" || start < from || start > to) continue;
      line("step", x(start), margin.top - 8, x(start), height - margin.bottom);
      if (x(start) < width - 50) add("text", { x: x(start) + 3, y: margin.top - 4 }, narrow ? `${step}` : `step ${step}`);
    }
    if (task.least_budget_bytes) {
      const at = y(task.least_budget_bytes);
      line("least", margin.left, at, width - margin.right, at);
      add("text", { x: width - margin.right - 4, y: at - 5, "text-anchor": "end", class: "strong" }, `least budget ${mebibytes(task.least_budget_bytes)}`);
    }
    line("frame", margin.left, height - margin.bottom, width - margin.right, height - margin.bottom);
    const every = Math.max(1, niceStep(Math.max(1, to - from), inside.width / 90));
    for (let moment = Math.ceil(from / every) * every; moment <= to; moment += every) {
      add("text", { x: x(moment), y: height - margin.bottom + 16, "text-anchor": "middle" }, String(moment));
    }
    add("text", { x: margin.left + inside.width / 2, y: height - 4, "text-anchor": "middle" }, "event of the allocator");
    if (task.peak >= from && task.peak <= to) {
      const [at, height] = [x(task.peak), y(task.total[task.peak])];
      add("path", { d: `M${at - 6},${height - 11}h12l-6,10z`, class: "point", "data-peak": task.peak });
    }
    add("rect", { class: "chosen", y: margin.top, height: inside.height, x: 0, width: 0 });
    add("line", { class: "cursor", y1: margin.top, y2: height - margin.bottom });
    add("circle", { class: "mark point", r: 4.5, "stroke-width": 1.5 });
    point();
  }

  function point() {
    const { x, y } = shape, at = clamp(x(cursor), margin.left, margin.left + shape.inside.width);
    const line = picture.querySelector(".cursor"), mark = picture.querySelector(".mark");
    line.setAttribute("x1", at);
    line.setAttribute("x2", at);
    mark.setAttribute("cx", at);
    mark.setAttribute("cy", y(task.total[cursor]));
    root.dataset.moment = cursor;
    const phase = phaseName(phaseAt(task, cursor)), peak = cursor === task.peak ? ", the peak" : "";
    const held = categories.map((category, place) => [category, task.live[place][cursor]]);
    chart.setAttribute("aria-valuenow", cursor);
    chart.setAttribute("aria-valuetext", `Event ${cursor} of ${task.moments - 1}, ${phase}${peak}: ${mebibytes(task.total[cursor])} MiB. `
      + held.filter(([, size]) => size).sort((one, other) => other[1] - one[1]).map(([category, size]) => `${category} ${mebibytes(size)}`).join(", "));
    const table = make("table", { class: "numbers" });
    const caption = table.appendChild(make("caption", {}, `event ${cursor} of ${task.moments - 1}${peak}`));
    caption.prepend(make("b", {}, phase));
    const body = table.appendChild(make("tbody"));
    for (const [category, size] of [...held].reverse()) row(body, category, size).firstChild.prepend(swatch(category));
    row(body, "together", task.total[cursor]).className = "sum";
    readout.replaceChildren(table);
  }

  const swatch = (category) => make("i", { class: "swatch paint", style: `background:${colours[category]};--dark:${dark[category]}` });

  function row(body, name, size) {
    const line = body.appendChild(make("tr"));
    line.append(make("th", { scope: "row" }, name));
    line.append(make("td", { "data-bytes": size }, `${mebibytes(size)} MiB`));
    return line;
  }

  // The largest moment of every phase.
  function table() {
    const whole = make("table", { class: "numbers" });
    const caption = whole.appendChild(make("caption"));
    caption.append(make("span", {}, `${task.method}, ${task.task}: the fullest moment of every phase, in MiB`));
    const head = whole.appendChild(make("thead")).appendChild(make("tr"));
    for (const name of ["phase", "event", "together", ...categories]) head.append(make("th", { scope: "col" }, name));
    const body = whole.appendChild(make("tbody"));
    task.phases.forEach((phase, place) => {
      const end = place + 1 < task.phases.length ? task.phases[place + 1].start : task.moments;
      let fullest = Math.min(phase.start, task.moments - 1);
      for (let moment = fullest; moment < end; moment++) if (task.total[moment] > task.total[fullest]) fullest = moment;
      const line = body.appendChild(make("tr"));
      line.append(make("th", { scope: "row" }, phaseName(phase)), make("td", {}, String(fullest)));
      for (const live of [task.total, ...task.live]) line.append(make("td", {}, mebibytes(live[fullest])));
    });
    details.lastChild.replaceChildren(whole);
  }

  // pointer and keyboard
  const momentAt = (event) => {
    const box = chart.getBoundingClientRect();
    return from + (to - from) * clamp((event.clientX - box.left - margin.left) / shape.inside.width, 0, 1);
  };
  chart.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    chart.setPointerCapture(event.pointerId);
    if (event.pointerType === "mouse") dragged = momentAt(event);
    go(momentAt(event));
  });
  chart.addEventListener("pointermove", (event) => {
    const moment = momentAt(event);
    go(moment);
    if (dragged === null) return;
    const [low, high] = [Math.min(dragged, moment), Math.max(dragged, moment)].map(shape.x);
    picture.querySelector(".chosen").setAttribute("x", low);
    picture.querySelector(".chosen").setAttribute("width", high - low);
  });
  chart.addEventListener("pointerup", (event) => {
    const start = dragged, end = momentAt(event);
    dragged = null;
    if (start !== null && Math.abs(shape.x(end) - shape.x(start)) > 8) show(Math.min(start, end), Math.max(start, end));
  });
  chart.addEventListener("pointercancel", () => { dragged = null; draw(); });
  chart.addEventListener("dblclick", () => show(0, task.moments - 1));
  const tenth = () => Math.max(1, (to - from) / 10);
  const keys = {
    ArrowLeft: () => go(cursor - 1), ArrowRight: () => go(cursor + 1),
    ArrowDown: () => go(cursor - 1), ArrowUp: () => go(cursor + 1),
    PageDown: () => go(cursor - tenth()), PageUp: () => go(cursor + tenth()),
    Home: () => go(0), End: () => go(task.moments - 1),
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
    0: () => show(0, task.moments - 1), Escape: () => show(0, task.moments - 1), p: () => go(task.peak),
  };
  chart.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  select.addEventListener("change", () => choose(select.value));
  same.addEventListener("change", draw);
  choose(0);
  new ResizeObserver(() => { if (chart.clientWidth !== drawnWidth) draw(); }).observe(chart);
}

document.querySelectorAll(".timeline").forEach(timeline);

// Tables that are wider than their box say so.
const watched = new ResizeObserver((changes) => {
  for (const { target } of changes) target.previousElementSibling.classList.toggle("shown", target.scrollWidth > target.clientWidth + 1);
});
document.querySelectorAll(".hint + .scroll:not(.picture)").forEach((box) => watched.observe(box));

// Figures as files: drawn here from the picture in the page, which would else be in it three times.
function pictureFile(figure) {
  const copy = figure.querySelector("svg").cloneNode(true), { width, height } = copy.viewBox.baseVal;
  copy.setAttribute("width", `${width}pt`);
  copy.setAttribute("height", `${height}pt`);
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}

const pictureKinds = {
  svg: async (figure) => new Blob([pictureFile(figure).text], { type: "image/svg+xml" }),
  png: async (figure) => {
    const { text, width, height } = pictureFile(figure), image = new Image(), canvas = make("canvas");
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const dots = 192 / 72;
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => { canvas.toBlob(done, "image/png"); });
  },
};

document.querySelectorAll("figure").forEach((figure) => {
  const row = figure.querySelector(".formats");
  for (const [kind, draw] of Object.entries(pictureKinds).reverse()) {
    const button = make("button", { type: "button", class: "download", "data-kind": kind, "aria-label": `${figure.dataset.title} as ${kind.toUpperCase()}` }, kind.toUpperCase());
    button.addEventListener("click", async () => {
      const link = make("a", { download: `${figure.id}.${kind}`, href: URL.createObjectURL(await draw(figure)) });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
    row.prepend(button, " ");
  }
});
