# syntax=docker/dockerfile:1
# docker build --target cpu  -t scail2:cpu .
# docker build --target cuda -t scail2:cuda .
# A smaller CPU build of torch: --build-arg PIP_INDEX_URL=(the index of PyTorch's CPU wheels).

FROM python:3.11-slim AS base
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 SCAIL2_HOME=/models
RUN useradd --create-home --uid 1000 scail2 \
    && mkdir -p /models /runs \
    && chown scail2:scail2 /models /runs
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src

FROM base AS cpu
RUN pip install torch==2.13.0 \
    && pip install ".[serve,people,gguf,text,plot]"
USER scail2
WORKDIR /home/scail2
VOLUME ["/models", "/runs"]
EXPOSE 8420
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8420/healthz', timeout=4)"]
ENTRYPOINT ["scail2"]
CMD ["serve", "--host", "0.0.0.0", "--runs", "/runs"]

FROM cpu AS cuda
CMD ["serve", "--host", "0.0.0.0", "--runs", "/runs", "--gpus", "0"]
