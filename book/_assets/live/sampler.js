// The sampler of few calls, and molecular dynamics to hold it against, for a page: what mddm.geometry,
// mddm.sampling, mddm.samplers, mddm.potential and mddm.lammps do, for one system in a periodic cube.
// tests/book/test_live.py compares the two.
//
// Positions, velocities, forces and noise are flat arrays of x, y, z of each particle. Randomness
// comes from functions normal(n) that return n unit normal numbers. Generators yield what they have
// arrived at, so that the page can draw it, wait or stop.
window.mddmLive ??= {};
Object.assign(window.mddmLive, (() => {
  "use strict";

  const live = window.mddmLive;

  // ---- numbers ---------------------------------------------------------------------------------

  // Numbers below 1 that depend on the seed alone: Marsaglia's multiply-with-carry, twice 16 bits.
  function uniformNumbers(seed) {
    let [low, high] = [(seed ^ 0x1f123bb5) >>> 0 || 1, (seed + 0x159a55e5) >>> 0 || 1];
    const next = () => {
      low = 36969 * (low & 0xffff) + (low >>> 16);
      high = 18000 * (high & 0xffff) + (high >>> 16);
      return (((high << 16) + (low & 0xffff)) >>> 0) / 2 ** 32;
    };
    for (let i = 0; i < 32; i++) next(); // seeds that are near each other part ways
    return next;
  }

  // Box and Muller's pairs.
  function normalNumbers(uniform) {
    return (n) => {
      const drawn = new Float64Array(n);
      for (let i = 0; i < n; i += 2) {
        const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
        const angle = 2 * Math.PI * uniform();
        drawn[i] = radius * Math.cos(angle);
        if (i + 1 < n) drawn[i + 1] = radius * Math.sin(angle);
      }
      return drawn;
    };
  }

  // ---- geometry --------------------------------------------------------------------------------

  function wrap(positions, boxLength) {
    return positions.map((x) => {
      const inside = x - boxLength * Math.floor(x / boxLength);
      return inside < boxLength ? inside : 0;
    });
  }

  // Of the difference of two coordinates inside the box.
  function minimumImage(d, boxLength) {
    if (2 * d > boxLength) return d - boxLength;
    return 2 * d < -boxLength ? d + boxLength : d;
  }

  // List the particles of each cell of a cube of n^3 cells, and the 27 cells around each.
  function makeCells(positions, n, boxLength) {
    const members = Array.from({ length: n ** 3 }, () => []);
    const place = (x) => Math.min(Math.floor((x / boxLength) * n), n - 1);
    for (let i = 0; i < positions.length; i += 3)
      members[(place(positions[i]) * n + place(positions[i + 1])) * n + place(positions[i + 2])].push(i / 3);
    const steps = [n - 1, 0, 1];
    const around = members.map((_, cell) => {
      const [x, y, z] = [Math.floor(cell / n ** 2), Math.floor(cell / n) % n, cell % n];
      return steps.flatMap((a) => steps.flatMap((b) => steps.flatMap((c) =>
        members[(((x + a) % n) * n + ((y + b) % n)) * n + ((z + c) % n)]))); // prettier-ignore
    });
    return { members, around };
  }

  // The k nearest neighbours of each particle, nearest first, and the vectors to them.
  function nearestNeighbors(positions, k, boxLength) {
    const count = positions.length / 3;
    const neighbors = new BigInt64Array(count * k);
    const displacements = new Float32Array(count * k * 3);
    // A cell has room for four particles on average, so that the cells around it hold enough.
    const n = Math.floor((count / 4) ** (1 / 3));
    const everyone = [...Array(count).keys()];
    const cells = n < 3 ? { members: [everyone], around: [everyone] } : makeCells(positions, n, boxLength);
    const reach = n < 3 ? Infinity : boxLength / n;
    const [index, square] = [new Int32Array(k), new Float64Array(k)];
    const along = (i, j, axis) => minimumImage(positions[3 * j + axis] - positions[3 * i + axis], boxLength);
    const search = (i, candidates) => {
      square.fill(Infinity);
      for (const j of candidates) {
        if (j === i) continue;
        const d2 = along(i, j, 0) ** 2 + along(i, j, 1) ** 2 + along(i, j, 2) ** 2;
        if (d2 >= square[k - 1]) continue;
        let rank = k - 1;
        for (; rank > 0 && square[rank - 1] > d2; rank--) {
          square[rank] = square[rank - 1];
          index[rank] = index[rank - 1];
        }
        square[rank] = d2;
        index[rank] = j;
      }
      return Math.sqrt(square[k - 1]);
    };
    cells.members.forEach((members, cell) => {
      for (const i of members) {
        // What lies beyond the cells around may be nearer than what was found.
        if (search(i, cells.around[cell]) > reach) search(i, everyone);
        for (let rank = 0; rank < k; rank++) {
          neighbors[i * k + rank] = BigInt(index[rank]);
          for (let axis = 0; axis < 3; axis++)
            displacements[(i * k + rank) * 3 + axis] = along(i, index[rank], axis);
        }
      }
    });
    return { neighbors, displacements };
  }

  // g(r) on bins of equal width from 0 to rMax.
  function rdf(positions, boxLength, nBins, rMax) {
    const count = positions.length / 3;
    const pairs = new Float64Array(nBins);
    for (let i = 0; i < count; i++)
      for (let j = 0; j < i; j++) {
        let d2 = 0;
        for (let axis = 0; axis < 3; axis++)
          d2 += minimumImage(positions[3 * j + axis] - positions[3 * i + axis], boxLength) ** 2;
        const bin = Math.floor((Math.sqrt(d2) / rMax) * nBins);
        if (bin < nBins) pairs[bin] += 2;
      }
    const sphere = (bin) => (4 / 3) * Math.PI * ((bin * rMax) / nBins) ** 3;
    const density = count / boxLength ** 3;
    return pairs.map((number, bin) => number / (count * density * (sphere(bin + 1) - sphere(bin))));
  }

  // ---- the sampler -----------------------------------------------------------------------------

  // Down noise levels, given from the lowest up. A corrector takes steps that stay at a level above
  // zero: each replaces a part of the estimated noise by fresh noise.
  async function* ancestral({ estimate, normal, boxLength }, positions, levels, corrector = { nSteps: 0 }) {
    const { nSteps, part, noiseScale } = corrector;
    let calls = 0;
    let x = positions;
    const ask = (sigma) => {
      calls += 1;
      return estimate(x, sigma);
    };
    for (let step = levels.length - 1; step > 0; step--) {
      const [above, below] = [levels[step], levels[step - 1]];
      const eps = await ask(above);
      // The posterior, equations 7 and 8 of the paper, with the exact variance.
      const [drift, spread] = [below ** 2 / above - above, (below * Math.sqrt(above ** 2 - below ** 2)) / above];
      const noise = normal(x.length);
      x = wrap(x.map((value, i) => value + drift * eps[i] + spread * noise[i]), boxLength);
      yield { sigma: below, positions: x, calls };
      for (let i = 0; i < nSteps && below > 0; i++) {
        const eps = await ask(below);
        const known = Math.min(eps.reduce((sum, value) => sum + value ** 2, 0) / eps.length, 1);
        const fresh = noiseScale * Math.sqrt(part * (2 - part * known));
        const noise = normal(x.length);
        x = wrap(x.map((value, i) => value + below * (fresh * noise[i] - part * eps[i])), boxLength);
        yield { sigma: below, positions: x, calls };
      }
    }
  }

  // Down noise levels without noise, by a method of second order: the estimate of the data, as a way
  // there from where the particles are, follows a line in log sigma.
  async function* multistep({ estimate, boxLength }, positions, levels) {
    let [x, before, width] = [positions, null, 0];
    for (let step = levels.length - 1; step > 0; step--) {
      const [above, below] = [levels[step], levels[step - 1]];
      const eps = await estimate(x, above);
      const way = Float64Array.from(eps, (value) => -above * value);
      const stretch = Math.log(above / below);
      const ahead = before && below > 0 ? way.map((w, i) => w + ((w - before[i]) * stretch) / (2 * width)) : way;
      const move = ahead.map((w) => (1 - below / above) * w);
      [before, width] = [way.map((w, i) => w - move[i]), stretch];
      x = wrap(x.map((value, i) => value + move[i]), boxLength);
      yield { sigma: below, positions: x, calls: levels.length - step };
    }
  }

  // Where a crystal has to begin, a few large steps with little noise; what is thermal motion's width;
  // and the force on a particle at which relaxing stops.
  const CHILLED = [0.19, 0.23, 0.27];
  const CORRECTOR = { nSteps: 7, part: 0.4, noiseScale: 0.4 };
  const [THERMAL, FORCE] = [0.05, 0.3];
  const QUICK_CALLS = CHILLED.length * (1 + CORRECTOR.nSteps) + 2 + 3;

  // "quick" of mddm.samplers. Draw a structure, relax it by the potential in part, and let the network
  // take away noise of about the width of thermal motion. The generator `relax` is given the length of
  // all forces at which to stop.
  async function* quick(given, start, sigmaMin, sigmaMax, relax) {
    let last = { positions: start, calls: 0 };
    const stages = [
      ["sampled", (x) => ancestral(given, x, [...CHILLED, sigmaMax], CORRECTOR)],
      ["sampled", (x) => multistep(given, x, [0, sigmaMin, CHILLED[0]])],
      ["relaxed", (x) => relax(x, FORCE * Math.sqrt(x.length / 3))],
      ["polished", (x) => {
        const noise = given.normal(x.length);
        const noised = wrap(x.map((value, i) => value + THERMAL * noise[i]), given.boxLength);
        return ancestral(given, noised, [0, sigmaMin, Math.sqrt(sigmaMin * THERMAL), THERMAL]);
      }],
    ]; // prettier-ignore
    for (const [stage, frames] of stages) {
      const { calls } = last;
      for await (const at of frames(last.positions)) {
        last = { sigma: 0, ...at, stage, calls: calls + (at.calls ?? 0) };
        yield last;
      }
    }
  }

  // ---- energies and molecular dynamics -----------------------------------------------------------

  // A system under a smoothed potential: its energy and forces, from a table that is even in r squared, as
  // LAMMPS has it, and from a list of the pairs that are or may soon be within the cut-off.
  const [TABLE_POINTS, SKIN] = [60000, 0.4];

  class System {
    constructor(pair, boxLength) {
      this.boxLength = boxLength;
      this.perSquare = (TABLE_POINTS - 1) / live.R_CUT ** 2;
      this.table = new Float64Array(2 * TABLE_POINTS); // U and -dU/dr / r in turn
      for (let i = 0; i < TABLE_POINTS; i++) {
        const r = Math.sqrt(Math.max(i, 0.01) / this.perSquare);
        const { energy, force } = pair(r);
        this.table.set([energy, force / r], 2 * i);
      }
    }

    listPairs(positions) {
      this.listed = positions.slice();
      const [pairs, L] = [[], this.boxLength];
      const reach = (live.R_CUT + SKIN) ** 2;
      for (let i = 0; i < positions.length; i += 3)
        for (let j = 0; j < i; j += 3) {
          const x = minimumImage(positions[j] - positions[i], L);
          const y = minimumImage(positions[j + 1] - positions[i + 1], L);
          const z = minimumImage(positions[j + 2] - positions[i + 2], L);
          if (x * x + y * y + z * z < reach) pairs.push(i, j);
        }
      this.pairs = Int32Array.from(pairs);
    }

    isListed(positions) {
      if (this.listed?.length !== positions.length) return false;
      const moved = (SKIN / 2) ** 2;
      for (let i = 0; i < positions.length; i += 3) {
        let d2 = 0;
        for (let axis = i; axis < i + 3; axis++)
          d2 += minimumImage(positions[axis] - this.listed[axis], this.boxLength) ** 2;
        if (d2 > moved) return false;
      }
      return true;
    }

    // The potential energy per particle; each one's share is left in `energies`, the forces in
    // `forces`.
    evaluate(positions) {
      if (!this.isListed(positions)) this.listPairs(positions);
      const { pairs, perSquare, table, boxLength: L } = this;
      const forces = (this.forces = new Float64Array(positions.length));
      const shares = (this.energies = new Float64Array(positions.length / 3));
      let total = 0;
      for (let pair = 0; pair < pairs.length; pair += 2) {
        const i = pairs[pair];
        const j = pairs[pair + 1];
        const x = minimumImage(positions[j] - positions[i], L);
        const y = minimumImage(positions[j + 1] - positions[i + 1], L);
        const z = minimumImage(positions[j + 2] - positions[i + 2], L);
        const at = (x * x + y * y + z * z) * perSquare;
        if (at >= TABLE_POINTS - 1) continue;
        const row = 2 * Math.floor(at);
        const part = at - row / 2;
        const energy = table[row] + part * (table[row + 2] - table[row]);
        total += energy;
        shares[i / 3] += energy / 2;
        shares[j / 3] += energy / 2;
        const pull = table[row + 1] + part * (table[row + 3] - table[row + 1]);
        forces[i] -= pull * x;
        forces[i + 1] -= pull * y;
        forces[i + 2] -= pull * z;
        forces[j] += pull * x;
        forces[j + 1] += pull * y;
        forces[j + 2] += pull * z;
      }
      return (3 * total) / positions.length;
    }
  }

  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

  // Go downhill to a minimum of the energy: FIRE (Bitzek et al. 2006), whose steps are limited.
  const [LONGEST_STEP, YIELD_EVERY] = [0.1, 20];

  function* relax(system, start, { tolerance = 1e-2, nMost = 3000 } = {}) {
    let positions = start;
    let energy = system.evaluate(positions);
    let velocities = new Float64Array(start.length);
    let [timeStep, mixing, downhill] = [0.005, 0.1, 0];
    for (let i = 1; i <= nMost; i++) {
      const force = Math.sqrt(dot(system.forces, system.forces));
      if (force <= tolerance) break;
      const { forces } = system;
      if (dot(velocities, forces) >= 0) {
        const turn = (mixing * Math.sqrt(dot(velocities, velocities))) / force;
        velocities = velocities.map((v, j) => (1 - mixing) * v + turn * forces[j]);
        if (++downhill > 5) {
          timeStep = Math.min(1.1 * timeStep, 0.05);
          mixing *= 0.99;
        }
      } else {
        velocities.fill(0);
        timeStep = Math.max(timeStep / 2, 1e-4);
        [mixing, downhill] = [0.1, 0];
      }
      velocities = velocities.map((v, j) => v + timeStep * forces[j]);
      const fastest = velocities.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
      const step = Math.min(timeStep, LONGEST_STEP / fastest);
      positions = wrap(positions.map((x, j) => x + step * velocities[j]), system.boxLength);
      energy = system.evaluate(positions);
      if (i % YIELD_EVERY === 0) yield { positions, energy };
    }
    yield { positions, energy };
  }

  // Molecular dynamics as mddm.lammps anneals: a random start at rest, a tenth of the run at ten
  // times the temperature, cooling, a tenth at the temperature. `fraction` of the number of steps
  // says how much of the run is over, so that its length can be given in steps or in seconds.
  const [TIME_STEP, DAMPING] = [0.01, 1];

  function* quench(system, start, temperature, normal, fraction) {
    let at;
    for (at of relax(system, start, { tolerance: 1e-3, nMost: 300 })) yield { ...at, nSteps: 0 };
    const { boxLength } = system;
    let { positions, energy } = at;
    let velocities = normal(start.length).map((v) => v * Math.sqrt(10 * temperature));
    const kept = Math.exp(-TIME_STEP / DAMPING);
    let forces = system.forces;
    let nSteps = 0;
    for (let part = fraction(0); part < 1; part = fraction(nSteps)) {
      const cooled = Math.min(Math.max((part - 0.1) / 0.8, 0), 1);
      const target = temperature * (10 - 9 * cooled);
      // Half a kick, half a drift, friction and noise, and the halves again (Leimkuhler and Matthews 2013).
      const noise = normal(start.length);
      const width = Math.sqrt((1 - kept ** 2) * target);
      const moved = positions.slice();
      for (let i = 0; i < moved.length; i++) {
        const v = velocities[i] + (TIME_STEP / 2) * forces[i];
        velocities[i] = kept * v + width * noise[i];
        moved[i] += (TIME_STEP / 2) * (v + velocities[i]);
      }
      positions = wrap(moved, boxLength);
      energy = system.evaluate(positions);
      forces = system.forces;
      for (let i = 0; i < moved.length; i++) velocities[i] += (TIME_STEP / 2) * forces[i];
      nSteps += 1;
      if (nSteps % YIELD_EVERY === 0) yield { positions, energy, nSteps };
    }
    const kinetic = dot(velocities, velocities) / velocities.length;
    yield { positions, energy, nSteps, kineticTemperature: kinetic };
  }

  return {
    uniformNumbers, normalNumbers, wrap, nearestNeighbors, rdf, ancestral,
    multistep, quick, QUICK_CALLS, System, relax, quench,
  }; // prettier-ignore
})());
