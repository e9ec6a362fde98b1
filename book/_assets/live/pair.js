// Pair potentials, drawn ones among them: functions from a distance to energy and force, the slope
// downhill. Made fit for MD as mddm.potential does, and told to the network as mddm.encoding does.
window.mddmLive ??= {};
Object.assign(window.mddmLive, (() => {
  "use strict";

  // ---- potentials ------------------------------------------------------------------------------

  // The oscillating pair potential.
  function oscillating(k, phi) {
    return (r) => {
      const phase = k * (r - 1.25) - phi;
      const energy = r ** -15 + r ** -3 * Math.cos(phase);
      const force = 15 * r ** -16 + 3 * r ** -4 * Math.cos(phase) + k * r ** -3 * Math.sin(phase);
      return { energy, force };
    };
  }

  // Values and slopes at distances that increase, joined by cubics; before and after them a constant.
  function joined(r, values, slopes) {
    return (at) => {
      if (at <= r[0]) return { energy: values[0], force: 0 };
      if (at >= r[r.length - 1]) return { energy: values[r.length - 1], force: 0 };
      let [low, high] = [0, r.length - 1];
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (r[middle] <= at) low = middle;
        else high = middle;
      }
      const width = r[high] - r[low];
      const t = (at - r[low]) / width;
      const [rise, start, end] = [values[high] - values[low], width * slopes[low], width * slopes[high]];
      const energy = values[low] + t * (start + t * (3 * rise - 2 * start - end + t * (start + end - 2 * rise)));
      const slope = start + t * (2 * (3 * rise - 2 * start - end) + 3 * t * (start + end - 2 * rise));
      return { energy, force: -slope / width };
    };
  }

  // A potential that was tabulated at even distances with its slopes.
  function tabulated({ first, step, energies, slopes }) {
    return joined(energies.map((_, i) => first + i * step), energies, slopes);
  }

  // Slopes with which cubics through the points rise and fall only where the points do: Fritsch and
  // Butland 1984. At both ends it is zero.
  function gentleSlopes(r, values) {
    const widths = r.slice(1).map((end, i) => end - r[i]);
    const rises = widths.map((width, i) => (values[i + 1] - values[i]) / width);
    return values.map((_, i) => {
      if (i === 0 || i === values.length - 1 || rises[i - 1] * rises[i] <= 0) return 0;
      const [before, after] = [2 * widths[i] + widths[i - 1], widths[i] + 2 * widths[i - 1]];
      return (before + after) / (before / rises[i - 1] + after / rises[i]);
    });
  }

  // A potential that is changed by so much at some distances, by nothing at R_CUT, and between them by
  // what lies between: the core below the first of them stays as it is.
  function changed(pair, r, changes) {
    if (changes.every((change) => change === 0)) return pair;
    const [places, values] = [[...r, R_CUT], [...changes, 0]];
    const added = joined(places, values, gentleSlopes(places, values));
    return (at) => {
      const [one, other] = [pair(at), added(at)];
      return { energy: one.energy + other.energy, force: one.force + other.force };
    };
  }

  // The potential, brought to zero between R_ON and R_CUT and linear below R_CORE.
  const [R_ON, R_CUT, R_CORE] = [2.5, 3, 0.7];

  function smoothed(pair) {
    return (r) => {
      const inside = Math.max(r, R_CORE);
      if (inside >= R_CUT) return { energy: 0, force: 0 };
      let { energy, force } = pair(inside);
      if (inside > R_ON) {
        const [on, cut, r2, width] = [R_ON ** 2, R_CUT ** 2, inside ** 2, (R_CUT ** 2 - R_ON ** 2) ** 3];
        const factor = ((cut - r2) ** 2 * (cut + 2 * r2 - 3 * on)) / width;
        const slope = (12 * inside * (cut - r2) * (on - r2)) / width;
        force = force * factor - energy * slope;
        energy *= factor;
      }
      return { energy: energy + force * (inside - r), force };
    };
  }

  // ---- what the network is told ----------------------------------------------------------------

  // How much a smoothed potential varies between the nearest neighbours of the closest packing and
  // its end: the unit of what the network is told.
  const [CLOSEST, N_SCALE] = [2 ** (1 / 6), 1001];

  function energyScale(pair) {
    const at = (i) => CLOSEST + ((R_CUT - CLOSEST) * i) / (N_SCALE - 1);
    const energies = Array.from({ length: N_SCALE }, (_, i) => pair(at(i)).energy);
    return Math.max(...energies) - Math.min(...energies);
  }

  // Of a smoothed potential and a temperature: what MD of N_STEPS comes to is asked for.
  const [N_STEPS, FEWEST_STEPS, MOST_STEPS] = [300000, 3000, 500000];
  const N_TOLD = 150;

  function encode(pair, temperature) {
    const scale = energyScale(pair);
    const told = Array.from({ length: N_TOLD }, (_, i) => pair((i + 1) / 50));
    const pace = Math.log(N_STEPS / FEWEST_STEPS) / Math.log(MOST_STEPS / FEWEST_STEPS);
    return Float32Array.from([
      temperature / scale, 2 * pace - 1, 0,
      ...told.map(({ energy }) => energy / scale), ...told.map(({ force }) => force / scale),
    ]); // prettier-ignore
  }

  return { oscillating, tabulated, changed, smoothed, energyScale, encode, R_CUT };
})());
