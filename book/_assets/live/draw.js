// The curve of a pair potential, with points that the reader moves up and down: by mouse, by touch, and
// each a slider for the keyboard.
window.mddmLive ??= {};
Object.assign(window.mddmLive, (() => {
  "use strict";

  const live = window.mddmLive;
  // Where the points are, what they may be raised and lowered to, and what is shown.
  const PLACES = [1, 1.15, 1.3, 1.45, 1.6, 1.8, 2, 2.25, 2.5];
  const [LOWEST, HIGHEST] = [-2.5, 2.5];
  const [R_FIRST, R_LAST, U_LOW, U_HIGH] = [0.9, 3.03, -2.7, 2.7];
  const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [230, 42, 12, 8, 36];
  const N_POINTS = 320;
  const STEPS = {
    ArrowUp: 0.05, ArrowRight: 0.05, ArrowDown: -0.05, ArrowLeft: -0.05,
    PageUp: 0.5, PageDown: -0.5, Home: -Infinity, End: Infinity,
  }; // prettier-ignore

  const minus = (text) => text.replace("-", "−");

  class Drawing {
    // Draws into the element `place`; `onChange` is called whenever the reader has moved a point.
    constructor(place, onChange) {
      Object.assign(this, { place, onChange, base: null, changes: PLACES.map(() => 0), disabled: false });
      const handles = PLACES.map((r) =>
        `<g role="slider" tabindex="0" aria-orientation="vertical" aria-label="U at r = ${r} σ">
          <rect x="-10" y="-18" width="20" height="36"></rect><circle r="6"></circle></g>`).join("");
      place.innerHTML = `<svg height="${HEIGHT}" role="group" aria-label="Pair potential, with points to move up and down">
        <g class="mddm-draw-axes" aria-hidden="true"></g>
        <path class="mddm-draw-base"></path><path class="mddm-draw-curve"></path>${handles}</svg>`;
      this.svg = place.firstElementChild;
      this.axes = place.querySelector(".mddm-draw-axes");
      [this.underneath, this.curve] = place.querySelectorAll("path");
      this.handles = [...place.querySelectorAll("[role=slider]")];
      this.handles.forEach((handle, i) => this.listen(handle, i));
      new ResizeObserver(() => this.draw()).observe(place);
    }

    // Begin with another potential.
    start(base) {
      this.changes.fill(0);
      this.follow(base);
    }

    // Keep what was drawn, over another potential.
    follow(base) {
      this.base = base;
      PLACES.forEach((_, i) => this.limit(i));
      this.draw();
    }

    get isChanged() {
      return this.changes.some((change) => change !== 0);
    }

    get pair() {
      return live.smoothed(live.changed(this.base, PLACES, this.changes));
    }

    lowest(i) {
      // The core stays as repulsive as it is.
      return i === 0 ? this.base(PLACES[0]).energy : LOWEST;
    }

    limit(i) {
      if (this.changes[i] === 0) return;
      const before = this.base(PLACES[i]).energy;
      this.changes[i] = Math.min(Math.max(before + this.changes[i], this.lowest(i)), HIGHEST) - before;
    }

    move(i, energy) {
      if (this.disabled) return;
      this.changes[i] = energy - this.base(PLACES[i]).energy;
      this.limit(i);
      this.draw();
      this.onChange();
    }

    listen(handle, i) {
      const energy = () => this.base(PLACES[i]).energy + this.changes[i];
      handle.addEventListener("keydown", (event) => {
        const step = STEPS[event.key];
        if (!step) return;
        event.preventDefault();
        this.move(i, Math.min(Math.max(energy() + step, LOWEST), HIGHEST));
      });
      let grip = null; // how far from the point it was taken hold of
      handle.addEventListener("pointerdown", (event) => {
        if (this.disabled || event.button !== 0) return;
        handle.setPointerCapture(event.pointerId);
        grip = this.under(event) - energy();
      });
      handle.addEventListener("pointermove", (event) => {
        if (grip !== null) this.move(i, this.under(event) - grip);
      });
      for (const end of ["pointerup", "pointercancel"])
        handle.addEventListener(end, () => {
          grip = null;
        });
    }

    // The energy at the height of a pointer.
    under(event) {
      const y = event.clientY - this.svg.getBoundingClientRect().top;
      return U_HIGH - ((y - TOP) / (HEIGHT - TOP - BOTTOM)) * (U_HIGH - U_LOW);
    }

    draw() {
      const width = this.place.clientWidth;
      if (!this.base || !width) return;
      const x = (r) => LEFT + ((r - R_FIRST) / (R_LAST - R_FIRST)) * (width - LEFT - RIGHT);
      const y = (u) => TOP + ((U_HIGH - u) / (U_HIGH - U_LOW)) * (HEIGHT - TOP - BOTTOM);
      this.svg.setAttribute("width", width);
      const lines = [-2, -1, 0, 1, 2].map((u) =>
        `<line x1="${x(R_FIRST)}" x2="${x(R_LAST)}" y1="${y(u)}" y2="${y(u)}"${u ? "" : ' class="mddm-draw-zero"'}></line>
        <text x="${LEFT - 6}" y="${y(u) + 4}" text-anchor="end">${minus(String(u))}</text>`);
      const ticks = [1, 1.5, 2, 2.5, 3].map((r) =>
        `<text x="${x(r)}" y="${HEIGHT - 20}" text-anchor="middle">${r}</text>`);
      this.axes.innerHTML = `${lines.join("")}${ticks.join("")}
        <text x="${x((R_FIRST + R_LAST) / 2)}" y="${HEIGHT - 4}" text-anchor="middle">r [σ]</text>
        <text transform="translate(12 ${y(0)}) rotate(-90)" text-anchor="middle">U(r) [ε]</text>`;
      const path = (pair) => {
        const points = [];
        for (let i = 0; i <= N_POINTS; i++) {
          const r = R_FIRST + ((R_LAST - R_FIRST) * i) / N_POINTS;
          const u = pair(r).energy;
          if (points.length === 0 && u > U_HIGH) continue; // the core leaves the picture
          points.push(`${x(r).toFixed(1)} ${y(Math.min(Math.max(u, U_LOW), U_HIGH)).toFixed(1)}`);
        }
        return `M${points.join("L")}`;
      };
      this.curve.setAttribute("d", path(this.pair));
      this.underneath.setAttribute("d", this.isChanged ? path(live.smoothed(this.base)) : "");
      this.handles.forEach((handle, i) => {
        const u = this.base(PLACES[i]).energy + this.changes[i];
        handle.setAttribute("transform", `translate(${x(PLACES[i])} ${y(u)})`);
        handle.setAttribute("aria-valuemin", this.lowest(i).toFixed(2));
        handle.setAttribute("aria-valuemax", HIGHEST);
        handle.setAttribute("aria-valuenow", u.toFixed(2));
        handle.setAttribute("aria-valuetext", minus(`${u.toFixed(2)} ε`));
      });
    }

    disable(disabled) {
      this.disabled = disabled;
      this.handles.forEach((handle) => handle.setAttribute("aria-disabled", disabled));
    }
  }

  return { Drawing };
})());
