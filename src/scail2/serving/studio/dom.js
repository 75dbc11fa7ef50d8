// Small functions to write pages with; every text goes in as text, never as markup.

export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key === "data") Object.assign(node.dataset, value);
    else if (key in node && !key.startsWith("aria") && key !== "list") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return node;
}

let fading;
export function notice(text, bad = false) {
  const place = document.getElementById("notice");
  place.textContent = text;
  place.className = bad ? "bad" : "";
  clearTimeout(fading);
  fading = setTimeout(() => (place.textContent = ""), bad ? 12000 : 5000);
}

// A button whose work may fail: it is off while it works, and the failure is told.
export function action(label, work, properties = {}) {
  const button = el("button", { type: "button", ...properties }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await work(button);
    } catch (error) {
      notice(error.message, true);
    } finally {
      button.disabled = properties.disabled === true;
    }
  });
  return button;
}

export function field(label, input, help) {
  const id = `f${Math.random().toString(36).slice(2)}`;
  input.id = id;
  const told = help ? el("span", { class: "soft", id: `${id}h` }, help) : null;
  if (help) input.setAttribute("aria-describedby", `${id}h`);
  return el("div", {}, el("label", { htmlFor: id }, label), input, told && el("br"), told);
}

// What a number field says, null where it is empty. Larger numbers would be sent as others than were typed.
export function wholeNumber(text) {
  const number = Number(text);
  if (Math.abs(number) > Number.MAX_SAFE_INTEGER) throw new Error(`This page sends numbers up to ${Number.MAX_SAFE_INTEGER}, not ${text}: take a smaller one.`);
  return text === "" ? null : number;
}

export function facts(pairs) {
  return el("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

export function minutes(seconds) {
  if (!Number.isFinite(seconds)) return "unknown";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// A moment of the service in the reader's own time, as 2026-11-26 23:40.
export function moment(text) {
  const at = new Date(text);
  const two = (number) => String(number).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

// What tells a run from others, in a line: prompt, preset, LoRAs, sound, colours.
export function told(settings) {
  const { prompt, preset, lora = [], audio, drift_correction: colours } = settings;
  return [prompt && `“${prompt.length > 60 ? `${prompt.slice(0, 59)}…` : prompt}”`, preset && `preset ${preset}`, lora.length && `LoRA ${lora.join(", ")}`,
    audio === false ? "no sound" : audio && "another sound", colours && colours !== "off" && `colours ${colours}`].filter(Boolean).join(" · ");
}

export function bytes(number) {
  return number < 1e6 ? `${Math.ceil(number / 1e3)} kB` : number < 1e9 ? `${(number / 1e6).toFixed(1)} MB` : `${(number / 1e9).toFixed(2)} GB`;
}
