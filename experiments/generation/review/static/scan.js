// The scan of the review page: slices, window and zoom.
"use strict";

const pictures = new Map(); // by address; the server asks browsers to keep nothing
const MOST_PICTURES = 400;

function picture(url) {
  if (!pictures.has(url)) {
    if (pictures.size >= MOST_PICTURES) {
      const [oldest, address] = pictures.entries().next().value;
      pictures.delete(oldest);
      address.then(URL.revokeObjectURL, () => {});
    }
    const loaded = fetch(url).then(async (answer) => {
      if (!answer.ok) throw new Error(await answer.text());
      return URL.createObjectURL(await answer.blob());
    });
    loaded.catch(() => pictures.delete(url));
    pictures.set(url, loaded);
  }
  return pictures.get(url);
}

const planes = [...document.querySelectorAll(".plane")];
const scanWindow = document.getElementById("window");

function nextWindow() {
  scanWindow.selectedIndex = (scanWindow.selectedIndex + 1) % scanWindow.length;
  planes.forEach(draw);
}

function address(plane, level) {
  const series = document.querySelector("input[name=series]:checked").value;
  const outline = document.getElementById("outline")?.checked ? "&outline" : "";
  return `/case/${page.dataset.case}/${series}/${plane.dataset.plane}/${level - 1}.png?window=${scanWindow.value}${outline}`;
}

async function draw(plane) {
  const slider = plane.querySelector("input");
  const image = plane.querySelector("img");
  const url = address(plane, Number(slider.value));
  plane.dataset.wanted = url;
  plane.querySelector("output").textContent = `${slider.value} / ${slider.max}`;
  try {
    const source = await picture(url);
    if (plane.dataset.wanted !== url) return;
    image.src = source;
  } catch (error) {
    tell(`The scan cannot be shown. ${error.message}`, true);
    return;
  }
  for (const step of [1, -1, 2, -2]) {
    const near = Number(slider.value) + step;
    if (near >= 1 && near <= Number(slider.max)) picture(address(plane, near)).catch(() => {});
  }
}

for (const plane of planes) {
  const slider = plane.querySelector("input");
  slider.addEventListener("input", () => draw(plane));
  plane.querySelector("img").addEventListener("wheel", (event) => {
    event.preventDefault();
    slider.value = Number(slider.value) + Math.sign(event.deltaY);
    draw(plane);
  }, { passive: false });
  draw(plane);
}
for (const input of document.querySelectorAll("input[name=series], #outline, #window")) {
  input.addEventListener("change", () => planes.forEach(draw));
}

// --- zoom: the same for all planes, about the middle of what is seen; dragging moves a picture within its frame -----
const zoom = document.getElementById("zoom");
const middles = new Map(planes.map((plane) => [plane, [0.5, 0.5]])); // as shares of width and height

function positioned(plane) {
  const factor = Number(zoom.value);
  const half = 0.5 / factor;
  const middle = middles.get(plane).map((share) => Math.min(1 - half, Math.max(half, share)));
  middles.set(plane, middle);
  const [x, y] = middle.map((share) => -100 * (share - half));
  plane.querySelector("img").style.transform = `scale(${factor}) translate(${x}%, ${y}%)`;
}

function zoomed() {
  document.querySelector("output[for=zoom]").textContent = `${zoom.value} ×`;
  page.classList.toggle("zoomed", Number(zoom.value) > 1);
  planes.forEach(positioned);
}

function zoomBy(steps) {
  if (steps > 0) zoom.stepUp(); else zoom.stepDown();
  zoomed();
}

function drag(plane) {
  const view = plane.querySelector(".view");
  view.addEventListener("pointerdown", (event) => view.setPointerCapture(event.pointerId));
  view.addEventListener("pointermove", (event) => {
    if (!view.hasPointerCapture(event.pointerId)) return;
    const size = view.getBoundingClientRect();
    const moved = [event.movementX / size.width, event.movementY / size.height];
    middles.set(plane, middles.get(plane).map((share, axis) => share - moved[axis] / Number(zoom.value)));
    positioned(plane);
  });
}

scanWindow?.addEventListener("change", () => scanWindow.blur()); // keys rate again
if (zoom) {
  zoom.addEventListener("input", zoomed);
  planes.forEach(drag);
  zoomed();
}
