# One recipe, two images: EXTRA=trainer (with a CPU build of torch) and EXTRA=serving (without torch at all).
FROM python:3.12.12-slim-bookworm

ARG EXTRA=trainer
# The address of the PyTorch project's index of CPU builds (its installation page names it): an image of 1 GB instead
# of 6. Empty takes the default build, which works as well.
ARG TORCH_INDEX=

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY model_contract model_contract
COPY embedding_table embedding_table
COPY feature_admission feature_admission
COPY stream_trainer stream_trainer
COPY serving serving
COPY dimflow dimflow

RUN if [ "$EXTRA" = trainer ] && [ -n "$TORCH_INDEX" ]; then \
      version=$(sed -n 's/^torch==//p' constraints.txt) && \
      pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch==$version"; \
    fi && \
    grep -v '^torch==' constraints.txt > /tmp/constraints.txt && \
    pip install --no-cache-dir --constraint /tmp/constraints.txt --editable ".[$EXTRA]" && \
    useradd --create-home dimflow && mkdir /state && chown -R dimflow /state /app

USER dimflow
