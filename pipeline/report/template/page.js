"use strict";
(() => {
  const tip = document.getElementById("tip");
  const REACH = 28;

  // One curve stands out from the others while a mark or its legend entry is looked at.
  function single(svg, curve) {
    svg.querySelectorAll(".hot").forEach((other) => other.classList.remove("hot"));
    svg.classList.toggle("single", Boolean(curve));
    if (curve) curve.classList.add("hot");
  }

  function show(svg, point) {
    svg.querySelectorAll(".on").forEach((other) => other.classList.remove("on"));
    single(svg, point && point.closest(".curve"));
    if (!point) { tip.hidden = true; return; }
    point.classList.add("on");
    tip.textContent = point.dataset.tip;
    tip.hidden = false;
    const at = svg.createSVGPoint();
    at.x = Number(point.dataset.x);
    at.y = Number(point.dataset.y);
    const spot = at.matrixTransform(svg.getScreenCTM());
    const left = Math.min(Math.max(4, spot.x + 12), innerWidth - tip.offsetWidth - 4);
    const above = spot.y - tip.offsetHeight - 10;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : spot.y + 14}px`;
  }

  const shown = (svg) => [...svg.querySelectorAll(".pt")].filter((point) => !point.closest(".off"));

  function nearest(svg, event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = null, least = REACH;
    for (const point of shown(svg)) {
      const distance = Math.hypot(point.dataset.x - at.x, point.dataset.y - at.y);
      if (distance < least) { best = point; least = distance; }
    }
    return best;
  }

  for (const svg of document.querySelectorAll("svg.chart")) {
    svg.addEventListener("pointermove", (event) => show(svg, nearest(svg, event)));
    svg.addEventListener("pointerdown", (event) => show(svg, nearest(svg, event)));
    svg.addEventListener("pointerleave", () => show(svg, null));
    svg.addEventListener("blur", () => show(svg, null));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const points = shown(svg);
      const before = points.findIndex((point) => point.classList.contains("on"));
      show(svg, points[(before + step + points.length) % points.length]);
    });
  }

  for (const button of document.querySelectorAll(".legend button")) {
    const svg = button.closest("figure").querySelector("svg.chart");
    const kind = "published" in button.dataset;
    const own = [...svg.querySelectorAll(".curve")].find((curve) =>
      curve.dataset.name === button.dataset.name && curve.classList.contains("published") === kind);
    for (const look of ["pointerenter", "focus"]) button.addEventListener(look, () => single(svg, own));
    for (const away of ["pointerleave", "blur"]) button.addEventListener(away, () => single(svg, null));
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      own.classList.toggle("off", !on);
    });
  }

  for (const slider of document.querySelectorAll(".compare input")) {
    const move = () => slider.parentElement.style.setProperty("--at", `${slider.value}%`);
    slider.addEventListener("input", move);
    move();
  }
})();
