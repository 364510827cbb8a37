"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // Theme: the system's choice until the button is used.
  const theme = byId("theme");
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("strokect-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme || (systemDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  const forced = /^#(dark|light)$/.exec(location.hash);
  const first = forced ? forced[1] : remembered();
  if (first === "dark" || first === "light") root.dataset.theme = first;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("strokect-theme", root.dataset.theme); } catch { /* private mode */ }
    nameTheme();
  });
  systemDark.addEventListener("change", nameTheme);
  theme.setAttribute("aria-label", "Switch between light and dark colours");
  nameTheme();
  theme.hidden = false;

  // Slice viewer: every picture is a mosaic of the page, cut into its tiles.
  const data = JSON.parse(byId("data").textContent);
  const [height, width] = data.tile;
  const zoom = Math.max(1, Math.round(900 / Math.max(width, height)));
  const canvas = byId("canvas"), context = canvas.getContext("2d");
  const slider = byId("slider"), where = byId("where"), outlined = byId("outlined");
  const layers = [...document.querySelectorAll("input[name=layer]")];
  canvas.width = width * zoom;
  canvas.height = height * zoom;

  const chosen = () => layers.find((layer) => layer.checked);

  function draw() {
    const at = Number(slider.value), key = chosen().value;
    const x = (at % data.across) * width, y = Math.floor(at / data.across) * height;
    context.setTransform(zoom, 0, 0, zoom, 0, 0);
    context.imageSmoothingQuality = "high";
    context.fillRect(0, 0, width, height);
    context.drawImage(byId("img-" + key), x, y, width, height, 0, 0, width, height);
    const path = byId("outline-" + at);
    if (path && outlined && outlined.checked) {
      const shape = new Path2D(path.getAttribute("d"));
      for (const [colour, line] of [["rgba(0,0,0,0.75)", 4], ["#fff", 1.8]]) {
        context.strokeStyle = colour;
        context.lineWidth = line / zoom;
        context.stroke(shape);
      }
    }
    where.textContent = `Slice ${data.numbers[at]} of ${data.total}`;
    slider.setAttribute("aria-valuetext", where.textContent);
    canvas.setAttribute("aria-label", `${chosen().nextElementSibling.textContent}, ${where.textContent}`);
  }

  function showLegend() {
    const legend = byId("legend"), scale = document.querySelector(`#figure-${chosen().value} .scale`);
    legend.replaceChildren(...(scale ? scale.cloneNode(true).children : []));
    if (!scale) legend.textContent = "Temporal mean of the scan, window 0 to 80 HU";
  }

  function step(slices) {
    slider.value = Number(slider.value) + slices;
    draw();
  }

  function turn(by) {
    const next = layers[(layers.indexOf(chosen()) + by + layers.length) % layers.length];
    next.checked = true;
    showLegend();
    draw();
  }

  const keys = {
    ArrowUp: () => step(1), ArrowDown: () => step(-1), PageUp: () => step(1), PageDown: () => step(-1),
    ArrowRight: () => turn(1), ArrowLeft: () => turn(-1),
  };
  byId("stage").addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  slider.addEventListener("input", draw);
  byId("lower").addEventListener("click", () => step(-1));
  byId("higher").addEventListener("click", () => step(1));
  for (const layer of layers) layer.addEventListener("change", () => { showLegend(); draw(); });
  if (outlined) outlined.addEventListener("change", draw);
  byId("viewer").hidden = false;
  showLegend();
  window.addEventListener("load", draw);
})();
