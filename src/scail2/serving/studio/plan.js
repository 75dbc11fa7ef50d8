// Plan: size, segments, memory, time and warnings, before anything is spent.

import { api, source, watch } from "./api.js";
import { action, el, facts, minutes, told as asked } from "./dom.js";
import { findings } from "./findings.js";
import { painted } from "./masks.js";

export async function plan(given) {
  const state = sessionStorage.getItem(painted(given.id)) === null ? given : await api.plan(given.id);
  sessionStorage.removeItem(painted(given.id));
  const planning = state.job?.action === "plan" ? state.job.state : null;
  if (["queued", "running"].includes(planning)) return waiting(state);
  const told = state.plan;
  if (!told || planning === "failed") {
    return { node: el("div", { class: "stack" }, el("h2", {}, "Plan"), el("p", {}, state.job?.failure ?? "There is no plan yet."),
      el("a", { class: "button", href: `#/run/${state.id}/masks` }, "To the masks")) };
  }
  const wrong = (told.preflight?.findings ?? []).some((each) => each.severity === "error");
  const sampling = told.sampling?.resolved ?? {};
  const go = async () => {
    await api.resume(state.id);
    location.hash = `#/run/${state.id}/render`;
  };
  const node = el("div", { class: "stack" },
    el("h2", {}, "What will be rendered"),
    el("div", { class: "grid" },
      el("div", { class: "card" }, el("h3", {}, "Size and length"), facts([
        ["size", `${told.width}×${told.height}`], ["length", `${told.frames} frames, ${told.seconds} s at ${told.fps} a second`],
        ["mode", told.mode], ["segments", `${told.segments.length} of up to ${told.segment_frame_length} frames, ${told.overlap} shared`],
        ["asked", asked(state.settings)], ["model", told.model], ["steps", sampling.steps], ["guidance", sampling.guidance_scale]])),
      el("div", { class: "card" }, el("h3", {}, "What it costs"), cost(state, told)),
      el("figure", {}, el("img", { src: await source(`/v1/runs/${state.id}/plan.png`), alt: "Contact sheet of picture, frames and masks" }),
        el("figcaption", {}, "Picture, frames and masks on one sheet"))),
    findings(state),
    el("div", { class: "row" }, action("Render", go, { disabled: wrong }),
      wrong ? el("span", { class: "word-error" }, "Put right what must be put right first.") : null));
  return { node };
}

function waiting(state) {
  const watched = watch(state.id, () => {});
  watched.done.then(() => location.hash.includes(`${state.id}/plan`) && dispatchEvent(new HashChangeEvent("hashchange")));
  return { node: el("div", { class: "stack" }, el("h2", {}, "Plan"), el("p", { role: "status" }, "The plan is being made …")), stop: watched.stop };
}

function cost(state, told) {
  const budget = told.budget;
  const seconds = state.run?.seconds_per_segment;
  const measured = seconds ? ["measured", `${minutes(seconds * told.segments.length)} at ${minutes(seconds)} a segment`] : ["", null];
  if (!budget?.needs) {
    return el("div", {}, facts([measured]), el("p", { class: "soft" }, budget?.advice?.length ? budget.advice.join(" ") : "Time is known after the first segment."));
  }
  const { needs } = budget;
  const gib = (value) => (value < 1 ? `${Math.ceil(value * 1024)} MiB` : `${value.toFixed(1)} GiB`);
  return facts([
    ["machine", budget.machine],
    [budget.is_cpu ? "main memory" : "GPU memory", `${gib(budget.is_cpu ? needs.main_memory_gib : needs.peak_gib)} of ${gib(budget.memory_gib)}`],
    ["placement", needs.placed ?? needs.placement.kind], ["disk", gib(needs.disk_gib)],
    ["time", `${minutes(needs.total_seconds)}${budget.within === null ? ", a guess: nothing like it was measured here" : ` ± ${Math.round(100 * budget.within)} %`}`],
    ...(budget.fits ? budget.runners_up ?? [] : []).map((each) => ["or", `${gib(budget.is_cpu ? each.main_memory_gib : each.peak_gib)} and ${minutes(each.total_seconds)} as ${each.placed}`]),
    ...(budget.fits ? [] : budget.advice ?? []).map((each) => ["would fit with", each]),
    ...(budget.remarks ?? []).map((each) => ["note", each]), measured]);
}
