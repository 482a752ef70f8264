// What is drawn on canvases: the picture, predictions, maps of tokens.

// From no weight to the most, on a dark ground; opacity rises with them.
const RAMPS = {
  in: [[64, 20, 4], [196, 72, 10], [250, 150, 60], [255, 240, 216]],
  back: [[4, 30, 62], [6, 106, 168], [62, 184, 242], [222, 244, 255]],
};
const STEPS = 256;

function ramp(stops) {
  return Array.from({ length: STEPS }, (_, step) => {
    const place = (step / (STEPS - 1)) * (stops.length - 1);
    const from = Math.min(Math.floor(place), stops.length - 2);
    const [a, b] = [stops[from], stops[from + 1]];
    return a.map((value, i) => value + (b[i] - value) * (place - from));
  });
}
const COLORS = Object.fromEntries(Object.entries(RAMPS).map(([way, stops]) => [way, ramp(stops)]));

function blank(width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  return canvas;
}

// A pixel a token, relative to the largest value.
export function heatMap(values, stage, way, opaque = false) {
  const canvas = blank(stage.columns, stage.rows);
  const context = canvas.getContext("2d");
  const image = context.createImageData(stage.columns, stage.rows);
  const most = values.reduce((a, b) => Math.max(a, b), 0) || 1;
  values.forEach((value, i) => {
    const heat = value / most;
    const color = COLORS[way][Math.round(heat * (STEPS - 1))];
    image.data.set([...color, opaque ? 255 : 235 * Math.sqrt(heat)], 4 * i);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

// The picture darkened and without colours, so that those of a map are its own.
export function greyed(picture) {
  const canvas = blank(picture.naturalWidth, picture.naturalHeight);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < image.data.length; i += 4) {
    const [r, g, b] = image.data.subarray(i, i + 3);
    image.data.fill(0.75 * (0.3 * r + 0.59 * g + 0.11 * b), i, i + 3);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// One canvas with all that `scene` asks for; coordinates are pixels of the picture.
export function drawPicture(canvas, scene) {
  const { look, picture, grey, map, overlay, boxes, stage, token, reference } = scene;
  const width = canvas.clientWidth * devicePixelRatio;
  const scale = width / look.width;
  Object.assign(canvas, { width, height: look.height * scale });
  const context = canvas.getContext("2d");
  const thin = devicePixelRatio;
  context.imageSmoothingEnabled = scale < 1;
  context.imageSmoothingQuality = "high";
  context.scale(scale, scale);
  context.drawImage(map ? grey : picture, 0, 0, look.width, look.height);
  if (overlay) context.drawImage(overlay, 0, 0, look.width, look.height);
  if (map) {
    context.drawImage(map, 0, 0, stage.columns * stage.stride, stage.rows * stage.stride);
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  for (const item of boxes) drawBox(context, item, scale, thin);
  if (token) {
    const side = stage.stride * scale;
    const [x, y] = [token.column * side, token.row * side];
    context.lineWidth = 4 * thin;
    context.strokeStyle = "rgb(0 0 0 / 0.7)";
    context.strokeRect(x, y, side, side);
    context.lineWidth = 2 * thin;
    context.strokeStyle = "#fff";
    context.strokeRect(x, y, side, side);
  }
  if (reference) {
    context.beginPath();
    const [x, y] = [reference.x * stage.columns, reference.y * stage.rows];
    context.arc(x * stage.stride * scale, y * stage.stride * scale, 8 * thin, 0, 7);
    context.lineWidth = 4.5 * thin;
    context.strokeStyle = "rgb(0 0 0 / 0.7)";
    context.stroke();
    context.lineWidth = 2 * thin;
    context.strokeStyle = "#fff";
    context.stroke();
  }
}

function drawBox(context, item, scale, thin) {
  const [left, top, right, bottom] = item.box.map((value) => value * scale);
  const text = `${item.label}  ${Math.round(100 * item.score)} %`;
  context.lineWidth = 2 * thin;
  context.strokeStyle = item.color;
  context.strokeRect(left, top, right - left, bottom - top);
  context.font = `600 ${12 * thin}px system-ui, sans-serif`;
  const width = context.measureText(text).width + 10 * thin;
  const height = 18 * thin;
  const x = Math.max(0, Math.min(left - thin, context.canvas.width - width));
  const y = top >= height ? top - height : Math.max(0, top);
  context.fillStyle = item.color;
  context.fillRect(x, y, width, height);
  context.fillStyle = isLight(context, item.color) ? "#111" : "#fff";
  context.fillText(text, x + 5 * thin, y + 13 * thin);
}

function isLight(context, color) {
  const [r, g, b] = color.match(/\d+/g).map(Number);
  return 0.3 * r + 0.59 * g + 0.11 * b > 140;
}
