// Result: picture, clip and film side by side and in sync; segments with their drift, to be rendered again.

import { api, download, source } from "./api.js";
import { action, el, facts, field, minutes, moment, notice, wholeNumber } from "./dom.js";
import { moving, plays } from "./shown.js";

// As docs/long-video.md: a score of 1 is plainly visible.
const SOME = 0.6, STRONG = 1;
const WORDS = { steady: "steady", some: "drifts a little", strong: "stands out" };

export async function result(state) {
  const { segments } = await api.segments(state.id);
  if (state.run?.state !== "finished") {
    return { node: el("div", { class: "stack" }, el("h2", {}, "Result"), el("p", {}, "The film is not finished."),
      el("a", { class: "button", href: `#/run/${state.id}/render` }, "To the rendering")) };
  }
  const fps = rate(state.plan.fps), format = state.settings.format ?? ".mp4";
  const address = await source(`/v1/runs/${state.id}/result`);
  const film = moving(address, format, "The film", { controls: true, preload: "auto" });
  const driving = await api.upload_facts(state.settings.driving);
  const clip = moving(await source(`/v1/uploads/${driving.id}/content`), driving.format, "The clip", { muted: true });
  const other = el("div");
  const followers = plays(driving.format) ? [clip] : [];
  inSync(film, () => followers);
  const detail = el("div", { class: "card stack" }, el("p", { class: "soft" }, "Choose a segment to look at it or render it again."));
  const strip = el("div", { class: "strip", role: "group", "aria-label": "Segments" });
  for (const each of segments) {
    const level = levelOf(each, state.run.verdict);
    strip.append(el("button", { type: "button", class: level, "aria-pressed": false, style: `flex-grow:${each.frames}`,
      "aria-label": `Segment ${each.index}: ${WORDS[level]}`, title: WORDS[level],
      onclick: (event) => {
        for (const one of strip.children) one.setAttribute("aria-pressed", one === event.currentTarget);
        film.currentTime = each.first_frame / fps + 1e-3;
        detail.replaceChildren(...segmentPanel(state, each));
      } }, String(each.index)));
  }
  const node = el("div", { class: "stack" },
    el("h2", {}, "The film"),
    verdict(state),
    took(state.budget),
    el("div", { class: "sync" },
      el("figure", {}, el("img", { src: await source(`/v1/uploads/${state.settings.reference}/content`), alt: "The picture" }), el("figcaption", {}, "Picture")),
      el("figure", {}, clip, el("figcaption", {}, "Clip")),
      el("figure", {}, film, el("figcaption", {}, "Film")), other),
    strip,
    el("p", { class: "soft" }, "Under the film: one field for each segment, green steady, yellow drifts a little, red stands out."),
    detail,
    el("div", { class: "row" },
      el("a", { class: "button", href: address, download: `scail2-${state.id}${format}` }, "Download the film"),
      action("Download the project", () => download(`/v1/runs/${state.id}/project.zip`, `scail2-${state.id}.zip`), { class: "quiet" }),
      transparency(state),
      el("a", { class: "button quiet", href: `#/run/${state.id}/masks` }, "Correct the masks"),
      compare(state, other, followers, film)));
  return { node };
}

// The finished characters alone, as a film with transparency; nothing is rendered again, the film is only written anew.
function transparency(state) {
  const is = state.settings.alpha === "output";
  const go = async () => {
    await api.change(state.id, is ? { alpha: null, format: null } : { alpha: "output", format: ".webm" });
    location.hash = `#/run/${state.id}/render`;
  };
  return action(is ? "Write it with its scene again" : "Write it with transparency (WebM)", go, { class: "quiet" });
}

function rate(text) {
  const [top, bottom = 1] = String(text).split("/").map(Number);
  return top / bottom;
}

// What the rendering took beside what the plan had said.
function took(budget) {
  const total = budget?.total;
  return total ? el("p", { class: "soft" }, `Its segments took ${minutes(total.measured_seconds)}; the plan had reckoned ${minutes(total.predicted_seconds)} for them.`) : null;
}

function levelOf(segment, verdict) {
  if (verdict?.measured?.some((each) => each.is_bad && each.segment === segment.index)) return "strong";
  const score = segment.metrics?.drift?.score ?? 0;
  return score >= STRONG ? "strong" : score >= SOME ? "some" : "steady";
}

function verdict(state) {
  const measured = state.run?.verdict?.measured ?? [];
  const bad = measured.filter((each) => each.is_bad);
  const unmeasured = Object.entries(state.run?.verdict?.unmeasured ?? {}).map(([name, why]) => `${words(name)}: ${why}`);
  return el("div", { class: "stack" },
    measured.length && !bad.length ? el("p", { class: "word-good" }, "Nothing stands out: no drift, seam, flicker or wrong motion above its limit.") : null,
    bad.map((each) => el("p", { class: "finding warning" }, el("span", { class: "word-warning" }, "Look at this"), `: ${each.message}.`,
      each.segment === null ? "" : ` Segment ${each.segment} can be rendered again below.`)),
    measured.length ? el("details", {}, el("summary", {}, "What was measured"), el("div", { class: "scroll" }, el("table", {},
      el("tr", {}, ["", "worst", "limit", "segment", "frame"].map((name) => el("th", { scope: "col" }, name))),
      measured.map((each) => el("tr", {}, el("th", { scope: "row" }, words(each.measure)), el("td", {}, each.value.toFixed(2)),
        el("td", {}, each.limit), el("td", {}, each.segment), el("td", {}, each.frame)))))) : null,
    unmeasured.length ? el("p", { class: "soft" }, `Not measured: ${unmeasured.join("; ")}`) : null);
}

const words = (name) => name.replaceAll("_", " ");

function segmentPanel(state, segment) {
  const drift = segment.metrics?.drift;
  const seed = el("input", { type: "number", min: 0, value: Math.floor(Math.random() * 1e6), style: "width:9rem" });
  const again = (cascade) => async () => {
    await api.rerender(state.id, segment.index, wholeNumber(seed.value), cascade);
    notice(`Segment ${segment.index} is rendered again.`);
    location.hash = `#/run/${state.id}/render`;
  };
  return [el("h3", {}, `Segment ${segment.index}`),
    facts([["frames", `${segment.frames}, from frame ${segment.first_frame}`], ["seed", segment.seed ?? "the run's"],
      ["drift", drift ? drift.score.toFixed(2) : "not measured"], ["seam", drift?.seam_energy?.toFixed(2)],
      ["repeated frames", drift?.repeated_frames?.length || null]]),
    field("Another seed", seed, "Empty: the same noise again."),
    el("div", { class: "row" }, action("Render it again", again(false)), action("… and everything after it", again(true), { class: "quiet" }))];
}

// The followers take the leader's time: started, stopped, moved together.
function inSync(leader, followers) {
  const each = (work) => followers().forEach(work);
  leader.addEventListener("play", () => each((one) => one.play().catch(() => {})));
  leader.addEventListener("pause", () => each((one) => one.pause()));
  leader.addEventListener("seeking", () => each((one) => (one.currentTime = leader.currentTime)));
  leader.addEventListener("timeupdate", () => each((one) => {
    if (Math.abs(one.currentTime - leader.currentTime) > 0.12) one.currentTime = leader.currentTime;
  }));
}

function compare(state, place, followers, film) {
  const choice = el("select", { "aria-label": "Compare with another run" }, el("option", { value: "" }, "Compare with …"));
  const first = [...followers], formats = {};
  api.runs().then(({ runs }) => {
    for (const each of runs.filter((one) => one.id !== state.id && one.run?.state === "finished")) {
      formats[each.id] = each.settings.format;
      choice.append(el("option", { value: each.id }, `${moment(each.created)}, seed ${each.settings.seed ?? 0}`));
    }
  });
  choice.addEventListener("change", async () => {
    followers.splice(0, followers.length, ...first);
    place.replaceChildren();
    if (!choice.value) return;
    const second = moving(await source(`/v1/runs/${choice.value}/result`), formats[choice.value], "The other film", { muted: true });
    if (plays(formats[choice.value])) followers.push(second);
    place.append(el("figure", {}, second, el("figcaption", {}, `The other: ${choice.selectedOptions[0].textContent}`)));
    second.currentTime = film.currentTime;
  });
  return choice;
}
