// What the film is made with: words, model, sampling and adapters, as far as the service offers a choice.

import { el, field } from "./dom.js";

const COLOURS = { "": "as they come", "reinhard-first": "as in the first segment", "reinhard-previous": "as in the segment before" };

export function samplingFold(chosen, offers) {
  const text = (name) => el("textarea", { rows: 3, style: "width:100%", value: chosen[name] ?? "" });
  const number = (name, attributes) => el("input", { type: "number", value: chosen[name] ?? "", ...attributes });
  const select = (name, options) => {
    const node = el("select", {}, Object.entries(options).map(([value, label]) => el("option", { value }, label)));
    node.value = chosen[name] ?? Object.keys(options)[0];
    return node;
  };
  const named = (names) => Object.fromEntries(names.map((name) => [name, name]));
  const presets = Object.entries(offers.presets).map(([name, { tuned_for: loras }]) => [name, loras ? `${name} (tuned for LoRAs: ${loras})` : name]);
  const words = { prompt: text("prompt"), negative_prompt: text("negative_prompt") };
  const numbers = { num_inference_steps: number("num_inference_steps", { min: 1, max: 1000 }), guidance_scale: number("guidance_scale", { step: "any" }) };
  const choices = {
    preset: select("preset", { "": "the model's own", ...Object.fromEntries(presets) }),
    drift_correction: select("drift_correction", COLOURS),
    ...(offers.models.length > 1 ? { model: select("model", named(offers.models)) } : {}),
  };
  const loras = offers.loras.map((name) => el("input", { type: "checkbox", value: name, checked: (chosen.lora ?? []).includes(name) }));
  const node = el("details", {}, el("summary", {}, "Words, model, sampling"),
    el("div", { class: "grid", style: "margin-top:.8rem" },
      field("Describe the film", words.prompt, "For models that read words."),
      field("What it must not show", words.negative_prompt),
      choices.model ? field("Model", choices.model) : null,
      field("Preset", choices.preset),
      field("Steps", numbers.num_inference_steps, "Empty: the preset's."),
      field("Guidance", numbers.guidance_scale, "Empty: the preset's; 1 is none."),
      field("Colours from segment to segment", choices.drift_correction),
      loras.length ? el("fieldset", {}, el("legend", {}, "LoRAs"), loras.map((box) => el("label", { class: "choice small" }, box, ` ${box.value}`))) : null));
  const filled = (fields, read) => Object.entries(fields).map(([name, input]) => [name, input.value.trim() === "" ? null : read(input.value)]);
  return {
    node,
    values: () => ({
      ...Object.fromEntries([...filled(words, String), ...filled(numbers, Number), ...filled(choices, String)]),
      lora: loras.some((box) => box.checked) ? loras.filter((box) => box.checked).map((box) => box.value) : null,
    }),
  };
}
