# SpikGPT on a CPU, without torch:
#   docker build -t spikgpt .
#   docker run --rm -v "$PWD:/data" spikgpt annotate QUERY.h5ad --model pancreas --out labelled.h5ad
# With the HTTP service, which has no login:
#   docker build --build-arg EXTRAS=cpu,serve -t spikgpt-serve .
#   docker run --rm --init -p 127.0.0.1:8000:8000 spikgpt-serve serve --host 0.0.0.0
FROM python:3.12-slim

# Extras of pyproject.toml, separated by commas.
ARG EXTRAS=cpu

COPY . /src
# /src is removed in the same layer, so that the image holds only the installed package.
RUN pip install --no-cache-dir --constraint /src/constraints.txt "/src[${EXTRAS}]" \
    && rm -rf /src \
    && useradd --system --uid 1000 --create-home spikgpt \
    && mkdir /data /cache \
    && chown spikgpt:spikgpt /data /cache

# Downloads and caches lie outside /data; mount a volume at /cache to keep them.
ENV HF_HOME=/cache/huggingface \
    SPIKGPT_CACHE=/cache/spikgpt
USER spikgpt
WORKDIR /data
ENTRYPOINT ["spikgpt"]
CMD ["--help"]
