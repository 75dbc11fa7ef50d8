// Which page is shown, by the address behind the #: #/library, #/new, #/run/ID/STEP.

import { api } from "./api.js";
import { el, notice } from "./dom.js";
import { inputs } from "./inputs.js";
import { library } from "./library.js";
import { masks } from "./masks.js";
import { plan } from "./plan.js";
import { render } from "./render.js";
import { result } from "./result.js";

const STEPS = { inputs: "Inputs", masks: "Masks", plan: "Plan", render: "Render", result: "Result" };
const PAGES = { inputs, masks, plan, render, result };
let leave = null;
let here = location.hash;

// Whether the page before could be left: what was painted there is saved first, and stays where that fails.
async function left() {
  try {
    await leave?.();
  } catch (error) {
    if (!confirm(`${error.message} Leave without what was painted last?`)) {
      history.replaceState(null, "", here);
      return false;
    }
  }
  leave = null;
  here = location.hash;
  return true;
}

async function show() {
  if (!(await left())) return;
  const [, place = "library", id, step = "masks"] = location.hash.split("/");
  const page = document.getElementById("page");
  page.replaceChildren(el("p", { class: "soft" }, "One moment …"));
  try {
    const state = place === "run" ? await api.state(id) : null;
    const current = place === "new" ? "inputs" : state ? step : null;
    drawSteps(state, current);
    const draw = current ? PAGES[current] : place === "library" || place === "" ? library : null;
    if (!draw) throw new Error("There is no such page.");
    const { node, stop } = await draw(state);
    leave = stop ?? null;
    page.replaceChildren(node);
    document.title = `${current ? STEPS[current] : "Library"} – scail2 studio`;
  } catch (error) {
    page.replaceChildren(el("h2", {}, "This did not work"), el("p", {}, error.message));
  }
  page.focus({ preventScroll: false });
}

function drawSteps(state, current) {
  const list = document.getElementById("steps");
  list.replaceChildren();
  if (!current) return;
  for (const [step, word] of Object.entries(STEPS)) {
    const reachable = state && (step !== "result" || state.run?.finished?.length);
    const properties = step === current ? { "aria-current": "step" } : {};
    const where = reachable ? `#/run/${state.id}/${step}` : step === "inputs" ? "#/new" : null;
    list.append(el("li", {}, where ? el("a", { href: where, ...properties }, word) : el("span", {}, word)));
  }
}

window.addEventListener("hashchange", show);
window.addEventListener("unhandledrejection", (event) => notice(event.reason?.message ?? String(event.reason), true));
show();
