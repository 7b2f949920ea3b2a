# The suite in a container, for CPUs or for NVIDIA GPUs:
#
#   docker build --tag renal-vlm .                              # CPU
#   docker build --tag renal-vlm:cuda --build-arg DEVICE=cuda . # GPU; the registry's torch brings CUDA's libraries
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" renal-vlm finetune TASK=rfs DATA=data/mine
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD:/work" renal-vlm:cuda pretrain PROFILE=paper DATA=data/mine
#
# Cohorts and runs lie in the folder that is mounted at /work: data/ and runs/.
FROM python:3.11-slim-bookworm

ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HOME=/tmp

WORKDIR /opt/renal-vlm
COPY pyproject.toml constraints.txt ./
RUN case "$DEVICE" in \
      cpu) pip install --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu torch ;; \
      cuda) pip install --constraint constraints.txt torch ;; \
      *) echo "DEVICE=$DEVICE is not known; choose cpu or cuda." >&2; exit 2 ;; \
    esac

COPY setup.py README.md LICENSE ./
COPY renal_vlm renal_vlm
COPY datamodules datamodules
COPY lightning_modules lightning_modules
COPY callbacks callbacks
COPY experiments experiments
RUN pip install --constraint constraints.txt "pip>=25.1" \
    && pip install --constraint constraints.txt ".[radiomics]" \
    && pip install --constraint constraints.txt --no-deps --group no-deps --group radiomics-no-deps \
    && python -c "import renal_vlm, litdata" \
    && useradd --uid 1000 --create-home --home-dir /work researcher

USER 1000
WORKDIR /work
ENTRYPOINT ["renal-vlm"]
CMD ["help"]
