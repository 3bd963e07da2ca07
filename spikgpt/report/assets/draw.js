// Drawing of points: WebGL 2, or pixels of a 2-D canvas where a browser has no WebGL.

const VERTEX = `#version 300 es
in vec2 position;
in vec4 color;
uniform vec2 centre, scale;
uniform float size;
out vec4 shade;
void main() {
  gl_Position = vec4((position - centre) * scale, 0.0, 1.0);
  gl_PointSize = size + 1.0;
  shade = color;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 shade;
uniform float size;
out vec4 result;
void main() {
  float distance = length(gl_PointCoord - 0.5) * (size + 1.0);
  float alpha = shade.a * clamp(0.5 * size + 0.5 - distance, 0.0, 1.0);
  if (alpha <= 0.0) discard;
  result = vec4(shade.rgb * alpha, alpha);
}`;

class WebGLPoints {
  static on(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true, alpha: true });
    return gl && new WebGLPoints(gl);
  }

  constructor(gl) {
    this.name = "webgl";
    this.gl = gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    this.uniforms = {};
    for (const name of ["centre", "scale", "size"]) this.uniforms[name] = gl.getUniformLocation(program, name);
    this.buffers = { position: gl.createBuffer(), color: gl.createBuffer(), order: gl.createBuffer() };
    this.places = { position: gl.getAttribLocation(program, "position"), color: gl.getAttribLocation(program, "color") };
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0, 0, 0, 0);
  }

  setPositions(positions) {
    const { gl, buffers, places } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.position);
    gl.bufferData(gl.ARRAY_BUFFER, positions, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(places.position);
    gl.vertexAttribPointer(places.position, 2, gl.UNSIGNED_SHORT, false, 0, 0);
  }

  setColors(colors, order) {
    const { gl, buffers, places } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.color);
    gl.bufferData(gl.ARRAY_BUFFER, colors, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(places.color);
    gl.vertexAttribPointer(places.color, 4, gl.UNSIGNED_BYTE, true, 0, 0);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers.order);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
    this.cells = order.length;
  }

  // The last cells of the order are drawn, which are the cells that stand out.
  draw(view, width, height, ratio, radius, cells) {
    const { gl, uniforms } = this;
    const count = Math.min(cells, this.cells);
    gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(uniforms.centre, view.x, view.y);
    gl.uniform2f(uniforms.scale, (2 * view.zoom) / width, (2 * view.zoom) / height);
    gl.uniform1f(uniforms.size, 2 * radius * ratio);
    gl.drawElements(gl.POINTS, count, gl.UNSIGNED_INT, 4 * (this.cells - count));
  }
}

class CanvasPoints {
  static on(canvas) {
    const context = canvas.getContext("2d");
    return context && new CanvasPoints(context);
  }

  constructor(context) {
    this.name = "canvas";
    this.context = context;
  }

  setPositions(positions) {
    this.positions = positions;
  }

  setColors(colors, order) {
    this.colors = colors;
    this.order = order;
  }

  // Each point is a disc of pixels; pale points are mixed with what is below them.
  draw(view, width, height, ratio, radius, cells) {
    const { canvas } = this.context;
    const image = this.context.createImageData(canvas.width, canvas.height);
    const pixels = image.data;
    const size = Math.max(1, Math.round(2 * radius * ratio));
    const disc = [];
    for (let dy = 0; dy < size; dy++) {
      for (let dx = 0; dx < size; dx++) {
        if (Math.hypot(dx - (size - 1) / 2, dy - (size - 1) / 2) <= size / 2) disc.push([dx, dy]);
      }
    }
    const zoom = view.zoom * ratio;
    const left = canvas.width / 2 - view.x * zoom - size / 2;
    const top = canvas.height / 2 + view.y * zoom - size / 2;
    for (let place = Math.max(0, this.order.length - cells); place < this.order.length; place++) {
      const cell = this.order[place];
      const x = Math.round(left + this.positions[2 * cell] * zoom);
      const y = Math.round(top - this.positions[2 * cell + 1] * zoom);
      if (x < 0 || y < 0 || x + size > canvas.width || y + size > canvas.height) continue;
      const color = 4 * cell;
      const alpha = this.colors[color + 3] / 255;
      for (const [dx, dy] of disc) {
        const at = 4 * ((y + dy) * canvas.width + x + dx);
        const below = (pixels[at + 3] / 255) * (1 - alpha);
        const whole = alpha + below;
        for (let band = 0; band < 3; band++) {
          pixels[at + band] = (this.colors[color + band] * alpha + pixels[at + band] * below) / whole;
        }
        pixels[at + 3] = 255 * whole;
      }
    }
    this.context.putImageData(image, 0, 0);
  }
}
