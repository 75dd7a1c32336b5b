# One small image that serves: no LiteLLM, no compiler, no root. Build: docker build -t ratchet .
# Key:   docker run --rm -v ratchet:/data ratchet ratchet keys create ops --scope admin
# Run:   docker run --read-only --tmpfs /tmp -v ratchet:/data -p 127.0.0.1:8000:8000 ratchet
# Apart: `ratchet serve` and `ratchet work` as the command, each with RATCHET_DATABASE_URL=postgresql+psycopg://...

ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /build && python -m venv --without-pip /opt/ratchet
WORKDIR /src

# Dependencies are a layer of their own: they change far less often than the code. Only wheels, so that nothing is
# compiled or run at install, and each one's hash is in the lock. With traces: --build-arg LOCK=requirements-otel.lock.
ARG LOCK=requirements.lock
COPY ${LOCK} requirements-build.lock ./
RUN /build/bin/python -m pip install --no-deps --require-hashes --only-binary :all: -r requirements-build.lock \
 && /build/bin/python -m pip --python /opt/ratchet/bin/python install \
    --no-deps --require-hashes --only-binary :all: --no-compile -r ${LOCK}

COPY pyproject.toml README.md LICENSE ./
COPY experiments experiments
COPY monitoring monitoring
COPY learning learning
COPY server server
RUN /build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /build/bin/python -m pip --python /opt/ratchet/bin/python install --no-deps --no-index --no-compile /wheels/*.whl \
 && /opt/ratchet/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/ratchet/lib

# SQLite before 3.51.3 can corrupt a WAL file. The base image's is older; the one that counts comes with pysqlite3, which
# has wheels for x86-64 only. An image for PostgreSQL alone needs none: --build-arg SQLITE=unused.
ARG SQLITE=checked
RUN test "${SQLITE}" = unused || /opt/ratchet/bin/python -c \
    "import pysqlite3 as s; assert s.sqlite_version_info >= (3, 51, 3), s.sqlite_version"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="ratchet" org.opencontainers.image.licenses="Apache-2.0"
RUN install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=build /opt/ratchet /opt/ratchet
ENV PATH=/opt/ratchet/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LITELLM_LOCAL_MODEL_COST_MAP=True \
    DSPY_CACHEDIR=/tmp/dspy \
    RATCHET_DATA=/data \
    RATCHET_HOST=0.0.0.0 \
    RATCHET_PORT=8000 \
    RATCHET_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['RATCHET_PORT'] + '/health/ready', timeout=2)"]
CMD ["ratchet", "up"]
