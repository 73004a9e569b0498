/**
 * A canvas on the map that is drawn again, as a whole, when something has changed. It extends beyond
 * the edges by a margin, and moves with the map within it: dragging the map costs nothing.
 */

const STEP_MS = 350;

/**
 * @param {(context: CanvasRenderingContext2D, view: View, colours: Record<string, string>) =>
 *   boolean | void} paint returns whether something moves, so that it must be called again
 * @param {{name: string, margin: number}} options the margin as a share of the visible part
 *
 * @typedef {{map: object, width: number, height: number, worldPx: number, left: number, top: number,
 *   ratio: number}} View how large the canvas and the world are, in pixels, and where the canvas is
 *   in the world
 */
export function canvasLayer(paint, { name, margin }) {
  const CanvasLayer = L.Layer.extend({
    onAdd(map) {
      this.canvas = L.DomUtil.create("canvas", `leaflet-zoom-animated ${name}`);
      this.canvas.setAttribute("aria-hidden", "true");
      map.getPane("overlayPane").append(this.canvas);
      map.on("move", this._moved, this);
      map.on("moveend zoom viewreset resize", this.refresh, this);
      map.on("zoomanim", this._follow, this);
      this.frameMs = [];
      this.refresh();
    },

    refresh() {
      this.frame ??= requestAnimationFrame(() => this._draw());
    },

    recolour() {
      this.colours = null;
      this.refresh();
    },

    _moved() {
      if (!this.marginPx) return; // not drawn yet, which a tab that nobody sees may take long to be
      const at = this._map.containerPointToLayerPoint([0, 0]).subtract(this.drawnAt ?? [0, 0]);
      if (Math.abs(at.x) >= this.marginPx.x || Math.abs(at.y) >= this.marginPx.y) this.refresh();
    },

    /** While the map zooms, the picture is stretched; at the end it is drawn again. */
    _follow(event) {
      const scale = this._map.getZoomScale(event.zoom, this._map.getZoom());
      const at = this._map._latLngToNewLayerPoint(this.corner, event.zoom, event.center);
      L.DomUtil.setTransform(this.canvas, at, scale);
    },

    _draw() {
      this.frame = null;
      const map = this._map;
      if (!map || map._animatingZoom) return; // the end of the zoom asks again
      const began = performance.now();
      this.colours ??= colours(map.getContainer());
      const { context, view } = this._clean(map);
      const moves = paint(context, view, this.colours);
      this.frameMs.push(performance.now() - began);
      if (this.frameMs.length > 120) this.frameMs.shift();
      // Fading takes a few steps: drawing each frame would keep a processor busy.
      if (moves) setTimeout(() => this.refresh(), STEP_MS);
    },

    _clean(map) {
      const ratio = devicePixelRatio || 1;
      const { canvas } = this;
      this.marginPx = map.getSize().multiplyBy(margin).round();
      const { x: width, y: height } = map.getSize().add(this.marginPx.multiplyBy(2));
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        canvas.style.width = `${width}px`;
        canvas.style.height = `${height}px`;
      }
      this.drawnAt = map.containerPointToLayerPoint([0, 0]);
      const at = this.drawnAt.subtract(this.marginPx);
      this.corner = map.layerPointToLatLng(at);
      L.DomUtil.setTransform(canvas, at, 1);
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      const origin = map.getPixelOrigin().add(at);
      const worldPx = 256 * 2 ** map.getZoom();
      return {
        context,
        view: { map, width, height, ratio, worldPx, left: origin.x, top: origin.y },
      };
    },
  });
  return new CanvasLayer();
}

/** The colours of the page for a canvas, light or dark. */
function colours(container) {
  const probe = document.createElement("i");
  container.append(probe);
  const found = {};
  for (const name of ["stored", "flight", "delivered", "dead", "muted", "map-line", "map-label", "map-ground"]) {
    probe.style.color = `var(--${name})`;
    found[name.replace("map-", "")] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}
