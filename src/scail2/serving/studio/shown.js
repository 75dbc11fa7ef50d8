// A clip or film as the browser can show it: GIF, WebP and the like move as pictures, which cannot be stopped or set.

import { el } from "./dom.js";

const PICTURES = ["gif", "webp", "png", "avif"];

export const plays = (format) => !PICTURES.includes((format ?? "mp4").replace(".", ""));

// Films get `properties`; what the browser has no decoder for is said where it would have been.
export function moving(src, format, label, properties) {
  if (!plays(format)) return el("img", { src, alt: label });
  const film = el("video", { src, loop: true, playsInline: true, "aria-label": label, ...properties });
  film.addEventListener("error", () => film.after(el("p", { class: "soft" }, "This browser cannot play it; it is used all the same.")), { once: true });
  return film;
}
