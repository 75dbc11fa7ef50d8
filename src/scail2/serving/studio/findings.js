// What preflight found, each with a button for its cure where one setting cures it.

import { api } from "./api.js";
import { action, el } from "./dom.js";

const CURES = {
  polarity: ["Repaint the background", { fix_polarity: true }],
  scale: ["Resize the picture's character", { reframe: "auto" }],
  cut_off: ["Keep the whole picture, with bars", { fit: "letterbox" }],
  confidence: ["I looked: take these masks", { accept_mask: true }],
  short_tail: ["Segments of equal length", { equal_segments: true }],
};
const WORDS = { error: "Must be put right", warning: "Look at this", info: "Good to know" };

export function findings(state) {
  const found = state.plan?.preflight?.findings ?? [];
  if (!found.length) return el("p", { class: "word-good" }, state.plan ? "Nothing is wrong with masks and framing." : "");
  const order = ["error", "warning", "info"];
  const sorted = [...found].sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
  return el("div", { class: "stack" }, el("h3", {}, "What was found"), sorted.map((each) => one(state, each)));
}

function one(state, finding) {
  const cure = CURES[finding.code];
  const applies = cure && Object.entries(cure[1]).some(([name, value]) => state.settings[name] !== value);
  const apply = async () => {
    await api.change(state.id, cure[1], "plan");
    location.hash = `#/run/${state.id}/masks`;
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  const frames = (finding.frames ?? []).map(([start, stop]) => (stop - start > 1 ? `${start}–${stop - 1}` : start)).join(", ");
  return el("div", { class: `finding ${finding.severity}` },
    el("span", { class: `word-${finding.severity}` }, WORDS[finding.severity]), `: ${finding.message}`,
    frames && finding.frames.length ? ` (frames ${frames})` : "",
    finding.fix ? el("div", { class: "soft" }, finding.fix) : null,
    applies ? el("div", {}, action(cure[0], apply, { class: "quiet" })) : null);
}
