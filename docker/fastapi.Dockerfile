# The application's image. Built by `invoke env.up --build`, or by hand:
#   docker build -f docker/fastapi.Dockerfile -t localhost:5000/chocolate-factory:develop .
#
# No `# syntax=` line: BuildKit's built-in front end has everything used here, and a front end that must be
# pulled makes every build depend on a registry.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# A stage of its own: what is installed is found again in the build cache whatever the mask of the checkout.
FROM scratch AS lock
COPY --chmod=0644 src/fastapi-app/requirements.lock /

FROM ${PYTHON_IMAGE} AS dependencies
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_COMPILE=1
# Byte code by hash and from one hash seed, pip's own too (-f): with times or random sets in it no two builds are equal.
# The secrets `ca` and `pip` hand on the host's CA bundle and pip configuration, where there are any; a secret
# mount leaves nothing in the image.
RUN --mount=type=bind,from=lock,target=/tmp/lock \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt,required=false \
    --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --requirement /tmp/lock/requirements.lock \
    && PYTHONHASHSEED=0 python -m compileall -q -f --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${PYTHON_IMAGE} AS runtime
# Group 1000 may write models; in development the container runs as the owner of the checkout, in that group.
# The epoch keeps today's date out of /etc/shadow: the same tree gives the same contents tomorrow.
RUN export SOURCE_DATE_EPOCH=0 \
    && groupadd --gid 1000 app \
    && useradd --uid 1000 --gid app --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin app \
    && install --directory --owner=app --group=app --mode=2775 /models
COPY --from=dependencies /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MODELS_DIR=/models
WORKDIR /app
USER 1000:1000
EXPOSE 8000
STOPSIGNAL SIGTERM
# python:slim has no curl, so the application brings its own probe of http://localhost:8000/health.
HEALTHCHECK --interval=30s --timeout=10s --retries=3 --start-period=40s \
    CMD ["python", "-m", "app.healthcheck"]
CMD ["python", "-m", "app"]

# The same modes whatever the mask of whoever checked it out: the application's user has to be able to read it.
COPY --chmod=0755 src/fastapi-app/app /app/app

ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
# The image's own configuration, not a layer: a new revision moves no bytes but the code's.
ENV APP_VERSION=${VERSION} \
    GIT_REVISION=${REVISION}
LABEL org.opencontainers.image.title="chocolate-factory" \
      org.opencontainers.image.description="Prices, weather and models of the chocolate factory" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
