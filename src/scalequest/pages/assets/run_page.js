"use strict";
// Builds the run page from its data. Whatever comes from the data is put into the page as text, never as markup.
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const page = document.getElementById("page");
  const SVG = document.createElementNS.bind(document, "http://www.w3.org/2000/svg");

  // ------------------------------------------------------------------------------------------- small tools

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(node.style, value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false) node.append(child); // text becomes a text node
    }
    return node;
  }
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(SVG(tag), attributes, children);
  const whole = (n) => Math.round(n).toLocaleString("en");
  const short = (n) => (n === null || n === undefined ? "–" : String(+(+n).toPrecision(3)));
  const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`);
  const tenths = (n) => n.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);
  const plural = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;

  const probe = el("span", { style: { display: "none" } });
  document.body.append(probe);
  function colour(name) { // as the browser computes it for the theme that is shown
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  }
  const sections = [];
  function section(id, name, title, note, ...parts) {
    sections.push([id, name]);
    page.append(el("section", { id }, el("h2", {}, title), note && el("p", { class: "note" }, note), ...parts));
  }

  // ------------------------------------------------------------------------------------------------ tables

  const NUMERIC = /^[-+]?[\d.,]*( ?%)?( \[[-+\d., ]*\])?( \(n [\d,]+\))?( \[[a-z]\])?$|^–$|^[\d.]+e[-+]?\d+$|^\d+ of \d+$/;
  function table({ columns, rows, notes = [], title = null }, options = {}) {
    const numeric = columns.map((_, at) => rows.some((row) => row[at] !== "") && rows.every((row) => NUMERIC.test(row[at])));
    const brief = columns.map((_, at) => rows.every((row) => row[at].length < 28));
    const kind = columns.map((_, at) => (numeric[at] ? "n" : at === 0 || brief[at] ? "name" : null));
    const head = el("tr", {}, columns.map((name, at) => el("th", { class: kind[at], scope: "col" }, name)));
    const body = rows.map((row) => el("tr", {}, row.map((cell, at) => el("td", { class: kind[at] }, cell))));
    if (options.total && body.length) body[body.length - 1].className = "total";
    return [
      title && el("h3", {}, title),
      el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "data" }, el("thead", {}, head), el("tbody", {}, body))),
      ...notes.filter(Boolean).map((note) => el("p", { class: "note small" }, note)),
    ];
  }

  // Tables in a section, whose headline the first one does not repeat
  const tables = (found, headline) => found.flatMap((one) => table({ ...one, title: one.title === headline ? null : one.title }));

  function stagesTable() {
    const stages = facts.stages;
    const has = (key) => stages.some((one) => one[key] !== null && one[key] !== "" && one[key] !== 0);
    const cells = [
      ["folder", (one) => one.folder],
      ["stage", (one) => one.stage],
      ["state", (one) => (one.finished ? "finished" : "not finished")],
      ["in", (one) => whole(one.rows_in)],
      ["kept", (one) => whole(one.kept)],
      has("tokens") && ["tokens", (one) => (one.tokens ? whole(one.tokens) : "–")],
      ["seconds of work", (one) => (one.seconds === null ? "–" : tenths(one.seconds))],
      has("wall") && ["with start-up", (one) => (one.wall === null ? "–" : tenths(one.wall))],
      has("tokens") && ["tokens per s", (one) => (one.tokens && one.seconds ? whole(one.tokens / one.seconds) : "–")],
      has("cost") && ["cost", (one) => (one.cost === null ? "–" : one.cost.toFixed(2))],
      has("engine") && ["engine", (one) => one.engine || "–"],
    ].filter(Boolean);
    const rows = stages.map((one) => cells.map(([, show]) => show(one)));
    const own = stages.filter((one) => one.stage !== "evaluate"); // its models are stages of their own
    const totals = {
      folder: "all", tokens: whole(sum(own.map((one) => one.tokens))),
      "seconds of work": tenths(sum(own.map((one) => one.seconds || 0))),
      "with start-up": tenths(sum(stages.map((one) => one.wall || 0))),
      cost: sum(stages.map((one) => one.cost || 0)).toFixed(2),
    };
    rows.push(cells.map(([name]) => totals[name] ?? ""));
    const notes = stages.map((one) => { // in the words of the report
      const named = Object.entries(one.functions).map(([name, sha]) => `${name} (sha256 ${sha})`);
      return named.length ? `${one.folder}: with ${named.join(", ")}.` : null;
    });
    const shown = table({ columns: cells.map(([name]) => name), rows, notes }, { total: true });
    // The last row is a total, so that columns with empty cells in it are still numbers
    for (const [at, [name]] of cells.entries()) {
      if (["in", "kept", "tokens per s"].includes(name)) shown[1].querySelectorAll(`tr > :nth-child(${at + 1})`).forEach((cell) => { cell.className = "n"; });
    }
    return shown;
  }

  // ------------------------------------------------------------------------------------------------ funnel

  function funnel() {
    const stages = facts.stages.filter((one) => one.in_funnel);
    const most = Math.max(1, ...stages.map((one) => one.rows_in));
    const wide = (rows) => `${Math.max(0.3, (100 * rows) / most)}%`;
    return stages.map((one, at) => {
      const reasons = Object.entries(one.dropped);
      const next = stages[at + 1];
      const joined = next && !one.trains && next.upstream.includes(one.folder); // of a model no rows flow on
      const bar = el("div", { class: one.trains ? "rows model" : "rows", style: { width: wide(one.rows_in) } },
        el("i", { class: "kept", style: { flex: String(one.kept) }, title: `kept: ${whole(one.kept)}` }),
        reasons.map(([reason, n], place) =>
          el("i", { style: { flex: String(n), background: `var(--d${Math.min(place, 5)})` }, title: `${reason}: ${whole(n)}` })));
      const join = svg("svg", { class: "join", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
      if (joined) {
        join.append(svg("polygon", { points: `0,0 ${(100 * one.kept) / most},0 ${(100 * next.rows_in) / most},10 0,10` }));
      }
      const from = one.upstream.filter((name) => facts.stages.some((other) => other.folder === name && other.data));
      return el("div", { class: "stage" },
        el("div", { class: "what" }, one.folder.split("/").pop(), el("br"),
          el("small", {}, from.length && !(at && stages[at - 1].folder === from[0] && from.length === 1) ? `from ${from.join(", ")}` : one.stage)),
        el("div", { class: "flow" }, bar, join),
        el("div", { class: "how" },
          one.trains ? `trained on ${plural(one.kept, "row")}` : `${whole(one.kept)} of ${whole(one.rows_in)} kept`,
          Object.keys(one.functions).map((name) => el("div", {}, el("small", {}, `with ${name}`))),
          reasons.map(([reason, n], place) => el("div", {},
            el("small", {}, el("span", { class: "swatch", style: { background: `var(--d${Math.min(place, 5)})` } }),
              `${reason} ${whole(n)} (${percent(n / Math.max(1, one.rows_in))})`)))));
    });
  }

  // ------------------------------------------------------------------------------------------------ charts

  const plots = []; // functions that draw a chart anew, e.g. in another theme
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !entry.target.drawn) {
        entry.target.drawn = true;
        entry.target.draw();
      }
    }
  }, { rootMargin: "300px" });

  function chart(title, options, data, legend) {
    const value = el("span");
    const box = el("div", { class: "plot" });
    let plot = null;
    box.draw = () => {
      if (plot) plot.destroy();
      const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1, size: 4 }, font: "11px system-ui" };
      const made = options({ axis, colour, value });
      plot = new uPlot({ width: Math.max(200, box.clientWidth), height: 190, legend: { show: false }, padding: [8, 18, 0, 0], ...made }, data, box);
    };
    plots.push(() => box.drawn && box.draw());
    new ResizeObserver(() => plot && plot.setSize({ width: Math.max(200, box.clientWidth), height: 190 })).observe(box);
    seen.observe(box);
    return el("div", { class: "chart" }, el("h4", {}, value, title), box, legend);
  }

  function tickText(tick) {
    const round = +tick.toPrecision(4);
    const far = Math.abs(round) >= 1e5 || (round && Math.abs(round) < 1e-3);
    return far ? round.toExponential() : String(round).replace("-", "−");
  }

  function histogram(one) {
    const x = one.edges;
    const steps = one.series.map((series) => [...series.shares, series.shares[series.shares.length - 1]].map((share) => 100 * share));
    const options = ({ axis, colour, value }) => ({
      scales: { x: { time: false, range: [x[0], x[x.length - 1]] }, y: { range: (_, __, high) => [0, high * 1.05 || 1] } },
      axes: [{ ...axis, space: 45, size: 28 }, { ...axis, size: 42, values: (_, ticks) => ticks.map((tick) => `${short(tick)}%`) }],
      cursor: { y: false, points: { show: false }, drag: { setScale: false } },
      series: [{}, ...one.series.map((series, at) => ({
        label: series.name, stroke: colour(`s${at}`), width: 1.75, points: { show: false },
        fill: colour(`s${at}`).replace("rgb(", "rgba(").replace(")", one.series.length > 2 ? ", .07)" : ", .18)"),
        paths: uPlot.paths.stepped({ align: 1 }),
      }))],
      hooks: { setCursor: [(plot) => {
        const at = plot.cursor.idx;
        value.textContent = at === null || at === undefined || at >= x.length - 1 ? "" : `${short(x[at])} to ${short(x[at + 1])}`;
        cells.forEach((cell, place) => { cell.textContent = at === null || at === undefined ? "" : `${steps[place][at].toFixed(1)} %`; });
      }] },
    });
    const cells = one.series.map(() => el("td"));
    const legend = el("table", { class: "legend" },
      el("tr", {}, ["", "n", "mean", "median", ""].map((name) => el("th", {}, name))),
      one.series.map((series, at) => el("tr", {},
        el("td", {}, el("span", { class: "swatch", style: { background: `var(--s${at})` } }), series.name),
        el("td", {}, whole(series.n)), el("td", {}, short(series.mean)), el("td", {}, short(series.median)), cells[at])));
    const left = one.left_out.length ? el("p", { class: "note small" }, `Left out: ${one.left_out.join(", ")}.`) : null;
    return chart(one.label, options, [x, ...steps], [legend, left]);
  }

  function curve(folder, one) {
    const options = ({ axis, colour, value }) => ({
      scales: { x: { time: false } },
      axes: [{ ...axis, space: 50, size: 28 }, { ...axis, size: 52, values: (_, ticks) => ticks.map(tickText) }],
      cursor: { y: false, sync: { key: folder }, drag: { x: true, y: false } },
      series: [{}, { label: one.metric, stroke: colour("s0"), width: 1.5, points: { show: one.steps.length < 25, size: 4, fill: colour("s0") } }],
      hooks: { setCursor: [(plot) => {
        const at = plot.cursor.idx;
        value.textContent = at === null || at === undefined ? `last: ${short(one.values[one.values.length - 1])}` : `step ${whole(one.steps[at])}: ${short(one.values[at])}`;
      }] },
    });
    return chart(one.metric, options, [one.steps, one.values],
      one.of > one.steps.length ? el("p", { class: "note small" }, `${whole(one.steps.length)} of ${whole(one.of)} points`) : null);
  }

  // -------------------------------------------------------------------------------------------- benchmarks

  function intervals() {
    const groups = new Map();
    for (const one of facts.benchmarks.intervals) {
      const name = `${one.benchmark}${one.evaluation === "evaluate" ? "" : ` (${one.evaluation})`}`;
      groups.set(name, [...(groups.get(name) || []), one]);
    }
    return [...groups].map(([name, found]) => {
      const high = Math.max(...found.map((one) => Math.max(one.high, one.published || 0)));
      const top = [10, 20, 40, 60, 80, 100].find((end) => end >= high) || 100;
      const place = (number) => `${(100 * number) / top}%`;
      const lines = found.map((one) => el("div", { class: "interval" },
        el("div", { class: "what" }, one.model),
        el("div", { class: "track" },
          el("i", { class: "range", style: { left: place(one.low), width: place(one.high - one.low) } }),
          el("i", { class: "dot", style: { left: place(one.value) } }),
          one.published !== null && el("i", { class: "theirs", style: { left: place(one.published) }, title: `published: ${one.published}` })),
        el("div", { class: "number" }, `${one.value.toFixed(1)} [${one.low.toFixed(1)}, ${one.high.toFixed(1)}]`,
          one.published !== null && ` · published ${one.published.toFixed(1)}`)));
      const ticks = [0, 1, 2, 3, 4].map((n) => (n * top) / 4);
      const axis = el("div", { class: "interval" }, el("div", { class: "what" }),
        el("div", { class: "axis" }, ticks.map((tick) => el("span", { style: { left: place(tick) } }, `${tick}`))),
        el("div", { class: "number" }, "% right"));
      return el("div", { class: "intervals" }, el("h3", {}, name), lines, axis);
    });
  }

  // ------------------------------------------------------------------------------------- text with formulas

  const FORMULA = /\$\$([^]+?)\$\$|\\\[([^]+?)\\\]|\\\(([^]+?)\\\)|\$(?!\s)((?:\\[^]|[^$\\])+?)(?<!\s)\$(?!\d)|(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})/g;
  const MOST_FORMULA = 1500;
  let formulas = true;
  function text(string, cut = 0) {
    const node = el("div", { class: "text", dir: "auto" });
    let end = 0;
    for (const match of formulas ? string.matchAll(FORMULA) : []) {
      const source = match.slice(1).find((part) => part !== undefined);
      if (source.length > MOST_FORMULA) continue;
      const span = el("span");
      try { // no link, image, file or style of the formula's own; few macros, so that none can run for long
        const display = match[1] !== undefined || match[2] !== undefined;
        katex.render(source, span, { displayMode: display, throwOnError: true, trust: false, strict: "ignore", maxExpand: 100, maxSize: 10 });
      } catch (error) {
        continue;
      }
      node.append(string.slice(end, match.index), span);
      end = match.index + match[0].length;
    }
    node.append(string.slice(end));
    if (cut) node.append(el("span", { class: "note" }, ` … ${plural(cut, "more character")} left out of this page`));
    return node;
  }

  // -------------------------------------------------------------------------------------------------- rows

  async function unpack(id) {
    const raw = atob(document.getElementById(id).textContent);
    const bytes = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }
  const chunks = new Map();
  function detailOf(row) {
    const number = Math.floor(row / facts.rows.chunk);
    if (!chunks.has(number)) {
      if (chunks.size > 40) chunks.clear();
      chunks.set(number, unpack(`rows-${number}`));
    }
    return chunks.get(number).then((chunk) => chunk[row % facts.rows.chunk]);
  }

  const HEIGHT = 52;
  const state = { q: "", stage: "", fate: "", generator: "", sort: "", down: false };
  const RANGES = { difficulty: "difficulty", agreement: "agreement", reward: "reward" };
  let index = null, lowered = null, shown = [], chosen = -1, flips = null;
  const ui = {};

  function matches() {
    const wanted = state.q.trim().toLowerCase().split(/\s+/).filter(Boolean);
    if (wanted.length && !lowered) lowered = index.question.map((question, at) => `${index.key[at]} ${question}`.toLowerCase());
    const ranges = Object.keys(RANGES).flatMap((name) => {
      const [low, high] = ["least", "most"].map((end) => (state[`${name}_${end}`] ? Number(state[`${name}_${end}`]) : null));
      return low === null && high === null ? [] : [[index[name], low ?? -Infinity, high ?? Infinity]];
    });
    const found = [];
    for (let at = 0; at < index.key.length; at++) {
      if (state.stage !== "" && index.stage[at] !== Number(state.stage)) continue;
      if (state.fate !== "" && index.fate.codes[at] !== Number(state.fate)) continue;
      if (state.generator !== "" && index.generator.codes[at] !== Number(state.generator)) continue;
      if (!ranges.every(([column, low, high]) => column[at] !== null && column[at] >= low && column[at] <= high)) continue;
      if (wanted.length && !wanted.every((word) => lowered[at].includes(word))) continue;
      if (flips && !flips.keep(at)) continue;
      found.push(at);
    }
    if (state.sort) {
      const column = index[state.sort].codes || index[state.sort];
      const sign = state.down ? -1 : 1;
      const empty = (value) => value === null || value === "";
      found.sort((one, other) => {
        const [a, b] = [column[one], column[other]];
        if (empty(a) || empty(b)) return empty(a) - empty(b) || one - other;
        return a === b ? one - other : sign * (a < b ? -1 : 1);
      });
    }
    return found;
  }

  const isGood = (fate) => fate === "kept" || fate === "right by all";
  const isBad = (fate) => !isGood(fate) && fate !== "right by some";
  const fateClass = (fate) => (isGood(fate) ? "fate good" : isBad(fate) ? "fate bad" : "fate");

  function line(at, place) {
    const fate = index.fate.names[index.fate.codes[at]];
    return el("div", {
      class: "row line", role: "option", "aria-selected": String(at === chosen), style: { top: `${place * HEIGHT}px` },
      onclick: () => choose(place, true),
    },
      el("div", { class: "first" }, el("div", { dir: "auto" }, index.question[at].slice(0, 220) || "(no text)"),
        el("div", {}, [index.key[at], index.generator.names[index.generator.codes[at]]].filter(Boolean).join(" · "))),
      el("div", { class: fateClass(fate), title: fate }, fate),
      ui.columns.map((name) => el("div", { class: "n" }, short(index[name][at]))));
  }
  function drawList() {
    const from = Math.max(0, Math.floor(ui.view.scrollTop / HEIGHT) - 4);
    const to = Math.min(shown.length, Math.ceil((ui.view.scrollTop + ui.view.clientHeight) / HEIGHT) + 4);
    ui.space.replaceChildren(...shown.slice(from, to).map((at, place) => line(at, from + place)));
  }
  function update() {
    shown = matches();
    ui.space.style.height = `${shown.length * HEIGHT}px`;
    ui.view.scrollTop = 0;
    ui.count.textContent = `${whole(shown.length)} of ${whole(index.key.length)} rows`;
    ui.flips.replaceChildren(...(flips ? [el("button", { onclick: () => { flips = null; update(); } }, `${flips.name} ✕`)] : []));
    for (const [name, button] of Object.entries(ui.sorts)) button.textContent = `${button.dataset.name}${state.sort === name ? (state.down ? " ▾" : " ▴") : ""}`;
    drawList();
    if (shown.length) choose(0, false);
    else ui.detail.replaceChildren(el("p", { class: "note" }, "No row matches these filters."));
  }
  async function choose(place, asked) {
    chosen = shown[place];
    ui.place = place;
    drawList();
    const wanted = chosen;
    try {
      const detail = await detailOf(wanted);
      if (wanted !== chosen) return;
      ui.detail.replaceChildren(...detailView(wanted, detail).flat(Infinity).filter(Boolean));
    } catch (error) {
      ui.detail.replaceChildren(el("p", { class: "note" }, `This row cannot be unpacked: ${error.message}`));
    }
    ui.detail.scrollTop = 0;
    if (asked && matchMedia("(max-width: 60rem)").matches) ui.detail.scrollIntoView({ block: "start" });
  }
  function move(event) {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!by || !shown.length) return;
    event.preventDefault();
    const place = Math.min(shown.length - 1, Math.max(0, ui.place + by));
    const top = place * HEIGHT;
    if (top < ui.view.scrollTop) ui.view.scrollTop = top;
    if (top + HEIGHT > ui.view.scrollTop + ui.view.clientHeight) ui.view.scrollTop = top + HEIGHT - ui.view.clientHeight;
    choose(place, false);
  }

  function detailView(at, detail) {
    const [question, cut] = detail.question;
    const scores = Object.keys(RANGES).filter((name) => index[name][at] !== null).map((name) => `${name} ${short(index[name][at])}`);
    const generator = index.generator.names[index.generator.codes[at]];
    const written = new Map(); // texts that an earlier stage showed
    return [
      el("button", { class: "back", onclick: () => ui.list.scrollIntoView({ block: "start" }) }, "↑ list"),
      el("h3", {}, index.key[at]),
      el("p", { class: "note small" }, [generator, ...scores].filter(Boolean).join(" · ")),
      question ? el("div", { class: "question" }, text(question, cut)) : el("p", { class: "note" }, "No question text."),
      detail.left_out && el("p", { class: "note small" }, "This page is full: the solutions of this row are left out of it."),
      detail.events.flatMap((event) => eventView(event, detail.texts, written)),
    ];
  }
  function eventView(event, texts, written) {
    const stage = facts.stages[event.stage];
    const graded = (event.solutions || []).some((one) => "right" in one);
    const right = graded && event.solutions.every((one) => one.right);
    const fate = graded ? (right ? "right" : event.solutions.some((one) => one.right) ? "right in part" : "wrong") : event.reason ? `dropped: ${event.reason}` : stage.in_funnel ? "kept" : "";
    const bad = graded ? !right : Boolean(event.reason);
    const parts = [el("h4", {}, el("span", { class: bad ? "fate bad" : "fate good" }, fate), stage.folder)];
    if (event.fields.length) parts.push(el("p", { class: "fields" }, event.fields.map(([name, value]) => `${name}: ${value}`).join(" · ")));
    for (const [label, place] of event.texts || []) parts.push(el("div", { class: "about note small" }, label), text(...texts[place]));
    const groups = new Map();
    for (const one of event.solutions || []) groups.set(one.text, [...(groups.get(one.text) || []), one]);
    const before = [...groups.keys()].every((place) => place !== null && written.has(place)) && groups.size > 0;
    if (before && !graded) {
      const many = event.solutions.length;
      parts.push(el("p", { class: "fields" }, event.solutions[0].selected ? "selected: " : `${plural(many, "solution")}, shown at ${written.get([...groups.keys()][0])}`));
      if (event.solutions[0].selected) parts.push(el("div", { class: "solution right" }, text(...texts[event.solutions[0].text])));
    } else {
      for (const [place, ones] of groups) parts.push(solutionView(place, ones, texts));
    }
    for (const place of groups.keys()) if (!written.has(place)) written.set(place, stage.folder);
    if (event.more) parts.push(el("p", { class: "note small" }, `${plural(event.more, "more solution")} left out of this page`));
    return parts;
  }
  function solutionView(place, ones, texts) {
    const one = ones[0];
    const rewards = ones.map((other) => other.reward).filter((reward) => reward !== null && reward !== undefined);
    const about = [
      ones.length > 1 ? `${ones.length} times` : "", one.answer ? `answer ${one.answer}` : one.selected ? "selected" : "no answer",
      one.tokens ? plural(one.tokens, "token") : "", one.end && one.end !== "stop" ? `ended by ${one.end}` : "",
      rewards.length ? `reward ${rewards.map(short).join(", ")}` : "",
    ].filter(Boolean).join(" · ");
    const kind = "right" in one ? (one.right ? "solution right" : "solution wrong") : "solution";
    return el("div", { class: kind }, el("div", { class: "about", dir: "auto" }, about), place === null ? null : text(...texts[place]));
  }

  function choice(name, label, options) {
    const select = el("select", { onchange: () => { state[name] = select.value; update(); } },
      el("option", { value: "" }, "all"), options.map(([value, title]) => el("option", { value }, title)));
    ui.inputs[name] = select;
    return el("label", {}, label, select);
  }
  function range(name) {
    const inputs = ["least", "most"].map((end) => {
      const key = `${name}_${end}`;
      const input = el("input", { type: "number", step: "any", placeholder: end === "least" ? "from" : "to", "aria-label": `${name} ${end}`, oninput: () => { state[key] = input.value; later(); } });
      ui.inputs[key] = input;
      return input;
    });
    return el("label", {}, RANGES[name], el("span", { class: "range" }, inputs));
  }
  let waiting = 0;
  function later() {
    clearTimeout(waiting);
    waiting = setTimeout(update, 150);
  }

  function browser() {
    const counted = (codes, names) => {
      const counts = names.map(() => 0);
      for (const code of codes) counts[code]++;
      return names.map((name, at) => [String(at), `${name || "(none)"} (${whole(counts[at])})`]);
    };
    const stages = [...new Set(index.stage)].sort((a, b) => a - b).map((at) => [String(at), facts.stages[at].folder]);
    ui.inputs = {};
    ui.columns = Object.keys(RANGES).filter((name) => index[name].some((value) => value !== null));
    const search = el("input", { type: "search", placeholder: "Search questions and ids", "aria-label": "Search", oninput: () => { state.q = search.value; later(); } });
    ui.inputs.q = search;
    const toggle = el("input", { type: "checkbox", checked: true, style: { width: "auto" }, onchange: () => { formulas = toggle.checked; choose(ui.place || 0, false); } });
    ui.sorts = {};
    const header = (name, title, kind) => {
      const button = el("button", { "data-name": title, class: kind, onclick: () => { [state.sort, state.down] = state.sort === name ? (state.down ? ["", false] : [name, true]) : [name, false]; update(); } }, title);
      ui.sorts[name] = button;
      return button;
    };
    ui.count = el("span", { class: "count" });
    ui.flips = el("span");
    ui.space = el("div", { role: "presentation" });
    ui.view = el("div", { class: "view", role: "listbox", tabindex: "0", "aria-label": "Rows", onscroll: drawList, onkeydown: move }, ui.space);
    ui.list = el("div", { class: "list" }, el("div", { class: "line head" }, header("question", "question"), header("fate", "fate"), ui.columns.map((name) => header(name, name, "n"))), ui.view);
    ui.list.style.setProperty("--columns", `repeat(${ui.columns.length}, 4.4rem)`);
    if (!ui.columns.length) ui.list.style.setProperty("--columns", "");
    ui.detail = el("div", { class: "detail", tabindex: "0" });
    const clear = el("button", { onclick: () => { for (const [name, input] of Object.entries(ui.inputs)) { input.value = ""; state[name] = ""; } flips = null; state.sort = ""; update(); } }, "Clear filters");
    ui.body.replaceChildren(
      el("div", { class: "filters" }, el("label", { class: "search" }, search),
        choice("stage", "last stage", stages), choice("fate", "fate", counted(index.fate.codes, index.fate.names)),
        choice("generator", "generator or benchmark", counted(index.generator.codes, index.generator.names)),
        ui.columns.map(range)),
      el("div", { class: "status" }, ui.count, ui.flips, el("label", { class: "small" }, toggle, " formulas"), clear),
      el("div", { class: "browser" }, ui.list, ui.detail));
    new ResizeObserver(() => {
      ui.list.style.setProperty("--scrollbar", `${ui.view.offsetWidth - ui.view.clientWidth}px`);
      drawList();
    }).observe(ui.view);
  }

  // ------------------------------------------------------------------------------------------------- flips

  function flipsView(body) {
    const models = index.models;
    const names = models.map((name) => name.split("/").pop());
    const title = (at) => (names.filter((name) => name === names[at]).length > 1 ? models[at] : names[at]);
    const pick = (start) => el("select", { onchange: draw }, models.map((_, at) => el("option", { value: at, selected: at === start }, title(at))));
    const [first, second] = [pick(0), pick(models.length - 1)];
    const squares = el("div", { class: "squares" });
    function draw() {
      const [a, b] = [index.right[first.value], index.right[second.value]];
      const [one, other] = [title(first.value), title(second.value)];
      const kinds = [
        [`only ${other} is right, or more often`, (at) => b[at] > a[at]], [`only ${one} is right, or more often`, (at) => a[at] > b[at]],
        ["both are right", (at) => a[at] === b[at] && a[at] === 1], ["neither, or equally often", (at) => a[at] === b[at] && a[at] < 1],
      ];
      squares.replaceChildren(...kinds.map(([name, test]) => {
        const keep = (at) => a[at] !== null && b[at] !== null && test(at);
        const count = index.key.reduce((so, _, at) => so + keep(at), 0);
        return el("button", { title: "Show these rows", onclick: () => { flips = { name, keep }; update(); document.getElementById("rows").scrollIntoView(); } },
          el("b", {}, whole(count)), el("span", {}, name));
      }));
    }
    body.replaceChildren(el("div", { class: "pick" }, el("label", {}, "from", first), el("label", {}, "to", second)), squares);
    draw();
  }

  // -------------------------------------------------------------------------------------------------- page

  const nav = el("nav", { "aria-label": "Sections" });
  const theme = el("button", { title: "Light or dark", "aria-label": "Light or dark", onclick: () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    for (const draw of plots) draw();
  } }, "◐");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const draw of plots) draw(); });
  const bench = facts.benchmarks;
  page.append(el("div", { class: "bar-top" }, nav, theme), el("h1", {}, facts.title),
    el("div", { class: "tiles" }, facts.tiles.map((tile) => el("div", { class: "tile" }, el("b", {}, tile.value), el("span", {}, tile.label)))));
  if (facts.notes.length) page.append(el("div", { class: "warnings" }, facts.notes.map((note) => el("p", {}, note))));
  if (facts.stages.some((one) => one.in_funnel)) {
    section("funnel", "Funnel", "Where the rows went", "Each bar is as long as the rows that came in: what was kept, then what was dropped, by reason.", ...funnel());
  }
  if (bench.intervals.length) {
    const note = "Accuracy in % with its 95 % interval." + (bench.intervals.some((one) => one.published !== null) ? " The open diamond is the published number of that model, which is not ours." : "");
    section("benchmarks", "Benchmarks", "Benchmarks", note, ...intervals(), ...tables(bench.tables, "Benchmarks"));
  }
  if (facts.distributions.length) {
    section("distributions", "Distributions", "Distributions", "Shares of the rows. A stage that dropped rows is shown before and after; a sample equal to an earlier one is shown once.",
      el("div", { class: "charts" }, facts.distributions.map(histogram)));
  }
  const curves = Object.entries(facts.curves);
  if (curves.length) {
    section("training", "Training", "Training", "What the trainers logged, over optimizer steps. Drag to zoom, double-click to go back.",
      ...curves.flatMap(([folder, found]) => [el("h3", {}, folder), el("div", { class: "charts narrow" }, found.map((one) => curve(folder, one)))]));
  }
  section("stages", "Cost", "What each stage cost", null, ...stagesTable());
  if (bench.measured.length) section("questions", "Questions", "Generated questions", null, ...tables(bench.measured, "Generated questions"));
  if (bench.contamination.length) {
    section("contamination", "Contamination", "Contamination", "Benchmark questions that rows of the run resemble.", ...tables(bench.contamination));
  }
  const loading = () => el("p", { class: "note" }, "Unpacking the rows …");
  const flipsBody = el("div", {}, loading());
  const several = facts.stages.filter((one) => one.stage === "evaluate_model" && one.finished).length > 1;
  if (several) section("flips", "Flips", "Flips between two models", "Problems that one of two models solves and the other does not. A count shows its rows below.", flipsBody, ...tables(bench.differences));
  if (facts.rows.count) {
    ui.body = el("div", {}, loading());
    section("rows", "Rows", "Rows", `Every question with its solutions, scores and fate. Selected solutions and models' outputs are shown up to ${whole(facts.rows.lengths[0])} characters, other solutions up to ${whole(facts.rows.lengths[1])}.`, ui.body);
  }
  nav.append(...sections.map(([id, title]) => el("a", { href: `#${id}` }, title)));

  async function start() { // once the whole page is there, and painted
    try {
      index = await unpack("rows-index");
    } catch (error) {
      ui.body.replaceChildren(el("p", { class: "note" }, `The rows cannot be unpacked (${error.message}); a browser of 2023 or later can.`));
      return;
    }
    browser();
    for (const [name, value] of new URLSearchParams(location.hash.split("?")[1] || "")) { // e.g. #rows?q=apples&fate=1
      if (ui.inputs[name]) { ui.inputs[name].value = value; state[name] = value; }
    }
    update();
    if (several) flipsView(flipsBody);
    if (location.hash.startsWith("#rows")) document.getElementById("rows").scrollIntoView();
    document.documentElement.dataset.ready = "true";
  }
  if (facts.rows.count) addEventListener("DOMContentLoaded", () => setTimeout(start, 30));
  else document.documentElement.dataset.ready = "true";
})();
