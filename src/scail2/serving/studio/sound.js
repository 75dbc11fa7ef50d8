// The film's sound: the clip's, none, or that of a file, which is sent when it is chosen.

import { api, source } from "./api.js";
import { el, field, notice } from "./dom.js";

export function soundChoice(chosen) {
  let turn = 0;
  let file = typeof chosen.audio === "string" ? chosen.audio : null;
  const kind = el("select", {}, el("option", { value: "clip" }, "the clip's own"), el("option", { value: "none" }, "none"),
    el("option", { value: "file" }, "of a file"));
  kind.value = file ? "file" : chosen.audio === false ? "none" : "clip";
  const input = el("input", { type: "file", accept: "audio/*,video/*", "aria-label": "File with the sound" });
  const heard = el("div");
  const place = el("div", {}, input, heard);
  const show = () => (place.hidden = kind.value !== "file");
  const play = async () => heard.replaceChildren(el("audio", { src: await source(`/v1/uploads/${file}/content`), controls: true }));
  kind.addEventListener("change", show);
  input.addEventListener("change", async () => {
    if (!input.files[0]) return;
    const mine = ++turn;
    file = null;
    notice("");
    heard.replaceChildren(el("p", {}, `Sending ${input.files[0].name} …`));
    try {
      const sent = await api.upload(input.files[0]);
      if (mine !== turn) return;
      if (sent.kind === "picture") throw new Error("That file is a picture: choose a file with sound.");
      if (sent.sound === false) throw new Error("There is no sound in that video: choose another file.");
      file = sent.id;
      await play();
    } catch (error) {
      if (mine !== turn) return;
      heard.replaceChildren();
      notice(error.message, true);
    }
  });
  show();
  if (file) play();
  return {
    node: el("div", {}, field("Sound of the film", kind), place),
    value() {
      if (kind.value === "file" && !file) throw new Error("Choose a file with the sound, or another sound.");
      return { clip: null, none: false, file }[kind.value];
    },
  };
}
