"""The method's specification restated in float64 with plain tensor arithmetic. Independent: imports nothing of scail2.

Weights are a dictionary in published names. Everything is written for reading, nothing for speed.
"""

import math

import torch

KNOWN = 4
PLANE_COLOURS = ["white", "red", "green", "blue", "yellow", "magenta", "cyan"]
CHANNELS_ON = {"white": "rgb", "red": "r", "green": "g", "blue": "b", "yellow": "rg", "magenta": "rb", "cyan": "gb"}


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(x, eps, weight=None, bias=None):
    x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + eps)
    return x if weight is None else x * weight + bias


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def sinusoid(t, dim):
    """t (B,) -> (B, dim): cosines, then sines."""
    rows = []
    for value in t.tolist():
        angles = [value * 10000.0 ** (-j / (dim // 2)) for j in range(dim // 2)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    return torch.tensor(rows, dtype=torch.float64)


def rotary_factor(position, head_dim, theta):
    """Complex rotary factors (head_dim / 2,) of one patch at (t, h, w)."""
    spatial = 2 * (head_dim // 6)
    angles = []
    for place, dim in zip(position, (head_dim - 2 * spatial, spatial, spatial), strict=True):
        angles += [place * theta ** (-2 * i / dim) for i in range(dim // 2)]
    return torch.polar(torch.ones(len(angles), dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))


def rotary_factors(cfg, mode, n, grid, offset=0):
    """Factors (tokens, head_dim / 2) of [additional references ; reference ; video ; driving], patch by patch."""
    frames, height, width = grid
    side, head_dim, theta = cfg["downsample"], cfg["head_dim"], cfg["theta"]
    ref_h = cfg["height_shift"] if mode == "replacement" else 0
    start = n + (1 if mode == "animation" else 0) + offset

    def factor(t, h, w):
        return rotary_factor((t, h, w), head_dim, theta)

    cells = [(y, x) for y in range(height) for x in range(width)]
    table = [factor(t, ref_h + y, x) for t in range(n + 1) for y, x in cells]
    table += [factor(start + t, y, x) for t in range(frames) for y, x in cells]
    for t in range(frames):
        for y in range(0, height, side):
            for x in range(0, width, side):
                block = [(y + i, x + j) for i in range(side) for j in range(side)]
                table.append(sum(factor(start + t, b, cfg["width_shift"] + a) for b, a in block) / side**2)
    return torch.stack(table)


def rotate(x, factors):
    """x (B, heads, tokens, head_dim) by complex factors on adjacent lanes."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * factors).flatten(-2)


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(q, k, v):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def patches(w, name, x):
    """Patch embedding (B, C, T, H, W) -> (B, tokens, dim) as a matrix product over flattened 1 x 2 x 2 patches."""
    b, c, t, h, width = x.shape
    x = x.reshape(b, c, t, h // 2, 2, width // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, c * 4)
    return x @ w[f"{name}.weight"].flatten(1).T + w[f"{name}.bias"]


def with_known(x, known):
    return torch.cat([x, known.expand(x.shape[0], KNOWN, *x.shape[2:])], dim=1)


def block(w, p, cfg, x, e, factors, text, image):
    n, eps = cfg["heads"], cfg["eps"]
    shift1, scale1, gate1, shift2, scale2, gate2 = (w[f"{p}.modulation"] + e).unbind(1)
    y = layer_norm(x, eps) * (1 + scale1[:, None]) + shift1[:, None]
    q = rms_norm(linear(w, f"{p}.self_attn.q", y), w[f"{p}.self_attn.norm_q.weight"], eps)
    k = rms_norm(linear(w, f"{p}.self_attn.k", y), w[f"{p}.self_attn.norm_k.weight"], eps)
    v = heads(linear(w, f"{p}.self_attn.v", y), n)
    y = attend(rotate(heads(q, n), factors), rotate(heads(k, n), factors), v)
    x = x + linear(w, f"{p}.self_attn.o", y) * gate1[:, None]
    if text is not None:
        c = f"{p}.cross_attn"
        y = layer_norm(x, eps, w[f"{p}.norm3.weight"], w[f"{p}.norm3.bias"])
        q = heads(rms_norm(linear(w, f"{c}.q", y), w[f"{c}.norm_q.weight"], eps), n)
        k = heads(rms_norm(linear(w, f"{c}.k", text), w[f"{c}.norm_k.weight"], eps), n)
        y = attend(q, k, heads(linear(w, f"{c}.v", text), n))
        if image is not None:
            k = heads(rms_norm(linear(w, f"{c}.k_img", image), w[f"{c}.norm_k_img.weight"], eps), n)
            y = y + attend(q, k, heads(linear(w, f"{c}.v_img", image), n))
        x = x + linear(w, f"{c}.o", y)
    y = layer_norm(x, eps) * (1 + scale2[:, None]) + shift2[:, None]
    y = linear(w, f"{p}.ffn.2", gelu_tanh(linear(w, f"{p}.ffn.0", y)))
    return x + y * gate2[:, None]


def forward(weights, cfg, inputs, mode, offset=0):
    """Network prediction for the noisy video, float64 (B, C, T, H, W).

    inputs: x, t, ref, ref_mask, driving, driving_mask, and optionally text, clip, more_refs, more_masks, history.
    """
    w = {name: value.double() for name, value in weights.items()}
    i = {name: value.double() for name, value in inputs.items() if value is not None}
    x, one = i["x"], torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    batch, channels, frames, height, width = x.shape
    refs = torch.cat([i["more_refs"], i["ref"]], 2) if "more_refs" in i else i["ref"]
    masks = torch.cat([i["more_masks"], i["ref_mask"]], 2) if "more_masks" in i else i["ref_mask"]
    tokens = torch.cat(
        [
            patches(w, "patch_embedding", with_known(refs, one)) + patches(w, "patch_embedding_mask", masks),
            patches(w, "patch_embedding", with_known(x, i.get("history", 0 * one))) + w["patch_embedding_mask.bias"],
            patches(w, "patch_embedding_pose", with_known(i["driving"], one))
            + patches(w, "patch_embedding_mask", i["driving_mask"]),
        ],
        dim=1,
    )
    temb = linear(w, "time_embedding.0", sinusoid(i["t"], cfg["freq_dim"]))
    temb = linear(w, "time_embedding.2", temb * torch.sigmoid(temb))
    e = linear(w, "time_projection.1", temb * torch.sigmoid(temb)).unflatten(1, (6, -1))
    text = image = None
    if "text" in i:
        padded = torch.zeros(batch, cfg["text_length"], i["text"].shape[-1], dtype=torch.float64)
        padded[:, : i["text"].shape[1]] = i["text"]
        text = linear(w, "text_embedding.2", gelu_tanh(linear(w, "text_embedding.0", padded)))
    if "clip" in i:
        image = layer_norm(i["clip"], 1e-5, w["img_emb.proj.0.weight"], w["img_emb.proj.0.bias"])
        image = linear(w, "img_emb.proj.3", gelu_exact(linear(w, "img_emb.proj.1", image)))
        image = layer_norm(image, 1e-5, w["img_emb.proj.4.weight"], w["img_emb.proj.4.bias"])
    grid = (frames, height // 2, width // 2)
    factors = rotary_factors(cfg, mode, refs.shape[2] - 1, grid, offset)
    for layer in range(cfg["layers"]):
        tokens = block(w, f"blocks.{layer}", cfg, tokens, e, factors, text, image)
    shift, scale = (w["head.modulation"] + temb[:, None]).unbind(1)
    tokens = layer_norm(tokens, cfg["eps"]) * (1 + scale[:, None]) + shift[:, None]
    first = refs.shape[2] * grid[1] * grid[2]
    out = linear(w, "head.head", tokens)[:, first : first + math.prod(grid)]
    out = out.reshape(batch, *grid, 2, 2, channels).permute(0, 6, 1, 2, 4, 3, 5)
    return out.reshape(batch, channels, frames, height, width)


def mask_latent(rgb, half_size):
    """RGB mask uint8 (T, H, W, 3) -> float64 (28, Tl, h, w), plane by plane, cell by cell."""
    rgb = rgb.double()
    if half_size:
        rgb = rgb[:, : rgb.shape[1] // 2 * 2, : rgb.shape[2] // 2 * 2]
        rgb = sum(rgb[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    frames, height, width = rgb.shape[:3]
    h, w = ((size + 7) // 8 for size in (height, width))  # three halvings, each rounded up
    out = torch.zeros(4 * 7, (frames + 3) // 4, h, w, dtype=torch.float64)
    for plane, colour in enumerate(PLANE_COLOURS):
        on = torch.ones(frames, height, width, dtype=torch.bool)
        for channel, letter in enumerate("rgb"):
            on &= (rgb[..., channel] > 225) == (letter in CHANNELS_ON[colour])
        for y in range(h):
            for x in range(w):
                rows = slice(y * height // h, -(-(y + 1) * height // h))
                columns = slice(x * width // w, -(-(x + 1) * width // w))
                share = on[:, rows, columns].double().mean(dim=(1, 2))
                for latent in range(out.shape[1]):
                    for sub in range(4):
                        out[sub * 7 + plane, latent, y, x] = share[max(0, 4 * latent - 3 + sub)]
    return out
