// The page: what is chosen, what is asked of the server, what is shown.
import { drawPicture, greyed, heatMap } from "./draw.js";
import { button, markBlock, showBlocks, showHeads, showItems, showNumbers, showReferences, showWords } from "./panels.js";
import { Answers, ask, loadImage } from "./server.js";
import { captionOf, hintOf } from "./words.js";

const $ = (id) => document.getElementById(id);
const VIEWS = ["prediction", "receives", "gives"]; // that need no reference

let maxBytes = Infinity;
let models = [];
let source = null; // {file} or {sample}
let look = null; // the server's answer, with the pictures themselves
let answers = new Answers(); // about that picture
const chosen = {
  view: "prediction",
  weights: "plan",
  point: { x: 0.5, y: 0.5 }, // the token's, in pixels of the picture once there is one
  stage: 0,
  block: 0,
  head: 0,
  way: "in",
  reference: null,
};

// ---------------------------------------------------------------- errors and waiting

function tell(error) {
  const text = error.message;
  $("error").hidden = false;
  $("error").textContent = text[0].toUpperCase() + text.slice(1) + (text.endsWith(".") || text.endsWith("?") ? "" : ".");
}

// Runs work; its error becomes a sentence in the page.
async function guarded(work) {
  try {
    await work();
  } catch (error) {
    tell(error);
  }
}

// Says what one waits for, once that takes long enough to notice.
function busy(text) {
  const timer = setTimeout(() => {
    $("busy").textContent = text;
    $("busy").hidden = false;
  }, 200);
  return () => {
    clearTimeout(timer);
    $("busy").hidden = true;
  };
}

// ---------------------------------------------------------------- a picture

let latestRun = 0;

async function run(newSource = source) {
  if (!newSource) return;
  const { file, sample } = newSource;
  if (file && file.size > maxBytes) {
    throw new Error(`${file.name} is larger than ${maxBytes / 2 ** 20} MiB; make it smaller.`);
  }
  const number = (latestRun += 1);
  $("empty").hidden = true;
  const isDone = busy("Running the model …");
  try {
    const model = $("model").value;
    const query = file ? `name=${encodeURIComponent(file.name)}` : `sample=${sample}`;
    const url = `api/models/${encodeURIComponent(model)}/look?${query}`;
    const seen = await ask(url, { method: "POST", body: file });
    const base = `api/looks/${seen.id}`;
    seen.picture = await loadImage(`${base}/picture.png`);
    seen.overlay = seen.overlay ? await loadImage(`${base}/overlay.png`) : null;
    seen.model = model;
    if (number === latestRun) accept(seen, newSource);
  } catch (error) {
    if (number !== latestRun) return; // another one was chosen meanwhile
    if (look && $("model").value !== look.model) {
      $("model").value = look.model; // whose picture is still shown
      showSamples();
    }
    throw error;
  } finally {
    isDone();
    $("empty").hidden = look !== null;
  }
}

function accept(seen, newSource) {
  const { x, y } = look ? { x: chosen.point.x / look.width, y: chosen.point.y / look.height } : chosen.point;
  look = seen;
  look.grey = greyed(look.picture);
  source = newSource;
  answers = new Answers();
  chosen.point = { x: x * look.width, y: y * look.height };
  chosen.stage = Math.min(chosen.stage, look.stages.length - 1);
  chosen.block = Math.min(chosen.block, stage().blocks - 1);
  chosen.head = Math.min(chosen.head, stage().heads - 1);
  chosen.reference = null;
  $("error").hidden = true;
  $("inside").hidden = false;
  markSample();
  showItems(look);
  showBlocks(look.stages, choose);
  guarded(show);
}

function takeFile(file) {
  if (file) guarded(() => run({ file }));
}

// ---------------------------------------------------------------- what is chosen

const stage = () => look.stages[chosen.stage];

function token() {
  const { stride, rows, columns } = stage();
  return {
    row: Math.min(rows - 1, Math.floor(chosen.point.y / stride)),
    column: Math.min(columns - 1, Math.floor(chosen.point.x / stride)),
  };
}

function choose(changes) {
  if (!look) return;
  Object.assign(chosen, changes);
  chosen.head = Math.min(chosen.head, stage().heads - 1);
  if ("block" in changes || "head" in changes) {
    chosen.reference = null; // another head has other references
    if (chosen.view === "reference") chosen.view = "receives";
  }
  // Whoever picks a token wants to see what it does.
  if ("point" in changes && chosen.view === "prediction") chosen.view = "receives";
  for (const [name, value] of [["view", chosen.view], ["weights", chosen.weights]]) {
    document.querySelector(`input[name=${name}][value=${value}]`).checked = true;
  }
  guarded(show);
}

// ---------------------------------------------------------------- what is shown

let latestShow = 0;

async function show() {
  const number = (latestShow += 1);
  const where = { ...chosen, ...token() };
  const base = `api/looks/${look.id}`;
  const block = `stage=${where.stage}&block=${where.block}`;
  const urls = [`${base}/token?${block}&row=${where.row}&column=${where.column}`];
  if (where.view === "reference" && where.reference !== null) {
    urls.push(`${base}/reference?${block}&head=${where.head}&reference=${where.reference}`);
  }
  const isDone = busy("Computing the plans …");
  const [{ heads }, reference = null] = await Promise.all(urls.map((url) => answers.get(url))).finally(isDone);
  if (number !== latestShow) return; // the user went on meanwhile
  const head = heads[where.head];
  showPicture(where, head, reference);
  markBlock(where);
  showHeads(heads, stage(), where, choose);
  for (const way of ["in", "back"]) showReferences(way, head, stage(), where, choose);
  showWords(head, stage(), where);
  showNumbers(head);
  $("caption").textContent = captionOf(where.view, where.way, where.reference, reference, stage());
  $("weights-hint").textContent = hintOf(where.weights, stage());
  document.body.dataset.shown = `${look.id} ${where.stage}.${where.block}.${where.head} ${where.row},${where.column}`;
}

function mapOf(where, head, reference) {
  if (where.view === "receives") return heatMap(head.receives, stage(), "back");
  if (where.view === "gives") return heatMap(head.gives, stage(), "in");
  if (!reference) return null;
  return heatMap(where.way === "in" ? reference.collects : reference.serves, stage(), where.way);
}

let drawAgain = () => {};

function showPicture(where, head, reference) {
  const isPrediction = where.view === "prediction";
  const [rows, columns] = stage().references;
  const scene = {
    look,
    picture: look.picture,
    grey: look.grey,
    map: mapOf(where, head, reference),
    overlay: isPrediction ? look.overlay : null,
    boxes: isPrediction ? look.items.filter((item) => item.box) : [],
    stage: stage(),
    token: { row: where.row, column: where.column },
    reference: reference && {
      x: ((where.reference % columns) + 0.5) / columns,
      y: (Math.floor(where.reference / columns) + 0.5) / rows,
    },
  };
  drawAgain = () => drawPicture($("picture"), scene);
  drawAgain();
}

// ---------------------------------------------------------------- what the user does

function move(rows, columns) {
  const { stride, rows: height, columns: width } = stage();
  const { row, column } = token();
  const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
  choose({
    point: {
      x: (clamp(column + columns, width) + 0.5) * stride,
      y: (clamp(row + rows, height) + 0.5) * stride,
    },
  });
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function next(items, current, step) {
  return items[(items.indexOf(current) + step + items.length) % items.length];
}

function onKey(event) {
  if (!look || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const step = event.shiftKey ? -1 : 1;
  const all = look.stages.flatMap(({ blocks }, i) => Array.from({ length: blocks }, (_, j) => `${i}.${j}`));
  const actions = {
    b() {
      const [i, j] = next(all, `${chosen.stage}.${chosen.block}`, step).split(".").map(Number);
      choose({ stage: i, block: j });
    },
    h: () => choose({ head: (chosen.head + step + stage().heads) % stage().heads }),
    v: () => choose({ view: next(VIEWS, chosen.view, step) }),
    w: () => choose({ weights: chosen.weights === "plan" ? "used" : "plan" }),
  };
  actions[event.key.toLowerCase()]?.();
}

function listen() {
  const canvas = $("picture");
  canvas.onclick = (event) => {
    if (!look) return;
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const point = {
      x: ((event.clientX - left) / width) * look.width,
      y: ((event.clientY - top) / height) * look.height,
    };
    choose({ point });
  };
  canvas.onkeydown = (event) => {
    if (!look || !(event.key in ARROWS)) return;
    event.preventDefault();
    move(...ARROWS[event.key]);
  };
  document.onkeydown = onKey;
  for (const name of ["view", "weights"]) {
    for (const input of document.querySelectorAll(`input[name=${name}]`)) {
      input.onchange = () => choose({ [name]: input.value });
    }
  }
  $("file").onchange = () => {
    takeFile($("file").files[0]);
    $("file").value = ""; // so that the same one can be chosen again
  };
  document.querySelector("label.button").onkeydown = (event) => {
    if (event.key === "Enter" || event.key === " ") $("file").click();
  };
  document.ondragover = (event) => {
    event.preventDefault();
    $("stage").classList.add("over");
  };
  document.ondragleave = () => $("stage").classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    $("stage").classList.remove("over");
    takeFile(event.dataTransfer.files[0]);
  };
  document.onpaste = (event) => takeFile(event.clipboardData.files[0]);
  $("model").onchange = () => {
    showSamples();
    guarded(() => run(source?.file ? source : firstSample(source?.name)));
  };
  new ResizeObserver(() => drawAgain()).observe($("stage"));
  $("theme").onclick = () => {
    const root = document.documentElement;
    const isDark = getComputedStyle(root).colorScheme === "dark" ||
      (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = isDark ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  };
}

const samplesOf = () => models.find(({ name }) => name === $("model").value).samples;

// The one of a name, which another model may have among its samples, too.
function firstSample(name) {
  const samples = samplesOf();
  const sample = Math.max(0, samples.indexOf(name));
  return samples.length ? { sample, name: samples[sample] } : null;
}

function showSamples() {
  const model = encodeURIComponent($("model").value);
  const buttons = samplesOf().map((name, i) => {
    const made = button("", () => guarded(() => run({ sample: i, name })));
    made.append(Object.assign(new Image(), { src: `api/models/${model}/sample?sample=${i}`, alt: name }));
    made.title = name;
    return made;
  });
  $("samples").replaceChildren(...buttons);
  markSample();
  $("no-samples").hidden = buttons.length > 0;
}

function markSample() {
  for (const [i, sample] of [...$("samples").children].entries()) {
    sample.ariaPressed = source?.sample === i;
  }
}

guarded(async () => {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  ({ models, maxBytes } = await ask("api/models"));
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  listen();
  showSamples();
  await run(firstSample());
});
