// Library: all runs, to reopen, duplicate, delete.

import { api, source } from "./api.js";
import { action, bytes, el, moment, told } from "./dom.js";

const WORDS = { queued: "waits", running: "is being worked on", finished: "", failed: "failed", cancelled: "was stopped" };

export async function library() {
  const { runs } = await api.runs();
  const list = el("ul", { class: "runs" });
  for (const each of runs) list.append(await card(each));
  const node = el("div", { class: "stack" }, el("h2", {}, "Library"),
    runs.length ? list : el("p", {}, "Nothing here yet. ", el("a", { class: "button", href: "#/new" }, "Make the first film")));
  return { node };
}

async function card(run) {
  const step = run.run?.state === "finished" ? "result" : ["queued", "running"].includes(run.job?.state) ? "render" : "masks";
  const where = run.run?.finished?.length ? `/v1/runs/${run.id}/frames/0.png` : `/v1/uploads/${run.settings.reference}/content`;
  const duplicate = async () => {
    const made = await api.submit({ ...run.settings, seed: (run.settings.seed ?? 0) + 1 }, "plan");
    location.hash = `#/run/${made.id}/masks`;
  };
  const remove = async () => {
    if (!confirm("Delete this run with its film, masks and segments?")) return;
    await api.remove(run.id);
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  const worst = run.run?.worst_drift;
  return el("li", { class: "card stack" },
    el("a", { href: `#/run/${run.id}/${step}` }, el("img", { src: await source(where), alt: `Open the ${run.settings.mode} of ${moment(run.created)}`, loading: "lazy" })),
    el("p", {}, `${run.settings.mode}, seed ${run.settings.seed ?? 0}`, el("br"),
      told(run.settings) ? [told(run.settings), el("br")] : null,
      el("span", { class: "soft" }, `${moment(run.created)} · ${run.run?.state ?? "new"} ${WORDS[run.job?.state] ?? ""}`,
        run.run ? ` · ${bytes(run.run.bytes)}` : "", worst ? ` · drift ${worst.toFixed(2)}` : "")),
    el("div", { class: "row" }, action("Duplicate", duplicate, { class: "quiet" }), action("Delete", remove, { class: "danger" })));
}
