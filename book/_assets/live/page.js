// The page's controls: they run what sampler.js has, draw it in the viewer and put results in a table.
(() => {
  "use strict";

  const live = window.mddmLive;
  const home = document.querySelector(".mddm-try");
  const figure = document.querySelector(".mddm-viewer");
  const SLIDERS = [
    { name: "k, spatial frequency [1/σ]", min: 1, max: 15, step: 0.1, digits: 1 },
    { name: "φ, phase", min: 0, max: 6, step: 0.1, digits: 1 },
    { name: "T, temperature [ε]", min: 0.01, max: 0.05, step: 0.001, digits: 3 },
  ];
  const [MOST_FRAMES, DRAW_EVERY] = [60, 80]; // milliseconds
  const DEFAULT_SECONDS = 5; // of a quench that follows no sample
  const OSCILLATING = "oscillating, by k and φ";
  const choices = [OSCILLATING, ...Object.keys(live.potentials)].map((name) => `<option>${name}</option>`);

  home.innerHTML = `
    <fieldset>
      <div><label for="mddm-try-potential">Potential, to begin with</label>
        <select id="mddm-try-potential">${choices.join("")}</select></div>
      ${SLIDERS.map(({ name, min, max, step }, i) => `<div>
        <label for="mddm-try-${i}">${name}</label><output for="mddm-try-${i}"></output>
        <input type="range" id="mddm-try-${i}" min="${min}" max="${max}" step="${step}"></div>`).join("")}
      <div><label for="mddm-try-seed">Seed</label>
        <input type="number" id="mddm-try-seed" min="0" max="999999" step="1" value="0"></div>
      <div class="mddm-draw"></div>
      <div class="mddm-controls mddm-draw-hint"><button type="button" disabled>Undo drawing</button>
        <span>Drag the points, or move them with the arrow keys.</span></div>
    </fieldset>
    <div class="mddm-controls">
      <button type="button" class="mddm-try-first">Sample</button>
      <button type="button">Quench by MD</button>
      <button type="button">Step</button>
      <button type="button" disabled>Stop</button>
    </div>
    <progress value="0" max="1" aria-label="How far the run is"></progress>
    <p role="status">The first sample loads ${home.dataset.megabytes} MB.</p>
    <table hidden>
      <caption></caption>
      <thead><tr><th scope="col"></th><th scope="col">energy [ε]</th><th scope="col">RDF-MSE</th>
        <th scope="col">seconds</th></tr></thead>
      <tbody></tbody>
    </table>`; // prettier-ignore
  const [fieldset, progress, status, table, select] =
    ["fieldset", "progress", "[role=status]", "table", "select"].map((tag) => home.querySelector(tag)); // prettier-ignore
  const sliders = [...home.querySelectorAll("input[type=range]")];
  const seedInput = home.querySelector("input[type=number]");
  const [undoButton, sampleButton, quenchButton, stepButton, stopButton] = home.querySelectorAll("button");
  const drawing = new live.Drawing(home.querySelector(".mddm-draw"), setButtons);

  // The potential and the temperature that the reader has chosen, and how they are called. Of the
  // oscillating potential, and of it alone, there is MD at `numbers` near by.
  function chosen() {
    const values = sliders.map((slider) => Number(slider.value));
    const parts = ["k", "φ", "T"].map((name, i) => `${name} ${values[i].toFixed(SLIDERS[i].digits)}`);
    const isOscillating = select.value === OSCILLATING;
    const over = drawing.isChanged ? "a drawing over " : "";
    const words = over + (isOscillating ? parts : [select.value, parts[2]]).join(", ");
    const numbers = isOscillating && !drawing.isChanged ? values : null;
    const key = JSON.stringify([words, drawing.changes]);
    return { pair: drawing.pair, temperature: values[2], numbers, key, words };
  }

  // ---- what is loaded on demand ----------------------------------------------------------------

  // Scripts, for a page that is opened from disk may load nothing else.
  function load(name) {
    if (live[name]) return null;
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${home.dataset.static}/${name}.js`;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${name}.js could not be loaded`));
      document.head.append(script);
    });
  }

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // Start the network, once; return a function that runs it on a graph.
  async function open() {
    await Promise.all(["runtime", "network"].map(load));
    const { runtime, network } = live;
    const address = URL.createObjectURL(new Blob([bytes(runtime.script)], { type: "text/javascript" }));
    const ort = await import(address);
    URL.revokeObjectURL(address);
    const packed = new Blob([bytes(runtime.wasm)]).stream();
    const compiled = new Response(packed.pipeThrough(new DecompressionStream("gzip")));
    ort.env.wasm.wasmBinary = await compiled.arrayBuffer();
    ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
    const session = await ort.InferenceSession.create(bytes(network.onnx));
    return async (given) => {
      const tensors = Object.entries(given).map(([name, [numbers, ...shape]]) =>
        [name, new ort.Tensor(name === "neighbors" ? "int64" : "float32", numbers, shape)]);
      return (await session.run(Object.fromEntries(tensors))).eps.data;
    }; // prettier-ignore
  }

  let opened = null;
  // The network's estimate of the noise, under a potential at a temperature.
  async function denoiser(pair, temperature) {
    opened ??= open();
    const run = await opened;
    const { nNeighbors, nWaves, qMax, boxLength } = live.network;
    const condition = live.encode(pair, temperature);
    return (x, sigma) => {
      const n = x.length / 3;
      const { neighbors, displacements } = live.nearestNeighbors(x, nNeighbors, boxLength);
      const waves = live.strongestWaves(x, boxLength, nWaves, qMax);
      const sites = live.findSites(waves, sigma, n, boxLength);
      const { way, certainty, found } = live.assign(x, sites, sigma, boxLength);
      const { vectors, strength, phase } = waves;
      return run({
        neighbors: [neighbors, n, nNeighbors],
        displacements: [displacements, n, nNeighbors, 3],
        positions: [Float32Array.from(x), n, 3],
        sigma: [Float32Array.of(sigma), 1, 1],
        condition: [condition, 1, condition.length],
        vectors: [vectors, phase.length, 3],
        strength: [strength, phase.length, 1],
        phase: [phase, 1, phase.length],
        way: [way, n, 3],
        certainty: [certainty, n, 1],
        found: [found, 1, 1],
      });
    };
  }

  live.denoiser = denoiser;

  // MD at the condition of the data that is nearest, each of its parts measured by its range.
  function nearest(given) {
    const { conditions, curves, energies, nBins } = live.md;
    const spreads = given.map((_, i) => {
      const all = conditions.map((one) => one[i]);
      return Math.max(...all) - Math.min(...all);
    });
    const away = conditions.map((one) =>
      one.reduce((sum, value, i) => sum + ((value - given[i]) / spreads[i]) ** 2, 0));
    const row = away.indexOf(Math.min(...away));
    live.md.hundredths ??= new Uint16Array(bytes(curves).buffer);
    const curve = [...live.md.hundredths.slice(row * nBins, (row + 1) * nBins)].map((g) => g / 100);
    return { condition: conditions[row], energy: energies[row], curve };
  }

  // ---- results ---------------------------------------------------------------------------------

  const meanSquare = (curve, other) =>
    curve.reduce((sum, g, i) => sum + (g - other[i]) ** 2, 0) / curve.length;

  function report(name, energy, error, seconds) {
    const cells = [energy.toFixed(3), error?.toPrecision(2) ?? "", seconds?.toFixed(1) ?? ""];
    const row = [...table.tBodies[0].rows].find((one) => one.cells[0].textContent === name);
    const target = row ?? table.tBodies[0].insertRow();
    const text = cells.map((cell) => `<td>${cell.replace("-", "−")}</td>`).join("");
    target.innerHTML = `<th scope="row">${name}</th>${text}`;
    table.hidden = false;
  }

  function forget() {
    table.tBodies[0].replaceChildren();
    table.hidden = true;
  }

  // The frames of a run, thinned out when they become many.
  class Film {
    constructor(reference, system) {
      Object.assign(this, { reference, system, frames: [] });
    }

    add(positions, label, unfinished = true) {
      const { boxLength } = live.network;
      const { nBins, rMax } = live.md;
      const curve = [...live.rdf(positions, boxLength, nBins, rMax)];
      const place = Uint16Array.from(positions, (x) => Math.round((x / boxLength) * 65535));
      this.system.evaluate(positions);
      this.frames.push({ place, label, curve, energies: this.system.energies });
      const last = this.frames.length - 1;
      if (last >= MOST_FRAMES) this.frames = this.frames.filter((_, i) => i % 2 === 0 || i === last);
      this.show(unfinished);
      return curve;
    }

    show(unfinished) {
      const { frames, reference } = this;
      const places = new Uint16Array(frames.length * frames[0].place.length);
      frames.forEach(({ place }, i) => places.set(place, i * place.length));
      const curves = frames.map(({ curve }) => curve);
      const width = live.md.rMax / live.md.nBins;
      const r = curves[0].map((_, i) => (i + 0.5) * width);
      // A single pair makes a spike in the first bins, which are small; it may leave the axes.
      const highest = [...curves, ...(reference ? [reference.curve] : [])].flatMap((curve) => curve.filter((_, i) => r[i] > 1 / 3));
      const rdf = { r, curves, reference };
      rdf.top = Math.max(2, 1.1 * Math.max(...highest));
      // Colours as in viewer.show_sampling: what has a few bad neighbours would take up all of them.
      const ranked = [...frames[frames.length - 1].energies].sort((a, b) => a - b);
      const [low, high] = [0.05, 0.75].map((part) => ranked[Math.round(part * (ranked.length - 1))]);
      const values = new Uint8ClampedArray(frames.flatMap(({ energies }) =>
        [...energies].map((energy) => (255 * (energy - low)) / (high - low))));
      const [least, most] = [low, high].map((energy) => energy.toPrecision(3).replace("-", "−"));
      const bar = [`≤ ${least}`, `≥ ${most}`, "potential energy [ε]"];
      const labels = frames.map(({ label }) => label);
      figure.mddm?.replace({ places, values: new Uint8Array(values.buffer), bar, labels, rdf }, unfinished);
    }
  }

  // ---- runs ------------------------------------------------------------------------------------

  let run = null;
  let seconds = DEFAULT_SECONDS;
  let disabled = false; // where the network cannot be computed

  // One run at a time; with `single` it waits after each step.
  async function start(kind, single) {
    run = { kind, single, spent: 0, stopped: false };
    const own = run;
    const given = chosen();
    setButtons();
    try {
      status.textContent = kind === "sample" && !opened ? `Loading ${home.dataset.megabytes} MB …` : "Starting …";
      await Promise.all(["network", "md"].map(load));
      const estimate = kind === "sample" ? await denoiser(given.pair, given.temperature) : null;
      forgetOthers(given.key);
      await perform(own, given, estimate);
    } catch (error) {
      disabled ||= kind === "sample";
      status.textContent = disabled
        ? `This browser cannot run the network (${error.message}). The recorded run can be played below.`
        : `The run has failed: ${error.message}.`;
    } finally {
      run = null;
      setButtons();
    }
  }

  // What was made under the potential and temperature `key`: of samples and quenches the last g(r).
  let made = {};
  function forgetOthers(key) {
    if (made.key === key) return;
    made = { key };
    forget();
  }

  // What to hold a run's g(r) against: MD of the data, or else the other kind of run, if there is one.
  function referenceFor(kind, { numbers }) {
    if (!numbers) {
      table.caption.textContent =
        "The data has no MD of this potential: RDF-MSE compares the sample with the quench.";
      const other = kind === "sample" ? "quench" : "sample";
      return made[other] ? { label: other, curve: made[other].curve } : null;
    }
    table.caption.textContent = "";
    const { condition, energy, curve } = nearest(numbers);
    const parts = condition.map((value, i) => `${["k", "φ", "T"][i]} ${value.toFixed(SLIDERS[i].digits)}`);
    report(`MD at ${parts.join(", ")}`, energy);
    return { label: "MD", curve };
  }

  async function perform(own, given, estimate) {
    const { boxLength, nParticles, sigmaMin, sigmaMax } = live.network;
    const uniform = live.uniformNumbers(Number(seedInput.value));
    const normal = live.normalNumbers(uniform);
    const system = new live.System(given.pair, boxLength);
    const place = Float64Array.from({ length: 3 * nParticles }, () => boxLength * uniform());
    const reference = referenceFor(own.kind, given);
    const film = new Film(reference, new live.System(given.pair, boxLength));
    const spent = () => own.spent + performance.now() - own.begun;
    const isSample = own.kind === "sample";
    const relax = (x, tolerance) => live.relax(system, x, { tolerance });
    const frames = isSample
      ? live.quick({ estimate, normal, boxLength }, place, sigmaMin, sigmaMax, relax)
      : live.quench(system, place, given.temperature, normal, () => spent() / (1000 * seconds));
    const describe = ({ stage, calls, sigma, nSteps }) => {
      if (!isSample) return `${nSteps} steps of MD`;
      return stage === "relaxed" ? `call ${calls}, relaxing` : `call ${calls}, noise ${sigma.toPrecision(2)} σ`;
    };
    let [last, due] = [null, 0];
    film.add(place, "uniform noise");
    status.textContent = isSample ? `Sampling at ${given.words} …` : `MD at ${given.words}, for ${seconds.toFixed(1)} s …`;
    for (;;) {
      own.begun = performance.now();
      const { value, done } = await frames.next();
      own.spent += performance.now() - own.begun;
      if (done || own.stopped) break;
      last = value;
      progress.value = isSample ? last.calls / live.QUICK_CALLS : own.spent / (1000 * seconds);
      const begun = performance.now();
      if (!own.single && begun < due) continue;
      film.add(last.positions, describe(last));
      if (own.single) await pause(own, describe(last));
      else await breathe();
      // Where there is no graphics card, pictures may not take most of the time.
      due = performance.now() + Math.max(DRAW_EVERY, 2 * (performance.now() - begun));
    }
    progress.value = own.stopped ? 0 : 1;
    if (own.stopped) {
      film.show(false);
      status.textContent = "Stopped.";
      return;
    }
    const curve = film.add(last.positions, `${describe(last)}, the result`, false);
    if (isSample) seconds = own.spent / 1000;
    made[own.kind] = { curve, energy: system.evaluate(last.positions), used: own.spent / 1000 };
    for (const kind of ["sample", "quench"].filter((name) => made[name])) {
      const against = given.numbers ? reference.curve : kind === "sample" && made.quench?.curve;
      const { curve, energy, used } = made[kind];
      report(kind, energy, against ? meanSquare(curve, against) : null, used);
    }
    status.textContent = isSample
      ? `A sample at ${given.words}, after ${last.calls} calls of the network.${doubt(given)}`
      : `A quench at ${given.words}, of ${last.nSteps} steps.`;
  }

  // What is to be said of a temperature that the network was not trained for.
  function doubt({ pair, temperature }) {
    const scale = live.energyScale(pair);
    const [low, high] = live.network.temperatures.map((end) => Number((end * scale).toPrecision(2)));
    if (low <= temperature && temperature <= high) return "";
    return ` For so ${temperature < low ? "deep" : "flat"} a potential the network was trained from T ${low} to ${high} alone: the sample is a guess.`;
  }

  // Let the page draw and listen; a page in the background draws nothing.
  function breathe() {
    return new Promise((resolve) => {
      requestAnimationFrame(() => setTimeout(resolve));
      if (document.hidden) setTimeout(resolve);
    });
  }

  async function pause(own, words) {
    status.textContent = `Waiting at ${words}.`;
    setButtons();
    await new Promise((resolve) => {
      own.wake = resolve;
    });
    own.wake = null;
    setButtons();
  }

  // ---- controls --------------------------------------------------------------------------------

  function setButtons() {
    // A button that goes out loses the focus, in some browsers at once.
    const focused = document.activeElement;
    const waiting = run?.single ?? false;
    fieldset.disabled = Boolean(run);
    drawing.disable(Boolean(run));
    undoButton.disabled = !drawing.isChanged;
    sampleButton.textContent = waiting ? "Continue" : "Sample";
    sampleButton.disabled = run ? !waiting : disabled;
    quenchButton.disabled = Boolean(run);
    stepButton.disabled = !run && disabled;
    // A button that goes out under the reader's finger hands the focus on.
    stopButton.disabled = !run;
    if (run && home.contains(focused) && focused.disabled) stopButton.focus();
    if (!run && focused === stopButton) (sampleButton.disabled ? quenchButton : sampleButton).focus();
  }

  function go(kind, single) {
    if (!run) return start(kind, single);
    run.single = single;
    run.wake?.();
    return setButtons();
  }

  sampleButton.addEventListener("click", () => go("sample", false));
  quenchButton.addEventListener("click", () => go("quench", false));
  stepButton.addEventListener("click", () => go("sample", true));
  stopButton.addEventListener("click", () => {
    run.stopped = true;
    run.wake?.();
  });
  const first = home.dataset.condition.split(" ");
  const base = () => {
    const [k, phi] = sliders.map((slider) => Number(slider.value));
    return select.value === OSCILLATING ? live.oscillating(k, phi) : live.tabulated(live.potentials[select.value]);
  };
  const begin = () => {
    drawing.start(base());
    sliders.slice(0, 2).forEach((slider) => {
      slider.parentElement.hidden = select.value !== OSCILLATING;
    });
    setButtons();
  };
  sliders.forEach((slider, i) => {
    const output = slider.parentElement.querySelector("output");
    const tell = () => {
      output.textContent = Number(slider.value).toFixed(SLIDERS[i].digits);
    };
    slider.value = first[i];
    slider.addEventListener("input", () => {
      tell();
      if (i < 2) drawing.follow(base());
    });
    tell();
  });
  select.addEventListener("change", begin);
  undoButton.addEventListener("click", () => {
    begin();
    select.focus();
  });
  begin();
})();
