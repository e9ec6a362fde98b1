// What the network sees of the whole box, and no part of it has been learned: the strongest waves in
// the density, the sites that they add up to, and who is on which site, as in mddm.waves.
window.mddmLive ??= {};
Object.assign(window.mddmLive, (() => {
  "use strict";

  const [Q_LONG, STRAY, SOFTEST] = [2, 0.1, 0.15];
  const [GRID, BLUR, FEWEST, MOST] = [4.8, 0.25, 0.97, 1.15];
  const [N_NEAR, N_ROUNDS, RELAXATION, SETTLED] = [16, 40, 1.8, 1e-7];

  // Whole numbers of periods along the axes up to qMax, one of q and -q, in the order in which
  // `strongestWaves` adds them up.
  let known = {};
  function fitting(boxLength, qMax) {
    if (known.boxLength === boxLength && known.qMax === qMax) return known;
    const step = (2 * Math.PI) / boxLength;
    const n = Math.floor(qMax / step);
    const [whole, lengths] = [[], []];
    for (let x = -n; x <= n; x++)
      for (let y = -n; y <= n; y++)
        for (let z = 0; z <= n; z++) {
          const length = step * Math.hypot(x, y, z);
          if (length > qMax || !(z > 0 || y > 0 || (y === 0 && x > 0))) continue;
          whole.push(x, y, z);
          lengths.push(length);
        }
    return (known = { boxLength, qMax, n, step, whole: Int32Array.from(whole), lengths });
  }

  // The nWaves strongest waves with q from 2 to qMax, and all longer ones: their periods along the
  // box, wave vectors, strength S(q) and phase; and what the strongest has without order.
  function strongestWaves(positions, boxLength, nWaves, qMax) {
    const { n, step, whole, lengths } = fitting(boxLength, qMax);
    const count = positions.length / 3;
    const [real, imaginary] = [new Float64Array(lengths.length), new Float64Array(lengths.length)];
    const size = 2 * n + 1;
    const [cosines, sines] = [new Float64Array(3 * size), new Float64Array(3 * size)];
    for (let i = 0; i < positions.length; i += 3) {
      for (let axis = 0; axis < 3; axis++)
        for (let h = 0; h <= n; h++) {
          const [at, angle] = [axis * size + n, step * h * positions[i + axis]];
          cosines[at + h] = cosines[at - h] = Math.cos(angle);
          sines[at + h] = Math.sin(angle);
          sines[at - h] = -sines[at + h];
        }
      let [before, a, b] = [null, 0, 0];
      for (let wave = 0; wave < lengths.length; wave++) {
        const [x, y] = [n + whole[3 * wave], size + n + whole[3 * wave + 1]];
        if (before !== x * size + y) {
          before = x * size + y;
          a = cosines[x] * cosines[y] - sines[x] * sines[y];
          b = cosines[x] * sines[y] + sines[x] * cosines[y];
        }
        const z = 2 * size + n + whole[3 * wave + 2];
        real[wave] += a * cosines[z] - b * sines[z];
        imaginary[wave] += a * sines[z] + b * cosines[z];
      }
    }
    const strengths = real.map((value, wave) => (value ** 2 + imaginary[wave] ** 2) / count);
    const all = [...lengths.keys()];
    const short = all.filter((wave) => lengths[wave] >= Q_LONG);
    const chance = Math.log(short.length);
    const strong = short.sort((one, other) => strengths[other] - strengths[one]).slice(0, nWaves);
    const chosen = [...strong, ...all.filter((wave) => lengths[wave] < Q_LONG)];
    return {
      periods: chosen.map((wave) => [...whole.subarray(3 * wave, 3 * wave + 3)]),
      vectors: Float32Array.from(chosen.flatMap((wave) => [...whole.subarray(3 * wave, 3 * wave + 3)].map((h) => step * h))),
      strength: Float32Array.from(chosen, (wave) => strengths[wave]),
      phase: Float32Array.from(chosen, (wave) => Math.atan2(imaginary[wave], real[wave])),
      chance,
    }; // prettier-ignore
  }

  // Add the waves up on a grid of n^3 points, one axis after the other: those that stand above
  // chance, and what the noise has taken from them given back.
  function density({ periods, vectors, strength, phase, chance }, sigma, count, boxLength) {
    const n = 2 * Math.ceil((GRID * boxLength) / 2);
    const turns = Array.from({ length: n }, (_, i) => (2 * Math.PI * i) / n);
    const [cosines, sines] = [turns.map(Math.cos), turns.map(Math.sin)];
    const most = Math.max(...periods.flat().map(Math.abs));
    const size = 2 * most + 1;
    // Along z: of each x and y in turn, n complex numbers.
    const lines = new Float64Array(2 * size * size * n);
    periods.forEach(([x, y, z], wave) => {
      const q2 = vectors[3 * wave] ** 2 + vectors[3 * wave + 1] ** 2 + vectors[3 * wave + 2] ** 2;
      const above = Math.max(strength[wave] - chance, 0) / Math.max(strength[wave], 1);
      const restored = Math.exp(Math.min((q2 * sigma ** 2) / 2, 20));
      const height = Math.min(Math.sqrt(strength[wave] / count) * restored, 1);
      const amplitude = height * above * Math.exp((-q2 * BLUR ** 2) / 2);
      if (amplitude === 0) return;
      const start = 2 * ((x + most) * size + y + most) * n;
      for (let i = 0; i < n; i++) {
        const angle = turns[(z * i) % n] - phase[wave];
        lines[start + 2 * i] += amplitude * Math.cos(angle);
        lines[start + 2 * i + 1] += amplitude * Math.sin(angle);
      }
    });
    // Along y, and then along x, of which the real part is left.
    const planes = new Float64Array(2 * size * n * n);
    for (let x = 0; x < size; x++)
      for (let y = 0; y < size; y++)
        for (let j = 0; j < n; j++) {
          const at = (((y - most) * j) % n + n) % n; // prettier-ignore
          const [from, to] = [2 * (x * size + y) * n, 2 * (x * n + j) * n];
          for (let i = 0; i < 2 * n; i += 2) {
            planes[to + i] += lines[from + i] * cosines[at] - lines[from + i + 1] * sines[at];
            planes[to + i + 1] += lines[from + i] * sines[at] + lines[from + i + 1] * cosines[at];
          }
        }
    const values = new Float64Array(n ** 3);
    for (let x = 0; x < size; x++)
      for (let k = 0; k < n; k++) {
        const at = (((x - most) * k) % n + n) % n; // prettier-ignore
        const [from, to] = [2 * x * n * n, k * n * n];
        for (let i = 0; i < n * n; i++)
          values[to + i] += planes[from + 2 * i] * cosines[at] - planes[from + 2 * i + 1] * sines[at];
      }
    return { values, n };
  }

  // The sites of a crystal: where the crests of its waves meet. None where there are not about as
  // many as particles.
  function findSites(waves, sigma, count, boxLength) {
    const { values, n } = density(waves, sigma, count, boxLength);
    const steps = [n - 1, 0, 1];
    const sites = [];
    for (let x = 0; x < n; x++)
      for (let y = 0; y < n; y++)
        for (let z = 0; z < n; z++) {
          const at = (a, b, c) => values[(((x + a) % n) * n + ((y + b) % n)) * n + ((z + c) % n)];
          const height = at(0, 0, 0);
          if (height <= 0) continue;
          if (steps.some((a) => steps.some((b) => steps.some((c) => at(a, b, c) > height)))) continue;
          // The top of a parabola through the crest and its neighbours on the grid.
          [[x, 1, 0, 0], [y, 0, 1, 0], [z, 0, 0, 1]].forEach(([place, a, b, c]) => {
            const [above, below] = [at(a, b, c), at((n - 1) * a, (n - 1) * b, (n - 1) * c)];
            const bend = Math.max(2 * (2 * height - above - below), 1e-6);
            const offset = Math.min(Math.max((above - below) / bend, -0.5), 0.5);
            sites.push(((place + offset) * boxLength) / n);
          }); // prettier-ignore
        }
    const part = sites.length / 3 / count;
    return Float64Array.from(part >= FEWEST && part <= MOST ? sites : []);
  }

  // Share the sites out, no site more than once: the way from each particle to its site, on average
  // over those that it may have, and the share of the likeliest. Sinkhorn's algorithm.
  function assign(positions, sites, sigma, boxLength) {
    const [count, nSites] = [positions.length / 3, sites.length / 3];
    const [way, certainty] = [new Float32Array(positions.length), new Float32Array(count)];
    if (nSites === 0) return { way, certainty, found: Float32Array.of(0) };
    const k = Math.min(N_NEAR, nSites);
    const near = new Int32Array(count * k);
    const apart = new Float64Array(3 * count * k);
    const likely = new Float64Array(count * k);
    const spread = Math.max(sigma, SOFTEST) ** 2 + STRAY ** 2;
    const shortest = (d) => d - boxLength * Math.round(d / boxLength);
    for (let i = 0; i < count; i++) {
      const squares = Float64Array.from({ length: nSites }, (_, site) =>
        [0, 1, 2].reduce((sum, axis) => sum + shortest(sites[3 * site + axis] - positions[3 * i + axis]) ** 2, 0));
      const limit = squares.slice().sort()[k - 1];
      for (let site = 0, rank = 0; rank < k; site++) {
        if (squares[site] > limit) continue;
        const edge = i * k + rank++;
        near[edge] = site;
        likely[edge] = -squares[site] / (2 * spread);
        for (let axis = 0; axis < 3; axis++)
          apart[3 * edge + axis] = shortest(sites[3 * site + axis] - positions[3 * i + axis]);
      }
    } // prettier-ignore
    const weight = new Float64Array(nSites);
    const shares = new Float64Array(count * k);
    const share = () => {
      for (let i = 0; i < count * k; i += k) {
        let [highest, sum] = [-Infinity, 0];
        for (let edge = i; edge < i + k; edge++) {
          shares[edge] = likely[edge] + weight[near[edge]];
          highest = Math.max(highest, shares[edge]);
        }
        for (let edge = i; edge < i + k; edge++) sum += shares[edge] = Math.exp(shares[edge] - highest);
        for (let edge = i; edge < i + k; edge++) shares[edge] /= sum;
      }
    };
    for (let round = 0, change = 1; round < N_ROUNDS && change >= SETTLED; round++) {
      share();
      const wanted = new Float64Array(nSites);
      near.forEach((site, edge) => (wanted[site] += shares[edge]));
      change = 0;
      weight.forEach((before, site) => {
        weight[site] = Math.min(before - RELAXATION * Math.log(Math.max(wanted[site], 1e-12)), 0);
        change = Math.max(change, Math.abs(weight[site] - before));
      });
    }
    share();
    shares.forEach((part, edge) => {
      const i = Math.floor(edge / k);
      for (let axis = 0; axis < 3; axis++) way[3 * i + axis] += part * apart[3 * edge + axis];
      certainty[i] = Math.max(certainty[i], part);
    });
    return { way, certainty, found: Float32Array.of(1) };
  }

  return { strongestWaves, findSites, assign };
})());
