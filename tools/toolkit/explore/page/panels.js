// What stands beside the picture: made of what the server says, with what clicks do.
import { heatMap } from "./draw.js";
import { explainToken } from "./words.js";

const $ = (id) => document.getElementById(id);

function element(name, textContent = "", fields = {}) {
  return Object.assign(document.createElement(name), { textContent, ...fields });
}

export function button(text, onclick) {
  return element("button", text, { type: "button", onclick });
}

export function showItems({ items, kind }) {
  const verb = { instances: "found", segments: "of the picture", classes: "" }[kind];
  const lines = items.map((item) => {
    const dot = element("i");
    dot.style.background = item.color;
    const score = element("span", `${(100 * item.score).toFixed(1)}\u00a0%`);
    const line = element("li", "", { title: `${item.label}: ${score.textContent} ${verb}`.trim() });
    line.append(...(kind === "classes" ? [] : [dot]), item.label, score);
    return line;
  });
  $("items").replaceChildren(...(lines.length ? lines : [element("li", "nothing found")]));
}

export function showBlocks(stages, onclick) {
  const groups = stages.map(({ rows, columns, blocks }, stage) => {
    const group = element("div");
    group.append(element("span", `Stage ${stage}`, { title: `${rows} × ${columns} tokens` }));
    for (let block = 0; block < blocks; block += 1) {
      const made = button(`${stage}.${block}`, () => onclick({ stage, block }));
      made.dataset.block = made.textContent;
      made.ariaLabel = `Stage ${stage}, block ${block}`;
      group.append(made);
    }
    return group;
  });
  $("blocks").replaceChildren(...groups);
}

export function markBlock({ stage, block }) {
  for (const made of $("blocks").querySelectorAll("button")) {
    made.ariaPressed = made.dataset.block === `${stage}.${block}`;
  }
}

export function showHeads(heads, stage, where, onclick) {
  const given = where.view === "gives";
  const kept = $("heads").children;
  // Those that are there keep the focus.
  const buttons = heads.map((values, head) => {
    const map = heatMap(given ? values.gives : values.receives, stage, given ? "in" : "back", true);
    const made = kept[head] ?? button("", () => onclick({ head }));
    made.replaceChildren(map, `head ${head}`);
    made.ariaPressed = head === where.head;
    return made;
  });
  if (kept.length !== buttons.length) $("heads").replaceChildren(...buttons);
}

export function showReferences(way, head, stage, where, onclick) {
  const columns = stage.references[1];
  const isPlan = where.weights === "plan";
  const isFactor = !isPlan && way === "in";
  const values = head[`${isPlan ? "mass" : "weight"}_${way}`];
  const most = Math.max(...values);
  const grid = $(`references-${way}`);
  if (grid.querySelectorAll("button").length !== values.length) {
    const cells = values.map((_, reference) => button("", () => onclick({ view: "reference", way, reference })));
    grid.replaceChildren(...cells, element("i"));
  }
  grid.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  grid.style.setProperty("--text", `${26 / columns}cqi`);
  values.forEach((value, i) => {
    const cell = grid.children[i];
    const digits = columns > 5 ? 0 : isFactor ? 2 : 1;
    cell.textContent = (isFactor ? value : 100 * value).toFixed(digits);
    cell.style.setProperty("--heat", `${((100 * value) / most).toFixed(1)}%`);
    cell.classList.toggle("hot", value / most > 0.6);
    cell.classList.toggle("hottest", value / most > 0.8);
    cell.ariaPressed = where.view === "reference" && where.way === way && where.reference === i;
    const exact = isFactor ? `${value.toFixed(3)} ×` : `${(100 * value).toFixed(2)} %`;
    cell.title = `reference ${i} (row ${Math.floor(i / columns)}, column ${i % columns}): ${exact}`;
    cell.ariaLabel = `Way ${way}, ${cell.title}`;
  });
  // Where the token itself lies on the grid of references.
  const mark = grid.lastElementChild;
  mark.style.left = `${(100 * (where.column + 0.5)) / stage.columns}%`;
  mark.style.top = `${(100 * (where.row + 0.5)) / stage.rows}%`;
}

export function showWords(head, stage, where) {
  const lines = explainToken(head, stage, where).map((parts) => {
    const line = element("p");
    line.append(
      ...parts.map((part) => (typeof part === "string" ? part : element("span", part[1], { className: part[0] }))),
    );
    return line;
  });
  $("words").replaceChildren(...lines);
}

export function showNumbers(head) {
  const rows = head.mass_in.map((_, i) => {
    const row = element("tr");
    const cells = [
      String(i),
      (100 * head.mass_in[i]).toFixed(2),
      head.weight_in[i].toFixed(3),
      (100 * head.mass_back[i]).toFixed(2),
      (100 * head.weight_back[i]).toFixed(2),
    ];
    row.append(...cells.map((text) => element("td", text)));
    return row;
  });
  document.querySelector("#numbers tbody").replaceChildren(...rows);
}
