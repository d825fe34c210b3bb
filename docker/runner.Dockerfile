# A runner whose jobs run in itself (labels NAME:host): Forgejo's runner, and what the workflows call. `invoke
# ci.runner.up` builds it; by hand: docker build -f docker/runner.Dockerfile -t chocolate-factory-runner:12.12.0 docker/runner
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM data.forgejo.org/forgejo/runner:12.12.0 AS runner
FROM docker:28.5.1-cli AS docker

FROM ${PYTHON_IMAGE}
# git is for runner-checkout, node for actions that workflows of yours may use, socat for RUNNER_RELAY.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates git nodejs python3-venv socat \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=1000 --group=1000 /data
COPY --from=runner /bin/forgejo-runner /usr/local/bin/forgejo-runner
COPY --from=docker /usr/local/bin/docker /usr/local/bin/docker
COPY --from=docker /usr/local/libexec/docker/cli-plugins /usr/local/libexec/docker/cli-plugins
COPY --chmod=0755 runner-start runner-healthy runner-idle runner-checkout /usr/local/bin/
ENV HOME=/data
WORKDIR /data
CMD ["runner-start"]
