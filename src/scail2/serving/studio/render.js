// Render: progress with time left; each segment can be played when it is finished.

import { api, source, watch } from "./api.js";
import { action, el, minutes } from "./dom.js";

export async function render(state) {
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Rendered" });
  const told = el("p", { role: "status" }, stateWord(state));
  const films = el("div", { class: "grid" });
  const shown = new Set();
  const started = performance.now();
  let first = null;

  async function showSegments() {
    const { segments } = await api.segments(state.id);
    for (const each of segments) {
      const key = `${each.index} ${each.version}`;
      if (shown.has(key)) continue;
      shown.add(key);
      const film = el("video", { src: await source(`/v1/runs/${state.id}/segments/${each.index}.mp4`), controls: true, muted: true, loop: true, playsInline: true });
      films.append(el("figure", {}, film, el("figcaption", {}, `Segment ${each.index}: ${each.frames} frames from frame ${each.first_frame}, seed ${each.seed ?? "the run's"}`)));
    }
  }

  function progress(event) {
    const share = (event.segment + event.step / event.steps) / event.segments;
    first ??= share;
    bar.value = share;
    const passed = (performance.now() - started) / 1000;
    const left = share > first ? (passed / (share - first)) * (1 - share) : NaN;
    told.textContent = `Segment ${event.segment + 1} of ${event.segments}, step ${event.step} of ${event.steps}` +
      (Number.isFinite(left) ? `, about ${minutes(left)} left` : "");
  }

  let watched = null;
  if (["queued", "running"].includes(state.job?.state)) {
    watched = watch(state.id, (name, event) => {
      if (name === "step") progress(event);
      if (name === "segment_finished") showSegments();
      if (name === "output_progress") told.textContent = "Writing the film …";
    });
    watched.done.then(async () => {
      const now = await api.state(state.id);
      if (!location.hash.includes(`${state.id}/render`)) return;
      if (now.job.state === "finished") location.hash = `#/run/${state.id}/result`;
      else dispatchEvent(new HashChangeEvent("hashchange"));
    });
  }
  await showSegments().catch(() => {});
  const finished = !watched && state.run?.state === "finished";
  if (finished) bar.value = 1;
  const node = el("div", { class: "stack" },
    el("h2", {}, "Rendering"), told, bar,
    state.job?.failure ? el("p", { class: "finding error" }, state.job.failure) : null,
    el("div", { class: "row" },
      finished ? el("a", { class: "button", href: `#/run/${state.id}/result` }, "To the film")
        : watched ? action("Stop", () => api.cancel(state.id), { class: "danger" }) : action("Go on", async () => {
        await api.resume(state.id);
        dispatchEvent(new HashChangeEvent("hashchange"));
      }),
      el("span", { class: "soft" }, "Finished segments are kept whatever happens.")),
    films);
  return { node, stop: () => watched?.stop() };
}

function stateWord(state) {
  const words = { queued: "Waiting for a worker …", running: "Begins …", finished: "Finished.", failed: "It stopped.", cancelled: "You stopped it." };
  return words[state.job?.state] ?? "";
}
