// What is seen, in plain words. A sentence is a list of strings and [class, string].

// With a space that does not break.
const percent = (share, digits = share < 0.1 ? 1 : 0) => `${(100 * share).toFixed(digits)}\u00a0%`;
const sum = (values) => values.reduce((a, b) => a + b, 0);
const evenShare = ({ references: [rows, columns] }) => `${Number((100 / (rows * columns)).toFixed(2))}\u00a0%`;
const indexOfMax = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

// The number of equal shares with the same entropy.
function effectiveCount(values) {
  const total = sum(values);
  const entropy = sum(values.map((value) => (value > 0 ? -(value / total) * Math.log(value / total) : 0)));
  return Math.exp(entropy);
}

// How many of the largest make up one half.
function countOfHalf(values) {
  const sorted = [...values].sort((a, b) => b - a);
  const half = sum(sorted) / 2;
  let count = 0;
  for (let reached = 0; reached < half; count += 1) reached += sorted[count];
  return count;
}

function place(cell, rows, columns) {
  const third = (i, n, names) => names[Math.min(2, Math.floor((3 * (i + 0.5)) / n))];
  const vertical = third(Math.floor(cell / columns), rows, ["top", "middle", "bottom"]);
  const horizontal = third(cell % columns, columns, ["left", "middle", "right"]);
  return vertical === horizontal ? "middle" : `${vertical} ${horizontal}`;
}

export function explainToken(head, stage, where) {
  const count = stage.references[0] * stage.references[1];
  const tokens = stage.rows * stage.columns;
  const [goes, serves] = [indexOfMax(head.mass_in), indexOfMax(head.weight_back)];
  const own = head.receives[where.row * stage.columns + where.column];
  const lines = [
    [
      `Stage ${where.stage}, block ${where.block}, head ${where.head}: the picture is ` +
      `${stage.rows} × ${stage.columns} tokens of ${stage.stride} × ${stage.stride} pixels here. ` +
      `You look at the one in row ${where.row}, column ${where.column}.`,
    ],
    [
      ["is-in", "Way in. "],
      `Reference ${goes} takes the largest part of its mass, ${percent(head.mass_in[goes])}; an even share would ` +
      `be ${evenShare(stage)}. In effect the mass is spread over ${effectiveCount(head.mass_in).toFixed(1)} of the ` +
      `${count} references.`,
    ],
  ];
  if (stage.positions) {
    const counts = indexOfMax(head.weight_in);
    lines[1].push(
      ` Positions then favour what is near: the token counts most at reference ${counts}, ` +
      `${head.weight_in[counts].toFixed(1)} times as much as an average one.`,
    );
  }
  lines.push(
    [
      ["is-back", "Way back. "],
      `Reference ${serves} serves it most: ${percent(head.weight_back[serves])} of what the token gets. ` +
      (stage.positions
        ? `By the plan alone, without positions, it would be ${percent(head.mass_back[serves])}.`
        : "Positions play no part in this model."),
    ],
    [
      `In by one plan and back by the other, half of what it receives comes from ${countOfHalf(head.receives)} ` +
      `of ${tokens} tokens, the most from the ${place(indexOfMax(head.receives), stage.rows, stage.columns)} ` +
      `of the picture; ${percent(own)} comes from itself.`,
    ],
  );
  if (!stage.twoSets) lines.push(["Both ways use the same references here, and so the same plan."]);
  return lines;
}

export function captionOf(view, way, reference, data, stage) {
  if (view === "prediction") return "What the model predicts, on the picture as it sees it. Click a token.";
  if (view === "receives") return "How much the marked token receives from each token: the brighter, the more.";
  if (view === "gives") return "How much each token gets from the marked one: the brighter, the more.";
  if (reference === null) return "Click a reference of the way in or the way back.";
  const tokens = stage.rows * stage.columns;
  if (way === "in") {
    return `What reference ${reference} (circle: its place) collects on the way in: ` +
      `half of it from ${countOfHalf(data.collects)} of ${tokens} tokens.`;
  }
  const most = data.serves[indexOfMax(data.serves)];
  return `Whom reference ${reference} (circle: its place) serves on the way back: ` +
    `up to ${percent(most)} of a token's result.`;
}

export function hintOf(weights, stage) {
  if (weights === "plan") {
    return `% of the token's mass, by content alone; an even share: ${evenShare(stage)}`;
  }
  return "What the model uses. In: times an average token; back: % of the token's result";
}
