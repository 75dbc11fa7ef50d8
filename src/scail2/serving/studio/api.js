// The service's addresses, as functions. Errors carry the service's one sentence.

const token = () => sessionStorage.getItem("token");

function headers(more = {}) {
  return token() ? { Authorization: `Bearer ${token()}`, ...more } : more;
}

async function call(method, where, body, type = "application/json") {
  const response = await fetch(where, {
    method,
    headers: body === undefined ? headers() : headers({ "Content-Type": type }),
    body: body === undefined || type !== "application/json" ? body : JSON.stringify(body),
  });
  if (response.status === 401 && askToken()) return call(method, where, body, type);
  if (!response.ok) throw new Error(await sentence(response));
  return response;
}

async function sentence(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `The service answered ${response.status}.`;
  }
}

function askToken() {
  const given = prompt("This service wants a token:");
  if (given) sessionStorage.setItem("token", given.trim());
  return Boolean(given);
}

const json = async (...given) => (await call(...given)).json();
const run = (id, rest = "") => `/v1/runs/${id}${rest}`;

export const api = {
  upload: (file) => json("POST", "/v1/uploads", file, "application/octet-stream"),
  upload_facts: (id) => json("GET", `/v1/uploads/${id}`),
  trim: (id, start, stop) => json("POST", `/v1/uploads/${id}/trim`, { start, stop }),
  examples: () => json("GET", "/v1/examples"),
  example: (name) => json("POST", `/v1/examples/${name}`),
  offers: () => json("GET", "/v1/offers"),
  submit: (settings, action) => json("POST", "/v1/runs", { settings, action }),
  runs: () => json("GET", "/v1/runs?limit=100"),
  state: (id) => json("GET", run(id)),
  change: (id, settings, action = "render") => json("POST", run(id, "/change"), { settings, action }),
  cancel: (id) => json("POST", run(id, "/cancel")),
  plan: (id) => json("POST", run(id, "/plan")),
  resume: (id) => json("POST", run(id, "/resume")),
  rerender: (id, segment, seed, cascade) => json("POST", run(id, "/rerender"), { segment, seed, cascade }),
  remove: (id) => call("DELETE", run(id)),
  masks: (id) => json("GET", run(id, "/masks")),
  segments: (id) => json("GET", run(id, "/segments")),
  put_mask: (id, name, blob, through) =>
    call("PUT", run(id, `/masks/${name}.png`) + (through === undefined ? "" : `?through=${through}`), blob, "image/png"),
};

// Pictures and films as object URLs where a token must be sent, else as plain addresses.
export async function source(where) {
  if (!token()) return where;
  return URL.createObjectURL(await (await call("GET", where)).blob());
}

// The browser's own download; with a token the file is fetched first, since a link cannot bring one.
export async function download(where, name) {
  const link = Object.assign(document.createElement("a"), { href: await source(where), download: name });
  link.click();
}

export async function picture(where) {
  const blob = await (await call("GET", where)).blob();
  return createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

// Server-sent events by fetch, which can send a token; ends with the job. `stop()` ends it earlier.
export function watch(id, listener) {
  const control = new AbortController();
  const done = (async () => {
    const response = await fetch(run(id, "/events"), { headers: headers(), signal: control.signal });
    if (!response.ok) throw new Error(await sentence(response));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = "";
    for (;;) {
      const { value, done: over } = await reader.read();
      if (over) return;
      waiting += value;
      const parts = waiting.split("\n\n");
      waiting = parts.pop();
      for (const part of parts) {
        const name = /^event: (.*)$/m.exec(part)?.[1];
        const data = /^data: (.*)$/m.exec(part)?.[1];
        if (name === "end") return;
        if (name && data) listener(name, JSON.parse(data));
      }
    }
  })().catch((error) => {
    if (error.name !== "AbortError") throw error;
  });
  return { done, stop: () => control.abort() };
}
