// Inputs: a picture, a clip, and what is to become of them.

import { api, source } from "./api.js";
import { action, el, field, notice, wholeNumber } from "./dom.js";
import { samplingFold } from "./sampling.js";
import { moving, plays } from "./shown.js";
import { soundChoice } from "./sound.js";

export async function inputs(state) {
  const chosen = state ? { ...state.settings } : { mode: "animation" };
  const places = { reference: dropPlace("reference", "Picture of the character", "image/*"),
    driving: dropPlace("driving", "Clip whose motion is followed", "video/*,image/gif") };
  // Of each place the number of its latest file: what is sent slowly must not take the place of what was chosen after it.
  const turns = { reference: 0, driving: 0 };
  let waiting = 0;
  const offers = await api.offers();
  const form = settingsForm(chosen, offers), sampling = samplingFold(chosen, offers);

  function dropPlace(name, label, accept) {
    const input = el("input", { type: "file", accept, "aria-label": label });
    const preview = el("div");
    const place = el("div", { class: "drop" }, el("h3", {}, label), preview, el("p", { class: "soft" }, "Drop a file here, or"), input);
    const take = async (file) => {
      if (!file) return;
      notice("");
      preview.replaceChildren(el("p", {}, `Sending ${file.name} …`));
      await use(name, async () => (await api.upload(file)).id).catch((error) => notice(error.message, true));
    };
    input.addEventListener("change", () => take(input.files[0]));
    place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("over");
      take(event.dataTransfer.files[0]);
    });
    return Object.assign(place, { preview });
  }

  // What `find` gives is the place's file, unless another was chosen meanwhile; until it is there the place has none.
  async function use(name, find) {
    const turn = ++turns[name];
    delete chosen[name];
    waiting += 1;
    try {
      const id = await find();
      const facts = await api.upload_facts(id);
      if (facts.kind === "sound") throw new Error("That file holds sound only: choose a picture or a clip.");
      const where = await source(`/v1/uploads/${id}/content`);
      if (turn === turns[name]) show(name, id, facts, where);
    } catch (error) {
      if (turn !== turns[name]) return;
      places[name].preview.replaceChildren();
      throw error;
    } finally {
      waiting -= 1;
    }
  }

  function show(name, id, facts, where) {
    chosen[name] = id;
    const label = name === "reference" ? "The picture you chose" : "The clip you chose";
    const shown = facts.kind === "video" ? moving(where, facts.format, label, { controls: true, muted: true }) : el("img", { src: where, alt: label });
    const told = facts.kind === "video"
      ? `${facts.width}×${facts.height}, ${facts.frames} frames, ${facts.seconds.toFixed(1)} s`
      : `${facts.width}×${facts.height}`;
    places[name].preview.replaceChildren(shown, el("p", { class: "soft" }, told), name === "driving" && facts.kind === "video" ? trimmer(id, facts, plays(facts.format) ? shown : null) : "");
  }

  // Marks are taken from where the clip is stopped, or written as frames.
  function trimmer(id, facts, film) {
    const fps = facts.frames / facts.seconds;
    const frame = (label, value) => el("input", { type: "number", min: 0, max: facts.frames, value, "aria-label": label, style: "width:5.5rem" });
    const start = frame("First frame to keep", 0), stop = frame("First frame to leave out", facts.frames);
    const here = (label, input) => film && action(label, () => (input.value = Math.min(Math.round(film.currentTime * fps), facts.frames)), { class: "quiet" });
    // Outside of `use`: a trim that fails leaves the whole clip chosen.
    const trim = async () => {
      waiting += 1;
      try {
        const made = await api.trim(id, Number(start.value), Number(stop.value));
        await use("driving", async () => made.id);
      } finally {
        waiting -= 1;
      }
    };
    return el("div", { class: "row" }, "Keep frames", start, here("from here", start), "to", stop, here("to here", stop), action("Trim", trim, { class: "quiet" }));
  }

  async function example(name) {
    const given = await api.example(name);
    form.mode(given.mode);
    await Promise.all(["reference", "driving"].map((each) => use(each, async () => given[each])));
    notice(`The example “${name}” is chosen.`);
  }

  async function go() {
    if (waiting) throw new Error("A file is still being sent: wait until it is shown.");
    if (!chosen.reference || !chosen.driving) throw new Error("Choose a picture and a clip first.");
    const settings = { ...chosen, ...form.values(), ...sampling.values() };
    for (const [name, value] of Object.entries(settings)) if (value === null || value === "") delete settings[name];
    const made = state ? await api.change(state.id, { ...cleared(state.settings, settings), ...settings }, "plan")
      : await api.submit(settings, "plan");
    location.hash = `#/run/${made.id}/masks`;
  }

  for (const name of ["reference", "driving"]) {
    const id = chosen[name];
    if (id) await use(name, async () => id);
  }
  const names = (await api.examples()).examples;
  const node = el("div", { class: "stack" },
    el("h2", {}, "What is to move, and how"),
    el("div", { class: "row" }, el("span", {}, "No files at hand? Try an example:"),
      names.map((name) => action(name, () => example(name), { class: "quiet" }))),
    el("div", { class: "grid" }, places.reference, places.driving),
    form.node,
    sampling.node,
    el("div", { class: "row" }, action("Find the masks", go), el("span", { class: "soft" }, "Nothing is rendered yet.")));
  return { node };
}

// Settings that the run has and the form no longer: null takes them back.
function cleared(before, now) {
  return Object.fromEntries(Object.keys(before).filter((name) => !(name in now)).map((name) => [name, null]));
}

function settingsForm(chosen, offers) {
  const number = (name, attributes) => el("input", { type: "number", value: chosen[name] ?? "", ...attributes });
  const radios = ["animation", "replacement"].map((mode) =>
    el("input", { type: "radio", name: "mode", value: mode, checked: (chosen.mode ?? "animation") === mode }));
  const told = { animation: "The picture's character performs the motion, in the picture's own scene.",
    replacement: "The picture's character takes the place of the person in the clip; the clip's scene stays." };
  const fields = {
    frames: number("frames", { min: 1 }), fps: el("input", { value: chosen.fps ?? "", inputMode: "decimal" }),
    height: number("height", { min: 16, step: 16 }), width: number("width", { min: 16, step: 16 }),
    seed: number("seed", { min: 0 }), characters: number("characters", { min: 1 }),
  };
  const sound = soundChoice(chosen), wanted = el("input", { value: (chosen.text ?? []).join(", ") });
  const fit = el("select", {}, el("option", { value: "cover" }, "cut the edges (cover)"), el("option", { value: "letterbox" }, "add bars (letterbox)"));
  fit.value = chosen.fit ?? "cover";
  const node = el("div", { class: "stack" },
    el("fieldset", {}, el("legend", {}, "What becomes of the scene"),
      el("div", { class: "grid" }, radios.map((radio) => el("label", { class: "choice small" }, radio, ` ${radio.value}`,
        el("br"), el("img", { src: `${radio.value}.png`, alt: "" }), el("br"), el("span", { class: "soft" }, told[radio.value]))))),
    el("details", {}, el("summary", {}, "Length, rate, size, sound, seed"),
      el("div", { class: "grid", style: "margin-top:.8rem" },
        field("Frames from the beginning", fields.frames, "Empty: the whole clip."),
        field("Frames a second", fields.fps, "Empty: the clip's own."),
        field("Height in pixels", fields.height, "Empty: the model's own size."),
        field("Width in pixels", fields.width),
        field("Pictures of another shape", fit),
        sound.node,
        field("Seed of the noise", fields.seed),
        field("Characters to expect", fields.characters),
        offers.text ? field("What to look for, in words", wanted, "Empty: people. Commas between several.") : null)));
  const listed = (text) => text.split(",").map((each) => each.trim()).filter(Boolean);
  return {
    node,
    mode: (value) => radios.forEach((radio) => (radio.checked = radio.value === value)),
    values: () => ({
      mode: radios.find((radio) => radio.checked).value, fit: fit.value, fps: fields.fps.value.trim() || null, audio: sound.value(),
      text: listed(wanted.value).length ? listed(wanted.value) : null,
      ...Object.fromEntries(["frames", "height", "width", "seed", "characters"].map((name) => [name, wholeNumber(fields[name].value)])),
    }),
  };
}
