// Masks: who is who on every frame; click, box or paint, and bind by dropping one character onto another.

import { api, picture, watch } from "./api.js";
import { action, el, field, notice } from "./dom.js";
import { findings } from "./findings.js";

const REFERENCE = -1;

// What this tab remembers of a run whose masks were painted after its plan was made: `plan.js` has another made.
export const painted = (id) => `painted ${id}`;

export async function masks(state) {
  if (["queued", "running"].includes(state.job?.state)) return waiting(state);
  if (state.job?.state === "failed" && !state.plan) return failed(state);
  const facts = await api.masks(state.id);
  const editor = new Editor(state, facts);
  await editor.show(0);
  const node = el("div", { class: "stack" },
    el("h2", {}, "Who is who"),
    el("p", { class: "soft" }, "Colours bind a character of the clip to a character of the picture. Go through the frames; paint or click where a colour is wrong."),
    editor.node,
    el("div", { class: "card" }, el("h3", {}, "Who moves whom"), binding(state, facts)),
    findings(state),
    el("div", { class: "row" }, el("a", { class: "button", href: `#/run/${state.id}/plan` }, "The masks are right: plan"),
      el("span", { class: "soft" }, "Painted frames are kept as you leave.")));
  return { node, stop: () => editor.close() };
}

function waiting(state) {
  const bar = el("progress", { max: 1 });
  const told = el("p", { role: "status" }, "Looking for the characters …");
  const watched = watch(state.id, (name, event) => {
    if (name === "masks_progress" && event.total) {
      bar.value = event.done / event.total;
      told.textContent = `Looking for the characters: frame ${event.done} of ${event.total}`;
    }
  });
  watched.done.then(() => location.hash.includes(state.id) && dispatchEvent(new HashChangeEvent("hashchange")));
  return { node: el("div", { class: "stack" }, el("h2", {}, "Masks"), told, bar), stop: watched.stop };
}

function failed(state) {
  return { node: el("div", { class: "stack" }, el("h2", {}, "The masks could not be made"),
    el("p", { class: "finding error" }, state.job.failure), findings(state),
    el("p", {}, el("a", { class: "button", href: `#/run/${state.id}/inputs` }, "Other inputs"))) };
}

class Editor {
  constructor(state, facts) {
    Object.assign(this, { state, facts, frame: 0, tool: "paint", undoing: [], clicks: [], box: null });
    // Strokes, and how many of them the service has: what is painted while a save is on its way is not in it.
    Object.assign(this, { strokes: 0, saved: 0, wanted: 0 });
    this.colours = Object.entries(facts.palette);
    this.background = state.settings.mode === "replacement" ? "white" : "black";
    const used = [...new Set((facts.driving ?? []).map((each) => each.slot).filter(Boolean))];
    this.colour = used[0] ?? "blue";
    this.canvas = el("canvas", { tabIndex: 0, role: "img", 
      "aria-label": "The frame with its mask. Arrow keys move the cross, Shift makes the steps small, Space uses the tool, Page Up and Page Down change the frame." });
    this.cross = null;
    this.slider = el("input", { type: "range", min: REFERENCE, max: facts.frames - 1, value: 0, "aria-label": "Frame" });
    this.label = el("output", {});
    this.brush = el("input", { type: "range", min: 1, max: 40, value: 6 });
    this.opacity = el("input", { type: "range", min: 0, max: 100, value: 55 });
    this.through = el("input", { type: "number", min: 0, max: facts.frames - 1, value: 0, style: "width:6rem" });
    this.character = el("input", { type: "number", min: 1, max: 12, value: 1, style: "width:5rem" });
    this.list = el("ul", {});
    this.listen();
    this.node = this.layout();
  }

  get dirty() {
    return this.strokes !== this.saved;
  }

  layout() {
    const swatches = [...this.colours.filter(([name]) => name !== "black" && name !== "white"), ["eraser", this.facts.palette[this.background]]];
    this.swatches = swatches.map(([name, rgb]) => {
      const dark = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] < 110;
      return el("button", { type: "button", class: "swatch", style: `background:rgb(${rgb});color:${dark ? "#fff" : "#000"}`, "aria-pressed": name === this.colour,
        onclick: () => this.choose(name) }, name);
    });
    const tools = ["paint", "click", "click outside", "box"].map((name) => el("label", {},
      el("input", { type: "radio", name: "tool", value: name, checked: name === this.tool, onchange: () => (this.tool = name) }), ` ${name}`));
    return el("div", { class: "editor" },
      el("div", { class: "card stack" }, el("div", { class: "canvas" }, this.canvas),
        el("div", { class: "row" },
          action("◀ Frame", () => this.step(-1), { class: "quiet", "aria-label": "Frame before" }),
          action("Frame ▶", () => this.step(1), { class: "quiet", "aria-label": "Next frame" }),
          action("The picture", () => this.show(REFERENCE), { class: "quiet" }), this.label),
        this.slider),
      el("div", { class: "card stack" },
        el("fieldset", {}, el("legend", {}, "Tool"), el("div", { class: "row" }, tools)),
        el("div", { class: "row", role: "group", "aria-label": "Colour" }, this.swatches),
        field("Brush, in pixels", this.brush), field("How much of the mask shows", this.opacity),
        el("div", { class: "row" }, action("Undo", () => this.undo(), { class: "quiet" }), action("Save this frame", () => this.save(), { class: "quiet" })),
        el("div", { class: "row" }, action("Save, and the same through frame", () => this.save(Number(this.through.value)), { class: "quiet" }), this.through),
        el("fieldset", {}, el("legend", {}, "Clicks and boxes"), field("Of character", this.character), this.list,
          action("Find the masks again from these", () => this.again(), { class: "quiet" }))));
  }

  listen() {
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.opacity.addEventListener("input", () => this.draw());
    this.canvas.addEventListener("pointerdown", (event) => this.down(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    addEventListener("pointerup", (this.lift = () => this.up()));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => { this.cross = null; this.draw(); });
  }

  // Everything the pointer does, with keys: a cross that is moved, and Space where the pointer would press.
  key(event) {
    const page = { PageUp: -1, PageDown: 1 }[event.key];
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    this.cross ??= [this.canvas.width / 2, this.canvas.height / 2];
    if (page) this.step(page);
    else if (move) {
      const far = event.shiftKey ? 1 : Math.max(Number(this.brush.value), 2);
      this.cross = [this.canvas.width, this.canvas.height].map((side, axis) => Math.min(Math.max(this.cross[axis] + far * move[axis], 0), side - 1));
      if (this.box) this.box.splice(2, 2, ...this.cross);
      this.draw();
    } else if (event.key === " " || event.key === "Enter") {
      if (this.tool === "box" && this.box) this.up();
      else this.press(...this.cross);
      this.painting = false;
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  async show(frame) {
    this.wanted = frame;
    if (this.mask && frame === this.frame) return void (this.slider.value = frame); // what is shown keeps its strokes to undo
    try {
      while (this.dirty) await this.save();
    } catch (error) {
      this.slider.value = this.frame;
      throw error;
    }
    if (this.wanted !== frame) return;
    // Until its mask is here, nothing can be painted on the frame.
    this.mask = null;
    this.canvas.setAttribute("aria-busy", "true");
    this.frame = frame;
    this.slider.value = frame;
    const still = frame === REFERENCE;
    this.label.textContent = still ? "The picture" : `Frame ${frame} of ${this.facts.frames - 1}`;
    this.through.value = Math.max(frame, 0);
    const root = `/v1/runs/${this.state.id}`;
    const [below, mask] = await Promise.all([
      picture(still ? `${root}/inputs/reference.png` : `${root}/inputs/driving/${frame}.png`),
      picture(still ? `${root}/masks/reference.png` : `${root}/masks/driving/${frame}.png`)]);
    if (this.frame !== frame) return;
    this.below = below;
    this.mask = new OffscreenCanvas(mask.width, mask.height);
    this.pen = this.mask.getContext("2d", { willReadFrequently: true });
    this.pen.drawImage(mask, 0, 0);
    this.undoing = [];
    this.canvas.width = mask.width;
    this.canvas.height = mask.height;
    this.canvas.setAttribute("aria-busy", "false");
    this.draw();
  }

  step(by) {
    return this.show(Math.min(Math.max(this.frame + by, REFERENCE), this.facts.frames - 1));
  }

  draw() {
    if (!this.mask) return;
    const pen = this.canvas.getContext("2d");
    pen.globalAlpha = 1;
    pen.drawImage(this.below, 0, 0, this.canvas.width, this.canvas.height);
    pen.globalAlpha = this.opacity.value / 100;
    pen.drawImage(this.mask, 0, 0);
    pen.globalAlpha = 1;
    pen.strokeStyle = "#ff00ff";
    if (this.box) pen.strokeRect(...this.box.slice(0, 2), this.box[2] - this.box[0], this.box[3] - this.box[1]);
    if (this.cross) {
      const [x, y] = this.cross.map((each) => Math.round(each) + 0.5);
      pen.beginPath();
      for (const [dx, dy] of [[7, 0], [0, 7]]) { pen.moveTo(x - dx, y - dy); pen.lineTo(x + dx, y + dy); }
      pen.stroke();
    }
  }

  choose(name) {
    this.colour = name;
    this.swatches.forEach((each) => each.setAttribute("aria-pressed", each.textContent === name));
  }

  at(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [((event.clientX - frame.left) / frame.width) * this.canvas.width, ((event.clientY - frame.top) / frame.height) * this.canvas.height];
  }

  down(event) {
    this.press(...this.at(event));
  }

  press(x, y) {
    if (!this.mask) return;
    if (this.tool === "paint") {
      this.undoing.push(this.pen.getImageData(0, 0, this.mask.width, this.mask.height));
      this.painting = true;
      this.paint(x, y);
    } else if (this.tool === "box") this.box = [x, y, x, y];
    else this.point(x, y, this.tool === "click");
  }

  move(event) {
    const [x, y] = this.at(event);
    if (this.painting) this.paint(x, y);
    if (this.box) { this.box.splice(2, 2, x, y); this.draw(); }
  }

  up() {
    this.painting = false;
    if (!this.box) return;
    const [x0, y0, x1, y1] = this.box;
    this.box = null;
    this.place("boxes", [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map((each) => each.toFixed(1)).join(","));
  }

  // Whole squares of one exact colour: soft edges would be colours that are nobody's.
  paint(x, y) {
    const rgb = this.facts.palette[this.colour === "eraser" ? this.background : this.colour];
    const radius = Number(this.brush.value);
    this.pen.fillStyle = `rgb(${rgb})`;
    for (let row = -radius; row <= radius; row++) {
      const half = Math.floor(Math.sqrt(radius * radius - row * row));
      this.pen.fillRect(Math.round(x) - half, Math.round(y) + row, 2 * half + 1, 1);
    }
    this.strokes++;
    this.draw();
  }

  point(x, y, inside) {
    this.place("points", `${x.toFixed(1)},${y.toFixed(1)}${inside ? "" : ":out"}`);
  }

  place(kind, text) {
    const still = this.frame === REFERENCE;
    const name = still ? `reference_${kind}` : kind;
    this.clicks.push([name, `${still ? "" : `${this.frame}:`}${this.character.value}:${text}`]);
    this.list.append(el("li", {}, `${name.replace("_", " ")} ${this.clicks.at(-1)[1]}`));
    this.draw();
  }

  async again() {
    if (!this.clicks.length) throw new Error("Click or draw a box on a frame first.");
    this.saved = this.strokes;
    const changes = {};
    for (const [name, text] of this.clicks) changes[name] = [...(changes[name] ?? this.state.settings[name] ?? []), text];
    await api.change(this.state.id, changes, "plan");
    dispatchEvent(new HashChangeEvent("hashchange"));
  }

  undo() {
    const before = this.undoing.pop();
    if (!before) throw new Error("There is nothing to undo on this frame.");
    this.pen.putImageData(before, 0, 0);
    this.strokes++;
    this.draw();
  }

  async save(through) {
    if (!this.mask) return;
    const { mask, frame, strokes } = this;
    const blob = await mask.convertToBlob({ type: "image/png" });
    const name = frame === REFERENCE ? "reference" : `driving/${frame}`;
    await api.put_mask(this.state.id, name, blob, frame === REFERENCE ? undefined : through);
    this.saved = Math.max(this.saved, strokes);
    sessionStorage.setItem(painted(this.state.id), "");
    notice(through > frame ? `Frames ${frame} to ${through} are saved.` : "The mask is saved.");
  }

  async close() {
    while (this.dirty) await this.save();
    removeEventListener("pointerup", this.lift);
  }
}

function binding(state, facts) {
  const still = facts.reference ?? [];
  const told = (side, each) => `${side} ${each.number}${each.slot ? ` (${each.slot})` : ""}`;
  const bind = async (driving, reference) => {
    const rules = (facts.driving ?? []).filter((each) => each.number !== driving).flatMap((each) => {
      const pair = facts.binding.pairs.find((one) => one.driving === each.number && one.reference !== reference);
      return pair ? [`driving:${pair.driving}=reference:${pair.reference}`] : [];
    });
    await api.change(state.id, { bind: [...rules, `driving:${driving}=reference:${reference}`] }, "plan");
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  const row = (each) => {
    const pair = facts.binding.pairs.find((one) => one.driving === each.number);
    const choice = el("select", { "aria-label": `${told("clip's character", each)} moves`,
      onchange: () => bind(each.number, Number(choice.value)).catch((error) => notice(error.message, true)) },
      pair ? null : el("option", { value: "" }, "nobody"), still.map((one) => el("option", { value: one.number, selected: pair?.reference === one.number }, told("picture's", one))));
    const chip = el("span", { class: "chip", draggable: true, ondragstart: (event) => event.dataTransfer.setData("text/plain", each.number) }, told("clip's", each));
    return el("li", { class: "row" }, chip, " moves ", choice);
  };
  const target = (one) => el("span", { class: "chip", ondragover: (event) => event.preventDefault(),
    ondrop: (event) => { event.preventDefault(); bind(Number(event.dataTransfer.getData("text/plain")), one.number).catch((error) => notice(error.message, true)); } },
    told("picture's", one));
  return el("div", {}, el("ul", { class: "pairs" }, (facts.driving ?? []).map(row)),
    el("p", { class: "row soft" }, "Drop a clip's character onto:", still.map(target)));
}
