// Particles that can be turned: the script behind mddm/viewer.py, which writes the page's <figure>
// elements and packs their data. Every figure brings a copy of it and of viewer_gl.js; the first
// one on a page counts. Nothing is drawn but what is on screen and has changed.
window.mddmViewer.mountAll ??= (() => {
  "use strict";

  const { Renderer } = window.mddmViewer;
  // The camera starts where mddm.plotting has it.
  const [TURN, TILT] = [(28 * Math.PI) / 180, (20 * Math.PI) / 180];
  const [ZOOM_MIN, ZOOM_MAX] = [0.5, 8];

  // ---- g(r) ------------------------------------------------------------------------------------

  function drawCurve(canvas, data, frame, name) {
    const pixels = fit(canvas, devicePixelRatio);
    if (!pixels) return;
    const [c, width, height] = [canvas.getContext("2d"), canvas.clientWidth, canvas.clientHeight];
    const [left, right, top, bottom] = [44, width - 8, 10, height - 40];
    const { r, curves, reference, top: highest } = data.rdf;
    const end = r[r.length - 1] + (r[1] - r[0]) / 2;
    const x = (value) => left + ((right - left) * value) / end;
    const y = (value) => bottom - ((bottom - top) * value) / highest;
    const style = getComputedStyle(canvas);
    const [ink, accent] = [style.color, style.getPropertyValue("--mddm-accent")];
    c.setTransform(pixels, 0, 0, pixels, 0, 0);
    c.clearRect(0, 0, width, height);
    c.font = "13px sans-serif";
    c.fillStyle = c.strokeStyle = ink;
    c.lineJoin = "round";

    const stroke = (points, color, thickness) => {
      c.beginPath();
      for (const point of points) c.lineTo(...point);
      c.strokeStyle = color;
      c.lineWidth = thickness;
      c.stroke();
    };
    stroke([[left, top], [left, bottom], [right, bottom]], ink, 1); // prettier-ignore
    c.textAlign = "center";
    for (let tick = 0; tick <= end; tick += end > 8 ? 2 : 1) c.fillText(tick, x(tick), bottom + 17);
    c.fillText("r [σ]", (left + right) / 2, bottom + 34);
    c.textAlign = "right";
    for (let tick = 0; tick <= highest; tick += Math.ceil(highest / 6)) c.fillText(tick, left - 6, y(tick) + 4); // prettier-ignore
    c.save();
    c.translate(14, (top + bottom) / 2);
    c.rotate(-Math.PI / 2);
    c.textAlign = "center";
    c.fillText("g(r)", 0, 0);
    c.restore();

    c.save();
    c.beginPath();
    c.rect(left, top, right - left, bottom - top);
    c.clip();
    stroke([[left, y(1)], [right, y(1)]], "#8888", 1); // prettier-ignore
    const points = (curve) => curve.map((value, i) => [x(r[i]), y(value)]);
    if (reference) stroke(points(reference.curve), "#999b", 5);
    stroke(points(curves[frame]), accent, 2);
    c.restore();

    const entries = [[name, accent, 2]];
    if (reference) entries.push([reference.label, "#999b", 5]);
    entries.forEach(([label, color, thickness], i) => {
      const line = top + 8 + 18 * i;
      c.textAlign = "right";
      c.fillText(label, right - 34, line + 4);
      stroke([[right - 28, line], [right - 4, line]], color, thickness); // prettier-ignore
    });
  }

  // ---- one viewer ------------------------------------------------------------------------------

  const START = [
    [Math.cos(TURN), Math.sin(TURN), 0],
    [-Math.sin(TURN) * Math.sin(TILT), Math.cos(TURN) * Math.sin(TILT), Math.cos(TILT)],
    [Math.sin(TURN) * Math.cos(TILT), -Math.cos(TURN) * Math.cos(TILT), Math.sin(TILT)],
  ].flat();

  // Turn the rows i and j of a 3 x 3 matrix, two axes of the screen, into each other.
  function rotate(matrix, i, j, angle) {
    const turned = [...matrix];
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    for (const column of [0, 1, 2]) {
      const [a, b] = [matrix[3 * i + column], matrix[3 * j + column]];
      turned[3 * i + column] = cos * a + sin * b;
      turned[3 * j + column] = cos * b - sin * a;
    }
    return turned;
  }

  // Give a canvas as many pixels as it shows; return how many a CSS pixel has, 0 if it is hidden.
  function fit(canvas, scale) {
    const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale].map(Math.round);
    if (!width || !height) return 0;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    return scale;
  }

  function decode(text, Kind) {
    return text && new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  }

  let renderer = null;
  let serial = 0;
  const viewers = new Set();
  const watcher = new IntersectionObserver((entries) =>
    entries.forEach(({ target, isIntersecting }) => target.mddm.show(isIntersecting))
  );

  class Viewer {
    constructor(figure, data) {
      Object.assign(this, { figure, data, visible: false, playing: false });
      data.places = decode(data.places, Uint16Array);
      data.values = decode(data.values, Uint8Array);
      this.build();
      this.listen();
      figure.mddm = this;
      this.mount();
      this.reset();
      watcher.observe(figure);
      new ResizeObserver(() => this.change()).observe(this.live);
    }

    // The still picture stands in where nothing can be drawn.
    mount() {
      this.figure.classList.toggle("mddm-mounted", renderer.works);
    }

    build() {
      const { figure, data } = this;
      const help = `mddm-help-${serial++}`;
      this.live = figure.querySelector(".mddm-live");
      this.live.innerHTML = `
        <div class="mddm-panes">
          <div class="mddm-pane">
            <canvas class="mddm-scene" tabindex="0" role="application" aria-describedby="${help}" data-lm-suppress-shortcuts="true"
              aria-roledescription="view that can be turned"></canvas>
            <div class="mddm-bar"><span></span><i></i><span></span><b></b></div>
          </div>
          <canvas class="mddm-curve" role="img"></canvas>
          <div class="mddm-controls">
            <button type="button" class="mddm-play">Play</button>
            <input type="range" class="mddm-slider" min="0" step="1" aria-label="Frame">
            <output></output>
            <button type="button" class="mddm-images" aria-pressed="false">Periodic images</button>
            <button type="button" class="mddm-reset">Reset view</button>
          </div>
        </div>
        <p class="mddm-help" id="${help}">Drag or press the arrow keys to turn; pinch, press + or −, or
          use the wheel to zoom. Until the view is clicked, wheel and upright swipes scroll the page.</p>`;
      const find = (name) => this.live.querySelector(name);
      for (const name of ["scene", "curve", "slider", "play", "images", "bar", "help"])
        this[name] = find(`.mddm-${name}`);
      this.output = find("output");
      this.scene.setAttribute("aria-label", figure.querySelector(".mddm-still").alt);
      this.images.hidden = !data.periodic;
      this.curve.hidden = !data.rdf;
      this.curve.setAttribute("aria-label", "g(r)"); // until it is drawn
      this.label();
      if (!this.play.hidden)
        this.help.textContent += " Space plays, comma and full stop step through the frames.";
      if (data.bar) {
        const stops = data.colors.map((value) => Math.round(255 * value));
        const css = [...Array(16).keys()].map((i) => `rgb(${stops.slice(3 * i, 3 * i + 3)})`);
        this.bar.querySelector("i").style.background = `linear-gradient(to right, ${css})`;
      }
    }

    // What depends on the frames and their values.
    label() {
      const { length } = this.data.labels;
      this.slider.max = length - 1;
      this.play.hidden = this.slider.hidden = this.output.hidden = length < 2;
      const { bar } = this.data;
      this.bar.hidden = !bar;
      this.bar.querySelectorAll("span, b").forEach((part, i) => (part.textContent = bar?.[i] ?? ""));
    }

    // Show other frames of as many particles, the last one first; for scripts that make them, and
    // say whether more are to come.
    replace(data, unfinished) {
      Object.assign(this.data, data);
      this.unfinished = unfinished;
      this.label();
      this.go(data.labels.length - 1);
    }

    listen() {
      const { scene } = this;
      const pointers = new Map();
      let before = null;
      scene.addEventListener("pointerdown", (event) => {
        scene.setPointerCapture(event.pointerId);
        if (!pointers.size) before = { turn: this.turn, zoom: this.zoom };
        pointers.set(event.pointerId, event);
      });
      scene.addEventListener("pointerup", (event) => {
        pointers.delete(event.pointerId);
        // A finger does not always bring the focus along, as the mouse does.
        scene.focus({ preventScroll: true });
      });
      scene.addEventListener("pointercancel", (event) => {
        // The finger turned out to scroll the page.
        if (pointers.delete(event.pointerId)) this.change(before);
      });
      scene.addEventListener("pointermove", (event) => {
        const last = pointers.get(event.pointerId);
        if (!last) return;
        const other = [...pointers.values()].find((one) => one.pointerId !== event.pointerId);
        pointers.set(event.pointerId, event);
        if (other) {
          const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
          this.magnify(apart(event) / Math.max(apart(last), 1));
        } else {
          const pace = 4 / scene.clientWidth;
          this.spin(pace * (event.clientX - last.clientX), pace * (event.clientY - last.clientY));
        }
      });
      scene.addEventListener("wheel", (event) => {
        // Until the view is clicked, the wheel scrolls the page.
        if (!event.ctrlKey && document.activeElement !== scene) return;
        event.preventDefault();
        this.magnify(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)));
      }, { passive: false }); // prettier-ignore
      const step = Math.PI / 24;
      const keys = {
        ArrowLeft: () => this.spin(-step, 0),
        ArrowRight: () => this.spin(step, 0),
        ArrowUp: () => this.spin(0, -step),
        ArrowDown: () => this.spin(0, step),
        "+": () => this.magnify(1.2),
        "=": () => this.magnify(1.2),
        "-": () => this.magnify(1 / 1.2),
        " ": () => this.toggle(!this.playing),
        ",": () => this.go(this.frame - 1),
        ".": () => this.go(this.frame + 1),
      };
      scene.addEventListener("keydown", (event) => {
        if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        keys[event.key]();
      });
      this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
      this.play.addEventListener("click", () => this.toggle(!this.playing));
      this.images.addEventListener("click", () => this.change({ imaged: !this.imaged }));
      this.live.querySelector(".mddm-reset").addEventListener("click", () => this.reset());
    }

    reset() {
      const { frame = this.data.labels.length - 1 } = this;
      this.change({ turn: START, zoom: 1, imaged: false, frame });
    }

    spin(right, down) {
      this.change({ turn: rotate(rotate(this.turn, 0, 2, right), 2, 1, down) });
    }

    magnify(factor) {
      this.change({ zoom: Math.min(Math.max(this.zoom * factor, ZOOM_MIN), ZOOM_MAX) });
    }

    go(frame) {
      this.toggle(false);
      this.change({ frame: Math.min(Math.max(frame, 0), this.data.labels.length - 1) });
    }

    // Play once, from the start if the end is reached; off screen it waits.
    toggle(playing) {
      const last = this.data.labels.length - 1;
      clearTimeout(this.timer);
      if (playing && !this.playing && this.frame === last) this.frame = 0;
      this.change({ playing: playing && this.frame < last });
      if (!this.playing || !this.visible) return;
      const advance = () => {
        this.frame += 1;
        this.toggle(true);
      };
      this.timer = setTimeout(advance, Math.min(Math.max(6000 / last, 80), 400));
    }

    show(visible) {
      this.visible = visible;
      if (this.playing) this.toggle(true);
      this.change();
    }

    // Every change of state passes here: the button says so at once, and what else is on screen
    // follows with the next picture, which a busy machine may leave out.
    change(state = {}) {
      Object.assign(this, state);
      this.play.textContent = this.playing ? "Pause" : "Play";
      if (!this.visible || this.request) return;
      this.request = requestAnimationFrame(() => {
        this.request = null;
        this.draw();
      });
    }

    draw() {
      const { data, frame, scene } = this;
      const label = data.labels[frame];
      this.slider.value = frame;
      this.slider.setAttribute("aria-valuetext", label);
      this.output.setAttribute("aria-live", this.playing || this.unfinished ? "off" : "polite");
      this.output.textContent = label;
      this.images.setAttribute("aria-pressed", this.imaged);
      // Twice the pixels where they are coarse: the outlines of spheres are not smoothed otherwise.
      if (fit(scene, Math.max(devicePixelRatio, 2)) && renderer.works) {
        const view = { turn: this.turn, zoom: this.zoom, images: this.imaged };
        renderer.draw(data, frame, view, scene.width);
        const target = scene.getContext("2d");
        target.clearRect(0, 0, scene.width, scene.height);
        target.drawImage(renderer.canvas, 0, 0);
      }
      if (!data.rdf) return;
      const { curves, reference } = data.rdf;
      const apart = reference && curves[frame].map((g, i) => (g - reference.curve[i]) ** 2);
      const error = apart && apart.reduce((sum, one) => sum + one, 0) / apart.length;
      const score = reference ? `, RDF-MSE ${error.toPrecision(2)}` : "";
      const against = reference ? ` against ${reference.label}` : "";
      this.curve.setAttribute("aria-label", `g(r)${against}, ${label}${score}`);
      drawCurve(this.curve, data, frame, `this frame${score}`);
    }
  }

  function redrawAll() {
    for (const viewer of viewers) {
      viewer.mount();
      if (viewer.figure.isConnected) viewer.change();
      else viewers.delete(viewer);
    }
  }

  // Where there is no WebGL, the still picture stays.
  function mountAll() {
    renderer ??= new Renderer(redrawAll);
    if (!renderer.gl) return;
    for (const figure of document.querySelectorAll(".mddm-viewer")) {
      if (figure.mddm) continue;
      const data = figure.querySelector("script[type='application/json']").textContent;
      viewers.add(new Viewer(figure, JSON.parse(data)));
    }
  }

  // Curves have the colour of the page's text, which changes with the theme.
  const themes = new MutationObserver(redrawAll);
  for (const element of [document.documentElement, document.body])
    themes.observe(element, { attributeFilter: ["class", "data-theme", "data-jp-theme-light"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);

  return mountAll;
})();
window.mddmViewer.mountAll();
