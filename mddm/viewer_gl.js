// What the graphics card does for viewer.js: spheres and the edges of their box, in perspective.
// One context draws all viewers of a page, each onto a canvas of its own, so that their number is
// not limited by how many contexts a browser grants.
window.mddmViewer ??= {};
window.mddmViewer.Renderer ??= (() => {
  "use strict";

  const DISTANCE = 2.2 * Math.sqrt(3); // of the camera, in box edges, as in mddm.plotting
  const SHELL = 0.25; // how far around the box its periodic images are shown, in box edges
  const CELL = [-1, 0, 1];
  const ORIGIN = [0, 0, 0];
  const SHIFTS = CELL.flatMap((x) => CELL.flatMap((y) => CELL.map((z) => [x, y, z])));

  const SHARED = `#version 300 es
    precision highp float;
    uniform mat3 turn;     // the box's axes on screen: right, up, towards the reader
    uniform float zoom;
    vec4 project(vec3 seen) {
      float near = ${DISTANCE} / (${DISTANCE} - seen.z);
      return vec4(zoom * near * seen.xy, -seen.z / 2.0, 1.0);
    }`;
  const SPHERES = [
    `${SHARED}
    layout(location = 0) in vec3 place;
    layout(location = 1) in float value;
    uniform vec3 shift, colors[16];
    uniform float radius, reach;
    out vec2 corner;
    out vec3 color;
    out float height;
    void main() {
      corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
      vec3 spot = place + shift - 0.5;
      vec3 seen = turn * spot;
      int low = min(int(value * 15.0), 14);
      color = mix(colors[low], colors[low + 1], value * 15.0 - float(low));
      height = seen.z;
      bool far = any(greaterThan(abs(spot), vec3(reach)));
      gl_Position = far ? vec4(2.0, 2.0, 2.0, 1.0) : project(seen);
      gl_Position.xy += zoom * ${DISTANCE} / (${DISTANCE} - seen.z) * radius * corner;
    }`,
    `#version 300 es
    precision highp float;
    in vec2 corner;
    in vec3 color;
    in float height;
    uniform float radius, strength;
    out vec4 pixel;
    void main() {
      float inside = 1.0 - dot(corner, corner);
      if (inside < 0.0) discard;
      vec3 normal = vec3(corner, sqrt(inside));
      float light = dot(normal, normalize(vec3(-0.5, 0.6, 0.75)));
      float body = 0.5 + 0.5 * max(light, 0.0) * mix(0.7, 1.0, normal.z);
      float gloss = 0.35 * pow(max(light, 0.0), 24.0);
      // Haze lets the page shine through, so that it has the page's colour in every theme.
      float clear = strength * (1.0 - 0.55 * clamp(0.5 - height / 1.5, 0.0, 1.0));
      pixel = vec4(clear * (color * body + gloss), clear);
      gl_FragDepth = 0.5 - (height + radius * normal.z) / 4.0;
    }`,
  ];
  const EDGES = [
    `${SHARED}
    layout(location = 0) in vec3 start;
    layout(location = 1) in vec3 end;
    uniform float width;
    void main() {
      vec4 a = project(turn * start), b = project(turn * end);
      vec2 along = normalize(b.xy - a.xy);
      gl_Position = (gl_VertexID & 1) == 0 ? a : b;
      gl_Position.xy += (float(gl_VertexID >> 1) * 2.0 - 1.0) * width * vec2(-along.y, along.x);
    }`,
    `#version 300 es
    precision highp float;
    out vec4 pixel;
    void main() { pixel = vec4(0.5, 0.5, 0.5, 1.0); }`,
  ];
  const BOX = ORIGIN.flatMap((_, axis) =>
    [0, 1, 2, 3].flatMap((side) => {
      const start = ORIGIN.map((_, i) => (i === axis ? 0 : (side >> ((i - axis + 2) % 3)) & 1) - 0.5);
      return [...start, ...start.map((value, i) => (i === axis ? 0.5 : value))];
    })
  );

  return class Renderer {
    // A browser takes the context away when memory is short, and may or may not give it back.
    constructor(whenLostOrRestored) {
      this.canvas = document.createElement("canvas");
      this.gl = this.canvas.getContext("webgl2", { antialias: false });
      this.canvas.addEventListener("webglcontextlost", (event) => {
        event.preventDefault(); // else it never comes back
        whenLostOrRestored();
      });
      this.canvas.addEventListener("webglcontextrestored", () => {
        this.prepare();
        whenLostOrRestored();
      });
      if (this.works) this.prepare();
    }

    get works() {
      return this.gl !== null && !this.gl.isContextLost();
    }

    prepare() {
      this.buffers = new WeakMap();
      this.spheres = this.program(SPHERES);
      this.edges = this.program(EDGES);
      this.box = this.upload(new Float32Array(BOX));
      this.gl.enable(this.gl.DEPTH_TEST);
      for (const location of [0, 1]) this.gl.vertexAttribDivisor(location, 1);
    }

    program(sources) {
      const gl = this.gl;
      const program = gl.createProgram();
      sources.forEach((source, i) => {
        const shader = gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
        gl.shaderSource(shader, source);
        gl.compileShader(shader);
        gl.attachShader(program, shader);
      });
      gl.linkProgram(program);
      const linked = gl.getProgramParameter(program, gl.LINK_STATUS) || gl.isContextLost();
      if (!linked) throw new Error(`mddm viewer: ${gl.getProgramInfoLog(program)}`);
      return program;
    }

    upload(array) {
      const gl = this.gl;
      const buffer = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
      return buffer;
    }

    attribute(location, array, size, type, stride, offset) {
      const gl = this.gl;
      if (!this.buffers.has(array)) this.buffers.set(array, this.upload(array));
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.get(array));
      gl.enableVertexAttribArray(location);
      gl.vertexAttribPointer(location, size, type, type !== gl.FLOAT, stride, offset);
    }

    // Draw one frame; the result is to be copied from this.canvas at once.
    draw({ places, values, colors, count, radius, periodic }, frame, view, size) {
      const gl = this.gl;
      if (this.canvas.width !== size) this.canvas.width = this.canvas.height = size;
      gl.viewport(0, 0, size, size);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);

      const set = this.use(this.spheres, view);
      gl.uniform3fv(gl.getUniformLocation(this.spheres, "colors"), colors);
      this.attribute(0, places, 3, gl.UNSIGNED_SHORT, 6, frame * count * 6);
      if (values) this.attribute(1, values, 1, gl.UNSIGNED_BYTE, 1, frame * count);
      else gl.disableVertexAttribArray(1);
      for (const shift of view.images ? SHIFTS : [ORIGIN]) {
        const own = shift.every((steps) => steps === 0);
        set("1f", "radius", own ? radius : 0.4 * radius);
        set("1f", "strength", own ? 1 : 0.55);
        set("1f", "reach", own ? 1 : 0.5 + SHELL);
        set("3fv", "shift", shift);
        gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
      }

      if (!periodic) return;
      this.use(this.edges, view)("1f", "width", 2 / size);
      gl.bindBuffer(gl.ARRAY_BUFFER, this.box);
      for (const location of [0, 1]) {
        gl.enableVertexAttribArray(location);
        gl.vertexAttribPointer(location, 3, gl.FLOAT, false, 24, 12 * location);
      }
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, BOX.length / 6);
    }

    use(program, view) {
      const gl = this.gl;
      gl.useProgram(program);
      const set = (kind, name, value) =>
        gl[`uniform${kind}`](gl.getUniformLocation(program, name), value);
      gl.uniformMatrix3fv(gl.getUniformLocation(program, "turn"), true, view.turn);
      set("1f", "zoom", (view.images ? 0.85 : 1.18) * view.zoom);
      return set;
    }
  };
})();
